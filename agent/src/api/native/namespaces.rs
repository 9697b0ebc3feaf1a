//! `GET /v1/namespaces`: what was done in each namespace, and by whom.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::model::{Namespace, NamespaceTenant};
use crate::report::ContainerReport;

/// Each namespace that a container's process made a system call in, by type and inode.
#[utoipa::path(get, path = "/v1/namespaces", responses((status = 200, body = Vec<Namespace>)))]
pub async fn namespaces(State(app): State<Shared>) -> Json<Vec<Namespace>> {
    Json(by_namespace(&app.collector.collect().await.containers))
}

/// Turns containers with namespaces into namespaces with containers. Pure.
fn by_namespace(containers: &[ContainerReport]) -> Vec<Namespace> {
    let mut found: BTreeMap<(&'static str, u32), Vec<NamespaceTenant>> = BTreeMap::new();
    for container in containers {
        for ((kind, inode), (calls, errors)) in container.calls_by_namespace() {
            let inside = |(of, number): &(String, u64)| of == kind && *number == u64::from(inode);
            found.entry((kind, inode)).or_default().push(NamespaceTenant {
                id: container.id.clone(),
                name: container.name.clone(),
                lives_here: container.namespaces.iter().any(inside),
                calls,
                errors,
            });
        }
    }
    let namespace = |((kind, inode), containers): ((&str, u32), Vec<NamespaceTenant>)| Namespace {
        kind: kind.into(),
        inode: inode.into(),
        calls: containers.iter().map(|tenant| tenant.calls).sum(),
        errors: containers.iter().map(|tenant| tenant.errors).sum(),
        containers,
    };
    found.into_iter().map(namespace).collect()
}

#[cfg(test)]
mod tests {
    use tenantry_ebpf::{NamespaceCounts, Namespaces, SlotCounters};

    use super::*;

    fn container(name: &str, rows: &[(u32, u32, u64)]) -> ContainerReport {
        let row = |(net, uts, calls): &(u32, u32, u64)| NamespaceCounts {
            namespaces: Namespaces { net: *net, uts: *uts, user: 1, ..Namespaces::default() },
            calls: *calls,
            errors: 1,
        };
        let namespaces = rows.iter().map(row).collect();
        ContainerReport {
            name: name.into(),
            cgroup: format!("/tenantry/{name}"),
            namespaces: vec![("net".into(), rows[0].0.into())],
            counters: Some(SlotCounters { namespaces, ..SlotCounters::default() }),
            ..ContainerReport::default()
        }
    }

    #[test]
    fn a_namespace_lists_who_was_in_it_and_what_they_did_together() {
        let all = by_namespace(&[
            container("a", &[(10, 20, 100), (11, 20, 7)]),
            container("b", &[(11, 21, 1000)]),
        ]);
        let of = |kind, inode| {
            let found = all.iter().find(|one| one.kind == kind && one.inode == inode).unwrap();
            let tenants = found.containers.iter();
            let tenants: Vec<_> =
                tenants.map(|one| (one.name.as_str(), one.calls, one.lives_here)).collect();
            (found.calls, found.errors, tenants)
        };
        assert_eq!(of("net", 10), (100, 1, vec![("a", 100, true)]));
        assert_eq!(of("net", 11), (1007, 2, vec![("a", 7, false), ("b", 1000, true)]));
        assert_eq!(of("uts", 20), (107, 2, vec![("a", 107, false)]));
        assert_eq!(of("user", 1), (1107, 3, vec![("a", 107, false), ("b", 1000, false)]));
    }
}
