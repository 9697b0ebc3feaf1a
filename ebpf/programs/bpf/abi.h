/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What both sides of the kernel boundary see. The Rust half is the crate
 * tenantry-abi; a test compares its sizes and offsets with this object's BTF.
 * Only fixed-width fields, padding is spelled out.
 */
#pragma once

#include <linux/types.h>

#define TN_SYSCALLS 512
/* Index of what has no number of its own here: 32-bit calls and unknown ones. */
#define TN_SYSCALL_OTHER 511
#define TN_SYSCALL_CLASSES 12
/* Error numbers that have a class of their own in the table; the rest is class 0. */
#define TN_ERRNOS 256
#define TN_ERROR_CLASSES 9
#define TN_ERROR_CELLS 256
#define TN_BUCKETS 40
#define TN_CACHE_WORDS 16384
#define TN_SAMPLES 65536
#define TN_TRACES 4

/* A cgroup, by kernfs id within one hierarchy (0 is v2, else /proc/cgroups' number). */
struct tn_cgroup_key {
	__u64 id;
	__u32 hierarchy;
	__u32 reserved;
};

/* Inodes, as /proc/PID/ns shows them. */
struct tn_namespaces {
	__u32 mnt;
	__u32 pid;
	__u32 net;
	__u32 user;
	__u32 uts;
	__u32 ipc;
	__u32 cgroup;
};

/* Values of cgroup_slots: the slot, and whether this very cgroup is a foreign container's own, not one nested in it. */
#define TN_SLOT_MASK 0xffff
#define TN_FOREIGN_TOP 0x10000

/* Foreign containers that can be born before user space has handed out more slots. */
#define TN_POOL_SLOTS 32
#define TN_CGROUP_PATH 512
#define TN_CGROUP_NAME 256
/* The end of a path that tells the cgroups of one container in two hierarchies from all others. */
#define TN_CGROUP_TAIL 128

enum tn_cgroup_change {
	TN_CGROUP_BORN = 0,
	TN_CGROUP_GONE = 1,
};

/* A foreign container's own cgroup came or went. */
struct tn_cgroup_event {
	__u32 change;
	__u32 slot; /* 0: born when the pool was empty */
	__u64 id;
	__u32 hierarchy;
	__u32 path_bytes; /* without the NUL; 0 where it is gone */
	char path[TN_CGROUP_PATH];
};

struct tn_cgroup_tail {
	char tail[TN_CGROUP_TAIL];
};

struct tn_cgroup_scratch {
	struct tn_cgroup_event event;
	char name[TN_CGROUP_NAME];
	struct tn_cgroup_tail tail;
};

struct tn_slot_state {
	/* 0 until the first exec in the slot's cgroups: what a runtime does to set up counts for nobody. */
	__u32 armed;
	/* Not 0 when `own` is known, the namespaces of the first that counted in this run; each run's is another. */
	__u32 claimed;
	/* Addresses of those that certainly have these namespaces; never followed. */
	__u64 nsproxy;
	__u64 user_ns;
	/* In the slot's own row from earlier runs, which had other namespaces. */
	__u64 calls_before;
	__u64 errors_before;
	struct tn_namespaces own;
	/* 1 if the slot has rows in namespace_syscalls. */
	__u32 others;
};

struct tn_namespace_key {
	__u32 slot;
	struct tn_namespaces namespaces;
};

/* Bucket 0 holds 0 and 1 ns, bucket i (2^(i-1), 2^i] ns, the last one everything above. */
struct tn_histogram {
	__u64 sum_ns;
	__u64 buckets[TN_BUCKETS];
};

/* Errors of one syscall and one class. */
struct tn_error_cell {
	__u64 count;
	__u32 key; /* class << 16 | nr + 1; 0 = free */
	__u32 reserved;
};

/*
 * Errors are counted twice: by number, always, and in a cell by number and class. A program
 * fails in few ways, so that few cells hold them all; what found no cell is the difference.
 */
struct tn_syscalls {
	__u64 count[TN_SYSCALLS];
	__u64 errors[TN_SYSCALLS];
	struct tn_error_cell cells[TN_ERROR_CELLS];
};

