/* From a frame to what is counted: target, vector, packets, bytes. No map is touched but the tables of ports and types. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>

#include "bounded.h"
#include "maps.h"

#define MAX_VLAN_TAGS 2
#define MAX_EXTENSIONS 8
#define MAX_HEADERS 0x4fff    /* for the verifier: IPv6 with eight extensions has 16,424 octets of them at most */
#define HEADERS_MASK 0x7fff   /* likewise */
#define ETH_P_QINQ_OLD 0x9100 /* 802.1ad before it was a standard */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS_OFFSET 13

struct packet {
	/* set by the door */
	__u32 wire;         /* octets of the frame */
	__u32 merged;       /* payload of each packet that GRO merged into this one; 0: nothing was merged */
	__u32 gro_segments; /* packets that were merged; 0 or 1 with merged: to be found out */
	__u32 mirror;       /* which may have cut the frame short: then believe the length fields */
	__u32 outbound;     /* 1: the target is the source; else 0 */

	/* set by parse */
	__u32 l3;          /* offset of the IP header */
	__u32 length;      /* bytes from the IP header on, of all segments */
	__u32 segments;    /* packets, at least 1 */
	__u32 family;      /* 4 or 6; 0: neither, or there is no target */
	__u32 address4;    /* target, host byte order */
	__u64 address6[2]; /* target, network byte order */

	/* between parse and parse_tunnel */
	__u32 inner; /* offset of what is behind the last IP header, from that header */
	__u32 rest;  /* octets from there on */
};

/*
 * What parsing finds is one word, as so little is carried on by all the ways through it: the vector; above it the enum reason
 * of a VECTOR_MALFORMED; and above that the TUNNEL_ bit of what is to be looked into. NOT_IP: only l3, length and
 * segments are set. SHORT: the frame goes on where the linear data ends, or the packet is cut; family says if there is a target.
 */
#define VECTOR_OF(verdict) ((verdict)&0xff)
#define REASON_OF(verdict) ((verdict) >> 8 & 0xff)
#define TUNNEL_OF(verdict) ((verdict) >> 16)
#define MALFORMED(reason) (VECTOR_MALFORMED | (reason) << 8)
#define SHORT MALFORMED(MALFORMED_SHORT)
#define NOT_IP VECTOR_TOTAL /* which no packet has */

/*
 * The verdict on a malformed packet. Where many ways meet, the compiler sets what differs between them before each branch,
 * for the usual packet, too; the asm keeps it on the way it belongs to.
 */
static __always_inline __u32 unsound(__u32 reason)
{
	__u32 verdict = MALFORMED(reason);

	asm volatile("" : "+r"(verdict));
	return verdict;
}

static __always_inline __u32 segments_of(const struct packet *p)
{
	return p->merged && p->gro_segments > 1 ? p->gro_segments : 1;
}

/*
 * TCP flags -> vector, indexed by the low six bits (FIN SYN RST PSH ACK URG): what no stack sends is TCP_INVALID, then
 * SYN with and without ACK, RST, FIN with ACK, ACK; PSH or URG alone are TCP_OTHER. A table, because the verifier would
 * follow every branch through all that comes after.
 */
#define IS_INVALID(f)                                                  \
	(!(f) || ((f) & (TCP_SYN | TCP_FIN)) == (TCP_SYN | TCP_FIN) || \
	 ((f) & (TCP_SYN | TCP_RST)) == (TCP_SYN | TCP_RST) || ((f) & (TCP_FIN | TCP_ACK)) == TCP_FIN)
#define TCP_VECTOR(f)                                               \
	(IS_INVALID(f) ? VECTOR_TCP_INVALID                         \
	 : (f)&TCP_SYN ? ((f)&TCP_ACK ? VECTOR_SYNACK : VECTOR_SYN) \
	 : (f)&TCP_RST ? VECTOR_RST                                 \
	 : (f)&TCP_FIN ? VECTOR_FIN                                 \
	 : (f)&TCP_ACK ? VECTOR_ACK                                 \
		       : VECTOR_TCP_OTHER)
