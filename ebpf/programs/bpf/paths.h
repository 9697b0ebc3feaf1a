/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where a file lies, as its process sees it: names from the file up to the
 * process's root, across mounts. No lock is held. Whoever renames a directory
 * on the way meanwhile may have the path mixed, old and new, as long as the walk lasts.
 */
#pragma once

#include "slots.h"

/* Names and mounts that a walk passes. */
#define PATH_STEPS 64
#define NAME_MAX 255
#define AT_FDCWD (-100)
#define PATH_CUT 1

struct path_walk {
	struct dentry *dentry;
	struct mount *mount;
	struct dentry *mount_top;
	struct dentry *root;
	struct mount *root_mount;
	u32 at; /* where the path begins in its scratch */
	u32 key; /* TN_PATH_OF_… */
	u32 whole; /* the root was reached */
	u32 reserved;
};

static __always_inline struct mount *mount_of(struct vfsmount *vfsmount)
{
	return (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
}

static long path_step(u32 index, struct path_walk *walk)
{
	/* Of their own: a read through `walk` would make the loader look for its type in the kernel. */
	struct dentry *dentry = walk->dentry, *parent;
	struct mount *mount = walk->mount, *above;
	u32 key = walk->key, at = walk->at, length;
	struct tn_path_scratch *scratch;
	struct qstr name = {};

	if (dentry == walk->root && mount == walk->root_mount) {
		walk->whole = 1;
		return 1;
	}
	if (dentry == walk->mount_top) {
		above = BPF_CORE_READ(mount, mnt_parent);
		if (above == mount) {
			walk->whole = 1;
			return 1;
		}
		walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		walk->mount = above;
		walk->mount_top = BPF_CORE_READ(above, mnt.mnt_root);
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	/* In no mount's tree: a pipe, or what was removed with its mount. */
	if (parent == dentry) {
		walk->whole = 1;
		return 1;
	}
	/* Each read costs as much as ten instructions of ours: the two in one. */
	bpf_core_read(&name, sizeof(name), &dentry->d_name);
	length = name.len;
	scratch = bpf_map_lookup_elem(&path_scratch, &key);
	if (!scratch || length > NAME_MAX || length + 1 > at)
		return 1;
	at -= length + 1;
	/* The compiler knows the bounds and would drop what the verifier wants to see. */
	asm volatile("" : "+r"(at), "+r"(length));
	at &= TN_TEXT_MAX - 1;
	scratch->text[at] = '/';
	bpf_probe_read_kernel(&scratch->text[at + 1], length & NAME_MAX, name.name);
	walk->at = at;
	walk->dentry = parent;
	return 0;
}

/*
 * Writes the path to `text`, which has room for TN_TEXT_MAX bytes, without a NUL; at most
 * `most` bytes of its end. With a slash behind it where it is a directory that a relative
 * path continues. Its length, and PATH_CUT << 16 if its beginning is missing.
 */
static __noinline u32 write_path(char *text, u32 key, struct path *path, bool is_directory, u32 most)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct path_walk walk = { .key = key };
	struct tn_path_scratch *scratch = bpf_map_lookup_elem(&path_scratch, &key);
	u32 end = TN_TEXT_MAX, length, cut = 0;
	struct mount *mount;

	if (!text || !scratch)
		return 0;
	walk.dentry = BPF_CORE_READ(path, dentry);
	mount = mount_of(BPF_CORE_READ(path, mnt));
	walk.mount = mount;
	walk.mount_top = BPF_CORE_READ(mount, mnt.mnt_root);
	walk.root = task->fs->root.dentry;
	walk.root_mount = mount_of(task->fs->root.mnt);
	walk.at = end - 1;
	scratch->text[end - 1] = '/';
	bpf_loop(PATH_STEPS, path_step, &walk, 0);
	/* The slash behind it is all of the root's path. */
	if (!is_directory && walk.at < end - 1)
		end--;
	if (!walk.whole)
		cut = PATH_CUT << 16;
	length = end - walk.at;
	if (length > most) {
		length = most;
		cut = PATH_CUT << 16;
	}
	asm volatile("" : "+r"(length));
	if (length > TN_TEXT_MAX || length > end)
		return 0;
	walk.at = (end - length) & (TN_TEXT_MAX - 1);
	if (bpf_probe_read_kernel(text, length, &scratch->text[walk.at]))
		return 0;
	return length | cut;
}

/* Of a task that the verifier knows. Null if there is none: closed meanwhile, or never there. */
static __always_inline struct file *file_of(struct task_struct *task, u32 descriptor)
{
	struct fdtable *table = task->files->fdt;
	struct file *file = 0;

	if (descriptor >= table->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), table->fd + descriptor);
	return file;
}

static __always_inline struct path *path_of(struct file *file)
{
	return (void *)file + bpf_core_field_offset(struct file, f_path);
}

static __always_inline struct path *working_directory(struct task_struct *task)
{
	return (void *)BPF_CORE_READ(task, fs) + bpf_core_field_offset(struct fs_struct, pwd);
}
