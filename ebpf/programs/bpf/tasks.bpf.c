/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Gives a container's threads their memory where allocating is safe: not under
 * a run queue's lock. Threads besides the leader that are moved into a
 * container's cgroup from outside get theirs with their next clone or exec.
 *
 * Who is born in a container by somebody outside is still the runtime's: what it does until it
 * executes the container's program, entering its namespaces above all, is no doing of the
 * container's.
 */
#include "namespaces.h"
#include "tasks.h"

static __always_inline bool is_outside(struct task_struct *task, u32 slot)
{
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;

	return !cgroup->level || slot_of_id(cgroup->kn->id) != slot;
}

SEC("tp_btf/task_newtask")
int BPF_PROG(thread_new, struct task_struct *task, u64 flags)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	struct cgroup *cgroup = task->cgroups->dfl_cgrp;
	u32 slot = cgroup->level ? slot_of_id(cgroup->kn->id) : 0;
	struct tn_task *thread;

	if (!slot)
		return 0;
	thread = remember_task(task);
	if (thread)
		thread->arriving = is_outside(parent, slot) || is_arriving(parent);
	if (flags & CLONE_NEW_NAMESPACES)
		recheck_namespaces(task, slot);
	return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(thread_attach, struct cgroup *cgroup, const char *path, struct task_struct *task)
{
	struct tn_task *thread;
	u32 slot;

	if (cgroup->root->hierarchy_id != 0 || !cgroup->level)
		return 0;
	slot = slot_of_id(cgroup->kn->id);
	if (!slot)
		return 0;
	thread = remember_task(task);
	/* Where it was until now, nobody saw what namespaces it got. */
	if (thread)
		thread->nsproxy = 0;
	recheck_namespaces(task, slot);
	return 0;
}
