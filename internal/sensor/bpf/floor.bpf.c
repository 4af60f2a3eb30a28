//go:build ignore

/*
 * What the sensor's cost per packet is measured against: parse, look the target up in the direct table, add to one
 * dense counter. Only tests and benchmarks load it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

volatile const __u32 cpus = 1;
volatile const __u32 slots = 1;

__u32 networks[65536];

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct network_block);
} network_blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct host_block);
} host_blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
} counters SEC(".maps");

static __always_inline int floor_count(void *data, void *end)
{
	__u32 cpu = bpf_get_smp_processor_id(), address, block, slot;
	struct ethhdr *eth = data;
	struct network_block *network;
	struct host_block *last;
	struct iphdr *ip;
	struct udphdr *udp;
	__u64 *counter;

	ip = data + sizeof(*eth);
	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return 0;
	udp = (void *)ip + ip->ihl * 4;
	if ((void *)(udp + 1) > end)
		return 0;
	address = bpf_ntohl(ip->daddr);
	block = *(volatile __u32 *)&networks[address >> 16];
	network = bpf_map_lookup_elem(&network_blocks, &block);
	if (!network)
		return 0;
	block = *(volatile __u32 *)&network->next[address >> 8 & 0xff];
	last = bpf_map_lookup_elem(&host_blocks, &block);
	if (!last)
		return 0;
	slot = *(volatile __u32 *)&last->slots[address & 0xff];
	if (slot >= slots || cpu >= cpus)
		return 0;
	counter = bpf_map_lookup_elem(&counters, &cpu);
	if (!counter)
		return 0;
	counter[slot] += 1ULL << COUNT_BYTE_BITS | bpf_ntohs(ip->tot_len);
	return 0;
}

SEC("tc")
int floor_tcx(struct __sk_buff *skb)
{
	floor_count((void *)(long)skb->data, (void *)(long)skb->data_end);
	return -1;
}

SEC("xdp")
int floor_xdp(struct xdp_md *xdp)
{
	floor_count((void *)(long)xdp->data, (void *)(long)xdp->data_end);
	return XDP_DROP;
}

SEC("tc")
int empty_tcx(struct __sk_buff *skb)
{
	return -1;
}

SEC("xdp")
int empty_xdp(struct xdp_md *xdp)
{
	return XDP_DROP;
}
