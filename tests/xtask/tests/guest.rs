//! The virtual machine is what the suite promises to the tests that run in it.
//! Listed in `package.metadata.tenantry.vm-only-tests`: runs nowhere else.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Whether this runs in the guest; says so where not.
fn in_guest(test: &str) -> bool {
    let yes = std::env::var_os("TENANTRY_VM").is_some();
    if !yes {
        println!("SKIPPED: {test}: not in the test virtual machine");
    }
    yes
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn cgroup_v2_alone_has_every_controller() {
    if !in_guest("cgroup_v2_alone_has_every_controller") {
        return;
    }
    let controllers = read("/sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|c| c == controller), "{controllers}");
    }
    assert!(!read("/proc/self/mountinfo").contains(" - cgroup "), "a v1 hierarchy is mounted");
    assert_eq!(read("/proc/self/cgroup"), "0::/init.scope\n");
    assert!(read("/proc/pressure/cpu").starts_with("some "));
}

#[test]
fn bpf_has_type_information_and_security_hooks() {
    if !in_guest("bpf_has_type_information_and_security_hooks") {
        return;
    }
    assert!(Path::new("/sys/kernel/btf/vmlinux").exists());
    assert!(read("/sys/kernel/security/lsm").split(',').any(|lsm| lsm == "bpf"));
    assert!(read("/proc/self/mountinfo").contains("/sys/fs/bpf"));
}

#[test]
fn the_tools_that_the_runtime_calls_work() {
    if !in_guest("the_tools_that_the_runtime_calls_work") {
        return;
    }
    for words in [
        ["nft", "list", "ruleset"].as_slice(),
        &["nft", "add", "table", "ip", "tenantry_guest_test"],
        &["nft", "-j", "list", "tables"],
        &["nft", "delete", "table", "ip", "tenantry_guest_test"],
        &["ip", "link", "show", "lo"],
        &["tc", "qdisc", "show"],
        &["mke2fs", "-V"],
        &["busybox", "true"],
    ] {
        let output = Command::new(words[0]).args(&words[1..]).output();
        let output = output.unwrap_or_else(|e| panic!("{words:?}: {e}"));
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
}

#[test]
fn the_products_programs_lie_in_the_named_folder() {
    if !in_guest("the_products_programs_lie_in_the_named_folder") {
        return;
    }
    let dir = std::env::var("TENANTRY_BIN_DIR").unwrap();
    for program in ["tenantry-shim", "tenantry-workload"] {
        assert!(Path::new(&dir).join(program).exists(), "{program}");
    }
    if !Path::new(&dir).join("tenantry").exists() {
        println!("SKIPPED: the agent was not built for this run");
    }
}

#[test]
fn temporary_files_lie_on_a_disk() {
    if !in_guest("temporary_files_lie_on_a_disk") {
        return;
    }
    let mounts = read("/proc/self/mounts");
    let tmp = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/tmp")).unwrap();
    assert!(tmp.contains(" ext4 "), "{tmp}");
}
