/* From a frame to what is counted: target, vector, packets, bytes. No map is touched but the port table. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

#define MAX_VLAN_TAGS 2
#define MAX_EXTENSIONS 8
#define ETH_P_QINQ_OLD 0x9100 /* 802.1ad before it was a standard */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS_OFFSET 13

struct packet {
	/* set by the door */
	__u32 wire;     /* octets of the frame */
	__u32 merged;   /* payload of each packet that GRO merged into this one; 0: nothing was merged */
	__u32 segments; /* packets that were merged, at least 1; 1 with merged: to be found out */
	bool cut;       /* the mirror may have cut the frame short: believe the length fields */

	/* set by parse */
	__u32 l3;     /* offset of the IP header */
	__u32 length; /* bytes from the IP header on, of all segments */
	__u32 family; /* 4 or 6 */
	__u32 vector;
	__u32 address4;    /* target, host byte order */
	__u64 address6[2]; /* target, network byte order */
};

enum parsed {
	PARSED,       /* everything is set */
	PARSE_NOT_IP, /* only l3 and length are set */
	PARSE_SHORT, /* the frame goes on where the linear data ends, or the packet is cut: family says if there is a target */
};

/*
 * TCP flags -> vector, indexed by the low six bits (FIN SYN RST PSH ACK URG): what no stack sends is TCP_INVALID,
 * then RST, then SYN with and without ACK, then ACK alone; FIN with ACK, and PSH or URG alone, are TCP_OTHER.
 */
static __always_inline __u32 tcp_vector(__u8 flags)
{
	if (!(flags & 0x3f))
		return VECTOR_TCP_INVALID;
	if (flags & TCP_SYN) {
		if (flags & (TCP_FIN | TCP_RST))
			return VECTOR_TCP_INVALID;
		return flags & TCP_ACK ? VECTOR_SYNACK : VECTOR_SYN;
	}
	if ((flags & (TCP_FIN | TCP_ACK)) == TCP_FIN)
		return VECTOR_TCP_INVALID;
	if (flags & TCP_RST)
		return VECTOR_RST;
	if ((flags & (TCP_FIN | TCP_ACK)) == TCP_ACK)
		return VECTOR_ACK;
	return VECTOR_TCP_OTHER;
}

/*
 * The transport header at l4; rest is what the IP header says follows, of which a first fragment holds only a part.
 * A merged packet is counted as what was on the wire: each segment had the headers.
 */
static __always_inline enum parsed parse_l4(struct packet *p, void *l4, void *end, __u32 protocol, __u32 rest,
					    __u32 headers, __u32 fragment)
{
	__u32 need;

	p->vector = VECTOR_OTHER_PROTOCOL;
	if (protocol == IPPROTO_TCP) {
		__u8 *tcp = l4;

		if (rest < sizeof(struct tcphdr))
			goto malformed;
		if (l4 + sizeof(struct tcphdr) > end)
			return PARSE_SHORT;
		need = (tcp[12] >> 4) * 4;
		if (need < sizeof(struct tcphdr) || need > rest)
			goto malformed;
		p->vector = tcp_vector(tcp[TCP_FLAGS_OFFSET]);
	} else if (protocol == IPPROTO_UDP) {
		struct udphdr *udp = l4;
		__u32 length;

		need = sizeof(*udp);
		if (rest < need)
			goto malformed;
		if (l4 + sizeof(*udp) > end)
			return PARSE_SHORT;
		length = bpf_ntohs(udp->len);
		if (!p->merged && (length < need ? length || rest <= 0xffff : length > rest && !fragment))
			goto malformed;
		p->vector = udp_vectors[bpf_ntohs(udp->source)];
		if (!p->vector)
			p->vector = VECTOR_UDP_OTHER;
	} else {
		if (protocol == IPPROTO_ICMP && p->family == 4)
			p->vector = VECTOR_ICMP;
		else if (protocol == IPPROTO_ICMPV6 && p->family == 6)
			p->vector = VECTOR_ICMP;
		else if (protocol == IPPROTO_GRE)
			p->vector = VECTOR_GRE;
		else
			return PARSED;
		if (rest < 4)
			goto malformed;
		if (l4 + 4 > end)
			return PARSE_SHORT;
		return PARSED;
	}
	if (p->merged) {
		/* A virtual machine's packets come without a number. */
		if (p->segments == 1 && rest - need > p->merged)
			p->segments = (rest - need + p->merged - 1) / p->merged;
		p->length += (p->segments - 1) * (headers + need);
	}
	return PARSED;

malformed:
	p->vector = VECTOR_MALFORMED;
	return PARSED;
}

