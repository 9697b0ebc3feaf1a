/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Questions that a container's sockets ask port 53 over UDP, and their answers: by
 * the end of the name, matched by socket and id. DNS over TCP is a connection like
 * any other and is not looked into.
 */
#pragma once

#include "events.h"
#include <bpf/bpf_endian.h>

#define DNS_PORT 53
#define DNS_PROTOCOL_UDP 17
#define DNS_SOCK_DGRAM 2
#define DNS_ETH_P_IP 0x0800
#define DNS_AF_INET 2
#define DNS_AF_INET6 10
#define UDP_HEADER 8
#define DNS_RESPONSE 0x8000
#define DNS_OPCODE 0x7800
#define DNS_CODE 0x000f
/* Labels of the longest name that is read: an IPv6 address's, backwards, has 34. */
#define DNS_LABELS 40
#define DNS_LABEL_BYTES 63
#define DNS_CLAIMED (~0ULL)
#define DNS_PATIENCE_NS (5ULL * 1000 * 1000 * 1000)
#define ONES 0x0101010101010101ULL

/* What a new row begins as: too large for a program's stack. */
const struct tn_dns_name no_dns_name = {};

struct dns_header {
	u16 id;
	u16 flags;
	u16 questions;
	u16 records[3];
};

/* The end of a name, in lower case. */
struct dns_tail {
	u64 words[TN_DNS_NAME / 8];
	u32 bytes; /* 0 for the root */
	u32 type_at;
};

/* Eight letters at once: whatever is one of A to Z gets the bit that makes it small. */
static __always_inline u64 lower(u64 word)
{
	u64 low = word & 0x7f * ONES;
	u64 from_a = low + (0x80 - 'A') * ONES;
	u64 above_z = low + (0x7f - 'Z') * ONES;

	return word | (~word & 0x80 * ONES & (from_a ^ above_z)) >> 2;
}

