/* Looking into one level of encapsulation. All of it is dead code, and removed by the verifier, while decapsulate is 0. */
#pragma once

#include "maps.h"
#include "parse.h"

#define GRE_ROUTING 0x4000
#define GRE_VERSION 0x0007
#define VXLAN_HAS_ID 0x08
#define GENEVE_VERSION 0xc0
#define GENEVE_CONTROL 0x80
#define GENEVE_OPTIONS 0x3f
#define ETH_P_TRANSPARENT 0x6558

/*
 * Goes on only if octets more from at on are in the linear data, and with the skipped ones before them belong to the
 * packet.
 */
#define NEED(at, skipped, octets)                              \
	do {                                                   \
		if (left < (skipped) + (octets))               \
			return malformed(p, MALFORMED_TUNNEL); \
		if ((void *)(at) + (octets) > end)             \
			return PARSE_SHORT;                    \
	} while (0)

/* Whether the packet that has been parsed is a tunnel we are to look into. */
static __always_inline bool is_tunnel(const struct packet *p, enum parsed parsed)
{
	return decapsulate && parsed == PARSED && p->tunnel & decapsulate;
}

/*
 * The outer packet has been parsed and is a tunnel. If it carries IP, the inner packet is what is counted; other payload
 * leaves the packet what it is, and garbage is a malformed packet of the outer target. With retry a packet whose headers
 * end with the linear data stays the outer one, so that this can be called again.
 */
static __always_inline int parse_tunnel(struct packet *p, void *data, void *end, bool retry)
{
	__u32 inner, left, size = 0;
	enum parsed parsed;
	struct packet outer;
	__be16 protocol;
	__u8 *at;

	inner = p->l3 + p->inner;
	left = p->rest;
	if (inner > MAX_HEADERS + 32) /* never: for the verifier */
		return PARSED;
	at = data + inner;

	if (p->tunnel == TUNNEL_IPV4) {
		protocol = bpf_htons(ETH_P_IP);
	} else if (p->tunnel == TUNNEL_IPV6) {
		protocol = bpf_htons(ETH_P_IPV6);
	} else if (p->tunnel == TUNNEL_GRE) {
		__u16 flags;

		NEED(at, 0, 4);
		flags = bpf_ntohs(*(__be16 *)at);
		if (flags & (GRE_ROUTING | GRE_VERSION))
			return PARSED;
		protocol = *(__be16 *)(at + 2);
		/* checksum, key and sequence number are there or not */
		size = 4 + (flags >> 15) * 4 + (flags >> 13 & 1) * 4 + (flags >> 12 & 1) * 4;
	} else { /* behind a UDP header */
		NEED(at, 0, 16);
		if (p->tunnel == TUNNEL_VXLAN) {
			if (!(at[8] & VXLAN_HAS_ID))
				return PARSED;
			protocol = bpf_htons(ETH_P_TRANSPARENT);
			size = 16;
		} else {
			if (at[8] & GENEVE_VERSION || at[9] & GENEVE_CONTROL)
				return PARSED;
			protocol = *(__be16 *)(at + 10);
			size = 16 + (at[8] & GENEVE_OPTIONS) * 4;
		}
	}
	at += size;
	if (protocol == bpf_htons(ETH_P_TRANSPARENT)) {
		__u32 header = 14;

		NEED(at, size, 14);
		protocol = *(__be16 *)(at + 12);
		if (is_vlan(protocol)) {
			NEED(at, size, 18);
			protocol = *(__be16 *)(at + 16);
			header = 18;
			if (is_vlan(protocol)) {
				NEED(at, size, 22);
				protocol = *(__be16 *)(at + 20);
				header = 22;
			}
		}
		at += header;
		size += header;
	}
	if (protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6))
		return PARSED;
	if (left < size)
		return malformed(p, MALFORMED_TUNNEL);

	/*
	 * The verifier does not remember what is in *p, so that all ways that lead here become one; else it would walk
	 * what follows for each of them.
	 */
	outer = *p;
	p->l3 = inner + size;
	p->rest = left - size;
	p->family = protocol == bpf_htons(ETH_P_IP) ? 4 : 6;
	inner = *(volatile __u32 *)&p->l3;
	left = *(volatile __u32 *)&p->rest;
	if (inner > MAX_HEADERS + 512)
		return PARSED;
	p->length = 0; /* until the IP header has proved sound */
	p->segments = segments_of(p);
	if (*(volatile __u32 *)&p->family == 4)
		parsed = parse_ipv4(p, data + inner, end, left);
	else
		parsed = parse_ipv6(p, data + inner, end, left);
	if (p->length && !(parsed == PARSE_SHORT && retry))
		return parsed;
	*p = outer;
	return parsed == PARSE_SHORT ? PARSE_SHORT : malformed(p, MALFORMED_TUNNEL);
}