static __always_inline enum parsed parse_ipv4(struct packet *p, void *l3, void *end)
{
	struct iphdr *ip = l3;
	__u32 have = p->length, header, length, fragment;

	if (l3 + sizeof(*ip) > end)
		return PARSE_SHORT;
	p->family = 4;
	p->address4 = bpf_ntohl(ip->daddr);
	p->vector = VECTOR_MALFORMED;
	header = (*(__u8 *)l3 & 0x0f) * 4;
	length = bpf_ntohs(ip->tot_len);
	if (p->merged)
		length = have; /* of a merged packet the field may have overflown */
	if (*(__u8 *)l3 >> 4 != 4 || header < sizeof(*ip) || length < header || (length > have && !p->cut))
		return PARSED;
	p->length = length;
	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & 0x1fff) {
		p->vector = VECTOR_FRAGMENT;
		return PARSED;
	}
	return parse_l4(p, l3 + header, end, ip->protocol, length - header, header, fragment & 0x2000);
}

/*
 * IPv6 extension headers we step over: ((second octet & units) + more) << shift octets long; offset is the mask of a
 * fragment's offset in the third and fourth octet. A table, because each branch in the loop below would multiply what
 * the verifier has to walk.
 */
struct extension {
	__u16 offset;
	__u8 units;
	__u8 more;
	__u8 shift; /* 0: not an extension */
	__u8 unused;
};

static const volatile struct extension extensions[256] = {
	[IPPROTO_HOPOPTS] = {.units = 0xff, .more = 1, .shift = 3},
	[IPPROTO_ROUTING] = {.units = 0xff, .more = 1, .shift = 3},
	[IPPROTO_DSTOPTS] = {.units = 0xff, .more = 1, .shift = 3},
	[IPPROTO_FRAGMENT] = {.offset = 0xfff8, .more = 1, .shift = 3},
	[IPPROTO_AH] = {.units = 0xff, .more = 2, .shift = 2},
};

static __always_inline enum parsed parse_ipv6(struct packet *p, void *l3, void *end)
{
	struct ipv6hdr *ip = l3;
	__u32 have = p->length, length, at = sizeof(*ip), protocol;
	__u32 fragment = 0;

	if (l3 + sizeof(*ip) > end)
		return PARSE_SHORT;
	p->family = 6;
	__builtin_memcpy(p->address6, &ip->daddr, sizeof(p->address6));
	p->vector = VECTOR_MALFORMED;
	length = bpf_ntohs(ip->payload_len);
	/* RFC 2675: a jumbogram says 0; so does a merged packet of more than 64 KiB. */
	length = length && !p->merged ? length + sizeof(*ip) : have;
	if (*(__u8 *)l3 >> 4 != 6 || length < sizeof(*ip) || (length > have && !p->cut))
		return PARSED;
	p->length = length;

	protocol = ip->nexthdr;
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		const volatile struct extension *kind = &extensions[protocol & 0xff];
		__u8 *extension = l3 + at;
		__u32 size;

		if (!kind->shift)
			return parse_l4(p, l3 + at, end, protocol, length - at, at, fragment);
		if (i == MAX_EXTENSIONS || length - at < 8)
			break;
		if ((void *)extension + 8 > end)
			return PARSE_SHORT;
		if (bpf_ntohs(*(__be16 *)(extension + 2)) & kind->offset) {
			p->vector = VECTOR_FRAGMENT;
			return PARSED;
		}
		fragment |= kind->offset;
		size = ((extension[1] & kind->units) + kind->more) << kind->shift;
		if (size > length - at)
			break;
		protocol = extension[0];
		at += size;
		if (at > 0x7fff) /* for the verifier: eight extensions never get here */
			break;
	}
	return PARSED;
}

static __always_inline bool is_vlan(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD) ||
	       protocol == bpf_htons(ETH_P_QINQ_OLD);
}

static __always_inline enum parsed parse(struct packet *p, void *data, void *end)
{
	struct ethhdr *eth = data;
	void *l3 = data + sizeof(*eth);
	__be16 protocol;

	p->family = 0;
	p->vector = VECTOR_MALFORMED;
	p->l3 = sizeof(*eth);
	p->length = 0;
	if (l3 > end)
		return PARSE_SHORT;
	protocol = eth->h_proto;
	if (is_vlan(protocol)) {
		if (l3 + 4 > end)
			return PARSE_SHORT;
		protocol = *(__be16 *)(l3 + 2);
		l3 += 4;
		p->l3 += 4;
		if (is_vlan(protocol)) {
			if (l3 + 4 > end)
				return PARSE_SHORT;
			protocol = *(__be16 *)(l3 + 2);
			l3 += 4;
			p->l3 += 4;
		}
	}
	p->length = p->wire - p->l3;
	if (protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(p, l3, end);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(p, l3, end);
	return PARSE_NOT_IP;
}
