/* The maps and variables of both programs. Their sizes are set when they are loaded and never change. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

/* Constants, set before the programs are loaded. */
volatile const __u32 slots = 1;            /* hosts and prefixes */
volatile const __u32 row_blocks = 1;       /* record blocks of a column */
volatile const __u32 network_slots = 0;    /* IPv6 /64 networks; 0: hosts belong to their prefix directly */
volatile const __u32 targets6_buckets = 1; /* buckets of targets6 */
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
struct level levels[COLUMN_COUNT];
__u8 udp_vectors[65536]; /* UDP source port -> vector, 0 for none */
__u32 networks[65536];   /* first two octets of an IPv4 target -> network_block, 0 for none */

/*
 * IPv6. filter6 tells by the second 16 bits of an address that no prefix holds it, for a load. The root is the first
 * 12 bits of the prefixes' trie. Of everything in the trie there are two, so that user space writes one while programs
 * read the other; half6 says which.
 */
__u64 filter6[65536 / 64];
__u32 half6;
__u32 root6[2][1 << ROOT6_BITS];
__u64 seed6[11];    /* of hash6, hash4 and check6; drawn with new maps, and kept as long as they are */
__u32 epoch6;       /* of the networks in the table, from 1: user space adds one when it has deleted or marked any */
__u32 locks6[1024]; /* held while an address is put into the table; nobody waits for one */

/* Set by the program that finds a queue empty, cleared by user space when it has put something in: spares its lock. */
__u32 empty_queues[SLOT_KINDS][FREE_QUEUES];
__u64 slots_taken[SLOT_KINDS][FREE_QUEUES]; /* out of the queues */

/* Who knocks often: see heavy(). A fingerprint and a count each. */
#define HEAVY_ROWS 2
#define HEAVY_WIDTH 8192
__u32 heavies[HEAVY_ROWS][HEAVY_WIDTH];

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

/*
 * IPv6 hosts and /64 networks -> slot. Key: from the hash, two buckets for each. Programs insert, user space deletes.
 * Twice as many entries as slots to find, so it is never full; what finds both its buckets full is counted for its
 * parent, and in table6_overflows.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* for its alignment, too: a bucket is a cache line */
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket6);
} targets6 SEC(".maps");

/*
 * How many targets are in their second bucket because there was no room in the first, or a few less than it says: so that
 * what is not found in one need seldom be looked for in two. Key: the first bucket / SPILLS6. Programs add before they insert,
 * user space subtracts after it has deleted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct spills6);
} spills6 SEC(".maps");

/* The trie of protected IPv6 prefixes, two halves. User space writes, programs read. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node6);
} nodes6 SEC(".maps");

/*
 * Slots of hosts nobody uses. Programs pop, user space pushes: half of all slots into heavy_hosts, what is beyond that
 * into free_hosts. A target takes a slot of the latter with its first packet, of the former when it is heavy.
 * Both empty: packets are counted for the target's parent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} heavy_hosts SEC(".maps");

/* The same for IPv6 /64 networks. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} free_networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1);
	__type(value, __u32);
} heavy_networks SEC(".maps");

/* Who holds a slot. Programs write when they take one; user space reads, writes prefixes, and marks. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot_info);
} slot_infos SEC(".maps");

/*
 * The checks of IPv6 hosts' addresses, side by side: every packet is compared with one, and eight share the cache line that
 * each address would need in slot_infos. Key: slot of a host. Written by the program that puts the host into the table; stale
 * when the slot is not in there any more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} checks6 SEC(".maps");

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

/* The window words of the records. Key as above. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct window_block);
} windows SEC(".maps");

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
const struct record_block *unused_record_block __attribute__((unused));
const struct window_block *unused_window_block __attribute__((unused));
const struct cell *unused_cell __attribute__((unused));
const struct cpu_stat *unused_cpu_stat __attribute__((unused));
const struct trigger *unused_trigger __attribute__((unused));
const struct sample *unused_sample __attribute__((unused));
