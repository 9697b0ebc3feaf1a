/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Nested cgroups: a child belongs to its parent's slot from the moment it
 * exists, and to nobody when it is gone. A cgroup that is called as another
 * runtime's container is, below nobody's, gets a slot of its own. Both
 * hierarchies alike.
 */
#include "foreign.h"

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_made, struct cgroup *cgroup, const char *path)
{
	struct cgroup_subsys_state *parent = cgroup->self.parent;
	struct tn_cgroup_key key = { .id = cgroup->kn->id, .hierarchy = cgroup->root->hierarchy_id };
	u32 slot;

	if (!parent)
		return 0;
	slot = slot_in_hierarchy(parent->cgroup->kn->id, key.hierarchy);
	if (!slot) {
		if (first_foreign_slot && (key.hierarchy == 0 || key.hierarchy == blkio_hierarchy))
			foreign_born(cgroup, parent->cgroup, path, &key);
		return 0;
	}
	if (bpf_map_update_elem(&cgroup_slots, &key, &slot, BPF_ANY)) {
		count_self(TN_SELF_CGROUPS_FULL);
		return 0;
	}
	if (key.hierarchy == 0)
		remember(key.id, slot);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_removed, struct cgroup *cgroup, const char *path)
{
	struct tn_cgroup_key key = { .id = cgroup->kn->id, .hierarchy = cgroup->root->hierarchy_id };
	u32 *slot = bpf_map_lookup_elem(&cgroup_slots, &key), value;

	if (!slot)
		return 0;
	value = *slot;
	/* The word goes second: whoever misses in between finds nothing in the hash either. */
	if (bpf_map_delete_elem(&cgroup_slots, &key) == 0 && key.hierarchy == 0)
		remember(key.id, 0);
	if (value & TN_FOREIGN_TOP)
		foreign_gone(path, &key, value & TN_SLOT_MASK);
	return 0;
}