#define TCP_VECTOR4(f) TCP_VECTOR(f), TCP_VECTOR(f + 1), TCP_VECTOR(f + 2), TCP_VECTOR(f + 3)
#define TCP_VECTOR16(f) TCP_VECTOR4(f), TCP_VECTOR4(f + 4), TCP_VECTOR4(f + 8), TCP_VECTOR4(f + 12)

static const volatile __u8 tcp_vectors[64] = {TCP_VECTOR16(0), TCP_VECTOR16(16), TCP_VECTOR16(32), TCP_VECTOR16(48)};

/* What is behind the IP header: its vector, and the octets its header has at least. */
struct protocol {
	__u8 vector; /* 0: another protocol */
	__u8 least;
	__u8 types;  /* the vector is that of the ICMP type in the first octet */
	__u8 tunnel; /* TUNNEL_ bit */
};

#define PROTOCOLS                                                                                                 \
	[IPPROTO_GRE] = {VECTOR_GRE, .least = 4, .tunnel = TUNNEL_GRE}, [IPPROTO_ESP] = {VECTOR_ESP, .least = 8}, \
	[IPPROTO_IPIP] = {VECTOR_IPIP, .least = 20, .tunnel = TUNNEL_IPV4},                                       \
	[IPPROTO_IPV6] = {VECTOR_IPIP, .least = 40, .tunnel = TUNNEL_IPV6},

static const volatile struct protocol protocols4[256] = {
	PROTOCOLS[IPPROTO_ICMP] = {VECTOR_ICMP, .least = 4, .types = 1}};
static const volatile struct protocol protocols6[256] = {
	PROTOCOLS[IPPROTO_ICMPV6] = {VECTOR_ICMP, .least = 4, .types = 1}};

/*
 * Inbound, the source port tells a reflection, which floods, before the destination port tells a service. Outbound, what
 * goes to a reflector is a request, and what comes from a reflector's port an answer.
 */
static __always_inline __u32 udp_vector(const struct packet *p, const struct udphdr *udp)
{
	__u32 source = udp_vectors[bounded(bpf_ntohs(udp->source), 0xffff)], vector = source;

	if (p->outbound) {
		vector = udp_vectors[bounded(bpf_ntohs(udp->dest), 0xffff)];
		if (!vector && source)
			vector = VECTOR_REFLECTOR_ANSWER;
	}
	if (!vector)
		vector = service_vectors[bounded(bpf_ntohs(udp->dest), 0xffff)];
	return vector;
}

/*
 * The transport header, at octets behind the IP header's begin; rest is what the IP header says follows, of which a
 * first fragment holds only a part. A merged packet is counted as what was on the wire: each segment had the headers.
 */
