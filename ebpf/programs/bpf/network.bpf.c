/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Bytes (network layer and above) and packets of a slot's sockets, loopback
 * apart. A packet that the stack will segment, or has merged, counts as its
 * segments. Never drops.
 */
#include "destinations.h"

#define LOOPBACK_IFINDEX 1 /* in each network namespace */
#define PASS 1

static __always_inline struct tn_traffic *traffic_of(struct __sk_buff *skb)
{
	u32 slot = slot_of_id(bpf_skb_cgroup_id(skb));
	struct tn_network *counts;

	if (!slot || !is_armed(slot))
		return 0;
	counts = bpf_map_lookup_elem(&network, &slot);
	if (!counts)
		return 0;
	return skb->ifindex == LOOPBACK_IFINDEX ? &counts->loopback : &counts->external;
}

static __always_inline u64 segments(struct __sk_buff *skb)
{
	u32 segments = skb->gso_segs;

	return segments ? segments : 1;
}

SEC("cgroup_skb/ingress")
int network_ingress(struct __sk_buff *skb)
{
	struct tn_traffic *traffic = traffic_of(skb);

	if (traffic) {
		__sync_fetch_and_add(&traffic->rx_bytes, skb->len);
		__sync_fetch_and_add(&traffic->rx_packets, segments(skb));
		settle_received(skb);
	}
	return PASS;
}

SEC("cgroup_skb/egress")
int network_egress(struct __sk_buff *skb)
{
	struct tn_traffic *traffic = traffic_of(skb);

	if (traffic) {
		__sync_fetch_and_add(&traffic->tx_bytes, skb->len);
		__sync_fetch_and_add(&traffic->tx_packets, segments(skb));
	}
	return PASS;
}