struct tn_syscall_latency {
	struct tn_histogram classes[TN_SYSCALL_CLASSES];
};

/* How syscalls are timed at this moment. */
struct tn_timing {
	/* When syscall_enter was attached, ktime: samples from before are stale. 0 = it is not. */
	__u64 since_ns;
	/* Whether one call in sixteen is timed. */
	__u32 sample;
	/* How many slots are traced. */
	__u32 traces;
};

/* Words of a bitmap over TN_SYSCALLS numbers. */
#define TN_PROFILE_WORDS (TN_SYSCALLS / 64)
/* Beside a number: it is one of the 32-bit system calls'. */
#define TN_PROFILE_COMPAT 0x10000

/* Whether a slot's calls are recorded for a profile. */
struct tn_profile_control {
	/* ktime when it began; 0 = never. */
	__u64 since_ns;
	__u32 recording;
	/* Its programs have a seccomp filter: who has none is its runtime, and is left out. */
	__u32 filtered;
	/* User space's notes: no process was in its cgroup when it began; what the kernel had left
	 * out of the programs' runs by then. */
	__u32 from_start;
	__u32 missed_before;
};

/* What a slot asked for since its recording began. */
struct tn_profile {
	/* One bit for each number; TN_SYSCALL_OTHER for those beyond the table. */
	__u64 called[TN_PROFILE_WORDS];
	/* The same for 32-bit calls, which have numbers of their own. */
	__u64 compat[TN_PROFILE_WORDS];
	/* Calls whose passing could not be noted: they may stand among the refused ones. */
	__u64 unnoted;
	/* Refusals that found no room in `refused_calls`. */
	__u64 refusals_lost;
};

struct tn_refused_key {
	__u32 slot;
	/* Perhaps with TN_PROFILE_COMPAT. */
	__u32 nr;
};

struct tn_refused {
	__u64 count;
	/* The first one's error number; 0 if it was given another answer. */
	__u32 error;
	__u32 reserved;
};

/* A slot whose every call is timed for a while. */
struct tn_slot_trace {
	/* ktime; calls that began before are not part of it. */
	__u64 since_ns;
	/* ktime; it ends then, whether or not anybody is there. 0 = no trace. */
	__u64 until_ns;
	__u32 row;
	__u32 reserved;
};

/* Calls of one number in a trace. */
struct tn_trace_call {
	__u64 errors;
	struct tn_histogram latency;
};

/* What a thread that is off its CPU does. The last follows a sleep; the others begin at the switch out. */
enum tn_off_cpu {
	TN_OFF_INTERRUPTIBLE = 0,
	TN_OFF_UNINTERRUPTIBLE = 1, /* "D" in ps */
	TN_OFF_STOPPED = 2, /* by a signal, a tracer or the freezer */
	TN_OFF_PREEMPTED = 3, /* runnable all the time: preempted, or it yielded */
	TN_OFF_WOKEN = 4, /* runnable since a wake-up */
	TN_OFF_STATES = 5,
};

/* What kept somebody waiting that is no other container. */
enum tn_own_cause {
	TN_CAUSE_SELF = 0, /* the same container */
	TN_CAUSE_HOST = 1, /* what is in no container; a CPU or a disk that idled, too */
	TN_CAUSE_QUOTA = 2, /* its own CPU quota, or one above it; a container's own bandwidth */
	TN_CAUSE_STEAL = 3, /* the hypervisor had the CPU */
	TN_CAUSE_UNEXPLAINED = 4, /* nobody remembers */
	TN_CAUSES = 5,
};

enum tn_blamed_resource {
	TN_BLAME_CPU = 0,
	TN_BLAME_DISK = 1,
	TN_BLAME_NETWORK = 2,
	TN_BLAMED_RESOURCES = 3,
};

/*
 * Major numbers of the queues that hold a container to its own bandwidth: nobody else's
 * packets pass there. The runtime gives them these.
 */
