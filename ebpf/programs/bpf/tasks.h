/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The memory that a container's thread carries with it. */
#pragma once

#include "slots.h"

/* Null if there is no memory, which is counted. */
static __always_inline struct tn_task *remember_task(struct task_struct *task)
{
	struct tn_task *thread =
		bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!thread)
		count_self(TN_SELF_TASKS_FULL);
	return thread;
}

/* Whether it came from outside and has executed nothing here yet. */
static __always_inline bool is_arriving(struct task_struct *task)
{
	struct tn_task *thread = bpf_task_storage_get(&tasks, task, 0, 0);

	return thread && thread->arriving;
}
