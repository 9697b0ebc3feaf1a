/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Exec and exit of a container's processes, one event each, through the ring.
 * Each event is counted as produced, and as lost where the ring had no room.
 * The first exec in a slot's cgroups arms the slot.
 */
#include "tasks.h"

#define SIGNAL_GROUP_EXIT 4

static __always_inline void fill_pid(struct tn_event *event, struct task_struct *leader)
{
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	struct upid *number = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			      level * bpf_core_type_size(struct upid);

	event->container_pid = BPF_CORE_READ(number, nr);
	event->namespaces.pid = BPF_CORE_READ(number, ns, ns.inum);
}

static __always_inline void fill_event(struct tn_event *event, u32 kind, u32 slot,
				       struct task_struct *task)
{
	struct nsproxy *nsproxy = task->nsproxy;

	event->kind = kind;
	event->slot = slot;
	event->time_ns = bpf_ktime_get_ns();
	event->cgroup_id = task->cgroups->dfl_cgrp->kn->id;
	event->pid = task->tgid;
	event->tid = task->pid;
	event->parent_pid = task->real_parent->tgid;
	event->uid = BPF_CORE_READ(task, cred, uid.val);
	fill_pid(event, task->group_leader);
	event->namespaces.mnt = BPF_CORE_READ(nsproxy, mnt_ns, ns.inum);
	event->namespaces.net = BPF_CORE_READ(nsproxy, net_ns, ns.inum);
	event->namespaces.uts = BPF_CORE_READ(nsproxy, uts_ns, ns.inum);
	event->namespaces.ipc = BPF_CORE_READ(nsproxy, ipc_ns, ns.inum);
	event->namespaces.cgroup = BPF_CORE_READ(nsproxy, cgroup_ns, ns.inum);
	event->namespaces.user = BPF_CORE_READ(task, cred, user_ns, ns.inum);
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

static __always_inline void count_event(u32 kind, u32 slot, bool lost)
{
	struct tn_event_counts *counts = bpf_map_lookup_elem(&event_counts, &slot);

	if (!counts)
		return;
	__sync_fetch_and_add(&counts->produced[kind], 1);
	if (lost)
		__sync_fetch_and_add(&counts->lost[kind], 1);
}

/* `size` is a constant at each call, so that the verifier knows the bound. */
static __always_inline void read_argv(struct tn_exec *exec, char *argv, u32 size, u64 start, u64 bytes)
{
	u32 wanted = bytes > size ? size : bytes;

	if (bytes > size)
		exec->flags |= TN_EXEC_ARGV_TRUNCATED;
	/* The compiler knows the bound and would drop the check that older verifiers need. */
	asm volatile("" : "+r"(wanted));
	if (wanted <= size && bpf_probe_read_user(argv, wanted, (void *)start) == 0)
		exec->argv_bytes = wanted;
	else
		exec->flags |= TN_EXEC_ARGV_TRUNCATED;
}

static __always_inline u32 length_of(long read)
{
	/* What the helper read includes the NUL; an error is nothing. */
	return read > 0 ? read - 1 : 0;
}

static __always_inline void start_exec(struct tn_exec *exec, struct task_struct *task, u32 slot)
{
	fill_event(&exec->event, TN_EVENT_EXEC, slot, task);
	exec->flags = 0;
	exec->argv_bytes = 0;
}

static __always_inline void send_short(struct task_struct *task, u32 slot, const char *path,
				       u32 path_bytes, u64 argv, u64 argv_bytes)
{
	struct tn_exec_short *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	count_event(TN_EVENT_EXEC, slot, !event);
	if (!event)
		return;
	start_exec(&event->exec, task, slot);
	event->exec.path_bytes = path_bytes;
	__builtin_memcpy(event->path, path, sizeof(event->path));
	read_argv(&event->exec, event->argv, sizeof(event->argv), argv, argv_bytes);
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void send_long(struct task_struct *task, u32 slot, const char *filename,
				      u64 argv, u64 argv_bytes)
{
	struct tn_exec_long *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	u32 path_bytes;

	count_event(TN_EVENT_EXEC, slot, !event);
	if (!event)
		return;
	start_exec(&event->exec, task, slot);
	path_bytes = length_of(bpf_probe_read_kernel_str(event->path, sizeof(event->path), filename));
	event->exec.path_bytes = path_bytes;
	if (path_bytes == sizeof(event->path) - 1)
		event->exec.flags |= TN_EXEC_PATH_TRUNCATED;
	read_argv(&event->exec, event->argv, sizeof(event->argv), argv, argv_bytes);
	bpf_ringbuf_submit(event, 0);
}

/* A task that is on a CPU now counts from now on. */
static __always_inline void is_running(struct tn_task *thread, struct task_struct *task)
{
	thread->voluntary = task->nvcsw;
	thread->involuntary = task->nivcsw;
	thread->since_ns = bpf_ktime_get_ns();
	thread->state = TN_THREAD_RUNNING;
}

/*
 * runc executes a copy of itself, by a descriptor, when the process that sets a
 * container up may be in its cgroup already: not the container's doing.
 */
static __always_inline bool is_set_up(const struct tn_slot_state *state, u32 slot, const char *path)
{
	return first_foreign_slot && slot >= first_foreign_slot && !state->armed &&
	       (begins_with(path, "/dev/fd/") || begins_with(path, "/proc/self/"));
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;
	/* No longer than this: a program has 512 bytes of stack, its callees' included. */
	char path[TN_EXEC_SHORT_PATH] = {};
	struct tn_slot_state *state;
	struct tn_task *thread;
	u32 slot, path_bytes;
	u64 argv, argv_bytes;

	if (cgroup->level == 0)
		return 0;
	slot = slot_of_id(cgroup->kn->id);
	if (!slot)
		return 0;
	state = bpf_map_lookup_elem(&slot_states, &slot);
	if (!state)
		return 0;
	path_bytes = length_of(bpf_probe_read_kernel_str(path, sizeof(path), bprm->filename));
	if (is_set_up(state, slot, path))
		return 0;
	thread = remember_task(task);
	/* Its time on this CPU up to here was the runtime's. */
	if (thread && (!state->armed || thread->state == TN_THREAD_UNKNOWN))
		is_running(thread, task);
	state->armed = 1;

	argv = task->mm->arg_start;
	argv_bytes = task->mm->arg_end - argv;
	/* A path that fills the buffer may go on. */
	if (path_bytes < sizeof(path) - 1 && argv_bytes <= TN_EXEC_SHORT_ARGV)
		send_short(task, slot, path, path_bytes, argv, argv_bytes);
	else
		send_long(task, slot, bprm->filename, argv, argv_bytes);
	return 0;
}

/* Whether this is the process's end, seen for the first time. */
static __always_inline bool is_process_end(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct tn_task *state;

	if (task->signal->live.counter > 0)
		return false;
	/* Two threads that end at the same time may both find nobody left. */
	state = remember_task(leader);
	if (!state)
		return task == leader;
	return __sync_val_compare_and_swap(&state->exit_reported, 0, 1) == 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	u32 slot = counted_slot_of(task);
	struct signal_struct *signal = task->signal;
	struct tn_exit *event;

	if (!slot || !is_process_end(task))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	count_event(TN_EVENT_EXIT, slot, !event);
	if (!event)
		return 0;
	fill_event(&event->event, TN_EVENT_EXIT, slot, task);
	/* As wait(2) will report it: the group's code, or the leader's if nobody called exit_group. */
	event->wait_status = signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code :
								 task->group_leader->exit_code;
	event->reserved = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}
