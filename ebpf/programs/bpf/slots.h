/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * From a cgroup to its slot. Included by every subsystem; writes nothing but
 * the cache.
 */
#pragma once

#include "maps.h"

static __always_inline u32 slot_in_hierarchy(u64 id, u32 hierarchy)
{
	struct tn_cgroup_key key = { .id = id, .hierarchy = hierarchy };
	u32 *slot = bpf_map_lookup_elem(&cgroup_slots, &key);

	return slot ? *slot & TN_SLOT_MASK : 0;
}

static __always_inline void remember(u64 id, u32 slot)
{
	u32 index = id & (TN_CACHE_WORDS - 1);
	u64 *word = bpf_map_lookup_elem(&slot_cache, &index);

	if (word)
		*(volatile u64 *)word = id << 16 | slot;
}

static __noinline u32 slot_after_miss(u64 id, u64 seen)
{
	u32 index = id & (TN_CACHE_WORDS - 1);
	u64 *word = bpf_map_lookup_elem(&slot_cache, &index);
	u32 slot = slot_in_hierarchy(id, 0);

	/*
	 * Only if nobody wrote meanwhile: an answer that was looked up before a
	 * registration must not overwrite the registration's own word.
	 */
	if (word)
		__sync_val_compare_and_swap(word, seen, id << 16 | slot);
	return slot;
}

/* Slot of a v2 cgroup, armed or not; 0 = nobody's. */
static __always_inline u32 slot_of_id(u64 id)
{
	u32 index = id & (TN_CACHE_WORDS - 1);
	u64 *word = bpf_map_lookup_elem(&slot_cache, &index);
	u64 seen;

	if (!word)
		return 0;
	seen = *(volatile u64 *)word;
	if (seen >> 16 == id)
		return seen & 0xffff;
	return slot_after_miss(id, seen);
}

static __always_inline bool is_armed(u32 slot)
{
	struct tn_slot_state *state = bpf_map_lookup_elem(&slot_states, &slot);

	return state && state->armed;
}

/* Slot that a task's doings are counted for, 0 = none: no container, or not armed yet. */
static __always_inline u32 counted_slot_of(struct task_struct *task)
{
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;
	u32 slot;

	if (cgroup->level == 0)
		return 0;
	slot = slot_of_id(cgroup->kn->id);
	if (!slot || !is_armed(slot))
		return 0;
	return slot;
}

/* Slot that a socket's doings are counted for: of whoever made it, or of its listener. */
static __always_inline u32 slot_of_sock(const struct sock *sk)
{
	struct cgroup *cgroup = sk->sk_cgrp_data.cgroup;
	u32 slot;

	if (!cgroup || cgroup->level == 0)
		return 0;
	slot = slot_of_id(cgroup->kn->id);
	return slot && is_armed(slot) ? slot : 0;
}

static __always_inline u32 bucket_of(u64 ns)
{
	u32 log = 0;

	if (ns <= 1)
		return 0;
	ns--;
	if (ns >> TN_BUCKETS)
		return TN_BUCKETS - 1;
	if (ns >> 32) {
		ns >>= 32;
		log += 32;
	}
	if (ns >> 16) {
		ns >>= 16;
		log += 16;
	}
	if (ns >> 8) {
		ns >>= 8;
		log += 8;
	}
	if (ns >> 4) {
		ns >>= 4;
		log += 4;
	}
	if (ns >> 2) {
		ns >>= 2;
		log += 2;
	}
	if (ns >> 1)
		log += 1;
	log += 1;
	return log < TN_BUCKETS ? log : TN_BUCKETS - 1;
}

static __always_inline void add_duration(struct tn_histogram *histogram, u64 ns)
{
	u32 bucket = bucket_of(ns);

	__sync_fetch_and_add(&histogram->sum_ns, ns);
	if (bucket < TN_BUCKETS)
		__sync_fetch_and_add(&histogram->buckets[bucket], 1);
}
