/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The ends of a socket: as the kernel has them, and as a process gives them. */
#pragma once

#include "paths.h"
#include <bpf/bpf_endian.h>

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define UNIX_PATH_MAX 108

/* sockaddr_in and sockaddr_in6, as far as they are looked into. */
struct user_address {
	u16 family;
	u16 port;
	u32 ipv4; /* of IPv6 the flow */
	u8 ipv6[16];
};

static __always_inline void copy_ipv4(struct tn_endpoint *end, u32 address)
{
	__builtin_memcpy(end->address, &address, sizeof(address));
}

/* The struct sock behind a descriptor's file, null if it is no socket. */
static __always_inline struct sock *sock_of(struct file *file)
{
	struct socket *socket;

	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

static __always_inline void read_ends(struct tn_call *call, struct sock *sk)
{
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	struct in6_addr address;

	call->socket_type = BPF_CORE_READ(sk, sk_type);
	call->protocol = BPF_CORE_READ(sk, sk_protocol);
	call->local.family = family;
	if (family != AF_INET && family != AF_INET6)
		return;
	call->local.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	call->remote.port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	/* Without a port there is nobody at the other end. */
	if (call->remote.port)
		call->remote.family = family;
	if (family == AF_INET) {
		copy_ipv4(&call->local, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		copy_ipv4(&call->remote, BPF_CORE_READ(sk, __sk_common.skc_daddr));
		return;
	}
	BPF_CORE_READ_INTO(&address, sk, __sk_common.skc_v6_rcv_saddr);
	__builtin_memcpy(call->local.address, &address, sizeof(address));
	BPF_CORE_READ_INTO(&address, sk, __sk_common.skc_v6_daddr);
	__builtin_memcpy(call->remote.address, &address, sizeof(address));
}

/* The path that a unix socket is bound to: its length, 0 if it has none. */
static __always_inline u32 read_unix_path(char *text, struct sock *sk)
{
	struct unix_address *address = BPF_CORE_READ((struct unix_sock *)sk, addr);
	u32 length;

	if (!address)
		return 0;
	length = BPF_CORE_READ(address, len) - sizeof(u16);
	asm volatile("" : "+r"(length));
	if (length > UNIX_PATH_MAX)
		return 0;
	if (bpf_probe_read_kernel(text, length,
				  (void *)address + bpf_core_field_offset(struct unix_address, name) +
					  sizeof(u16)))
		return 0;
	return length;
}

/*
 * The address that a process gave: its end of `end`, or, of a unix socket, the path's
 * length. Negative if it could not be read.
 */
static __always_inline long read_given(struct tn_endpoint *end, char *text, u64 pointer, u32 bytes)
{
	struct user_address given = {};

	if (bytes < sizeof(u16) || bpf_probe_read_user(&given, sizeof(u16), (void *)pointer))
		return -1;
	end->family = given.family;
	if (given.family == AF_UNIX) {
		bytes -= sizeof(u16);
		if (bytes > UNIX_PATH_MAX)
			bytes = UNIX_PATH_MAX;
		asm volatile("" : "+r"(bytes));
		if (bytes > UNIX_PATH_MAX ||
		    bpf_probe_read_user(text, bytes, (void *)pointer + sizeof(u16)))
			return -1;
		return bytes;
	}
	if (given.family == AF_INET && bytes >= 8) {
		if (bpf_probe_read_user(&given, 8, (void *)pointer))
			return -1;
		end->port = bpf_ntohs(given.port);
		copy_ipv4(end, given.ipv4);
	}
	if (given.family == AF_INET6 && bytes >= sizeof(given)) {
		if (bpf_probe_read_user(&given, sizeof(given), (void *)pointer))
			return -1;
		end->port = bpf_ntohs(given.port);
		__builtin_memcpy(end->address, given.ipv6, sizeof(given.ipv6));
	}
	return 0;
}
