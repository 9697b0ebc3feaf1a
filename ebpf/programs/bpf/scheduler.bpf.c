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
#include "cpu_blame.h"

#define TASK_INTERRUPTIBLE 1
#define TASK_UNINTERRUPTIBLE 2
#define TASK_NOLOAD 0x400

static __always_inline bool is_contained(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp->level != 0;
}

static __always_inline struct tn_scheduler *counters_of_slot(u32 slot)
{
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

static __always_inline void switched_out(struct task_struct *task, u32 slot, u32 why, u64 now)
{
	struct tn_task *thread = bpf_task_storage_get(&tasks, task, 0, 0);
	u64 voluntary, involuntary;
	struct tn_scheduler *counts;

	if (!thread)
		return;
	voluntary = task->nvcsw;
	involuntary = task->nivcsw;
	/* What a thread did before it was known is not the container's. */
	counts = thread->state == TN_THREAD_UNKNOWN ? 0 : counters_of_slot(slot);
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
	if (why == TN_OFF_PREEMPTED)
		begin_wait(thread, task);
}

/* Since when a thread that is off its CPU waits for one; 0 = it does not. */
static __always_inline u64 waits_since(const struct tn_task *thread)
{
	return thread->state == TN_THREAD_OFF + TN_OFF_PREEMPTED ? thread->since_ns : thread->woken_ns;
}

/* The wait that has ended; 0 if there was none, or none that anybody knows of. */
static __always_inline u64 count_off_cpu(struct tn_scheduler *counts, struct tn_task *thread, u64 now)
{
	u32 why = thread->state - TN_THREAD_OFF, bucket;
	u64 since = thread->since_ns, woken = thread->woken_ns, wait;

	if (why >= TN_OFF_WOKEN)
		return 0;
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
		return 0;
	}
	bucket = bucket_of(wait);
	counts->waits.sum_ns += wait;
	if (bucket < TN_BUCKETS)
		counts->waits.buckets[bucket]++;
	return wait;
}

static __always_inline void switched_in(struct task_struct *task, u32 slot, struct tn_cpu_runs *runs,
					u32 ran, u64 now)
{
	struct tn_task *thread = bpf_task_storage_get(&tasks, task, 0, 0);
	struct tn_scheduler *counts;

	if (!thread)
		return;
	if (thread->state >= TN_THREAD_OFF) {
		counts = counters_of_slot(slot);
		if (counts) {
			u64 wait = count_off_cpu(counts, thread, now);

			/* Perhaps it came here unseen. */
			if (thread->waits_on_cpu != bpf_get_smp_processor_id())
				runs = 0;
			if (wait)
				share_wait(runs, thread, task, slot, ran, wait, now);
		}
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
	u32 zero = 0, from, to, ran;
	struct tn_cpu_runs *runs;
	u64 now;

	if (!out && !in)
		return 0;
	now = bpf_ktime_get_ns();
	runs = bpf_map_lookup_elem(&cpu_runs, &zero);
	if (!runs)
		return 0;
	from = out ? counted_slot_of(prev) : 0;
	to = in ? counted_slot_of(next) : 0;
	/* Who it was when it came: it may have armed its slot meanwhile, or moved. */
	ran = out ? runs->running : 0;
	if (out)
		switched_out(prev, from, left_for(prev, preempt, prev_state), now);
	if (in)
		switched_in(next, to, runs, ran, now);
	end_run(runs, next, ran, to, now);
	return 0;
}

static __always_inline void woken(struct task_struct *task)
{
	struct tn_task *thread;

	if (!is_contained(task))
		return;
	thread = bpf_task_storage_get(&tasks, task, 0, 0);
	/* Not what runs, or waits already: a wake-up changes nothing for it. */
	if (!thread || thread->state < TN_THREAD_OFF || waits_since(thread))
		return;
	thread->woken_ns = bpf_ktime_get_ns();
	begin_wait(thread, task);
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
	begin_wait(thread, task);
	return 0;
}

/*
 * A thread that waits goes on waiting elsewhere: what kept it until now is known on the
 * CPU that it leaves, whose run queue is locked.
 */
static __always_inline void moved(struct task_struct *task, u32 slot, u32 from, u32 to)
{
	struct tn_task *thread = bpf_task_storage_get(&tasks, task, 0, 0);
	struct tn_cpu_runs *runs;
	u64 since, now;
	u32 zero = 0;

	if (!thread || thread->state < TN_THREAD_OFF)
		return;
	since = waits_since(thread);
	if (!since || thread->waits_on_cpu != from)
		return;
	runs = bpf_map_lookup_percpu_elem(&cpu_runs, &zero, from);
	if (!runs)
		return;
	now = bpf_ktime_get_ns();
	share_wait(runs, thread, task, slot, runs->running, elapsed(since, now), now);
	thread->waits_on_cpu = to;
	/* Nobody is moved into a run queue that is throttled. */
	thread->throttled_ns = TN_NOT_THROTTLED;
}

SEC("tp_btf/sched_migrate_task")
int BPF_PROG(scheduler_migrate, struct task_struct *task, int cpu)
{
	u32 from = task->thread_info.cpu, slot;
	struct tn_scheduler *counts;

	/* The kernel also says so when it stays where it is. */
	if (from == (u32)cpu)
		return 0;
	slot = counted_slot_of(task);
	counts = counters_of_slot(slot);
	if (!counts)
		return 0;
	counts->migrations++;
	moved(task, slot, from, cpu);
	return 0;
}
