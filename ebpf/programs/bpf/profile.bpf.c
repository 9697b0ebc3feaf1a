/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Which system calls a slot asks for, and which of them a seccomp filter refuses. Both
 * programs are attached only while some slot is recorded.
 *
 * A call is recorded at its entry: so are those that never return. The kernel runs seccomp
 * before the tracepoint (syscall_trace_enter), and a refused call skips everything up to the
 * tracepoint at the exit: what leaves the kernel without having entered was refused. No error
 * number is needed to tell, which the call itself could have given as well.
 *
 * A slot whose programs have a filter is recorded from the moment a thread has one: with the
 * runtime's own last steps up to execve, which the next filter must allow as well, and without
 * all it does before. Without filters recording begins with the slot's first exec.
 */
#include "slots.h"

#define SECCOMP_MODE_FILTER 2
#define EPERM 1
#define ENOSYS 38
#define MAX_ERRNO 4095

struct seccomp___profile {
	int mode;
} CORE;

struct task_struct___profile {
	struct seccomp___profile seccomp;
} CORE;

/* Null if this task's calls are not recorded now. */
static __always_inline struct tn_profile_control *recording_of(struct task_struct *task, u32 *slot)
{
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;
	struct tn_profile_control *control;

	if (cgroup->level == 0)
		return 0;
	*slot = slot_of_id(cgroup->kn->id);
	if (!*slot)
		return 0;
	control = bpf_map_lookup_elem(&profile_controls, slot);
	if (!control || !control->recording)
		return 0;
	if (control->filtered)
		return ((struct task_struct___profile *)task)->seccomp.mode == SECCOMP_MODE_FILTER ?
			       control :
			       0;
	return is_armed(*slot) ? control : 0;
}

static __always_inline u32 number_of(s64 nr)
{
	u32 number = (u64)nr < TN_SYSCALL_OTHER ? nr : TN_SYSCALL_OTHER;

	/* The compiler knows the bound and would drop the check that the verifier wants to see. */
	asm volatile("" : "+r"(number));
	return number & (TN_SYSCALLS - 1);
}

static __always_inline void set_bit(u64 *words, u32 nr)
{
	u64 *word = words + (nr >> 6), bit = 1ULL << (nr & 63);

	/* Nearly always it is set already, and nothing is written. */
	if (!(*(volatile u64 *)word & bit))
		__sync_fetch_and_or(word, bit);
}

static __always_inline void record_call(struct task_struct *task, u32 slot, s64 nr)
{
	struct tn_profile *profile = bpf_map_lookup_elem(&profiles, &slot);

	if (!profile)
		return;
	if (task->thread_info.status & TS_COMPAT)
		set_bit(profile->compat, number_of(nr));
	else
		set_bit(profile->called, number_of(nr));
}

static __always_inline void record_refusal(struct task_struct *task, u32 slot, s64 nr, s64 ret)
{
	struct tn_refused_key key = { .slot = slot, .nr = number_of(nr) };
	struct tn_refused first = { .error = -ret <= MAX_ERRNO && ret < 0 ? -ret : 0 };
	struct tn_refused *refused;
	struct tn_profile *profile;

	if (task->thread_info.status & TS_COMPAT)
		key.nr |= TN_PROFILE_COMPAT;
	refused = bpf_map_lookup_elem(&refused_calls, &key);
	if (!refused) {
		/* Whoever loses this race counts in the winner's entry. */
		bpf_map_update_elem(&refused_calls, &key, &first, BPF_NOEXIST);
		refused = bpf_map_lookup_elem(&refused_calls, &key);
	}
	if (refused) {
		__sync_fetch_and_add(&refused->count, 1);
		return;
	}
	profile = bpf_map_lookup_elem(&profiles, &slot);
	if (profile)
		__sync_fetch_and_add(&profile->refusals_lost, 1);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(profile_enter, struct pt_regs *regs, long nr)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tn_profile_control *control;
	struct tn_passage *passage;
	struct tn_profile *profile;
	u32 slot;

	control = recording_of(task, &slot);
	if (!control)
		return 0;
	record_call(task, slot, nr);
	if (!control->filtered)
		return 0;
	passage = bpf_task_storage_get(&passages, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (passage) {
		passage->since_ns = control->since_ns;
		passage->passed = 1;
		return 0;
	}
	profile = bpf_map_lookup_elem(&profiles, &slot);
	if (profile)
		__sync_fetch_and_add(&profile->unnoted, 1);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(profile_exit, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tn_profile_control *control;
	struct tn_passage *passage;
	bool is_known;
	u32 slot;
	s64 nr;

	control = recording_of(task, &slot);
	if (!control || !control->filtered)
		return 0;
	passage = bpf_task_storage_get(&passages, task, 0, 0);
	is_known = passage && passage->since_ns == control->since_ns;
	if (is_known && passage->passed) {
		passage->passed = 0;
		return 0;
	}
	/*
	 * Nobody is refused with 0: this is a new thread that leaves its parent's clone, or the
	 * call that installed the first filter.
	 */
	if (ret == 0)
		return 0;
	nr = ((struct pt_regs___kernel *)regs)->orig_ax;
	if (is_known || task->start_time >= control->since_ns) {
		record_refusal(task, slot, nr, ret);
		return 0;
	}
	/*
	 * The first return of a thread that was there before the recording: from a call that it
	 * waited in, most likely. What filters answer is taken for an answer of theirs, so that
	 * no profile allows more than its container could do.
	 */
	if (ret == -EPERM || ret == -ENOSYS)
		record_refusal(task, slot, nr, ret);
	else
		record_call(task, slot, nr);
	passage = bpf_task_storage_get(&passages, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (passage) {
		passage->since_ns = control->since_ns;
		passage->passed = 0;
	}
	return 0;
}
