/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who kept packets waiting in a device's queue. A container's queue stands from the moment
 * one of its packets enters until the last one is out; that time is shared out by the bytes
 * that the device took from its queues meanwhile, whosoever they were. Fair queues and plain
 * ones are treated alike: what counts is who had the link.
 *
 * The measure is bytes, not the times of packets: a device takes several at once, and a
 * byte has its place among all that ever left, whatever the clock says. Two CPUs that serve
 * one device may lose a turn from the ring: then more is unexplained, and the sum is right.
 */
#pragma once

#include "blame.h"

/* Flows are noted for so long after a packet stood in a queue: one second, or ten where the kernel's ticks are long. */
#define STANDING_JIFFIES 1000

/* A packet's hash tells its sender's slot, as long as there is a queue somewhere. */
static __always_inline void note_flow(u32 hash, u32 slot)
{
	u32 zero = 0;
	u64 value = slot, *known, *standing = bpf_map_lookup_elem(&queue_standing, &zero);

	if (!standing || !*standing || !hash)
		return;
	if (bpf_jiffies64() - *standing > STANDING_JIFFIES)
		return;
	known = bpf_map_lookup_elem(&flows, &hash);
	if (!known || *known != value)
		bpf_map_update_elem(&flows, &hash, &value, BPF_ANY);
}

/* 0: of no container, or nobody knows. */
static __always_inline u32 slot_of_flow(u32 hash)
{
	u64 *slot = hash ? bpf_map_lookup_elem(&flows, &hash) : 0;

	return slot ? *slot : 0;
}

static __always_inline struct tn_queue *queue_of(u64 device)
{
	static const struct tn_queue no_queue;
	struct tn_queue *queue = bpf_map_lookup_elem(&queues, &device);

	if (queue)
		return queue;
	bpf_map_update_elem(&queues, &device, &no_queue, BPF_NOEXIST);
	return bpf_map_lookup_elem(&queues, &device);
}

/* The device takes a packet of `bytes` bytes from its queue. */
static __always_inline void take_turn(struct tn_queue *queue, u32 slot, u32 bytes)
{
	u64 begin = __sync_fetch_and_add(&queue->bytes, bytes);
	struct tn_turn *turn = &queue->ring[(queue->next - 1) & (TN_TURNS - 1)];
	u32 next;

	if (turn->slot == slot && turn->end == begin && begin) {
		turn->end = begin + bytes;
		return;
	}
	next = __sync_fetch_and_add(&queue->next, 1);
	turn = &queue->ring[next & (TN_TURNS - 1)];
	turn->slot = slot;
	turn->begin = begin;
	turn->end = begin + bytes;
}

struct tn_queue_sharing {
	struct tn_sharing share;
	struct tn_queue *queue;
	/* The bytes [from, end) left meanwhile, and `ns` is the time they took; `end` and `ns` become less. */
	u64 from;
	u64 end;
	u64 ns;
	u32 next;
	u32 reserved;
};

/* The time of the last bytes from `begin` on: all that is left once these are. */
static __always_inline u64 time_since(struct tn_queue_sharing *wait, u64 begin)
{
	u64 ns = wait->ns * elapsed(begin, wait->end) / elapsed(wait->from, wait->end);

	if (ns > wait->ns)
		ns = wait->ns;
	wait->ns -= ns;
	wait->end = begin;
	return ns;
}

/* One turn further back; 1 = that was the last one. */
static long share_turn(u32 index, struct tn_queue_sharing *wait)
{
	struct tn_queue *queue = wait->queue;
	struct tn_turn *turn;
	u64 begin;

	if (!queue || wait->end <= wait->from)
		return 1;
	turn = &queue->ring[(wait->next - 1 - index) & (TN_TURNS - 1)];
	/* Not written yet, or before the wait. */
	if (turn->end <= wait->from)
		return 1;
	begin = turn->begin > wait->from ? turn->begin : wait->from;
	/* Of a packet that left after this one, on another CPU. */
	if (begin >= wait->end)
		return 0;
	if (turn->end < wait->end)
		wait->share.causes[TN_CAUSE_UNEXPLAINED] += time_since(wait, turn->end);
	wait->share.slot = turn->slot;
	share_part(&wait->share, time_since(wait, begin));
	return 0;
}

