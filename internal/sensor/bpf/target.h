/* From an address to the slot it is counted in, without walking a trie. */
#pragma once

#include "maps.h"
#include "parse.h"

#define NO_SLOT 0xffffffffU

/*
 * Takes a slot for the packet's target, which belongs to prefix. Returns NO_SLOT when none is left. The slot is not
 * visible to anyone before the caller installs it.
 */
static __always_inline __u32 take_slot(const struct packet *p, __u32 prefix)
{
	struct slot_info *info;
	__u32 slot;

	if (*(volatile __u32 *)&exhausted)
		return NO_SLOT;
	if (bpf_map_pop_elem(&free_slots, &slot)) {
		*(volatile __u32 *)&exhausted = 1;
		return NO_SLOT;
	}
	info = bpf_map_lookup_elem(&slot_infos, &slot);
	if (!info)
		return NO_SLOT;
	if (p->family == 4) {
		__be32 address = bpf_htonl(p->address4);

		__builtin_memset(info->address, 0, sizeof(info->address));
		__builtin_memcpy(info->address, &address, sizeof(address));
	} else {
		__builtin_memcpy(info->address, p->address6, sizeof(info->address));
	}
	info->prefix = prefix;
	info->family = p->family;
	info->sketch[INBOUND] = 0;
	info->sketch[OUTBOUND] = 0;
	info->hot[INBOUND] = 0;
	info->hot[OUTBOUND] = 0;
	return slot;
}

static __always_inline void return_slot(__u32 slot, struct cpu_stat *stat)
{
	if (bpf_map_push_elem(&free_slots, &slot, BPF_ANY))
		stat->lost_slots++;
}

/* The first packet to an IPv4 host. */
static __noinline __u32 allocate4(const struct packet *p, __u32 *host, __u32 seen, struct cpu_stat *stat)
{
	__u32 prefix = seen & ~HOST_UNALLOCATED, slot, old;

	if (!p || !host || !stat)
		return NO_SLOT;
	slot = take_slot(p, prefix);
	if (slot == NO_SLOT) {
		stat->slot_exhausted++;
		return prefix;
	}
	old = __sync_val_compare_and_swap(host, seen, slot);
	if (old == seen)
		return slot;
	/* Another CPU was faster, or user space changed the table. */
	return_slot(slot, stat);
	if (old == HOST_UNPROTECTED)
		return NO_SLOT;
	return old & ~HOST_UNALLOCATED;
}

/* Returns the slot of the IPv4 target, or NO_SLOT when it is not protected. */
static __always_inline __u32 target4(const struct packet *p, struct cpu_stat *stat)
{
	__u32 address = p->address4, block, *host, seen;
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
	return allocate4(p, host, seen, stat);
}

/* The first packet to an IPv6 host, and every packet to none of ours. */
static __noinline __u32 allocate6(const struct packet *p, struct cpu_stat *stat)
{
	struct prefix6 key = {};
	__u32 *prefix = 0, slot, *found;

	if (!p || !stat)
		return NO_SLOT;
	for (int i = 0; i < 8; i++) {
		if (i >= *(volatile __u32 *)&masks6_used)
			return NO_SLOT;
		key.address[0] = p->address6[0] & masks6[i].mask[0];
		key.address[1] = p->address6[1] & masks6[i].mask[1];
		key.length = masks6[i].length;
		prefix = bpf_map_lookup_elem(&prefixes6, &key);
		if (prefix)
			break;
	}
	if (!prefix)
		return NO_SLOT;
	slot = take_slot(p, *prefix);
	if (slot == NO_SLOT) {
		stat->slot_exhausted++;
		return *prefix;
	}
	if (!bpf_map_update_elem(&hosts6, p->address6, &slot, BPF_NOEXIST))
		return slot;
	return_slot(slot, stat);
	found = bpf_map_lookup_elem(&hosts6, p->address6);
	return found ? *found : *prefix;
}

/* Returns the slot of the IPv6 target, or NO_SLOT when it is not protected. */
static __always_inline __u32 target6(const struct packet *p, struct cpu_stat *stat)
{
	__u32 *slot = bpf_map_lookup_elem(&hosts6, p->address6);

	if (slot)
		return *slot;
	return allocate6(p, stat);
}
