//! Which Debian packages each task needs, as data, and how to see that one is there.
//!
//! A package is looked for by what it brings (a program on `PATH`, a file), not by
//! its name in dpkg: a docker client from elsewhere is as good, and the same check
//! works on distributions without apt.

use std::path::Path;
use std::str::FromStr;

use crate::process;

/// How to see that a package's content is there.
#[derive(Debug, Clone, Copy)]
pub enum Probe {
    /// A program of this name on `PATH`.
    Program(&'static str),
    /// A program of this name that is statically linked (it runs in an empty root).
    StaticProgram(&'static str),
    /// A file at this path.
    File(&'static str),
}

/// One apt package.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    pub name: &'static str,
    pub probe: Probe,
    /// Installed where the distribution has it; what wants it is skipped otherwise.
    pub optional: bool,
}

const fn needs(name: &'static str, probe: Probe) -> Package {
    Package { name, probe, optional: false }
}

const fn wants(name: &'static str, probe: Probe) -> Package {
    Package { name, probe, optional: true }
}

/// To compile: the kernel programs (clang, headers) and the seccomp filters.
const BUILD: &[Package] = &[
    needs("clang", Probe::Program("clang")),
    needs("libbpf-dev", Probe::File("/usr/include/bpf/bpf_helpers.h")),
    needs("linux-libc-dev", Probe::File("/usr/include/linux/bpf.h")),
    needs("libseccomp-dev", Probe::File("/usr/include/seccomp.h")),
    needs("pkg-config", Probe::Program("pkg-config")),
];

/// To run containers: the image's content, masquerading, and a look at the result.
const RUN: &[Package] = &[
    needs("busybox-static", Probe::StaticProgram("busybox")),
    needs("nftables", Probe::Program("nft")),
    needs("iproute2", Probe::Program("tc")),
];

/// To test on the host: file systems on loop devices, traffic, the real Prometheus,
/// the stock Docker client, other tools' images.
const HOST_TEST: &[Package] = &[
    needs("e2fsprogs", Probe::Program("mke2fs")),
    needs("iperf3", Probe::Program("iperf3")),
    needs("prometheus", Probe::Program("promtool")),
    wants("docker-cli", Probe::Program("docker")),
    wants("docker-compose", Probe::Program("docker-compose")),
    // A client library, for the Python that Debian has.
    wants("python3-docker", Probe::File("/usr/lib/python3/dist-packages/docker/__init__.py")),
    // Other runtimes, whose containers are metered too.
    wants("docker.io", Probe::Program("dockerd")),
    wants("podman", Probe::Program("podman")),
    wants("runc", Probe::Program("runc")),
    wants("skopeo", Probe::Program("skopeo")),
    // The real registry, and who may use it.
    wants("docker-registry", Probe::Program("docker-registry")),
    wants("apache2-utils", Probe::Program("htpasswd")),
    wants("openssl", Probe::Program("openssl")),
    wants("umoci", Probe::Program("umoci")),
];

/// To boot a stock kernel and to build its disks.
pub const VM: &[Package] = &[
    needs("qemu-system-x86", Probe::Program("qemu-system-x86_64")),
    needs("zstd", Probe::Program("zstd")),
    needs("xz-utils", Probe::Program("xz")),
    needs("lz4", Probe::Program("lz4")),
    needs("cpio", Probe::Program("cpio")),
    needs("kmod", Probe::Program("depmod")),
    needs("e2fsprogs", Probe::Program("mke2fs")),
    needs("busybox-static", Probe::StaticProgram("busybox")),
];

/// The peers that the benchmarks run beside.
const PEERS: &[Package] = &[
    needs("runc", Probe::Program("runc")),
    needs("crun", Probe::Program("crun")),
    needs("podman", Probe::Program("podman")),
    needs("buildah", Probe::Program("buildah")),
    needs("skopeo", Probe::Program("skopeo")),
    needs("umoci", Probe::Program("umoci")),
    needs("docker-registry", Probe::Program("docker-registry")),
    needs("bpftrace", Probe::Program("bpftrace")),
    wants("libbpf-tools", Probe::Program("runqlat")),
    wants("linux-perf", Probe::Program("perf")),
    wants("strace", Probe::Program("strace")),
    // The server is run by hand, in a container; the package starts none (see setup.rs).
    wants("redis-server", Probe::Program("redis-server")),
    wants("redis-tools", Probe::Program("redis-benchmark")),
    needs("e2fsprogs", Probe::Program("mke2fs")),
    needs("iperf3", Probe::Program("iperf3")),
    wants("prometheus-node-exporter", Probe::Program("prometheus-node-exporter")),
];

/// The judge of runtimes is Python with a first process in C; the other two are judged with us.
const CONFORMANCE: &[Package] = &[
    needs("runc", Probe::Program("runc")),
    needs("crun", Probe::Program("crun")),
    needs("python3", Probe::Program("python3")),
    needs("xz-utils", Probe::Program("xz")),
    needs("gcc", Probe::Program("gcc")),
    needs("libc6-dev", Probe::File("/usr/lib/x86_64-linux-gnu/libc.a")),
];

/// What a person wants to do, and thereby which packages that takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Build,
    Test,
    Vm,
    Demo,
    Bench,
    Conformance,
}

impl Task {
    /// The sets this task needs; a package may occur in two of them.
    fn sets(self) -> &'static [&'static [Package]] {
        match self {
            Task::Build => &[BUILD],
            Task::Test => &[BUILD, RUN, HOST_TEST],
            Task::Vm => &[BUILD, VM],
            Task::Demo => &[BUILD, RUN],
            Task::Bench => &[BUILD, RUN, PEERS],
            Task::Conformance => &[BUILD, CONFORMANCE],
        }
    }

