/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * From a socket to the row of whom it talks to, and the bytes that go there.
 * Bytes of a live connection are added once in each round trip, and at least
 * every 64 KiB that it receives; the rest when it closes.
 */
#pragma once

#include "slots.h"
#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10

/* Reads a context's field in place: the verifier takes no pointer that the compiler has moved. */
#define CONTEXT(field) (*(volatile u32 *)&(field))

#define RECEIVED_UNSETTLED (64 * 1024)

/* The row that a socket's doings are added to; none if its slot has a new holder. */
static __always_inline struct tn_tcp *row_of(struct tn_socket *socket)
{
	u32 slot = socket->slot;
	struct tn_tcp *row = bpf_map_lookup_elem(&tcp, &slot);

	return row && row->generation == socket->generation ? row : 0;
}

static __always_inline void name_destination(struct bpf_sock_ops *op, struct tn_destination_key *key,
					     u32 slot, u8 direction)
{
	u32 first = CONTEXT(op->remote_ip6[0]), second = CONTEXT(op->remote_ip6[1]);
	u32 third = CONTEXT(op->remote_ip6[2]), fourth = CONTEXT(op->remote_ip6[3]);
	u32 remote_port = CONTEXT(op->remote_port), local_port = CONTEXT(op->local_port);
	u32 family = CONTEXT(op->family), ip4 = CONTEXT(op->remote_ip4);
	bool outgoing = direction == TN_OUTGOING;

	/* ::ffff:a.b.c.d is a.b.c.d. */
	if (family == AF_INET6 && !first && !second && third == bpf_htonl(0xffff)) {
		family = AF_INET;
		ip4 = fourth;
	}
	key->slot = slot;
	key->direction = direction;
	key->port = outgoing ? bpf_ntohl(remote_port) : local_port;
	key->family = family == AF_INET ? 4 : 6;
	if (family == AF_INET) {
		first = outgoing ? ip4 : ip4 & bpf_htonl(0xffffff00);
		second = 0;
	}
	key->address[0] = first;
	key->address[1] = second;
	key->address[2] = family == AF_INET || !outgoing ? 0 : third;
	key->address[3] = family == AF_INET || !outgoing ? 0 : fourth;
}

static __always_inline struct tn_destination *other_destination(struct tn_socket *socket, struct tn_tcp *row)
{
	return socket->destination.direction == TN_OUTGOING ? &row->other[TN_OUTGOING] :
							      &row->other[TN_INCOMING];
}

/* The destination's row, or the one of those that found no room. */
static __always_inline struct tn_destination *destination_of(struct tn_socket *socket,
							     struct tn_tcp *row)
{
	struct tn_destination_key key = socket->destination;
	struct tn_destination *found = bpf_map_lookup_elem(&destinations, &key);

	return found ? found : other_destination(socket, row);
}

/* The same, and makes one if there is none. */
static __always_inline struct tn_destination *claim_destination(struct tn_socket *socket,
								struct tn_tcp *row)
{
	struct tn_destination_key key = socket->destination;
	struct tn_destination *found = bpf_map_lookup_elem(&destinations, &key);
	struct tn_destination empty = {};
	long result;

	if (found)
		return found;
	/* Two that come at once may pass the bound by one. */
	if (*(volatile u32 *)&row->destinations >= TN_SLOT_DESTINATIONS) {
		count_self(TN_SELF_DESTINATIONS_FULL);
		return other_destination(socket, row);
	}
	result = bpf_map_update_elem(&destinations, &key, &empty, BPF_NOEXIST);
	if (result == 0)
		__sync_fetch_and_add(&row->destinations, 1);
	else if (result != -EEXIST)
		count_self(TN_SELF_DESTINATIONS_FULL);
	return destination_of(socket, row);
}

/* Adds what is new since the last time; whoever comes at the same time adds the rest or nothing. */
static __always_inline u64 advance(u64 *settled, u64 now)
{
	u64 before = *(volatile u64 *)settled;

	if (now <= before || __sync_val_compare_and_swap(settled, before, now) != before)
		return 0;
	return now - before;
}

/* Payload that the socket sent, each byte once, and received. */
static __always_inline void settle(struct bpf_sock *sk, struct tn_socket *socket, struct tn_tcp *row)
{
	struct tcp_sock *tcp_sock = bpf_skc_to_tcp_sock(sk);
	struct tn_destination *destination;
	u64 sent, received, done;

	if (!tcp_sock)
		return;
	/* The end of the other side's stream takes a sequence number, which the kernel counts as a byte. */
	done = bpf_core_enum_value(enum sock_flags, SOCK_DONE);
	done = tcp_sock->inet_conn.icsk_inet.sk.__sk_common.skc_flags >> done & 1;
	sent = tcp_sock->bytes_sent - tcp_sock->bytes_retrans;
	received = tcp_sock->bytes_received - done;
	sent = advance(&socket->sent_bytes, sent);
	received = advance(&socket->received_bytes, received);
	if (!sent && !received)
		return;
	destination = destination_of(socket, row);
	__sync_fetch_and_add(&destination->sent_bytes, sent);
	__sync_fetch_and_add(&destination->received_bytes, received);
}

/* A connection that only receives has no round trips that it could measure. */
static __always_inline void settle_received(struct bpf_sock *sk)
{
	struct bpf_tcp_sock *tcp_sock;
	struct tn_socket *socket;
	struct tn_tcp *row;
	u64 received;

	tcp_sock = bpf_tcp_sock(sk);
	if (!tcp_sock)
		return;
	received = tcp_sock->bytes_received;
	socket = bpf_sk_storage_get(&tcp_sockets, sk, 0, 0);
	if (!socket || received < socket->received_bytes + RECEIVED_UNSETTLED)
		return;
	row = row_of(socket);
	if (!row)
		return;
	/* Less one, in case the stream has just ended. */
	received = advance(&socket->received_bytes, received - 1);
	if (received)
		__sync_fetch_and_add(&destination_of(socket, row)->received_bytes, received);
}
