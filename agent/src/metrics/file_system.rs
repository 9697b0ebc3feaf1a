//! What containers wrote over their images, as the walker last saw it.

use std::fmt::Error;

use super::base;
use super::family::Families;
use crate::report::{FileSystemReport, HostReport};

pub(super) fn encode(f: &mut Families, report: &HostReport) -> Result<(), Error> {
    let counted = || {
        report.containers.iter().filter_map(|container| {
            let file_system = container.file_system.as_ref()?;
            Some((base(container), [("device", file_system.device.as_str())], file_system))
        })
    };
    type Row = (&'static str, &'static str, fn(&FileSystemReport) -> u64);
    let rows: [Row; 3] = [
        (
            "container_fs_usage_bytes",
            "Space that the container's writable layer takes, as du counts it; counted in the \
             background when the container did something, tenantry_fs_usage_age_seconds ago",
            |fs| fs.usage_bytes,
        ),
        (
            "container_fs_limit_bytes",
            "Size of the file system that the writable layer lies on",
            |fs| fs.limit_bytes,
        ),
        ("tenantry_fs_inodes", "Files and directories of the writable layer", |fs| fs.inodes),
    ];
    for (name, help, value) in rows {
        f.gauge(name, help, counted().map(|(base, device, fs)| ((base, device), value(fs))))?;
    }
    f.gauge(
        "tenantry_fs_usage_age_seconds",
        "Time since the writable layer was counted; a layer that did not change is not counted \
         again, so age alone is no fault",
        counted().map(|(base, _, fs)| (base, fs.age_seconds)),
    )?;
    f.gauge(
        "tenantry_fs_usage_skipped_directories",
        "Directories that are too deep to be counted, with all that is in them",
        counted()
            .filter(|(_, _, fs)| fs.skipped_directories > 0)
            .map(|(base, _, fs)| (base, fs.skipped_directories)),
    )?;
    f.counter_of_host(
        "tenantry_fs_walks_total",
        "Writable layers that were counted",
        report.walks.walks,
    )?;
    f.counter_of_host(
        "tenantry_fs_walk_entries_total",
        "Directory entries that were looked at to count them",
        report.walks.entries,
    )?;
    f.counter_of_host(
        "tenantry_fs_walk_errors_total",
        "Writable layers that could not be opened to be counted",
        report.walks.errors,
    )
}
