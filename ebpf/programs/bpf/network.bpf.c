/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Bytes (network layer and above) and packets of a slot's sockets, loopback
 * apart, and of UDP the same once more; what is asked of name servers. A packet
 * that the stack will segment, or has merged, counts as its segments. And what a
 * socket had no room for: datagrams by the kernel's own word, connections by the
 * look that the kernel is about to take itself. Never drops.
 */
#include "destinations.h"
#include "dns.h"
#include "network_blame.h"

#define LOOPBACK_IFINDEX 1 /* in each network namespace */
#define PASS 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define TCP_LISTEN 10
#define TCP_NEW_SYN_RECV 12
#define TCP_FLAGS_AT 13
#define DESTINATION_PORT_AT 2
#define TCP_SYN 2
#define TCP_RST 4
#define ETH_P_IP 0x0800

static __always_inline struct tn_network *counts_of(struct __sk_buff *skb, u32 *slot)
{
	*slot = slot_of_id(bpf_skb_cgroup_id(skb));
	if (!*slot || !is_armed(*slot))
		return 0;
	return bpf_map_lookup_elem(&network, slot);
}

static __always_inline u64 segments(struct __sk_buff *skb)
{
	u32 segments = skb->gso_segs;

	return segments ? segments : 1;
}

static __always_inline void add_received(struct tn_traffic *traffic, struct __sk_buff *skb)
{
	__sync_fetch_and_add(&traffic->rx_bytes, skb->len);
	__sync_fetch_and_add(&traffic->rx_packets, segments(skb));
}

static __always_inline void add_sent(struct tn_traffic *traffic, struct __sk_buff *skb)
{
	__sync_fetch_and_add(&traffic->tx_bytes, skb->len);
	__sync_fetch_and_add(&traffic->tx_packets, segments(skb));
}

/* Where the header behind the network layer's begins; 0 if that is another protocol's. */
static __always_inline u32 transport_at(struct __sk_buff *skb, u8 protocol)
{
	u8 first, next;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		return bpf_skb_load_bytes(skb, 0, &first, 1) ? 0 : (first & 15) * 4;
	if (bpf_skb_load_bytes(skb, 6, &next, 1) || next != protocol)
		return 0;
	return 40;
}

static __always_inline bool is_port(struct __sk_buff *skb, u32 at, u16 port)
{
	u16 found;

	return !bpf_skb_load_bytes(skb, at, &found, sizeof(found)) && found == bpf_htons(port);
}

/* Whether the kernel has begun a handshake with who sent this to the listener. */
static __always_inline bool is_half_open(struct __sk_buff *skb, u32 at)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *half;
	u32 size = sizeof(tuple.ipv4);
	bool found;

	/* Source and destination lie in the headers as they do in the tuple. */
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, 12, &tuple.ipv4.saddr, 8) ||
		    bpf_skb_load_bytes(skb, at, &tuple.ipv4.sport, 4))
			return false;
	} else {
		size = sizeof(tuple.ipv6);
		if (bpf_skb_load_bytes(skb, 8, &tuple.ipv6.saddr, 32) ||
		    bpf_skb_load_bytes(skb, at, &tuple.ipv6.sport, 4))
			return false;
	}
	half = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!half)
		return false;
	found = half->state == TCP_NEW_SYN_RECV;
	bpf_sk_release(half);
	return found;
}

/*
 * A connection's first segment, or the third that completes it, meets a listener
 * whose queue is full: the kernel compares the same two numbers next, drops the
 * segment and counts it in its namespace. It answers a first segment that comes once
 * more before it looks, hence the look for a handshake that has begun. What is
 * neither, and the kernel refuses for that, is not told from a cookie's answer.
 */
