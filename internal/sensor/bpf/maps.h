/* The maps and variables of both programs. Their sizes are set when they are loaded and never change. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

/* Constants, set before the programs are loaded. */
volatile const __u32 slots = 1;            /* hosts and prefixes */
volatile const __u32 row_blocks = 1;       /* record blocks of a column */
volatile const __u32 window_shift = 3;     /* a window is 2^window_shift ticks: a clock would cost a third of all */
volatile const __u32 truncated_mirror = 0; /* XDP: the mirror may cut frames short, so believe their length fields */

volatile const __u32 decapsulate = 0; /* TUNNEL_ bits: count the inner packet instead of the outer one */

/* The vector table's destination ports and ICMP types, set before the programs are loaded. */
volatile const __u8 service_vectors[65536]; /* UDP destination port -> vector, 0 for none */
volatile const __u8 icmp_vectors[2][256];   /* type of ICMP, of ICMPv6 -> vector */

/*
 * Settings, written by user space whenever a directive arrives. Each is one aligned word or independent of the others,
 * so a packet sees the old value or the new one.
 */
__u32 sample_every;         /* one packet in so many; 0 for none */
__u32 watched_sample_every; /* the same, of watched slots */
__u32 masks6_used;
struct mask6 masks6[8]; /* prefix lengths in use, longest first */
struct level levels[COLUMN_COUNT];
__u8 udp_vectors[65536]; /* UDP source port -> vector, 0 for none */
__u32 networks[65536];   /* first two octets of an IPv4 target -> network_block, 0 for none */

/* Set by the program that finds no slot left, cleared by user space when it has freed some: spares the queue's lock. */
__u32 exhausted;

/* Third octet. Key: number of the block, 0 is never used. User space writes, programs read. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct network_block);
} network_blocks SEC(".maps");

/*
 * Fourth octet. Key: number of the block, 0 is never used. User space writes; programs turn an unallocated host into
 * its slot by compare-and-swap, and only user space turns it back.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct host_block);
} host_blocks SEC(".maps");

/* IPv6 target -> slot. Programs insert, user space deletes. As many entries as slots, so it is never full before they are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, 16);
	__type(value, __u32);
} hosts6 SEC(".maps");

/* Protected IPv6 prefix -> its slot. User space writes; a directive with more prefixes than entries is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct prefix6);
	__type(value, __u32);
} prefixes6 SEC(".maps");

/* Slots nobody uses. Programs pop, user space pushes. Empty: packets are counted for their prefix. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_slots SEC(".maps");

/* Who holds a slot. Programs write when they take one; user space reads, and writes hot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot_info);
} slot_infos SEC(".maps");

/*
 * The counters. Key: column * row_blocks + slot / RECORDS; without outbound the map ends with the last inbound column. All
 * CPUs add, by atomic operations; nothing is ever reset.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record_block);
} records SEC(".maps");

/*
 * Which records of a block changed, one bit each. Key as above. Programs set a bit after the record has changed; user
 * space clears it before it reads the record.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dirty SEC(".maps");

/* What is not in the records yet, and what belongs to no slot. Key: CPU. Written by that CPU only; user space reads. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* also for its alignment: values begin on a cache line */
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lane);
} lanes SEC(".maps");

/*
 * How many different addresses watched slots talk to. Key: number of the sketch - 1. Programs add, user space reads,
 * clears, and says in slot_infos who has which.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SKETCHES);
	__type(key, __u32);
	__type(value, struct sketch);
} sketches SEC(".maps");

/* Windows that passed a trigger; read at once. Full: lost_triggers, and the next window tries again. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} triggers SEC(".maps");

/* Sampled packets; read on the tick. Full: lost_samples. A ring of its own, so samples never crowd out triggers. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} samples SEC(".maps");

/* Names for bpf2go -type of what the maps above hold as raw values. */
const struct record *unused_record __attribute__((unused));
const struct cell *unused_cell __attribute__((unused));
const struct cpu_stat *unused_cpu_stat __attribute__((unused));
const struct trigger *unused_trigger __attribute__((unused));
const struct sample *unused_sample __attribute__((unused));
