//! What a user may say of a program's surroundings, asked from inside and from the host.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use support::{Lab, skipped};
use tenantry_shim::protocol::{Reply, Request};
use tenantry_shim::spec::{
    DeviceNode, IdMapping, LimitedResource, Member, Namespace, Rlimit, Sysctl,
};

#[track_caller]
fn output_of(script: &str, change: impl FnOnce(&mut Lab)) -> String {
    let mut lab = Lab::shell(script);
    change(&mut lab);
    let status = lab.run();
    let (stdout, stderr) = (lab.stdout(), lab.stderr());
    assert_eq!(status.code, 0, "{script}\n{stdout}\n{stderr}");
    lab.assert_nothing_left();
    stdout
}

fn inode(pid: i32, namespace: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{namespace}")).expect("a namespace").ino()
}

#[test]
fn limits_are_set_with_and_without_a_user_namespace() {
    if skipped() {
        return;
    }
    for user_namespace in [false, true] {
        let output = output_of("ulimit -Sn; ulimit -Hn; ulimit -Hc", |lab| {
            let rlimit = |resource, soft, hard| Rlimit { resource, soft, hard };
            lab.spec.process.rlimits = vec![
                rlimit(LimitedResource::Nofile, Some(33), Some(44)),
                rlimit(LimitedResource::Core, Some(0), Some(0)),
            ];
            if user_namespace {
                lab.spec.user_namespace = Some(IdMapping { host_base: 1_000_000, size: 65_536 });
            }
        });
        assert_eq!(output, "33\n44\n0\n");
    }
}

#[test]
fn kernel_settings_and_shared_memory_are_its_own() {
    if skipped() {
        return;
    }
    let host = || fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a setting");
    let before = host();
    let script = "cat /proc/sys/net/core/somaxconn; df -k /dev/shm | tail -n 1 | tr -s ' '";
    let output = output_of(script, |lab| {
        let path = "net/core/somaxconn".to_owned();
        lab.spec.sysctls = vec![Sysctl { path, value: "77".into() }];
        lab.spec.shm_size_bytes = 1 << 20;
    });
    assert!(output.starts_with("77\n") && output.contains(" 1024 "), "{output}");
    assert_eq!(host(), before);
}

#[test]
fn a_device_can_be_used_and_none_that_it_makes_itself() {
    if skipped() {
        return;
    }
    let script = "head -c 2 /dev/a/zero | wc -c; stat -c '%a %u %g' /dev/a/zero
        mknod /dev/own c 1 5 && { head -c 1 /dev/own >/dev/null 2>&1 || echo refused; }";
    let output = output_of(script, |lab| {
        lab.spec.process.capabilities = u64::MAX;
        lab.spec.devices = vec![DeviceNode {
            path: "/dev/a/zero".into(),
            source: "/dev/zero".into(),
            block: false,
            major: 1,
            minor: 5,
            mode: 0o640,
            uid: 0,
            gid: 7,
        }];
    });
    assert_eq!(output, "2\n640 0 7\nrefused\n");
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    if skipped() {
        return;
    }
    let script = "echo $$ $PPID; cat /proc/1/comm; (sleep 0.1 &); sleep 0.5
        for p in /proc/[0-9]*; do grep -q 'State:.Z' $p/status && echo zombie; done; true";
    assert_eq!(output_of(script, |lab| lab.spec.init = true), "2 1\ninit\n");

    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137)] {
        let mut lab = Lab::shell(script);
        lab.spec.init = true;
        assert_eq!(lab.run().code, code);
        lab.assert_nothing_left();
    }

    let mut lab = Lab::new(&["/bin/sleep", "1000"]);
    lab.spec.init = true;
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.start();
    // The first process of a pid namespace would not hear of it.
    let mut other = shim.connect();
    other.send(&Request::Signal { signal: libc::SIGTERM });
    assert_eq!(other.receive(), Reply::Signalled { errno: 0 });
    assert_eq!(client.exit_status().code, 128 + libc::SIGTERM);
    shim.wait();
    lab.assert_nothing_left();

    let mut lab = Lab::new(&["/bin/there-is-none"]);
    lab.spec.init = true;
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.send(&Request::Watch);
    assert!(matches!(client.receive(), Reply::Created { .. }));
    client.send(&Request::Start);
    let Reply::Failed(failure) = client.receive() else { panic!("it runs") };
    assert_eq!((failure.operation.as_str(), failure.errno), ("execve", libc::ENOENT));
    shim.wait();
    lab.assert_nothing_left();
}

#[test]
fn namespaces_of_another_container_are_entered_if_they_still_are_its() {
    if skipped() {
        return;
    }
    let mut first = Lab::shell("read line");
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    first.stdin = Some(read);
    let mut first_shim = first.spawn();
    let mut first_client = first_shim.connect();
    let pid = first_client.start();
    let member = |name: &str| Namespace::Of(Member { pid, inode: inode(pid, name) });

    let script = "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; \
        echo word > /dev/shm/letter";
    let output = output_of(script, |lab| {
        lab.spec.namespaces.pid = member("pid");
        lab.spec.namespaces.ipc = member("ipc");
    });
    let expected = format!("pid:[{}]\nipc:[{}]\n", inode(pid, "pid"), inode(pid, "ipc"));
    assert_eq!(output, expected);
    let letter = fs::read_to_string(format!("/proc/{pid}/root/dev/shm/letter"));
    assert_eq!(letter.expect("a file in the shared memory"), "word\n");

    let mut wrong = Lab::shell("true");
    wrong.spec.namespaces.ipc = Namespace::Of(Member { pid, inode: 1 });
    let mut shim = wrong.spawn();
    let mut client = shim.connect();
    client.send(&Request::Watch);
    let Reply::Failed(failure) = client.receive() else { panic!("it began") };
    assert_eq!((failure.operation.as_str(), failure.errno), ("open", libc::ESRCH));
    shim.wait();
    wrong.assert_nothing_left();

    drop(write);
    first_client.exit_status();
    first_shim.wait();
    first.assert_nothing_left();
}

#[test]
fn whoever_shares_the_hosts_processes_leaves_none_behind() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("sleep 4243 & echo $!; exec sleep 0.3");
    lab.spec.namespaces.pid = Namespace::Host;
    let status = lab.run();
    assert_eq!(status.code, 0);
    // Its number is the host's.
    let pid: i32 = lab.stdout().trim().parse().expect("a number");
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&line).contains("4243"), "it lives on");
    lab.assert_nothing_left();
}
