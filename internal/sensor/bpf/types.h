/* What the programs share with user space. Go's types come from here through BTF, never typed twice. */
#pragma once

#include <linux/types.h>
#include <stdbool.h>

#include "vectors.h"

/*
 * A count holds packets and bytes in one word, packets << COUNT_BYTE_BITS | bytes, so that a packet costs one addition,
 * a reader never sees one without the other, and the difference of two readings is exact however often the word has
 * wrapped, as long as fewer than 2^28 packets and 64 GiB lie between the two.
 */
#define COUNT_BYTE_BITS 36
#define COUNT_BYTE_MASK ((1ULL << COUNT_BYTE_BITS) - 1)

/*
 * Counters are columns, one for each direction and vector: direction * VECTOR_COUNT + vector. A column holds a record for
 * each slot, side by side, in blocks of RECORDS, so that many targets of one vector share few cache lines and pages.
 */
#define INBOUND 0
#define OUTBOUND 1
#define COLUMN_COUNT (2 * VECTOR_COUNT)
#define RECORDS 64

/* What all CPUs counted for a slot in a column: a count, which only grows. */
struct record_block {
	__u64 totals[RECORDS];
};

/*
 * Beside each record, in an array of its own because most packets need not look at it, the window word: the low 13 bits of
 * the window's number, whether the window has raised its trigger, and the total when it began, without the lowest 8 and
 * the highest 6 bits. So a window may hold 4 M packets and 64 GiB, in steps of 256 bytes.
 */
#define WINDOW_TAG_SHIFT 51
#define WINDOW_RAISED (1ULL << 50)
#define WINDOW_BASE_BITS 50
#define WINDOW_BASE_SHIFT 8
#define WINDOW_BASE_MASK ((1ULL << WINDOW_BASE_BITS) - 1)

struct window_block {
	__u64 words[RECORDS];
};

/*
 * What one CPU has counted and not yet added to a record. Cells are few, so that they stay in the nearest cache. A cell
 * belongs to the first who needs it in a window, for as long as the window lasts; who finds it taken adds to the record at
 * once. So a tag never comes back, and what is found between two readings of the same tag was counted under it.
 */
struct cell {
	__u64 tag;   /* window << 32 | key: column << KEY_SLOT_BITS | slot; column 0 is a sum and has no cells */
	__u64 count; /* zeroed before it is added to the record: who reads both sees too little, never too much */
	__u64 room;  /* of its level */
	__u64 unused;
};

#define KEY_SLOT_BITS 24
#define KEY_SLOT_MASK ((1U << KEY_SLOT_BITS) - 1)
#define CELLS 512

/*
 * A column's trigger inside one window. A CPU adds what it counted to the record when that and room together reach one of the
 * bits FULL, so when it is 2^27 packets less those of room, or 2^35 bytes less its bytes. The window is looked at when one of the
 * bits look of the total changes.
 */
struct level {
	__u64 bytes;
	__u64 room;
	__u64 look;
	__u32 packets;
	__u32 unused;
};

#define FULL (1ULL << 63 | 1ULL << (COUNT_BYTE_BITS - 1))

/*
 * The tables lead to words: a slot below, above it flags that user space sets on a target and the programs hand on to
 * whoever counts. The bits above belong to the table.
 */
#define SLOT_MASK 0x00ffffffU
#define SLOT_FLAGS 0x01000000U
#define SLOT_FLAG_SHIFT 24
#define SLOT_WATCHED 0x01000000U /* sampled more often, perhaps with sketches */
#define NO_SLOT 0xffffffffU

/*
 * Whom a slot counts: a host (bits 32 or 128), an IPv6 network that hosts belong to (64), or a protected prefix. Written
 * before the slot can be found: by the program that takes it, by user space for prefixes. It describes itself, so that
 * a process can find out what an earlier one left.
 */
struct slot_info {
	__u64 address[2]; /* network byte order, IPv4 in the first four octets */
	__u32 parent; /* slot of what it belongs to: host -> network or prefix, network -> prefix, prefix -> prefix or NO_SLOT */
	__u8 family; /* 4 or 6; 0 for nobody */
	__u8 bits;
	__u8 flags; /* of a network or prefix: for packets counted in it for want of a slot, >> SLOT_FLAG_SHIFT */
	__u8 unused;
	__u16 sketch
		[2]; /* by direction: number of the sketch that sees the other side's addresses, from 1; 0 for none */
	__u32 unused2;
	__u64 hot[2]; /* vectors user space reports already, one bit each, by direction: they raise no trigger */
};

/* Why a packet is malformed. Go knows them as classify.Reason. */
enum reason {
	MALFORMED_SHORT,      /* the frame ends inside of a header */
	MALFORMED_IP_HEADER,  /* version or header length */
	MALFORMED_IP_LENGTH,  /* contradicts the header's or the frame's */
	MALFORMED_EXTENSIONS, /* more of them than we follow, or one ends behind the packet */
	MALFORMED_TRANSPORT,  /* its header does not fit, or contradicts the IP length */
	MALFORMED_TUNNEL,     /* carries no sound IP packet */
	MALFORMED_REASONS,
};

