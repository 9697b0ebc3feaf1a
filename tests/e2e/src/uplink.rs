//! A link from the host to a network namespace of its own, narrow enough that a queue stands.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::netns::listens;
use crate::{programs, until};

/// The other end's address.
pub const FAR: &str = "10.78.0.2";

/// The root queue's handle.
const BUCKET: &str = "1:";

/// With sinks at its end. All of it goes when this is dropped.
#[derive(Debug)]
pub struct Uplink {
    name: String,
    processes: Vec<Child>,
}

fn run(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn namespace(pid: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|file| file.ino())
}

impl Uplink {
    /// `queue` is what `tc qdisc add dev NAME root` takes.
    pub fn create(queue: &str) -> Uplink {
        let holder = Command::new("unshare").args(["--net", "sleep", "10000"]).spawn().unwrap();
        let pid = holder.id();
        let name = format!("tnup{}", std::process::id());
        let uplink = Uplink { name: name.clone(), processes: vec![holder] };
        until("a namespace", || namespace(&pid.to_string()) != namespace("self"));
        run(&format!("ip link add {name} type veth peer name eth0 netns {pid}"));
        run(&format!("ip address add 10.78.0.1/30 dev {name}"));
        run(&format!("ip link set {name} up"));
        run(&format!("tc qdisc add dev {name} root handle {BUCKET} {queue}"));
        run(&format!("nsenter -t {pid} -n ip address add {FAR}/30 dev eth0"));
        run(&format!("nsenter -t {pid} -n ip link set eth0 up"));
        uplink
    }

    /// Puts a queue of three classes (`pfifo_fast`) into the token bucket that it was made with.
    pub fn sort_by_class(&self) {
        run(&format!("tc qdisc add dev {} parent {BUCKET}1 handle 10: pfifo_fast", self.name));
    }

    pub fn pid(&self) -> u32 {
        self.processes[0].id()
    }

    /// A workload at the far end, which is ready when it listens.
    pub fn serve(&mut self, port: u16, workload: &str) {
        let pid = self.pid();
        let program = programs().join("tenantry-workload");
        let child = Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-n"])
            .arg(program)
            .args(workload.split(' '))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.processes.push(child);
        until("the far end listens", || listens(pid, port));
    }

    /// What stands in its queue now.
    pub fn backlog_bytes(&self) -> u64 {
        let text = run(&format!("tc -s -j qdisc show dev {}", self.name));
        serde_json::from_str::<Value>(&text).unwrap()[0]["backlog"].as_u64().unwrap()
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.name]).status();
        for child in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
