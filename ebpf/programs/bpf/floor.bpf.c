/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Empty programs where the meters hook what happens often: what any program
 * there costs on this processor, of which the meters' cost is only the rest.
 * For measurements; no agent loads it.
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

SEC("cgroup_skb/ingress")
int empty_ingress(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/egress")
int empty_egress(struct __sk_buff *skb)
{
	return 1;
}

/* Asks to be told of round trips, which come with each acknowledgement, and does nothing then. */
SEC("sockops")
int empty_socket(struct bpf_sock_ops *op)
{
	if (op->op == BPF_SOCK_OPS_TCP_CONNECT_CB || op->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		bpf_sock_ops_cb_flags_set(op, BPF_SOCK_OPS_RTT_CB_FLAG);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
