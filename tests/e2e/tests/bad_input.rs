//! Wrong input gets one clear sentence, and leaves nothing behind.

use std::process::Command;

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::{programs, skip_unless_possible};

#[test]
fn a_wrong_wish_is_refused_by_name_and_with_what_is_allowed() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("web", &[], &["sleep", "1000"]).unwrap();
    let check = |arguments: &[&str], words: &[&str]| {
        let (code, error) = agent.fails(arguments);
        for word in words {
            assert!(error.contains(word), "{}: {error:?} lacks {word:?}", arguments.join(" "));
        }
        assert!(error.lines().count() <= 6, "too long: {error}");
        assert!((1..=127).contains(&code), "{code}");
    };
    // Nobody listens there: no name is asked for outside.
    check(&["run", "127.0.0.1:1/no/such:image", "true"], &["no/such"]);
    check(&["run", "UPPER", "true"], &["UPPER"]);
    check(&["run", "--name", "no spaces", IMAGE, "true"], &["name", "no spaces", "a-zA-Z0-9"]);
    check(&["run", "--name", "web", IMAGE, "true"], &["web", "use"]);
    check(&["run", "--cpus", "0", IMAGE, "true"], &["--cpus", "0.01"]);
    check(&["run", "--cpus", "10000", IMAGE, "true"], &["cpus", "10000"]);
    check(&["run", "--memory", "12x", IMAGE, "true"], &["--memory", "12x", "k, m, g"]);
    check(&["run", "--memory", "1k", IMAGE, "true"], &["memory", "6m"]);
    check(&["run", "--restart", "sometimes", IMAGE, "true"], &["--restart", "unless-stopped"]);
    check(&["run", "--network", "mesh", IMAGE, "true"], &["network mesh not found"]);
    check(&["run", "--network", "container:nobody", IMAGE, "true"], &["container:nobody"]);
    check(&["run", "--network", "container:", IMAGE, "true"], &["network", "a name or an id"]);
    check(&["run", "--cap-add", "CAP_FLY", IMAGE, "true"], &["CAP_FLY"]);
    check(&["run", "--user", "nobody-here", IMAGE, "true"], &["nobody-here"]);
    check(&["run", "--io-read", "/dev/null:1m", IMAGE, "true"], &["/dev/null", "block device"]);
    check(&["limit", "web", "--egress", "20parsec"], &["--egress", "20parsec", "mbit"]);
    check(&["limit", "web", "--egress", "1bit"], &["egress", "1 bit/s", "8kbit"]);
    check(&["limit", "nobody", "--cpus", "1"], &["nobody"]);
    check(&["exec", "nobody", "true"], &["nobody"]);
    check(&["kill", "-s", "SIGNOPE", "web"], &["SIGNOPE"]);
    check(&["rm", "web"], &["running"]);
    check(&["stats", "--json", "nobody"], &["nobody"]);
    let no_archive = agent.scratch.join("agent.toml");
    check(&["image", "load", no_archive.to_str().unwrap()], &["archive"]);
    assert_eq!(agent.state("web"), "running");
    agent.finish();
}

#[test]
fn a_program_that_cannot_be_executed_says_so_with_the_shells_codes() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let (code, error) = agent.fails(&["run", "--rm", IMAGE, "/no/such"]);
    assert!(error.contains("/no/such"), "{error}");
    assert_eq!(code, 127);
    let (code, error) = agent.fails(&["run", "--rm", IMAGE, "/etc/passwd"]);
    assert_eq!(code, 126, "{error}");
    assert!(
        error.contains("/etc/passwd") && error.to_lowercase().contains("permission"),
        "{error}"
    );
    assert_eq!(agent.ok(&["ps", "-a", "-q"]), "", "--rm removes what could not start");
    // finish() sees that no cgroup, mount, interface, process or file is left.
    agent.finish();
}

#[test]
fn a_layer_that_leads_outside_is_refused() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let outside = agent.scratch.join("outside");
    let archive = agent.scratch.join("evil.tar");
    // GNU tar with -P keeps the path as it is.
    let script = format!(
        "cd {0} && mkdir -p d && echo pwned > d/f && tar -P --transform 's,^d/f,../../../../../../../..{1},' -cf {2} d/f",
        agent.scratch.display(),
        outside.display(),
        archive.display()
    );
    if !Command::new("sh").args(["-c", &script]).status().is_ok_and(|status| status.success()) {
        agent.finish();
        println!("SKIPPED: GNU tar is not installed");
        return;
    }
    let (_, error) = agent.fails(&["image", "import", "evil", archive.to_str().unwrap()]);
    assert!(error.contains(".."), "{error}");
    assert!(!outside.exists());
    assert!(!agent.ok(&["image", "ls"]).contains("evil"));
    agent.finish();
}

#[test]
fn an_agent_that_cannot_run_says_why_in_one_sentence() {
    skip_unless_possible!();
    let agent = TestAgent::prepare().unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let config = agent.scratch.join("config.toml");
    std::fs::write(&config, "[network]\nbrigde = \"x\"\n").unwrap();
    let with_config = |check: bool| {
        let mut command = agent.agent_command();
        command.arg("--config").arg(&config);
        if check {
            command.arg("--check-config");
        }
        command
    };
    let (code, error) = run(&mut with_config(true));
    assert_eq!(code, 2);
    assert!(error.contains("brigde") && error.contains("line 2"), "{error}");
    std::fs::write(&config, "max_containers = 7\n").unwrap();
    assert_eq!(run(&mut with_config(true)).0, 0);
    // Not root: the same program as somebody else, from a place that others can reach.
    let program = std::path::Path::new("/tmp").join(&agent.cgroup_parent);
    std::fs::copy(programs().join("tenantry"), &program).unwrap();
    let mut command = Command::new(&program);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    command.args(["agent", "--data-dir", "/tmp/x", "--run-dir", "/tmp/y"]);
    let (code, error) = run(&mut command);
    std::fs::remove_file(&program).unwrap();
    assert_eq!((code, error.lines().count()), (3, 1), "{error}");
    std::fs::remove_dir_all(&agent.scratch).unwrap();
}

#[test]
fn the_socket_refuses_what_it_does_not_know() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let ask = |method: &str, path: &str, body: &str| {
        use std::io::{Read as _, Write as _};
        let socket = agent.run_dir().join("tenantry.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    agent.run_detached("web", &[], &["sleep", "1000"]).unwrap();
    let answer = ask("PATCH", "/v1/containers/web/limits", r#"{"cpu": 1}"#);
    assert!(answer.contains(" 422 ") || answer.contains(" 400 "), "{answer}");
    assert!(answer.contains("`cpu`") && answer.contains("cpus"), "{answer}");
    let answer = ask("PATCH", "/v1/containers/web/limits", r#"{"cpus": -1}"#);
    assert!(answer.contains(" 400 ") && answer.contains("\"field\""), "{answer}");
    assert!(ask("GET", "/v1/containers/nobody", "").contains(" 404 "));
    assert!(ask("GET", "/v2/everything", "").contains(" 404 "));
    let document = ask("GET", "/v1/openapi.json", "");
    assert!(document.contains("/v1/containers/{id}/limits"), "{document}");
    agent.finish();
}
