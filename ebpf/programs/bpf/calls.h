/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Numbers of system calls, and which of them are events. */
#pragma once

#include "slots.h"

#define TS_COMPAT 2
#define NR_CLONE 56
#define NR_VFORK 58
#define NR_UNSHARE 272
#define NR_CLONE3 435

/*
 * What the arguments of each number mean. User space owns the table. Nothing is known of
 * TN_SYSCALL_OTHER but that it may be a 32-bit call that is.
 */
const volatile struct tn_call_shape call_shapes[TN_SYSCALLS] = {};

/* The compiler knows the bound and would drop the check that the verifier wants to see. */
static __always_inline u32 bounded(u32 nr)
{
	asm volatile("" : "+r"(nr));
	return nr & (TN_SYSCALLS - 1);
}

static __always_inline bool is_clone(u32 nr)
{
	return nr - NR_CLONE <= NR_VFORK - NR_CLONE || nr == NR_CLONE3;
}
