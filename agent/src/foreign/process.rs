//! A foreign container's first process, as `/proc` shows it. Reads, never writes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use procfs::net::DeviceStatus;
use procfs::process::{MountInfo, Process as Proc};
use tenantry_network::LinkCounters;

use super::links::Links;
use super::walk::id_of;

/// Interfaces of one container that are shown; a namespace can have thousands. What is
/// beyond that is added up as `other`.
const LINKS_MAX: usize = 16;

/// What `/proc` says of a container's first process.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub started_unix_s: f64,
    pub namespaces: Vec<(String, u64)>,
    /// Where its root keeps what was written over the image.
    pub upper: Option<PathBuf>,
}

impl Process {
    /// The oldest of those that are still there.
    pub fn first(pids: Vec<i32>) -> Option<Self> {
        let began = |pid| Some((Proc::new(pid).ok()?.stat().ok()?.starttime, pid));
        let (ticks, pid) = pids.into_iter().filter_map(began).min()?;
        let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
        let namespaces = kinds.into_iter().filter_map(|kind| {
            let id = id_of(Path::new(&format!("/proc/{pid}/ns/{kind}")))?;
            Some((kind.to_owned(), id))
        });
        let since_boot = ticks as f64 / procfs::ticks_per_second() as f64;
        Some(Self {
            pid,
            started_unix_s: procfs::boot_time_secs().ok()? as f64 + since_boot,
            namespaces: namespaces.collect(),
            upper: upper(pid),
        })
    }

    pub fn network(&self) -> Option<u64> {
        network_in(&self.namespaces)
    }
}

/// Of namespaces by type.
pub fn network_in(namespaces: &[(String, u64)]) -> Option<u64> {
    namespaces.iter().find(|(kind, _)| kind == "net").map(|(_, inode)| *inode)
}

