/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Packets into and out of the queues of devices: where none stands, the kernel goes past
 * these tracepoints, as it does with bridges, veths and loopback, which have none. Raw
 * tracepoints, since a device often finds its queue empty: the packet is a null then, which
 * kernels from 6.5 to 6.13 take out of a typed program as impossible.
 */
#include "network_blame.h"

/* A device takes no more at once. */
#define BULK 1024

/* A sender's pace of more than this is no pace. */
#define PACE_MAX_NS 10000000000ULL

static __always_inline u64 device_of(const struct netdev_queue *queue)
{
	return (u64)BPF_CORE_READ(queue, dev);
}

/* TP_PROTO: qdisc, queue, packet, which the queue may have given away or cut into pieces since. */
SEC("raw_tp/qdisc_enqueue")
int queue_entered(struct bpf_raw_tracepoint_args *context)
{
	const struct netdev_queue *txq = (void *)context->args[1];
	struct sk_buff *skb = (void *)context->args[2];
	u64 address = context->args[2], jiffies = bpf_jiffies64(), device = device_of(txq), due, *standing;
	struct tn_queued packet = {};
	struct tn_queue *queue;
	u32 zero = 0;

	standing = bpf_map_lookup_elem(&queue_standing, &zero);
	if (standing && *standing != jiffies)
		*standing = jiffies;
	packet.hash = BPF_CORE_READ(skb, hash);
	packet.slot = slot_of_flow(packet.hash);
	if (!packet.slot)
		return 0;
	queue = bpf_map_lookup_elem(&queues, &device);
	packet.bytes = queue ? queue->bytes : 0;
	packet.since_ns = bpf_ktime_get_ns();
	due = BPF_CORE_READ(skb, tstamp);
	if (due > packet.since_ns && due - packet.since_ns < PACE_MAX_NS)
		packet.due_ns = due;
	bpf_map_update_elem(&queued, &address, &packet, BPF_ANY);
	note_entry(&packet, device);
	return 0;
}

struct tn_leaving {
	u64 packet; /* address; the next one hangs on it */
	u64 device;
	u64 now;
	u32 own_limit;
	u32 reserved;
};

/* One packet of those that leave together; 1 = that was the last one. */
static long packet_leaves(u32 index, struct tn_leaving *leaving)
{
	u64 address = leaving->packet;
	struct sk_buff *skb = (void *)address;
	struct tn_queued *packet, entry = {};
	struct tn_queue *queue = 0;
	u32 hash, slot;

	if (!address)
		return 1;
	leaving->packet = (u64)BPF_CORE_READ(skb, next);
	hash = BPF_CORE_READ(skb, hash);
	packet = bpf_map_lookup_elem(&queued, &address);
	/* One that was dropped, and another has its place. */
	if (packet && packet->hash != hash)
		packet = 0;
	slot = packet ? packet->slot : slot_of_flow(hash);
	if (!leaving->own_limit) {
		queue = queue_of(leaving->device);
		if (!queue)
			return 0;
		take_turn(queue, slot, BPF_CORE_READ(skb, len));
	}
	if (!slot)
		return 0;
	if (packet) {
		entry = *packet;
		bpf_map_delete_elem(&queued, &address);
	} else {
		count_self(TN_SELF_QUEUED_UNSEEN);
		reckon_entry(&entry, slot, leaving->device, leaving->now);
	}
	end_queueing(queue, leaving->device, &entry, leaving->now);
	return 0;
}

/* TP_PROTO: qdisc, queue, how many packets, the first of them or null. */
SEC("raw_tp/qdisc_dequeue")
int queue_left(struct bpf_raw_tracepoint_args *context)
{
	struct Qdisc *qdisc = (void *)context->args[0];
	const struct netdev_queue *txq = (void *)context->args[1];
	u32 packets = context->args[2], major;
	struct tn_leaving leaving = { .packet = context->args[3] };

	if (!leaving.packet)
		return 0;
	major = BPF_CORE_READ(qdisc, handle) >> 16;
	leaving.own_limit = major == TN_BANDWIDTH_MAJOR || major == TN_BANDWIDTH_MAJOR_NEXT;
	leaving.device = device_of(txq);
	leaving.now = bpf_ktime_get_ns();
	bpf_loop(packets < BULK ? packets : BULK, packet_leaves, &leaving, 0);
	return 0;
}