/* Tunnels that can be looked into. Go knows them as classify.Tunnels, but for the last. */
#define TUNNEL_VXLAN 1
#define TUNNEL_GENEVE 2
#define TUNNEL_GRE 4
#define TUNNEL_IPV4 8
#define TUNNEL_IPV6 16
#define PORT_VXLAN 4789
#define PORT_GENEVE 6081

/* What one CPU counted outside of slots, since the map was made. Cache lines of its own. */
struct cpu_stat {
	__u64 packets[2]; /* all, by direction */
	__u64 bytes[2];
	__u64 unprotected_packets[2]; /* by direction: to nobody we protect; from an address that is not ours */
	__u64 unprotected_bytes[2];
	__u64 malformed_packets; /* all, also those counted for a target */
	__u64 headless_packets;  /* malformed and without a target */
	__u64 headless_bytes;
	__u64 non_ip_packets;
	__u64 non_ip_bytes;
	__u64 slot_exhausted; /* packets whose target got no slot because none was left */
	__u64 lost_triggers;
	__u64 lost_samples;
	__u64 lost_slots; /* slots that could not be put back */
	__u64 samples;
	__u64 malformed[MALFORMED_REASONS]; /* malformed_packets by reason */
	__u64 refused_hosts;     /* packets whose target got no slot because the last ones are for heavier targets */
	__u64 refused_networks;  /* the same of /64 networks; these and the next are counted for the prefix */
	__u64 network_exhausted; /* no slot left for the /64 network */
	__u64 table6_overflows;  /* no room in the table of IPv6 targets */
	__u32 sample_left;       /* packets until the next sample */
	__u32 watched_left;
	__u32 unused[6];
};

/*
 * An IPv6 /64 network this CPU found in the table, so that a scan of it need not find it with each packet. Void when
 * another is found in its place, or when user space has changed any network since: see epoch6.
 */
#define KNOWN6_BITS 6

struct known6 {
	__u64 high; /* first half of its addresses */
	__u32 word;
	__u32 epoch;
};

/* All that one CPU writes alone. */
struct lane {
	struct cpu_stat stat;
	struct cell cells[CELLS];
	struct known6 known[1 << KNOWN6_BITS];
};

/*
 * Half a cache line of the table of IPv6 targets. An entry is 0 or tag << TAG6_SHIFT | flags | slot, the tag from 1 on: just
 * enough of the address that seldom another's is compared with it; more is in checks6, the whole in the slot's info. The
 * smaller the table, the more of it stays in the nearest caches.
 */
#define BUCKET6_WAYS 8
#define TAG6_SHIFT 25
#define TAGS6 127

struct bucket6 {
	__u32 entries[BUCKET6_WAYS];
};

/* Of so many buckets, how many targets each has sent to their second, at most. */
#define SPILLS6 16

struct spills6 {
	__u32 counts[SPILLS6];
};

/* Four bits of an IPv6 address -> what they lead to: NODE6_CHILD | next node, slot + 1 of a prefix, or 0. */
#define NODE6_CHILD 0x80000000U
#define NODE6_STRIDE 4
#define ROOT6_BITS 12

struct node6 {
	__u32 next[1 << NODE6_STRIDE];
};

/* Kinds of slots that programs take; each has slots for all and slots for the heavy. */
enum { HOST_SLOTS, NETWORK_SLOTS, SLOT_KINDS };
enum { FREE_FOR_ALL, FREE_FOR_HEAVY, FREE_QUEUES };

/* Blocks of the IPv4 table. */
struct network_block {
	__u32 next[256]; /* third octet -> host_block, 0 for none */
};

struct host_block {
	__u32 slots[256]; /* fourth octet -> slot, or HOST_... */
};

#define HOST_UNPROTECTED 0xffffffffU
#define HOST_UNALLOCATED 0x80000000U /* | slot of the prefix */

/* Registers of a HyperLogLog, as internal/sketch has them. */
#define SKETCHES 64
struct sketch {
	__u8 registers[256];
};

/* A window passed its trigger. */
struct trigger {
	__u64 ktime; /* CLOCK_MONOTONIC */
	__u64 bytes; /* in the window so far, of all CPUs, but for what they have not added yet */
	__u32 packets;
	__u32 slot;
	__u32 window;
	__u32 cpu;
	__u8 address[16];
	__u32 age; /* of the window, in ticks; the window is counted modulo 2^32, and so is this */
	__u8 family;
	__u8 vector;
	__u8 direction;
	__u8 unused;
};

#define SAMPLE_HEADER 128

/* The head of one packet. */
struct sample {
	__u64 ktime;
	__u32 weight;
	__u32 length;
	__u32 captured; /* octets of header that are set */
	__u8 vector;
	__u8 direction;
	__u8 unused[2];
	__u8 header[SAMPLE_HEADER];
};
