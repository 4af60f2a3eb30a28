package sketch

import (
	"cmp"
	"slices"
)

// Top finds the most frequent values in a fixed number of counters (Space-Saving: Metwally, Agrawal and El Abbadi,
// "Efficient computation of frequent and top-k elements in data streams", 2005).
//
// With k counters and a sum of weights of n: a count is never less than the truth, a count minus its error never more,
// no error exceeds n/k, and every value whose weight exceeds n/k has a counter. k is meant to be small: adding looks at
// every counter.
type Top[K comparable] struct {
	counters []Counter[K] // as many as are in use; the capacity is k
	sum      uint64
}

// Counter is a value and how often it was seen: at least Count-Error, at most Count times.
type Counter[K comparable] struct {
	Value        K
	Count, Error uint64
}

// NewTop returns an empty Top of k counters, k ≥ 1. Nothing is allocated after that.
func NewTop[K comparable](k int) Top[K] { return Top[K]{counters: make([]Counter[K], 0, k)} }

// Add counts weight for a value.
func (t *Top[K]) Add(value K, weight uint64) {
	t.sum += weight
	least := 0
	for i := range t.counters {
		c := &t.counters[i]
		if c.Value == value {
			c.Count += weight
			return
		}
		if c.Count < t.counters[least].Count {
			least = i
		}
	}
	if len(t.counters) < cap(t.counters) {
		t.counters = append(t.counters, Counter[K]{Value: value, Count: weight})
		return
	}
	c := &t.counters[least]
	*c = Counter[K]{Value: value, Count: c.Count + weight, Error: c.Count}
}

// Sum is the weight of all that was added.
func (t *Top[K]) Sum() uint64 { return t.sum }

// Sorted returns the counters, the largest count first and the smaller error first among equals. The slice is t's own
// and good until the next Add or Reset.
func (t *Top[K]) Sorted() []Counter[K] {
	slices.SortStableFunc(t.counters, func(a, b Counter[K]) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Error, b.Error))
	})
	return t.counters
}

// Reset forgets everything.
func (t *Top[K]) Reset() { t.counters, t.sum = t.counters[:0], 0 }
