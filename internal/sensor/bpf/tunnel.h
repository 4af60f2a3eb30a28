/* Looking into one level of encapsulation. While decapsulate is 0 nothing leads here. */
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
#define NEED(at, skipped, octets)                           \
	do {                                                \
		if (left < (skipped) + (octets))            \
			return MALFORMED(MALFORMED_TUNNEL); \
		if ((void *)(at) + (octets) > end)          \
			return SHORT;                       \
	} while (0)

/*
 * The outer packet has been parsed and is a tunnel. If it carries IP, the inner packet is what is counted; other payload
 * leaves the packet what it is, and garbage is a malformed packet of the outer target. verdict is that of the outer
 * packet. With retry a packet whose headers end with the linear data stays the outer one, so that this can be called again.
 */
static __always_inline __u32 parse_tunnel(struct packet *p, void *data, void *end, __u32 verdict, bool retry)
{
	__u32 inner, left, size = 0, tunnel = TUNNEL_OF(verdict), found;
	struct packet outer;
	__be16 protocol;
	__u8 *at;

	inner = p->l3 + p->inner;
	left = p->rest;
	if (inner > MAX_HEADERS + 32) /* never: for the verifier */
		return verdict;
	at = data + inner;

	if (tunnel == TUNNEL_IPV4) {
		protocol = bpf_htons(ETH_P_IP);
	} else if (tunnel == TUNNEL_IPV6) {
		protocol = bpf_htons(ETH_P_IPV6);
	} else if (tunnel == TUNNEL_GRE) {
		__u16 flags;

		NEED(at, 0, 4);
		flags = bpf_ntohs(*(__be16 *)at);
		if (flags & (GRE_ROUTING | GRE_VERSION))
			return verdict;
		protocol = *(__be16 *)(at + 2);
		/* checksum, key and sequence number are there or not */
		size = 4 + (flags >> 15) * 4 + (flags >> 13 & 1) * 4 + (flags >> 12 & 1) * 4;
	} else { /* behind a UDP header */
		NEED(at, 0, 16);
		if (tunnel == TUNNEL_VXLAN) {
			if (!(at[8] & VXLAN_HAS_ID))
				return verdict;
			protocol = bpf_htons(ETH_P_TRANSPARENT);
			size = 16;
		} else {
			if (at[8] & GENEVE_VERSION || at[9] & GENEVE_CONTROL)
				return verdict;
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
		return verdict;
	if (left < size)
		return MALFORMED(MALFORMED_TUNNEL);

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
		return verdict;
	p->length = 0; /* until the IP header has proved sound */
	p->segments = segments_of(p);
	if (*(volatile __u32 *)&p->family == 4)
		found = parse_ipv4(p, data + inner, end, left);
	else
		found = parse_ipv6(p, data + inner, end, left);
	if (p->length && !(found == SHORT && retry))
		return found;
	*p = outer;
	return found == SHORT ? SHORT : MALFORMED(MALFORMED_TUNNEL);
}
