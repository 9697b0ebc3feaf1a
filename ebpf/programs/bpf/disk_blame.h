/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who kept a request waiting for its disk. The disk is taken for one server: from one
 * completion to the next it served what completed then, but not before that was issued.
 * A request waits from its beginning until its own service begins; what others were served
 * meanwhile is theirs. Time in which nothing was served is unexplained.
 *
 * Completions come from several CPUs at once. Two that race may lose a service from the
 * ring, or its exact bounds: then more is unexplained, and the sum is right.
 */
#pragma once

#include "blame.h"

struct tn_disk_sharing {
	struct tn_sharing share;
	struct tn_disk_services *services;
	u32 next;
	u32 reserved;
};

/* One service further back; 1 = that was the last one. */
static long share_service(u32 index, struct tn_disk_sharing *disk)
{
	struct tn_sharing *share = &disk->share;
	struct tn_disk_services *services = disk->services;
	struct tn_service *service;
	u64 begin, end;

	if (!services || share->end <= share->from)
		return 1;
	service = &services->ring[(disk->next - 1 - index) & (TN_SERVICES - 1)];
	end = service->end_ns < share->end ? service->end_ns : share->end;
	begin = service->begin_ns > share->from ? service->begin_ns : share->from;
	/* Not written yet, or before the wait. */
	if (end <= share->from)
		return 1;
	share->causes[TN_CAUSE_UNEXPLAINED] += share->end - end;
	share->slot = service->slot;
	share_part(share, elapsed(begin, end));
	share->end = begin < end ? begin : end;
	return 0;
}

static __always_inline struct tn_disk_services *services_of(const struct tn_disk_key *key)
{
	static const struct tn_disk_services none;
	u64 device = (u64)key->major << 32 | key->minor;
	struct tn_disk_services *services = bpf_map_lookup_elem(&disk_services, &device);

	if (services)
		return services;
	bpf_map_update_elem(&disk_services, &device, &none, BPF_NOEXIST);
	services = bpf_map_lookup_elem(&disk_services, &device);
	if (!services)
		count_self(TN_SELF_DISK_SERVICES_FULL);
	return services;
}

static __always_inline void share_disk_wait(struct tn_disk_services *services, u32 next, u32 victim,
					    u64 from, u64 to)
{
	struct tn_causes *row = bpf_map_lookup_elem(&causes, &victim);
	struct tn_disk_sharing disk = {
		.share = { .from = from, .end = to, .victim = victim, .resource = TN_BLAME_DISK },
		.services = services,
		.next = next,
	};
	u64 *ns;

	if (!row)
		return;
	begin_sharing(&disk.share, services->zero);
	bpf_loop(TN_SERVICES, share_service, &disk, 0);
	end_sharing(&disk.share);
	ns = row->ns[TN_BLAME_DISK];
	/* A completion may interrupt another one's program on this CPU. */
	__sync_fetch_and_add(&ns[TN_CAUSE_SELF], disk.share.causes[TN_CAUSE_SELF]);
	__sync_fetch_and_add(&ns[TN_CAUSE_HOST], disk.share.causes[TN_CAUSE_HOST]);
	__sync_fetch_and_add(&ns[TN_CAUSE_UNEXPLAINED], disk.share.causes[TN_CAUSE_UNEXPLAINED]);
}

/*
 * A request of key->slot, 0 for the root's, has completed; it began at `start` and was
 * issued at `issued`, or 0 where nobody knows.
 */
static __always_inline void end_service(const struct tn_disk_key *key, u64 start, u64 issued)
{
	struct tn_disk_services *services = services_of(key);
	struct tn_service *last, *service;
	u64 begin, now = bpf_ktime_get_ns();
	u32 next;

	if (!services)
		return;
	next = services->next;
	last = &services->ring[(next - 1) & (TN_SERVICES - 1)];
	begin = issued > last->end_ns ? issued : last->end_ns;
	if (!issued || begin > now)
		begin = last->end_ns < now ? last->end_ns : now;
	if (!start || start > issued)
		start = issued;
	if (key->slot && start && start < begin)
		share_disk_wait(services, next, key->slot, start, begin);
	if (last->slot == key->slot && last->end_ns && begin <= last->end_ns) {
		last->end_ns = now;
		return;
	}
	next = __sync_fetch_and_add(&services->next, 1);
	service = &services->ring[next & (TN_SERVICES - 1)];
	service->slot = key->slot;
	service->begin_ns = begin;
	service->end_ns = now;
}
