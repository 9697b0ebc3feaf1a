//! Start, output, signals and end of a container, through the real shim.

mod support;

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::{Lab, eventually, processes_named, skipped, status_of};
use tenantry_shim::log::Stream;
use tenantry_shim::protocol::{Reply, Request};

#[test]
fn true_runs_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let mut lab = Lab::new(&["/bin/true"]);
    let status = lab.run();
    assert_eq!((status.code, status.signal), (0, None));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos() as u64;
    assert!(status.finished_unix_ns <= now && now - status.finished_unix_ns < 60_000_000_000);
    let record = lab.exit_record();
    assert_eq!((record.status, record.lost_output_bytes), (status, 0));
    assert!(lab.frames().is_empty());
    lab.assert_nothing_left();
}

#[test]
fn an_exit_code_is_told_as_it_is_and_a_signal_as_128_more() {
    if skipped() {
        return;
    }
    let rows = [
        ("exit 0", 0, None),
        ("exit 7", 7, None),
        ("exit 255", 255, None),
        // Process 1 is immune to its own namespace's signals; a fault is not.
        ("exec /bin/sh -c 'ulimit -t 0; while :; do :; done'", 137, Some(9)),
    ];
    for (script, code, signal) in rows {
        let mut lab = Lab::shell(script);
        let status = lab.run();
        assert_eq!((status.code, status.signal), (code, signal), "{script}");
        lab.assert_nothing_left();
    }
}

#[test]
fn every_byte_of_output_is_logged_with_its_stream() {
    if skipped() {
        return;
    }
    // 1 MiB with every byte value, and a line on the other stream between pieces.
    let script = "i=0; while [ $i -lt 16 ]; do cat /piece; echo line $i >&2; i=$((i+1)); done";
    let mut lab = Lab::shell(script);
    let piece: Vec<u8> =
        (0..65_536_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    fs::write(lab.path("top").join("piece"), &piece).expect("a file");
    assert_eq!(lab.run().code, 0);
    let stdout = lab.bytes(Stream::Stdout);
    assert_eq!(stdout.len(), 1 << 20);
    assert!(stdout.chunks(piece.len()).all(|chunk| chunk == piece));
    let lines: String = (0..16).map(|n| format!("line {n}\n")).collect();
    assert_eq!(lab.stderr(), lines);
    lab.assert_nothing_left();
}

#[test]
fn a_second_run_appends_to_the_log() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("echo $RANDOM >/kept; cat /kept; wc -l </kept");
    lab.run();
    fs::remove_file(lab.path("socket")).expect("the socket");
    let first = lab.stdout();
    lab.run();
    assert!(lab.stdout().starts_with(&first) && lab.stdout().len() > first.len());
    lab.assert_nothing_left();
}

#[test]
fn a_full_disk_loses_output_but_not_the_container() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("echo 12345; echo 123 >&2; exit 3");
    lab.spec.log_path = "/dev/full".into();
    assert_eq!(lab.run().code, 3);
    assert_eq!(lab.exit_record().lost_output_bytes, 10);
    lab.assert_nothing_left();
}

#[test]
fn standard_input_reaches_the_program_and_is_dev_null_otherwise() {
    if skipped() {
        return;
    }
    let mut lab = Lab::new(&["/bin/cat"]);
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    lab.stdin = Some(read);
    rustix::io::write(&write, b"to the end").expect("write");
    drop(write);
    assert_eq!(lab.run().code, 0);
    assert_eq!(lab.stdout(), "to the end");
    lab.assert_nothing_left();

    let mut lab = Lab::shell("readlink /proc/self/fd/0; cat");
    assert_eq!(lab.run().code, 0);
    assert_eq!(lab.stdout(), "/dev/null\n");
    lab.assert_nothing_left();
}

#[test]
fn a_signal_reaches_the_program() {
    if skipped() {
        return;
    }
    let mut lab =
        Lab::shell("trap 'echo asked; exit 42' TERM; echo up; while :; do sleep 0.01; done");
    let mut shim = lab.spawn();
    let mut watch = shim.connect();
    watch.start();
    eventually("the trap is set", || lab.stdout() == "up\n");
    let mut other = shim.connect();
    other.send(&Request::Signal { signal: 15 });
    assert_eq!(other.receive(), Reply::Signalled { errno: 0 });
    other.send(&Request::Signal { signal: 4711 });
    assert_eq!(other.receive(), Reply::Signalled { errno: libc::EINVAL });
    assert_eq!(watch.exit_status().code, 42);
    assert!(lab.stdout().contains("asked"));
    shim.wait();
    lab.assert_nothing_left();
}

