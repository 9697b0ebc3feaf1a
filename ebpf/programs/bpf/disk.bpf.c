/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Disk requests, charged to the cgroup that the bio was charged to: a write that
 * a kernel thread flushes later belongs to who wrote it where the kernel knows
 * that (v2), else to the root, that is to nobody. Merged bios are of one cgroup;
 * the block layer sees to it.
 *
 * A request's life: made from a bio (start_time_ns), others merged into it,
 * issued to the driver, perhaps requeued and issued again, completed. Up to the
 * first issue it queues, after that it is the device's. What blk-throttle holds
 * back is a bio that has not become a request yet: no tracepoint tells of it.
 */
#include "disk_blame.h"

#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
#define REQ_OP_SECURE_ERASE 5
#define REQ_OP_ZONE_APPEND 7
#define REQ_OP_WRITE_ZEROES 9

/* Hierarchy whose ids bios carry: 0 = v2, else v1's blkio. Set before loading. */
const volatile u32 blkio_hierarchy = 0;

static __always_inline u32 operation(u32 flags)
{
	switch (flags & REQ_OP_MASK) {
	case REQ_OP_READ:
		return TN_DISK_READ;
	case REQ_OP_WRITE:
	case REQ_OP_ZONE_APPEND:
		return TN_DISK_WRITE;
	case REQ_OP_FLUSH:
		return TN_DISK_FLUSH;
	case REQ_OP_DISCARD:
	case REQ_OP_SECURE_ERASE:
	case REQ_OP_WRITE_ZEROES:
		return TN_DISK_DISCARD;
	default:
		return TN_DISK_OTHER;
	}
}

static __always_inline bool flushes(struct bio *bio)
{
	u32 fua = bpf_core_enum_value(enum req_flag_bits, __REQ_FUA);
	u32 preflush = bpf_core_enum_value(enum req_flag_bits, __REQ_PREFLUSH);

	return bio->bi_opf & (1u << fua | 1u << preflush);
}

static __always_inline struct cgroup *charged_cgroup(struct bio *bio)
{
	struct blkcg_gq *blkg = bio->bi_blkg;

	return blkg ? blkg->blkcg->css.cgroup : 0;
}

/* Slot of who pays for the bio, 0 = no container, or not armed yet. */
static __always_inline u32 counted_slot_of_bio(struct bio *bio)
{
	struct cgroup *cgroup = charged_cgroup(bio);
	u32 slot;

	if (!cgroup || cgroup->level == 0)
		return 0;
	slot = slot_in_hierarchy(cgroup->kn->id, blkio_hierarchy);
	return slot && is_armed(slot) ? slot : 0;
}

static __always_inline void name_disk(struct tn_disk_key *key, struct gendisk *disk)
{
	key->major = disk->major;
	key->minor = disk->first_minor;
}

static __always_inline struct tn_disk *disk_counts(struct tn_disk_key *key)
{
	static const struct tn_disk zero;
	struct tn_disk *counts = bpf_map_lookup_elem(&disks, key);

	if (counts)
		return counts;
	/* Another CPU may have been faster: its entry is as good. */
	bpf_map_update_elem(&disks, key, &zero, BPF_NOEXIST);
	counts = bpf_map_lookup_elem(&disks, key);
	if (!counts)
		count_self(TN_SELF_DISKS_FULL);
	return counts;
}

/* Time since the request was made. 0 = unknown: the queue keeps no statistics. */
static __always_inline u64 age_of(struct request *request, u64 now)
{
	u64 start = request->start_time_ns;

	return start && start < now ? now - start : 0;
}

/*
 * Whether this is a request's entry. One that has completed and could not be deleted
 * (before 6.7 an interrupt may find the map's bucket busy) has no time of issue,
 * and is used again for the next request at this address.
 */
static __always_inline bool is_alive(const struct tn_request *entry)
{
	return entry && entry->issued_ns;
}

/* Time at the device until now, over all its issues. */
static __always_inline u64 served(const struct tn_request *entry)
{
	if (entry->issued_ns == TN_REQUEUED)
		return entry->served_ns;
	return entry->served_ns + bpf_ktime_get_ns() - entry->issued_ns;
}

/*
 * Another request has its address: it has completed, and no program was run then.
 * A kernel may leave one out that would interrupt itself, and one of ours runs none
 * at all while its first process has the CPU. Whether it failed and how long it
 * took nobody knows.
 */
