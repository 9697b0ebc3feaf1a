/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Sharing a wait out over who was served meanwhile, walking back from its end. Every
 * nanosecond goes somewhere, so that the causes of a victim add up to its waits; what nobody
 * remembers is said to be unexplained.
 */
#pragma once

#include "slots.h"

/* The clock of another CPU may be a little behind. */
static __always_inline u64 elapsed(u64 from, u64 to)
{
	return to > from ? to - from : 0;
}

/* Whether it found room. */
static __always_inline bool blame_add(u32 victim, u32 culprit, u32 resource, u64 ns)
{
	struct tn_blame_key key = { .victim = victim, .culprit = culprit, .resource = resource };
	u64 *sum = bpf_map_lookup_elem(&blame, &key);

	if (!sum) {
		if (!bpf_map_update_elem(&blame, &key, &ns, BPF_NOEXIST))
			return true;
		/* Another CPU may have been faster. */
		sum = bpf_map_lookup_elem(&blame, &key);
		if (!sum) {
			count_self(TN_SELF_BLAME_FULL);
			return false;
		}
	}
	__sync_fetch_and_add(sum, ns);
	return true;
}

/* The last part of a wait, [from, end), being shared out. */
struct tn_sharing {
	u64 from;
	u64 end; /* moves back */
	u32 slot; /* who was served until `end` */
	u32 victim;
	u32 resource;
	/* Who has `pending`, a time that is not in the map yet. */
	u32 culprit;
	u64 pending;
	u64 causes[TN_CAUSES];
};

/*
 * `zero` is one that the verifier does not know for one. Until 6.7 it takes a loop's body for
 * run once, from the values before it, and removes what these never reach: a culprit that
 * has a time already would find no code.
 */
static __always_inline void begin_sharing(struct tn_sharing *share, u64 zero)
{
	share->culprit = zero;
	share->pending = zero;
	for (u32 i = 0; i < TN_CAUSES; i++)
		share->causes[i] = zero;
}

static __always_inline void settle_culprit(struct tn_sharing *share)
{
	if (share->pending && !blame_add(share->victim, share->culprit, share->resource, share->pending))
		share->causes[TN_CAUSE_UNEXPLAINED] += share->pending;
	share->pending = 0;
}

/* A time in which `slot` was served. */
static __always_inline void share_part(struct tn_sharing *share, u64 ns)
{
	if (!share->slot) {
		share->causes[TN_CAUSE_HOST] += ns;
	} else if (share->slot == share->victim) {
		share->causes[TN_CAUSE_SELF] += ns;
	} else {
		if (share->slot != share->culprit) {
			settle_culprit(share);
			share->culprit = share->slot;
		}
		share->pending += ns;
	}
}

/* What is left is nobody's. */
static __always_inline void end_sharing(struct tn_sharing *share)
{
	settle_culprit(share);
	share->causes[TN_CAUSE_UNEXPLAINED] += elapsed(share->from, share->end);
}
