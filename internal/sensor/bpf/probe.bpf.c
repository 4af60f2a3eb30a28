//go:build ignore

/*
 * The sensor's parser without its counters: what became of the last packet is left in a variable, so that a test can
 * compare all of it with the reference in Go. Only tests load it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#include "maps.h"
#include "parse.h"
#include "doors.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct verdict {
	__u64 address6[2];
	__u32 address4;
	__u32 l3;
	__u32 length;
	__u32 segments;
	__u32 family;
	__u32 vector;
	__u32 reason;
	__u32 parsed;
};

struct verdict last;

static __always_inline int keep(const struct packet *p, __u32 verdict)
{
	last.parsed = verdict == SHORT ? 2 : verdict == NOT_IP;
	last.l3 = p->l3;
	last.length = p->length;
	last.segments = p->segments;
	last.family = p->family;
	last.vector = VECTOR_OF(verdict);
	last.reason = REASON_OF(verdict);
	last.address4 = p->address4;
	last.address6[0] = p->address6[0];
	last.address6[1] = p->address6[1];
	return 0;
}

static __always_inline int tc(struct __sk_buff *skb, __u32 direction)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct packet p = {.wire = skb->len, .outbound = direction}, rare = p;
	__u32 verdict = parse(&p, data, end);

	if (!skb->gso_size && !is_rare(&p, verdict, data, end, false, skb))
		return keep(&p, verdict);
	rare.merged = skb->gso_size;
	rare.gro_segments = skb->gso_segs;
	verdict = parse_rare(skb, &rare);
	return keep(&rare, verdict);
}

SEC("tc")
int probe_ingress(struct __sk_buff *skb)
{
	return tc(skb, INBOUND);
}

SEC("tc")
int probe_egress(struct __sk_buff *skb)
{
	return tc(skb, OUTBOUND);
}

SEC("xdp.frags")
int probe_xdp(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	struct packet p = {.wire = end - data, .mirror = 1}, rare = p;
	__u32 verdict = parse(&p, data, end);

	if (!is_rare(&p, verdict, data, end, true, xdp))
		return keep(&p, verdict);
	rare.wire = bpf_xdp_get_buff_len(xdp);
	verdict = parse_rare_xdp(xdp, &rare);
	return keep(&rare, verdict);
}
