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

/// Status and body of a request to a socket.
fn ask(socket: &std::path::Path, method: &str, path: &str, body: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let mut answer = String::new();
    // What goes on and on is no refusal: its beginning is shown.
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

#[test]
fn the_docker_socket_answers_with_dockers_statuses() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("web", &[], &["sleep", "1000"]).unwrap();
    agent.ok(&["run", "--name", "done", IMAGE, "true"]);
    let image = format!("{{\"Image\": \"{IMAGE}\"}}");
    let with = |more: &str| format!("{{\"Image\": \"{IMAGE}\", {more}}}");
    let mut wrong = Vec::new();
    let mut check = |method: &str, path: &str, body: &str, status: u16, words: &[&str]| {
        let (got, said) = ask(&agent.docker_socket(), method, path, body);
        let named = words.iter().all(|word| said.contains(word));
        // Whatever is refused has one message.
        let told = status < 400 || said.starts_with("{\"message\":");
        if got != status || !named || !told {
            wrong.push(format!("{method} {path} {body}: {got} {said}; not {status} {words:?}"));
        }
    };
    check("GET", "/v1.99/containers/json", "", 400, &["1.99 is too new", "Maximum", "1.43"]);
    check("GET", "/v1.12/containers/json", "", 400, &["1.12 is too old", "Minimum", "1.24"]);
    check("GET", "/v1.24/containers/json", "", 200, &["web"]);
    check("GET", "/v1.43/_ping", "", 200, &["OK"]);
    check("GET", "/containers/json", "", 200, &["web"]);

    check("GET", "/v1.43/containers/nobody/json", "", 404, &["nobody"]);
    check("POST", "/containers/nobody/start", "", 404, &["nobody"]);
    check("DELETE", "/containers/nobody", "", 404, &["nobody"]);
    check("POST", "/containers/nobody/exec", "{\"Cmd\": [\"true\"]}", 404, &["nobody"]);
    check("POST", "/exec/nobody/start", "{}", 404, &["nobody"]);
    check("GET", "/images/nobody/json", "", 404, &["nobody"]);
    check("DELETE", "/images/nobody", "", 404, &["nobody"]);
    check("GET", "/networks/nobody", "", 404, &["nobody"]);
    check("GET", "/volumes/nobody", "", 404, &["nobody"]);
    check("POST", "/containers/create", "{\"Image\": \"no/such\"}", 404, &["no/such"]);

    check("POST", "/containers/create?name=web", &image, 409, &["web", "in use"]);
    check("DELETE", "/containers/web", "", 409, &["running"]);
    check("POST", "/containers/web/unpause", "", 409, &["paused"]);
    check("POST", "/containers/done/exec", "{\"Cmd\": [\"true\"]}", 409, &["running"]);
    check("POST", "/containers/done/kill", "", 409, &["done", "exited"]);
    check("POST", "/containers/done/rename?name=web", "", 409, &["web"]);
    check("POST", "/containers/web/start", "", 304, &[]);
    check("POST", "/containers/done/stop", "", 304, &[]);
    check("DELETE", "/networks/bridge", "", 403, &["bridge"]);

    check("POST", "/containers/create?name=no%20spaces", &image, 400, &["name", "no spaces"]);
    check("POST", "/containers/create", "{", 400, &[]);
    check("POST", "/containers/create", "{\"Image\": 3}", 400, &["Image"]);
    check("POST", "/containers/create", "{}", 400, &["image"]);
    let memory = with("\"HostConfig\": {\"Memory\": 1}");
    check("POST", "/containers/create", &memory, 400, &["emory", "6m"]);
    let memory = with("\"HostConfig\": {\"Memory\": \"much\"}");
    check("POST", "/containers/create", &memory, 400, &["HostConfig", "Memory"]);
    let restart = with("\"HostConfig\": {\"RestartPolicy\": {\"Name\": \"maybe\"}}");
    check("POST", "/containers/create", &restart, 400, &["estart", "maybe", "unless-stopped"]);
    check("POST", "/containers/web/kill?signal=SIGNOPE", "", 400, &["SIGNOPE"]);
    check("GET", "/containers/web/logs", "", 400, &["stdout", "stderr"]);
    check("GET", "/containers/web/logs?stdout=1&tail=some", "", 400, &["tail", "some"]);
    check("POST", "/containers/web/wait?condition=sometime", "", 400, &["condition", "sometime"]);
    check("POST", "/containers/web/resize?h=x&w=1", "", 400, &["h"]);
    check("GET", "/containers/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D", "", 400, &["nope"]);
    check("GET", "/containers/json?filters=x", "", 400, &["filters"]);
    check("GET", "/containers/json?limit=x", "", 400, &["limit"]);
    check("GET", "/events?since=then", "", 400, &["since", "then"]);
    check("POST", "/networks/create", "{\"Name\": \"a b\"}", 400, &["a b"]);
    check("POST", "/volumes/create", "{\"Name\": \"a b\"}", 400, &["a b"]);
    check("POST", "/containers/web/exec", "{\"Cmd\": []}", 400, &["Cmd"]);
    check("POST", "/no/such/page", "", 501, &["/no/such/page"]);
    assert_eq!(wrong, Vec::<String>::new(), "{wrong:#?}");
    agent.finish();
}
