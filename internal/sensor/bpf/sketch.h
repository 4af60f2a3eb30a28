/* How many different addresses there were: HyperLogLog, for the few slots that are watched. See internal/sketch. */
#pragma once

#include "bounded.h"
#include "maps.h"
#include "parse.h"

/* Where an address lies in the IP header: of an inbound packet that of the sender, of an outbound one the receiver's. */
static __always_inline __u32 other_address(__u32 family, __u32 direction)
{
	__u32 first = family == 4 ? 12 : 8, size = family == 4 ? 4 : 16;

	return first + (direction == OUTBOUND ? size : 0);
}

struct address {
	__u64 first, second; /* as in the packet; an IPv4 one in the first four octets */
};

/* Reads that address from the linear part, which saves a helper; false when it is not all there. */
static __always_inline bool other_linear(__u32 l3, __u32 family, __u32 direction, void *data, void *end,
					 struct address *address)
{
	void *at = data + bounded(l3, 0x3ff);

	if (l3 > 0x3ff) /* behind extension headers of that length */
		return false;
	if (family == 4) {
		at += direction == OUTBOUND ? 16 : 12;
		if (at + 4 > end)
			return false;
		address->first = *(__u32 *)at;
		address->second = 0;
		return true;
	}
	at += direction == OUTBOUND ? 24 : 8;
	if (at + 16 > end)
		return false;
	address->first = *(__u64 *)at;
	address->second = *((__u64 *)at + 1);
	return true;
}

/* The finaliser of MurmurHash3. The hash of an address is sketch.Mix's, so that sketches can be merged with Go's. */
static __always_inline __u64 mix(__u64 x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdULL;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

/* The number of the lowest bit set, from the position of a lone bit in a de Bruijn sequence. */
static const volatile __u8 lone_bit[64] = {
	0,  1,  48, 2,  57, 49, 28, 3,  61, 58, 50, 42, 38, 29, 17, 4,  62, 55, 59, 36, 53, 51,
	43, 22, 45, 39, 33, 30, 24, 18, 12, 5,  63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21,
	44, 32, 23, 11, 46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9,  13, 8,  7,  6,
};

static __always_inline __u32 lowest_bit(__u64 x)
{
	return lone_bit[(x & -x) * 0x03f79d71b4cb0a89ULL >> 58];
}

/*
 * Adds an address. Two CPUs that write one register at the
 * same moment may leave the smaller rank there: octets have no atomic maximum, and the next packet of that sender mends it.
 */
static __always_inline void sketch_add(__u32 number, struct address a)
{
	__u32 key = number - 1;
	struct sketch *sketch = bpf_map_lookup_elem(&sketches, &key);
	__u64 hash = mix(mix(bpf_be64_to_cpu(a.first) + 0x9e3779b97f4a7c15ULL) + bpf_be64_to_cpu(a.second));
	__u8 *highest;

	if (!sketch)
		return;
	highest = &sketch->registers[hash & 0xff];
	hash >>= 8;
	/* A rank above it has as many zeros below its bit, or more. */
	if (unlikely(!(hash & ((1ULL << (*highest & 63)) - 1))))
		*highest = lowest_bit(hash | 1ULL << 56) + 1;
}
