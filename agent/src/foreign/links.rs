//! Which of the containers in one network namespace shows its interfaces. Pure.
//!
//! Interfaces belong to a namespace, not to a container: shown for each container of a pod,
//! their bytes would be there several times, and a sum over containers would be wrong.

use std::collections::HashMap;

use tenantry_network::LinkCounters;

use super::table::Entry;

/// Interfaces by name, as the container sees them.
pub type Links = Vec<(String, LinkCounters)>;

/// One for each network namespace: the pod's sandbox, as with cAdvisor, or who was there
/// first. Nobody for the host's own, `host`, whose interfaces are the host's.
pub fn holders(entries: &[Entry], host: Option<u64>) -> Vec<&Entry> {
    let mut by_network: HashMap<u64, &Entry> = HashMap::new();
    for entry in entries {
        let Some(network) = entry.network().filter(|network| Some(*network) != host) else {
            continue;
        };
        let holder = by_network.entry(network).or_insert(entry);
        if rank(entry) < rank(holder) {
            *holder = entry;
        }
    }
    by_network.into_values().collect()
}

fn rank(entry: &Entry) -> (bool, u64, &str) {
    let is_sandbox = entry.origin.pod.as_ref().is_some_and(|pod| pod.container == "POD");
    let began_ms = entry.started_unix_s.map_or(u64::MAX, |seconds| (seconds * 1e3) as u64);
    (!is_sandbox, began_ms, &entry.subject.cgroup)
}

#[cfg(test)]
mod tests {
    use tenantry_ebpf::{CgroupIds, Slot};

    use super::*;
    use crate::foreign::classify::classify;
    use crate::origin::Pod;

    fn entry(slot: Slot, network: Option<u64>, began: Option<f64>, container: &str) -> Entry {
        let path = format!("/docker/{slot:064x}");
        let ids = CgroupIds { unified: 1, blkio: None };
        let mut entry = Entry::new(slot, classify(&path).unwrap(), ids);
        entry.namespaces = network.map(|inode| ("net".to_owned(), inode)).into_iter().collect();
        entry.started_unix_s = began;
        if !container.is_empty() {
            entry.origin.pod = Some(Pod { container: container.into(), ..Pod::default() });
        }
        entry
    }

    #[track_caller]
    fn check(entries: &[Entry], expected: &[Slot]) {
        let mut slots: Vec<Slot> = holders(entries, Some(1)).iter().map(|e| e.slot).collect();
        slots.sort_unstable();
        assert_eq!(slots, expected);
    }

    #[test]
    fn each_namespace_but_the_hosts_is_shown_once() {
        check(&[], &[]);
        check(&[entry(5, Some(1), Some(1.0), ""), entry(6, None, Some(1.0), "")], &[]);
        check(&[entry(5, Some(7), Some(2.0), ""), entry(6, Some(8), Some(1.0), "")], &[5, 6]);
        // `--network container:…`: it belongs to who began.
        check(&[entry(5, Some(7), Some(2.0), ""), entry(6, Some(7), Some(1.0), "")], &[6]);
        check(&[entry(5, Some(7), None, ""), entry(6, Some(7), Some(9.0), "")], &[6]);
        check(&[entry(6, Some(7), Some(1.0), ""), entry(5, Some(7), Some(1.0), "")], &[5]);
        // A pod's is its sandbox's, also if that was restarted.
        let (web, pod) = (entry(5, Some(7), Some(1.0), "web"), entry(6, Some(7), Some(3.0), "POD"));
        check(&[web, pod], &[6]);
    }
}
