/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What all audit events share: how they begin, whether they are wanted, how they are counted. */
#pragma once

#include "slots.h"

static __always_inline void fill_pid(struct tn_event *event, struct pid *pid, u32 level)
{
	void *numbers = (void *)pid + bpf_core_field_offset(struct pid, numbers);
	struct upid number = {};

	bpf_probe_read_kernel(&number, sizeof(number), numbers + level * sizeof(number));
	event->container_pid = number.nr;
	event->namespaces.pid = BPF_CORE_READ(number.ns, ns.inum);
}

/* A load of its own where the verifier knows the type costs a tenth of the helper's. */
static __always_inline struct cgroup *cgroup_of(struct task_struct *task, const bool is_known)
{
	return is_known ? task->cgroups->dfl_cgrp : BPF_CORE_READ(task, cgroups, dfl_cgrp);
}

/* How many there are, up to the first that is not in the slot. */
static __always_inline u32 walk_ancestors(struct tn_ancestor *ancestor, struct task_struct *task,
					  u32 slot, const bool is_known)
{
	struct cgroup *own = cgroup_of(task, is_known), *cgroup = own;
	u32 i, pid;
	u64 id;

	for (i = 0; i < TN_ANCESTORS; i++) {
		if (cgroup != own) {
			id = is_known ? cgroup->kn->id : BPF_CORE_READ(cgroup, kn, id);
			if (slot_of_id(id) != slot)
				return i;
		}
		task = is_known ? task->real_parent->group_leader :
				  BPF_CORE_READ(task, real_parent, group_leader);
		pid = is_known ? task->tgid : BPF_CORE_READ(task, tgid);
		if (!pid)
			return i;
		ancestor[i].pid = pid;
		bpf_core_read(ancestor[i].comm, sizeof(ancestor[i].comm), &task->comm);
		cgroup = cgroup_of(task, is_known);
	}
	return TN_ANCESTORS;
}

static __noinline u32 read_ancestors(struct tn_ancestor *ancestor, struct task_struct *task,
				     u32 slot)
{
	return walk_ancestors(ancestor, task, slot, true);
}

/* Of a task that the verifier knows. */
static __always_inline void fill_event(struct tn_event *event, u32 kind, u32 slot,
				       struct task_struct *task)
{
	struct pid *pid = task->group_leader->thread_pid;
	struct nsproxy *nsproxy = task->nsproxy;

	event->kind = kind;
	event->slot = slot;
	event->time_ns = bpf_ktime_get_ns();
	event->cgroup_id = task->cgroups->dfl_cgrp->kn->id;
	event->pid = task->tgid;
	event->tid = task->pid;
	event->parent_pid = task->real_parent->tgid;
	event->uid = task->cred->uid.val;
	fill_pid(event, pid, pid->level);
	event->namespaces.mnt = nsproxy->mnt_ns->ns.inum;
	event->namespaces.net = nsproxy->net_ns->ns.inum;
	event->namespaces.uts = nsproxy->uts_ns->ns.inum;
	event->namespaces.ipc = nsproxy->ipc_ns->ns.inum;
	event->namespaces.cgroup = nsproxy->cgroup_ns->ns.inum;
	event->namespaces.user = task->cred->user_ns->ns.inum;
	/* Programs of sockets may not ask for the current task's name, but read it. */
	bpf_core_read(event->comm, sizeof(event->comm), &task->comm);
	event->ancestors = read_ancestors(event->ancestor, task, slot);
	event->reserved = 0;
}

static __always_inline void count_event(u32 kind, u32 slot, bool lost)
{
	struct tn_event_counts *counts = bpf_map_lookup_elem(&event_counts, &slot);

	if (!counts || kind >= TN_EVENT_KINDS)
		return;
	__sync_fetch_and_add(&counts->produced[kind], 1);
	if (lost)
		__sync_fetch_and_add(&counts->lost[kind], 1);
}

static __always_inline void count_filtered(u32 kind, u32 slot)
{
	struct tn_event_counts *counts = bpf_map_lookup_elem(&event_counts, &slot);

	if (counts && kind < TN_EVENT_KINDS)
		__sync_fetch_and_add(&counts->filtered[kind], 1);
}

static __always_inline bool allows(const struct tn_audit_filter *filter, u32 kind, u32 uid)
{
	return filter->kinds >> (kind & 31) & 1 && uid >= filter->uid_first &&
	       uid <= filter->uid_last;
}

/* Whether an event of this kind and user is wanted; one that is not is counted here. */
static __always_inline bool is_wanted(u32 kind, u32 slot, u32 uid)
{
	struct tn_audit_filter *filter = bpf_map_lookup_elem(&audit_filters, &slot);

	if (filter && allows(filter, kind, uid))
		return true;
	count_filtered(kind, slot);
	return false;
}
