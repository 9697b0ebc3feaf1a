//! Known O_DIRECT transfers on a file of a real disk.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tenantry_ebpf::{DiskCounters, DiskKey, DiskOp};

use crate::child::{Child, End};
use crate::fixture::Fixture;
use crate::groups::Container;

const MIB: usize = 1 << 20;

/// A folder on a disk, for files that the test removes. Memory file systems have no disk.
pub fn folder_on_disk() -> Option<PathBuf> {
    let candidates = [std::env::temp_dir(), "/var/tmp".into(), env!("CARGO_TARGET_TMPDIR").into()];
    let on_disk = |dir: &PathBuf| {
        fs::metadata(dir).is_ok_and(|meta| {
            let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
            Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists()
        })
    };
    candidates.into_iter().find(on_disk)
}

/// Each 1 MiB piece of the file is written, then read, past the page cache.
fn transfer(path: &[u8]) -> i32 {
    #[repr(align(4096))]
    struct Piece {
        _bytes: [u8; MIB],
    }
    static mut PIECE: Piece = Piece { _bytes: [7; MIB] };
    let piece = (&raw mut PIECE).cast();
    // SAFETY: a path with a NUL.
    let file = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDWR | libc::O_DIRECT) };
    for at in (0..8).map(|i| (i * MIB) as i64) {
        // SAFETY: reads a static of this size; this child has one thread.
        if unsafe { libc::pwrite(file, piece, MIB, at) } != MIB as isize {
            return 2;
        }
    }
    for at in (0..8).map(|i| (i * MIB) as i64) {
        // SAFETY: writes a static of this size, which nobody else uses.
        if unsafe { libc::pread(file, piece, MIB, at) } != MIB as isize {
            return 3;
        }
    }
    0
}

/// Since 6.10 a disk's v1 statistics begin with its first limit; this one holds nothing back.
fn begin_statistics(container: &Container, (major, minor): (u32, u32)) {
    let Some(blkio) = &container.blkio else { return };
    let limit = format!("{major}:{minor} {}", 1u64 << 60);
    fs::write(blkio.join("blkio.throttle.read_bps_device"), limit).unwrap();
}

/// Bytes by the kernel's own cgroup accounting: (read, written).
fn witness(container: &Container) -> Option<(u64, u64)> {
    let v1 = container.blkio.as_ref().map(|dir| dir.join("blkio.throttle.io_service_bytes"));
    let text = fs::read_to_string(v1.unwrap_or(container.unified.join("io.stat"))).ok()?;
    let sum = |v1: &str, v2: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let v1 = words.windows(2).filter(|pair| pair[0] == v1).filter_map(|p| p[1].parse().ok());
        let v2 = words.iter().filter_map(|word| word.strip_prefix(v2)?.parse::<u64>().ok());
        v1.chain(v2).sum::<u64>()
    };
    Some((sum("Read", "rbytes="), sum("Write", "wbytes=")))
}

/// Numbers of the whole disk that holds a file.
fn disk_of(file: &fs::File) -> (u32, u32) {
    let dev = file.metadata().unwrap().dev();
    let block = format!("/sys/dev/block/{}:{}", libc::major(dev), libc::minor(dev));
    let partition = Path::new(&block).join("partition").exists();
    let disk = if partition { format!("{block}/../dev") } else { format!("{block}/dev") };
    let text = fs::read_to_string(disk).unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

type Disks = Vec<(DiskKey, DiskCounters)>;

fn counted(disks: &Disks, disk: (u32, u32), op: DiskOp) -> DiskCounters {
    let key = DiskKey { slot: 1, major: disk.0, minor: disk.1, op };
    let found = disks.iter().find(|(found, _)| *found == key);
    found.unwrap_or_else(|| panic!("no {key:?} in {disks:?}")).1.clone()
}

/// Of all disks: pages of the test program itself may come from another one.
fn total(disks: &Disks, op: DiskOp) -> u64 {
    disks.iter().filter(|(key, _)| key.op == op).map(|(_, counters)| counters.bytes).sum()
}

#[test]
fn direct_transfers_are_counted_to_the_byte() {
    let Some(f) = Fixture::share() else { return };
    let Some(folder) = folder_on_disk() else {
        return println!("SKIPPED: no folder on a disk");
    };
    // Written before, so that the child's writes change no metadata.
    let mut file = tempfile::NamedTempFile::new_in(folder).unwrap();
    file.write_all(&vec![1; 8 * MIB]).unwrap();
    file.as_file().sync_all().unwrap();
    let path = [file.path().as_os_str().as_bytes(), b"\0"].concat();
    let container = f.container(1);
    if container.blkio.is_none() && !container.unified.join("io.stat").exists() {
        return println!("SKIPPED: the io controller cannot be enabled");
    }
    let disk = disk_of(file.as_file());
    begin_statistics(&container, disk);
    // A first run, not armed: pages of this program that it touches come in from the disk,
    // and would be the container's reads.
    let rehearsal = Child::gated(|| transfer(&path)).put(&container);
    assert_eq!(rehearsal.run(), End::Code(0));
    assert_eq!(f.meters().read_disks().unwrap().containers, []);
    let child = Child::gated(|| transfer(&path)).put(&container);
    f.meters().arm(1).unwrap();
    let before = witness(&container);
    assert_eq!(child.run(), End::Code(0));

    let disks = f.meters().read_disks().unwrap().containers;
    let (read, written) =
        (counted(&disks, disk, DiskOp::Read), counted(&disks, disk, DiskOp::Write));
    assert_eq!((read.bytes, written.bytes), (8 * MIB as u64, 8 * MIB as u64));
    for counters in [&read, &written] {
        assert!(counters.operations >= 8, "{counters:?}");
        assert_eq!(counters.latency.count, counters.operations);
        assert_eq!((counters.errors, counters.in_flight), (0, 0));
        assert!(counters.latency.sum_ns > 0);
    }
    if let (Some(before), Some(after)) = (before, witness(&container)) {
        let counted = (total(&disks, DiskOp::Read), total(&disks, DiskOp::Write));
        assert_eq!((after.0 - before.0, after.1 - before.1), counted);
    }
    assert_eq!(f.meters().lost().unwrap(), Default::default());
}
