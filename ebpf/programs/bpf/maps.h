/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Every map. The loader sets max_entries where it says "slots", pins each map
 * under the pin directory by its name, and the second object finds the shared
 * ones there. All are allocated in full when they are created: nothing here
 * allocates memory while a program runs, but for `tasks` and `tcp_sockets`.
 *
 * `bytes` is kernel memory with 256 slots; "/CPU" means for each possible CPU.
 */
#pragma once

#include "abi.h"
#include "kernel.h"

/*
 * Which slot a v2 cgroup belongs to, for the hot path.
 * key     low 14 bits of the cgroup's kernfs id
 * value   id << 16 | slot, one word, so that no reader sees half of a change; slot 0 = known to be nobody's
 * bytes   128 Ki
 * writer  the programs on a miss and at cgroup_mkdir/rmdir, user space (mmap) at register/unregister
 * reader  all programs
 * full    never: two ids with the same low bits take turns, and the loser asks cgroup_slots
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TN_CACHE_WORDS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} slot_cache SEC(".maps");

/*
 * Which slot a cgroup belongs to: the truth that slot_cache remembers.
 * key     tn_cgroup_key (id, hierarchy)
 * value   slot, TN_FOREIGN_TOP
 * bytes   about 1 Mi
 * writer  user space at register/unregister; the programs at cgroup_mkdir/rmdir
 * reader  all programs on a cache miss, block programs always
 * full    a new child cgroup is nobody's; counted in TN_SELF_CGROUPS_FULL
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct tn_cgroup_key);
	__type(value, __u32);
} cgroup_slots SEC(".maps");

/*
 * Slots for the next foreign containers, so that each has its own before a process is in it.
 * value   slot, its counters zero
 * bytes   160
 * writer  user space puts some in, cgroup_made takes one
 * reader  the same
 * full    never: user space knows how many it put in; empty is counted in TN_SELF_POOL_EMPTY,
 *         and user space registers the container when it reads the event
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, TN_POOL_SLOTS);
	__type(value, __u32);
} slot_pool SEC(".maps");

/*
 * Slot of a foreign container by its path, to find it in the second hierarchy. v1-hybrid only.
 * key     tn_cgroup_tail
 * value   slot
 * bytes   about 100 Ki
 * writer  cgroup_made, cgroup_removed
 * reader  cgroup_made
 * full    user space registers the second cgroup when it reads the first one's event
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, struct tn_cgroup_tail);
	__type(value, __u32);
} cgroup_names SEC(".maps");

/*
 * Room for paths, of which a program's stack has none. The kernel holds one lock
 * over all changes of cgroups, so that one is enough.
 * key     0
 * value   tn_cgroup_scratch
 * bytes   1 Ki
 * writer, reader  cgroup_made, cgroup_removed
 * full    never
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_cgroup_scratch);
} cgroup_scratch SEC(".maps");

/*
 * Foreign containers that came and went. Apart from `events`, so that no storm of execs
 * makes one of them unknown.
 * value   tn_cgroup_event
 * bytes   64 Ki
 * writer  cgroup_made, cgroup_removed
 * reader  user space
 * full    counted in TN_SELF_CGROUP_EVENTS_LOST; user space then walks the tree
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} cgroup_events SEC(".maps");

/*
 * Whether a slot counts yet, and in which namespaces it lives.
 * key     slot
 * value   tn_slot_state
 * bytes   18 Ki
 * writer  user space disarms at register, process_exec arms, syscall_exit notes the
 *         namespaces, thread_new and thread_attach distrust their addresses
 * reader  all programs
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_slot_state);
} slot_states SEC(".maps");

/*
 * Syscalls by number. Increments are plain: only this CPU writes its copy, and
 * a syscall's exit interrupts no other.
 * key     slot
 * value   tn_syscalls, so that a reader needs one look-up for a container
 * bytes   3 Mi/CPU
 * writer  syscall_exit
 * reader  user space
 * full    never, one for each slot; a container that fails in more than some 200 ways on
 *         one CPU has the rest of its errors in class "other"
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_syscalls);
} syscalls SEC(".maps");

/*
 * Syscalls of those of a slot's processes that have other namespaces than the
 * slot's first.
 * key     tn_namespace_key (slot, namespaces)
 * value   tn_syscalls
 * bytes   1.5 Mi/CPU
 * writer  syscall_exit; user space removes a slot's keys when the slot is reset
 * reader  user space
 * full    the call is counted in the slot's own row; TN_SELF_NAMESPACES_FULL is
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 128);
	__type(key, struct tn_namespace_key);
	__type(value, struct tn_syscalls);
} namespace_syscalls SEC(".maps");

/*
 * Latency of the sampled syscalls by class.
 * key     slot
 * value   tn_syscall_latency
 * bytes   1 Mi/CPU
 * writer  syscall_exit
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_syscall_latency);
} syscall_latency SEC(".maps");

/*
 * Syscalls that are timed: their entry was seen and they have not returned.
 * key     low 16 bits of the thread id
 * value   tn_sample
 * bytes   1 Mi
 * writer  syscall_enter, syscall_exit clears
 * reader  syscall_exit
 * full    never: of two threads with the same low bits the later keeps its sample
 */
