/*
 * From an address to the slot it is counted in, without walking a trie: what has a slot is found in one step, all else
 * is a matter of first packets. Both functions at the end return a slot with its flags, or NO_SLOT for an address
 * that is not protected.
 */
#pragma once

#include "admit.h"
#include "maps.h"
#include "parse.h"

/* Of a packet without a target. Like NO_SLOT it is more than any slot, also under SLOT_MASK. */
#define NO_TARGET 0x80ffffffU

/* The word of a network or prefix that counts what has no slot of its own. */
static __always_inline __u32 network_word(__u32 slot)
{
	struct slot_info *info = bpf_map_lookup_elem(&slot_infos, &slot);

	return info ? slot | (__u32)info->flags << SLOT_FLAG_SHIFT : NO_SLOT;
}

/* The hash of an IPv4 address among the heavy. */
static __always_inline __u64 hash4(__u32 address)
{
	return (seed6[1] + address) * (seed6[2] + 4) + seed6[0];
}

/* The first packet to an IPv4 host. */
__noinline __u32 allocate4(__u32 address, __u32 *host, __u32 seen, __u32 packets, struct cpu_stat *stat)
{
	__u32 prefix, slot, key, old;
	struct slot_info *info;

	if (!host || !stat)
		return NO_SLOT;
	prefix = seen & SLOT_MASK;
	slot = take_slot(HOST_SLOTS, hash4(address), false, packets, stat);
	if (slot == NO_SLOT)
		return network_word(prefix);
	key = slot;
	info = bpf_map_lookup_elem(&slot_infos, &key);
	if (!info)
		return NO_SLOT;
	info->address[0] = bpf_htonl(address);
	info->address[1] = 0;
	info->parent = prefix;
	info->family = 4;
	info->bits = 32;
	info->flags = 0;
	info->sketch[INBOUND] = 0;
	info->sketch[OUTBOUND] = 0;
	info->hot[INBOUND] = 0;
	info->hot[OUTBOUND] = 0;
	old = __sync_val_compare_and_swap(host, seen, slot);
	if (old == seen)
		return slot;
	/* Another CPU was faster, or user space changed the table. */
	info->family = 0;
	return_slot(HOST_SLOTS, slot, stat);
	if (old < HOST_UNALLOCATED)
		return old;
	return old == HOST_UNPROTECTED ? NO_SLOT : network_word(old & SLOT_MASK);
}

static __always_inline __u32 target4(__u32 address, __u32 packets, struct cpu_stat *stat)
{
	__u32 block, *host, seen;
	struct network_block *network;
	struct host_block *last;

	block = *(volatile __u32 *)&networks[address >> 16];
	if (!block)
		return NO_SLOT;
	network = bpf_map_lookup_elem(&network_blocks, &block);
	if (!network)
		return NO_SLOT;
	block = *(volatile __u32 *)&network->next[address >> 8 & 0xff];
	if (!block)
		return NO_SLOT;
	last = bpf_map_lookup_elem(&host_blocks, &block);
	if (!last)
		return NO_SLOT;
	host = &last->slots[address & 0xff];
	seen = *(volatile __u32 *)host;
	if (seen < HOST_UNALLOCATED)
		return seen;
	if (seen == HOST_UNPROTECTED)
		return NO_SLOT;
	return allocate4(address, host, seen, packets, stat);
}

/* What is looked for in the table of IPv6 targets. */
struct key6 {
	__u64 address[2];
	__u64 hash;
	__u32 bits;
	__u32 parent;
};

/*
 * Attackers choose addresses, so that of any two the chance to share a hash must not depend on their choice:
 * pair-multiply-shift (Thorup, "High Speed Hashing for Integers and Strings", arXiv:1504.06804) with a secret seed. Its
 * upper half is the good one; folded into the lower and spread again, neighbours do not follow each other any more.
 */
static __always_inline __u64 hash6(__u64 high, __u64 low)
{
	__u64 hash = (seed6[1] + low_half(high)) * (seed6[2] + (high >> 32)) +
		     (seed6[3] + low_half(low)) * (seed6[4] + (low >> 32)) + seed6[0];

	return (hash ^ hash >> 32) * GOLDEN;
}

/* A network hashes apart from the host whose address is the network's. */
static __always_inline __u64 hash_network6(__u64 high)
{
	return hash6(high, ~0ULL);
}

static __always_inline __u32 tag6(__u64 hash)
{
	return ((__u32)(hash >> 24 & 0xffff) * TAGS6 >> 16) +
	       1; /* of bits that number no bucket; an empty entry has tag 0 */
}

