//! What limits a container by the kernel's own files and `tc`, without asking the product.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::agent::TestAgent;

/// Every file that a throttle may change, of one container, with its text.
pub type Files = BTreeMap<PathBuf, String>;

const FILES: [&str; 15] = [
    "cpu.max",
    "cpu.weight",
    "cpu.idle",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.shares",
    "memory.high",
    "io.max",
    "io.weight",
    "io.bfq.weight",
    "blkio.bfq.weight",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];

/// Where one container's limits are in the kernel.
#[derive(Debug)]
pub struct Witness {
    directories: Vec<PathBuf>,
    /// The host's end of its interface; empty without one.
    pub veth: String,
    address: String,
    /// The agent's nftables table.
    table: String,
}

impl Witness {
    pub fn of(agent: &TestAgent, name: &str) -> Self {
        let native = agent.native(name);
        let id = native["id"].as_str().unwrap();
        let below = Path::new(&agent.cgroup_parent).join(id);
        let mounts = ["", "cpu", "memory", "blkio"];
        let all = mounts.iter().map(|mount| Path::new("/sys/fs/cgroup").join(mount).join(&below));
        let veth = native["host_interface"].as_str().unwrap_or_default().to_owned();
        Self {
            directories: all.filter(|dir| dir.is_dir()).collect(),
            veth,
            address: native["address"].as_str().unwrap_or_default().to_owned(),
            table: agent.bridge.clone(),
        }
    }

    pub fn files(&self) -> Files {
        let all = self.directories.iter().flat_map(|dir| FILES.map(|file| dir.join(file)));
        let mut files: Files = all
            .filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)))
            .collect();
        if !self.veth.is_empty() {
            // Rate and burst alone: a queue that was put in anew has another handle.
            let ifb = self.veth.replace("veth", "ifb");
            for link in [&self.veth, &ifb] {
                files.insert(link.into(), bucket_of(link));
            }
            files.insert("class".into(), if self.goes_last() { "bulk" } else { "" }.to_owned());
        }
        files
    }

    /// Whether what it sends is put into the last class, by `nft`.
    pub fn goes_last(&self) -> bool {
        let set = ["list", "set", "ip", &self.table, "bulk"];
        let output = Command::new("nft").args(set).output().expect("nft");
        let text = String::from_utf8_lossy(&output.stdout);
        text.split(|c: char| !c.is_ascii_digit() && c != '.').any(|word| word == self.address)
    }

    /// The file with its CPU quota, and what it says.
    pub fn quota(&self) -> (PathBuf, String) {
        let all = self.directories.iter();
        let mut all =
            all.flat_map(|dir| ["cpu.max", "cpu.cfs_quota_us"].map(|file| dir.join(file)));
        let found = all.find_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)));
        found.expect("a quota's file")
    }
}

/// `20Mbit burst 125Kb` of `tc qdisc show`; empty without a token bucket.
fn bucket_of(link: &str) -> String {
    let output = Command::new("tc").args(["qdisc", "show", "dev", link]).output().expect("tc");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let root = text.lines().find(|line| line.contains("tbf"));
    let bucket = root.and_then(|line| line.split_once(" rate ")?.1.split_once(" lat "));
    bucket.map(|(bucket, _)| bucket.to_owned()).unwrap_or_default()
}

/// `20Mbit`, the bucket's rate.
pub fn rate_of(link: &str) -> String {
    bucket_of(link).split(' ').next().unwrap_or_default().to_owned()
}
