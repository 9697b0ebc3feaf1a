//! A cgroup with a CPU quota around a container's processes, and one that goes before all
//! other work of this machine: in v1's cpu hierarchy, where there is one.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::fixture::{mount_of, poll};
use crate::groups::Container;

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct CpuGroup {
    /// Where limits are set, and where the processes are: the same, or one level below.
    limited: PathBuf,
    inner: PathBuf,
    v1: bool,
}

/// Directory for a test's groups, with as large a share as there is.
fn make_v1() -> Option<PathBuf> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("tenantry-kernel-test-cpu-{}-{number}", std::process::id());
    let path = mount_of("cgroup", "cpu")?.join(name);
    fs::create_dir(&path).expect("cpu cgroup");
    fs::write(path.join("cpu.shares"), "262144").expect("cpu.shares");
    Some(path)
}

impl CpuGroup {
    /// Whose processes other work of this machine hardly disturbs; `None` where there is no v1,
    /// as in the virtual machine, whose only work the tests are.
    pub fn ahead() -> Option<CpuGroup> {
        let path = make_v1()?;
        Some(CpuGroup { limited: path.clone(), inner: path, v1: true })
    }

    /// For a quota. `nested`: processes are one level below it. `Err` says what this machine
    /// lacks.
    pub fn limited(container: &Container, nested: bool) -> Result<CpuGroup, String> {
        let v1 = make_v1();
        let is_v1 = v1.is_some();
        let limited = v1.unwrap_or_else(|| {
            let parent = container.unified.parent().unwrap();
            for above in [parent.parent().unwrap(), parent] {
                let _ = fs::write(above.join("cgroup.subtree_control"), "+cpu");
            }
            container.unified.clone()
        });
        if !is_v1 && !limited.join("cpu.max").exists() {
            return Err("the cpu controller cannot be enabled".into());
        }
        let inner = if nested { limited.join("inner") } else { limited.clone() };
        if nested {
            if !is_v1 {
                let _ = fs::write(limited.join("cgroup.subtree_control"), "+cpu");
            }
            fs::create_dir(&inner).expect("inner cpu cgroup");
        }
        Ok(CpuGroup { limited, inner, v1: is_v1 })
    }

    /// Whether its processes are in the container's own cgroups besides: in v2, where they
    /// cannot, they are in one below it.
    pub fn is_apart(&self) -> bool {
        self.v1 || self.inner == self.limited
    }

    /// Of one CPU, in periods of 100 ms.
    pub fn set_quota_percent(&self, percent: u32) {
        let quota_usec = percent * 1000;
        let (file, text) = match self.v1 {
            true => ("cpu.cfs_quota_us", quota_usec.to_string()),
            false => ("cpu.max", format!("{quota_usec} 100000")),
        };
        fs::write(self.limited.join(file), text).expect(file);
    }

    pub fn add(&self, pid: i32) {
        fs::write(self.inner.join("cgroup.procs"), pid.to_string()).expect("cgroup.procs");
    }

    /// As the kernel accounts it.
    pub fn throttled_ns(&self) -> u64 {
        let text = fs::read_to_string(self.limited.join("cpu.stat")).expect("cpu.stat");
        let (field, factor) =
            if self.v1 { ("throttled_time ", 1) } else { ("throttled_usec ", 1000) };
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect(field);
        line.trim().parse::<u64>().unwrap() * factor
    }
}

impl Drop for CpuGroup {
    /// In v2 the fixture removes it.
    fn drop(&mut self) {
        for dir in [&self.inner, &self.limited].into_iter().filter(|_| self.v1) {
            // Dead processes leave a little after they were waited for.
            let gone = poll(|| !dir.exists() || fs::remove_dir(dir).is_ok());
            if !gone {
                println!("cgroup {} was left behind", dir.display());
            }
        }
    }
}
