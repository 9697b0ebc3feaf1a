/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What all audit events share: how they begin, whether they are wanted, how they are counted. */
#pragma once

#include "slots.h"

static __always_inline void fill_pid(struct tn_event *event, struct task_struct *leader)
{
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	struct upid *number = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			      level * bpf_core_type_size(struct upid);

	event->container_pid = BPF_CORE_READ(number, nr);
	event->namespaces.pid = BPF_CORE_READ(number, ns, ns.inum);
}

/* How many there are, up to the first that is not in the slot. */
static __noinline u32 read_ancestors(struct tn_ancestor *ancestor, struct task_struct *task,
				     u32 slot)
{
	struct cgroup *own = BPF_CORE_READ(task, cgroups, dfl_cgrp), *cgroup = own;
	u32 i, pid;

	for (i = 0; i < TN_ANCESTORS; i++) {
		if (cgroup != own && slot_of_id(BPF_CORE_READ(cgroup, kn, id)) != slot)
			return i;
		task = BPF_CORE_READ(task, real_parent, group_leader);
		pid = BPF_CORE_READ(task, tgid);
		if (!pid)
			return i;
		ancestor[i].pid = pid;
		bpf_core_read(ancestor[i].comm, sizeof(ancestor[i].comm), &task->comm);
		cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	}
	return TN_ANCESTORS;
}

/* Of a task that the verifier knows. */
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
	event->uid = task->cred->uid.val;
	fill_pid(event, task->group_leader);
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
