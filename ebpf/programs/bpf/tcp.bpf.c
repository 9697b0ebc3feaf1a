/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * TCP connections from their beginning to their end, for the slot of the
 * socket's cgroup: a retransmission or a state change may run in a timer or
 * while a packet arrives, when the current task is a stranger. A socket that
 * is accepted has its listener's cgroup.
 *
 * The socket operations are called only for sockets below the attached cgroup;
 * where that is the root, because others' containers are metered too, a stranger
 * pays one look-up for each connection and none for a packet. And unlike a tracepoint's program they are never left
 * out when one interrupts another on the same CPU, so the counts are exact.
 * A socket is followed from the moment one of its operations sets its flags.
 */
#include "destinations.h"

#define TCP_ESTABLISHED 1
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7

#define FOLLOWED \
	(BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG)

static __always_inline u32 error_of(int sk_err)
{
	switch (sk_err) {
	case 0:
		return TN_TCP_NONE;
	case 111:
		return TN_TCP_REFUSED;
	case 110:
		return TN_TCP_TIMED_OUT;
	case 113:
		return TN_TCP_HOST_UNREACHABLE;
	case 101:
		return TN_TCP_NET_UNREACHABLE;
	case 104:
		return TN_TCP_RESET;
	case 32:
		return TN_TCP_BROKEN_PIPE;
	default:
		return TN_TCP_OTHER;
	}
}

/* 127/8 and ::1, also as ::ffff:127.0.0.1, and one's own address: what never leaves by a link. */
static __always_inline bool is_loopback(struct bpf_sock_ops *op)
{
	u32 remote = op->remote_ip4;

	if (op->family == AF_INET)
		return (remote & 0xff) == 127 || remote == op->local_ip4;
	if (op->family != AF_INET6)
		return false;
	if (op->remote_ip6[0] == op->local_ip6[0] && op->remote_ip6[1] == op->local_ip6[1] &&
	    op->remote_ip6[2] == op->local_ip6[2] && op->remote_ip6[3] == op->local_ip6[3])
		return true;
	return op->remote_ip6[0] == 0 && op->remote_ip6[1] == 0 &&
	       op->remote_ip6[2] == 0xffff0000 && (op->remote_ip6[3] & 0xff) == 127;
}

static __always_inline struct tn_socket *follow(struct bpf_sock_ops *op, struct bpf_sock *sk,
						u8 direction, struct tn_tcp **row)
{
	struct tcp_sock *kernel_sock = bpf_skc_to_tcp_sock(sk);
	struct tn_socket *socket;
	u32 slot;

	if (!kernel_sock)
		return 0;
	slot = slot_of_sock(&kernel_sock->inet_conn.icsk_inet.sk);
	if (!slot)
		return 0;
	*row = bpf_map_lookup_elem(&tcp, &slot);
	if (!*row)
		return 0;
	socket = bpf_sk_storage_get(&tcp_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket) {
		count_self(TN_SELF_SOCKETS_FULL);
		return 0;
	}
	socket->established_ns = 0;
	socket->sent_bytes = 0;
	socket->received_bytes = 0;
	socket->slot = slot;
	socket->generation = (*row)->generation;
	socket->loopback = is_loopback(op);
	name_destination(op, &socket->destination, slot, direction);
	bpf_sock_ops_cb_flags_set(op, op->bpf_sock_ops_cb_flags | FOLLOWED);
	return socket;
}

static __always_inline void begun(struct bpf_sock_ops *op, struct bpf_sock *sk)
{
	struct tn_tcp *row = 0;
	struct tn_socket *socket = follow(op, sk, TN_OUTGOING, &row);

	if (!socket || !row)
		return;
	__sync_fetch_and_add(&row->connects_begun, 1);
}

static __always_inline void accepted(struct bpf_sock_ops *op, struct bpf_sock *sk)
{
	struct tn_socket *socket = bpf_sk_storage_get(&tcp_sockets, sk, 0, 0);
	struct tn_tcp *row = 0;

	/* Two ends that connect to each other at once both come this way: no accept. */
	if (socket)
		return;
	socket = follow(op, sk, TN_INCOMING, &row);
	if (!socket || !row)
		return;
	socket->established_ns = bpf_ktime_get_ns();
	__sync_fetch_and_add(&row->accepts, 1);
	__sync_fetch_and_add(&claim_destination(socket, row)->connections, 1);
}