static __always_inline __u32 parse_l4(struct packet *p, void *l3, void *end, __u32 protocol, __u32 at, __u32 rest,
				      bool first)
{
	void *l4 = l3 + at;
	__u32 need, vector, tunnel = 0;

	if (protocol == IPPROTO_TCP) {
		__u8 *tcp = l4;

		if (rest < sizeof(struct tcphdr))
			return unsound(MALFORMED_TRANSPORT);
		if (l4 + sizeof(struct tcphdr) > end)
			return unsound(MALFORMED_SHORT);
		need = (tcp[12] >> 4) * 4;
		if (need < sizeof(struct tcphdr) || need > rest)
			return unsound(MALFORMED_TRANSPORT);
		vector = tcp_vectors[tcp[TCP_FLAGS_OFFSET] & 0x3f];
		if (first)
			vector = VECTOR_FIRST_FRAGMENT;
	} else if (protocol == IPPROTO_UDP) {
		struct udphdr *udp = l4;
		__u32 length;

		need = sizeof(*udp);
		if (rest < need)
			return unsound(MALFORMED_TRANSPORT);
		if (l4 + sizeof(*udp) > end)
			return unsound(MALFORMED_SHORT);
		length = bpf_ntohs(udp->len);
		if (!p->merged && (length < need ? length || rest <= 0xffff : length > rest && !first))
			return unsound(MALFORMED_TRANSPORT);
		vector = udp_vector(p, udp);
		if (!vector)
			vector = first ? VECTOR_FIRST_FRAGMENT : VECTOR_UDP_OTHER;
		if (decapsulate && !first) {
			if (udp->dest == bpf_htons(PORT_VXLAN))
				tunnel = TUNNEL_VXLAN & decapsulate;
			else if (udp->dest == bpf_htons(PORT_GENEVE))
				tunnel = TUNNEL_GENEVE & decapsulate;
		}
	} else {
		const volatile struct protocol *kind = (p->family == 4 ? protocols4 : protocols6) + (protocol & 0xff);

		vector = kind->vector;
		if (vector) {
			if (rest < kind->least)
				return unsound(MALFORMED_TRANSPORT);
			if (l4 + 4 > end)
				return unsound(MALFORMED_SHORT);
			if (kind->types)
				vector = icmp_vectors[p->family == 6][*(__u8 *)l4];
			if (decapsulate && !first)
				tunnel = kind->tunnel & decapsulate;
		} else {
			vector = VECTOR_OTHER_PROTOCOL;
		}
		need = 0;
		if (first)
			vector = VECTOR_FIRST_FRAGMENT;
	}
	p->inner = at;
	p->rest = rest;
	if (p->merged && need) {
		/* A virtual machine's packets come without a number. */
		if (p->segments == 1 && rest - need > p->merged)
			p->segments = (rest - need + p->merged - 1) / p->merged;
		p->length += (p->segments - 1) * (at + need);
	}
	return vector | tunnel << 16;
}

/* have is the octets from the IP header on; p->length is set once the header is known to be sound. */
static __always_inline __u32 parse_ipv4(struct packet *p, void *l3, void *end, __u32 have)
{
	struct iphdr *ip = l3;
	__u32 header, length, fragment;

	if (l3 + sizeof(*ip) > end)
		return unsound(MALFORMED_SHORT);
	p->family = 4;
	p->address4 = bpf_ntohl(p->outbound ? ip->saddr : ip->daddr);
	header = (*(__u8 *)l3 & 0x0f) * 4;
	length = bpf_ntohs(ip->tot_len);
	if (p->merged)
		length = have; /* of a merged packet the field may have overflown */
	if (*(__u8 *)l3 >> 4 != 4 || header < sizeof(*ip))
		return unsound(MALFORMED_IP_HEADER);
	if (length < header || (length > have && !(p->mirror && truncated_mirror)))
		return unsound(MALFORMED_IP_LENGTH);
	p->length = length;
	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & 0x1fff)
		return VECTOR_FRAGMENT;
	return parse_l4(p, l3, end, ip->protocol, header, length - header, fragment & 0x2000);
}

/*
 * IPv6 extension headers we step over, by number: what counts of the first four octets, which hold the next number, the length in
 * units and, of a fragment, the offset and the bit that says that more follow; both as they lie in the packet. A table, because
 * each branch in the loop below would multiply what the verifier has to walk.
 */
#define EXTENSION(mask, units, shift) ((mask) | (__u64)(units) << 32 | (__u64)(shift) << 62)
#define EXTENSION_UNITS(kind) ((kind) >> 32 & 3) /* not counted in the length */
#define EXTENSION_SHIFT(kind) ((kind) >> 62)     /* of a unit's octets; 0: not an extension */
#define EXTENSION_LENGTH bpf_htonl(0x00ff0000)
#define EXTENSION_OFFSET bpf_htonl(0x0000fff8)
#define EXTENSION_MORE bpf_htonl(0x00000001)

static const volatile __u64 extensions[256] = {
	[IPPROTO_HOPOPTS] = EXTENSION(EXTENSION_LENGTH, 1, 3),
	[IPPROTO_ROUTING] = EXTENSION(EXTENSION_LENGTH, 1, 3),
	[IPPROTO_DSTOPTS] = EXTENSION(EXTENSION_LENGTH, 1, 3),
	[IPPROTO_FRAGMENT] = EXTENSION(EXTENSION_OFFSET | EXTENSION_MORE, 1, 3),
	[IPPROTO_AH] = EXTENSION(EXTENSION_LENGTH, 2, 2),
};

