/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Empty programs where the syscall and scheduler programs hook: what any
 * program there costs on this processor, of which the meters' cost is only the
 * rest. For measurements; no agent loads it.
 */
#include "kernel.h"

SEC("tp_btf/sys_exit")
int BPF_PROG(empty_exit)
{
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(empty_enter)
{
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(empty_switch)
{
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(empty_wakeup)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