struct tn_sample {
	u32 tid;
	/* Why it is timed: TIMED_… */
	u32 why;
	u64 start_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TN_SAMPLES);
	__type(key, __u32);
	__type(value, struct tn_sample);
} syscall_samples SEC(".maps");

/*
 * How syscalls are timed at this moment: the hook at their entry comes and goes.
 * key     0
 * value   tn_timing
 * bytes   16
 * writer  user space: before it attaches syscall_enter, after it detaches it
 * reader  syscall_enter, syscall_exit
 * full    never
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_timing);
} timing SEC(".maps");

/*
 * Calls that wait for the disk (fsync and its like), each one timed while
 * syscall_enter is attached.
 * key     slot
 * value   tn_histogram
 * bytes   82 Ki/CPU
 * writer  syscall_exit
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_histogram);
} sync_latency SEC(".maps");

/*
 * Which slots are traced, until when, and into which rows of trace_calls.
 * key     slot
 * value   tn_slot_trace
 * bytes   6 Ki
 * writer  user space
 * reader  syscall_enter, syscall_exit
 * full    never, one for each slot; user space has TN_TRACES rows to give away
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_slot_trace);
} slot_traces SEC(".maps");

/*
 * What traces see.
 * key     row * TN_SYSCALLS + number
 * value   tn_trace_call
 * bytes   672 Ki/CPU
 * writer  syscall_exit; user space zeroes a row before it gives it away
 * reader  user space
 * full    never
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TN_TRACES * TN_SYSCALLS);
	__type(key, __u32);
	__type(value, struct tn_trace_call);
} trace_calls SEC(".maps");

/*
 * Which slots are recorded for a profile.
 * key     slot
 * value   tn_profile_control
 * bytes   6 Ki
 * writer  user space alone, so that its changes and the programs' never overwrite each other
 * reader  profile_enter, profile_exit
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_profile_control);
} profile_controls SEC(".maps");

/*
 * What recorded slots asked for. Bits are set atomically and never cleared by a program.
 * key     slot
 * value   tn_profile
 * bytes   36 Ki
 * writer  profile_enter, profile_exit; user space zeroes it before a recording begins
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_profile);
} profiles SEC(".maps");

/*
 * Calls of recorded slots that a seccomp filter refused.
 * key     tn_refused_key (slot, number)
 * value   tn_refused
 * bytes   about 80 Ki
 * writer  profile_exit; user space removes a slot's keys before a recording and at a reset
 * reader  user space
 * full    counted in tn_profile.refusals_lost
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct tn_refused_key);
	__type(value, struct tn_refused);
} refused_calls SEC(".maps");

/*
 * Whether a recorded thread is in a call that its filters let pass.
 * key     task
 * value   tn_passage
 * bytes   about 100 a thread that was ever recorded, freed with it
 * writer, reader  profile_enter, profile_exit
 * full    no memory: tn_profile.unnoted is counted
 */
struct tn_passage {
	u64 since_ns; /* of the recording that it belongs to */
	u64 passed;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tn_passage);
} passages SEC(".maps");