#define TN_BANDWIDTH_MAJOR 0x7e41
#define TN_BANDWIDTH_MAJOR_NEXT 0x7e42

/* With what stands in the map `blame` for the same victim, these are all its waits. */
struct tn_causes {
	__u64 ns[TN_BLAMED_RESOURCES][TN_CAUSES];
};

/* Who kept whom waiting, and for what. */
struct tn_blame_key {
	__u32 victim; /* slots, none of them 0, and never the same */
	__u32 culprit;
	__u32 resource;
};

struct tn_scheduler {
	/* From runnable to running: what TN_OFF_PREEMPTED and TN_OFF_WOKEN add up to. */
	struct tn_histogram waits;
	__u64 on_cpu_ns;
	__u64 off_cpu_ns[TN_OFF_STATES];
	__u64 voluntary;
	__u64 involuntary;
	__u64 migrations;
};

struct tn_traffic {
	__u64 rx_bytes;
	__u64 rx_packets;
	__u64 tx_bytes;
	__u64 tx_packets;
};

/* Why a datagram for a slot's socket was not queued. */
enum tn_udp_drop {
	TN_UDP_BUFFER = 0, /* the socket's receive buffer was full */
	TN_UDP_MEMORY = 1, /* all UDP sockets together had their share, or there was no memory */
	TN_UDP_DROPS = 2,
};

struct tn_network {
	struct tn_traffic external;
	struct tn_traffic loopback;
	/* What of it was UDP. */
	struct tn_traffic udp_external;
	struct tn_traffic udp_loopback;
	__u64 udp_drops[TN_UDP_DROPS];
};

enum tn_disk_op {
	TN_DISK_READ = 0,
	TN_DISK_WRITE = 1,
	TN_DISK_FLUSH = 2,
	TN_DISK_DISCARD = 3,
	TN_DISK_OTHER = 4,
};

struct tn_disk_key {
	__u32 slot; /* 0: charged to the root cgroup, of which only ios, bytes and errors are kept */
	__u32 major;
	__u32 minor;
	__u32 op;
};

struct tn_disk {
	__u64 ios;
	__u64 bytes;
	__u64 errors;
	__u64 requeues;
	__u64 merges;
	__u64 in_flight;
	struct tn_histogram latency;
	struct tn_histogram queue;
};

/* Instead of a time of issue: taken back from the device. */
#define TN_REQUEUED (~0ULL)

/* A disk request at the device; bytes and time add up over partial completions and requeues. */
struct tn_request {
	__u64 issued_ns;
	__u64 served_ns;
	__u64 bytes;
	__u64 asked_bytes;
	struct tn_disk_key key;
};

enum tn_event_kind {
	TN_EVENT_EXEC = 0,
	TN_EVENT_EXIT = 1,
	TN_EVENT_OOM = 2,
	TN_EVENT_OPEN = 3,
	TN_EVENT_FILE = 4, /* unlink, rename, chmod and their like */
	TN_EVENT_CONNECT = 5,
	TN_EVENT_ACCEPT = 6,
	TN_EVENT_BIND = 7,
	TN_EVENT_LISTEN = 8,
	TN_EVENT_DNS = 9,
	TN_EVENT_MOUNT = 10,
	TN_EVENT_NAMESPACE = 11,
	TN_EVENT_PTRACE = 12,
	TN_EVENT_KERNEL = 13, /* what changes the kernel itself: bpf, modules, kexec */
	TN_EVENT_CREDENTIALS = 14,
	TN_EVENT_KEYRING = 15,
	TN_EVENT_SIGNAL = 16,
	TN_EVENT_CAPABILITY = 17,
	TN_EVENT_KINDS = 18,
};

struct tn_event_counts {
	__u64 produced[TN_EVENT_KINDS];
	__u64 lost[TN_EVENT_KINDS];
	/* What a filter left out: neither produced nor lost. */
	__u64 filtered[TN_EVENT_KINDS];
};

/* In place of an argument's number: the call's result. */
#define TN_ARGUMENT_RESULT 7

