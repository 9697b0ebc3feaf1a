/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Syscalls: counts at exit alone, always. While syscall_enter is attached, which
 * user space may change at any time, latency of one in sixteen, of each call that
 * waits for the disk, and of every call of a slot that is traced.
 *
 * Counted is what returns: exit and exit_group never do (process_exit sees
 * them), and a clone is counted in the parent only, though the child leaves the
 * kernel through the same door. A call that a signal interrupts and the kernel
 * restarts is counted each time; its -ERESTART… is not an error, as the caller
 * never sees it. 32-bit calls have other numbers and go to TN_SYSCALL_OTHER.
 */
#include "calls.h"
#include "namespaces.h"

#define NR_RT_SIGRETURN 15
#define NR_MSYNC 26
#define NR_FSYNC 74
#define NR_FDATASYNC 75
#define NR_SYNC_FILE_RANGE 277
#define NR_SYNCFS 306
#define NR_SETNS 308
#define FIRST_HIDDEN_ERRNO 512

/* Class of each number. User space owns the table. */
const volatile u8 syscall_class[TN_SYSCALLS] = {};
/* Class of each error number. User space owns this table, too. */
const volatile u8 error_class[TN_ERRNOS] = {};
/* How far from its place an error's cell may lie. */
#define ERROR_STEPS 8

/* Why a call is timed. */
#define TIMED_SAMPLE 1
#define TIMED_SYNC 2
#define TIMED_TRACE 4

static __always_inline void add_to(struct tn_histogram *histogram, u64 duration, u32 bucket)
{
	histogram->sum_ns += duration;
	if (bucket < TN_BUCKETS)
		histogram->buckets[bucket]++;
}

static __always_inline void add_to_trace(u32 slot, u32 nr, bool failed, u64 start, u64 duration,
					 u32 bucket)
{
	struct tn_slot_trace *trace = bpf_map_lookup_elem(&slot_traces, &slot);
	struct tn_trace_call *call;
	u32 key;

	/* It may have ended since the call began, and the row may be another's. */
	if (!trace || start < trace->since_ns || start + duration >= trace->until_ns)
		return;
	key = trace->row * TN_SYSCALLS + nr;
	call = bpf_map_lookup_elem(&trace_calls, &key);
	if (!call)
		return;
	if (failed)
		call->errors++;
	add_to(&call->latency, duration, bucket);
}

static __always_inline void record_latency(struct task_struct *task, u32 slot, u32 nr, bool failed)
{
	u32 tid = task->pid, index = tid & (TN_SAMPLES - 1), zero = 0, class, bucket, why;
	struct tn_timing *state = bpf_map_lookup_elem(&timing, &zero);
	struct tn_syscall_latency *latency;
	struct tn_histogram *sync;
	struct tn_sample *sample;
	u64 start, duration;

	if (!state || !state->since_ns)
		return;
	sample = bpf_map_lookup_elem(&syscall_samples, &index);
	if (!sample || sample->tid != tid)
		return;
	start = sample->start_ns;
	why = sample->why;
	sample->tid = 0;
	/*
	 * Left by a dead thread that had this id: it ended within a call, which never returned.
	 * Or taken before syscall_enter was detached for a while, whose return nobody matched.
	 */
	if (start < task->start_time || start < state->since_ns)
		return;
	duration = bpf_ktime_get_ns() - start;
	bucket = bucket_of(duration);
	if (why & TIMED_SAMPLE) {
		latency = bpf_map_lookup_elem(&syscall_latency, &slot);
		class = syscall_class[bounded(nr)];
		if (latency && class < TN_SYSCALL_CLASSES)
			add_to(&latency->classes[class], duration, bucket);
	}
	if (why & TIMED_SYNC) {
		sync = bpf_map_lookup_elem(&sync_latency, &slot);
		if (sync)
			add_to(sync, duration, bucket);
	}
	if (why & TIMED_TRACE)
		add_to_trace(slot, nr, failed, start, duration, bucket);
}

