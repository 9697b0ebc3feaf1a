/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Exec and exit of a container's processes, one event each, through the ring.
 * Each event is counted as produced, and as lost where the ring had no room.
 * The first exec in a slot's cgroups arms the slot.
 */
#include "events.h"
#include "paths.h"
#include "tasks.h"

#define SIGNAL_GROUP_EXIT 4

static __always_inline u32 length_of(long read)
{
	/* What the helper read includes the NUL; an error is nothing. */
	return read > 0 ? read - 1 : 0;
}

/* What runs now. */
static __always_inline void read_program(struct tn_exec *exec, struct task_struct *task)
{
	struct file *file = BPF_CORE_READ(task, mm, exe_file);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	char name[sizeof("memfd:") - 1] = {};

	exec->inode = BPF_CORE_READ(inode, i_ino);
	exec->device = BPF_CORE_READ(inode, i_sb, s_dev);
	if (BPF_CORE_READ(inode, i_nlink))
		return;
	/* Without a name in any directory; a memfd's is made of this and what its maker says. */
	bpf_probe_read_kernel(name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	if (begins_with(name, "memfd:"))
		exec->flags |= TN_EXEC_MEMFD;
}

static __noinline int send_exec(struct task_struct *task, u32 slot, const char *filename)
{
	u32 zero = 0, at, bytes;
	struct tn_exec_scratch *scratch = bpf_map_lookup_elem(&exec_scratch, &zero);
	u64 argv = BPF_CORE_READ(task, mm, arg_start), argv_end = BPF_CORE_READ(task, mm, arg_end);
	struct tn_exec *exec;

	if (!scratch)
		return 0;
	exec = &scratch->exec;
	exec->flags = 0;
	read_program(exec, task);

	at = length_of(bpf_probe_read_kernel_str(scratch->text, TN_EXEC_PATH, filename));
	exec->path_bytes = at;
	/* A path that fills its room may go on. */
	if (at == TN_EXEC_PATH - 1)
		exec->flags |= TN_EXEC_PATH_TRUNCATED;

	bytes = argv_end - argv > TN_EXEC_ARGV ? TN_EXEC_ARGV : argv_end - argv;
	if (argv_end - argv > TN_EXEC_ARGV)
		exec->flags |= TN_EXEC_ARGV_TRUNCATED;
	/* The compiler knows the bounds and would drop the checks that older verifiers need. */
	asm volatile("" : "+r"(bytes), "+r"(at));
	if (at > TN_EXEC_PATH)
		return 0;
	if (bytes > TN_EXEC_ARGV || bpf_probe_read_user(scratch->text + at, bytes, (void *)argv)) {
		exec->flags |= TN_EXEC_ARGV_TRUNCATED;
		bytes = 0;
	}
	exec->argv_bytes = bytes;
	at += bytes;

	asm volatile("" : "+r"(at));
	if (at > TN_EXEC_PATH + TN_EXEC_ARGV)
		return 0;
	bytes = write_path(scratch->text + at, TN_PATH_OF_EXEC, working_directory(task), false,
			   TN_EXEC_CWD);
	if (bytes >> 16)
		exec->flags |= TN_EXEC_CWD_TRUNCATED;
	bytes &= 0xffff;
	exec->cwd_bytes = bytes;
	at += bytes + sizeof(*exec);
	asm volatile("" : "+r"(at));
	if (at > sizeof(*scratch))
		return 0;
	count_event(TN_EVENT_EXEC, slot, bpf_ringbuf_output(&events, scratch, at, 0));
	return 0;
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
	/* As long as the longest literal that it is compared with. */
	char path[16] = {};
	struct tn_slot_state *state;
	struct tn_task *thread;
	u32 zero = 0, slot;
	struct tn_exec_scratch *scratch;

	if (cgroup->level == 0)
		return 0;
	slot = slot_of_id(cgroup->kn->id);
	if (!slot)
		return 0;
	state = bpf_map_lookup_elem(&slot_states, &slot);
	if (!state)
		return 0;
	bpf_probe_read_kernel_str(path, sizeof(path), bprm->filename);
	if (is_set_up(state, slot, path))
		return 0;
	thread = remember_task(task);
	if (thread)
		thread->arriving = 0;
	/* Its time on this CPU up to here was the runtime's. */
	if (thread && (!state->armed || thread->state == TN_THREAD_UNKNOWN))
		is_running(thread, task);
	state->armed = 1;

	if (!is_wanted(TN_EVENT_EXEC, slot, BPF_CORE_READ(task, cred, uid.val)))
		return 0;
	scratch = bpf_map_lookup_elem(&exec_scratch, &zero);
	if (!scratch)
		return 0;
	fill_event(&scratch->exec.event, TN_EVENT_EXEC, slot, task);
	return send_exec(task, slot, bprm->filename);
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
	if (!is_wanted(TN_EVENT_EXIT, slot, BPF_CORE_READ(task, cred, uid.val)))
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
