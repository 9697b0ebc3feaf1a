/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who kept a thread waiting for its CPU: who had that CPU meanwhile, as its most recent
 * runs tell, at most TN_RUNS of them.
 *
 * Two things are never a neighbour's: time in which the thread's quota, or one above
 * it, was used up, and time that the hypervisor took from the CPU, whoever had it.
 */
#pragma once

#include "blame.h"
#include "tasks.h"

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

struct tn_cpu_sharing {
	struct tn_sharing share;
	struct tn_cpu_runs *runs;
	u64 stolen; /* from the CPU until the end, in all */
};

/* What was taken from the `part` of a run that is in the wait, of `stolen` from all of it. */
static __always_inline u64 stolen_from_part(u64 part, u64 length, u64 stolen)
{
	/* Nobody knows which part was taken. */
	if (part < length)
		stolen = length < (1ULL << 32) && stolen <= length ? stolen * part / length : 0;
	return stolen < part ? stolen : part;
}

/* One run further back; 1 = that was the last one. */
static long share_run(u32 index, struct tn_cpu_sharing *cpu)
{
	struct tn_sharing *share = &cpu->share;
	struct tn_cpu_runs *runs = cpu->runs;
	struct tn_run *before;
	u64 begin, part, stolen;

	if (!runs || share->end <= share->from)
		return 1;
	before = &runs->ring[(runs->next - 1 - index) & (TN_RUNS - 1)];
	begin = before->end_ns;
	/* Not written yet. */
	if (!begin || begin > share->end)
		return 1;
	part = elapsed(begin > share->from ? begin : share->from, share->end);
	stolen = elapsed(before->stolen_ns, cpu->stolen);
	if (stolen) {
		stolen = stolen_from_part(part, share->end - begin, stolen);
		share->causes[TN_CAUSE_STEAL] += stolen;
	}
	share_part(share, part - stolen);
	share->end = begin;
	share->slot = before->slot;
	cpu->stolen = before->stolen_ns;
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
		struct tn_cpu_sharing cpu = {
			.share = {
				.from = now - left,
				.end = now,
				.slot = running,
				.victim = victim,
				.resource = TN_BLAME_CPU,
			},
			.runs = runs,
			.stolen = stolen_from_cpu_of(task),
		};

		begin_sharing(&cpu.share, runs->zero);
		bpf_loop(TN_RUNS, share_run, &cpu, 0);
		end_sharing(&cpu.share);
		ns[TN_CAUSE_SELF] += cpu.share.causes[TN_CAUSE_SELF];
		ns[TN_CAUSE_HOST] += cpu.share.causes[TN_CAUSE_HOST];
		ns[TN_CAUSE_STEAL] += cpu.share.causes[TN_CAUSE_STEAL];
		ns[TN_CAUSE_UNEXPLAINED] += cpu.share.causes[TN_CAUSE_UNEXPLAINED];
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