static __always_inline void add_rtt(struct tn_socket *socket, u32 srtt_us)
{
	u32 slot = socket->slot;
	struct tn_tcp_rtt *rtt = bpf_map_lookup_elem(&tcp_rtt, &slot);

	/* The kernel keeps eight times the value; 0 before the first measurement. */
	if (!rtt || !srtt_us)
		return;
	add_duration(socket->loopback ? &rtt->loopback : &rtt->external, (u64)srtt_us * 1000 >> 3);
}

static __always_inline void ended(struct bpf_sock_ops *op, struct bpf_sock *sk,
				  struct tn_socket *socket, struct tn_tcp *row)
{
	struct tcp_sock *kernel_sock = bpf_skc_to_tcp_sock(sk);
	u32 error = kernel_sock ? error_of(kernel_sock->inet_conn.icsk_inet.sk.sk_err) : TN_TCP_OTHER;

	if (socket->established_ns) {
		settle(sk, socket, row);
		__sync_fetch_and_add(&row->closed, 1);
		add_duration(&row->duration, bpf_ktime_get_ns() - socket->established_ns);
		add_rtt(socket, op->srtt_us);
		if (error == TN_TCP_NONE)
			return;
	} else {
		__sync_fetch_and_add(&row->connects_failed, 1);
	}
	if (error < TN_TCP_ERRORS)
		__sync_fetch_and_add(&row->failures[error], 1);
	__sync_fetch_and_add(&claim_destination(socket, row)->failures, 1);
}

static __always_inline void changed(struct bpf_sock_ops *op, struct bpf_sock *sk, u32 state)
{
	struct tn_socket *socket;
	struct tn_tcp *row;

	if (state != TCP_ESTABLISHED && state != TCP_CLOSE)
		return;
	socket = bpf_sk_storage_get(&tcp_sockets, sk, 0, 0);
	if (!socket)
		return;
	row = row_of(socket);
	if (state == TCP_ESTABLISHED) {
		if (row && !socket->established_ns) {
			socket->established_ns = bpf_ktime_get_ns();
			__sync_fetch_and_add(&row->connects_established, 1);
			__sync_fetch_and_add(&claim_destination(socket, row)->connections, 1);
		}
		return;
	}
	if (row)
		ended(op, sk, socket, row);
	/* The same socket may connect again. */
	bpf_sk_storage_delete(&tcp_sockets, sk);
}

static __always_inline void measured(struct bpf_sock_ops *op, struct bpf_sock *sk)
{
	struct tn_socket *socket = bpf_sk_storage_get(&tcp_sockets, sk, 0, 0);
	struct tn_tcp *row = socket ? row_of(socket) : 0;

	if (!row)
		return;
	add_rtt(socket, op->srtt_us);
	settle(sk, socket, row);
}

static __always_inline void resent(struct bpf_sock *sk, u32 segments)
{
	struct tn_socket *socket = bpf_sk_storage_get(&tcp_sockets, sk, 0, 0);
	struct tn_tcp *row = socket ? row_of(socket) : 0;

	if (row)
		__sync_fetch_and_add(&row->retransmits, segments);
}

SEC("sockops")
int tcp_life(struct bpf_sock_ops *op)
{
	struct bpf_sock *sk = op->sk;

	/* What the kernel asks for (time-outs, windows) keeps its default: no reply is written. */
	if (!sk)
		return 1;
	switch (op->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		begun(op, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		accepted(op, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		/* The arguments are the old and the new state. */
		changed(op, sk, op->args[1]);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		measured(op, sk);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		/* The arguments are sequence number and segments. */
		resent(sk, op->args[1]);
		break;
	}
	return 1;
}

/* A request or a socket in TIME_WAIT is smaller than what the slot is read from. */
static __always_inline struct tn_tcp *row_of_sock(const struct sock *sk)
{
	struct tn_tcp *row;
	u8 state;
	u32 slot;

	if (!sk)
		return 0;
	state = sk->__sk_common.skc_state;
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return 0;
	slot = slot_of_sock(sk);
	row = bpf_map_lookup_elem(&tcp, &slot);
	return slot ? row : 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_reset_sent, const struct sock *sk)
{
	struct tn_tcp *row = row_of_sock(sk);

	if (row)
		__sync_fetch_and_add(&row->resets_sent, 1);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_reset_received, const struct sock *sk)
{
	struct tn_tcp *row = row_of_sock(sk);

	if (row)
		__sync_fetch_and_add(&row->resets_received, 1);
	return 0;
}

/* The listener's answer to a SYN, again: there is no connection yet that could be followed. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_synack_resent, const struct sock *sk)
{
	struct tn_tcp *row = row_of_sock(sk);

	if (row)
		__sync_fetch_and_add(&row->retransmits, 1);
	return 0;
}
