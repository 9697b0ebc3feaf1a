/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who kept a thread waiting for its CPU. The wait is shared out over who had that
 * CPU meanwhile: walking back from its end over the CPU's most recent runs, at most
 * TN_RUNS of them. Every nanosecond goes somewhere, so that the causes of a victim
 * add up to its waits; what nobody remembers is said to be unexplained.
 *
 * Two things are never a neighbour's: time in which the thread's quota, or one above
 * it, was used up, and time that the hypervisor took from the CPU, whoever had it.
 */
#pragma once

#include "tasks.h"

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

/* What the hypervisor took from a task's CPU, in all, as far as this kernel knows it. */
static __always_inline u64 stolen_from_cpu_of(struct task_struct *task)
{
	struct rq *rq = task->se.cfs_rq->rq;

	if (bpf_core_field_exists(rq->prev_steal_time_rq))
		return rq->prev_steal_time_rq;
	if (bpf_core_field_exists(rq->prev_steal_time))
		return rq->prev_steal_time;
	return 0;
}

/*
 * How long a task's run queue was throttled, in all, by its group's quota or by one above.
 *
 * Until 6.5 the kernel has it by the clock of its load averages alone, which is slower than
 * others where a busy CPU has lowered its frequency.
 */
static __always_inline u64 throttled_ns(struct task_struct *task)
{
	struct cfs_rq *queue = task->se.cfs_rq;
	struct rq *rq = queue->rq;
	u64 total, since;

	if (bpf_core_field_exists(queue->throttled_clock_self_time)) {
		since = queue->throttled_clock_self;
		total = queue->throttled_clock_self_time;
		return since ? total + elapsed(since, rq->clock) : total;
	}
	if (!bpf_core_field_exists(queue->throttled_clock_pelt_time))
		return 0;
	total = queue->throttled_clock_pelt_time;
	since = queue->throttled_clock_pelt;
	return queue->throttle_count ? total + elapsed(since, rq->clock_pelt - rq->lost_idle_time) : total;
}

/* A thread begins to wait on the run queue that it is in. */
static __always_inline void begin_wait(struct tn_task *thread, struct task_struct *task)
{
	thread->shared_ns = 0;
	thread->waits_on_cpu = task->thread_info.cpu;
	/* Where quotas stop one thread at a time, the others of its group wait for other reasons. */
	if (bpf_core_field_exists(task->throttled) && !task->throttled)
		thread->throttled_ns = TN_NOT_THROTTLED;
	else
		thread->throttled_ns = throttled_ns(task);
}

/* How much of the last `ns` of a wait was its quota's doing. */
static __always_inline u64 quota_part(const struct tn_task *thread, struct task_struct *task, u64 ns)
{
	u64 part;

	if (thread->throttled_ns == TN_NOT_THROTTLED)
		return 0;
	part = elapsed(thread->throttled_ns, throttled_ns(task));
	return part < ns ? part : ns;
}

/* The last part of a wait, [from, end), being shared out. */
struct tn_sharing {
	u64 from;
	u64 end; /* moves back */
	u64 stolen; /* from the CPU until `end`, in all */
	u32 slot; /* who had the CPU until `end` */
	u32 victim;
	/* A culprit's time that is not in the map yet. */
	u32 culprit;
	u32 reserved;
	struct tn_cpu_runs *runs;
	u64 pending;
	u64 causes[TN_CAUSES];
};

static __always_inline void settle_culprit(struct tn_sharing *share)
{
	if (share->pending && !blame_add(share->victim, share->culprit, TN_BLAME_CPU, share->pending))
		share->causes[TN_CAUSE_UNEXPLAINED] += share->pending;
	share->pending = 0;
}

/* A run of `length` ns, of which `part` is in the wait and `stolen` was taken. */
static __always_inline void share_run(struct tn_sharing *share, u64 part, u64 length, u64 stolen)
{
	if (stolen) {
		/* Of a run that is only partly in the wait, nobody knows which part was taken. */
		if (part < length)
			stolen = length < (1ULL << 32) && stolen <= length ? stolen * part / length : 0;
		if (stolen > part)
			stolen = part;
		share->causes[TN_CAUSE_STEAL] += stolen;
		part -= stolen;
	}
	if (!share->slot) {
		share->causes[TN_CAUSE_HOST] += part;
	} else if (share->slot == share->victim) {
		share->causes[TN_CAUSE_SELF] += part;
	} else {
		if (share->slot != share->culprit) {
			settle_culprit(share);
			share->culprit = share->slot;
		}
		share->pending += part;
	}
}

/* One run further back; 1 = that was the last one. */
static long share_next(u32 index, struct tn_sharing *share)
{
	struct tn_cpu_runs *runs = share->runs;
	struct tn_run *before;
	u64 begin;

	if (!runs || share->end <= share->from)
		return 1;
	before = &runs->ring[(runs->next - 1 - index) & (TN_RUNS - 1)];
	begin = before->end_ns;
	/* Not written yet. */
	if (!begin || begin > share->end)
		return 1;
	share_run(share, elapsed(begin > share->from ? begin : share->from, share->end),
		  share->end - begin, elapsed(before->stolen_ns, share->stolen));
	share->end = begin;
	share->slot = before->slot;
	share->stolen = before->stolen_ns;
	return 0;
}

/*
 * Shares out what is left of a wait of `wait` ns until now. `running` has the CPU that the
 * thread waited on, and `runs` are that CPU's; null: nobody knows how it came here.
 */
static __always_inline void share_wait(struct tn_cpu_runs *runs, struct tn_task *thread,
				       struct task_struct *task, u32 victim, u32 running, u64 wait,
				       u64 now)
{
	struct tn_causes *row = bpf_map_lookup_elem(&causes, &victim);
	u64 left = elapsed(thread->shared_ns, wait), quota;
	u64 *ns;

	if (!row || !left)
		return;
	ns = row->ns[TN_BLAME_CPU];
	thread->shared_ns += left;
	if (!runs) {
		ns[TN_CAUSE_UNEXPLAINED] += left;
		return;
	}
	/* A quota stops who runs, or who just woke: its part comes first. */
	quota = quota_part(thread, task, left);
	ns[TN_CAUSE_QUOTA] += quota;
	left -= quota;
	if (left) {
		struct tn_sharing share = {
			.from = now - left,
			.end = now,
			.stolen = stolen_from_cpu_of(task),
			.slot = running,
			.victim = victim,
			.runs = runs,
		};

		bpf_loop(TN_RUNS, share_next, &share, 0);
		settle_culprit(&share);
		ns[TN_CAUSE_SELF] += share.causes[TN_CAUSE_SELF];
		ns[TN_CAUSE_HOST] += share.causes[TN_CAUSE_HOST];
		ns[TN_CAUSE_STEAL] += share.causes[TN_CAUSE_STEAL];
		ns[TN_CAUSE_UNEXPLAINED] +=
			share.causes[TN_CAUSE_UNEXPLAINED] + elapsed(share.from, share.end);
	}
}

/*
 * The CPU goes from one slot to another. `ran` is who had it: 0 if what ran was in no
 * container, whatever is remembered.
 */
static __always_inline void end_run(struct tn_cpu_runs *runs, struct task_struct *task, u32 ran,
				    u32 next, u64 now)
{
	struct tn_run *run;

	if (ran != next) {
		run = &runs->ring[runs->next & (TN_RUNS - 1)];
		run->end_ns = now;
		run->stolen_ns = stolen_from_cpu_of(task);
		run->slot = ran;
		runs->next++;
	}
	runs->running = next;
}