#[test]
fn a_missing_or_unexecutable_program_is_a_failure_of_execve() {
    if skipped() {
        return;
    }
    let rows = [
        ("/bin/nothing", libc::ENOENT),
        ("nothing", libc::ENOENT),
        ("/etc/passwd", libc::EACCES),
        ("/etc", libc::EACCES),
        ("", libc::ENOENT),
    ];
    for (program, errno) in rows {
        let mut lab = Lab::new(&[program]);
        let mut shim = lab.spawn();
        let mut client = shim.connect();
        client.send(&Request::Watch);
        assert!(matches!(client.receive(), Reply::Created { .. }));
        client.send(&Request::Start);
        let Reply::Failed(failure) = client.receive() else { panic!("no failure: {program}") };
        assert_eq!((failure.operation.as_str(), failure.errno), ("execve", errno), "{program}");
        assert_eq!(failure.object, program);
        assert!(client.receive_line().is_none());
        shim.wait();
        assert!(!lab.spec.exit_path.exists());
        lab.assert_nothing_left();
    }
}

#[test]
fn a_step_that_fails_is_named_even_to_a_watcher_that_comes_later() {
    if skipped() {
        return;
    }
    let mut lab = Lab::new(&["/bin/true"]);
    lab.spec.binds.push(tenantry_shim::spec::Bind {
        source: "/no/such/place".into(),
        target: "/mnt".into(),
        read_only: false,
        propagation: Default::default(),
    });
    let mut shim = lab.spawn();
    std::thread::sleep(Duration::from_millis(50));
    let mut client = shim.connect();
    client.send(&Request::Watch);
    let Reply::Failed(failure) = client.receive() else { panic!("no failure") };
    assert_eq!((failure.operation.as_str(), failure.errno), ("open_tree", libc::ENOENT));
    assert_eq!(failure.object, "/no/such/place");
    shim.wait();
    lab.assert_nothing_left();

    let mut lab = Lab::new(&["/bin/true"]);
    lab.spec.hostname = "x".repeat(65);
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.send(&Request::Watch);
    let failure = loop {
        match client.receive() {
            Reply::Created { .. } => {}
            Reply::Failed(failure) => break failure,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((failure.operation.as_str(), failure.errno), ("sethostname", libc::EINVAL));
    shim.wait();
    lab.assert_nothing_left();
}

#[test]
fn an_agent_that_dies_before_start_leaves_nothing() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("sleep 1000");
    let mut shim = lab.spawn();
    let mut first = shim.connect();
    let mut second = shim.connect();
    first.send(&Request::Watch);
    let Reply::Created { pid } = first.receive() else { panic!("not created") };
    second.send(&Request::Watch);
    assert_eq!(second.receive(), Reply::Created { pid });
    drop(first);
    // One watcher is left: nothing happens.
    std::thread::sleep(Duration::from_millis(50));
    assert!(fs::exists(format!("/proc/{pid}")).expect("proc"));
    drop(second);
    shim.wait();
    assert!(!lab.spec.exit_path.exists());
    lab.assert_nothing_left();
}

#[test]
fn a_shim_that_is_killed_before_start_takes_its_child_along() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("sleep 1000");
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.send(&Request::Watch);
    assert!(matches!(client.receive(), Reply::Created { .. }));
    shim.child.kill().expect("kill");
    shim.wait();
    lab.assert_nothing_left();
}

#[test]
fn a_child_that_is_killed_at_the_gate_is_a_failed_start() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("sleep 1000");
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.send(&Request::Watch);
    assert!(matches!(client.receive(), Reply::Created { .. }));
    let mut other = shim.connect();
    other.send(&Request::Signal { signal: 9 });
    assert_eq!(other.receive(), Reply::Signalled { errno: 0 });
    let Reply::Failed(failure) = client.receive() else { panic!("no failure") };
    assert_eq!(failure.operation, "start");
    shim.wait();
    lab.assert_nothing_left();
}