#define TN_SHAPE_SOCKET 1 /* the descriptor is a socket's */
#define TN_SHAPE_ADDRESS 2 /* the second and the third argument are a socket's address */
#define TN_SHAPE_LITERAL 4 /* the target is text, no path from anywhere: a symbolic link's */

/* What the arguments of a call mean, each by its number from 1 on; 0 is none. */
struct tn_call_shape {
	__u8 kind; /* tn_event_kind + 1; 0: calls of this number are no events */
	__u8 path;
	__u8 path_dir; /* descriptor of the directory where the path begins; 0: the working directory */
	__u8 target;
	__u8 target_dir;
	__u8 extra; /* a name that is no path: a file system's type, a key's description */
	__u8 descriptor;
	__u8 flags; /* TN_SHAPE_… */
};

/* Which opens are events, besides those below a prefix. */
#define TN_OPEN_WRITE 1 /* for writing: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC */
#define TN_OPEN_DENIED 2 /* failed by EACCES or EPERM */
#define TN_OPEN_FAILED 4
#define TN_OPEN_ALL 8

#define TN_PREFIX_WORDS 8
#define TN_PREFIXES 8
#define TN_PREFIX_OPEN 1
#define TN_PREFIX_FILE 2

/* Compared a word at a time: zero, with a mask of zero, from the prefix's end on. */
struct tn_prefix {
	__u32 kinds; /* TN_PREFIX_… */
	__u32 bytes;
	__u64 words[TN_PREFIX_WORDS];
	__u64 masks[TN_PREFIX_WORDS];
};

/* Which events of a slot are wanted. */
struct tn_audit_filter {
	__u32 kinds; /* bit by tn_event_kind */
	__u32 opens; /* TN_OPEN_… */
	/* Of these users, as the host numbers them. */
	__u32 uid_first;
	__u32 uid_last;
	__u32 prefixed; /* TN_PREFIX_… of all prefixes */
	__u32 reserved;
	/* Bit by number: no event of that call. */
	__u64 syscalls_off[TN_SYSCALLS / 64];
	struct tn_prefix prefix[TN_PREFIXES];
};

struct tn_trampoline_counts {
	__u64 exec_attempts;
};

/* How a TCP connection, or the attempt of one, came to its end: the socket's sk_err. */
enum tn_tcp_error {
	TN_TCP_NONE = 0, /* an attempt that its own program gave up */
	TN_TCP_REFUSED = 1,
	TN_TCP_TIMED_OUT = 2,
	TN_TCP_HOST_UNREACHABLE = 3,
	TN_TCP_NET_UNREACHABLE = 4,
	TN_TCP_RESET = 5,
	TN_TCP_BROKEN_PIPE = 6,
	TN_TCP_OTHER = 7,
	TN_TCP_ERRORS = 8,
};

enum tn_direction {
	TN_OUTGOING = 0,
	TN_INCOMING = 1,
	TN_DIRECTIONS = 2,
};

/* Destinations of their own that one slot may have. */
#define TN_SLOT_DESTINATIONS 1024

/* Whom a slot talks to: an address and its port, or a network of clients and the slot's own port. */
struct tn_destination_key {
	__u32 slot;
	__u16 port; /* remote if outgoing, local if incoming */
	__u8 direction;
	__u8 family; /* 4 or 6 */
	__u32 address[4]; /* network order; of IPv4 the first alone; /24 or /64 if incoming */
};

struct tn_destination {
	__u64 connections;
	__u64 failures; /* connections and attempts that ended with an error */
	__u64 sent_bytes;
	__u64 received_bytes;
};

struct tn_tcp {
	/* Changes when the slot is handed out anew: a socket may outlive its container. */
	__u32 generation;
	__u32 destinations; /* that it has in the table */
	__u64 connects_begun;
	__u64 connects_established;
	__u64 connects_failed;
	__u64 accepts;
	__u64 closed; /* of the established and the accepted ones */
	__u64 resets_received;
	__u64 resets_sent;
	__u64 retransmits; /* segments */
	__u64 listen_overflows; /* segments that found a listener's queue full */
	__u64 failures[TN_TCP_ERRORS];
	struct tn_histogram duration;
	/* Of the destinations that found no room. */
	struct tn_destination other[TN_DIRECTIONS];
};

