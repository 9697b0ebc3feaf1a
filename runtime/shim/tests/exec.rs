//! Further processes in a running container.

mod support;

use std::fs;
use std::os::fd::OwnedFd;

use support::{Client, Lab, Shim, null, pipe, process, read_to_end, skipped};
use tenantry_shim::protocol::{Reply, Request};
use tenantry_shim::spec::{IdMapping, Process};

/// A container that stays until its standard input ends.
struct Running {
    lab: Lab,
    shim: Shim,
    watch: Client,
    stdin: Option<OwnedFd>,
}

impl Running {
    fn new(change: impl FnOnce(&mut Lab)) -> Self {
        let mut lab = Lab::shell("read line; exit 0");
        change(&mut lab);
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        lab.stdin = Some(read);
        let shim = lab.spawn();
        let mut watch = shim.connect();
        watch.start();
        Self { lab, shim, watch, stdin: Some(write) }
    }

    fn exec(&self, process: Process, stdin: OwnedFd) -> (Client, fs::File, fs::File) {
        let mut client = self.shim.connect();
        let (stdout, stdout_end) = pipe();
        let (stderr, stderr_end) = pipe();
        let request = Request::Exec(Box::new(process));
        client.send_with(&request, &[&stdin, &stdout_end, &stderr_end]);
        (client, stdout, stderr)
    }

    fn run(&self, process: Process) -> (i32, String, String) {
        let (mut client, stdout, stderr) = self.exec(process, null());
        let reply = client.receive();
        assert!(matches!(reply, Reply::ExecRunning { .. }), "{reply:?}");
        let (stdout, stderr) = (read_to_end(stdout), read_to_end(stderr));
        (client.exit_status().code, stdout, stderr)
    }

    fn end(mut self) {
        drop(self.stdin.take());
        self.watch.exit_status();
        self.shim.wait();
        self.lab.assert_nothing_left();
    }
}

fn shell(script: &str) -> Process {
    process(&["sh", "-c", script])
}

#[test]
fn a_process_joins_namespaces_cgroups_and_restrictions() {
    if skipped() {
        return;
    }
    for user_namespace in [false, true] {
        let running = Running::new(|lab| {
            if user_namespace {
                lab.spec.user_namespace = Some(IdMapping { host_base: 1_000_000, size: 65_536 });
            }
        });
        let script = "
            for n in mnt pid ipc uts net cgroup user; do
              [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo \"other $n\"
            done
            cmp /proc/self/cgroup /proc/1/cgroup && hostname && pwd && id -u && ls /proc/self/fd | wc -l
            grep CapEff /proc/self/status /proc/1/status | cut -f2 | sort -u | wc -l; cat /top-file; echo gone >&2; exit 3";
        let mut process = shell(script);
        process.cwd = "/tmp/new".into();
        let (code, stdout, stderr) = running.run(process);
        let expected = "apartment\n/tmp/new\n0\n4\n1\nfrom the topmost layer\n";
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (3, expected, "gone\n"));
        // Each cgroup had it; the first process alone is left.
        for directory in running.lab.cgroup_directories() {
            let procs = fs::read_to_string(directory.join("cgroup.procs")).expect("procs");
            assert_eq!(procs.lines().count(), 1, "{}", directory.display());
        }
        running.end();
    }
}

#[test]
fn a_running_process_is_in_every_cgroup() {
    if skipped() {
        return;
    }
    let running = Running::new(|_| {});
    let (stdin, writer) = {
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        (read, write)
    };
    let (mut client, _stdout, _stderr) = running.exec(process(&["cat"]), stdin);
    let Reply::ExecRunning { pid } = client.receive() else { panic!("not running") };
    for directory in running.lab.cgroup_directories() {
        let procs = fs::read_to_string(directory.join("cgroup.procs")).expect("procs");
        assert!(procs.lines().any(|line| line == pid.to_string()), "{}", directory.display());
    }
    drop(writer);
    assert_eq!(client.exit_status().code, 0);
    running.end();
}

#[test]
fn standard_input_goes_through() {
    if skipped() {
        return;
    }
    let running = Running::new(|_| {});
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    let (mut client, stdout, _) = running.exec(process(&["cat"]), read);
    rustix::io::write(&write, b"through").expect("write");
    drop(write);
    assert_eq!(read_to_end(stdout), "through");
    assert!(matches!(client.receive(), Reply::ExecRunning { .. }));
    assert_eq!(client.exit_status().code, 0);
    running.end();
}

#[test]
fn a_user_of_an_exec_may_reopen_its_own_output() {
    if skipped() {
        return;
    }
    for user_namespace in [false, true] {
        let running = Running::new(|lab| {
            if user_namespace {
                lab.spec.user_namespace = Some(IdMapping { host_base: 1_000_000, size: 65_536 });
            }
        });
        let mut process = shell("id -u >/dev/stdout; echo x >/dev/stderr");
        process.uid = 1000;
        assert_eq!(running.run(process), (0, "1000\n".into(), "x\n".into()));
        running.end();
    }
}

