/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What needs a trampoline (fentry, LSM): an object of its own, as some kernels
 * refuse these and load all else. It shares maps with the meters by their pins.
 */
#include "slots.h"

/* Before the exec that arms the slot, hence armed or not. Never refuses. */
SEC("lsm/bprm_check_security")
int BPF_PROG(exec_attempted, struct linux_binprm *bprm, int ret)
{
	struct cgroup *cgroup = bpf_get_current_task_btf()->cgroups->dfl_cgrp;
	u32 slot = cgroup->level ? slot_of_id(cgroup->kn->id) : 0;
	struct tn_trampoline_counts *counts = bpf_map_lookup_elem(&trampoline_counts, &slot);

	if (slot && counts)
		__sync_fetch_and_add(&counts->exec_attempts, 1);
	return ret;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
