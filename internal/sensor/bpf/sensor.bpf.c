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

/* Octets of the packet a sample holds, 1 to SAMPLE_HEADER, or 0 when there are none. wire is how long the frame is. */
static __always_inline __u32 sample_size(__u32 wire, __u32 l3)
{
	__u32 size = wire - l3;

	if (wire <= l3)
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

/*
 * Parses the packet and finds its target; false for a packet that is rare. No function is told where p lies, so that it need
 * not lie anywhere; and ways that end differently meet only when little of it is still of use.
 */
static __always_inline bool see(struct packet *p, void *data, void *end, bool xdp, void *ctx, struct lane *lane,
				struct seen *seen)
{
	__be16 protocol;
	bool link;
	void *l3;

	link = parse_link(p, data, end, &l3, &protocol);
	seen->l3 = p->l3;
	if (link && protocol == bpf_htons(ETH_P_IP) && l3 + sizeof(struct iphdr) <= end) {
		seen->verdict = parse_ipv4(p, l3, end, p->length);
		if (is_rare(p, seen->verdict, data, end, xdp, ctx))
			return false;
		seen->word = target4(p->address4, 1, &lane->stat);
	} else if (link && protocol == bpf_htons(ETH_P_IPV6) && l3 + sizeof(struct ipv6hdr) <= end) {
		seen->verdict = parse_ipv6(p, l3, end, p->length);
		if (is_rare(p, seen->verdict, data, end, xdp, ctx))
			return false;
		seen->word = target6(p->address6[0], p->address6[1], 1, lane);
	} else {
		seen->verdict = unsound(MALFORMED_SHORT);
		if (link && protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6))
			seen->verdict = NOT_IP;
		if (is_rare(p, seen->verdict, data, end, xdp, ctx))
			return false;
		seen->word = NO_TARGET;
	}
	if (VECTOR_OF(seen->verdict) == VECTOR_MALFORMED)
		count_malformed(&lane->stat, seen->verdict);
	seen->packets = 1;
	seen->bytes = p->length;
	return true;
}

static __always_inline void count_tc(struct __sk_buff *skb, struct lane *lane, const struct seen *seen, __u32 direction)
{
	struct todo todo = count(lane, seen, direction);
	struct sample *sample;
	__u32 size;

	if (unlikely(todo.sketch)) {
		struct address address;

		if (other_linear(seen->l3, todo.family, direction, (void *)(long)skb->data, (void *)(long)skb->data_end,
				 &address)) {
			sketch_add(todo.sketch, address);
		} else {
			struct address far = {};

			if (!bpf_skb_load_bytes(skb, seen->l3 + other_address(todo.family, direction), &far,
						todo.family == 4 ? 4 : 16))
				sketch_add(todo.sketch, far);
		}
	}
	if (likely(!todo.every))
		return;

	size = sample_size(skb->len, seen->l3);
	if (!size)
		return;
	sample = begin_sample(seen, direction, todo.every);
	if (!sample)
		return;
	sample->captured = bpf_skb_load_bytes(skb, seen->l3, sample->header, size) ? 0 : size;
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
}

static __always_inline void count_xdp(struct xdp_md *xdp, struct lane *lane, const struct seen *seen)
{
	struct todo todo = count(lane, seen, INBOUND);
	struct sample *sample;
	__u32 size;

	if (unlikely(todo.sketch)) {
		struct address address;

		if (other_linear(seen->l3, todo.family, INBOUND, (void *)(long)xdp->data, (void *)(long)xdp->data_end,
				 &address)) {
			sketch_add(todo.sketch, address);
		} else {
			struct address far = {};

			if (!bpf_xdp_load_bytes(xdp, seen->l3 + other_address(todo.family, INBOUND), &far,
						todo.family == 4 ? 4 : 16))
				sketch_add(todo.sketch, far);
		}
	}
	if (likely(!todo.every))
		return;

	size = sample_size(bpf_xdp_get_buff_len(xdp), seen->l3);
	if (!size)
		return;
	sample = begin_sample(seen, INBOUND, todo.every);
	if (!sample)
		return;
	sample->captured = bpf_xdp_load_bytes(xdp, seen->l3, sample->header, size) ? 0 : size;
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
}

/* What became of a packet that is rare. */
static __always_inline struct lane *see_rare(const struct packet *p, __u32 verdict, __u32 word, struct seen *seen)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct lane *lane = bpf_map_lookup_elem(&lanes, &cpu);

	if (!p || !lane)
		return 0;
	seen->verdict = verdict;
	seen->l3 = p->l3;
	seen->packets = p->segments;
	seen->bytes = p->length;
	seen->word = word;
	if (VECTOR_OF(verdict) == VECTOR_MALFORMED)
		count_malformed(&lane->stat, verdict);
	return lane;
}

/* Counted apart, so that the usual packet, which is one, carries nothing along for the sake of those that are rare. */
__noinline int count_rare_tc(struct __sk_buff *skb, const struct packet *p, __u32 verdict, __u32 word)
{
	struct seen seen;
	struct lane *lane = see_rare(p, verdict, word, &seen);

	if (lane)
		count_tc(skb, lane, &seen, p->outbound & OUTBOUND);
	return 0;
}

__noinline int count_rare_xdp(struct xdp_md *xdp, const struct packet *p, __u32 verdict, __u32 word)
{
	struct seen seen;
	struct lane *lane = see_rare(p, verdict, word, &seen);

	if (lane)
		count_xdp(xdp, lane, &seen);
	return 0;
}

static __always_inline int tc(struct __sk_buff *skb, const __u32 direction)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct packet p = {.wire = skb->len, .outbound = direction};
	__u32 cpu = bpf_get_smp_processor_id();
	struct lane *lane = bpf_map_lookup_elem(&lanes, &cpu);
	struct seen seen;

	if (!lane)
		return TCX_NEXT;
	if (unlikely(skb->gso_size) || !see(&p, data, end, false, skb, lane, &seen)) {
		struct packet rare = {
			.wire = skb->len,
			.merged = skb->gso_size,
			.gro_segments = skb->gso_segs,
			.outbound = direction,
		};
		__u32 verdict = parse_rare(skb, &rare);

		count_rare_tc(skb, &rare, verdict, target_rare(&rare, lane));
		return TCX_NEXT;
	}
	count_tc(skb, lane, &seen, direction);
	return TCX_NEXT;
}

SEC("tc")
int sensor_ingress(struct __sk_buff *skb)
{
	return tc(skb, INBOUND);
}

SEC("tc")
int sensor_egress(struct __sk_buff *skb)
{
	return tc(skb, OUTBOUND);
}

SEC("xdp.frags")
int sensor_xdp(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	/*
	 * The first buffer is taken for the whole frame, because only a helper says how long that is. If there are more,
	 * the IP header says so, and the packet looks malformed.
	 */
	struct packet p = {.wire = end - data, .mirror = 1};
	__u32 cpu = bpf_get_smp_processor_id();
	struct lane *lane = bpf_map_lookup_elem(&lanes, &cpu);
	struct seen seen;

	if (!lane)
		return XDP_DROP;
	if (!see(&p, data, end, true, xdp, lane, &seen)) {
		struct packet rare = {.wire = bpf_xdp_get_buff_len(xdp), .mirror = 1};
		__u32 verdict = parse_rare_xdp(xdp, &rare);

		count_rare_xdp(xdp, &rare, verdict, target_rare(&rare, lane));
		return XDP_DROP;
	}
	count_xdp(xdp, lane, &seen);
	return XDP_DROP;
}