/* Longer waits, and more bytes, would not fit a product. */
#define WAIT_BITS 34
#define BYTES_BITS 30

/* Shares out `ns` over the bytes from `from` on. */
static __always_inline void share_queue_wait(struct tn_queue *queue, u32 victim, u64 *ns_of, u64 from,
					     u64 ns)
{
	struct tn_queue_sharing wait = {
		.share = { .victim = victim, .resource = TN_BLAME_NETWORK },
		.queue = queue,
		.from = from,
		.end = queue->bytes,
		.ns = ns,
		.next = queue->next,
	};

	begin_sharing(&wait.share, queue->zero);
	if (!(ns >> WAIT_BITS) && !(elapsed(wait.from, wait.end) >> BYTES_BITS))
		bpf_loop(TN_TURNS, share_turn, &wait, 0);
	wait.share.from = 0;
	wait.share.end = wait.ns;
	end_sharing(&wait.share);
	__sync_fetch_and_add(&ns_of[TN_CAUSE_SELF], wait.share.causes[TN_CAUSE_SELF]);
	__sync_fetch_and_add(&ns_of[TN_CAUSE_HOST], wait.share.causes[TN_CAUSE_HOST]);
	__sync_fetch_and_add(&ns_of[TN_CAUSE_UNEXPLAINED], wait.share.causes[TN_CAUSE_UNEXPLAINED]);
}

/* A slot's packet enters a queue. */
static __always_inline void note_entry(const struct tn_queued *packet, u64 device)
{
	struct tn_queue_wait *wait = bpf_map_lookup_elem(&queue_waits, &packet->slot);

	if (!wait || wait->entered.ns)
		return;
	wait->entered.bytes = packet->bytes;
	wait->entered.device = device;
	wait->entered.ns = packet->since_ns;
}

/* Since a piece of a packet may stand for so long at most that nobody saw enter. */
#define PIECE_NS 1000000000ULL

/*
 * When a packet entered that was not seen to: queues cut long ones into pieces. The first
 * piece entered when its slot did, the others stood there when the last one left.
 */
static __always_inline void reckon_entry(struct tn_queued *packet, u32 slot, u64 device, u64 now)
{
	struct tn_queue_wait *wait = bpf_map_lookup_elem(&queue_waits, &slot);
	struct tn_queue_moment *moment;

	packet->slot = slot;
	packet->since_ns = now;
	if (!wait)
		return;
	moment = wait->entered.ns ? &wait->entered : &wait->until;
	if (moment->device != device || elapsed(moment->ns, now) > PIECE_NS)
		return;
	packet->since_ns = moment->ns;
	packet->bytes = moment->bytes;
}

/* A container's packet leaves its queue; `queue` is null where that is the container's own limit. */
static __always_inline void end_queueing(struct tn_queue *queue, u64 device,
					 const struct tn_queued *packet, u64 now)
{
	u32 victim = packet->slot;
	struct tn_queue_wait *last = bpf_map_lookup_elem(&queue_waits, &victim);
	struct tn_causes *row = bpf_map_lookup_elem(&causes, &victim);
	u64 since = packet->since_ns, from = packet->bytes, paced, *ns_of;

	if (!last || !row)
		return;
	ns_of = row->ns[TN_BLAME_NETWORK];
	if (last->until.ns > since)
		since = last->until.ns;
	if (last->until.device == device && last->until.bytes > from)
		from = last->until.bytes;
	last->entered.ns = 0;
	last->until.ns = now;
	last->until.device = device;
	last->until.bytes = queue ? queue->bytes : 0;
	if (since >= now)
		return;
	if (!queue) {
		__sync_fetch_and_add(&ns_of[TN_CAUSE_QUOTA], now - since);
		return;
	}
	/* Who paces itself waits for nobody until then. */
	paced = elapsed(since, packet->due_ns < now ? packet->due_ns : now);
	if (paced)
		__sync_fetch_and_add(&ns_of[TN_CAUSE_SELF], paced);
	if (since + paced < now)
		share_queue_wait(queue, victim, ns_of, from, now - since - paced);
}