/*
 * State of the dice that choose the sampled syscalls.
 * key     0
 * value   linear congruential generator's state
 * bytes   8/CPU
 * writer, reader  syscall_enter
 * full    never
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dice SEC(".maps");

/*
 * Bytes and packets of a slot's sockets. Added atomically: a softirq on this
 * CPU may send while a process does.
 * key     slot
 * value   tn_network
 * bytes   36 Ki/CPU
 * writer  network_ingress, network_egress, udp_receive_failed
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_network);
} network SEC(".maps");

/*
 * Life of TCP connections. Added atomically: one row for all CPUs, as
 * connections come and go far less often than packets.
 * key     slot
 * value   tn_tcp
 * bytes   134 Ki
 * writer  tcp_life, tcp_reset_sent, tcp_reset_received, tcp_synack_resent,
 *         network_ingress; user space zeroes it and raises the generation when the
 *         slot is reset
 * reader  user space, tcp_life
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_tcp);
} tcp SEC(".maps");

/*
 * Smoothed round-trip times, once for each round trip. Added atomically: a
 * packet may arrive while a process works off its backlog on the same CPU.
 * key     slot
 * value   tn_tcp_rtt
 * bytes   164 Ki/CPU
 * writer  tcp_life
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_tcp_rtt);
} tcp_rtt SEC(".maps");

/*
 * What is remembered about a container's TCP socket, from its connect or its
 * handshake to its end.
 * key     socket
 * value   tn_socket
 * bytes   about 160 a connection, charged to the socket and freed with it
 * writer  tcp_life, network_ingress
 * reader  the same
 * full    no memory: the connection is not counted; TN_SELF_SOCKETS_FULL is
 */
struct tn_socket {
	u64 established_ns; /* 0 until then */
	u32 slot;
	u32 generation;
	/* What its destination has of it already. */
	u64 sent_bytes;
	u64 received_bytes;
	struct tn_destination_key destination;
	u32 loopback;
	u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tn_socket);
} tcp_sockets SEC(".maps");

/*
 * Whom each slot talks to over TCP. Added atomically.
 * key     tn_destination_key
 * value   tn_destination
 * bytes   about 2 Mi
 * writer  tcp_life, network_ingress; user space removes a slot's keys when the slot is reset
 * reader  user space
 * full    also when a slot has TN_SLOT_DESTINATIONS: counts in tn_tcp.other, so that sums
 *         stay exact; TN_SELF_DESTINATIONS_FULL is counted
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tn_destination_key);
	__type(value, struct tn_destination);
} destinations SEC(".maps");

/*
 * What each slot asks name servers for, by the end of the name. Added atomically.
 * key     tn_dns_key
 * value   tn_dns_name
 * bytes   about 2.2 Mi
 * writer  network_ingress, network_egress, dns_socket_closed; user space removes a slot's
 *         keys when the slot is reset
 * reader  user space
 * full    also when a slot has TN_SLOT_DNS_NAMES: counts in tn_dns.other, so that sums
 *         stay exact; TN_SELF_DNS_NAMES_FULL is counted
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tn_dns_key);
	__type(value, struct tn_dns_name);
} dns_names SEC(".maps");

/*
 * How many names each slot has there, and what belongs to none of them.
 * key     slot
 * value   tn_dns
 * bytes   102 Ki
 * writer  as above; user space zeroes it and raises the generation when the slot is reset
 * reader  user space, the programs
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_dns);
} dns SEC(".maps");

/*
 * Questions of a container's datagram socket that wait for their answer.
 * key     socket
 * value   tn_dns_socket
 * bytes   about 450 a socket that ever asked, charged to the socket and freed with it
 * writer  network_egress, network_ingress, dns_socket_closed
 * reader  the same
 * full    the seventeenth question takes the oldest one's place, which counts as unanswered
 *         if it has waited for five seconds; else, and without memory,
 *         TN_SELF_DNS_QUESTIONS_FULL is counted
 */
#define TN_DNS_QUESTIONS 16

struct tn_dns_question {
	u64 asked_ns; /* 0: this place is free; DNS_CLAIMED: somebody writes the rest */
	u64 hash; /* 0: belongs to no name */
	u32 id;
	u32 reserved;
};

