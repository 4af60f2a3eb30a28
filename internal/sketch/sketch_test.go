package sketch

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"testing"
)

func TestEstimateIsWithinItsError(t *testing.T) {
	for _, n := range []int{1, 2, 10, 50, 100, 256, 500, 640, 1000, 5000, 100_000, 1_000_000} {
		const runs = 40
		rng := rand.New(rand.NewPCG(uint64(n), 7))
		var bias, worst float64
		for range runs {
			var h HyperLogLog
			for range n {
				h.Add(rng.Uint64())
			}
			e := h.Estimate()/float64(n) - 1
			bias += e / runs
			worst = max(worst, math.Abs(e))
		}
		// The mean of 40 is within 4 standard errors of a mean, one of 40 within 5 of its own.
		if limit := 4 * StandardError / math.Sqrt(runs); math.Abs(bias) > limit {
			t.Errorf("%d values: estimates are off by %.1f %% on average, want at most %.1f %%", n, bias*100, limit*100)
		}
		if worst > 5*StandardError {
			t.Errorf("%d values: an estimate is off by %.0f %%", n, worst*100)
		}
	}
	if got := new(HyperLogLog).Estimate(); got != 0 {
		t.Errorf("the empty sketch estimates %v", got)
	}
}

func TestFullSketchIsFinite(t *testing.T) {
	var h HyperLogLog
	for i := range h {
		h[i] = 255
	}
	if e := h.Estimate(); math.IsNaN(e) || e < 1e15 {
		t.Errorf("estimate %v", e)
	}
}

func TestMergeIsUnion(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var a, b, both HyperLogLog
	for i := range 10_000 {
		x := rng.Uint64()
		if i%3 != 0 {
			a.Add(x)
		}
		if i%3 != 1 {
			b.Add(x)
		}
		both.Add(x)
	}
	ab, ba := a, b
	ab.Merge(&b)
	ba.Merge(&a)
	if ab != both || ba != both {
		t.Error("the merged sketch is not that of the union")
	}
}

// A sketch of more registers, folded, is the one of 256 that saw the same hashes.
func TestParseFolds(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{256, 512, 4096} {
		var want HyperLogLog
		wide := make([]byte, n)
		more := 0
		for 256<<more < n {
			more++
		}
		for range 3000 {
			x := rng.Uint64()
			want.Add(x)
			rank := uint8(1)
			for y := x >> (registerBits + more); y&1 == 0 && int(rank) < maxRank-more; y >>= 1 {
				rank++
			}
			r := &wide[x%uint64(n)]
			*r = max(*r, rank)
		}
		got, err := Parse(wide)
		if err != nil || *got != want {
			t.Errorf("%d registers: %v", n, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, b := range [][]byte{{}, make([]byte, 128), make([]byte, 300), make([]byte, 2*maxRegisters), append(make([]byte, 255), maxRank+1)} {
		if _, err := Parse(b); err == nil {
			t.Errorf("%d registers passed", len(b))
		}
	}
}

// checkTop compares a Top with the truth.
func checkTop(t *testing.T, k int, values []uint16, weights func(i int) uint64) {
	t.Helper()
	top, truth, sum := NewTop[uint16](k), map[uint16]uint64{}, uint64(0)
	for i, v := range values {
		w := weights(i)
		top.Add(v, w)
		truth[v] += w
		sum += w
	}
	if top.Sum() != sum {
		t.Fatalf("sum %d, want %d", top.Sum(), sum)
	}
	seen, counted, last := map[uint16]bool{}, uint64(0), uint64(math.MaxUint64)
	for _, c := range top.Sorted() {
		if c.Count < truth[c.Value] || c.Count-c.Error > truth[c.Value] {
			t.Fatalf("value %d: count %d, error %d, truth %d", c.Value, c.Count, c.Error, truth[c.Value])
		}
		if c.Error > sum/uint64(k) || c.Count > last || seen[c.Value] {
			t.Fatalf("value %d: count %d after %d, error %d of %d in %d counters", c.Value, c.Count, last, c.Error, sum, k)
		}
		seen[c.Value], last = true, c.Count
		counted += c.Count
	}
	if counted != sum {
		t.Fatalf("the counts sum to %d, the weights to %d", counted, sum)
	}
	for v, n := range truth {
		if n > sum/uint64(k) && !seen[v] {
			t.Fatalf("value %d with %d of %d has no counter of %d", v, n, sum, k)
		}
	}
}

func TestTopKeepsItsBounds(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		zipf := rand.NewZipf(rng, 1.1+rng.Float64(), 1, 5000)
		values := make([]uint16, 3000)
		for i := range values {
			values[i] = uint16(zipf.Uint64())
		}
		checkTop(t, 1+rng.IntN(40), values, func(int) uint64 { return 1 })
		checkTop(t, 1+rng.IntN(40), values, func(i int) uint64 { return uint64(i % 5) })
	}
}

func FuzzTop(f *testing.F) {
	f.Add(uint8(3), []byte("aabbccddaaeeffaa"))
	f.Fuzz(func(t *testing.T, k uint8, raw []byte) {
		values := make([]uint16, len(raw)/2)
		for i := range values {
			values[i] = binary.LittleEndian.Uint16(raw[2*i:])
		}
		checkTop(t, 1+int(k%64), values, func(i int) uint64 { return uint64(values[i]%7) + 1 })
	})
}

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, 256))
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		if err != nil {
			return
		}
		e := h.Estimate()
		if math.IsNaN(e) || e < 0 {
			t.Fatalf("estimate %v", e)
		}
		twice := *h
		twice.Merge(h)
		if twice != *h {
			t.Fatal("a sketch merged with itself changed")
		}
	})
}

func TestNothingIsAllocated(t *testing.T) {
	top, h := NewTop[uint32](16), HyperLogLog{}
	seed := maphash.MakeSeed()
	n := uint32(0)
	if allocs := testing.AllocsPerRun(1000, func() {
		n++
		top.Add(n, 1)
		h.Add(maphash.Comparable(seed, n))
		top.Sorted()
		if n%100 == 0 {
			top.Reset()
		}
	}); allocs != 0 {
		t.Errorf("%v allocations for each value", allocs)
	}
}