struct tn_tcp_rtt {
	struct tn_histogram external;
	struct tn_histogram loopback;
};

/* Questions that are counted apart. */
enum tn_dns_type {
	TN_DNS_A = 0,
	TN_DNS_AAAA = 1,
	TN_DNS_OTHER_TYPE = 2,
	TN_DNS_TYPES = 3,
};

/* How a question was answered: the answer's code. */
enum tn_dns_code {
	TN_DNS_NOERROR = 0,
	TN_DNS_NXDOMAIN = 1,
	TN_DNS_SERVFAIL = 2,
	TN_DNS_REFUSED = 3,
	TN_DNS_OTHER_CODE = 4,
	TN_DNS_CODES = 5,
};

/* The end of a name that is kept: its last labels, four at most, that fit. */
#define TN_DNS_NAME 64
#define TN_DNS_NAME_LABELS 4
/* Names of their own that one slot may have. */
#define TN_SLOT_DNS_NAMES 256

struct tn_dns_key {
	__u64 hash; /* of the name's end, in lower case */
	__u32 slot;
	__u32 reserved;
};

struct tn_dns_counts {
	__u64 queries[TN_DNS_TYPES];
	__u64 answers[TN_DNS_CODES];
	/* Asked again, or its socket was closed, before an answer came. */
	__u64 unanswered;
	struct tn_histogram latency; /* of the answers */
};

struct tn_dns_name {
	struct tn_dns_counts counts;
	/* As in the packet: each label behind its length, without the end's 0. Written when the row is made. */
	__u8 name[TN_DNS_NAME];
	__u32 name_bytes; /* 0 until then */
	__u32 reserved;
};

struct tn_dns {
	/* Changes when the slot is handed out anew: a socket may outlive its container. */
	__u32 generation;
	__u32 names; /* that it has in the table */
	/* Of names that found no room or cannot be read, and of the root. */
	struct tn_dns_counts other;
};

enum tn_self_counter {
	TN_SELF_CGROUPS_FULL = 0,
	TN_SELF_DISKS_FULL = 1,
	TN_SELF_REQUESTS_FULL = 2,
	TN_SELF_TASKS_FULL = 3,
	TN_SELF_SOCKETS_FULL = 4,
	TN_SELF_NAMESPACES_FULL = 5,
	TN_SELF_DESTINATIONS_FULL = 6,
	TN_SELF_POOL_EMPTY = 7,
	TN_SELF_CGROUP_EVENTS_LOST = 8,
	TN_SELF_DNS_NAMES_FULL = 9,
	TN_SELF_DNS_QUESTIONS_FULL = 10,
	TN_SELF_COMPLETIONS_UNSEEN = 11,
	TN_SELF_BLAME_FULL = 12,
	TN_SELF_DISK_SERVICES_FULL = 13,
	TN_SELF_QUEUED_UNSEEN = 14,
	TN_SELF_COUNTERS = 15,
};

#define TN_ANCESTORS 8

struct tn_ancestor {
	__u32 pid; /* as the host sees it */
	char comm[16];
};

struct tn_event {
	__u32 kind;
	__u32 slot;
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 cgroup_id;
	__u32 pid; /* of the process, as the host sees it */
	__u32 tid;
	__u32 parent_pid;
	__u32 uid;
	__u32 container_pid; /* of the process, in its own pid namespace */
	struct tn_namespaces namespaces;
	char comm[16];
	__u32 ancestors;
	/* The parent first; the last one may be the one outside that put the others into the slot. */
	struct tn_ancestor ancestor[TN_ANCESTORS];
	__u32 reserved;
};

#define TN_EXEC_PATH_TRUNCATED 1
#define TN_EXEC_ARGV_TRUNCATED 2
#define TN_EXEC_CWD_TRUNCATED 4
#define TN_EXEC_MEMFD 8 /* what runs lies in memory alone and never had a name */