struct tn_dns_socket {
	u32 slot;
	u32 generation;
	struct tn_dns_question questions[TN_DNS_QUESTIONS];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tn_dns_socket);
} dns_sockets SEC(".maps");

/*
 * Disk requests by slot, device and operation. Not per CPU, added atomically:
 * requests complete in interrupts, and there are few of them.
 * key     tn_disk_key
 * value   tn_disk
 * bytes   about 1.5 Mi
 * writer  the disk programs; user space removes a slot's keys when the slot is reset
 * reader  user space
 * full    the request is not counted; TN_SELF_DISKS_FULL is
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, struct tn_disk_key);
	__type(value, struct tn_disk);
} disks SEC(".maps");

/*
 * Requests that are at the device.
 * key     address of the struct request
 * value   tn_request
 * bytes   about 900 Ki
 * writer  disk_issue, disk_requeue; disk_complete removes, and user space when a slot is reset
 * reader  the same
 * full    the request is not counted; TN_SELF_REQUESTS_FULL is
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct tn_request);
} requests SEC(".maps");

/*
 * What is remembered about a thread of a container. Made at its birth, its exec
 * or its arrival in a container's cgroup: the scheduler's programs, which hold
 * a run queue's lock, only look it up.
 * key     task
 * value   tn_task
 * bytes   about 200 a thread, freed with it
 * writer  thread_new, thread_attach, process_exec, the scheduler's programs, process_exit,
 *         syscall_exit where the thread lives in; it makes one, too, for a thread that was
 *         there before the programs
 * reader  the same
 * full    no memory: the thread's switches are not counted; TN_SELF_TASKS_FULL is
 */
enum tn_thread_state {
	TN_THREAD_UNKNOWN = 0, /* not seen by a switch yet */
	TN_THREAD_RUNNING = 1,
	TN_THREAD_OFF = 2, /* and from here on: plus the tn_off_cpu that it left its CPU for */
};

#define TN_NOT_THROTTLED (~0ULL)

struct tn_task {
	u64 since_ns; /* in this state */
	u64 woken_ns; /* 0 while nobody woke it */
	u64 voluntary; /* the task's own counts at the last switch */
	u64 involuntary;
	/* Of the wait that goes on: what of it was shared out already, before a move to another CPU. */
	u64 shared_ns;
	/* throttled_ns() at its beginning; TN_NOT_THROTTLED: its quota has no part in it. */
	u64 throttled_ns;
	u32 waits_on_cpu;
	u32 state;
	u32 exit_reported;
	/* Born by somebody outside, and nothing executed here yet: its calls are no audit events. */
	u32 arriving;
	/* Addresses that the thread had when `namespaces` was read; 0 = it was not yet. */
	u64 nsproxy;
	u64 user_ns;
	struct tn_namespaces namespaces;
	/* The `claimed` of the slot's run whose own namespaces these are; 0 = they are not. */
	u32 home;
	/* The capability that the thread lacked last, plus one, and in which call. */
	u32 denied;
	u64 denied_at;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tn_task);
} tasks SEC(".maps");

/*
 * Times on and off the CPUs, switches, migrations. Increments are plain: the
 * writers have interrupts off, and only this CPU writes its copy.
 * key     slot
 * value   tn_scheduler
 * bytes   100 Ki/CPU
 * writer  scheduler_switch, scheduler_migrate
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_scheduler);
} scheduler SEC(".maps");

/*
 * Who had this CPU, for how long: the most recent runs, where all that one slot does
 * without another in between is one run. Nothing is written for what is in no container
 * until a container's thread comes or goes.
 * key     0
 * value   tn_cpu_runs
 * bytes   1.5 Ki/CPU
 * writer  scheduler_switch, with its run queue locked
 * reader  scheduler_switch; scheduler_migrate of another CPU, which has locked it, too
 * full    the oldest run is forgotten: what waited for longer is not explained from there on
 */
#define TN_RUNS 64

struct tn_run {
	u64 end_ns;
	/* What the hypervisor had taken from this CPU by then, in all. */
	u64 stolen_ns;
	u32 slot; /* 0: in no container, or idle */
	u32 reserved;
};

