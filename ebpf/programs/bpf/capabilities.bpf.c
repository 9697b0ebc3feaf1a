/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Capabilities that a container's process lacked, where its call failed for it.
 *
 * The kernel asks for capabilities all the time only to know how much memory or which
 * priority it may give, and its hook does not tell such questions from others. So a
 * refusal is remembered by the thread, with the call and the place in the program it was
 * in, and is an event if that call then returns EPERM or EACCES. Of several refusals in one
 * call the last one counts.
 */
#include "calls.h"
#include "events.h"
#include "tasks.h"

/* Which call it is, for as long as it lasts: its number and where the program stands. */
static __always_inline u64 place_of(struct task_struct *task)
{
	struct pt_regs___kernel *regs = (void *)bpf_task_pt_regs(task);

	return BPF_CORE_READ(regs, ip) ^ BPF_CORE_READ(regs, sp) << 16 ^
	       BPF_CORE_READ(regs, orig_ax) << 48;
}

SEC("tp_btf/cap_capable")
int BPF_PROG(capability_checked, const struct cred *cred, struct user_namespace *target,
	     const struct user_namespace *of, int cap, int ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tn_audit_filter *filter;
	struct tn_task *thread;
	u32 slot;

	if (!ret)
		return 0;
	slot = counted_slot_of(task);
	filter = slot ? bpf_map_lookup_elem(&audit_filters, &slot) : 0;
	/* Not counted as filtered: nobody knows yet whether it would be an event. */
	if (!filter || !(filter->kinds >> TN_EVENT_CAPABILITY & 1))
		return 0;
	thread = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!thread)
		return 0;
	thread->denied = cap + 1;
	thread->denied_at = place_of(task);
	return 0;
}

/* Of a call that failed by EPERM or EACCES; what else there is to tell of it comes behind. */
SEC("tp_btf/sys_exit")
int BPF_PROG(audit_denied, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tn_task *thread = bpf_task_storage_get(&tasks, task, 0, 0);
	u32 slot = counted_slot_of(task), denied, nr;
	struct tn_call *call;

	denied = thread ? thread->denied : 0;
	if (!denied || !slot)
		goto behind;
	thread->denied = 0;
	if (thread->arriving || thread->denied_at != place_of(task) ||
	    !is_wanted(TN_EVENT_CAPABILITY, slot, task->cred->uid.val))
		goto behind;
	call = bpf_ringbuf_reserve(&events, sizeof(*call), 0);
	count_event(TN_EVENT_CAPABILITY, slot, !call);
	if (!call)
		goto behind;
	__builtin_memset(call, 0, sizeof(*call));
	fill_event(&call->event, TN_EVENT_CAPABILITY, slot, task);
	call->nr = ((struct pt_regs___kernel *)regs)->orig_ax;
	if (task->thread_info.status & TS_COMPAT) {
		call->flags = TN_CALL_COMPAT;
		call->nr = TN_NO_CALL;
	}
	call->result = ret;
	call->args[0] = denied - 1;
	bpf_ringbuf_submit(call, 0);
behind:
	nr = ((struct pt_regs___kernel *)regs)->orig_ax;
	if (task->thread_info.status & TS_COMPAT || nr > TN_SYSCALL_OTHER)
		nr = TN_SYSCALL_OTHER;
	if (call_shapes[bounded(nr)].kind)
		bpf_tail_call(ctx, &call_programs, TN_PROGRAM_CALL);
	return 0;
}
