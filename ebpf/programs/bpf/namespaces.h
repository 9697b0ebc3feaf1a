/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Which namespaces a call was made in. Almost all of a container's processes
 * have the same ones: two loads and two compares tell, and they count in the
 * slot's own row. Who is elsewhere (unshare, setns) has a row of the slot for
 * exactly that set.
 *
 * The two addresses are compared and never followed. One may be reused when
 * what lay there is gone; but whoever gets new namespaces is seen at that moment
 * (recheck_namespaces), and then the slot compares inodes from there on.
 *
 * Who came in by setns (docker exec) has the slot's namespaces at an address of
 * its own, and seven inodes are read through fifteen pointers: its thread keeps
 * them, and that they are the slot's. So does everybody else if such a one was the
 * first that a new agent counted. Whoever gets others has a new address at that
 * moment, and the call that did it is counted and so reads them again before a third
 * can come: only while nobody counts can an address return unseen, and thread_attach
 * ends that.
 */
#pragma once

#include "slots.h"

#define CLONE_NEW_NAMESPACES 0x7e020000
/* Nobody's address. */
#define COMPARE_INODES (~0ULL)

static __noinline int read_namespaces(struct task_struct *task, struct tn_namespaces *set)
{
	struct nsproxy *nsproxy = BPF_CORE_READ(task, nsproxy);
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	struct upid *number = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
			      level * bpf_core_type_size(struct upid);

	if (!set)
		return 0;
	set->mnt = BPF_CORE_READ(nsproxy, mnt_ns, ns.inum);
	set->pid = BPF_CORE_READ(number, ns, ns.inum);
	set->net = BPF_CORE_READ(nsproxy, net_ns, ns.inum);
	set->user = BPF_CORE_READ(task, cred, user_ns, ns.inum);
	set->uts = BPF_CORE_READ(nsproxy, uts_ns, ns.inum);
	set->ipc = BPF_CORE_READ(nsproxy, ipc_ns, ns.inum);
	set->cgroup = BPF_CORE_READ(nsproxy, cgroup_ns, ns.inum);
	return 0;
}

/* Whether the thread was at these addresses when its namespaces were read. */
static __always_inline bool is_where_it_was(struct task_struct *task, const struct tn_task *thread)
{
	return thread->nsproxy == (u64)task->nsproxy &&
	       thread->user_ns == (u64)task->cred->user_ns;
}

/* As read_namespaces, of the running task. */
static __always_inline void own_namespaces(struct task_struct *task, struct tn_task *thread,
					   struct tn_namespaces *set)
{
	if (thread && is_where_it_was(task, thread)) {
		*set = thread->namespaces;
		return;
	}
	read_namespaces(task, set);
	if (thread) {
		thread->home = 0;
		thread->namespaces = *set;
		thread->user_ns = (u64)task->cred->user_ns;
		thread->nsproxy = (u64)task->nsproxy;
	}
}

static __always_inline bool is_same_set(const struct tn_namespaces *a, const struct tn_namespaces *b)
{
	return a->mnt == b->mnt && a->pid == b->pid && a->net == b->net && a->user == b->user &&
	       a->uts == b->uts && a->ipc == b->ipc && a->cgroup == b->cgroup;
}

static __always_inline bool has_own_addresses(struct task_struct *task, struct tn_slot_state *state)
{
	return (u64)task->nsproxy == state->nsproxy && (u64)task->cred->user_ns == state->user_ns;
}

/*
 * The first that counts says what the slot's own namespaces are. Who comes in
 * between finds them half said and gets a row of its own for the same set:
 * the reader adds up by set.
 */
static __always_inline bool claim(struct task_struct *task, struct tn_slot_state *state,
				  const struct tn_namespaces *set)
{
	u32 children, run = bpf_ktime_get_ns() | 1;

	if (state->claimed || __sync_val_compare_and_swap(&state->claimed, 0, run) != 0)
		return false;
	state->own = *set;
	state->user_ns = (u64)task->cred->user_ns;
	/* Who has unshared its pid namespace shares an nsproxy with children that live in another. */
	children = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, ns.inum);
	state->nsproxy = children == set->pid ? (u64)task->nsproxy : COMPARE_INODES;
	return true;
}

static __noinline struct tn_syscalls *syscalls_row_by_inodes(struct task_struct *task, u32 slot,
						    struct tn_slot_state *state)
{
	struct tn_namespace_key key = { .slot = slot };
	struct tn_syscalls *row;
	struct tn_task *thread;
	u32 nobody = 0;

	if (!state)
		return 0;
	/*
	 * A thread that was there before the programs has no memory yet. Not remember_task,
	 * which would count one thread without as often as it calls.
	 */
	thread = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (thread && thread->home && thread->home == state->claimed && is_where_it_was(task, thread))
		return bpf_map_lookup_elem(&syscalls, &slot);
	own_namespaces(task, thread, &key.namespaces);
	if (claim(task, state, &key.namespaces) || is_same_set(&key.namespaces, &state->own)) {
		if (thread)
			thread->home = state->claimed;
		return bpf_map_lookup_elem(&syscalls, &slot);
	}
	row = bpf_map_lookup_elem(&namespace_syscalls, &key);
	if (row)
		return row;
	/* Nobody's row is all zero, and no stack could hold one. */
	row = bpf_map_lookup_elem(&syscalls, &nobody);
	if (row)
		bpf_map_update_elem(&namespace_syscalls, &key, row, BPF_NOEXIST);
	row = bpf_map_lookup_elem(&namespace_syscalls, &key);
	if (row) {
		state->others = 1;
		return row;
	}
	count_self(TN_SELF_NAMESPACES_FULL);
	return bpf_map_lookup_elem(&syscalls, &slot);
}

/* Where a call of this task is counted. */
static __always_inline struct tn_syscalls *syscalls_row_of(struct task_struct *task, u32 slot,
						  struct tn_slot_state *state)
{
	if (has_own_addresses(task, state))
		return bpf_map_lookup_elem(&syscalls, &slot);
	return syscalls_row_by_inodes(task, slot, state);
}

/* Of a task whose namespaces are new to its slot. */
static __noinline int recheck_namespaces(struct task_struct *task, u32 slot)
{
	struct tn_slot_state *state = bpf_map_lookup_elem(&slot_states, &slot);
	struct tn_namespaces set = {};

	if (!state || !has_own_addresses(task, state))
		return 0;
	read_namespaces(task, &set);
	if (!is_same_set(&set, &state->own))
		state->nsproxy = COMPARE_INODES;
	return 0;
}
