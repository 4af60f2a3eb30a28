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

/* Key of the block that a slot's record in a column is in. */
static __always_inline __u32 block_of(__u32 column, __u32 slot)
{
	return column * row_blocks + slot / RECORDS;
}

/* Adds a count to its record and returns what that held before. It is complete before its dirty bit is looked at. */
static __always_inline bool add(__u32 column, __u32 slot, __u64 count, __u64 *before)
{
	__u32 key = block_of(column, slot), i = slot & (RECORDS - 1);
	struct record_block *block = bpf_map_lookup_elem(&records, &key);
	__u64 *word = bpf_map_lookup_elem(&dirty, &key);

	if (!block || !word)
		return false;
	*before = __sync_fetch_and_add(&block->totals[i], count);
	if (!(*(volatile __u64 *)word >> i & 1))
		__sync_fetch_and_or(word, 1ULL << i);
	return true;
}

static __always_inline __u64 *window_of(__u32 column, __u32 slot)
{
	__u32 key = block_of(column, slot);
	struct window_block *block = bpf_map_lookup_elem(&windows, &key);

	return block ? &block->words[slot & (RECORDS - 1)] : 0;
}

/*
 * Brings a window word up to date when a record that held before has grown by count, and returns it. When two CPUs begin a
 * window at the same moment, the word of the later stands, and the window may lack what the other has added until then.
 * late: the count is older than the window.
 */
static __always_inline __u64 follow(__u64 *at, __u64 before, __u64 count, bool late, __u32 window)
{
	__u64 word = *(volatile __u64 *)at, tag = (__u64)window << WINDOW_TAG_SHIFT, base = word;

	if ((word ^ tag) >> WINDOW_TAG_SHIFT)
		base = (late ? before + count : before) >> WINDOW_BASE_SHIFT;
	else if (late)
		base += count >> WINDOW_BASE_SHIFT;
	else
		return word;
	if (!((word ^ tag) >> WINDOW_TAG_SHIFT))
		tag |= word & WINDOW_RAISED;
	word = tag | (base & WINDOW_BASE_MASK);
	*(volatile __u64 *)at = word;
	return word;
}

/* Tells user space that a window has passed its trigger, once: or twice, if two CPUs see it at the same moment. */
static __always_inline void raise_once(__u64 *at, __u64 word, __u32 slot, __u32 column, __u32 window, __u64 since,
				       struct cpu_stat *stat)
{
	if (word & WINDOW_RAISED)
		return;
	*(volatile __u64 *)at = word | WINDOW_RAISED;
	raise(slot, column, window, since, stat);
}

/*
 * The total of a slot is not counted but summed up by who reads; its record is there for its trigger only, and follows
 * the vectors once they are a share of it: most targets never get there, and it costs them nothing. It does without the atomic
 * addition, so two CPUs at the same moment may lose one another's packets in it.
 */
#define SHARE_SHIFT 6

static __always_inline bool shares(__u64 count, const struct level *all)
{
	return count >> COUNT_BYTE_BITS >= all->packets >> SHARE_SHIFT ||
	       (count & COUNT_BYTE_MASK) >= all->bytes >> SHARE_SHIFT;
}

/*
 * What the total has been told of a window when its record has reached a total: a count in whole steps, of which a window that
 * began between two may have less than none. Never more than there was.
 */
static __always_inline __u64 told(__u64 total, __u64 steps, __u64 word)
{
	const __u64 packet_mask = WINDOW_BASE_MASK >> (COUNT_BYTE_BITS - WINDOW_BASE_SHIFT);
	const __u64 byte_mask = COUNT_BYTE_MASK >> WINDOW_BASE_SHIFT;
	__u64 packets, bytes;

	total &= steps;
	packets = ((total >> COUNT_BYTE_BITS) - (word >> (COUNT_BYTE_BITS - WINDOW_BASE_SHIFT))) & packet_mask;
	bytes = ((total >> WINDOW_BASE_SHIFT) - word) & byte_mask;
	if (packets > packet_mask / 2)
		packets = 0;
	if (bytes > byte_mask / 2)
		bytes = 0;
	return packets << COUNT_BYTE_BITS | bytes << WINDOW_BASE_SHIFT;
}