static __always_inline __u32 parse_ipv6(struct packet *p, void *l3, void *end, __u32 have)
{
	struct ipv6hdr *ip = l3;
	__u32 length, at = sizeof(*ip), protocol;
	__u32 first = 0;

	if (l3 + sizeof(*ip) > end)
		return unsound(MALFORMED_SHORT);
	p->family = 6;
	/* Two loads, where a copy would be four and put together: packets need not be aligned. */
	p->address6[0] = p->outbound ? *(__u64 *)(l3 + 8) : *(__u64 *)(l3 + 24);
	p->address6[1] = p->outbound ? *(__u64 *)(l3 + 16) : *(__u64 *)(l3 + 32);
	length = bpf_ntohs(ip->payload_len);
	/* RFC 2675: a jumbogram says 0; so does a merged packet of more than 64 KiB. */
	length = length && !p->merged ? length + sizeof(*ip) : have;
	if (*(__u8 *)l3 >> 4 != 6)
		return unsound(MALFORMED_IP_HEADER);
	if (length < sizeof(*ip) || (length > have && !(p->mirror && truncated_mirror)))
		return unsound(MALFORMED_IP_LENGTH);
	p->length = length;

	protocol = ip->nexthdr;
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		__u64 kind = extensions[protocol & 0xff];
		__u32 *extension, size, head;

		at = bounded(at, HEADERS_MASK);
		extension = l3 + at;
		if (!EXTENSION_SHIFT(kind))
			return parse_l4(p, l3, end, protocol, at, length - at, first);
		if (i == MAX_EXTENSIONS || length - at < 8)
			break;
		if ((void *)extension + 8 > end)
			return unsound(MALFORMED_SHORT);
		head = *extension;
		protocol = head & 0xff;
		head &= kind;
		if (head & EXTENSION_OFFSET)
			return VECTOR_FRAGMENT;
		first |= head & EXTENSION_MORE; /* RFC 6946: without that bit it is no fragment */
		size = ((head >> 8 & 0xff) + EXTENSION_UNITS(kind)) << EXTENSION_SHIFT(kind);
		if (size > length - at)
			break;
		at += size;
	}
	return unsound(MALFORMED_EXTENSIONS);
}

static __always_inline bool is_vlan(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD) ||
	       protocol == bpf_htons(ETH_P_QINQ_OLD);
}

/*
 * Finds where the IP header begins, and the protocol that the frame says it is of; false when the frame ends before. p->length
 * is the octets from there on.
 */
static __always_inline bool parse_link(struct packet *p, void *data, void *end, void **l3, __be16 *protocol)
{
	void *at = data + ETH_HLEN;

	p->l3 = ETH_HLEN;
	p->length = 0;
	p->segments = segments_of(p);
	if (at > end)
		return false;
	*protocol = *(__be16 *)(data + 12); /* of ethhdr, which is packed, it would be two loads */
	if (is_vlan(*protocol)) {
		if (at + 4 > end)
			return false;
		*protocol = *(__be16 *)(at + 2);
		at += 4;
		if (is_vlan(*protocol)) {
			p->l3 = at - data;
			if (at + 4 > end)
				return false;
			*protocol = *(__be16 *)(at + 2);
			at += 4;
		}
	}
	p->l3 = at - data;
	p->length = p->wire - p->l3;
	*l3 = at;
	return true;
}

static __always_inline __u32 parse(struct packet *p, void *data, void *end)
{
	__be16 protocol;
	void *l3;

	p->family = 0;
	if (!parse_link(p, data, end, &l3, &protocol))
		return unsound(MALFORMED_SHORT);
	if (protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(p, l3, end, p->length);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(p, l3, end, p->length);
	return NOT_IP;
}
