package signature

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

// bitset marks samples of a set.
type bitset []uint64

// set is samples in an order that lets the weight of many be summed fast. Sums are of integers, so that the order of
// the samples decides nothing.
type set struct {
	samples []*traffic.Sample // by weight
	even    []uint64          // per word of a bitset: the weight all its samples have, or 0 where they differ
	total   uint64
	squares float64 // sum of squared weights
}

func newSet(samples []*traffic.Sample) set {
	s := set{samples: samples}
	slices.SortFunc(s.samples, func(a, b *traffic.Sample) int { return cmp.Compare(a.Weight, b.Weight) })
	s.even = make([]uint64, (len(samples)+63)/64)
	for i, x := range s.samples {
		w := weight(x)
		s.total += w
		s.squares += float64(w) * float64(w)
		switch word := &s.even[i/64]; {
		case i%64 == 0:
			*word = w
		case *word != w:
			*word = 0
		}
	}
	return s
}

// weight of a sample is at least 1, whoever made it.
func weight(x *traffic.Sample) uint64 { return uint64(max(x.Weight, 1)) }

// effective is how many samples of equal weight would say as much (Kish).
func (s *set) effective() float64 {
	if s.squares == 0 {
		return 0
	}
	return float64(s.total) * float64(s.total) / s.squares
}

// where returns the samples for which holds.
func (s *set) where(holds func(*traffic.Sample) bool) bitset {
	b := make(bitset, len(s.even))
	for i, x := range s.samples {
		if holds(x) {
			b[i/64] |= 1 << (i % 64)
		}
	}
	return b
}

// passing returns the samples that pass a test.
func (s *set) passing(t *test) bitset {
	b := make(bitset, len(s.even))
	for i, x := range s.samples {
		if t.holds(x) {
			b[i/64] |= 1 << (i % 64)
		}
	}
	return b
}

// mass is the weight of the samples in both x and y.
func (s *set) mass(x, y bitset) uint64 {
	var sum uint64
	for i, e := range s.even {
		w := x[i] & y[i]
		if e != 0 || w == 0 {
			sum += e * uint64(bits.OnesCount64(w))
			continue
		}
		for ; w != 0; w &= w - 1 {
			sum += weight(s.samples[i*64+bits.TrailingZeros64(w)])
		}
	}
	return sum
}

func (b bitset) and(o bitset) bitset {
	out := make(bitset, len(b))
	for i := range b {
		out[i] = b[i] & o[i]
	}
	return out
}

func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
