//go:build ignore

/*
 * What the sensor's cost per packet is measured against: the least that any program of its kind does. It parses the
 * frame, looks the address up in a table, and adds packets and bytes to one dense counter, one word, of this CPU only.
 * No vector, window, trigger, sample or length check, and nothing is ever allocated. Only benchmarks load it.
 *
 * IPv4: the sensor's kind of direct table, 64Ki words -> 256 words -> 256 words, leads to the counter's number.
 * IPv6: one hash of the address, seeded, and an open table that is half full and holds nothing but whole addresses, which
 * are compared; the place in the table is the counter's number. User space fills both; the programs only read.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TAGS 2
#define EXTENSIONS 8
#define PROBES 64
#define NOBODY 0xffffffffU

/* Packets and bytes in one word, as the sensor keeps them. */
#define BYTE_BITS 36

char LICENSE[] SEC("license") = "Dual BSD/GPL";

volatile const __u32 cpus = 1;
volatile const __u32 targets = 1;   /* counters; two more follow: packets for nobody, and packets that are not IP */
volatile const __u32 counters6 = 1; /* the first counter of an IPv6 target */
volatile const __u32 hosts6_mask = 0;
volatile const __u64 seed = 0;

__u32 networks[65536]; /* first two octets -> network block, 0 for none */

struct block {
	__u32 next[256];
};

/* Third octet -> host block, 0 for none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct block);
} network_blocks SEC(".maps");

/* Fourth octet -> counter, or NOBODY. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct block);
} host_blocks SEC(".maps");

struct host6 {
	__u64 address[2]; /* network byte order; zero: empty */
};

/* Seeded hash of the address -> the address, there or up to PROBES entries on. Its place is the number of its counter. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct host6);
} hosts6 SEC(".maps");

/* Key: CPU; value: a word for each counter. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
} counters SEC(".maps");

static __always_inline void add(__u32 counter, __u32 bytes)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u64 *row;

	if (counter >= targets + 2 || cpu >= cpus)
		return;
	row = bpf_map_lookup_elem(&counters, &cpu);
	if (row)
		row[counter] += 1ULL << BYTE_BITS | bytes;
}

static __always_inline __u32 find4(__u32 address)
{
	struct block *network, *last;
	__u32 block;

	block = *(volatile __u32 *)&networks[address >> 16];
	if (!block)
		return NOBODY;
	network = bpf_map_lookup_elem(&network_blocks, &block);
	if (!network)
		return NOBODY;
	block = *(volatile __u32 *)&network->next[address >> 8 & 0xff];
	if (!block)
		return NOBODY;
	last = bpf_map_lookup_elem(&host_blocks, &block);
	if (!last)
		return NOBODY;
	return *(volatile __u32 *)&last->next[address & 0xff];
}

static __always_inline __u32 find6(const __u64 *address)
{
	__u64 hash = (address[0] ^ seed) * 0x9e3779b97f4a7c15ULL ^ address[1];

	hash = (hash ^ hash >> 32) * 0xbf58476d1ce4e5b9ULL >> 32;
	for (int i = 0; i < PROBES; i++) {
		__u32 key = (hash + i) & hosts6_mask;
		struct host6 *host = bpf_map_lookup_elem(&hosts6, &key);

		if (!host || !host->address[0])
			return NOBODY;
		if (host->address[0] == address[0] && host->address[1] == address[1])
			return counters6 + key;
	}
	return NOBODY;
}

static __always_inline bool is_tag(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/* Finds the counter of the packet's destination or, outbound, of its source, and adds to it. */
static __always_inline void count(void *data, void *end, bool outbound)
{
	struct ethhdr *eth = data;
	void *l3 = data + sizeof(*eth), *l4;
	__u32 counter, bytes;
	__be16 protocol;

	if (l3 > end)
		return;
	protocol = eth->h_proto;
	for (int i = 0; i < TAGS && is_tag(protocol); i++) {
		if (l3 + 4 > end)
			return;
		protocol = *(__be16 *)(l3 + 2);
		l3 += 4;
	}
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = l3;

		if (l3 + sizeof(*ip) > end)
			return;
		l4 = l3 + ip->ihl * 4;
		if (l4 + 4 > end)
			return;
		bytes = bpf_ntohs(ip->tot_len);
		counter = find4(bpf_ntohl(outbound ? ip->saddr : ip->daddr));
	} else if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = l3;
		__u64 address[2];
		__u8 next;

		l4 = l3 + sizeof(*ip);
		if (l4 > end)
			return;
		next = ip->nexthdr;
		for (int i = 0; i < EXTENSIONS; i++) {
			__u8 *extension = l4;

			if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
			    next != IPPROTO_FRAGMENT)
				break;
			if (l4 + 8 > end)
				return;
			l4 += next == IPPROTO_FRAGMENT ? 8 : (extension[1] + 1) * 8;
			next = extension[0];
		}
		if (l4 + 4 > end)
			return;
		bytes = bpf_ntohs(ip->payload_len) + sizeof(*ip);
		__builtin_memcpy(address, outbound ? &ip->saddr : &ip->daddr, sizeof(address));
		counter = find6(address);
	} else {
		add(targets + 1, end - l3);
		return;
	}
	add(counter == NOBODY ? targets : counter, bytes);
}

SEC("tc")
int floor_ingress(struct __sk_buff *skb)
{
	count((void *)(long)skb->data, (void *)(long)skb->data_end, false);
	return -1;
}

SEC("tc")
int floor_egress(struct __sk_buff *skb)
{
	count((void *)(long)skb->data, (void *)(long)skb->data_end, true);
	return -1;
}

SEC("xdp.frags")
int floor_xdp(struct xdp_md *xdp)
{
	count((void *)(long)xdp->data, (void *)(long)xdp->data_end, false);
	return XDP_DROP;
}

/* What running any program costs. */
SEC("tc")
int empty_tc(struct __sk_buff *skb)
{
	return -1;
}

SEC("xdp.frags")
int empty_xdp(struct xdp_md *xdp)
{
	return XDP_DROP;
}