/* Lengths of labels are below 'A', so that they survive. */
static __always_inline u64 lower_and_hash(struct dns_tail *tail)
{
	u64 hash = tail->bytes;

	for (u32 i = 0; i < TN_DNS_NAME / 8; i++) {
		tail->words[i] = lower(tail->words[i]);
		hash = (hash ^ tail->words[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 32;
	}
	return hash ? hash : 1;
}

/* False for what is no plain name, or a longer one than there are. */
static __always_inline bool read_dns_tail(struct __sk_buff *skb, u32 at, struct dns_tail *tail)
{
	/* Where the last four labels begin, the last one last. */
	u32 starts[TN_DNS_NAME_LABELS] = { at, at, at, at };
	u32 end = at, start, bytes;
	bool whole = false;
	u8 length;

	for (u32 i = 0; i < DNS_LABELS; i++) {
		if (bpf_skb_load_bytes(skb, end, &length, 1) || length > DNS_LABEL_BYTES)
			return false;
		if (!length) {
			whole = true;
			break;
		}
		starts[0] = starts[1];
		starts[1] = starts[2];
		starts[2] = starts[3];
		starts[3] = end;
		end += length + 1;
	}
	if (!whole)
		return false;
	tail->type_at = end + 1;
	start = starts[3];
	if (end - starts[2] <= TN_DNS_NAME)
		start = starts[2];
	if (end - starts[1] <= TN_DNS_NAME)
		start = starts[1];
	if (end - starts[0] <= TN_DNS_NAME)
		start = starts[0];
	bytes = end - start;
	tail->bytes = bytes;
	if (!bytes)
		return true;
	/* One to 64, said so that the verifier sees it. */
	return !bpf_skb_load_bytes(skb, start, tail->words, (bytes - 1 & (TN_DNS_NAME - 1)) + 1);
}

/* The counters of a name, or those of what belongs to none. */
static __always_inline struct tn_dns_counts *dns_counts(u32 slot, struct tn_dns *row, u64 hash)
{
	struct tn_dns_key key = { .hash = hash, .slot = slot };
	struct tn_dns_name *found = hash ? bpf_map_lookup_elem(&dns_names, &key) : 0;

	return found ? &found->counts : &row->other;
}

/* The hash under which the name has a row from now on; 0 if there is no room. */
static __always_inline u64 claim_dns_name(u32 slot, struct tn_dns *row, struct dns_tail *tail)
{
	struct tn_dns_key key = { .hash = lower_and_hash(tail), .slot = slot };
	struct tn_dns_name *found = bpf_map_lookup_elem(&dns_names, &key);
	long result;

	if (found)
		return key.hash;
	/* Two that come at once may pass the bound by one. */
	if (*(volatile u32 *)&row->names >= TN_SLOT_DNS_NAMES) {
		count_self(TN_SELF_DNS_NAMES_FULL);
		return 0;
	}
	result = bpf_map_update_elem(&dns_names, &key, &no_dns_name, BPF_NOEXIST);
	if (result == -EEXIST)
		return key.hash;
	found = result ? 0 : bpf_map_lookup_elem(&dns_names, &key);
	if (!found) {
		count_self(TN_SELF_DNS_NAMES_FULL);
		return 0;
	}
	__sync_fetch_and_add(&row->names, 1);
	__builtin_memcpy(found->name, tail->words, TN_DNS_NAME);
	/* Last: a reader leaves out rows without a length. */
	*(volatile u32 *)&found->name_bytes = tail->bytes;
	return key.hash;
}

static __always_inline void remember_question(struct bpf_sock *sk, u32 slot, struct tn_dns *row,
					      u64 hash, u32 id)
{
	struct tn_dns_socket *socket =
		bpf_sk_storage_get(&dns_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	u64 now = bpf_ktime_get_ns(), seen = DNS_CLAIMED;
	struct tn_dns_question *question;
	bool again = false, same_holder;
	u32 place = 0;

	if (!socket) {
		count_self(TN_SELF_DNS_QUESTIONS_FULL);
		return;
	}
	same_holder = socket->slot == slot && socket->generation == row->generation;
	socket->slot = slot;
	socket->generation = row->generation;
	/* The same question's place, or a free one, or the oldest one's. */
	for (u32 i = 0; i < TN_DNS_QUESTIONS; i++) {
		u64 asked = *(volatile u64 *)&socket->questions[i].asked_ns;

		if (asked < seen) {
			seen = asked;
			place = i;
		}
		if (asked && asked != DNS_CLAIMED && socket->questions[i].id == id &&
		    socket->questions[i].hash == hash) {
			seen = asked;
			place = i;
			again = true;
			break;
		}
	}
	question = &socket->questions[place & (TN_DNS_QUESTIONS - 1)];
	/* Another thread that asks through the same socket may have taken the place. */
	if (seen == DNS_CLAIMED ||
	    __sync_val_compare_and_swap(&question->asked_ns, seen, DNS_CLAIMED) != seen) {
		count_self(TN_SELF_DNS_QUESTIONS_FULL);
		return;
	}
	if (seen && same_holder) {
		if (again || now - seen > DNS_PATIENCE_NS)
			__sync_fetch_and_add(&dns_counts(slot, row, question->hash)->unanswered, 1);
		else
			count_self(TN_SELF_DNS_QUESTIONS_FULL);
	}
	question->hash = hash;
	question->id = id;
	*(volatile u64 *)&question->asked_ns = now;
}

/* The ends of a datagram, from its headers; `at` is the UDP header. */
static __always_inline void read_datagram_ends(struct __sk_buff *skb, u32 at, struct tn_call *call)
{
	call->protocol = DNS_PROTOCOL_UDP;
	call->socket_type = DNS_SOCK_DGRAM;
	bpf_skb_load_bytes(skb, at, &call->local.port, 2);
	call->local.port = bpf_ntohs(call->local.port);
	call->remote.port = DNS_PORT;
	if (skb->protocol == bpf_htons(DNS_ETH_P_IP)) {
		call->local.family = DNS_AF_INET;
		bpf_skb_load_bytes(skb, 12, call->local.address, 4);
		bpf_skb_load_bytes(skb, 16, call->remote.address, 4);
	} else {
		call->local.family = DNS_AF_INET6;
		bpf_skb_load_bytes(skb, 8, call->local.address, 16);
		bpf_skb_load_bytes(skb, 24, call->remote.address, 16);
	}
	call->remote.family = call->local.family;
}

/*
 * The question as an audit event. A datagram leaves in its sender's own context but for
 * one that had to wait for a link's address: then the current task is somebody else, of
 * another slot nearly always, and the event names no process. Not static: so the verifier looks
 * into it once, not once for each number of labels.
 */
__noinline int send_question(struct __sk_buff *skb, u32 slot, u32 at, u32 bytes, u32 type)
{
	struct task_struct *task = bpf_get_current_task_btf();
	bool is_sender = counted_slot_of(task) == slot;
	struct tn_question *question;
	struct tn_call *call;

	if (!is_wanted(TN_EVENT_DNS, slot,
		       is_sender ? BPF_CORE_READ(task, cred, uid.val) : bpf_get_socket_uid(skb)))
		return 0;
	question = bpf_ringbuf_reserve(&events, sizeof(*question), 0);
	count_event(TN_EVENT_DNS, slot, !question);
	if (!question)
		return 0;
	call = &question->call;
	__builtin_memset(call, 0, sizeof(*call));
	if (is_sender) {
		fill_event(&call->event, TN_EVENT_DNS, slot, task);
	} else {
		call->event.kind = TN_EVENT_DNS;
		call->event.slot = slot;
		call->event.time_ns = bpf_ktime_get_ns();
		call->event.cgroup_id = bpf_skb_cgroup_id(skb);
		call->event.uid = bpf_get_socket_uid(skb);
	}
	call->nr = TN_NO_CALL;
	call->args[0] = type;
	read_datagram_ends(skb, at, call);
	if (bytes >= TN_QUESTION_NAME) {
		call->flags |= TN_CALL_TRUNCATED << TN_TEXT_EXTRA;
		bytes = TN_QUESTION_NAME - 1;
	}
	if (bytes) {
		/* One to 256, said so that the verifier sees it. */
		asm volatile("" : "+r"(bytes));
		if (bpf_skb_load_bytes(skb, at + UDP_HEADER + sizeof(struct dns_header),
				       question->name,
				       (bytes - 1 & (TN_QUESTION_NAME - 1)) + 1))
			call->flags |= TN_CALL_UNREAD << TN_TEXT_EXTRA;
		else
			call->text_bytes[TN_TEXT_EXTRA] = bytes;
	}
	bpf_ringbuf_submit(question, 0);
	return 0;
}

/* A datagram that a socket sends to port 53; `at` is its UDP header. */
static __always_inline void dns_asked(struct __sk_buff *skb, struct bpf_sock *sk, u32 slot, u32 at)
{
	struct tn_dns *row = bpf_map_lookup_elem(&dns, &slot);
	u32 type = TN_DNS_OTHER_TYPE;
	u32 name_at = at + UDP_HEADER + sizeof(struct dns_header), bytes = 0;
	struct dns_header header;
	struct dns_tail tail = {};
	u64 hash = 0;
	u16 asked = 0;

	if (!row || bpf_skb_load_bytes(skb, at + UDP_HEADER, &header, sizeof(header)))
		return;
	if (header.flags & bpf_htons(DNS_RESPONSE | DNS_OPCODE) || !header.questions)
		return;
	/* Of what is no plain name the event has all that there is, up to its bound. */
	if (skb->len > name_at)
		bytes = skb->len - name_at;
	if (read_dns_tail(skb, name_at, &tail)) {
		bytes = tail.type_at - 1 - name_at;
		if (!bpf_skb_load_bytes(skb, tail.type_at, &asked, sizeof(asked)))
			type = asked == bpf_htons(1)  ? TN_DNS_A :
			       asked == bpf_htons(28) ? TN_DNS_AAAA :
							TN_DNS_OTHER_TYPE;
		if (tail.bytes)
			hash = claim_dns_name(slot, row, &tail);
	}
	__sync_fetch_and_add(&dns_counts(slot, row, hash)->queries[type], 1);
	remember_question(sk, slot, row, hash, header.id);
	send_question(skb, slot, at, bytes, bpf_ntohs(asked));
}

static __always_inline u32 dns_code(u16 flags)
{
	switch (bpf_ntohs(flags) & DNS_CODE) {
	case 0:
		return TN_DNS_NOERROR;
	case 2:
		return TN_DNS_SERVFAIL;
	case 3:
		return TN_DNS_NXDOMAIN;
	case 5:
		return TN_DNS_REFUSED;
	default:
		return TN_DNS_OTHER_CODE;
	}
}

/* The row that a socket's questions belong to; none if its slot has a new holder. */
static __always_inline struct tn_dns *dns_row_of(struct tn_dns_socket *socket)
{
	u32 slot = socket->slot;
	struct tn_dns *row = bpf_map_lookup_elem(&dns, &slot);

	return row && row->generation == socket->generation ? row : 0;
}

/* Takes a question that waits since `asked`: once, whoever else comes for it. */
static __always_inline bool take_question(struct tn_dns_question *question, u64 asked)
{
	return asked && asked != DNS_CLAIMED &&
	       __sync_val_compare_and_swap(&question->asked_ns, asked, 0) == asked;
}

/* A datagram from port 53 that reaches a socket. */
static __always_inline void dns_answered(struct __sk_buff *skb, struct bpf_sock *sk, u32 at)
{
	struct tn_dns_socket *socket = bpf_sk_storage_get(&dns_sockets, sk, 0, 0);
	struct tn_dns *row = socket ? dns_row_of(socket) : 0;
	struct dns_header header;

	if (!row || bpf_skb_load_bytes(skb, at + UDP_HEADER, &header, sizeof(header)) ||
	    !(header.flags & bpf_htons(DNS_RESPONSE)))
		return;
	for (u32 i = 0; i < TN_DNS_QUESTIONS; i++) {
		struct tn_dns_question *question = &socket->questions[i];
		u64 asked = *(volatile u64 *)&question->asked_ns, hash = question->hash;
		struct tn_dns_counts *counts;

		if (question->id != header.id || !take_question(question, asked))
			continue;
		counts = dns_counts(socket->slot, row, hash);
		__sync_fetch_and_add(&counts->answers[dns_code(header.flags)], 1);
		add_duration(&counts->latency, bpf_ktime_get_ns() - asked);
		return;
	}
}
