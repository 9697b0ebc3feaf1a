//! What the kernel says of a child by itself, in files that have nothing to do with eBPF.

use std::collections::HashMap;
use std::fs::read_to_string;

use crate::child::Child;
use crate::fixture::wait_until;

/// Counters of the network namespace that a process is in, by name: those of `protocols`, as
/// `/proc/net/snmp` and `/proc/net/netstat` head their lines.
pub fn namespace_counters(pid: i32, protocols: &[&str]) -> HashMap<String, u64> {
    let text = ["snmp", "netstat"]
        .map(|file| read_to_string(format!("/proc/{pid}/net/{file}")).unwrap())
        .concat();
    let wanted = |line: &&str| {
        line.split_once(':').is_some_and(|(protocol, _)| protocols.contains(&protocol))
    };
    let lines: Vec<&str> = text.lines().filter(wanted).collect();
    let pairs = lines.chunks(2).flat_map(|two| {
        let values = two[1].split_whitespace().skip(1);
        let names = two[0].split_whitespace().skip(1).map(str::to_owned);
        names.zip(values.map(|value| value.parse::<i64>().unwrap().max(0) as u64))
    });
    pairs.collect()
}

/// IPv6's counters, which have a file of their own.
pub fn namespace_counters_v6(pid: i32) -> HashMap<String, u64> {
    let text = read_to_string(format!("/proc/{pid}/net/snmp6")).unwrap();
    let pairs = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    pairs.collect()
}

/// How many reads of a process returned.
pub fn reads_of(pid: i32) -> u64 {
    let text = read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("syscr:"));
    line.expect("task I/O accounting").trim().parse().unwrap()
}

/// Waits for [`stop`](crate::socket::stop).
pub fn wait_for_stop(child: &Child) {
    wait_until("the child to stop", || {
        let stat = read_to_string(format!("/proc/{}/stat", child.pid)).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        assert!(!rest.starts_with('Z'), "the child failed");
        rest.starts_with('T')
    });
}

/// Nanoseconds that a thread waited for a CPU.
pub fn run_delay_ns(pid: i32) -> u64 {
    schedstat(pid).1
}

/// Nanoseconds that a thread ran, and that it waited for a CPU.
pub fn schedstat(pid: i32) -> (u64, u64) {
    let text = read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let mut words = text.split_whitespace().map(|word| word.parse().unwrap());
    (words.next().unwrap(), words.next().unwrap())
}

/// By a signal.
pub fn is_stopped(pid: i32) -> bool {
    let stat = read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Stops the calling process until somebody lets it go on.
pub fn stop() {
    // SAFETY: a signal to itself.
    unsafe { libc::raise(libc::SIGSTOP) };
}
