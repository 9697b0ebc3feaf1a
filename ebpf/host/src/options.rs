//! What the caller decides before loading.

use std::path::PathBuf;

use tenantry_abi::SLOTS_MAX;

/// x86_64's; the kernel wants whole ones.
const PAGE: u32 = 4096;

/// Options of [`Meters::load`](crate::Meters::load). Changing one makes the next load start anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Directory on bpffs that belongs to this agent alone; made if it is missing. If
    /// nothing is mounted at `/sys/fs/bpf` and the directory is below it, bpffs is
    /// mounted there, as bpftool and systemd do.
    pub pin_dir: PathBuf,
    /// The cgroup v2 directory that holds the containers' cgroups: network programs see
    /// the sockets below it. Must exist.
    pub cgroup_dir: PathBuf,
    /// Whether disk I/O is charged to cgroups of v1's blkio hierarchy.
    pub blkio_v1: bool,
    /// Slots of the maps, slot 0 included: 2 to 65535.
    pub slots: u32,
    /// Room for events that nobody has read yet: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Whether one syscall in 16 is timed at first; see [`Meters::switch`](crate::Meters::switch).
    pub syscall_latency: bool,
    /// Whether the kernel gives slots to containers of other runtimes, and which.
    pub foreign: Option<ForeignOptions>,
}

/// Containers that other runtimes make, known by their cgroups' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignOptions {
    /// This slot and those above it are theirs.
    pub first_slot: u32,
    /// Whether systemd's services are such containers too.
    pub services: bool,
}

impl LoadOptions {
    pub fn new(pin_dir: impl Into<PathBuf>, cgroup_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            cgroup_dir: cgroup_dir.into(),
            blkio_v1: false,
            slots: 256,
            ring_bytes: 1 << 20,
            syscall_latency: true,
            foreign: None,
        }
    }

    /// Says which option is wrong and what is allowed.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(2..=SLOTS_MAX).contains(&self.slots) {
            return Err(format!("slots is {}, allowed are 2 to {SLOTS_MAX}", self.slots));
        }
        if !self.ring_bytes.is_power_of_two() || self.ring_bytes < PAGE {
            let got = self.ring_bytes;
            return Err(format!("ring_bytes is {got}, allowed are powers of two from {PAGE}"));
        }
        let slots = self.slots;
        if self.foreign.is_some_and(|foreign| !(1..slots).contains(&foreign.first_slot)) {
            return Err(format!("the first foreign slot is none of 1 to {}", slots - 1));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_the_kernel_would_refuse_are_named() {
        let check = |slots, ring_bytes| {
            LoadOptions { slots, ring_bytes, ..LoadOptions::new("/p", "/c") }.check()
        };
        assert_eq!(check(2, 4096), Ok(()));
        assert_eq!(check(65535, 1 << 26), Ok(()));
        assert!(check(1, 4096).unwrap_err().contains("slots is 1"));
        assert!(check(65536, 4096).unwrap_err().contains("65535"));
        assert!(check(256, 5000).unwrap_err().contains("ring_bytes is 5000"));
        assert!(check(256, 2048).unwrap_err().contains("4096"));
    }
}
