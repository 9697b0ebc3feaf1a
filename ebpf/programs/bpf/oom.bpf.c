/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A container's process that the kernel kills for want of memory: one event
 * with what it held, the limit, and who asked for one page too many.
 *
 * A raw tracepoint, because mark_victim's argument changed: a thread's number
 * before 6.9, the thread itself since. Its number alone means walking the list
 * of processes, as the kernel just did to choose the victim.
 *
 * The kernel also marks processes that are dying already, without killing
 * anybody; it counts kills in the memory cgroup, and a mark under which that
 * count did not rise is none.
 */
#include "events.h"

#define MEMCG_OOM_KILL 4
#define MM_FILEPAGES 0
#define MM_ANONPAGES 1
#define MM_SWAPENTS 2
#define MM_SHMEMPAGES 3
#define CGROUP_DEPTH 8
/* The most processes that a walk passes. */
#define PROCESSES_MAX 65536

struct oom_walk {
	struct task_struct *task;
	s32 wanted;
	bool found;
};

static long next_process(u32 index, struct oom_walk *walk)
{
	/* Of its own: a read through `walk` would make the loader look for its type in the kernel. */
	struct task_struct *task = walk->task;
	struct list_head *next;

	if (BPF_CORE_READ(task, pid) == walk->wanted) {
		walk->found = true;
		return 1;
	}
	next = BPF_CORE_READ(task, tasks.next);
	walk->task = (void *)next - bpf_core_field_offset(struct task_struct, tasks);
	return 0;
}

static __always_inline struct task_struct *victim_of(u64 argument)
{
	struct oom_walk walk = { .wanted = argument };

	/* Kernel addresses have the highest bit; numbers of threads do not. */
	if ((s64)argument < 0)
		return (struct task_struct *)argument;
	walk.task = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader);
	bpf_loop(PROCESSES_MAX, next_process, &walk, 0);
	return walk.found ? walk.task : 0;
}

static __always_inline u64 pages(struct mm_struct *mm, u32 kind)
{
	s64 count = 0;
	void *counters = mm;

	/* Since 6.2 each CPU keeps some pages of its own back: up to 32, or twice the number of CPUs. */
	if (bpf_core_type_exists(struct mm_rss_stat))
		counters += bpf_core_field_offset(struct mm_struct___before_6_2, rss_stat) +
			    kind * sizeof(count);
	else
		counters += bpf_core_field_offset(struct mm_struct, rss_stat) +
			    kind * bpf_core_type_size(struct percpu_counter) +
			    bpf_core_field_offset(struct percpu_counter, count);
	bpf_probe_read_kernel(&count, sizeof(count), counters);
	return count > 0 ? count : 0;
}

/* The tightest limit from the cgroup upwards, and the use of the cgroup that has it. */
static __always_inline void read_limit(struct tn_oom *event, struct mem_cgroup *memcg)
{
	struct page_counter *counter =
		(void *)memcg + bpf_core_field_offset(struct mem_cgroup, memory);
	u32 depth;

	event->limit_pages = ~0ULL;
	event->usage_pages = 0;
	for (depth = 0; depth < CGROUP_DEPTH && counter; depth++) {
		u64 max = BPF_CORE_READ(counter, max);

		if (max < event->limit_pages) {
			event->limit_pages = max;
			event->usage_pages = BPF_CORE_READ(counter, usage.counter);
		}
		counter = BPF_CORE_READ(counter, parent);
	}
}

static __always_inline struct mem_cgroup *memory_cgroup_of(struct task_struct *task)
{
	u32 index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	void *css = 0;

	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)set + bpf_core_field_offset(struct css_set, subsys) +
				      index * sizeof(css));
	return css - bpf_core_field_offset(struct mem_cgroup, css);
}

/* How often the kernel killed in this cgroup, and whether that is news. */
static __always_inline bool is_kill(struct mem_cgroup *memcg, u64 *kills)
{
	u64 id = BPF_CORE_READ(memcg, css.cgroup, kn, id), *seen;

	bpf_probe_read_kernel(kills, sizeof(*kills),
			      (void *)memcg + bpf_core_field_offset(struct mem_cgroup, memory_events) +
				      MEMCG_OOM_KILL * sizeof(*kills));
	seen = bpf_map_lookup_elem(&oom_kills_seen, &id);
	if (seen && *seen == *kills)
		return false;
	bpf_map_update_elem(&oom_kills_seen, &id, kills, BPF_ANY);
	return true;
}

static __always_inline void fill_victim(struct tn_event *event, u32 slot, struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);

	event->kind = TN_EVENT_OOM;
	event->slot = slot;
	event->time_ns = bpf_ktime_get_ns();
	event->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	event->pid = BPF_CORE_READ(task, tgid);
	event->tid = BPF_CORE_READ(task, pid);
	event->parent_pid = BPF_CORE_READ(task, real_parent, tgid);
	event->uid = BPF_CORE_READ(task, cred, uid.val);
	fill_pid(event, pid, BPF_CORE_READ(pid, level));
	event->namespaces.mnt = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	event->namespaces.net = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	event->namespaces.uts = BPF_CORE_READ(task, nsproxy, uts_ns, ns.inum);
	event->namespaces.ipc = BPF_CORE_READ(task, nsproxy, ipc_ns, ns.inum);
	event->namespaces.cgroup = BPF_CORE_READ(task, nsproxy, cgroup_ns, ns.inum);
	event->namespaces.user = BPF_CORE_READ(task, cred, user_ns, ns.inum);
	BPF_CORE_READ_STR_INTO(&event->comm, task, comm);
	event->ancestors = walk_ancestors(event->ancestor, task, slot, false);
	event->reserved = 0;
}

SEC("raw_tp/mark_victim")
int oom_victim(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *task = victim_of(context->args[0]), *current;
	struct mem_cgroup *memcg;
	struct mm_struct *mm;
	struct tn_oom *event;
	u64 kills = 0;
	u32 slot;

	if (!task || BPF_CORE_READ(task, cgroups, dfl_cgrp, level) == 0)
		return 0;
	slot = slot_of_id(BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id));
	if (!slot || !is_armed(slot))
		return 0;
	memcg = memory_cgroup_of(task);
	if (!is_kill(memcg, &kills))
		return 0;
	if (!is_wanted(TN_EVENT_OOM, slot, BPF_CORE_READ(task, cred, uid.val)))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	count_event(TN_EVENT_OOM, slot, !event);
	if (!event)
		return 0;
	fill_victim(&event->event, slot, task);
	mm = BPF_CORE_READ(task, mm);
	event->anon_pages = pages(mm, MM_ANONPAGES);
	event->file_pages = pages(mm, MM_FILEPAGES);
	event->shmem_pages = pages(mm, MM_SHMEMPAGES);
	event->swap_pages = pages(mm, MM_SWAPENTS);
	event->cgroup_kills = kills;
	read_limit(event, memcg);
	current = (struct task_struct *)bpf_get_current_task();
	event->trigger_pid = BPF_CORE_READ(current, tgid);
	event->score_adjustment = BPF_CORE_READ(task, signal, oom_score_adj);
	bpf_get_current_comm(event->trigger_comm, sizeof(event->trigger_comm));
	bpf_ringbuf_submit(event, 0);
	return 0;
}
