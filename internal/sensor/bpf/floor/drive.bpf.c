//go:build ignore

/*
 * Programs that drive others. BPF_PROG_RUN repeats one packet; rotate_tc and rotate_xdp make it another one each time,
 * by writing 16 bits of an address, and then become the program under test, found in next_tc or next_xdp.
 * redirect sends what it is given out of an interface; run on live frames it is a generator.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

volatile const __u32 at = 0;        /* where in the frame the 16 bits lie; 0: write nothing */
volatile const __u32 interface = 0; /* where redirect sends to */

__u32 packets;
__u32 factor;
__u32 step;

/* The program under test. An array takes programs of one kind only, so there are two. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} next_tc SEC(".maps"), next_xdp SEC(".maps");

/*
 * Walks over all 16-bit values, each once: one after the other with factor 1, else, with a factor that is one more than
 * a multiple of four and an odd step (Hull and Dobell, 1962), in an order no prefetcher follows.
 */
static __always_inline void rotate(void *data, void *end)
{
	__u32 offset = at & 0xff;

	if (!offset || data + offset + 2 > end)
		return;
	packets = packets * factor + step;
	*(__be16 *)(data + offset) = bpf_htons(packets & 0xffff);
}

SEC("tc")
int rotate_tc(struct __sk_buff *skb)
{
	rotate((void *)(long)skb->data, (void *)(long)skb->data_end);
	bpf_tail_call(skb, &next_tc, 0);
	return -1;
}

SEC("xdp.frags")
int rotate_xdp(struct xdp_md *xdp)
{
	rotate((void *)(long)xdp->data, (void *)(long)xdp->data_end);
	bpf_tail_call(xdp, &next_xdp, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int redirect(struct xdp_md *xdp)
{
	rotate((void *)(long)xdp->data, (void *)(long)xdp->data_end);
	return bpf_redirect(interface, 0);
}