static __always_inline void meet_listener(struct __sk_buff *skb, struct bpf_sock *sk, u32 slot)
{
	struct tcp_sock *listener = bpf_skc_to_tcp_sock(sk);
	const struct sock *socket;
	struct tn_tcp *row;
	u32 at;
	u8 flags;

	if (!listener)
		return;
	socket = &listener->inet_conn.icsk_inet.sk;
	if (socket->sk_ack_backlog <= socket->sk_max_ack_backlog)
		return;
	at = transport_at(skb, PROTOCOL_TCP);
	if (!at || bpf_skb_load_bytes(skb, at + TCP_FLAGS_AT, &flags, 1) || flags & TCP_RST)
		return;
	if (flags & TCP_SYN && is_half_open(skb, at))
		return;
	row = bpf_map_lookup_elem(&tcp, &slot);
	if (row)
		__sync_fetch_and_add(&row->listen_overflows, 1);
}

SEC("cgroup_skb/ingress")
int network_ingress(struct __sk_buff *skb)
{
	bool loopback = skb->ifindex == LOOPBACK_IFINDEX;
	struct tn_network *counts;
	struct bpf_sock *sk;
	u32 slot, at;

	counts = counts_of(skb, &slot);
	if (!counts)
		return PASS;
	add_received(loopback ? &counts->loopback : &counts->external, skb);
	sk = skb->sk;
	sk = sk ? bpf_sk_fullsock(sk) : 0;
	if (!sk)
		return PASS;
	if (sk->protocol == PROTOCOL_UDP) {
		add_received(loopback ? &counts->udp_loopback : &counts->udp_external, skb);
		at = transport_at(skb, PROTOCOL_UDP);
		if (at && is_port(skb, at, DNS_PORT))
			dns_answered(skb, sk, at);
	} else if (sk->protocol != PROTOCOL_TCP)
		return PASS;
	else if (sk->state == TCP_LISTEN)
		meet_listener(skb, sk, slot);
	else
		settle_received(sk);
	return PASS;
}

SEC("cgroup_skb/egress")
int network_egress(struct __sk_buff *skb)
{
	bool loopback = skb->ifindex == LOOPBACK_IFINDEX;
	struct tn_network *counts;
	struct bpf_sock *sk;
	u32 slot, at;

	counts = counts_of(skb, &slot);
	if (!counts)
		return PASS;
	add_sent(loopback ? &counts->loopback : &counts->external, skb);
	if (!loopback)
		note_flow(skb->hash, slot);
	sk = skb->sk;
	sk = sk ? bpf_sk_fullsock(sk) : 0;
	if (!sk || sk->protocol != PROTOCOL_UDP)
		return PASS;
	add_sent(loopback ? &counts->udp_loopback : &counts->udp_external, skb);
	at = transport_at(skb, PROTOCOL_UDP);
	if (at && is_port(skb, at + DESTINATION_PORT_AT, DNS_PORT))
		dns_asked(skb, sk, slot, at);
	return PASS;
}

/* What waits for an answer when its socket is closed will have none. */
SEC("cgroup/sock_release")
int dns_socket_closed(struct bpf_sock *sk)
{
	struct tn_dns_socket *socket = bpf_sk_storage_get(&dns_sockets, sk, 0, 0);
	struct tn_dns *row = socket ? dns_row_of(socket) : 0;

	if (!row)
		return PASS;
	for (u32 i = 0; i < TN_DNS_QUESTIONS; i++) {
		struct tn_dns_question *question = &socket->questions[i];
		u64 asked = *(volatile u64 *)&question->asked_ns, hash = question->hash;

		if (take_question(question, asked))
			__sync_fetch_and_add(&dns_counts(socket->slot, row, hash)->unanswered, 1);
	}
	return PASS;
}

/* Before 6.5 the kernel says this of IPv4's datagrams alone. */
SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(udp_receive_failed, int error, const struct sock *sk)
{
	u32 slot = slot_of_sock(sk);
	struct tn_network *counts = bpf_map_lookup_elem(&network, &slot);

	if (slot && counts)
		__sync_fetch_and_add(&counts->udp_drops[error == -ENOMEM ? TN_UDP_BUFFER : TN_UDP_MEMORY], 1);
	return 0;
}
