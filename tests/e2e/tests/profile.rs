//! Seccomp profiles from observation: recorded once, and enough the second time.
//!
//! Whether they are is told by the programs themselves, whose output and exit code must be the
//! same, and by `tenantry profile verify`, which knows of each call that was refused.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::{skip_unless_possible, until};

const RECORD: [&str; 2] = ["--label", "tenantry.profile=record"];

/// One program that is run twice.
struct Workload {
    name: &'static str,
    flags: &'static [&'static str],
    command: &'static [&'static str],
    /// A program of this host, shown to the container with its libraries.
    of_host: Option<&'static str>,
}

const fn ours(name: &'static str, command: &'static [&'static str]) -> Workload {
    Workload { name, flags: &[], command, of_host: None }
}

const fn with(
    name: &'static str,
    flags: &'static [&'static str],
    command: &'static [&'static str],
) -> Workload {
    Workload { name, flags, command, of_host: None }
}

const fn of_host(
    name: &'static str,
    program: &'static str,
    command: &'static [&'static str],
) -> Workload {
    Workload { name, flags: &[], command, of_host: Some(program) }
}

const PYTHON: &str = "
import os, socket, subprocess, tempfile, threading
done = []
threads = [threading.Thread(target=done.append, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()
client = socket.create_connection(listener.getsockname())
client.sendall(b'ping'); server, _ = listener.accept()
with tempfile.NamedTemporaryFile() as f: f.write(b'x' * 10000); f.flush(); os.fsync(f.fileno())
print(sorted(done), server.recv(4), subprocess.run(['/bin/echo', 'child']).returncode)
";

/// What differs: files, pipes, signals, users, sockets, threads, terminals that are none.
///
/// A shell waits for all that it began (how far they come before a container's end differs), and
/// where it waits there is something left to wait for (a `wait` for nothing makes other calls).
const WORKLOADS: &[Workload] = &[
    ours("nothing", &["true"]),
    ours("failing", &["sh", "-c", "ls /missing; exit 7"]),
    ours("pipeline", &["sh", "-c", "seq 2000 | sort -rn | awk '{ s += $1 } END { print s }'"]),
    ours("archive", &["sh", "-c", "cd /tmp && tar -cf a.tar /etc && tar -tf a.tar && gzip a.tar"]),
    ours("compression", &["sh", "-c", "seq 9999 | bzip2 | bunzip2 | md5sum"]),
    ours("find", &["sh", "-c", "find /bin /etc -type l -o -type f | sort | tail -n 3"]),
    ours("links", &["sh", "-c", "cd /tmp; echo a > a; ln a b; ln -s a c; mv b d; rm a; ls"]),
    ours(
        "modes",
        &["sh", "-c", "cd /tmp; touch f; chmod 640 f; chown 1000:1000 f; stat -c '%a %u' f"],
    ),
    ours("blocks", &["dd", "if=/dev/zero", "of=/tmp/x", "bs=4k", "count=50", "conv=fsync"]),
    ours(
        "fifo",
        &["sh", "-c", "mkfifo /tmp/p; (echo through > /tmp/p; sleep 0.3) & cat /tmp/p; wait"],
    ),
    ours("signals", &["sh", "-c", "trap 'echo caught; exit 3' USR1; kill -USR1 $$; sleep 5"]),
    ours(
        "killed",
        &[
            "sh",
            "-c",
            "sleep 9 & p=$!; (sleep 0.3; kill -9 $p; sleep 0.3) & wait $p; echo $?; wait",
        ],
    ),
    // Not the first process: the kernel spares that one a SIGTERM that it did not ask for.
    ours("timeout", &["sh", "-c", "timeout 1 sleep 60; echo $?"]),
    ours(
        "substitution",
        &["sh", "-c", "x=$(echo a; (echo b)); for i in 1 2 3; do echo $x $i; done"],
    ),
    ours("editor", &["sh", "-c", "seq 5 > /tmp/t; sed -i 's/3/three/' /tmp/t; cat /tmp/t"]),
    ours(
        "web",
        &[
            "sh",
            "-c",
            // The page comes late, so that its reader waits for it each time.
            "mkdir -p /tmp/w/cgi-bin; cd /tmp/w/cgi-bin; \
        printf '%s\\n' '#!/bin/sh' 'echo Content-Type: text/plain' echo 'sleep 0.2' 'echo page' > page; \
        chmod 755 page; httpd -p 127.0.0.1:8080 -h /tmp/w; \
        wget -q -O - http://127.0.0.1:8080/cgi-bin/page; killall httpd",
        ],
    ),
    ours("counted", &["workload", "syscalls", "--getpid", "100", "--failing-openat", "10"]),
    with("user", &["--user", "web"], &["sh", "-c", "id -u; touch /tmp/mine || echo refused"]),
    with(
        "unprivileged",
        &["--security-opt", "no-new-privileges", "--cap-drop", "ALL"],
        &["sh", "-c", "id -u; grep NoNewPrivs /proc/self/status"],
    ),
    with(
        "mapped",
        &["--userns", "private"],
        &["sh", "-c", "cat /proc/self/uid_map; touch /data/x"],
    ),
    with("read_only", &["--read-only"], &["sh", "-c", "touch /x || echo refused; cat /etc/group"]),
    with(
        "offline",
        &["--network", "none"],
        &["sh", "-c", "ip link show lo; ping -c 1 127.0.0.1 | head -n 1"],
    ),
    with(
        "limited",
        &["--memory", "64m", "--pids", "50"],
        &["sh", "-c", "sort -R /etc/passwd | wc -l"],
    ),
    with(
        "unconfined",
        &["--security-opt", "seccomp=unconfined"],
        &["sh", "-c", "uname -s; nproc; date +%Z"],
    ),
    of_host("python", "/usr/bin/python3", &["/usr/bin/python3", "-c", PYTHON]),
    of_host(
        "perl",
        "/usr/bin/perl",
        &[
            "/usr/bin/perl",
            "-e",
            "
        my $pid = fork // die; exit 4 if $pid == 0; waitpid $pid, 0; print $? >> 8, qq(\\n);
        opendir my $d, '/etc'; print join(' ', sort readdir $d), qq(\\n);",
        ],
    ),
    of_host(
        "sqlite",
        "/usr/bin/sqlite3",
        &[
            "/usr/bin/sqlite3",
            "/tmp/base",
            "
        create table t (n integer); insert into t values (1), (2); select sum(n) from t;",
        ],
    ),
    of_host(
        "bash",
        "/usr/bin/bash",
        &[
            "/usr/bin/bash",
            "-c",
            "coproc cat; echo x >&${COPROC[1]}; read -u ${COPROC[0]} y; \
        wc -w <(echo $y a); wait $!; eval \"exec ${COPROC[1]}>&-\"; wait",
        ],
    ),
    of_host(
        "gnu_tar",
        "/usr/bin/tar",
        &["/usr/bin/tar", "--create", "--gzip", "--file=/tmp/a", "/etc"],
    ),
    of_host("xz", "/usr/bin/xz", &["sh", "-c", "seq 50000 | xz -T2 | xz -d | md5sum"]),
    of_host("openssl", "/usr/bin/openssl", &["/usr/bin/openssl", "dgst", "-sha256", "/etc/passwd"]),
    of_host("jq", "/usr/bin/jq", &["/usr/bin/jq", "-n", "[range(5)] | add"]),
    of_host(
        "git",
        "/usr/bin/git",
        &[
            "sh",
            "-c",
            "cd /tmp && /usr/bin/git init -q r && cd r && echo a > a && \
        /usr/bin/git add a && /usr/bin/git status --short",
        ],
    ),
    of_host(
        "redis",
        "/usr/bin/redis-server",
        &[
            "sh",
            "-c",
            "/usr/bin/redis-server --port 7000 --save '' > /dev/null & p=$!; \
        sleep 1; /usr/bin/redis-cli -p 7000 set a b; \
        (sleep 0.3; /usr/bin/redis-cli -p 7000 shutdown; sleep 0.3) & wait $p; wait",
        ],
    ),
];

/// Programs of this host and what they are linked with, where they lie here.
const HOST: [&str; 6] =
    ["-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a recorded container's profile says, in a file.
fn profile_of(agent: &TestAgent, name: &str) -> (PathBuf, Value) {
    let path = agent.scratch.join(format!("{name}.json"));
    let output = agent.output(&["profile", "seccomp", name]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{name}: no warning");
    std::fs::write(&path, &output.stdout).unwrap();
    let profile = json(&text(&output.stdout));
    (path, profile)
}

fn allowed(profile: &Value) -> Vec<String> {
    let names = profile["syscalls"][0]["names"].as_array().expect("a list");
    names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a scratch path is UTF-8")
}

/// Runs it recorded; its profile, output and code.
fn record(
    agent: &TestAgent,
    name: &str,
    flags: &[&str],
    command: &[&str],
) -> (PathBuf, Value, String, i32) {
    let run = [&["run", "--name", name][..], &RECORD, flags, &[IMAGE], command].concat();
    let output = agent.output(&run);
    let (path, profile) = profile_of(agent, name);
    (path, profile, text(&output.stdout), output.status.code().unwrap_or(-1))
}

#[test]
fn differing_workloads_that_were_recorded_once_run_again_without_a_denial() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let mut done = 0;
    let mut wrong = Vec::new();
    for workload in WORKLOADS {
        let name = workload.name;
        if workload.of_host.is_some_and(|program| !Path::new(program).exists()) {
            println!("{name}: not on this host");
            continue;
        }
        let host: &[&str] = if workload.of_host.is_some() { &HOST } else { &[] };
        let flags = [workload.flags, host].concat();
        let (path, profile, output, code) = record(&agent, name, &flags, workload.command);
        let names = allowed(&profile);
        assert!(names.is_sorted() && names.len() < 150, "{name}: {names:?}");
        // What a runtime does before is not the container's.
        let runtime = ["pivot_root", "move_mount", "unshare", "setns", "clone3", "close_range"];
        let of_runtime = names.iter().filter(|call| runtime.contains(&call.as_str()));
        let of_runtime: Vec<_> = of_runtime.collect();
        assert!(of_runtime.is_empty() || workload.of_host.is_some(), "{name}: {of_runtime:?}");
        let again = agent.output(&["profile", "verify", name, "--profile", utf8(&path)]);
        let told = text(&again.stderr);
        let same = text(&again.stdout) == output && told.contains(&format!("exit code {code}"));
        if !again.status.success() || !same {
            wrong.push(format!("{name}: {code} {output:?}, then {:?} {told}", text(&again.stdout)));
        }
        println!("{name}: {} calls allowed, exit code {code}", names.len());
        done += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(done >= 20, "{done} workloads");
    agent.finish();
}

#[test]
fn what_a_container_does_more_the_second_time_is_denied_and_named() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let status = "grep Seccomp: /proc/self/status; grep NoNewPrivs /missing";
    let (path, profile, output, _) = record(&agent, "first", &[], &["sh", "-c", status]);
    assert_eq!(output.trim(), "Seccomp:\t2");
    assert!(!allowed(&profile).contains(&"mkdir".to_owned()), "{profile}");
    // The program itself is told, and the kernel did nothing.
    let more = format!("{status}; mkdir /tmp/x; mkdir /tmp/y; ls /tmp");
    let option = format!("seccomp={}", path.display());
    let run = ["run", "--rm", "--security-opt", &option, IMAGE, "sh", "-c", &more];
    let second = agent.output(&run);
    assert!(text(&second.stdout).contains("Seccomp:\t2"), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains("Operation not permitted"), "{}", text(&second.stderr));
    let file = utf8(&path);
    let verify = ["profile", "verify", "first", "--profile", file, "--", "sh", "-c", &more];
    let (code, told) = agent.fails(&verify);
    assert_eq!(code, 1, "{told}");
    let denied = |told: &str, name: &str| {
        let table = told.lines().skip_while(|line| !line.starts_with("DENIED"));
        let words = table.map(|line| line.split_whitespace().map(str::to_owned).collect());
        words.into_iter().find(|words: &Vec<String>| words[0] == name).unwrap_or_default()
    };
    assert_eq!(denied(&told, "mkdir"), ["mkdir", "2", "EPERM"], "{told}");
    // The same of an image, and of a profile that would kill at the first.
    let text = std::fs::read_to_string(&path).unwrap();
    let kills = agent.scratch.join("kills.json");
    std::fs::write(&kills, text.replacen("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", 1)).unwrap();
    let verify = ["profile", "verify", IMAGE, "--profile", utf8(&kills), "--", "sh", "-c", &more];
    let (_, told) = agent.fails(&verify);
    assert_eq!(denied(&told, "mkdir"), ["mkdir", "2", "EPERM"], "{told}");
    // Nothing of it is left.
    assert_eq!(agent.ok(&["ps", "-a", "-q"]).lines().count(), 1);
    let (code, error) = agent.fails(&["profile", "verify", "first", "--profile", "/etc/passwd"]);
    assert!(error.contains("/etc/passwd"), "{code}: {error}");
    agent.finish();
}

#[test]
fn a_start_needs_each_of_the_calls_that_a_profile_has_for_it() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let (path, profile, ..) = record(&agent, "least", &[], &["true"]);
    let start = ["capget", "capset", "execve", "prctl", "setgroups", "setresgid", "setresuid"];
    let names = allowed(&profile);
    for call in start {
        assert!(names.iter().any(|name| name == call), "{call} is not in {names:?}");
        let mut less = profile.clone();
        let list = less["syscalls"][0]["names"].as_array_mut().unwrap();
        list.retain(|name| name != call);
        std::fs::write(&path, less.to_string()).unwrap();
        let (_, told) = agent.fails(&["profile", "verify", "least", "--profile", utf8(&path)]);
        assert!(told.lines().any(|line| line.starts_with(call)), "without {call}: {told}");
    }
    // Where no_new_privs lets the filter come last, it need not allow giving privileges up.
    let flags = ["--security-opt", "no-new-privileges"];
    let (_, profile, ..) = record(&agent, "later", &flags, &["true"]);
    let names = allowed(&profile);
    let too_much: Vec<_> = ["capget", "capset", "setgroups", "setresgid", "setresuid"]
        .into_iter()
        .filter(|call| names.iter().any(|name| name == call))
        .collect();
    // busybox itself makes sure of its user.
    assert!(too_much.is_empty() && names.iter().any(|name| name == "execve"), "{names:?}");
    agent.finish();
}

#[test]
fn a_recording_outlives_restarts_of_the_container_and_of_the_agent() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let is_attached = |agent: &TestAgent| {
        let labels = [("probe", "profile_enter"), ("status", "active")];
        agent.metrics().sum("tenantry_probe_status", &labels) == Some(1.0)
    };
    assert!(!is_attached(&agent));
    // Only its first run makes a directory; its second makes a link.
    let script =
        "test -d /data/d || { mkdir /data/d; sleep 1000; }; ln /etc/group /data/l; sleep 1000";
    agent.run_detached("web", &RECORD, &["sh", "-c", script]).unwrap();
    assert!(is_attached(&agent));
    let has = |agent: &TestAgent, call: &str| {
        let answer = json(&agent.ok(&["profile", "seccomp", "web", "--json"]));
        assert_eq!(
            (&answer["complete"], &answer["warnings"]),
            (&true.into(), &Value::Array(vec![]))
        );
        answer["syscalls"].as_array().unwrap().iter().any(|name| name == call)
    };
    until("the directory is made", || has(&agent, "mkdir"));
    assert!(!has(&agent, "link"));
    agent.kill_nine();
    agent.spawn().unwrap();
    assert!(is_attached(&agent));
    assert!(has(&agent, "mkdir"));
    agent.ok(&["kill", "web"]);
    until("it ended", || agent.state("web") == "exited");
    agent.ok(&["start", "web"]);
    until("the link is made", || has(&agent, "link"));
    assert!(has(&agent, "mkdir"));
    agent.ok(&["profile", "end", "web"]);
    assert!(!is_attached(&agent));
    assert!(has(&agent, "mkdir") && has(&agent, "link"));
    agent.finish();
}

#[test]
fn a_profile_without_a_recording_from_the_start_says_what_may_be_missing() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "mkdir /data/early; while :; do test -e /data/go && ln /etc/group /data/late; sleep 0.1; done";
    agent.run_detached("web", &[], &["sh", "-c", script]).unwrap();
    let names = |told: &mut String| {
        let output = agent.output(&["profile", "seccomp", "web"]);
        *told = text(&output.stderr);
        allowed(&json(&text(&output.stdout)))
    };
    let mut told = String::new();
    let has = |names: &[String], call: &str| names.iter().any(|name| name == call);
    until("the directory is made", || has(&names(&mut told), "mkdir"));
    assert!(told.contains("never recorded"), "{told}");
    agent.ok(&["profile", "record", "web"]);
    agent.ok(&["exec", "web", "touch", "/data/go"]);
    until("the link is made", || has(&names(&mut told), "link"));
    assert!(told.contains("after its start"), "{told}");
    assert!(has(&names(&mut told), "mkdir"), "counted before");
    let (_, error) = agent.fails(&["profile", "seccomp", "nobody"]);
    assert!(error.contains("nobody"), "{error}");
    let (_, error) = agent.fails(&["run", "--label", "tenantry.profile=draw", IMAGE, "true"]);
    assert!(error.contains("tenantry.profile") && error.contains("record"), "{error}");
    agent.finish();
}