struct tn_cpu_runs {
	u32 next; /* place of the run after the last one, not masked */
	u32 running; /* the slot that has the CPU now, if a container's thread has it */
	u64 zero; /* never written: begin_sharing */
	struct tn_run ring[TN_RUNS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_cpu_runs);
} cpu_runs SEC(".maps");

/*
 * Whom a disk served, for how long: the most recent services, where all that one slot has
 * in a row is one.
 * key     major << 32 | minor
 * value   tn_disk_services
 * bytes   about 105 Ki
 * writer, reader  disk_complete
 * full    waits at this disk are blamed on nobody; TN_SELF_DISK_SERVICES_FULL is counted
 */
#define TN_SERVICES 64

struct tn_service {
	u64 begin_ns;
	u64 end_ns;
	u32 slot; /* 0: charged to the root */
	u32 reserved;
};

struct tn_disk_services {
	u32 next; /* place of the service after the last one, not masked */
	u32 zero; /* never written: begin_sharing */
	struct tn_service ring[TN_SERVICES];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct tn_disk_services);
} disk_services SEC(".maps");

/*
 * When a packet last entered a queue, of whatever device: until then, and some time after,
 * nobody needs to know whose flow is whose.
 * key     0
 * value   jiffies; 0 = never
 * bytes   8
 * writer  queue_entered
 * reader  network_egress
 * full    never
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} queue_standing SEC(".maps");

/*
 * Whose flow a packet belongs to: by its hash, which the sender's socket gave it and which
 * outlives the socket's pointer, bridges and address translation.
 * key     hash
 * value   slot
 * bytes   about 350 Ki
 * writer  network_egress; user space removes a slot's keys when the slot is reset
 * reader  queue_entered, queue_left
 * full    the flow that was seen longest ago is forgotten: its packets are the host's until
 *         the next one is sent
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} flows SEC(".maps");

/*
 * Containers' packets that stand in a queue.
 * key     address of the struct sk_buff
 * value   tn_queued
 * bytes   about 850 Ki
 * writer  queue_entered, queue_left
 * reader  queue_left
 * full    never: what a queue dropped lies here until it is forgotten, the oldest first. A
 *         packet that was forgotten too early is counted in TN_SELF_QUEUED_UNSEEN, as are
 *         the pieces of one that the queue cut
 */
struct tn_queued {
	u64 since_ns;
	u64 bytes; /* of its device's tn_queue by then */
	u64 due_ns; /* its sender lets it go then, not before */
	u32 hash;
	u32 slot;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct tn_queued);
} queued SEC(".maps");

/*
 * Whose bytes a device took from its queues: the most recent turns, where all that one slot
 * has in a row is one.
 * key     address of the struct net_device
 * value   tn_queue
 * bytes   about 105 Ki
 * writer, reader  queue_left; queue_entered reads
 * full    the device that was used longest ago is forgotten: who waits there knows no reason
 */
#define TN_TURNS 64

struct tn_turn {
	u64 begin; /* of the device's bytes */
	u64 end;
	u32 slot; /* 0: of no container */
	u32 reserved;
};

struct tn_queue {
	u64 bytes; /* all that left it */
	u32 next; /* place of the turn after the last one, not masked */
	u32 zero; /* never written: begin_sharing */
	struct tn_turn ring[TN_TURNS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct tn_queue);
} queues SEC(".maps");

/*
 * Until when a slot's waits are shared out: while some of its packets stand, time passes once.
 * key     slot
 * value   tn_queue_wait
 * bytes   12 Ki
 * writer, reader  queue_left, queue_entered
 * full    never, one for each slot
 */
struct tn_queue_moment {
	u64 ns; /* 0: never */
	u64 bytes; /* of the device by then */
	u64 device;
};

struct tn_queue_wait {
	struct tn_queue_moment until;
	/* The first packet that entered a queue since then. */
	struct tn_queue_moment entered;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_queue_wait);
} queue_waits SEC(".maps");