/* The second bucket depends no less than the first on all of the address. */
static __always_inline __u32 bucket6(__u64 hash, int second)
{
	if (second)
		hash = ((__u32)(hash >> 16) | 1) * GOLDEN;
	return (hash >> 32) * targets6_buckets >> 32;
}

/* The word an entry leads to if its slot is held by the target, for a tag is only a part of it; else NO_SLOT. */
static __always_inline __u32 word6(__u32 entry, const struct key6 *k)
{
	__u32 slot = entry & SLOT_MASK;
	struct slot_info *info = bpf_map_lookup_elem(&slot_infos, &slot);

	if (!info || info->address[0] != k->address[0] || info->address[1] != k->address[1] || info->bits != k->bits)
		return NO_SLOT;
	/* A host's flags are in its entry, a network's in its info. */
	return (entry & (SLOT_MASK | SLOT_FLAGS)) | (__u32)info->flags << SLOT_FLAG_SHIFT;
}

/* Half of a check, by strong universal hashing of 64 bits to 32: Thorup, as above, section 3.3. */
static __always_inline __u64 half_check6(__u64 high, const __u64 *seed)
{
	return (seed[0] + (seed[1] + low_half(high)) * (seed[2] + (high >> 32))) >> 32;
}

/*
 * What is compared of a host's address with each packet, in half of the memory. Hosts of one /64 never have the same; those of
 * different ones do in one pair of 2^64, whatever addresses are chosen, unless one knows the seed.
 */
static __always_inline __u64 check6(__u64 high, __u64 low)
{
	return low + (half_check6(high, &seed6[5]) << 32 | half_check6(high, &seed6[8]));
}

/* The same of a host, cheaper. */
static __always_inline bool held_by_host6(__u32 slot, __u64 high, __u64 low)
{
	__u64 *check = bpf_map_lookup_elem(&checks6, &slot);

	return check && *(volatile __u64 *)check == check6(high, low);
}

/*
 * The i-th entry to look at in a bucket. Not all begin with the same one, so that most are where they are looked for first
 * and the processor need not guess.
 */
static __always_inline __u32 way6(__u64 hash, int i)
{
	return (hash + i) & (BUCKET6_WAYS - 1);
}

/*
 * Returns an entry of a bucket with the tag, or any without; which of several is not said. Unrolled, for who finds nothing has
 * looked at all of them.
 */
static __always_inline __u32 tagged6(struct bucket6 *bucket, __u32 tag)
{
	__u32 differs = 0;

#pragma unroll
	for (int i = 0; i < BUCKET6_WAYS; i++) {
		differs = *(volatile __u32 *)&bucket->entries[i] ^ tag << TAG6_SHIFT;
		if (unlikely(differs < 1U << TAG6_SHIFT))
			break;
	}
	return differs ^ tag << TAG6_SHIFT;
}

/* Looks through all of a bucket for a target. Returns its word, or NO_SLOT. */
static __always_inline __u32 search6(__u32 key, const struct key6 *k)
{
	struct bucket6 *bucket = bpf_map_lookup_elem(&targets6, &key);
	__u32 tag = tag6(k->hash), entry, word;

	if (!bucket)
		return NO_SLOT;
	entry = tagged6(bucket, tag);
	if (entry >> TAG6_SHIFT != tag)
		return NO_SLOT;
	word = word6(entry, k);
	if (likely(word != NO_SLOT))
		return word;
		/* Another's, and perhaps the one is behind it. */
#pragma clang loop unroll(disable)
	for (int i = 0; i < BUCKET6_WAYS; i++) {
		entry = *(volatile __u32 *)&bucket->entries[i];
		if (entry >> TAG6_SHIFT != tag)
			continue;
		word = word6(entry, k);
		if (word != NO_SLOT)
			return word;
	}
	return NO_SLOT;
}

/* How many targets are in their second bucket whose first this is. */
static __always_inline __u32 *spills6_of(__u32 bucket)
{
	__u32 key = bucket / SPILLS6;
	struct spills6 *spills = bpf_map_lookup_elem(&spills6, &key);

	return spills ? &spills->counts[bucket % SPILLS6] : 0;
}

static __always_inline bool spilled6(__u32 bucket)
{
	__u32 *spills = spills6_of(bucket);

	return spills && *(volatile __u32 *)spills;
}

/* Looks into the first bucket, unless that was done, and into the second if there can be anything. */
static __always_inline __u32 find6(const struct key6 *k, bool first)
{
	__u32 bucket = bucket6(k->hash, 0), word = first ? search6(bucket, k) : NO_SLOT;

	return word != NO_SLOT || !spilled6(bucket) ? word : search6(bucket6(k->hash, 1), k);
}

