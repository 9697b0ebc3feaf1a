/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * System calls as audit events, one each, as they return: then the kernel has just read
 * every string of theirs, so that none is missing because its page was not there, and
 * the result is known. syscall_exit comes here for numbers that have a shape; it has
 * seen that the task's slot counts.
 *
 * What another thread of the process writes over an argument while the call lasts is
 * what the event shows. Where a file was opened, its real path is read from the kernel.
 *
 * Calls through the 32-bit door are events like others (`compat_numbers`). What
 * io_uring does is no call: its set-up is an event, the requests are not.
 */
#include "calls.h"
#include "events.h"
#include "sockets.h"
#include "tasks.h"

#define NR_OPEN 2
#define NR_CONNECT 42
#define NR_ACCEPT 43
#define NR_BIND 49
#define NR_LISTEN 50
#define NR_CREAT 85
#define NR_ACCEPT4 288
#define NR_OPENAT2 437
#define NR_COMPAT_SOCKETCALL 102
#define FIRST_RESTART 512
#define LAST_RESTART 516
#define O_ACCMODE 3
#define O_WRONLY 1
#define O_CREAT 0100
#define O_TRUNC 01000
#define O_TMPFILE 020000000
#define CLONE_NEW_ANY 0x7e020080
#define CLONE_SIGNAL 0xff

/* The 64-bit number of each 32-bit one that may be an event; 0: of none. User space owns the table. */
const volatile u16 compat_numbers[TN_SYSCALLS] = {};

static __always_inline u64 argument(struct tn_call *call, u32 number)
{
	u32 index = number - 1;

	if (number == TN_ARGUMENT_RESULT)
		return call->result;
	asm volatile("" : "+r"(index));
	return index < 6 ? call->args[index] : 0;
}

static __always_inline void read_arguments(struct tn_call *call, struct pt_regs___kernel *regs)
{
	call->args[0] = regs->di;
	call->args[1] = regs->si;
	call->args[2] = regs->dx;
	call->args[3] = regs->r10;
	call->args[4] = regs->r8;
	call->args[5] = regs->r9;
}

/*
 * The functions that are not static are checked by the verifier once, not at each call
 * with each state: all of them in one would be too much for it. So they take numbers alone.
 */
static __always_inline struct tn_call_scratch *own_scratch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&call_scratch, &zero);
}

static __always_inline void read_compat_arguments(struct tn_call *call,
						  struct pt_regs___kernel *regs)
{
	call->flags = TN_CALL_COMPAT;
	call->args[0] = (u32)regs->bx;
	call->args[1] = (u32)regs->cx;
	call->args[2] = (u32)regs->dx;
	call->args[3] = (u32)regs->si;
	call->args[4] = (u32)regs->di;
	call->args[5] = (u32)regs->bp;
}

/* The 64-bit number of one of the 32-bit door; of a socketcall the arguments, too. */
__noinline u32 native_number(u32 number)
{
	struct tn_call_scratch *scratch = own_scratch();
	u32 words[6] = {}, i;
	struct tn_call *call;

	if (!scratch)
		return 0;
	call = &scratch->call;
	if (number != NR_COMPAT_SOCKETCALL)
		return number < TN_SYSCALLS ? compat_numbers[bounded(number)] : 0;
	/* Which call, and where its arguments lie. */
	number = call->args[0];
	bpf_probe_read_user(words, sizeof(words), (void *)call->args[1]);
	for (i = 0; i < 6; i++)
		call->args[i] = words[i];
	switch (number) {
	case 2:
		return NR_BIND;
	case 3:
		return NR_CONNECT;
	case 4:
		return NR_LISTEN;
	case 5:
		return NR_ACCEPT;
	case 18:
		return NR_ACCEPT4;
	default:
		return 0;
	}
}

/* What a struct in user memory begins with, put where the argument's pointer was. */
static __always_inline void read_flags(struct tn_call *call, u32 index)
{
	u64 flags = 0;

	bpf_probe_read_user(&flags, sizeof(flags), (void *)call->args[index]);
	call->args[index] = flags;
}

/* Calls that are none of their kind: a clone into the same namespaces, a try that has to wait. */
static __always_inline bool is_event(struct tn_call *call, u32 kind, u32 nr)
{
	s64 result = call->result;

	if (kind == TN_EVENT_ACCEPT)
		return result != -EAGAIN && !(result <= -FIRST_RESTART && result >= -LAST_RESTART);
	if (kind != TN_EVENT_NAMESPACE)
		return true;
	if (nr == NR_CLONE3)
		read_flags(call, 0);
	if (is_clone(nr)) {
		/* The child's own return. */
		if (!result)
			return false;
		return call->args[0] & CLONE_NEW_ANY & (nr == NR_CLONE ? ~CLONE_SIGNAL : ~0);
	}
	return nr != NR_UNSHARE || call->args[0] & CLONE_NEW_ANY;
}

static __always_inline u32 open_flags_of(struct tn_call *call, u32 nr)
{
	switch (nr) {
	case NR_OPEN:
		return call->args[1];
	case NR_CREAT:
		return O_CREAT | O_WRONLY | O_TRUNC;
	case NR_OPENAT2:
		read_flags(call, 2);
		return call->args[2];
	default:
		return call->args[2];
	}
}

