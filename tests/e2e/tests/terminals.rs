//! Containers with a terminal, at a terminal: by the stock `docker` client and by our own.

use std::process::Command;

use tenantry_e2e::agent::{self, IMAGE, TestAgent};
use tenantry_e2e::docker::{self, fails, ok};
use tenantry_e2e::screen::Screen;
use tenantry_e2e::{skip_unless_possible, skip_without_docker, until};

fn open(agent: &TestAgent, arguments: &[&str]) -> Screen {
    Screen::open(&docker::command(agent, arguments), (24, 80))
}

/// Type a line, and see what comes of it: both have the same beginning where it is echoed.
fn ask(screen: &mut Screen, line: &str, answer: &str) {
    screen.type_text(&format!("{line}\n"));
    screen.expect(answer);
}

#[test]
fn a_shell_at_a_terminal_has_its_size_and_its_interrupts() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let mut screen = open(&agent, &["run", "-it", "--name", "shell", IMAGE, "sh"]);
    screen.expect("#");
    ask(&mut screen, "stty size; echo $TERM", "24 80\r\nxterm");
    ask(&mut screen, "tty", "/dev/pts/0\r\n");
    ask(&mut screen, "echo it''self > /dev/console", "itself\r\n");
    ask(&mut screen, "echo it''self > /dev/tty", "itself\r\n");
    screen.resize(50, 132);
    // The client tells of it when it has seen it.
    ask(&mut screen, "until stty size | grep 132; do sleep 0.05; done", "50 132\r\n");
    ask(&mut screen, "sleep 1000; echo next", "\r\n");
    let pid = agent.pid_of("shell");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name in parentheses: state, parent, group, session, terminal.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_ne!(fields[4], "0", "it has no controlling terminal: {stat}");
    let children = format!("/proc/{pid}/task/{pid}/children");
    until("sleep runs", || !std::fs::read_to_string(&children).unwrap().is_empty());
    screen.type_text("\x03");
    screen.expect("# ");
    ask(&mut screen, "echo code=$?", "code=130\r\n");
    ask(&mut screen, "sleep 1000 &", "\r\n");
    ask(&mut screen, "jobs", "Running");
    screen.type_text("exit 7\n");
    assert_eq!(screen.wait().0, 7);
    assert_eq!(agent.state("shell"), "exited");
    ok(&agent, &["start", "shell"]);
    ok(&agent, &["kill", "shell"]);
    agent.finish();
}

#[test]
fn the_keys_leave_a_terminal_and_attach_comes_back() {
    skip_without_docker!();
    let mut agent = TestAgent::start();
    let mut screen = open(&agent, &["run", "-it", "--name", "web", IMAGE, "sh"]);
    screen.expect("#");
    ask(&mut screen, "x=ke''pt", "#");
    screen.type_text("\x10\x11");
    assert_eq!(screen.wait().0, 0);
    assert_eq!(agent.state("web"), "running");

    // The terminal is not the agent's: another one leads to it as well.
    agent.kill_nine();
    agent.spawn().unwrap();
    let mut screen = open(&agent, &["attach", "--detach-keys", "ctrl-x,x", "web"]);
    ask(&mut screen, "echo $x", "kept\r\n");
    screen.type_text("\x10\x11");
    ask(&mut screen, "echo st''ill", "still\r\n");
    screen.type_text("\x18x");
    // The stock client's own words, with which it ends as after a mistake.
    let (_, shown) = screen.wait();
    assert!(shown.contains("read escape sequence"), "{shown}");
    assert_eq!(agent.state("web"), "running");

    // Our own client leaves the looking for keys to the agent.
    let client =
        agent.client(&["run", "-it", "--name", "own", "--detach-keys", "a,b", IMAGE, "sh"]);
    let mut screen = Screen::open(&client, (30, 90));
    screen.expect("#");
    ask(&mut screen, "stty size", "30 90\r\n");
    screen.resize(31, 91);
    ask(&mut screen, "until stty size | grep 91; do sleep 0.05; done", "31 91\r\n");
    screen.type_text("ab");
    assert_eq!(screen.wait().0, 0);
    assert_eq!(agent.state("own"), "running");
    let wrong = fails(&agent, &["run", "--rm", "-t", "--detach-keys", "ctrl-", IMAGE, "true"]);
    assert!(wrong.contains("400"), "{wrong}");
    agent.finish();
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    skip_without_docker!();
    let agent = TestAgent::start();
    agent.run_detached("web", &[], &["sleep", "1000"]).unwrap();
    let mut screen = open(&agent, &["exec", "-it", "-u", "web", "web", "sh"]);
    screen.expect("$");
    ask(&mut screen, "stty size; id -u; tty", "24 80\r\n1000\r\n/dev/pts/0\r\n");
    ask(&mut screen, "ls -ln $(tty)", "1000");
    screen.resize(40, 100);
    ask(&mut screen, "until stty size | grep 100; do sleep 0.05; done", "40 100\r\n");
    ask(&mut screen, "cat", "\r\n");
    until("cat runs", || agent.output(&["exec", "web", "pidof", "cat"]).status.success());
    screen.type_text("\x03");
    screen.expect("$ ");
    ask(&mut screen, "echo code=$?", "code=130\r\n");
    screen.type_text("exit 9\n");
    assert_eq!(screen.wait().0, 9);

    let client = agent.client(&["exec", "-it", "web", "sh", "-c", "stty size; exit 3"]);
    let (code, shown) = Screen::open(&client, (20, 70)).wait();
    assert_eq!((code, shown.as_str()), (3, "20 70\r\n"));
    // Who leaves by the keys does not hang it up.
    let script = "echo here; sleep 0.5; echo > /tmp/went-on; sleep 1000";
    let mut screen = open(&agent, &["exec", "-it", "web", "sh", "-c", script]);
    screen.expect("here");
    screen.type_text("\x10\x11");
    screen.wait();
    until("it went on", || agent.output(&["exec", "web", "ls", "/tmp/went-on"]).status.success());
    agent.finish();
}