/* Puts a target into the table unless it is there. Returns its slot, or NO_SLOT if no bucket has room. */
static __always_inline __u32 insert6(const struct key6 *k, __u32 slot)
{
	__u32 found = find6(k, true), first = bucket6(k->hash, 0), *spills;

	if (found != NO_SLOT)
		return found;
	spills = spills6_of(first);
	if (!spills)
		return NO_SLOT;
	for (int i = 0; i < 2 * BUCKET6_WAYS; i++) {
		__u32 key = bucket6(k->hash, i >= BUCKET6_WAYS);
		struct bucket6 *bucket = bpf_map_lookup_elem(&targets6, &key);
		__u32 *entry;

		if (!bucket)
			return NO_SLOT;
		if (i == BUCKET6_WAYS) {
			if (key == first)
				return NO_SLOT;
			__sync_fetch_and_add(spills, 1);
		}
		entry = &bucket->entries[way6(k->hash, i)];
		if (!*(volatile __u32 *)entry &&
		    !__sync_val_compare_and_swap(entry, 0, tag6(k->hash) << TAG6_SHIFT | slot))
			return slot;
	}
	__sync_fetch_and_add(spills, -1);
	return NO_SLOT;
}

/*
 * Lets a target have the slot that was taken for it. Returns its word, or NO_SLOT: of two CPUs that put the same address
 * into the table one gets the lock, and the other counts this packet for the parent.
 */
__noinline __u32 settle6(const struct key6 *k, __u32 slot, __u32 packets, struct cpu_stat *stat)
{
	__u32 key = slot, found = NO_SLOT, *lock;
	struct slot_info *info;

	if (!k || !stat)
		return NO_SLOT;
	info = bpf_map_lookup_elem(&slot_infos, &key);
	if (!info)
		return NO_SLOT;
	lock = &locks6[k->hash >> 54];
	if (!__sync_val_compare_and_swap(lock, 0, 1)) {
		__u64 *check = bpf_map_lookup_elem(&checks6, &key);

		/* Null for a network, whose slot lies behind those of hosts. */
		if (check)
			*check = check6(k->address[0], k->address[1]);
		info->address[0] = k->address[0];
		info->address[1] = k->address[1];
		info->parent = k->parent;
		info->family = 6;
		info->bits = k->bits;
		info->flags = 0;
		info->sketch[INBOUND] = 0;
		info->sketch[OUTBOUND] = 0;
		info->hot[INBOUND] = 0;
		info->hot[OUTBOUND] = 0;
		found = insert6(k, slot);
		if (found == NO_SLOT)
			stat->table6_overflows += packets;
		__sync_lock_test_and_set(lock, 0);
	}
	if (found != slot) {
		info->family = 0;
		if (k->bits == 128)
			return_slot(HOST_SLOTS, slot, stat);
		else
			return_slot(NETWORK_SLOTS, slot, stat);
	}
	return found;
}

/* The prefix is longer than /64, or such a prefix lies in the address' /64. */
#define PREFIX6_DEEP 0x80000000U

/* Returns the slot of the longest protected prefix that holds an address, perhaps with PREFIX6_DEEP, or NO_SLOT. */
__noinline __u32 prefix6(const struct key6 *k)
{
	__u32 next, deep = 0, half = *(volatile __u32 *)&half6 & 1;
	__u64 bits;

	if (!k)
		return NO_SLOT;
	bits = bpf_be64_to_cpu(k->address[0]);
	next = *(volatile __u32 *)&root6[half][bits >> (64 - ROOT6_BITS)];
	bits <<= ROOT6_BITS;
	for (int i = 0; i < (128 - ROOT6_BITS) / NODE6_STRIDE; i++) {
		__u32 key = next & ~NODE6_CHILD;
		struct node6 *node;

		if (!(next & NODE6_CHILD))
			break;
		if (i == (64 - ROOT6_BITS) / NODE6_STRIDE) {
			bits = bpf_be64_to_cpu(k->address[1]);
			deep = PREFIX6_DEEP;
		}
		node = bpf_map_lookup_elem(&nodes6, &key);
		if (!node)
			return NO_SLOT;
		next = *(volatile __u32 *)&node->next[bits >> (64 - NODE6_STRIDE)];
		bits <<= NODE6_STRIDE;
	}
	return next ? (next - 1) | deep : NO_SLOT;
}

/* Where a CPU remembers a network. An attacker who does not know the seed cannot choose two that drive each other out. */
static __always_inline struct known6 *known6_at(struct lane *lane, __u64 high)
{
	return &lane->known[high * (seed6[2] | 1) >> (64 - KNOWN6_BITS)];
}

static __always_inline bool is_known6(const struct known6 *known, __u64 high)
{
	return known->high == high && known->epoch == *(volatile __u32 *)&epoch6;
}

