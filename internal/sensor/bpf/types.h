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

/* One counter of one CPU. */
struct cell {
	__u64 total;   /* count since the program was loaded; only grows */
	__u64 flushed; /* total when this CPU last added to the shared window, or when the window began */
	__u32 window;  /* number of the window flushed belongs to */
	__u32 raised;  /* number of the last window this CPU knows to have passed its trigger */
};

/* The counters of one CPU for one slot; number 0, the total, is kept apart where user space can scan it. */
struct cell_block {
	struct cell vectors[VECTOR_COUNT];
};

/*
 * A vector's trigger inside one window. A CPU adds what it counted to the window all CPUs share whenever it has
 * batch_packets or batch_bytes of it.
 */
struct level {
	__u64 bytes;
	__u64 batch_bytes;
	__u32 packets;
	__u32 batch_packets;
};

/* The window all CPUs share, one word per vector: window number, packets, bytes / 64. */
#define WINDOW_BYTE_BITS 26
#define WINDOW_PACKET_BITS 24
#define WINDOW_BYTE_UNIT 64
#define WINDOW_BYTE_MASK ((1ULL << WINDOW_BYTE_BITS) - 1)
#define WINDOW_PACKET_MASK ((1ULL << WINDOW_PACKET_BITS) - 1)
#define WINDOW_COUNT_BITS (WINDOW_BYTE_BITS + WINDOW_PACKET_BITS)
#define WINDOW_COUNT_MASK ((1ULL << WINDOW_COUNT_BITS) - 1)
#define WINDOW_TAG_MASK ((1U << (64 - WINDOW_COUNT_BITS)) - 1)

struct shared_window {
	__u64 vectors[VECTOR_COUNT];
};

/* Whom a slot counts. Written by the program that takes the slot, before the first packet is counted in it. */
struct slot_info {
	__u8 address[16]; /* IPv4 in the first four octets */
	__u32 prefix;     /* slot of the prefix the address belongs to */
	__u32 family;     /* 4 or 6 */
	__u64 hot;        /* vectors user space reports already, one bit each: they raise no trigger */
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

/* What one CPU counted outside of slots. A cache line of its own. */
struct cpu_stat {
	__u64 unprotected_packets;
	__u64 unprotected_bytes;
	__u64 malformed_packets; /* all, also those counted for a target */
	__u64 headless_packets;  /* malformed and without a target */
	__u64 headless_bytes;
	__u64 non_ip_packets;
	__u64 non_ip_bytes;
	__u64 slot_exhausted;
	__u64 lost_triggers;
	__u64 lost_samples;
	__u64 lost_slots; /* slots that could not be put back */
	__u64 samples;
	__u32 sample_left; /* packets until the next sample */
	__u32 unused[7];
};

/* A prefix of IPv6 targets. */
struct prefix6 {
	__u64 address[2]; /* network byte order, masked */
	__u32 length;
	__u32 unused;
};

struct mask6 {
	__u64 mask[2];
	__u32 length;
	__u32 unused;
};

/* Blocks of the IPv4 table. */
struct network_block {
	__u32 next[256]; /* third octet -> host_block, 0 for none */
};

struct host_block {
	__u32 slots[256]; /* fourth octet -> slot, or HOST_... */
};

#define HOST_UNPROTECTED 0xffffffffU
#define HOST_UNALLOCATED 0x80000000U /* | slot of the prefix */

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
	__u8 unused[2];
};

#define SAMPLE_HEADER 128

/* The head of one packet. */
struct sample {
	__u64 ktime;
	__u32 weight;
	__u32 length;
	__u32 captured; /* octets of header that are set */
	__u8 vector;
	__u8 unused[3];
	__u8 header[SAMPLE_HEADER];
};
