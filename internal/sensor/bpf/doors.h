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

/* Packets whose headers are not in the linear part, which are pulled there. */
__noinline __u32 parse_pulled(struct __sk_buff *skb, struct packet *p)
{
	if (!p || !pull_headers(skb, p))
		return SHORT;
	return parse(p, (void *)(long)skb->data, (void *)(long)skb->data_end);
}

__noinline __u32 parse_tunnel_skb(struct __sk_buff *skb, struct packet *p, __u32 verdict, bool pull)
{
	if (!p || !decapsulate)
		return verdict;
	if (pull && !pull_headers(skb, p))
		return SHORT;
	return parse_tunnel(p, (void *)(long)skb->data, (void *)(long)skb->data_end, verdict, !pull);
}

/*
 * From the beginning: packets that GRO merged, whose headers are not in the linear part, or that are tunnels. p is zero but
 * for what the door sets.
 */
__noinline __u32 parse_rare(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 linear = end - data, verdict, found;

	if (!p)
		return SHORT;
	verdict = parse(p, data, end);
	if (verdict == SHORT && linear < p->wire)
		verdict = parse_pulled(skb, p);
	if (!TUNNEL_OF(verdict))
		return verdict;
	found = parse_tunnel_skb(skb, p, verdict, false);
	return found == SHORT ? parse_tunnel_skb(skb, p, verdict, true) : found;
}

__noinline __u32 parse_tunnel_xdp(struct xdp_md *xdp, struct packet *p, __u32 verdict)
{
	if (!p || !decapsulate)
		return verdict;
	return parse_tunnel(p, (void *)(long)xdp->data, (void *)(long)xdp->data_end, verdict, false);
}

/* The same for frames that lie in several buffers, and tunnels. */
__noinline __u32 parse_rare_xdp(struct xdp_md *xdp, struct packet *p)
{
	__u32 verdict;

	if (!p)
		return SHORT;
	verdict = parse(p, (void *)(long)xdp->data, (void *)(long)xdp->data_end);
	return TUNNEL_OF(verdict) ? parse_tunnel_xdp(xdp, p, verdict) : verdict;
}

/*
 * Whether a packet is to be looked at once more, from the beginning: by tc when the linear part was too short, at XDP when
 * what does not look sound is longer than its first buffer; and tunnels.
 */
static __always_inline bool is_rare(const struct packet *p, __u32 verdict, void *data, void *end, bool xdp, void *ctx)
{
	__u32 linear = end - data;

	if (unlikely(TUNNEL_OF(verdict)))
		return true;
	if (xdp)
		return unlikely(VECTOR_OF(verdict) == VECTOR_MALFORMED || verdict == NOT_IP) &&
		       bpf_xdp_get_buff_len(ctx) != p->wire;
	return unlikely(verdict == SHORT) && linear < p->wire;
}
