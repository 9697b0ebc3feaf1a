//! The default rules on what the kernel tells of a real container: one that does what they are
//! for, and one that does what is next to it.

use std::collections::BTreeSet;

use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::{skip_unless_possible, until};

/// Rule, and the line of a shell that must trigger it. Commands by their paths: busybox's shell
/// runs what it is itself without an exec.
const SUSPECT: &[(&str, &str)] = &[
    ("shell_in_container", ":"),
    ("shell_interactive", "echo exit | /bin/sh -i"),
    (
        "shell_from_server",
        "printf '#!/bin/sh\\n/bin/sh -c :\\ntrue\\n' > /data/nginx; chmod +x /data/nginx; /data/nginx",
    ),
    ("shell_connects", "cp /bin/workload /data/sh; /data/sh suspect --connect 127.0.0.1:1"),
    ("reverse_shell_command", ": /bin/sh > /dev/null # /dev/tcp/203.0.113.7/4444"),
    ("write_below_etc", "echo x:x:0:0::/:/bin/sh >> /etc/passwd"),
    ("write_below_binaries", "chmod 4755 /bin/workload"),
    ("write_escape_path", "(: > /proc/sys/kernel/core_pattern) 2> /dev/null"),
    ("credentials_read", ": < /etc/shadow"),
    ("logs_removed", "mkdir -p /var/log; : > /var/log/auth.log; rm /var/log/auth.log"),
    ("package_manager", "cp /bin/workload /data/apk; /data/apk exit 0"),
    ("memfd_exec", "workload suspect --memfd"),
    ("exec_from_temporary", "cp /bin/workload /tmp/own; /tmp/own exit 0"),
    ("mount", "mount -t tmpfs none /data"),
    ("namespace_change", "nsenter -t 1 -u true"),
    ("ptrace", "workload suspect --traceme"),
    ("kernel_module", "insmod /bin/workload 2> /dev/null"),
    ("bpf", "workload suspect --bpf"),
    ("container_socket", "workload suspect --socket /run/docker.sock"),
    ("cloud_metadata", "workload suspect --connect 169.254.169.254:80"),
];

/// Of a kind that must be asked for; from a container whose processes see another one's, which
/// ours never do; of the DNS test's name server.
const ELSEWHERE: &[&str] =
    &["capability_denied", "signal_to_other_container", "cloud_metadata_name"];

/// What is near: no rule may see it.
const INNOCENT: &[&[&str]] = &[
    &["workload", "suspect", "--socket", "/dev/log"],
    &["workload", "suspect", "--connect", "127.0.0.1:1"],
    &["cat", "/etc/passwd", "/proc/sys/kernel/core_pattern"],
    &["dd", "if=/bin/workload", "of=/tmp/copy", "bs=64k"],
    &["mkdir", "-p", "/data/etc", "/data/bin", "/data/var/log"],
    &["touch", "/data/etc/passwd", "/data/bin/sh", "/data/var/log/x"],
    &["rm", "/data/var/log/x", "/data/etc/passwd"],
    &["mount", "-t", "tmpfs", "none", "/data"],
    &["insmod"],
    &["ls", "/bin/sh"],
];

/// Rules with an alert about a container, in the audit file.
fn told(agent: &TestAgent, container: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap();
    text.lines()
        .map(json)
        .filter(|line| line["event"]["action"] == "alert")
        .filter(|line| line["container"]["name"] == container)
        .map(|line| line["rule"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn each_is_triggered_by_what_it_is_for_and_none_by_what_is_near() {
    skip_unless_possible!();
    // Opens for reading are told where somebody asked for them.
    let agent =
        TestAgent::try_start_with("[audit.filter]\nopen_paths = [\"/etc/shadow\"]\n").unwrap();
    // Nothing sent to another host's address leaves it: there is no network.
    let alone = ["--network", "none"];
    agent.run_detached("calm", &alone, &["sleep", "1000"]).unwrap();
    for command in INNOCENT {
        agent.output(&[&["exec", "calm"], *command].concat());
    }
    let flags = ["--cap-add", "SYS_ADMIN", "--network", "none"];
    agent.run_detached("suspect", &flags, &["sleep", "1000"]).unwrap();
    agent.ok(&["exec", "suspect", "touch", "/etc/shadow"]);
    for (_, line) in SUSPECT {
        agent.output(&["exec", "suspect", "/bin/sh", "-c", line]);
    }
    let expected: BTreeSet<String> = SUSPECT.iter().map(|(rule, _)| (*rule).to_owned()).collect();
    until("all to be told", || expected.is_subset(&told(&agent, "suspect")));
    assert_eq!(told(&agent, "suspect"), expected);
    assert_eq!(told(&agent, "calm"), BTreeSet::new());
    let shown = json(&agent.ok(&["rules", "show", "--json"]));
    let all = shown["rules"].as_array().unwrap().iter().map(|rule| rule["name"].as_str().unwrap());
    let left: Vec<&str> = all.filter(|rule| !expected.contains(*rule)).collect();
    assert_eq!(left, ELSEWHERE);
    agent.ok(&["rm", "-f", "calm", "suspect"]);
    agent.finish();
}
