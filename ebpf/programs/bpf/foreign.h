/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Containers of other runtimes, known by their cgroup's name the moment it is
 * made. User space (agent/src/foreign/classify.rs) knows the same names and has
 * the last word: what it does not know loses its slot again.
 */
#pragma once

#include "slots.h"

/* Slots from this one on are for foreign containers; 0 = none are wanted. Set before loading. */
const volatile u32 first_foreign_slot = 0;
/* Whether systemd's services are wanted too. */
const volatile bool foreign_services = false;
/* Defined beside its first user. */
const volatile u32 blkio_hierarchy;

#define ID_BYTES 64

enum subject {
	NO_SUBJECT = 0,
	CONTAINER = 1,
	SERVICE = 2,
};

#define LONGEST_LITERAL 16

/* Unrolled to comparisons with constants: there is no memcmp to call here. */
static __always_inline bool are_equal(const char *name, const char *literal, u32 bytes)
{
	u32 i;

#pragma unroll
	for (i = 0; i < LONGEST_LITERAL; i++)
		if (i < bytes && name[i] != literal[i])
			return false;
	return true;
}

#define begins_with(name, literal) are_equal(name, literal, sizeof(literal) - 1)
/* With the NUL: nothing may follow. */
#define is_called(name, literal) are_equal(name, literal, sizeof(literal))

static __always_inline bool is_hex(const char *name, u32 from)
{
	char id[ID_BYTES];
	int i;

	if (bpf_probe_read_kernel(id, sizeof(id), name + from))
		return false;
	for (i = 0; i < ID_BYTES; i++) {
		char c = id[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
	}
	return true;
}

/* Parents below which runtimes put containers that are called by their id alone. */
static __always_inline bool holds_bare_ids(const struct cgroup *parent)
{
	char name[16] = {};

	if (bpf_probe_read_kernel_str(name, sizeof(name), parent->kn->name) < 0)
		return false;
	if (is_called(name, "docker") || is_called(name, "default") || is_called(name, "k8s.io") ||
	    is_called(name, "moby") || is_called(name, "buildkit"))
		return true;
	return begins_with(name, "pod") &&
	       ((name[3] >= '0' && name[3] <= '9') || (name[3] >= 'a' && name[3] <= 'f'));
}

static __always_inline bool is_runtimes_prefix(const char *name, u32 bytes)
{
	return (bytes == 7 && (begins_with(name, "docker-") || begins_with(name, "libpod-"))) ||
	       (bytes == 5 && begins_with(name, "crio-")) ||
	       (bytes == 8 && begins_with(name, "nerdctl-")) ||
	       (bytes == 15 && begins_with(name, "cri-containerd-"));
}

/* `name` has room for TN_CGROUP_NAME bytes. */
static __always_inline enum subject subject_of(struct cgroup *cgroup, const struct cgroup *parent,
					       char *name)
{
	const char *kernels = cgroup->kn->name;
	long read = bpf_probe_read_kernel_str(name, TN_CGROUP_NAME, kernels);
	u32 bytes, stem;
	char end[8];

	/* Shorter than any, with its NUL. */
	if (read <= (long)sizeof(".service"))
		return NO_SUBJECT;
	bytes = stem = read - 1;
	if (bpf_probe_read_kernel(end, sizeof(end), kernels + bytes - sizeof(end)))
		return NO_SUBJECT;
	if (begins_with(end, ".service")) {
		/* A user's service manager is a place for subjects, none itself. */
		return foreign_services && !begins_with(name, "user@") ? SERVICE : NO_SUBJECT;
	}
	if (begins_with(end + 2, ".scope"))
		stem -= 6;
	if (stem < ID_BYTES || !is_hex(kernels, stem - ID_BYTES))
		return NO_SUBJECT;
	if (bytes == ID_BYTES)
		return holds_bare_ids(parent) ? CONTAINER : NO_SUBJECT;
	return is_runtimes_prefix(name, stem - ID_BYTES) ? CONTAINER : NO_SUBJECT;
}

/* Bytes of the path without its NUL, 0 if it is longer than there is room for. */
static __always_inline u32 read_path(struct tn_cgroup_scratch *scratch, const char *path)
{
	long read = bpf_probe_read_kernel_str(scratch->event.path, TN_CGROUP_PATH, path);
	u32 bytes;

	if (read <= 1 || read >= TN_CGROUP_PATH)
		return 0;
	bytes = read - 1;
	__builtin_memset(&scratch->tail, 0, sizeof(scratch->tail));
	if (bytes >= TN_CGROUP_TAIL)
		path += bytes - (TN_CGROUP_TAIL - 1);
	bpf_probe_read_kernel_str(scratch->tail.tail, TN_CGROUP_TAIL, path);
	return bytes;
}

static __always_inline void tell(struct tn_cgroup_event *event)
{
	if (bpf_ringbuf_output(&cgroup_events, event, sizeof(*event), 0))
		count_self(TN_SELF_CGROUP_EVENTS_LOST);
}

/* The slot that the container has in the other hierarchy, else a new one; 0 = there is none. */
static __always_inline u32 take_slot(struct tn_cgroup_tail *tail)
{
	u32 slot = 0, *known = 0;

	if (blkio_hierarchy)
		known = bpf_map_lookup_elem(&cgroup_names, tail);
	if (known)
		return *known;
	if (bpf_map_pop_elem(&slot_pool, &slot)) {
		count_self(TN_SELF_POOL_EMPTY);
		return 0;
	}
	if (blkio_hierarchy)
		bpf_map_update_elem(&cgroup_names, tail, &slot, BPF_ANY);
	return slot;
}

static __always_inline void foreign_born(struct cgroup *cgroup, const struct cgroup *parent,
					 const char *path, struct tn_cgroup_key *key)
{
	u32 zero = 0, slot, value;
	struct tn_cgroup_scratch *scratch = bpf_map_lookup_elem(&cgroup_scratch, &zero);
	struct tn_slot_state *state;
	enum subject subject;

	if (!scratch)
		return;
	subject = subject_of(cgroup, parent, scratch->name);
	if (subject == NO_SUBJECT)
		return;
	scratch->event.path_bytes = read_path(scratch, path);
	if (!scratch->event.path_bytes)
		return;
	slot = take_slot(&scratch->tail);
	if (slot) {
		state = bpf_map_lookup_elem(&slot_states, &slot);
		/* Whatever is moved into a service's cgroup is the service; it may never exec there. */
		if (state && subject == SERVICE)
			state->armed = 1;
		value = slot | TN_FOREIGN_TOP;
		if (bpf_map_update_elem(&cgroup_slots, key, &value, BPF_ANY))
			count_self(TN_SELF_CGROUPS_FULL);
		else if (key->hierarchy == 0)
			remember(key->id, slot);
	}
	scratch->event.change = TN_CGROUP_BORN;
	scratch->event.slot = slot;
	scratch->event.id = key->id;
	scratch->event.hierarchy = key->hierarchy;
	tell(&scratch->event);
}

static __always_inline void foreign_gone(const char *path, struct tn_cgroup_key *key, u32 slot)
{
	u32 zero = 0;
	struct tn_cgroup_scratch *scratch = bpf_map_lookup_elem(&cgroup_scratch, &zero);

	if (!scratch)
		return;
	if (blkio_hierarchy && read_path(scratch, path))
		bpf_map_delete_elem(&cgroup_names, &scratch->tail);
	scratch->event.change = TN_CGROUP_GONE;
	scratch->event.slot = slot;
	scratch->event.id = key->id;
	scratch->event.hierarchy = key->hierarchy;
	scratch->event.path_bytes = 0;
	tell(&scratch->event);
}