#[test]
fn what_a_terminal_shows_is_one_stream_in_the_log() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let script = "echo out; echo err >&2; tty";
    let run = ["run", "-t", "--name", "shown", IMAGE, "sh", "-c", script];
    let output = docker::output(&agent, &run);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\r\nerr\r\n/dev/pts/0\r\n");
    let logs = docker::output(&agent, &["logs", "shown"]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "out\r\nerr\r\n/dev/pts/0\r\n");
    assert!(logs.stderr.is_empty(), "{:?}", logs.stderr);
    let stamped = ok(&agent, &["logs", "-t", "--tail", "1", "shown"]);
    assert!(stamped.ends_with("Z /dev/pts/0"), "{stamped:?}");
    let format = "{{.Config.Tty}}";
    assert_eq!(ok(&agent, &["inspect", "--format", format, "shown"]), "true");
    // All of a long output comes, though its writer is gone at once.
    let long = ["run", "--rm", "-t", IMAGE, "seq", "20000"];
    let lines = ok(&agent, &long);
    assert_eq!(lines.lines().last(), Some("20000"));
    assert_eq!(lines.lines().count(), 20_000);
    // Several at once, each its own.
    let mapped = ["run", "--rm", "-t", "--userns", "private", IMAGE, "sh", "-c", "tty; id -u"];
    assert_eq!(agent_output(&agent, &mapped), "/dev/pts/0\r\n0\r\n");
    agent.finish();
}

fn agent_output(agent: &TestAgent, arguments: &[&str]) -> String {
    let output = agent.output(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_container_with_a_terminal_is_audited_metered_and_limited_as_any() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let flags = ["-t", "--pids", "20", "--memory", "64m"];
    agent.run_detached("seen", &flags, &["sh", "-c", "cat /etc/passwd; sleep 1000"]).unwrap();
    let audit = agent.data_dir().join("audit.jsonl");
    until("its programs are in the audit", || {
        let text = std::fs::read_to_string(&audit).unwrap();
        let mut lines = text.lines().map(agent::json);
        lines.any(|line| line["container"]["name"] == "seen" && line["process"]["name"] == "cat")
    });
    assert_eq!(agent.native("seen")["limits"]["pids"], 20);
    let calls = agent.metrics().sum("tenantry_syscalls_total", &[("name", "seen")]);
    assert!(calls.is_some_and(|calls| calls > 0.0), "{calls:?}");
    agent.finish();
}

#[test]
fn no_terminal_is_asked_for_where_there_is_none() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let mut piped: Command = docker::command(&agent, &["run", "--rm", "-it", IMAGE, "true"]);
    let output = piped.stdin(std::process::Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let error = agent.fails(&["run", "--rm", "-it", IMAGE, "true"]).1;
    assert!(error.contains("not a terminal"), "{error}");
    assert_eq!(agent.ok(&["ps", "-a", "-q"]), "");
    agent.finish();
}
