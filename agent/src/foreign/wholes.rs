//! Slices and pods as a whole: cgroups above containers and services. Pure but for one
//! listing of the tree's top.
//!
//! Such a cgroup runs nothing by itself; its files hold the sums of what is below it, and
//! limits that hold for all of that together. It has no slot: the kernel programs count
//! for containers alone. Which there are follows from the containers that are known, so
//! that nothing is watched and no tree is walked when somebody asks; a slice without any is
//! shown if it is one of the topmost (`user.slice` with sessions alone).
//!
//! Sources: the kubelet's names as in [`super::classify`], systemd.slice(5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::table::Entry;
use crate::origin::Pod;

/// Entries of the tree's top that are looked at.
const TOP_MAX: usize = 1024;

/// A slice or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub cgroup: String,
    /// Of a pod, once one of its containers told; `container` is empty.
    pub pod: Option<Pod>,
}

/// What is shown, and how many are not because of the bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wholes {
    pub shown: Vec<Whole>,
    pub left_out: usize,
}

/// All that are above `entries`, and the slices among `tops` (names of cgroups in the
/// root). At most `max`: outer ones first, because each inner one is in their sums.
pub fn above<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    tops: &BTreeSet<String>,
    max: usize,
) -> Wholes {
    let mut found: BTreeMap<(usize, String), Option<Pod>> = BTreeMap::new();
    for top in tops.iter().filter(|top| kind("", top).is_some()) {
        found.insert((1, format!("/{top}")), None);
    }
    for entry in entries {
        let mut path = String::new();
        let parts: Vec<&str> = entry.subject.cgroup.split('/').skip(1).collect();
        // The last part is the container's own.
        for (depth, name) in parts.iter().enumerate().take(parts.len().saturating_sub(1)) {
            let kind = kind(&path, name);
            path.push('/');
            path.push_str(name);
            let Some(kind) = kind else { continue };
            let pod = found.entry((depth + 1, path.clone())).or_default();
            if kind == Kind::Pod && pod.is_none() {
                pod.clone_from(&entry.origin.pod);
            }
        }
    }
    let left_out = found.len().saturating_sub(max);
    let shown = found.into_iter().take(max).map(|((_, cgroup), pod)| {
        let pod = pod.map(|pod| Pod { container: String::new(), ..pod });
        Whole { cgroup, pod }
    });
    Wholes { shown: shown.collect(), left_out }
}

/// Names of the cgroups in a hierarchy's root.
pub fn tops(root: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten().take(TOP_MAX);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Or one of the kubelet's levels above pods.
    Slice,
    Pod,
}

/// What the cgroup `name` below `above` is.
fn kind(above: &str, name: &str) -> Option<Kind> {
    let below_kubepods = above.split('/').any(|part| part == "kubepods");
    if let Some(stem) = name.strip_suffix(".slice") {
        let pod = stem.rsplit_once("-pod").filter(|(before, _)| before.contains("kubepods"));
        let is_pod = pod.is_some_and(|(_, uid)| is_uid(uid));
        return (!stem.is_empty()).then_some(if is_pod { Kind::Pod } else { Kind::Slice });
    }
    match name.strip_prefix("pod").is_some_and(is_uid) && below_kubepods {
        true => Some(Kind::Pod),
        false => {
            let is_level = matches!(name, "burstable" | "besteffort" | "guaranteed");
            (name == "kubepods" || is_level && below_kubepods).then_some(Kind::Slice)
        }
    }
}