/*
 * How long each slot waited for what is no other container.
 * key     slot
 * value   tn_causes
 * bytes   30 Ki/CPU
 * writer  scheduler_switch, scheduler_migrate: plainly, with interrupts off; disk_complete,
 *         queue_left: atomically, in rows of their own
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_causes);
} causes SEC(".maps");

/*
 * How long each slot waited for each other one. Added atomically.
 * key     tn_blame_key (victim, culprit, resource)
 * value   nanoseconds
 * bytes   about 700 Ki
 * writer  scheduler_switch, scheduler_migrate, disk_complete, queue_left; user space removes
 *         a slot's keys, as a victim and as a culprit, when the slot is reset
 * reader  user space
 * full    the time is the victim's TN_CAUSE_UNEXPLAINED; TN_SELF_BLAME_FULL is counted
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct tn_blame_key);
	__type(value, __u64);
} blame SEC(".maps");

/*
 * How many kills a memory cgroup had counted when one was last seen in it, so
 * that a mark without a kill is told apart.
 * key     kernfs id of the memory cgroup
 * value   count
 * bytes   20 Ki
 * writer, reader  oom_victim
 * full    the cgroup that was seen longest ago is forgotten: a mark without a kill there would count
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, __u64);
} oom_kills_seen SEC(".maps");

/*
 * Audit events.
 * value   tn_exec, tn_exit, tn_oom, tn_question or tn_call, the texts behind it
 * bytes   LoadOptions.ring_bytes
 * writer  the audit programs
 * reader  user space
 * full    the event is lost and counted in event_counts
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/*
 * How many events there were and how many found no room, so that
 * delivered + lost = produced; and how many a filter left out. Added atomically.
 * key     slot
 * value   tn_event_counts
 * bytes   108 Ki
 * writer  the audit programs
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_event_counts);
} event_counts SEC(".maps");

/*
 * Which events of a slot are wanted.
 * key     slot
 * value   tn_audit_filter
 * bytes   288 Ki
 * writer  user space, before the slot is handed out and whenever somebody wishes
 * reader  the writers of `events`
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_audit_filter);
} audit_filters SEC(".maps");

/*
 * Where audit_call puts its record together: no stack could hold it. A second run on the
 * same CPU does not come in between; the kernel leaves it out.
 * key     0
 * value   tn_call_scratch
 * bytes   5.5 Ki/CPU
 * writer, reader  audit_call
 * full    never
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_call_scratch);
} call_scratch SEC(".maps");

/*
 * The same for process_exec.
 * key     0
 * value   tn_exec_scratch
 * bytes   2 Ki/CPU
 * writer, reader  process_exec
 * full    never
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_exec_scratch);
} exec_scratch SEC(".maps");

/*
 * Where a path is written, its last name first and from the end to the front.
 * key     TN_PATH_OF_…: each program has its own, since newer kernels let one
 *         interrupt another
 * value   tn_path_scratch
 * bytes   2.5 Ki/CPU
 * writer, reader  audit_call, process_exec
 * full    the path lacks its beginning and says so
 */
#define TN_PATH_OF_CALL 0
#define TN_PATH_OF_EXEC 1

struct tn_path_scratch {
	char text[TN_TEXT_MAX + 256];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct tn_path_scratch);
} path_scratch SEC(".maps");

/*
 * Where syscall_exit goes on when a call may be an event: programs of their own, with
 * stacks of their own.
 * key     TN_PROGRAM_…
 * value   audit_call, audit_denied
 * bytes   a page
 * writer  user space, when it loads
 * reader  syscall_exit, audit_denied
 * full    never; empty: no such event
 */
#define TN_PROGRAM_CALL 0
#define TN_PROGRAM_DENIED 1

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} call_programs SEC(".maps");

/*
 * What only trampolines see. Added atomically.
 * key     slot
 * value   tn_trampoline_counts
 * bytes   2 Ki
 * writer  the trampoline object
 * reader  user space
 * full    never, one for each slot
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tn_trampoline_counts);
} trampoline_counts SEC(".maps");

/*
 * The meters' own shortcomings. Added atomically.
 * key     tn_self_counter
 * value   count
 * bytes   8 for each
 * writer  all programs
 * reader  user space
 * full    never
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TN_SELF_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} self_counters SEC(".maps");

static __always_inline void count_self(u32 index)
{
	u64 *count = bpf_map_lookup_elem(&self_counters, &index);

	if (count)
		__sync_fetch_and_add(count, 1);
}
