/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the scheduler does with a container's threads: time on a CPU, time off
 * one by what the thread left it for, waits in the run queue as the kernel
 * itself counts them in /proc/PID/schedstat, context switches as in
 * /proc/PID/status, migrations as perf's cpu-migrations.
 *
 * A thread's time is cut where its state changes: at the switch out, at the
 * wake-up and at the switch in. Each piece is counted when it has ended, all of
 * it at a switch, so that a wake-up only notes the time. A missed look-up (on
 * 6.1 the storage of another thread may be busy) loses that piece and nothing
 * after it.
 *
 * All programs run with a run queue's lock held and interrupts off: increments
 * are plain, and storage is looked up, never made.
 */
#include "tasks.h"

#define TASK_INTERRUPTIBLE 1
#define TASK_UNINTERRUPTIBLE 2
#define TASK_NOLOAD 0x400

/* The clock of another CPU may be a little behind. */
static __always_inline u64 elapsed(u64 from, u64 to)
{
	return to > from ? to - from : 0;
}

static __always_inline bool is_contained(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->level != 0;
}

static __always_inline struct tn_scheduler *counters_of(struct task_struct *task)
{
	u32 slot = counted_slot_of(task);

	return slot ? bpf_map_lookup_elem(&scheduler, &slot) : 0;
}

/*
 * `state` is the tracepoint's own: the task's field may say by now that
 * somebody wakes it. Zero in that field means that a signal kept it runnable.
 */
static __always_inline u32 left_for(struct task_struct *task, bool preempt, u32 state)
{
	/* A preempted thread stays on the queue, whatever state it was about to take. */
	if (preempt || task->__state == 0)
		return TN_OFF_PREEMPTED;
	if (state & TASK_INTERRUPTIBLE)
		return TN_OFF_INTERRUPTIBLE;
	if (state & TASK_UNINTERRUPTIBLE)
		/* Idle kernel threads, which do not count as load either. */
		return state & TASK_NOLOAD ? TN_OFF_INTERRUPTIBLE : TN_OFF_UNINTERRUPTIBLE;
	return TN_OFF_STOPPED;
}

static __always_inline void switched_out(struct task_struct *task, u32 why, u64 now)
{
	struct tn_task *thread = bpf_task_storage_get(&tasks, task, 0, 0);
	u64 voluntary, involuntary;
	struct tn_scheduler *counts;

	if (!thread)
		return;
	voluntary = task->nvcsw;
	involuntary = task->nivcsw;
	/* What a thread did before it was known is not the container's. */
	counts = thread->state == TN_THREAD_UNKNOWN ? 0 : counters_of(task);
	if (counts) {
		counts->voluntary += voluntary - thread->voluntary;
		counts->involuntary += involuntary - thread->involuntary;
		if (thread->state == TN_THREAD_RUNNING)
			counts->on_cpu_ns += elapsed(thread->since_ns, now);
	}
	thread->voluntary = voluntary;
	thread->involuntary = involuntary;
	thread->since_ns = now;
	thread->woken_ns = 0;
	thread->state = TN_THREAD_OFF + why;
}

static __always_inline void count_off_cpu(struct tn_scheduler *counts, struct tn_task *thread, u64 now)
{
	u32 why = thread->state - TN_THREAD_OFF, bucket;
	u64 since = thread->since_ns, woken = thread->woken_ns, wait;

	if (why >= TN_OFF_WOKEN)
		return;
	if (why == TN_OFF_PREEMPTED) {
		wait = elapsed(since, now);
		counts->off_cpu_ns[TN_OFF_PREEMPTED] += wait;
	} else if (woken) {
		wait = elapsed(woken, now);
		counts->off_cpu_ns[why] += elapsed(since, woken);
		counts->off_cpu_ns[TN_OFF_WOKEN] += wait;
	} else {
		/* Its wake-up was missed: slept until now, as far as anybody knows. */
		counts->off_cpu_ns[why] += elapsed(since, now);
		return;
	}
	bucket = bucket_of(wait);
	counts->waits.sum_ns += wait;
	if (bucket < TN_BUCKETS)
		counts->waits.buckets[bucket]++;
}

static __always_inline void switched_in(struct task_struct *task, u64 now)
{
	struct tn_task *thread = bpf_task_storage_get(&tasks, task, 0, 0);
	struct tn_scheduler *counts;

	if (!thread)
		return;
	if (thread->state >= TN_THREAD_OFF) {
		counts = counters_of(task);
		if (counts)
			count_off_cpu(counts, thread, now);
	} else if (thread->state == TN_THREAD_UNKNOWN) {
		thread->voluntary = task->nvcsw;
		thread->involuntary = task->nivcsw;
	}
	thread->since_ns = now;
	thread->state = TN_THREAD_RUNNING;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(scheduler_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	bool out = is_contained(prev), in = is_contained(next);
	u64 now;

	if (!out && !in)
		return 0;
	now = bpf_ktime_get_ns();
	if (out)
		switched_out(prev, left_for(prev, preempt, prev_state), now);
	if (in)
		switched_in(next, now);
	return 0;
}

static __always_inline void woken(struct task_struct *task)
{
	struct tn_task *thread;

	if (!is_contained(task))
		return;
	thread = bpf_task_storage_get(&tasks, task, 0, 0);
	/* Not what runs, or waits already: a wake-up changes nothing for it. */
	if (thread && thread->state >= TN_THREAD_OFF && thread->woken_ns == 0)
		thread->woken_ns = bpf_ktime_get_ns();
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(scheduler_wakeup, struct task_struct *task)
{
	woken(task);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(scheduler_wakeup_new, struct task_struct *task)
{
	struct tn_task *thread;

	if (!is_contained(task))
		return 0;
	thread = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!thread)
		return 0;
	/* Its life begins in the queue, and not with a sleep. */
	thread->since_ns = thread->woken_ns = bpf_ktime_get_ns();
	thread->state = TN_THREAD_OFF + TN_OFF_INTERRUPTIBLE;
	return 0;
}

SEC("tp_btf/sched_migrate_task")
int BPF_PROG(scheduler_migrate, struct task_struct *task, int cpu)
{
	struct tn_scheduler *counts;

	/* The kernel also says so when it stays where it is. */
	if (task->thread_info.cpu == (u32)cpu)
		return 0;
	counts = counters_of(task);
	if (counts)
		counts->migrations++;
	return 0;
}