/* Tells whether there is nothing more to find out about the total in this window. */
static __always_inline bool add_total(__u32 column, __u32 slot, __u64 count, __u32 window, struct cpu_stat *stat)
{
	__u32 key = block_of(column & VECTOR_COUNT, slot);
	struct record_block *block = bpf_map_lookup_elem(&records, &key);
	__u64 *at = window_of(column & VECTOR_COUNT, slot), *total, before, word, now;
	const struct level *all = level_of(column & VECTOR_COUNT);

	if (!block || !at)
		return true;
	total = &block->totals[slot & (RECORDS - 1)];
	before = *(volatile __u64 *)total;
	*(volatile __u64 *)total = before + count;
	word = follow(at, before, count, false, window);
	now = since(before + count, word);
	if (!passed(now, all))
		return false;
	raise_once(at, word, slot, column & VECTOR_COUNT, window, now, stat);
	return true;
}

/* A window has begun: empties a cell of the one before, and gives it to who needs it now. */
static __noinline int renew(struct cell *cell, __u32 key, __u32 window)
{
	const struct level *level = level_of(key >> KEY_SLOT_BITS);
	__u64 count, before, *at;

	if (!cell)
		return 0;
	count = cell->count;
	if (count) {
		__u32 slot = cell->tag & KEY_SLOT_MASK, column = cell->tag >> KEY_SLOT_BITS & (COLUMN_COUNT - 1);

		*(volatile __u64 *)&cell->count = 0;
		if (add(column, slot, count, &before)) {
			at = window_of(column, slot);
			if (at)
				follow(at, before, count, true, window);
		}
	}
	*(volatile __u64 *)&cell->tag = (__u64)window << 32 | key;
	cell->room = level->room;
	return 0;
}

#define WINDOW_DONE 1 /* nothing more to find out about the vector in this window */
#define TOTAL_DONE 2  /* nor about the total */

/*
 * Looks at the window of a record that held before and has grown by count. Records without a cell are not looked at for
 * every packet, so what the total is told of them goes in the steps of which none is missed.
 */
static __noinline int look(__u64 before, __u64 count, __u32 key, __u32 window, struct cpu_stat *stat)
{
	__u32 slot = key & KEY_SLOT_MASK, column = key >> KEY_SLOT_BITS & (COLUMN_COUNT - 1);
	const struct level *level = level_of(column), *all = level_of(column & VECTOR_COUNT);
	__u64 *at = window_of(column, slot), steps = level->look, after = before + count, word, now, old;
	int found = (unset(level) ? WINDOW_DONE : 0) | (unset(all) ? TOTAL_DONE : 0);

	if (!at || !stat)
		return 0;
	word = follow(at, before, count, false, window);
	now = since(after, word);
	if (passed(now, level)) {
		raise_once(at, word, slot, column, window, now, stat);
		found |= WINDOW_DONE;
	}
	old = told(before, steps, word);
	now = told(after, steps, word);
	if (shares(now, all) && add_total(column, slot, shares(old, all) ? now - old : now, window, stat))
		found |= TOTAL_DONE;
	return found;
}

static __always_inline void count_cell(struct lane *lane, __u32 column, __u32 slot, __u64 count, __u64 window)
{
	const struct level *level = level_of(column);
	struct cell *cell = &lane->cells[(slot + column * 37) & (CELLS - 1)];
	__u32 key = column << KEY_SLOT_BITS | slot;
	__u64 tag = window << 32 | key, before;
	bool mine = true;
	int found;

	if (unlikely(cell->tag != tag)) {
		if (cell->tag >> 32 != tag >> 32)
			renew(cell, key, window);
		else
			mine = false;
	}
	if (mine) {
		count += cell->count;
		if (likely(!((count + cell->room) & FULL))) {
			*(volatile __u64 *)&cell->count = count;
			return;
		}
		*(volatile __u64 *)&cell->count = 0;
	}
	if (!add(column, slot, count, &before))
		return;
	if (!mine && !((before ^ (before + count)) & level->look))
		return;
	found = look(before, count, key, window, &lane->stat);

	/* Let the cell fill. */
	if (mine && found & WINDOW_DONE)
		cell->room = found & TOTAL_DONE ? 0 : level_of(column & VECTOR_COUNT)->room;
}

