/* Counting a packet, and noticing that a window has passed its trigger. */
#pragma once

#include "maps.h"
#include "parse.h"
#include "target.h"

static __always_inline __u64 count_of(__u32 packets, __u32 bytes)
{
	return (__u64)packets << COUNT_BYTE_BITS | bytes;
}

static __always_inline bool passed(__u64 packets, __u64 bytes, const struct level *level)
{
	return packets >= level->packets || bytes >= level->bytes;
}

/*
 * Adds what this CPU counted to the window all CPUs share, and raises the trigger if that took the window past its
 * level. The addition is atomic, so exactly one CPU sees it pass. What is below one unit of bytes stays for later.
 */
static __noinline int flush(struct cell *cell, __u32 slot, __u32 vector, __u32 window, struct cpu_stat *stat)
{
	__u64 fresh, packets, bytes, add, tag, before, after, *shared;
	struct shared_window *row;
	struct slot_info *info;
	struct trigger *event;
	struct level *level;

	if (!cell || !stat || cell->raised == window)
		return 0;
	vector &= VECTOR_COUNT - 1;
	level = &levels[vector];
	row = bpf_map_lookup_elem(&shared_windows, &slot);
	info = bpf_map_lookup_elem(&slot_infos, &slot);
	if (!row || !info)
		return 0;
	shared = &row->vectors[vector];

	fresh = cell->total - cell->flushed;
	packets = fresh >> COUNT_BYTE_BITS;
	bytes = (fresh & COUNT_BYTE_MASK) / WINDOW_BYTE_UNIT;
	cell->flushed += packets << COUNT_BYTE_BITS | bytes * WINDOW_BYTE_UNIT;
	add = (packets & WINDOW_PACKET_MASK) << WINDOW_BYTE_BITS | (bytes & WINDOW_BYTE_MASK);
	tag = (__u64)(window & WINDOW_TAG_MASK) << WINDOW_COUNT_BITS;

	before = *(volatile __u64 *)shared;
	if ((before & ~WINDOW_COUNT_MASK) != tag && __sync_val_compare_and_swap(shared, before, tag | add) == before)
		before = 0; /* this CPU began the window */
	else
		before = __sync_fetch_and_add(shared, add) & WINDOW_COUNT_MASK;
	after = before + add;

	if (!passed(after >> WINDOW_BYTE_BITS, (after & WINDOW_BYTE_MASK) * WINDOW_BYTE_UNIT, level))
		return 0;
	cell->raised = window;
	if (passed(before >> WINDOW_BYTE_BITS, (before & WINDOW_BYTE_MASK) * WINDOW_BYTE_UNIT, level))
		return 0;
	if (*(volatile __u64 *)&info->hot & 1ULL << vector)
		return 0;

	event = bpf_ringbuf_reserve(&triggers, sizeof(*event), 0);
	if (!event) {
		stat->lost_triggers++;
		return 0;
	}
	event->ktime = bpf_ktime_get_ns();
	event->age = bpf_jiffies64() - ((__u64)window << window_shift);
	event->packets = after >> WINDOW_BYTE_BITS;
	event->bytes = (after & WINDOW_BYTE_MASK) * WINDOW_BYTE_UNIT;
	event->slot = slot;
	event->window = window;
	event->cpu = bpf_get_smp_processor_id();
	__builtin_memcpy(event->address, info->address, sizeof(event->address));
	event->family = info->family;
	event->vector = vector;
	__builtin_memset(event->unused, 0, sizeof(event->unused));
	bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
	return 0;
}

static __always_inline void count_cell(struct cell *cell, __u64 count, __u32 slot, __u32 vector, __u32 window,
				       struct cpu_stat *stat)
{
	const struct level *level = &levels[vector];
	__u64 total = cell->total, flushed = cell->flushed;

	if (cell->window != window) {
		cell->window = window;
		cell->flushed = flushed = total;
	}
	total += count;
	cell->total = total;
	total -= flushed;
	if (total >> COUNT_BYTE_BITS >= level->batch_packets || (total & COUNT_BYTE_MASK) >= level->batch_bytes)
		flush(cell, slot, vector, window, stat);
}

/* True when the packet is to be sampled; keeps the distance to the next one. */
static __always_inline bool sample_now(const struct packet *p, struct cpu_stat *stat, __u32 every)
{
	__u32 left = stat->sample_left;

	if (left > p->segments) {
		stat->sample_left = left - p->segments;
		return false;
	}
	stat->sample_left = every;
	return left; /* the first packet of all only winds the counter up */
}

/*
 * Counts the packet. Returns 0, or in how many packets one is sampled when this is one to sample. Inlined, for a call
 * costs 7 ns; the verifier then looks at it once for every way through parse, which is why that has few.
 */
static __always_inline __u32 count(struct packet *p, enum parsed parsed)
{
	__u32 cpu = bpf_get_smp_processor_id(), slot, window, every, key;
	struct cell_block *block;
	struct cpu_stat *stat;
	struct cell *cell;
	__u64 add;

	if (cpu >= cpus)
		return 0;
	/* Keys are copies: once its address was taken, the verifier forgets a variable's bounds. */
	key = cpu;
	stat = bpf_map_lookup_elem(&cpu_stats, &key);
	if (!stat)
		return 0;
	if (parsed == PARSE_NOT_IP) {
		stat->non_ip_packets++;
		stat->non_ip_bytes += p->length;
		return 0;
	}
	if (parsed == PARSE_SHORT)
		p->vector = VECTOR_MALFORMED;
	if (p->vector == VECTOR_MALFORMED)
		stat->malformed_packets++;

	if (p->family == 4) {
		slot = target4(p, stat);
	} else if (p->family == 6) {
		slot = target6(p, stat);
	} else {
		stat->headless_packets++;
		stat->headless_bytes += p->length;
		return 0;
	}
	if (slot >= slots) {
		stat->unprotected_packets += p->segments;
		stat->unprotected_bytes += p->length;
		return 0;
	}

	window = bpf_jiffies64() >> window_shift;
	add = count_of(p->segments, p->length);

	key = cpu;
	cell = bpf_map_lookup_elem(&totals, &key);
	if (!cell)
		return 0;
	count_cell(&cell[slot], add, slot, VECTOR_TOTAL, window, stat);

	key = slot;
	block = bpf_map_lookup_elem(&blocks, &key);
	if (!block)
		return 0;
	count_cell(&block[cpu].vectors[p->vector & (VECTOR_COUNT - 1)], add, slot, p->vector & (VECTOR_COUNT - 1),
		   window, stat);

	every = *(volatile __u32 *)&sample_every;
	if (!every || !sample_now(p, stat, every))
		return 0;
	return every;
}

/* Returns a sample to be filled and submitted, or null. A merged packet may stand for more than every packets. */
static __always_inline struct sample *begin_sample(const struct packet *p, __u32 every)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct cpu_stat *stat = bpf_map_lookup_elem(&cpu_stats, &cpu);
	struct sample *sample;

	if (!stat)
		return 0;
	sample = bpf_ringbuf_reserve(&samples, sizeof(*sample), 0);
	if (!sample) {
		stat->lost_samples++;
		return 0;
	}
	stat->samples++;
	sample->ktime = bpf_ktime_get_ns();
	sample->weight = every > p->segments ? every : p->segments;
	sample->length = p->length;
	sample->vector = p->vector;
	__builtin_memset(sample->unused, 0, sizeof(sample->unused));
	return sample;
}