static __always_inline bool is_wanted_open(const struct tn_audit_filter *filter,
					   struct tn_call *call)
{
	u32 opens = filter->opens, flags = call->open_flags;
	s64 result = call->result;

	if (opens & TN_OPEN_ALL)
		return true;
	if (opens & TN_OPEN_WRITE && flags & (O_ACCMODE | O_CREAT | O_TRUNC | O_TMPFILE))
		return true;
	if (opens & TN_OPEN_FAILED && result < 0)
		return true;
	return opens & TN_OPEN_DENIED && (result == -EACCES || result == -EPERM);
}

/* Appends a string of the process's; where the next text begins. */
__noinline u32 append_string(u32 at, u32 which, u64 pointer)
{
	struct tn_call_scratch *scratch = own_scratch();
	long read;

	if (!scratch || !pointer || which >= TN_TEXTS)
		return at;
	asm volatile("" : "+r"(at));
	if (at > TN_TEXT_ROOM) {
		scratch->call.flags |= TN_CALL_TRUNCATED << which;
		return at;
	}
	read = bpf_probe_read_user_str(scratch->text + at, TN_TEXT_MAX, (void *)pointer);
	if (read <= 0) {
		scratch->call.flags |= TN_CALL_UNREAD << which;
		return at;
	}
	/* A string that fills its room may go on. */
	if (read == TN_TEXT_MAX)
		scratch->call.flags |= TN_CALL_TRUNCATED << which;
	scratch->call.text_bytes[which] = read - 1;
	return at + read - 1;
}

/* Appends where a path of the kernel's leads to; where the next text begins. */
__noinline u32 append_path(u32 at, u32 which, u64 path)
{
	struct tn_call_scratch *scratch = own_scratch();
	u32 bytes;

	if (!scratch || !path || which >= TN_TEXTS)
		return at;
	asm volatile("" : "+r"(at));
	if (at > TN_TEXT_ROOM) {
		scratch->call.flags |= TN_CALL_TRUNCATED << which;
		return at;
	}
	bytes = write_path(scratch->text + at, TN_PATH_OF_CALL, (void *)path, which != TN_TEXT_RESOLVED,
			   TN_TEXT_MAX);
	if (bytes >> 16)
		scratch->call.flags |= TN_CALL_TRUNCATED << which;
	bytes &= 0xffff;
	scratch->call.text_bytes[which] = bytes;
	return at + bytes;
}

/* Appends a path as it was given, behind the directory where it begins if it is relative. */
__noinline u32 append_given(u32 at, u32 which, u32 path, u32 directory)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tn_call_scratch *scratch = own_scratch();
	s32 descriptor = AT_FDCWD;
	struct file *file;
	char first = 0;
	u64 pointer;

	if (!scratch)
		return at;
	pointer = argument(&scratch->call, path);
	if (directory)
		descriptor = argument(&scratch->call, directory);
	if (!pointer)
		return at;
	if (!bpf_probe_read_user(&first, 1, (void *)pointer) && first != '/') {
		if (descriptor == AT_FDCWD) {
			at = append_path(at, which - 1, (u64)working_directory(task));
		} else {
			file = file_of(task, descriptor);
			if (file)
				at = append_path(at, which - 1, (u64)path_of(file));
		}
	}
	return append_string(at, which, pointer);
}

__noinline u32 append_socket(u32 at, u64 of, u32 flags)
{
	struct tn_call_scratch *scratch = own_scratch();
	struct file *file = (void *)of;
	struct tn_call *call;
	struct sock *sk;
	long bytes = 0;

	asm volatile("" : "+r"(at));
	if (!scratch || at > TN_TEXT_ROOM)
		return at;
	call = &scratch->call;
	sk = file ? sock_of(file) : 0;
	if (sk)
		read_ends(call, sk);
	if (flags & TN_SHAPE_ADDRESS) {
		struct tn_endpoint *end =
			call->event.kind == TN_EVENT_BIND ? &call->local : &call->remote;
		struct tn_endpoint given = {};

		bytes = read_given(&given, scratch->text + at, call->args[1], call->args[2]);
		if (bytes < 0)
			call->flags |= TN_CALL_UNREAD << TN_TEXT_PATH;
		/* The kernel chose a port where none was given. */
		else if (call->event.kind != TN_EVENT_BIND || given.port || !end->port)
			*end = given;
	} else if (sk && call->local.family == AF_UNIX) {
		bytes = read_unix_path(scratch->text + at, sk);
	}
	if (bytes < 0 || bytes > UNIX_PATH_MAX)
		return at;
	call->text_bytes[TN_TEXT_PATH] = bytes;
	return at + bytes;
}