/* True when the packet is to be sampled; keeps the distance to the next one. */
static __always_inline bool sample_now(__u32 packets, __u32 *sample_left, __u32 every)
{
	__u32 left = *sample_left;

	if (likely(left > packets)) {
		*sample_left = left - packets;
		return false;
	}
	*sample_left = every;
	return left; /* the first packet of all only winds the counter up */
}

/* What is left of a packet once its target is known. */
struct seen {
	__u32 packets;
	__u32 bytes;
	__u32 word; /* of the target */
	__u32 verdict;
	__u32 l3;
};

/* What count finds to be done. */
struct todo {
	__u32 every;  /* 0, or in how many packets one is sampled when this is one to sample */
	__u32 sketch; /* number of the sketch to add the other side's address to, or 0 */
	__u32 family; /* of that address */
};

static __always_inline void count_malformed(struct cpu_stat *stat, __u32 verdict)
{
	__u32 reason = REASON_OF(verdict);

	stat->malformed_packets++;
	if (reason < MALFORMED_REASONS)
		stat->malformed[reason]++;
}

static __always_inline void count_elsewhere(struct cpu_stat *stat, const struct seen *seen, __u32 direction)
{
	__u32 packets = seen->packets, bytes = seen->bytes;

	if (seen->word != NO_TARGET) {
		stat->unprotected_packets[direction] += packets;
		stat->unprotected_bytes[direction] += bytes;
	} else if (seen->verdict == NOT_IP) {
		stat->non_ip_packets++;
		stat->non_ip_bytes += bytes;
	} else {
		stat->headless_packets++;
		stat->headless_bytes += bytes;
	}
}

/*
 * Counts the packet. Inlined, for a call costs 7 ns; the verifier then looks at it once for every way through parse, which
 * is why that has few.
 */
static __always_inline struct todo count(struct lane *lane, const struct seen *seen, const __u32 direction)
{
	__u32 slot = seen->word & SLOT_MASK, packets = seen->packets, every;
	struct cpu_stat *stat = &lane->stat;
	struct todo todo = {};

	/* Before the cell: who finds it unchanged has seen all of the cells. */
	*(volatile __u64 *)&stat->packets[direction] += packets;
	stat->bytes[direction] += seen->bytes;
	if (unlikely(slot >= slots)) {
		count_elsewhere(stat, seen, direction);
		return todo;
	}
	count_cell(lane, direction * VECTOR_COUNT + (VECTOR_OF(seen->verdict) & (VECTOR_COUNT - 1)), slot,
		   count_of(packets, seen->bytes), bpf_jiffies64() >> window_shift);

	if (unlikely(seen->word & SLOT_FLAGS)) {
		struct slot_info *info = bpf_map_lookup_elem(&slot_infos, &slot);

		if (info) {
			todo.sketch = *(volatile __u16 *)&info->sketch[direction];
			todo.family = info->family;
		}
		every = *(volatile __u32 *)&watched_sample_every;
		if (every && sample_now(packets, &stat->watched_left, every))
			todo.every = every;
		return todo;
	}
	every = *(volatile __u32 *)&sample_every;
	if (every && sample_now(packets, &stat->sample_left, every))
		todo.every = every;
	return todo;
}

/* Returns a sample to be filled and submitted, or null. A merged packet may stand for more than every packets. */
static __always_inline struct sample *begin_sample(const struct seen *seen, __u32 direction, __u32 every)
{
	__u32 cpu = bpf_get_smp_processor_id(), packets = seen->packets;
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
	sample->weight = every > packets ? every : packets;
	sample->length = seen->bytes;
	sample->vector = VECTOR_OF(seen->verdict);
	sample->direction = direction;
	__builtin_memset(sample->unused, 0, sizeof(sample->unused));
	return sample;
}
