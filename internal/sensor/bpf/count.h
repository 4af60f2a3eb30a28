/* Counting a packet, and noticing that a window has passed its trigger. */
#pragma once

#include "bounded.h"
#include "maps.h"
#include "parse.h"
#include "target.h"

static __always_inline __u64 count_of(__u32 packets, __u32 bytes)
{
	return (__u64)packets << COUNT_BYTE_BITS | bytes;
}

static __always_inline const struct level *level_of(__u32 column)
{
	return &levels[bounded(column, COLUMN_COUNT - 1)];
}

#define NEVER 0xffffffffU

/* Whether there is nothing to find out about a window any more. */
static __always_inline bool unset(const struct level *level)
{
	return level->packets == NEVER && level->bytes == ~0ULL;
}

/* What a record counted since its window began, in the window word's units: packets << 28 | bytes >> 8. */
static __always_inline __u64 since(__u64 total, __u64 word)
{
	__u64 count = ((total >> WINDOW_BASE_SHIFT) - word) & WINDOW_BASE_MASK;

	/* Another CPU began the window after our packets had been added: not negative. */
	return count >> (WINDOW_BASE_BITS - 1) ? 0 : count;
}

static __always_inline __u32 since_packets(__u64 since)
{
	return since >> (COUNT_BYTE_BITS - WINDOW_BASE_SHIFT);
}

static __always_inline __u64 since_bytes(__u64 since)
{
	return since << WINDOW_BASE_SHIFT & COUNT_BYTE_MASK;
}

static __always_inline bool passed(__u64 since, const struct level *level)
{
	return since_packets(since) >= level->packets || since_bytes(since) >= level->bytes;
}

/* Tells user space that a window has passed its trigger, unless it reports the vector already. */
static __noinline int raise(__u32 slot, __u32 column, __u32 window, __u64 since, struct cpu_stat *stat)
{
	__u32 vector = column & (VECTOR_COUNT - 1), direction = column / VECTOR_COUNT & 1;
	struct slot_info *info = bpf_map_lookup_elem(&slot_infos, &slot);
	struct trigger *event;

	if (!info || !stat)
		return 0;
	if (*(volatile __u64 *)&info->hot[direction] & 1ULL << vector)
		return 0;
	event = bpf_ringbuf_reserve(&triggers, sizeof(*event), 0);
	if (!event) {
		stat->lost_triggers++;
		return 0;
	}
	event->ktime = bpf_ktime_get_ns();
	event->age = bpf_jiffies64() - ((__u64)window << window_shift);
	event->packets = since_packets(since);
	event->bytes = since_bytes(since);
	event->slot = slot;
	event->window = window;
	event->cpu = bpf_get_smp_processor_id();
	__builtin_memcpy(event->address, info->address, sizeof(event->address));
	event->family = info->family;
	event->vector = vector;
	event->direction = direction;
	event->unused = 0;
	bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
	return 0;
}

/*
 * Follows the window of a record whose total was before and has grown by count, and returns whether the window has
 * passed its level. Of the CPUs that add, one sees it pass. When two begin a window at the same moment, the word of the
 * later stands, and the window may lack what the other has added until then. late: the count is older than the window.
 */
static __always_inline bool follow(struct record *record, __u64 before, __u64 count, bool late, __u32 slot,
				   __u32 column, __u32 window, struct cpu_stat *stat)
{
	const struct level *level = level_of(column);
	__u64 word = *(volatile __u64 *)&record->window, tag = (__u64)window << WINDOW_BASE_BITS;
	__u64 after = before + count;

	if ((word ^ tag) >> WINDOW_BASE_BITS) {
		word = tag | ((late ? after : before) >> WINDOW_BASE_SHIFT & WINDOW_BASE_MASK);
		*(volatile __u64 *)&record->window = word;
	} else if (late) {
		word = tag | ((word + (count >> WINDOW_BASE_SHIFT)) & WINDOW_BASE_MASK);
		*(volatile __u64 *)&record->window = word;
	}
	if (late || !passed(since(after, word), level))
		return false;
	if (!passed(since(before, word), level))
		raise(slot, column, window, since(after, word), stat);
	return true;
}

static __always_inline struct record *record_of(__u32 column, __u32 slot)
{
	__u32 key = column * row_blocks + slot / RECORDS;
	struct record_block *block = bpf_map_lookup_elem(&records, &key);

	return block ? &block->records[slot & (RECORDS - 1)] : 0;
}

/*
 * Empties a cell into its record. The total's record is there for its trigger only, so it does without the atomic
 * addition: two CPUs at the same moment may lose one another's packets in it.
 */
