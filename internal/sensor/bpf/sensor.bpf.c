//go:build ignore

/*
 * The sensor's doors around one core: parse.h finds target and vector, target.h the slot, count.h counts.
 *
 * sensor_ingress and sensor_egress sit on a host interface and let every packet pass to whatever comes next. sensor_xdp
 * sits on a port that receives a copy of the traffic, and drops it once it is counted. They are one object because they
 * share every map and variable.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#include "maps.h"
#include "parse.h"
#include "doors.h"
#include "target.h"
#include "count.h"
#include "sketch.h"

#define TCX_NEXT (-1)

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Octets of the packet a sample holds, 1 to SAMPLE_HEADER, or 0 when there are none. */
static __always_inline __u32 sample_size(const struct packet *p)
{
	__u32 size = p->wire - p->l3;

	if (p->wire <= p->l3)
		return 0;
	if (size > SAMPLE_HEADER)
		size = SAMPLE_HEADER;
	/*
	 * The verifier needs to see both bounds in one value, which the compiler may not merge with the above: before Linux
	 * 6.8 it does not learn from size != 0.
	 */
	size--;
	asm volatile("" : "+r"(size));
	return (size & (SAMPLE_HEADER - 1)) + 1;
}

static __always_inline int tc(struct __sk_buff *skb, bool outbound)
{
	struct packet p = {.outbound = outbound};
	struct sample *sample;
	__u32 every, size;

	every = count(&p, parse_skb(skb, &p));
	if (p.sketch) {
		__u64 address[2] = {};

		if (other_linear(&p, (void *)(long)skb->data, (void *)(long)skb->data_end, address) ||
		    !bpf_skb_load_bytes(skb, other_address(&p), address, p.family == 4 ? 4 : 16))
			sketch_add(p.sketch, address[0], address[1]);
	}
	if (!every)
		return TCX_NEXT;

	size = sample_size(&p);
	if (!size)
		return TCX_NEXT;
	sample = begin_sample(&p, every);
	if (!sample)
		return TCX_NEXT;
	sample->captured = bpf_skb_load_bytes(skb, p.l3, sample->header, size) ? 0 : size;
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
	return TCX_NEXT;
}

SEC("tc")
int sensor_ingress(struct __sk_buff *skb)
{
	return tc(skb, false);
}

SEC("tc")
int sensor_egress(struct __sk_buff *skb)
{
	return tc(skb, true);
}

SEC("xdp.frags")
int sensor_xdp(struct xdp_md *xdp)
{
	struct packet p = {};
	struct sample *sample;
	__u32 every, size;

	every = count(&p, parse_xdp(xdp, &p));
	if (p.sketch) {
		__u64 address[2] = {};

		if (other_linear(&p, (void *)(long)xdp->data, (void *)(long)xdp->data_end, address) ||
		    !bpf_xdp_load_bytes(xdp, other_address(&p), address, p.family == 4 ? 4 : 16))
			sketch_add(p.sketch, address[0], address[1]);
	}
	if (!every)
		return XDP_DROP;

	size = sample_size(&p);
	if (!size)
		return XDP_DROP;
	sample = begin_sample(&p, every);
	if (!sample)
		return XDP_DROP;
	sample->captured = bpf_xdp_load_bytes(xdp, p.l3, sample->header, size) ? 0 : size;
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
	return XDP_DROP;
}
