/*
 * How packets come from the stack and from a driver, and what of them is rare and must not cost the others anything. The
 * rare is in global functions, for the verifier walks such a one once, and not for every way that leads there.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "parse.h"
#include "tunnel.h"

/* Headers of every packet we can parse fit, Geneve's options included, but for IPv6 with very long extensions. */
#define PULL 512

static __always_inline bool pull_headers(struct __sk_buff *skb, const struct packet *p)
{
	return !bpf_skb_pull_data(skb, p->wire < PULL ? p->wire : PULL);
}

/* Packets that GRO merged, and those whose headers are not in the linear part, which are pulled there. */
__noinline int parse_rare(struct __sk_buff *skb, struct packet *p, bool pull)
{
	if (!p || (pull && !pull_headers(skb, p)))
		return PARSE_SHORT;
	return parse(p, (void *)(long)skb->data, (void *)(long)skb->data_end);
}

__noinline int parse_tunnel_skb(struct __sk_buff *skb, struct packet *p, bool pull)
{
	if (!p || !decapsulate)
		return PARSED;
	if (pull && !pull_headers(skb, p))
		return PARSE_SHORT;
	return parse_tunnel(p, (void *)(long)skb->data, (void *)(long)skb->data_end, !pull);
}

__noinline int parse_tunnel_xdp(struct xdp_md *xdp, struct packet *p)
{
	if (!p || !decapsulate)
		return PARSED;
	return parse_tunnel(p, (void *)(long)xdp->data, (void *)(long)xdp->data_end, false);
}

/* p is zero, but for its direction. */
static __always_inline enum parsed parse_skb(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	enum parsed parsed;
	__u32 linear = end - data;

	p->wire = skb->len;
	if (skb->gso_size) {
		p->merged = skb->gso_size;
		p->gro_segments = skb->gso_segs;
		parsed = parse_rare(skb, p, false);
	} else {
		parsed = parse(p, data, end);
	}
	if (parsed == PARSE_SHORT && linear < p->wire)
		parsed = parse_rare(skb, p, true);
	if (is_tunnel(p, parsed)) {
		parsed = parse_tunnel_skb(skb, p, false);
		if (parsed == PARSE_SHORT)
			parsed = parse_tunnel_skb(skb, p, true);
	}
	return parsed;
}

/* Frames that lie in several buffers. */
__noinline int parse_rare_xdp(struct xdp_md *xdp, struct packet *p)
{
	if (!p)
		return PARSE_SHORT;
	return parse(p, (void *)(long)xdp->data, (void *)(long)xdp->data_end);
}

/* p is zero. */
static __always_inline enum parsed parse_xdp(struct xdp_md *xdp, struct packet *p)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	enum parsed parsed;
	__u32 wire;

	/*
	 * The first buffer is taken for the whole frame, because only a helper says how long that is. If there are more,
	 * the IP header says so, and the packet looks malformed.
	 */
	p->wire = end - data;
	p->cut = truncated_mirror;
	parsed = parse(p, data, end);
	if (parsed != PARSED || p->vector == VECTOR_MALFORMED) {
		wire = bpf_xdp_get_buff_len(xdp);
		if (wire != p->wire) {
			p->wire = wire;
			parsed = parse_rare_xdp(xdp, p);
		}
	}
	return is_tunnel(p, parsed) ? parse_tunnel_xdp(xdp, p) : parsed;
}