static __always_inline void empty(struct cell *cell, __u32 window, struct cpu_stat *stat)
{
	__u32 key = cell->key, slot = key & KEY_SLOT_MASK, column = key >> KEY_SLOT_BITS & (COLUMN_COUNT - 1);
	__u32 sum = column & VECTOR_COUNT, at = column * row_blocks + slot / RECORDS;
	const struct level *level = level_of(column), *all = level_of(sum);
	bool late = cell->window != window, done, all_done = true;
	__u64 count = cell->count, before, *word, bit = 1ULL << (slot & (RECORDS - 1));
	struct record *record;

	*(volatile __u64 *)&cell->count = 0;
	record = record_of(column, slot);
	word = bpf_map_lookup_elem(&dirty, &at);
	if (!record || !word)
		return;
	before = __sync_fetch_and_add(&record->total, count);
	if (!(*(volatile __u64 *)word & bit))
		__sync_fetch_and_or(word, bit);

	done = unset(level) || follow(record, before, count, late, slot, column, window, stat);
	if (!unset(all)) {
		record = record_of(sum, slot);
		if (!record)
			return;
		before = *(volatile __u64 *)&record->total;
		*(volatile __u64 *)&record->total = before + count;
		all_done = follow(record, before, count, late, slot, sum, window, stat);
	}
	/* Nothing more to find out in this window: let the cell fill. */
	if (done) {
		cell->batch_packets = all_done ? NEVER : all->batch_packets;
		cell->batch_bytes = all_done ? ~0ULL : all->batch_bytes;
	}
}

static __noinline int empty_full(struct cell *cell, __u32 window, struct cpu_stat *stat)
{
	if (cell && stat)
		empty(cell, window, stat);
	return 0;
}

static __always_inline void count_cell(struct lane *lane, __u32 column, __u32 slot, __u64 count, __u32 window)
{
	__u32 key = column << KEY_SLOT_BITS | slot;
	struct cell *cell = &lane->cells[(slot + column * 37) & (CELLS - 1)];

	if (cell->key == key && cell->window == window) {
		count += cell->count;
	} else {
		const struct level *level = level_of(column);

		/* In this order: see Scan. */
		(*(volatile __u32 *)&cell->generation)++;
		if (cell->count)
			empty(cell, window, &lane->stat);
		*(volatile __u32 *)&cell->key = key;
		*(volatile __u32 *)&cell->window = window;
		cell->batch_packets = level->batch_packets;
		cell->batch_bytes = level->batch_bytes;
	}
	*(volatile __u64 *)&cell->count = count;
	if (count >> COUNT_BYTE_BITS >= cell->batch_packets || (count & COUNT_BYTE_MASK) >= cell->batch_bytes)
		empty_full(cell, window, &lane->stat);
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
	__u32 cpu = bpf_get_smp_processor_id(), direction = p->outbound ? OUTBOUND : INBOUND, slot, every;
	struct lane *lane = bpf_map_lookup_elem(&lanes, &cpu);
	struct cpu_stat *stat;

	if (!lane)
		return 0;
	stat = &lane->stat;
	/* Before the cell: who finds it unchanged has seen all of the cells. */
	*(volatile __u64 *)&stat->packets[direction] += p->segments;
	stat->bytes[direction] += p->length;
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
		stat->unprotected_packets[direction] += p->segments;
		stat->unprotected_bytes[direction] += p->length;
		return 0;
	}
	count_cell(lane, direction * VECTOR_COUNT + (p->vector & (VECTOR_COUNT - 1)), slot,
		   count_of(p->segments, p->length), bpf_jiffies64() >> window_shift);

	every = *(volatile __u32 *)&sample_every;
	if (!every || !sample_now(p, stat, every))
		return 0;
	return every;
}

/* Returns a sample to be filled and submitted, or null. A merged packet may stand for more than every packets. */
static __always_inline struct sample *begin_sample(const struct packet *p, __u32 every)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct lane *lane = bpf_map_lookup_elem(&lanes, &cpu);
	struct sample *sample;

	if (!lane)
		return 0;
	sample = bpf_ringbuf_reserve(&samples, sizeof(*sample), 0);
	if (!sample) {
		lane->stat.lost_samples++;
		return 0;
	}
	lane->stat.samples++;
	sample->ktime = bpf_ktime_get_ns();
	sample->weight = every > p->segments ? every : p->segments;
	sample->length = p->length;
	sample->vector = p->vector;
	sample->direction = p->outbound;
	__builtin_memset(sample->unused, 0, sizeof(sample->unused));
	return sample;
}