/* Apart from syscall_exit, which succeeds most of the time and is short then. */
static __noinline int count_error(struct tn_syscalls *counts, u32 nr, u32 errno)
{
	u32 class = errno < TN_ERRNOS ? error_class[errno] : 0;
	u32 key = class << 16 | (nr + 1), place = nr * 31 + class * 7, step;

	if (!counts)
		return 0;
	counts->errors[bounded(nr)]++;
	for (step = 0; step < ERROR_STEPS; step++) {
		struct tn_error_cell *cell = &counts->cells[(place + step) & (TN_ERROR_CELLS - 1)];

		if (!cell->key)
			cell->key = key;
		if (cell->key == key) {
			cell->count++;
			break;
		}
	}
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(syscall_exit, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;
	struct tn_slot_state *state;
	struct tn_syscalls *counts;
	bool failed;
	s64 number;
	u32 slot, nr;

	if (cgroup->level == 0)
		return 0;
	slot = slot_of_id(cgroup->kn->id);
	state = slot ? bpf_map_lookup_elem(&slot_states, &slot) : 0;
	if (!state || !state->armed)
		return 0;
	number = ((struct pt_regs___kernel *)regs)->orig_ax;
	failed = (u64)ret > (u64)-FIRST_HIDDEN_ERRNO;
	if (task->thread_info.status & TS_COMPAT) {
		nr = TN_SYSCALL_OTHER;
	} else if (number == -1) {
		/* The restored frame wiped the number, and `ret` is the interrupted code's register. */
		nr = NR_RT_SIGRETURN;
		failed = false;
	} else {
		nr = (u64)number < TN_SYSCALL_OTHER ? number : TN_SYSCALL_OTHER;
		if (ret == 0 && is_clone(nr))
			return 0;
	}
	if ((nr == NR_SETNS || nr == NR_UNSHARE) && ret == 0)
		recheck_namespaces(task, slot);
	counts = syscalls_row_of(task, slot, state);
	if (!counts)
		return 0;
	counts->count[bounded(nr)]++;
	if (failed)
		count_error(counts, nr, -ret);
	record_latency(task, slot, nr, failed);
	/* From there the way leads to the other one. */
	if (failed && (ret == -EPERM || ret == -EACCES))
		bpf_tail_call(ctx, &call_programs, TN_PROGRAM_DENIED);
	if (call_shapes[bounded(nr)].kind)
		bpf_tail_call(ctx, &call_programs, TN_PROGRAM_CALL);
	return 0;
}

static __always_inline bool is_sampled(void)
{
	u32 zero = 0;
	u64 *state = bpf_map_lookup_elem(&dice, &zero);

	if (!state)
		return false;
	/* Knuth's MMIX constants; the high bits are the good ones. A fixed stride would follow loops. */
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return *state >> 60 == 0;
}

static __always_inline bool is_sync(struct task_struct *task, u64 nr)
{
	if (nr != NR_FSYNC && nr != NR_FDATASYNC && nr != NR_MSYNC && nr != NR_SYNC_FILE_RANGE &&
	    nr != NR_SYNCFS)
		return false;
	return !(task->thread_info.status & TS_COMPAT);
}

static __always_inline bool is_traced(u32 slot)
{
	struct tn_slot_trace *trace = bpf_map_lookup_elem(&slot_traces, &slot);

	return trace && bpf_ktime_get_ns() < trace->until_ns;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(syscall_enter, struct pt_regs *regs, long nr)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 zero = 0, index, slot, why = 0;
	struct tn_sample *sample;
	struct tn_timing *state;

	if (task->cgroups->dfl_cgrp->level == 0)
		return 0;
	state = bpf_map_lookup_elem(&timing, &zero);
	if (!state)
		return 0;
	if (state->sample && is_sampled())
		why |= TIMED_SAMPLE;
	if (is_sync(task, nr))
		why |= TIMED_SYNC;
	if (!why && !state->traces)
		return 0;
	slot = counted_slot_of(task);
	if (!slot)
		return 0;
	if (state->traces && is_traced(slot))
		why |= TIMED_TRACE;
	if (!why)
		return 0;
	index = task->pid & (TN_SAMPLES - 1);
	sample = bpf_map_lookup_elem(&syscall_samples, &index);
	if (!sample)
		return 0;
	sample->start_ns = bpf_ktime_get_ns();
	sample->why = why;
	sample->tid = task->pid;
	return 0;
}
