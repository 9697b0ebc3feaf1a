/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The kernel's types, as far as the programs look into them. The loader moves
 * each access to where the running kernel has the field (CO-RE), so order and
 * neighbours do not matter here; names do. No vmlinux.h.
 */
#pragma once

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define false 0

/* Error numbers, as helpers give them below zero. */
#define EPERM 1
#define EAGAIN 11
#define ENOMEM 12
#define EACCES 13
#define EEXIST 17

#define CORE __attribute__((preserve_access_index))

struct kernfs_node {
	u64 id;
	const char *name;
} CORE;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} CORE;

struct cgroup_root {
	int hierarchy_id;
} CORE;

struct cgroup {
	struct cgroup_subsys_state self;
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
} CORE;

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
} CORE;

struct ns_common {
	unsigned int inum;
} CORE;

struct mnt_namespace {
	struct ns_common ns;
} CORE;

struct pid_namespace {
	struct ns_common ns;
} CORE;

struct net {
	struct ns_common ns;
} CORE;

struct user_namespace {
	struct ns_common ns;
} CORE;

struct uts_namespace {
	struct ns_common ns;
} CORE;

struct ipc_namespace {
	struct ns_common ns;
} CORE;

struct cgroup_namespace {
	struct ns_common ns;
} CORE;

struct nsproxy {
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	struct net *net_ns;
	struct cgroup_namespace *cgroup_ns;
} CORE;

/* Read whole, so just as it lies in every kernel. */
struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
} CORE;

typedef struct {
	unsigned int val;
} kuid_t;

/* Read whole, so just as it lies in every kernel (of a little-endian processor). */
struct qstr {
	u32 hash;
	u32 len;
	const unsigned char *name;
};

struct super_block {
	u32 s_dev;
} CORE;

struct inode {
	unsigned short i_mode;
	unsigned int i_nlink; /* in a nameless union */
	unsigned long i_ino;
	struct super_block *i_sb;
} CORE;

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
} CORE;

struct vfsmount {
	struct dentry *mnt_root;
} CORE;

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
} CORE;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} CORE;

struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
} CORE;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} CORE;

struct files_struct {
	struct fdtable *fdt;
} CORE;

struct fs_struct {
	struct path root;
	struct path pwd;
} CORE;

struct cred {
	kuid_t uid;
	struct user_namespace *user_ns;
} CORE;

typedef struct {
	long counter;
} atomic_long_t;

struct percpu_counter {
	s64 count;
} CORE;

/* Before 6.2, instead of the counters themselves. */
struct mm_rss_stat {
	atomic_long_t count[4];
} CORE;

struct mm_struct___before_6_2 {
	struct mm_rss_stat rss_stat;
} CORE;

struct mm_struct {
	struct percpu_counter rss_stat[4];
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
} CORE;

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
	unsigned int flags;
	int group_exit_code;
	short oom_score_adj;
} CORE;

struct thread_info {
	u32 status;
	u32 cpu;
} CORE;

struct list_head {
	struct list_head *next;
} CORE;

struct rq {
	u64 clock;
	u64 clock_pelt;
	unsigned long lost_idle_time;
	/* With CONFIG_PARAVIRT_TIME_ACCOUNTING. */
	u64 prev_steal_time_rq;
	/* With CONFIG_PARAVIRT: brought up to date by ticks alone. */
	u64 prev_steal_time;
} CORE;

/* All but `rq` with CONFIG_CFS_BANDWIDTH. */
struct cfs_rq {
	struct rq *rq;
	int throttle_count;
	u64 throttled_clock_pelt;
	u64 throttled_clock_pelt_time;
	/* Since 6.6. */
	u64 throttled_clock_self;
	u64 throttled_clock_self_time;
} CORE;

struct sched_entity {
	struct cfs_rq *cfs_rq;
} CORE;

struct task_struct {
	struct thread_info thread_info;
	unsigned int __state;
	struct sched_entity se;
	/* Since 6.18, which throttles thread by thread. */
	bool throttled;
	int pid;
	int tgid;
	int exit_code;
	u64 start_time;
	unsigned long nvcsw;
	unsigned long nivcsw;
	struct list_head tasks;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	const struct cred *cred;
	struct signal_struct *signal;
	char comm[16];
} CORE;

struct page_counter {
	atomic_long_t usage;
	unsigned long max;
	struct page_counter *parent;
} CORE;

/* Its value depends on what the kernel was built with. */
enum cgroup_subsys_id {
	memory_cgrp_id,
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	atomic_long_t memory_events[5];
} CORE;

struct kernel_siginfo {
	int si_code; /* in a nameless union */
} CORE;

struct linux_binprm {
	const char *filename;
} CORE;

/* The user-space header names the registers otherwise than the kernel does. */
struct pt_regs___kernel {
	unsigned long ip;
	unsigned long sp;
	unsigned long orig_ax;
	unsigned long di;
	unsigned long si;
	unsigned long dx;
	unsigned long r10;
	unsigned long r8;
	unsigned long r9;
	unsigned long bx;
	unsigned long cx;
	unsigned long bp;
} CORE;

struct sock_cgroup_data {
	struct cgroup *cgroup;
} CORE;

struct in6_addr {
	u8 bytes[16];
};

struct sock_common {
	/* The addresses and ports of IPv4 in nameless unions. */
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport; /* network order */
	u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags; /* in a nameless union */
} CORE;

enum sock_flags {
	SOCK_DONE = 1,
};

struct sock {
	struct sock_common __sk_common;
	int sk_err;
	u16 sk_type;
	u16 sk_protocol;
	u32 sk_ack_backlog;
	u32 sk_max_ack_backlog;
	struct sock_cgroup_data sk_cgrp_data;
} CORE;

struct socket {
	struct sock *sk;
} CORE;

struct sockaddr_un {
	u16 sun_family;
	char sun_path[108];
} CORE;

struct unix_address {
	int len;
	struct sockaddr_un name[1];
} CORE;

struct unix_sock {
	struct unix_address *addr;
} CORE;

struct inet_sock {
	struct sock sk;
} CORE;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
} CORE;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u64 bytes_received;
	u64 bytes_sent;
	u64 bytes_retrans;
} CORE;

struct net_device;

struct netdev_queue {
	struct net_device *dev;
} CORE;

struct Qdisc {
	u32 handle;
} CORE;

struct sk_buff {
	/* These two in nameless unions. */
	struct sk_buff *next;
	s64 tstamp;
	unsigned int len;
	u32 hash;
} CORE;

struct blkcg {
	struct cgroup_subsys_state css;
} CORE;

struct blkcg_gq {
	struct blkcg *blkcg;
} CORE;

struct gendisk {
	int major;
	int first_minor;
} CORE;

struct block_device {
	struct gendisk *bd_disk;
} CORE;

struct bio {
	struct block_device *bi_bdev;
	unsigned int bi_opf;
	struct blkcg_gq *bi_blkg;
} CORE;

/* Bits of cmd_flags and bi_opf; the loader puts the running kernel's numbers in. */
enum req_flag_bits {
	__REQ_FUA = 17,
	__REQ_PREFLUSH = 18,
};

struct request_queue {
	struct gendisk *disk;
} CORE;

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
	struct bio *bio;
	u64 start_time_ns;
	u64 io_start_time_ns;
} CORE;
