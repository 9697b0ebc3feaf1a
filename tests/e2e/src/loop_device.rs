//! A disk of a test's own: a file behind a loop device, mounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::agent::TestAgent;

/// A mounted file as a disk of its own, so that nothing else's requests are limited.
#[derive(Debug)]
pub struct LoopDevice {
    /// `/dev/loop0`.
    pub device: String,
    file: PathBuf,
    pub mount: PathBuf,
    /// The scheduler that it had.
    scheduler: Option<String>,
}

impl LoopDevice {
    /// `None` where no loop device can be had.
    pub fn attach(agent: &TestAgent) -> Option<Self> {
        let file = agent.scratch.join("disk.img");
        std::fs::File::create(&file).ok()?.set_len(256 << 20).ok()?;
        // In two steps, as busybox's losetup has no --show.
        let free = Command::new("losetup").arg("-f").output().ok()?;
        let device = String::from_utf8(free.stdout).ok()?.trim().to_owned();
        let attached = Command::new("losetup").arg(&device).arg(&file).status().ok()?;
        let disk = attached.success().then(|| Self {
            device,
            file,
            mount: agent.scratch.join("mnt"),
            scheduler: None,
        })?;
        std::fs::create_dir_all(&disk.mount).unwrap();
        let (device, mount) = (&disk.device, disk.mount.display());
        let script = format!("mke2fs {device} >/dev/null 2>&1 && mount {device} {mount}");
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success(), "{script}");
        Some(disk)
    }

    /// For `-v`: at `/disk` in the container.
    pub fn bind(&self) -> String {
        format!("{}:/disk", self.mount.display())
    }

    /// `false` if this kernel has no such scheduler. The disk has its own again in the end.
    pub fn set_scheduler(&mut self, name: &str) -> bool {
        let path = self.queue_file();
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        let in_use = before.split(['[', ']']).nth(1).map(str::to_owned);
        if std::fs::write(&path, name).is_err() {
            return false;
        }
        self.scheduler = self.scheduler.take().or(in_use);
        // bfq puts whoever has just begun before the others for seconds, whatever the weights.
        let _ = std::fs::write(path.with_file_name("iosched").join("low_latency"), "0");
        true
    }

    fn queue_file(&self) -> PathBuf {
        let name = self.device.trim_start_matches("/dev/");
        Path::new("/sys/block").join(name).join("queue/scheduler")
    }

    /// Megabytes a second that it has read and written, by the kernel's count of its requests.
    pub fn rates(&self, window: Duration) -> [f64; 2] {
        let sectors = || {
            let text = std::fs::read_to_string("/proc/diskstats").unwrap();
            let name = self.device.trim_start_matches("/dev/");
            let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let fields = lines.find(|fields| fields[2] == name).expect("the device");
            [fields[5], fields[9]].map(|field| field.parse::<u64>().unwrap())
        };
        let (began, before) = (Instant::now(), sectors());
        std::thread::sleep(window);
        let (after, seconds) = (sectors(), began.elapsed().as_secs_f64());
        [0, 1].map(|at| (after[at] - before[at]) as f64 * 512.0 / 1e6 / seconds)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Some(scheduler) = &self.scheduler {
            let _ = std::fs::write(self.queue_file(), scheduler);
        }
        let _ = Command::new("umount").arg(&self.mount).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
        let _ = std::fs::remove_file(&self.file);
    }
}
