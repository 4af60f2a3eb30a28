/* Who gets a slot. All of this runs only for packets whose target has none. */
#pragma once

#include "maps.h"
#include "parse.h"

/* 2^64 divided by the golden ratio: spreads what it multiplies over the upper bits. */
#define GOLDEN 0x9e3779b97f4a7c15ULL

/* Packets after which a target is heavy. */
#define HEAVY_PACKETS 32

/* 65535 / 1.08^count: the odds that a packet of another target takes one from a count. */
static const volatile __u16 heavy_odds[HEAVY_PACKETS] = {
	65535, 60680, 56185, 52023, 48170, 44602, 41298, 38239, 35406, 32783, 30355, 28106, 26024, 24097, 22312, 20659,
	19129, 17712, 16400, 15185, 14060, 13018, 12054, 11161, 10334, 9569,  8860,  8204,  7596,  7033,  6512,  6030,
};

/*
 * Counts packets of a target, known by its hash, and tells whether it is heavy; if so, it starts anew. HeavyKeeper (Gong
 * et al., "HeavyKeeper: An Accurate Algorithm for Finding Top-k Elephant Flows", USENIX ATC 2018): who finds
 * another's fingerprint takes one from its count with odds that fall exponentially with the count, and has the place
 * when nothing is left. So any number of random targets wear each other down, and a heavy one is worn down by none. CPUs
 * overwrite each other's counts now and then: a heavy target comes again.
 *
 * The odds are drawn from the hash, which is seeded, and a number that is another one for each packet that is refused: nobody
 * who does not know the seed can foretell them, and the helper that returns random numbers costs 14 ns.
 */
static __always_inline __u32 heavy(__u64 hash, __u32 packets, __u64 number)
{
	__u32 fingerprint, most = 0;
	__u64 random;

	/* The lower half of the hash is weaker than the upper, and that of the numbers' multiples as well. */
	hash = (hash ^ hash >> 32) * GOLDEN;
	random = (hash + number * 0xff51afd7ed558ccdULL) >> 32;
	fingerprint = hash >> 48;
	for (int row = 0; row < HEAVY_ROWS; row++) {
		__u32 at = hash >> (row ? 16 : 32), word, count;

		at &= HEAVY_WIDTH - 1;
		word = *(volatile __u32 *)&heavies[row][at];
		count = word & 0xffff;
		if (!count || word >> 16 == fingerprint) {
			count += packets < HEAVY_PACKETS ? packets : HEAVY_PACKETS;
			if (count > most)
				most = count;
			if (most >= HEAVY_PACKETS)
				count = 0;
			*(volatile __u32 *)&heavies[row][at] = fingerprint << 16 | count;
		} else if ((random >> row * 16 & 0xffff) < heavy_odds[count & (HEAVY_PACKETS - 1)]) {
			*(volatile __u32 *)&heavies[row][at] = count > 1 ? word - 1 : fingerprint << 16 | 1;
		}
	}
	return most >= HEAVY_PACKETS;
}

static __always_inline __u32 pop(void *queue, __u32 kind, __u32 which)
{
	__u32 slot;

	if (*(volatile __u32 *)&empty_queues[kind][which])
		return NO_SLOT;
	if (bpf_map_pop_elem(queue, &slot)) {
		*(volatile __u32 *)&empty_queues[kind][which] = 1;
		return NO_SLOT;
	}
	__sync_fetch_and_add(&slots_taken[kind][which], 1);
	return slot;
}

static __always_inline void count_exhausted(__u32 kind, __u32 packets, struct cpu_stat *stat)
{
	if (kind == HOST_SLOTS)
		stat->slot_exhausted += packets;
	else
		stat->network_exhausted += packets;
}

/* Whether a target gets none of the slots for the heavy, and counts why. */
static __always_inline bool refused(__u32 kind, __u64 hash, __u32 packets, struct cpu_stat *stat)
{
	__u64 *count;

	if (*(volatile __u32 *)&empty_queues[kind][FREE_FOR_HEAVY]) {
		count_exhausted(kind, packets, stat);
		return true;
	}
	count = kind == HOST_SLOTS ? &stat->refused_hosts : &stat->refused_networks;
	if (heavy(hash, packets, *count))
		return false;
	*count += packets;
	return true;
}

/* Takes a slot for a target, or returns NO_SLOT and counts why. admitted: it has not been refused. */
static __always_inline __u32 take_slot(__u32 kind, __u64 hash, bool admitted, __u32 packets, struct cpu_stat *stat)
{
	__u32 slot =
		kind == HOST_SLOTS ? pop(&free_hosts, kind, FREE_FOR_ALL) : pop(&free_networks, kind, FREE_FOR_ALL);

	if (slot != NO_SLOT)
		return slot;
	if (!admitted && refused(kind, hash, packets, stat))
		return NO_SLOT;
	slot = kind == HOST_SLOTS ? pop(&heavy_hosts, kind, FREE_FOR_HEAVY)
				  : pop(&heavy_networks, kind, FREE_FOR_HEAVY);
	if (slot == NO_SLOT)
		count_exhausted(kind, packets, stat);
	return slot;
}

/* Puts a slot back that nobody has seen. */
static __always_inline void return_slot(__u32 kind, __u32 slot, struct cpu_stat *stat)
{
	if (kind == HOST_SLOTS ? bpf_map_push_elem(&free_hosts, &slot, BPF_ANY)
			       : bpf_map_push_elem(&free_networks, &slot, BPF_ANY))
		stat->lost_slots++;
	else
		__sync_fetch_and_add(&slots_taken[kind][FREE_FOR_ALL], -1ULL);
}
