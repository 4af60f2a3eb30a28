package baseline

import "math"

// Shape of the histograms.
const (
	perOctave = 7 // buckets; they are 2^(1/7) wide, so that their middles are within 4.95 % of what is in them
	buckets   = 3 * perOctave
	classes   = 24
	unit      = 4 // weight of a grain, so that fading does not lose one at once
)

// What is measured.
const (
	pps = iota
	bps
	measures
)

// exponents are those of the smallest rates that are told apart: 1/16 packet and 64 bit per second.
var exponents = [measures]int{pps: -4, bps: 6}

// steps are the mantissas at which the buckets of an octave begin, but for the first.
var steps = func() (s [perOctave - 1]uint64) {
	for i := range s {
		s[i] = math.Float64bits(math.Exp2(float64(i+1)/perOctave)) & mantissa
	}
	return s
}()

const mantissa = 1<<52 - 1

// encode numbers the buckets of all rates: 1 is all below the smallest, 253 all from the largest on.
func encode(measure int, rate float64) uint8 {
	b := math.Float64bits(rate)
	exp := int(b>>52) - 1023 - exponents[measure]
	if !(rate > 0) || exp < 0 { // not a number, too
		return least
	}
	if exp >= 36 {
		return most
	}
	code := 2 + exp*perOctave
	m := b & mantissa
	for _, s := range steps {
		if m < s {
			break
		}
		code++
	}
	return uint8(code)
}

// decode is the rate in the middle of a bucket, by relative error; of what is too small to be told apart it is the upper bound.
func decode(measure int, code uint8) float64 {
	lowest := math.Ldexp(1, exponents[measure])
	if code <= least {
		return lowest
	}
	const width = 1.1040895136738123 // 2^(1/7)
	return lowest * math.Exp2(float64(code-2)/perOctave) * (2 * width / (1 + width))
}

// double is the bucket of twice the rate.
func double(code uint8) uint8 { return uint8(min(max(int(code), least+1)+perOctave, most)) }

// class is what was learnt of a class of the week.
type class struct {
	counts [measures][buckets]uint16 // weights; the last bucket is that of top, the first also holds all below it
	top    [measures]uint8           // the largest code; 0 while there is none
	ref    [measures]uint8           // the quantile at the beginning of day; 0 where there was too little
	day    uint16                    // since 1970, when it was last learnt from
}

// weight is that of both measures, for they are learnt together.
func (c *class) weight() (sum uint64) {
	for _, n := range c.counts[pps] {
		sum += uint64(n)
	}
	return sum
}

func (c *class) add(m int, code uint8) {
	h := &c.counts[m]
	switch {
	case c.top[m] == 0:
		c.top[m] = code
	case code > c.top[m]:
		d := int(code - c.top[m])
		c.top[m] = code
		var low uint32
		for _, n := range h[:min(d+1, buckets)] {
			low += uint32(n)
		}
		if d < buckets {
			copy(h[:], h[d:])
		}
		clear(h[buckets-min(d, buckets):])
		h[0] = uint16(min(low, math.MaxUint16))
	}
	i := max(buckets-1-int(c.top[m]-code), 0)
	if h[i] > math.MaxUint16-unit {
		c.fade(1 << 15) // both measures, for their weights stay the same
		c.add(m, code)  // buckets may have moved
		return
	}
	h[i] += unit
}

// fade leaves a share of the weight, in 1/2^16. What is left over of a bucket goes on to the one below, so that single grains
// fade as fast as many.
func (c *class) fade(left uint32) {
	for m := range c.counts {
		h := &c.counts[m]
		var rest uint64
		for i := buckets - 1; i >= 0; i-- {
			rest += uint64(h[i]) * uint64(left)
			h[i] = uint16(rest >> 16)
			rest &= 1<<16 - 1
		}
		c.trim(m)
	}
}

// trim makes the largest code one that there is.
func (c *class) trim(m int) {
	h := &c.counts[m]
	empty := 0
	for empty < buckets && h[buckets-1-empty] == 0 {
		empty++
	}
	switch {
	case empty == buckets:
		c.top[m] = 0
	case empty > 0:
		copy(h[empty:], h[:buckets-empty])
		clear(h[:empty])
		c.top[m] -= uint8(empty)
	}
}

// quantile is the smallest code above which there is no more than tail of the weight, in 1/2^20.
func (c *class) quantile(m int, tail uint64) uint8 {
	h := &c.counts[m]
	var sum uint64
	for _, n := range h {
		sum += uint64(n)
	}
	var above uint64
	for i := buckets - 1; i >= 0; i-- {
		if above += uint64(h[i]); above<<20 > sum*tail {
			return uint8(max(int(c.top[m])-(buckets-1-i), least))
		}
	}
	return c.top[m]
}

// histogram sums classes.
type histogram [measures][256]uint64

func (s *histogram) add(c *class, left uint32) {
	for m := range s {
		for i, n := range c.counts[m] {
			if n > 0 {
				s[m][max(int(c.top[m])-(buckets-1-i), least)] += uint64(n) * uint64(left) >> 16
			}
		}
	}
}

func (s *histogram) weight() (sum uint64) {
	for _, n := range s[pps] {
		sum += n
	}
	return sum
}

func (s *histogram) quantile(tail uint64) (codes [measures]uint8) {
	for m := range s {
		var sum, above uint64
		for _, n := range s[m] {
			sum += n
		}
		for code := 255; code > 0; code-- {
			if above += s[m][code]; above<<20 > sum*tail {
				codes[m] = uint8(code)
				break
			}
		}
	}
	return codes
}

// pageSize is how many are allocated at once; nothing is ever copied to grow.
const pageSize = 256

// pages is a list that grows without copying.
type pages[T any] struct {
	all [][]T
	n   int32
}

func (p *pages[T]) at(i int32) *T { return &p.all[i/pageSize][i%pageSize] }

func (p *pages[T]) len() int32 { return p.n }

func (p *pages[T]) grow() int32 {
	if p.n%pageSize == 0 {
		p.all = append(p.all, make([]T, pageSize))
	}
	p.n++
	return p.n - 1
}
