//! A disk of a test's own: nobody else's I/O is in its statistics. The kernel frees it
//! with the last descriptor, also when the test is killed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk::folder_on_disk;

const CONFIGURE: u64 = 0x4c0a;
const ADD: u64 = 0x4c80;
const REMOVE: u64 = 0x4c81;
const GET_FREE: u64 = 0x4c82;
/// Of devices that are added: nobody counts so far.
const FIRST_ADDED: i32 = 1000;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// `struct loop_config` of linux/loop.h, of which this file needs three fields.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    /// lo_device to lo_encrypt_key_size.
    _before: [u32; 13],
    flags: u32,
    _after: [u64; 30],
}

const _: () = assert!(size_of::<Config>() == 304 && std::mem::offset_of!(Config, flags) == 60);

pub struct LoopDevice {
    pub path: PathBuf,
    pub backing: tempfile::NamedTempFile,
    device: File,
    /// Behind `device`: what is open is not removed.
    _added: Option<Added>,
}

/// A loop device that was not there before. With cgroup v2 the kernel remembers whose writes
/// go to a device for as long as that exists, and charges the next test's to the last one's
/// group, dead as it is.
struct Added {
    control: File,
    number: i32,
}

impl Added {
    fn create(control: &File) -> Option<Added> {
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            return None;
        }
        let is_there = |number: &i32| Path::new(&format!("/sys/block/loop{number}")).exists();
        let number = (FIRST_ADDED..).find(|number| !is_there(number))?;
        let control = control.try_clone().ok()?;
        // SAFETY: takes a number.
        let done = unsafe { libc::ioctl(control.as_raw_fd(), ADD, number) };
        (done == number).then_some(Added { control, number })
    }
}

impl Drop for Added {
    fn drop(&mut self) {
        // SAFETY: takes a number.
        let removed = || unsafe { libc::ioctl(self.control.as_raw_fd(), REMOVE, self.number) } == 0;
        // Whoever looks at new devices may still have it open.
        if !crate::fixture::poll(removed) {
            eprintln!("loop{} stays: {}", self.number, io::Error::last_os_error());
        }
    }
}

/// `/sys/block/NAME/stat`: kernel documentation, block/stat.rst.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskStat {
    pub operations: u64,
    pub merges: u64,
    pub bytes: u64,
    pub ms: u64,
}

/// Of one device since some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskStats {
    pub read: DiskStat,
    pub write: DiskStat,
    pub discard: DiskStat,
    /// Operations and time alone.
    pub flush: DiskStat,
}

impl LoopDevice {
    /// `Err` says what this machine lacks.
    pub fn create(bytes: u64, direct: bool) -> Result<LoopDevice, String> {
        let folder = folder_on_disk().ok_or("no folder on a disk")?;
        let backing = tempfile::NamedTempFile::new_in(folder).map_err(|e| e.to_string())?;
        backing.as_file().set_len(bytes).map_err(|e| e.to_string())?;
        if !Path::new("/dev/loop-control").exists() {
            // Fails where there is no such module; then the open does.
            let _ = Command::new("modprobe").arg("loop").output();
        }
        let both = OpenOptions::new().read(true).write(true).clone();
        let control = both.open("/dev/loop-control").map_err(|e| format!("loop-control: {e}"))?;
        let added = Added::create(&control);
        // Somebody else may take the free one first.
        for _ in 0..16 {
            let number = match &added {
                Some(added) => added.number,
                // SAFETY: this request has no argument.
                None => unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) },
            };
            if number < 0 {
                return Err(format!("LOOP_CTL_GET_FREE: {}", io::Error::last_os_error()));
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = both.open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            // udev leaves alone whom it finds locked: its probing would be in the statistics.
            device.lock().map_err(|e| e.to_string())?;
            let config = Config {
                fd: backing.as_file().as_raw_fd() as u32,
                block_size: 0,
                _before: [0; 13],
                flags: AUTOCLEAR | if direct { DIRECT_IO } else { 0 },
                _after: [0; 30],
            };
            // SAFETY: reads a configuration of its own size.
            let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
            if done == 0 {
                return Ok(LoopDevice { path, backing, device, _added: added });
            }
        }
        Err(format!("LOOP_CONFIGURE: {}", io::Error::last_os_error()))
    }

    pub fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    pub fn number(&self) -> (u32, u32) {
        let rdev = self.device.metadata().unwrap().rdev();
        (libc::major(rdev), libc::minor(rdev))
    }

    /// Whether it goes past the page cache of the backing file.
    pub fn is_direct(&self) -> bool {
        let path = format!("/sys/block/{}/loop/dio", self.name());
        fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    }

    pub fn stats(&self) -> DiskStats {
        let text = fs::read_to_string(format!("/sys/block/{}/stat", self.name())).unwrap();
        let words: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let four = |at: usize| DiskStat {
            operations: words[at],
            merges: words[at + 1],
            bytes: words[at + 2] * 512,
            ms: words[at + 3],
        };
        let flush = DiskStat { operations: words[15], ms: words[16], ..DiskStat::default() };
        DiskStats { read: four(0), write: four(4), discard: four(11), flush }
    }
}

impl DiskStats {
    pub fn since(&self, before: &DiskStats) -> DiskStats {
        let minus = |a: DiskStat, b: DiskStat| DiskStat {
            operations: a.operations - b.operations,
            merges: a.merges - b.merges,
            bytes: a.bytes - b.bytes,
            ms: a.ms - b.ms,
        };
        DiskStats {
            read: minus(self.read, before.read),
            write: minus(self.write, before.write),
            discard: minus(self.discard, before.discard),
            flush: minus(self.flush, before.flush),
        }
    }
}
