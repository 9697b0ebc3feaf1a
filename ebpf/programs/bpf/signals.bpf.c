/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Signals that a container's process sends to one of another container, or of
 * none. What the kernel itself sends (a child ended, a timer) is nobody's doing.
 * A signal that may not be sent fails before this hook.
 */
#include "events.h"

#define SI_TIMER (-2)
#define SI_SIGIO (-5)
/* In place of an address: who sent it is not said, a process or the kernel. */
#define SEND_SIG_NOINFO 0
#define SEND_SIG_PRIV 1

/* Timers, queues and descriptors use the numbers from SI_SIGIO to SI_TIMER. */
static __always_inline bool is_sent_by_process(struct kernel_siginfo *info)
{
	s32 code;

	if ((u64)info == SEND_SIG_NOINFO)
		return true;
	if ((u64)info == SEND_SIG_PRIV)
		return false;
	code = BPF_CORE_READ(info, si_code);
	return code <= 0 && !(code >= SI_SIGIO && code <= SI_TIMER);
}

SEC("tp_btf/signal_generate")
int BPF_PROG(signal_sent, int sig, struct kernel_siginfo *info, struct task_struct *target,
	     int group, int result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup *from = task->cgroups->dfl_cgrp, *to = target->cgroups->dfl_cgrp;
	u32 slot, other;
	struct tn_call *call;

	if (from->level == 0 || from == to)
		return 0;
	slot = counted_slot_of(task);
	if (!slot)
		return 0;
	other = to->level ? slot_of_id(to->kn->id) : 0;
	if (other == slot || !is_sent_by_process(info))
		return 0;
	if (!is_wanted(TN_EVENT_SIGNAL, slot, BPF_CORE_READ(task, cred, uid.val)))
		return 0;
	call = bpf_ringbuf_reserve(&events, sizeof(*call), 0);
	count_event(TN_EVENT_SIGNAL, slot, !call);
	if (!call)
		return 0;
	__builtin_memset(call, 0, sizeof(*call));
	fill_event(&call->event, TN_EVENT_SIGNAL, slot, task);
	call->nr = TN_NO_CALL;
	call->args[0] = sig;
	call->args[1] = target->tgid;
	call->args[2] = other;
	bpf_ringbuf_submit(call, 0);
	return 0;
}
