package scenario

import "math/rand/v2"

// rng is one actor's own randomness.
type rng struct{ rand.PCG }

// n returns a number below n.
func (r *rng) n(n uint32) uint32 { return uint32(r.Uint64() >> 32 * uint64(n) >> 32) }

// between returns lo to hi, both included.
func (r *rng) between(lo, hi int) int { return lo + int(r.n(uint32(hi-lo+1))) }

// float returns a number from 0 to below 1.
func (r *rng) float() float64 { return float64(r.Uint64()>>11) / (1 << 53) }

// mix makes a number look random (the finaliser of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// seedOf is a name's seed (FNV-1a).
func seedOf(name string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 0x100000001b3
	}
	return h
}