/* Finds a network in the table, and remembers it. Returns its word, or NO_SLOT. */
static __always_inline __u32 find_network6(struct key6 *k, struct lane *lane)
{
	struct known6 *known = known6_at(lane, k->address[0]);
	__u32 epoch = *(volatile __u32 *)&epoch6, word;
	__u64 none = epoch;

	/* The epoch must not be younger than what is found: processors keep the order of reads of which one needs the other. */
	asm volatile("%0 ^= %0" : "+r"(none));
	k->hash += none;
	word = find6(k, true);
	if (word == NO_SLOT)
		return NO_SLOT;
	known->high = k->address[0];
	known->word = word;
	known->epoch = epoch;
	return word;
}

/*
 * The first packet to an IPv6 host, every packet to one that is in its second bucket, and those to hosts without a slot that
 * target6 could not refuse one. first: the host may be in its first bucket. admitted: it has not been refused a slot.
 */
__noinline __u32 other6(struct key6 *host, bool first, bool admitted, __u32 packets, struct lane *lane)
{
	struct key6 network = {.bits = 64};
	__u32 word, prefix, key, slot;
	struct slot_info *info;
	struct cpu_stat *stat;

	if (!host || !lane)
		return NO_SLOT;
	stat = &lane->stat;
	word = find6(host, first);
	if (word != NO_SLOT)
		return word;

	network.address[0] = host->address[0];
	network.hash = hash_network6(host->address[0]);
	word = network_slots ? find_network6(&network, lane) : NO_SLOT;
	if (word == NO_SLOT) {
		prefix = prefix6(host);
		if (prefix == NO_SLOT)
			return NO_SLOT;
		key = network.parent = prefix & SLOT_MASK;
		info = bpf_map_lookup_elem(&slot_infos, &key);
		if (!info)
			return NO_SLOT;
		/*
		 * A network has a slot only where no protected prefix begins or ends in it, and a host in it only if the
		 * network has one: so that the network's total is that of its slot and of those whose parent it is.
		 */
		if (network_slots && !(prefix & PREFIX6_DEEP) && info->bits < 64) {
			slot = take_slot(NETWORK_SLOTS, network.hash, false, packets, stat);
			word = slot == NO_SLOT ? NO_SLOT : settle6(&network, slot, packets, stat);
			if (word == NO_SLOT)
				return network_word(network.parent);
		} else {
			word = network.parent | (__u32)info->flags << SLOT_FLAG_SHIFT;
		}
	}
	host->parent = word & SLOT_MASK;
	slot = take_slot(HOST_SLOTS, host->hash, admitted, packets, stat);
	if (slot != NO_SLOT)
		slot = settle6(host, slot, packets, stat);
	return slot == NO_SLOT ? word : slot;
}

static __always_inline __u32 target6(__u64 high, __u64 low, __u32 packets, struct lane *lane)
{
	__u32 part = high >> 16 & 0xffff, key, tag, entry;
	const struct known6 *known;
	struct bucket6 *bucket;
	bool admitted = false;
	__u64 hash;

	if (!(*(volatile __u64 *)&filter6[part / 64] >> part % 64 & 1))
		return NO_SLOT;
	hash = hash6(high, low);
	key = bucket6(hash, 0);
	tag = tag6(hash);
	bucket = bpf_map_lookup_elem(&targets6, &key);
	if (!bucket)
		return NO_SLOT;
	entry = *(volatile __u32 *)&bucket->entries[way6(hash, 0)];
	if (unlikely(entry >> TAG6_SHIFT != tag))
		entry = tagged6(bucket, tag);
	if (entry >> TAG6_SHIFT == tag && held_by_host6(entry & SLOT_MASK, high, low))
		return entry & (SLOT_MASK | SLOT_FLAGS);
	/* A scan's packet, without a call, which costs 7 ns. */
	known = known6_at(lane, high);
	if (likely(entry >> TAG6_SHIFT != tag && is_known6(known, high) && !spilled6(key) &&
		   *(volatile __u32 *)&empty_queues[HOST_SLOTS][FREE_FOR_ALL])) {
		if (refused(HOST_SLOTS, hash, packets, &lane->stat))
			return known->word;
		admitted = true;
	}
	{
		struct key6 host = {.address = {high, low}, .hash = hash, .bits = 128};

		return other6(&host, entry >> TAG6_SHIFT == tag, admitted, packets, lane);
	}
}

/* The same for packets that are rare. */
__noinline __u32 target_rare(const struct packet *p, struct lane *lane)
{
	if (!p || !lane)
		return NO_TARGET;
	if (p->family == 4)
		return target4(p->address4, p->segments, &lane->stat);
	return p->family == 6 ? target6(p->address6[0], p->address6[1], p->segments, lane) : NO_TARGET;
}