/// The agent's death, in earnest: a process that holds the watch is killed.
#[test]
fn a_killed_watcher_does_not_disturb_a_running_container() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done");
    let mut shim = lab.spawn();
    let mut watcher = shim.connect();
    let pid = watcher.start();
    let mut holder = Command::new("/bin/busybox")
        .args(["sleep", "1000"])
        .stdin(std::process::Stdio::from(OwnedFd::from(watcher.into_socket())))
        .spawn()
        .expect("a holder");
    holder.kill().expect("kill");
    holder.wait().expect("wait");
    std::thread::sleep(Duration::from_millis(50));

    let mut again = shim.connect();
    again.send(&Request::Watch);
    let Reply::Running { pid: same, started_unix_ns } = again.receive() else {
        panic!("not running")
    };
    assert!(same == pid && started_unix_ns > 0);
    eventually("the trap is set", || lab.stdout() == "up\n");
    let mut other = shim.connect();
    other.send(&Request::Signal { signal: 15 });
    assert_eq!(other.receive(), Reply::Signalled { errno: 0 });
    assert_eq!(again.exit_status().code, 5);
    shim.wait();
    lab.assert_nothing_left();
}

#[test]
fn with_nobody_watching_the_exit_file_still_tells() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("read line; echo \"$line\"; exit 9");
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    lab.stdin = Some(read);
    let mut shim = lab.spawn();
    let mut watcher = shim.connect();
    watcher.start();
    drop(watcher);
    rustix::io::write(&write, b"alone\n").expect("write");
    shim.wait();
    assert_eq!(lab.exit_record().status.code, 9);
    assert_eq!(lab.stdout(), "alone\n");
    lab.assert_nothing_left();
}

#[test]
fn output_held_open_from_outside_does_not_keep_the_shim() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("echo up; read line; exit 0");
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    lab.stdin = Some(read);
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    let pid = client.start();
    eventually("it is up", || lab.stdout() == "up\n");
    let held = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1")).expect("fd 1");
    drop(write);
    assert_eq!(client.exit_status().code, 0);
    shim.wait();
    drop(held);
    lab.assert_nothing_left();
}

#[test]
fn what_is_no_request_ends_only_its_own_connection() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("read line");
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    lab.stdin = Some(read);
    let mut shim = lab.spawn();
    let mut watcher = shim.connect();
    watcher.start();
    let mut rude = shim.connect();
    rude.send_bytes(b"GET / HTTP/1.1\r\n");
    assert!(rude.receive_line().is_none());
    // In pieces, as a stream may deliver it.
    let mut slow = shim.connect();
    for byte in b"{\"signal\":{\"signal\":0}}\n" {
        slow.send_bytes(&[*byte]);
    }
    assert_eq!(slow.receive(), Reply::Signalled { errno: 0 });
    drop(write);
    watcher.exit_status();
    shim.wait();
    lab.assert_nothing_left();
}

#[test]
fn a_shim_is_small_and_on_its_own() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("read line");
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    lab.stdin = Some(read);
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.start();
    let pid = shim.child.id() as i32;
    assert_eq!(status_of(pid, "Threads"), "1");
    let session = rustix::process::getsid(rustix::process::Pid::from_raw(pid)).expect("a session");
    assert_eq!(session.as_raw_nonzero().get(), pid);
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("cwd").to_str(), Some("/"));
    let kb = |key: &str| -> u64 {
        status_of(pid, key).trim_end_matches(" kB").trim().parse().expect("kB")
    };
    // What one more container takes: the pages of the program are the page cache's, one copy for
    // all shims, and how many of them are mapped is the kernel's choice.
    let own = kb("RssAnon") + kb("RssShmem");
    assert!(own <= 192, "{own} kB of its own");
    assert!(kb("RssFile") <= 2048, "{} kB of the program", kb("RssFile"));
    // SIGTERM is not how a shim ends: the container's output would end with it.
    let target = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(target, rustix::process::Signal::TERM).expect("kill");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(processes_named(&lab.id).len(), 1);
    drop(write);
    client.exit_status();
    shim.wait();
    lab.assert_nothing_left();
}