static __always_inline void end_unseen(const struct tn_request *entry)
{
	struct tn_disk_key key = entry->key;
	struct tn_disk *counts = disk_counts(&key);

	count_self(TN_SELF_COMPLETIONS_UNSEEN);
	if (!counts)
		return;
	__sync_fetch_and_add(&counts->ios, 1);
	__sync_fetch_and_add(&counts->bytes, entry->asked_bytes);
	__sync_fetch_and_sub(&counts->in_flight, 1);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(disk_issue, struct request *request)
{
	u64 address = (u64)request, now, queued;
	struct tn_request entry = {}, *again;
	struct bio *bio = request->bio;
	struct tn_disk *counts;

	/* The device's own flush, for whoever waits for it, and the driver's commands have no bio. */
	if (!bio)
		return 0;
	entry.key.slot = counted_slot_of_bio(bio);
	if (!entry.key.slot)
		return 0;
	now = bpf_ktime_get_ns();
	again = bpf_map_lookup_elem(&requests, &address);
	if (is_alive(again)) {
		if (again->issued_ns == TN_REQUEUED) {
			again->issued_ns = now;
			return 0;
		}
		end_unseen(again);
	}
	name_disk(&entry.key, request->q->disk);
	entry.key.op = operation(request->cmd_flags);
	entry.issued_ns = now;
	entry.asked_bytes = request->__data_len;
	counts = disk_counts(&entry.key);
	if (!counts)
		return 0;
	if (again) {
		*again = entry;
	} else if (bpf_map_update_elem(&requests, &address, &entry, BPF_ANY)) {
		count_self(TN_SELF_REQUESTS_FULL);
		return 0;
	}
	__sync_fetch_and_add(&counts->in_flight, 1);
	queued = age_of(request, now);
	if (queued)
		add_duration(&counts->queue, queued);
	return 0;
}

SEC("tp_btf/block_rq_requeue")
int BPF_PROG(disk_requeue, struct request *request)
{
	u64 address = (u64)request;
	struct tn_request *entry = bpf_map_lookup_elem(&requests, &address);
	struct tn_disk *counts;
	struct tn_disk_key key;

	if (!is_alive(entry))
		return 0;
	entry->served_ns = served(entry);
	entry->issued_ns = TN_REQUEUED;
	key = entry->key;
	counts = disk_counts(&key);
	if (counts)
		__sync_fetch_and_add(&counts->requeues, 1);
	return 0;
}

static __always_inline void complete_issued(struct tn_request *entry, u8 error)
{
	struct tn_disk_key key = entry->key;
	struct tn_disk *counts = disk_counts(&key);

	if (!counts)
		return;
	__sync_fetch_and_add(&counts->ios, 1);
	__sync_fetch_and_add(&counts->bytes, entry->bytes);
	if (error)
		__sync_fetch_and_add(&counts->errors, 1);
	__sync_fetch_and_sub(&counts->in_flight, 1);
	add_duration(&counts->latency, served(entry));
}

/*
 * What was not seen at its issue: a flush, or the root's doings.
 *
 * A bio that wants the device's cache flushed (fsync's own, or one with data)
 * ends here with no bytes left, after a flush that the block layer issued in a
 * request of its own, for all who waited for one.
 */
static __always_inline void complete_untold(struct request *request, u8 error, u32 bytes, bool last)
{
	struct bio *bio = request->bio;
	struct tn_disk_key key = {};
	struct cgroup *cgroup;
	struct tn_disk *counts;
	bool flush;

	if (!bio)
		return;
	flush = !request->__data_len && flushes(bio);
	cgroup = charged_cgroup(bio);
	if (!cgroup)
		return;
	name_disk(&key, request->q->disk);
	if (last && !flush)
		/* Whoever it was: nobody that is counted. */
		end_service(&key, 0, request->io_start_time_ns);
	if (cgroup->level) {
		/* Requests that were issued before their slot was armed are nobody's. */
		if (!flush)
			return;
		key.slot = counted_slot_of_bio(bio);
		if (!key.slot)
			return;
	}
	key.op = flush ? TN_DISK_FLUSH : operation(request->cmd_flags);
	counts = disk_counts(&key);
	if (!counts)
		return;
	if (error)
		__sync_fetch_and_add(&counts->errors, 1);
	else
		__sync_fetch_and_add(&counts->bytes, bytes);
	if (!last)
		return;
	__sync_fetch_and_add(&counts->ios, 1);
	if (key.slot) {
		u64 took = age_of(request, bpf_ktime_get_ns());

		if (took)
			add_duration(&counts->latency, took);
	}
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(disk_complete, struct request *request, u8 error, unsigned int bytes)
{
	u64 address = (u64)request;
	struct tn_request *entry = bpf_map_lookup_elem(&requests, &address);
	/* The length is what was left before this completion. */
	bool last = bytes >= request->__data_len;
	struct tn_disk_key key;

	if (!is_alive(entry)) {
		complete_untold(request, error, bytes, last);
		return 0;
	}
	if (!error)
		entry->bytes += bytes;
	if (!last)
		return 0;
	key = entry->key;
	end_service(&key, request->start_time_ns, entry->issued_ns);
	complete_issued(entry, error);
	entry->issued_ns = 0;
	bpf_map_delete_elem(&requests, &address);
	return 0;
}

static __always_inline void count_merge(struct bio *bio, u32 flags)
{
	struct tn_disk_key key = {};
	struct tn_disk *counts;

	if (!bio)
		return;
	key.slot = counted_slot_of_bio(bio);
	if (!key.slot)
		return;
	name_disk(&key, bio->bi_bdev->bd_disk);
	key.op = operation(flags);
	counts = disk_counts(&key);
	if (counts)
		__sync_fetch_and_add(&counts->merges, 1);
}

SEC("tp_btf/block_bio_backmerge")
int BPF_PROG(disk_back_merge, struct bio *bio)
{
	count_merge(bio, bio->bi_opf);
	return 0;
}

SEC("tp_btf/block_bio_frontmerge")
int BPF_PROG(disk_front_merge, struct bio *bio)
{
	count_merge(bio, bio->bi_opf);
	return 0;
}

/* A whole request that joins another: it is issued and completed as a part of that one. */
SEC("tp_btf/block_rq_merge")
int BPF_PROG(disk_request_merge, struct request *request)
{
	count_merge(request->bio, request->cmd_flags);
	return 0;
}