/* Whether a text of this length begins as one of the filter's prefixes does. */
__noinline u32 has_prefix(u32 slot, u32 at, u32 bytes, u32 kind)
{
	struct tn_audit_filter *filter = bpf_map_lookup_elem(&audit_filters, &slot);
	struct tn_call_scratch *scratch = own_scratch();
	u64 words[TN_PREFIX_WORDS] = {}, differ;
	u32 i, j;

	asm volatile("" : "+r"(at));
	if (!filter || !scratch || at > TN_TEXT_ROOM)
		return false;
	bpf_probe_read_kernel(words, sizeof(words), scratch->text + at);
	for (i = 0; i < TN_PREFIXES; i++) {
		const struct tn_prefix *prefix = &filter->prefix[i];

		differ = !(prefix->kinds & kind) | (bytes < prefix->bytes);
		for (j = 0; j < TN_PREFIX_WORDS; j++)
			differ |= (words[j] & prefix->masks[j]) ^ prefix->words[j];
		if (!differ)
			return true;
	}
	return false;
}

/* Whether the prefixes let the event pass: paths are resolved where that is known. */
static __always_inline bool is_below_prefix(struct tn_call_scratch *scratch, u32 slot, u32 kind)
{
	u16 *bytes = scratch->call.text_bytes;
	u32 path = bytes[TN_TEXT_DIRECTORY] + bytes[TN_TEXT_PATH];
	u32 target = bytes[TN_TEXT_TARGET_DIRECTORY] + bytes[TN_TEXT_TARGET];

	if (bytes[TN_TEXT_RESOLVED])
		return has_prefix(slot, path + target + bytes[TN_TEXT_EXTRA],
				  bytes[TN_TEXT_RESOLVED], kind);
	if (has_prefix(slot, 0, path, kind))
		return true;
	return target && has_prefix(slot, path, target, kind);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(audit_call, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 zero = 0, slot = counted_slot_of(task), nr, kind, at = 0;
	struct tn_call_scratch *scratch = bpf_map_lookup_elem(&call_scratch, &zero);
	struct tn_audit_filter *filter = bpf_map_lookup_elem(&audit_filters, &slot);
	struct pt_regs___kernel *registers = (void *)regs;
	struct tn_call_shape shape;
	bool by_prefix = false;
	struct file *file = 0;
	struct tn_call *call;

	if (!slot || !scratch || !filter)
		return 0;
	call = &scratch->call;
	__builtin_memset(call, 0, sizeof(*call));
	call->result = ret;
	if (task->thread_info.status & TS_COMPAT) {
		read_compat_arguments(call, registers);
		nr = native_number(registers->orig_ax);
	} else {
		read_arguments(call, registers);
		nr = registers->orig_ax;
	}
	if (nr >= TN_SYSCALL_OTHER)
		return 0;
	nr = bounded(nr);
	shape = *(const struct tn_call_shape *)&call_shapes[nr];
	kind = shape.kind - 1;
	asm volatile("" : "+r"(kind));
	if (kind >= TN_EVENT_KINDS || !is_event(call, kind, nr) || is_arriving(task))
		return 0;

	if (!allows(filter, kind, task->cred->uid.val) || filter->syscalls_off[nr / 64] >> (nr % 64) & 1) {
		count_filtered(kind, slot);
		return 0;
	}
	if (kind == TN_EVENT_OPEN) {
		call->open_flags = open_flags_of(call, nr);
		by_prefix = !is_wanted_open(filter, call);
	}
	if (kind == TN_EVENT_FILE)
		by_prefix = filter->prefixed & TN_PREFIX_FILE;
	if (by_prefix && kind == TN_EVENT_OPEN && !(filter->prefixed & TN_PREFIX_OPEN)) {
		count_filtered(kind, slot);
		return 0;
	}

	call->event.kind = kind;
	if (shape.path)
		at = append_given(at, TN_TEXT_PATH, shape.path, shape.path_dir);
	if (shape.target && shape.flags & TN_SHAPE_LITERAL)
		at = append_string(at, TN_TEXT_TARGET, argument(call, shape.target));
	else if (shape.target)
		at = append_given(at, TN_TEXT_TARGET, shape.target, shape.target_dir);
	if (shape.extra)
		at = append_string(at, TN_TEXT_EXTRA, argument(call, shape.extra));
	if (shape.descriptor)
		file = file_of(task, argument(call, shape.descriptor));
	if (shape.flags & TN_SHAPE_SOCKET) {
		at = append_socket(at, (u64)file, shape.flags);
	} else if (file) {
		struct inode *inode = BPF_CORE_READ(file, f_inode);

		call->inode = BPF_CORE_READ(inode, i_ino);
		call->mode = BPF_CORE_READ(inode, i_mode);
		call->device = BPF_CORE_READ(inode, i_sb, s_dev);
		at = append_path(at, TN_TEXT_RESOLVED, (u64)path_of(file));
	}
	if (by_prefix &&
	    !is_below_prefix(scratch, slot,
			     kind == TN_EVENT_OPEN ? TN_PREFIX_OPEN : TN_PREFIX_FILE)) {
		count_filtered(kind, slot);
		return 0;
	}

	call->nr = nr;
	fill_event(&call->event, kind, slot, task);
	at += sizeof(*call);
	asm volatile("" : "+r"(at));
	if (at > sizeof(*scratch))
		return 0;
	count_event(kind, slot, bpf_ringbuf_output(&events, scratch, at, 0));
	return 0;
}
