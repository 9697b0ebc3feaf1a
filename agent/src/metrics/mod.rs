//! A [`HostReport`] as Prometheus text.
//!
//! Pure: it reads no file and no clock, so that a golden file holds the whole answer.
//! Names, units and labels follow cAdvisor where the quantity is the same
//! (`container_*`, `machine_*`) and are `tenantry_*` otherwise; `process_*` are the
//! agent's own, as every Prometheus client names them. No sample carries a timestamp.
//!
//! Each family is written once with all containers in it, as the formats demand. What
//! was never used makes no series (a syscall that no program of a container called);
//! what may alert when it first moves is written from the start with 0 (OOM kills, lost
//! events, restarts), because `increase()` sees nothing in a series that begins at 1.

mod accept;
mod agent;
mod blame;
mod buckets;
mod budget;
mod cgroup;
mod container;
mod controller;
mod destinations;
mod disk;
mod dns;
mod family;
mod file_system;
mod host;
mod images;
mod kernel;
mod memory;
mod rules;
mod scheduler;
mod syscalls;
mod tcp;
#[cfg(test)]
mod tests;
mod text;
mod udp;

use std::fmt::Error;
use std::sync::atomic::{AtomicU64, Ordering};

pub use accept::Format;
use buckets::Buckets;
use budget::Budget;
use family::Families;
use text::Rendered;

use crate::origin::Pod;
use crate::report::{ContainerReport, HostReport};

/// How many series a scrape may have, and what the scrapes so far had to leave out.
#[derive(Debug)]
pub struct Cap {
    max_series: u64,
    dropped: AtomicU64,
}

impl Cap {
    pub fn new(max_series: u64) -> Self {
        Self { max_series, dropped: AtomicU64::new(0) }
    }
}

/// Renders one scrape, of at most as many series as `cap` allows.
pub fn encode(report: &HostReport, format: Format, cap: &Cap) -> String {
    let mut answer = String::new();
    encode_in_pieces(report, format, cap, &mut |piece| {
        answer.push_str(&piece);
        true
    });
    answer
}

/// Renders one scrape piece by piece, for as long as `take` says that it wants more.
pub fn encode_in_pieces(
    report: &HostReport,
    format: Format,
    cap: &Cap,
    take: &mut dyn FnMut(String) -> bool,
) {
    let budget = Budget::new(cap.max_series.saturating_sub(OWN_SERIES));
    let mut families = Families::new(format, budget, take);
    // Whoever wants no more has gone: there is nobody to tell.
    let _ = all(&mut families, report)
        .and_then(|()| own_size(&mut families, cap))
        .and_then(|()| families.finish());
}

/// The order is that of worth: what stands last goes first where there is no room.
fn all(families: &mut Families, report: &HostReport) -> Result<(), Error> {
    agent::encode(families, report)?;
    controller::encode(families, report)?;
    rules::encode(families, report)?;
    images::encode(families, &report.agent.images)?;
    host::encode(families, &report.host)?;
    container::encode(families, report)?;
    let with_cgroup: Vec<_> = report.containers.iter().chain(&report.wholes).collect();
    cgroup::encode(families, &with_cgroup)?;
    memory::encode(families, &with_cgroup)?;
    kernel::encode(families, &report.containers)?;
    scheduler::encode(families, &report.containers)?;
    blame::encode(families, &report.blame)?;
    tcp::encode(families, &report.containers)?;
    udp::encode(families, &report.containers)?;
    destinations::encode(families, &report.containers)?;
    dns::encode(families, &report.containers)?;
    disk::encode(families, report)?;
    file_system::encode(families, report)?;
    syscalls::encode(families, &report.containers)
}

/// Room that is kept for what a scrape says of its own size.
const OWN_SERIES: u64 = 2;

fn own_size(families: &mut Families, cap: &Cap) -> Result<(), Error> {
    let Budget { served, dropped, .. } = families.budget;
    let before = cap.dropped.fetch_add(dropped, Ordering::Relaxed);
    if before == 0 && dropped > 0 {
        tracing::warn!(dropped, served, "metrics.max_series reached: series are left out");
    }
    families.budget = Budget::new(OWN_SERIES);
    families.gauge_of_host(
        "tenantry_metrics_series",
        "Series of this scrape",
        served + OWN_SERIES,
    )?;
    families.counter_of_host(
        "tenantry_metrics_series_dropped_total",
        "Series that scrapes left out because of metrics.max_series, last families first",
        before + dropped,
    )
}

/// The labels that each series of a container has. Those of a pod are there only where
/// Kubernetes gives them: to Prometheus a label that is absent equals an empty one, and
/// `container!=""` finds the same series either way.
type Base<'a> = Rendered<'a>;

fn base(container: &ContainerReport) -> Base<'_> {
    Rendered(container.labels.get_or_init(|| {
        let mut labels = String::new();
        let always = [
            ("id", container.cgroup.as_str()),
            ("image", &container.image),
            ("name", &container.name),
        ];
        let pod = container.origin.pod.as_ref().map(|Pod { namespace, pod, container }| {
            [("container", container.as_str()), ("namespace", namespace), ("pod", pod)]
        });
        let said = pod.into_iter().flatten().filter(|(_, value)| !value.is_empty());
        for (name, value) in always.into_iter().chain(said) {
            let separator = if labels.is_empty() { "" } else { "," };
            labels.extend([separator, name, "=\""]);
            text::LabelValue::write(&value, &mut labels);
            labels.push('"');
        }
        labels
    }))
}