/// A UUID, with underscores in a unit's name, or the hash of a static pod's manifest.
fn is_uid(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_hexdigit() || b == b'-' || b == b'_';
    (32..=36).contains(&text.len()) && text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use tenantry_ebpf::CgroupIds;

    use super::*;
    use crate::foreign::classify::classify;

    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
    const UNIT: &str = "2c48913c_b29f_11e7_9350_020968147796";

    fn id(letter: char) -> String {
        letter.to_string().repeat(64)
    }

    fn entry(cgroup: &str) -> Entry {
        let ids = CgroupIds { unified: 1, blkio: None };
        Entry::new(1, classify(cgroup).expect(cgroup), ids)
    }

    fn paths(entries: &[Entry], max: usize) -> (Vec<String>, usize) {
        let wholes = above(entries, &BTreeSet::new(), max);
        (wholes.shown.into_iter().map(|whole| whole.cgroup).collect(), wholes.left_out)
    }

    #[track_caller]
    fn check(cgroup: &str, expected: &[&str]) {
        assert_eq!(
            paths(&[entry(cgroup)], 99),
            (expected.iter().map(|p| (*p).into()).collect(), 0)
        );
    }

    #[test]
    fn slices_levels_and_pods_are_what_is_above_a_container() {
        check("/system.slice/nginx.service", &["/system.slice"]);
        check(
            "/system.slice/system-getty.slice/getty@tty1.service",
            &["/system.slice", "/system.slice/system-getty.slice"],
        );
        let user = "/user.slice/user-1000.slice";
        check(
            &format!("{user}/user@1000.service/app.slice/sync.service"),
            &["/user.slice", user, &format!("{user}/user@1000.service/app.slice")],
        );
        check(
            &format!("/kubepods/burstable/pod{UID}/{}", id('a')),
            &["/kubepods", "/kubepods/burstable", &format!("/kubepods/burstable/pod{UID}")],
        );
        let (top, level) = ("/kubepods.slice", "/kubepods.slice/kubepods-burstable.slice");
        let pod = format!("{level}/kubepods-burstable-pod{UNIT}.slice");
        check(&format!("{pod}/cri-containerd-{}.scope", id('a')), &[top, level, &pod]);
        // What holds a container and is neither.
        check(&format!("/docker/{}", id('a')), &[]);
        check(&format!("/libpod_parent/libpod-{}", id('a')), &[]);
        check(&format!("/default/{}", id('a')), &[]);
    }

    #[test]
    fn what_is_a_pod_is_told_from_what_only_looks_like_one() {
        let slice = format!("kubepods-burstable-pod{UNIT}.slice");
        let nested = format!("kubelet-kubepods-besteffort-pod{UNIT}.slice");
        let (pod, manifest) = (format!("pod{UID}"), format!("pod{}", "5f0af3b1".repeat(4)));
        let machine = format!("machine-libpod_pod_{}.slice", id('b'));
        for (above, name, expected) in [
            ("/kubepods.slice", slice.as_str(), Some(Kind::Pod)),
            ("/kubelet.slice", &nested, Some(Kind::Pod)),
            ("/kubepods", &pod, Some(Kind::Pod)),
            ("/kubelet/kubepods/burstable", &manifest, Some(Kind::Pod)),
            ("/elsewhere", &pod, None),
            ("/kubepods", "pod1", None),
            ("/kubepods", "podium", None),
            ("/machine.slice", &machine, Some(Kind::Slice)),
            ("/a.slice", "a-pod1.slice", Some(Kind::Slice)),
            ("/", "burstable", None),
            ("", ".slice", None),
            ("", "init.scope", None),
            ("", "docker", None),
        ] {
            assert_eq!(kind(above, name), expected, "{above} {name}");
        }
    }

    #[test]
    fn a_pod_is_called_as_one_of_its_containers_says() {
        let pod = format!("/kubepods/pod{UID}");
        let (mut web, other) =
            (entry(&format!("{pod}/{}", id('a'))), entry(&format!("{pod}/{}", id('b'))));
        let named = |container: &str| Pod {
            namespace: "shop".into(),
            pod: "cart-7d9f".into(),
            container: container.into(),
        };
        web.origin.pod = Some(named("cart"));
        let wholes = above(&[other, web], &BTreeSet::new(), 99);
        let expected = [("/kubepods".to_owned(), None), (pod, Some(named("")))];
        let expected = expected.map(|(cgroup, pod)| Whole { cgroup, pod });
        assert_eq!(wholes, Wholes { shown: expected.into(), left_out: 0 });
    }

    #[test]
    fn the_bound_leaves_inner_ones_out_and_says_how_many() {
        let entries = ["/b.slice/b-c.slice/b-c-d.slice/x.service", "/a.slice/y.service"].map(entry);
        let (shown, left_out) = paths(&entries, 3);
        assert_eq!(
            (shown.as_slice(), left_out),
            (["/a.slice", "/b.slice", "/b.slice/b-c.slice"].map(String::from).as_slice(), 1)
        );
        assert_eq!(paths(&entries, 0), (Vec::new(), 4));
    }

    #[test]
    fn the_topmost_slices_are_there_without_a_service() {
        let root = tempfile::tempdir().unwrap();
        for name in ["user.slice", "system.slice", "docker", "init.scope", "kubepods"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        std::fs::write(root.path().join("cgroup.slice"), "").unwrap();
        let wholes = above(&[entry("/system.slice/a.service")], &tops(root.path()), 99);
        let paths: Vec<&str> = wholes.shown.iter().map(|whole| whole.cgroup.as_str()).collect();
        assert_eq!(paths, ["/kubepods", "/system.slice", "/user.slice"]);
        assert_eq!(tops(Path::new("/nonexistent")), BTreeSet::new());
    }
}