    /// Packages of this task that are not there, each once.
    pub fn missing(self) -> Vec<Package> {
        let mut missing: Vec<Package> = Vec::new();
        for package in self.sets().iter().copied().flatten() {
            let known = missing.iter().any(|seen| seen.name == package.name);
            if !known && !is_present(package.probe) {
                missing.push(*package);
            }
        }
        missing
    }
}

impl FromStr for Task {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "build" => Task::Build,
            "test" => Task::Test,
            "vm" => Task::Vm,
            "demo" => Task::Demo,
            "bench" => Task::Bench,
            "conformance" => Task::Conformance,
            _ => {
                anyhow::bail!("no such task: {text} (build, test, vm, demo, bench or conformance)")
            }
        })
    }
}

/// Whether what `probe` looks for is on this machine.
pub fn is_present(probe: Probe) -> bool {
    match probe {
        Probe::Program(name) => process::find_program(name).is_some(),
        Probe::StaticProgram(name) => {
            process::find_program(name).is_some_and(|path| is_static_elf(&path).unwrap_or(false))
        }
        Probe::File(path) => Path::new(path).exists(),
    }
}

/// Whether an x86-64 ELF file names no program interpreter, i.e. loads no libraries.
fn is_static_elf(path: &Path) -> std::io::Result<bool> {
    const PT_INTERP: u32 = 3;
    let bytes = std::fs::read(path)?;
    Ok(program_header_types(&bytes).is_some_and(|types| !types.contains(&PT_INTERP)))
}

/// The `p_type` of each program header; `None` if `elf` is no 64-bit ELF file.
fn program_header_types(elf: &[u8]) -> Option<Vec<u32>> {
    const CLASS_64: u8 = 2;
    if elf.get(..4)? != b"\x7fELF" || *elf.get(4)? != CLASS_64 {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let offset = u64::from_le_bytes(elf.get(0x20..0x28)?.try_into().ok()?) as usize;
    let (size, count) = (u16_at(0x36)? as usize, u16_at(0x38)? as usize);
    (0..count).map(|i| u32_at(offset.checked_add(i * size)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_one_probe_wherever_it_occurs() {
        let all: Vec<&Package> =
            [BUILD, RUN, HOST_TEST, VM, PEERS, CONFORMANCE].into_iter().flatten().collect();
        for a in &all {
            for b in all.iter().filter(|b| b.name == a.name) {
                assert_eq!(format!("{:?}", a.probe), format!("{:?}", b.probe), "{}", a.name);
            }
        }
    }

    #[test]
    fn what_is_no_elf_file_is_not_taken_for_a_static_program() {
        assert_eq!(program_header_types(b"#!/bin/sh\n"), None);
        assert_eq!(program_header_types(b""), None);
        assert_eq!(program_header_types(b"\x7fELF\x02"), None);
    }

    #[test]
    fn this_test_is_a_static_program() {
        let own = std::env::current_exe().unwrap();
        assert!(is_static_elf(&own).unwrap());
    }
}
