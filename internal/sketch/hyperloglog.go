// Package sketch estimates in fixed memory what cannot be counted in it: how many different values there were, and which
// were the most frequent.
package sketch

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Registers is the number of registers of a [HyperLogLog].
const Registers = 256

// StandardError is that of [HyperLogLog.Estimate], relative to the truth: 1.04/√256, so that nineteen estimates of
// twenty are within 13 %. Small numbers are estimated better.
const StandardError = 0.065

// registerBits is the base-two logarithm of Registers, maxRank the largest value of a register: the rank in what a hash
// of 64 bits has left.
const (
	registerBits = 8
	maxRank      = 64 - registerBits + 1
)

// HyperLogLog counts different values (Flajolet, Fusy, Gandouet and Meunier, 2007) in 256 octets. The zero value is
// empty. Sketches of different sensors can be merged where their hash, its seed included, is the same.
type HyperLogLog [Registers]uint8

// Add counts a value by its hash: the lowest eight bits choose the register, which keeps the largest rank seen, the rank
// being the number of the lowest bit set in the rest, from 1.
func (h *HyperLogLog) Add(hash uint64) {
	r := &h[hash%Registers]
	*r = max(*r, uint8(bits.TrailingZeros64(hash>>registerBits|1<<(maxRank-1))+1))
}

// Merge makes h the sketch of all that was added to either.
func (h *HyperLogLog) Merge(o *HyperLogLog) {
	for i := range h {
		h[i] = max(h[i], o[i])
	}
}

// Parse reads registers as they are sent. Sketches with more registers than 256 are folded to as many, which loses
// nothing but precision; fewer, a number that is no power of two, and values no hash of 64 bits gives are errors.
func Parse(b []byte) (*HyperLogLog, error) {
	if len(b) < Registers || len(b) > maxRegisters || len(b)&(len(b)-1) != 0 {
		return nil, fmt.Errorf("%d registers are not a power of two from %d to %d", len(b), Registers, maxRegisters)
	}
	var h HyperLogLog
	more := bits.Len(uint(len(b))) - 1 - registerBits // bits of the hash that chose the register rather than its rank
	for i, r := range b {
		if r == 0 {
			continue
		}
		if int(r) > maxRank-more {
			return nil, errors.New("a register holds more than a hash of 64 bits gives")
		}
		// Those bits are the lowest of what the rank is taken from with 256 registers.
		rank := bits.TrailingZeros(uint(i>>registerBits)|1<<more) + 1
		if rank > more {
			rank = more + int(r)
		}
		h[i%Registers] = max(h[i%Registers], uint8(rank))
	}
	return &h, nil
}

const maxRegisters = 1 << 14

// Estimate returns how many different values were added. It is Ertl's estimator ("New cardinality estimation algorithms
// for HyperLogLog sketches", 2017, section 4), which needs no tables and no thresholds to be right for small numbers.
func (h *HyperLogLog) Estimate() float64 {
	var count [maxRank + 1]int
	for _, r := range h {
		count[min(r, maxRank)]++
	}
	const m = Registers
	z := m * tau(1-float64(count[maxRank])/m)
	for k := maxRank - 1; k >= 1; k-- {
		z = (z + float64(count[k])) / 2
	}
	z += m * sigma(float64(count[0])/m)
	return m * m / (2 * math.Ln2 * z)
}

// sigma is x + Σ x^(2^k)·2^(k-1), which stands for the registers nothing reached.
func sigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	y, z := 1.0, x
	for last := math.NaN(); z != last; {
		last = z
		x *= x
		z += x * y
		y += y
	}
	return z
}

// tau is (1 - x - Σ (1-x^(2^-k))²·2^-k)/3, which stands for the registers that cannot grow.
func tau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	y, z := 1.0, 1-x
	for last := math.NaN(); z != last; {
		last = z
		x = math.Sqrt(x)
		y /= 2
		z -= (1 - x) * (1 - x) * y
	}
	return z / 3
}

// Mix returns the hash of an address given as its first and last 64 bits, IPv4 in the highest bits of the first. It is
// the same at every sensor, so that sketches can be merged; an attacker who chooses sources by it can make them look like
// fewer, or more, than they are, no more. It is the finalizer of MurmurHash3 (Appleby), in place of either half.
func Mix(high, low uint64) uint64 {
	return mix(mix(high+0x9e3779b97f4a7c15) + low) // zero is the one value mix leaves as it is
}

func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
