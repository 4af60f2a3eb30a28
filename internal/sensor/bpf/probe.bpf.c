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

static __always_inline int keep(const struct packet *p, enum parsed parsed)
{
	last.parsed = parsed;
	last.l3 = p->l3;
	last.length = p->length;
	last.segments = p->segments;
	last.family = p->family;
	last.vector = p->vector;
	last.reason = p->reason;
	last.address4 = p->address4;
	last.address6[0] = p->address6[0];
	last.address6[1] = p->address6[1];
	return 0;
}

SEC("tc")
int probe_ingress(struct __sk_buff *skb)
{
	struct packet p = {};

	return keep(&p, parse_skb(skb, &p));
}

SEC("tc")
int probe_egress(struct __sk_buff *skb)
{
	struct packet p = {.outbound = true};

	return keep(&p, parse_skb(skb, &p));
}

SEC("xdp.frags")
int probe_xdp(struct xdp_md *xdp)
{
	struct packet p = {};

	return keep(&p, parse_xdp(xdp, &p));
}