/// The network namespace of a process; `None` if there is no such process.
pub fn network_of(pid: i32) -> Option<u64> {
    id_of(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// The interfaces of a process's network namespace, as it sees them, sorted by name, without
/// `lo`. `None` if the process is gone or in another namespace by now.
pub fn links(pid: i32, network: u64) -> Option<Links> {
    let process = Proc::new(pid).ok()?;
    let devices = process.dev_status().ok()?;
    // A number is given anew after its process: what was read is of whom it names now.
    (network_of(pid) == Some(network)).then(|| shown(devices))
}

fn shown(devices: HashMap<String, DeviceStatus>) -> Links {
    let mut links: Links = devices
        .into_values()
        .filter(|device| device.name != "lo")
        .map(|device| {
            let counters = LinkCounters {
                rx_bytes: device.recv_bytes,
                rx_packets: device.recv_packets,
                rx_errors: device.recv_errs,
                rx_dropped: device.recv_drop,
                tx_bytes: device.sent_bytes,
                tx_packets: device.sent_packets,
                tx_errors: device.sent_errs,
                tx_dropped: device.sent_drop,
            };
            (device.name, counters)
        })
        .collect();
    links.sort_by(|(a, _), (b, _)| a.cmp(b));
    let beyond = links.split_off(links.len().min(LINKS_MAX));
    let other = beyond.into_iter().map(|(_, counters)| counters).reduce(sum);
    links.extend(other.map(|counters| ("other".to_owned(), counters)));
    links
}

fn sum(a: LinkCounters, b: LinkCounters) -> LinkCounters {
    LinkCounters {
        rx_bytes: a.rx_bytes + b.rx_bytes,
        rx_packets: a.rx_packets + b.rx_packets,
        rx_errors: a.rx_errors + b.rx_errors,
        rx_dropped: a.rx_dropped + b.rx_dropped,
        tx_bytes: a.tx_bytes + b.tx_bytes,
        tx_packets: a.tx_packets + b.tx_packets,
        tx_errors: a.tx_errors + b.tx_errors,
        tx_dropped: a.tx_dropped + b.tx_dropped,
    }
}

fn upper(pid: i32) -> Option<PathBuf> {
    let mounts = Proc::new(pid).ok()?.mountinfo().ok()?;
    let own = Proc::myself().ok()?.mountinfo().ok()?;
    upper_of(&mounts.0, &own.0)
}

/// The upper directory of the overlay at `/`, as its runtime mounted it. `None` if the root
/// is no overlay (or one of a file server), if it is still the host's, which a runtime's own
/// process leaves a moment after it joined the cgroup, or if it is named in a way that only
/// the runtime could resolve.
fn upper_of(mounts: &[MountInfo], own: &[MountInfo]) -> Option<PathBuf> {
    let root = |mounts: &[MountInfo]| {
        mounts.iter().rev().find(|mount| mount.mount_point == Path::new("/")).cloned()
    };
    let mount = root(mounts).filter(|mount| mount.fs_type == "overlay")?;
    if root(own).is_some_and(|own| own.majmin == mount.majmin) {
        return None;
    }
    let upper = mount.super_options.get("upperdir").cloned().flatten()?;
    // The kernel escapes what the list's commas and spaces would break.
    (upper.starts_with('/') && !upper.contains('\\')).then(|| upper.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(lines: &[&str]) -> Vec<MountInfo> {
        lines.iter().map(|line| MountInfo::from_line(line).unwrap()).collect()
    }

    const HOST: &str = "25 1 8:1 / / rw,relatime - ext4 /dev/root rw";
    const UPPER: &str = "/var/lib/docker/overlay2/7d/diff";

    fn overlay(device: &str, options: &str) -> String {
        format!("410 370 {device} / / rw,relatime - overlay overlay rw,{options}")
    }

    #[track_caller]
    fn check(lines: &[&str], own: &str, expected: Option<&str>) {
        assert_eq!(upper_of(&mounts(lines), &mounts(&[own])), expected.map(PathBuf::from));
    }

    #[test]
    fn the_writable_layer_is_the_upper_directory_of_the_overlay_at_the_root() {
        let options = format!("lowerdir=/l/A:/l/B,upperdir={UPPER},workdir=/var/work,index=off");
        let root = overlay("0:52", &options);
        let proc = "411 410 0:56 / /proc rw - proc proc rw";
        check(&[&root, proc], HOST, Some(UPPER));
        // What was mounted over it later is what the process has.
        check(&[HOST, &root], HOST, Some(UPPER));
        check(&[&root, HOST], HOST, None);
        check(&[HOST], HOST, None);
        check(&[proc], HOST, None);
        // A host that lies on an overlay itself, seen before the root was changed.
        check(&[&root], &root, None);
        check(&[&root], &overlay("0:20", "upperdir=/host"), Some(UPPER));
        for odd in ["lowerdir=/a", "upperdir=7d/diff", "upperdir=/with\\040space", "upperdir"] {
            check(&[&overlay("0:52", odd)], HOST, None);
        }
        let fuse = "410 370 0:52 / / rw - fuse.fuse-overlayfs x rw,upperdir=/u";
        check(&[fuse], HOST, None);
    }

    #[test]
    fn interfaces_are_shown_but_for_lo_and_those_beyond_the_bound_added_up() {
        let device = |name: &str| {
            let text = format!("{name}: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0");
            let table = format!("head\nhead\n{text}\n");
            let parsed: procfs::net::InterfaceDeviceStatus =
                procfs::FromRead::from_read(table.as_bytes()).unwrap();
            parsed.0
        };
        let all: HashMap<_, _> = ["lo", "eth1", "eth0"].into_iter().flat_map(device).collect();
        let counters = LinkCounters {
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 5,
            tx_packets: 6,
            tx_errors: 7,
            tx_dropped: 8,
        };
        assert_eq!(shown(all), ["eth0", "eth1"].map(|name| (name.to_owned(), counters)));
        let many = (0..99).flat_map(|n| device(&format!("veth{n:02}"))).collect();
        let many = shown(many);
        assert_eq!(many.len(), LINKS_MAX + 1);
        let (name, other) = &many[LINKS_MAX];
        assert_eq!((name.as_str(), other.rx_bytes, other.tx_dropped), ("other", 83, 8 * 83));
    }

    #[test]
    fn a_process_in_another_namespace_shows_nothing() {
        let own = std::process::id() as i32;
        let network = network_of(own).unwrap();
        assert!(links(own, network).is_some());
        assert_eq!(links(own, network + 1), None);
        assert_eq!(network_of(i32::MAX), None);
    }
}
