/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The object that every supported kernel loads. One translation unit, so that maps need no linker. */
#include "cgroups.bpf.c"
#include "tasks.bpf.c"
#include "syscalls.bpf.c"
#include "profile.bpf.c"
#include "calls.bpf.c"
#include "network.bpf.c"
#include "queues.bpf.c"
#include "tcp.bpf.c"
#include "disk.bpf.c"
#include "scheduler.bpf.c"
#include "processes.bpf.c"
#include "oom.bpf.c"
#include "signals.bpf.c"
#include "capabilities.bpf.c"

/* Never read: it makes clang describe the ring's records in the BTF, for the layout test. */
const union tn_record *const volatile record_types = 0;

/* Kernels ask for the GPL where a program uses GPL-only helpers. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
