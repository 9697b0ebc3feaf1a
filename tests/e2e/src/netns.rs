//! What the kernel itself counts for a container's network namespace.

use std::process::Command;

/// An interface in `/proc/PID/net/dev`: bytes and packets received, bytes and packets sent.
pub fn interface(pid: u32, name: &str) -> [f64; 4] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:")));
    let values: Vec<f64> =
        line.unwrap().split_whitespace().map(|value| value.parse().unwrap()).collect();
    [values[0], values[1], values[8], values[9]]
}

pub fn listens(pid: u32, port: u16) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    text.lines().any(|line| line.contains(&format!("00000000:{port:04X} 00000000:0000 0A")))
}

/// A cable between two containers without a network, which the host never sees: `eth0` in
/// both, with these addresses. It goes with their namespaces.
pub fn connect(ends: [(u32, &str); 2]) {
    let run = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).output().expect("ip runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
    };
    let [one, other] = ends.map(|(pid, _)| pid.to_string());
    let end = ["name", "eth0", "netns"];
    let make = [&["ip", "link", "add"][..], &end, &[&one, "type", "veth", "peer"], &end, &[&other]];
    run(&make.concat());
    for (pid, address) in ends {
        let pid = pid.to_string();
        let inside = ["nsenter", "-t", &pid, "-n", "ip"];
        run(&[&inside[..], &["address", "add", address, "dev", "eth0"]].concat());
        // Without IPv6 and what it says at any time.
        run(&[&inside[..], &["link", "set", "eth0", "addrgenmode", "none", "up"]].concat());
    }
}