#[test]
fn a_process_is_signalled_through_its_own_connection() {
    if skipped() {
        return;
    }
    let running = Running::new(|_| {});
    let (mut client, _stdout, _stderr) = running.exec(process(&["sleep", "1000"]), null());
    assert!(matches!(client.receive(), Reply::ExecRunning { .. }));
    let mut other = running.shim.connect();
    other.send(&Request::SignalExec { signal: 15 });
    assert_eq!(other.receive(), Reply::Signalled { errno: libc::ESRCH });
    client.send(&Request::SignalExec { signal: 15 });
    assert_eq!(client.receive(), Reply::Signalled { errno: 0 });
    let status = client.exit_status();
    assert_eq!((status.code, status.signal), (143, Some(15)));
    running.end();
}

#[test]
fn a_failed_exec_leaves_the_container_alone() {
    if skipped() {
        return;
    }
    let running = Running::new(|_| {});
    let (mut client, _stdout, _stderr) = running.exec(process(&["nothing"]), null());
    let Reply::ExecFailed(failure) = client.receive() else { panic!("it did not fail") };
    assert_eq!((failure.operation.as_str(), failure.errno), ("execve", libc::ENOENT));
    // The connection may be used again.
    let request = Request::Exec(Box::new(shell("exit 4")));
    client.send_with(&request, &[&null(), &null(), &null()]);
    assert!(matches!(client.receive(), Reply::ExecRunning { .. }));
    assert_eq!(client.exit_status().code, 4);
    // Without descriptors there is nothing to run on.
    let mut bare = running.shim.connect();
    bare.send(&Request::Exec(Box::new(shell("exit 4"))));
    let Reply::ExecFailed(failure) = bare.receive() else { panic!("it did not fail") };
    assert_eq!(failure.errno, libc::EBADF);
    running.end();
}

#[test]
fn processes_end_with_the_first_one() {
    if skipped() {
        return;
    }
    let mut running = Running::new(|_| {});
    let (mut client, _stdout, _stderr) = running.exec(process(&["sleep", "1000"]), null());
    assert!(matches!(client.receive(), Reply::ExecRunning { .. }));
    // One whose client is gone stays as well, and ends as well.
    let (mut gone, _stdout2, _stderr2) = running.exec(process(&["sleep", "1000"]), null());
    assert!(matches!(gone.receive(), Reply::ExecRunning { .. }));
    drop(gone);
    drop(running.stdin.take());
    let status = client.exit_status();
    assert_eq!((status.code, status.signal), (137, Some(9)));
    running.end();
}

#[test]
fn many_processes_run_side_by_side() {
    if skipped() {
        return;
    }
    let running = Running::new(|_| {});
    let clients: Vec<_> =
        (0..20).map(|n| running.exec(shell(&format!("echo {n}; exit {n}")), null())).collect();
    for (number, (mut client, stdout, _)) in clients.into_iter().enumerate() {
        assert!(matches!(client.receive(), Reply::ExecRunning { .. }));
        assert_eq!(read_to_end(stdout), format!("{number}\n"));
        assert_eq!(client.exit_status().code, number as i32);
    }
    running.end();
}

#[test]
fn nothing_is_executed_before_the_start_or_after_the_end() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("exit 0");
    let mut shim = lab.spawn();
    let mut watch = shim.connect();
    watch.send(&Request::Watch);
    assert!(matches!(watch.receive(), Reply::Created { .. }));
    let mut client = shim.connect();
    client.send_with(&Request::Exec(Box::new(shell("exit"))), &[&null(), &null(), &null()]);
    let Reply::ExecFailed(failure) = client.receive() else { panic!("it did not fail") };
    assert_eq!(failure.errno, libc::ESRCH);
    drop(watch);
    shim.wait();
    lab.assert_nothing_left();
}

/// CVE-2019-5736: a script whose interpreter is `/proc/self/exe`.
#[test]
fn the_shims_own_file_cannot_be_written_from_inside() {
    if skipped() {
        return;
    }
    let running = Running::new(|lab| {
        fs::write(lab.path("top/bad"), "#!/proc/self/exe\n").expect("a script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(lab.path("top/bad"), mode).expect("chmod");
    });
    let exe = format!("/proc/{}/exe", running.shim.child.id());
    let error = fs::OpenOptions::new().write(true).open(exe).expect_err("it must not open");
    assert!(matches!(error.raw_os_error(), Some(libc::EROFS | libc::ETXTBSY)), "{error}");
    // The file is executed and finds itself without descriptors: it says nothing.
    let (code, stdout, _) = running.run(process(&["/bad"]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    running.end();
}