#define TN_EXEC_PATH 256
#define TN_EXEC_ARGV 1024
#define TN_EXEC_CWD 256

/* Path, arguments and directory follow, one behind the other. */
struct tn_exec {
	struct tn_event event;
	__u64 inode; /* of what runs: a script's interpreter */
	__u32 device; /* the file system's, as the kernel has it: major << 20 | minor */
	__u32 flags;
	__u16 path_bytes; /* without the NUL */
	__u16 argv_bytes; /* NUL after each argument */
	__u16 cwd_bytes;
	__u16 reserved;
};

struct tn_exit {
	struct tn_event event;
	__u32 wait_status; /* as wait(2) gives it */
	__u32 reserved;
};

/* Pages are 4 KiB. What the victim held when it was chosen. */
struct tn_oom {
	struct tn_event event; /* of the victim */
	__u64 anon_pages;
	__u64 file_pages;
	__u64 shmem_pages;
	__u64 swap_pages;
	/* The tightest limit of its memory cgroup and those above, and the use there. */
	__u64 limit_pages;
	__u64 usage_pages;
	/* Kills that the victim's memory cgroup counts by now, this one included. */
	__u64 cgroup_kills;
	/* The process that wanted memory when there was none. */
	__u32 trigger_pid;
	__s32 score_adjustment;
	char trigger_comm[16];
};

/* An end of a connection. */
struct tn_endpoint {
	__u16 family; /* AF_…; 0: unknown */
	__u16 port;
	__u8 address[16]; /* network order; of IPv4 the first four bytes alone */
};

/* What follows a tn_call, one behind the other: a path's directory right before the path. */
enum tn_text {
	TN_TEXT_DIRECTORY = 0, /* where a relative path begins, with a slash at its end */
	TN_TEXT_PATH = 1, /* as it was given; a socket's path or abstract name */
	TN_TEXT_TARGET_DIRECTORY = 2,
	TN_TEXT_TARGET = 3,
	TN_TEXT_EXTRA = 4,
	TN_TEXT_RESOLVED = 5, /* where the descriptor's file lies */
	TN_TEXTS = 6,
};

/* Bits of tn_call.flags, each shifted by the tn_text. */
#define TN_CALL_TRUNCATED 0x1
#define TN_CALL_UNREAD 0x100
/* Made by the door for 32-bit programs: arguments are 32 bits wide, `nr` is the 64-bit number. */
#define TN_CALL_COMPAT 0x10000

/* `nr` of an event that is no call's. */
#define TN_NO_CALL 0xffffffff

struct tn_call {
	struct tn_event event;
	__s64 result;
	__u64 args[6];
	__u64 inode; /* of the descriptor's file; 0: unknown */
	__u32 device; /* its file system's, as the kernel has it: major << 20 | minor */
	__u32 mode; /* its type and permissions */
	__u32 nr;
	__u32 flags;
	__u32 open_flags;
	__u16 socket_type; /* SOCK_… */
	__u16 protocol; /* IPPROTO_… */
	struct tn_endpoint local;
	struct tn_endpoint remote;
	__u16 text_bytes[TN_TEXTS];
	__u32 reserved;
};

/* Of a question to a name server: its type is args[0], its name the extra text, as in the packet. */
#define TN_QUESTION_NAME 256

struct tn_question {
	struct tn_call call;
	char name[TN_QUESTION_NAME]; /* a name has at most 255 bytes */
};

/* Longest text, and room for texts in all: what begins beyond it is left out. */
#define TN_TEXT_MAX 1024
#define TN_TEXT_ROOM 4096

/* Where a record is put together. */
struct tn_call_scratch {
	struct tn_call call;
	char text[TN_TEXT_ROOM + TN_TEXT_MAX];
};

struct tn_exec_scratch {
	struct tn_exec exec;
	char text[TN_EXEC_PATH + TN_EXEC_ARGV + TN_EXEC_CWD];
};

/* Everything that the ring carries. */
union tn_record {
	struct tn_event event;
	struct tn_exec exec;
	struct tn_exit exit;
	struct tn_oom oom;
	struct tn_call call;
};
