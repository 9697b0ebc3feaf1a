//! What is kept of a container's output, and what is shown of it: by the stock client.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{command, fails, ok, output};
use tenantry_e2e::{skip_without_docker, until};

fn counting(lines: u32) -> String {
    format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done")
}

/// All lines of a count from `first` on, and no other.
#[track_caller]
fn assert_counts(text: &str, first: u32, end: u32) {
    let expected: Vec<String> = (first..end).map(|n| format!("line {n}")).collect();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines == expected,
        "{} lines, {:?} to {:?}, and not {} from line {first} on",
        lines.len(),
        lines.first(),
        lines.last(),
        expected.len()
    );
}

fn directory(agent: &TestAgent, name: &str) -> PathBuf {
    let id = ok(agent, &["inspect", "--format", "{{.Id}}", name]);
    agent.data_dir().join("containers").join(id)
}

/// Of the log's files together, by `du`. One may go while they are counted.
fn log_bytes(directory: &std::path::Path) -> u64 {
    let script = format!("du -cb {0}/log {0}/log.* 2>/dev/null | tail -n 1", directory.display());
    let output = Command::new("sh").args(["-c", &script]).output().expect("du runs");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a sum")
}

fn log_files(directory: &std::path::Path) -> usize {
    let names = std::fs::read_dir(directory).expect("the directory");
    let names = names.map(|entry| entry.expect("an entry").file_name());
    names.filter(|name| name.to_string_lossy().starts_with("log")).count()
}

/// The bytes of all of the log's files but the newest.
fn whole_files(directory: &std::path::Path) -> Vec<u64> {
    let entries =
        std::fs::read_dir(directory).expect("the directory").map(|e| e.expect("an entry"));
    let number = |name: String| match name.strip_prefix("log")? {
        "" => Some(0),
        further => further.strip_prefix('.')?.parse::<u32>().ok(),
    };
    let of = |entry: std::fs::DirEntry| {
        let number = number(entry.file_name().to_string_lossy().into_owned())?;
        Some((number, entry.metadata().expect("its size").len()))
    };
    let mut files: Vec<(u32, u64)> = entries.filter_map(of).collect();
    files.sort_unstable();
    files.pop();
    files.into_iter().map(|(_, bytes)| bytes).collect()
}

fn log_config(agent: &TestAgent, name: &str) -> Value {
    let text = ok(agent, &["inspect", "--format", "{{json .HostConfig.LogConfig}}", name]);
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_log_has_a_bound_and_is_read_across_its_files() {
    skip_without_docker!();
    let agent = TestAgent::try_start_with("[logs]\nmax_size = \"50k\"\nmax_file = 3\n").unwrap();
    let run = ["run", "-d", "--name", "small", "--log-opt", "max-size=10k"];
    let script = format!("{}; echo over; sleep 1000", counting(30_000));
    ok(&agent, &[&run[..], &["--log-opt", "max-file=3", IMAGE, "sh", "-c", &script]].concat());
    let small = directory(&agent, "small");
    let mut most = 0;
    until("the count is over", || {
        most = most.max(log_bytes(&small));
        ok(&agent, &["logs", "--tail", "1", "small"]) == "over"
    });
    assert!(most <= 30_000, "{most} bytes");
    // Whole files end where a line does: with the last frame that fits.
    let whole = whole_files(&small);
    assert!(whole.len() == 2 && whole.iter().all(|b| (9_900..=10_000).contains(b)), "{whole:?}");
    let kept = ok(&agent, &["logs", "small"]);
    let (count, last) = kept.rsplit_once('\n').expect("lines");
    // The first may have begun in a file that is gone.
    let (_, count) = count.split_once('\n').expect("lines");
    let first = count.lines().next().and_then(|line| line.strip_prefix("line ")).expect("a line");
    assert_counts(count, first.parse().expect("a number"), 30_000);
    assert_eq!((last, log_files(&small)), ("over", 3));
    let path = ok(&agent, &["inspect", "--format", "{{.LogPath}}", "small"]);
    assert!(std::path::Path::new(&path).exists(), "{path}");
    let said = json!({ "Type": "json-file", "Config": { "max-size": "10k", "max-file": "3" } });
    assert_eq!(log_config(&agent, "small"), said);
    ok(&agent, &["rm", "-f", "small"]);

    // Who follows goes from file to file.
    let run = ["run", "-d", "--name", "wide", "--log-opt", "max-size=10k"];
    let script = counting(10_000);
    ok(&agent, &[&run[..], &["--log-opt", "max-file=100", IMAGE, "sh", "-c", &script]].concat());
    assert_counts(&ok(&agent, &["logs", "--follow", "wide"]), 0, 10_000);
    assert!(log_files(&directory(&agent, "wide")) > 10);
    assert_counts(&ok(&agent, &["logs", "wide"]), 0, 10_000);
    assert_counts(&ok(&agent, &["logs", "--tail", "1000", "wide"]), 9000, 10_000);
    // The same file goes on when the container is started again.
    ok(&agent, &["start", "--attach", "wide"]);
    assert_counts(&ok(&agent, &["logs", "--tail", "10000", "wide"]), 0, 10_000);

    // What the agent's settings say holds where nothing else is said.
    ok(&agent, &["run", "--name", "plain", IMAGE, "echo", "here"]);
    let said = json!({ "Type": "json-file", "Config": { "max-size": "50k", "max-file": "3" } });
    assert_eq!(log_config(&agent, "plain"), said);
    agent.finish();
}

#[test]
fn who_is_attached_misses_nothing_however_slow_and_short_the_log_is() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let script = counting(40_000);
    for flags in [["--log-opt", "max-size=5k"], ["--log-driver", "none"]] {
        let run = [&["run", "--rm"], &flags[..], &[IMAGE, "sh", "-c", &script]].concat();
        let mut client = command(&agent, &run).stdout(Stdio::piped()).spawn().expect("docker runs");
        let mut stdout = client.stdout.take().expect("a pipe");
        // The client's pipe, the connection and the log are full by then.
        std::thread::sleep(Duration::from_millis(700));
        let mut text = String::new();
        stdout.read_to_string(&mut text).expect("text");
        assert!(client.wait().expect("docker ends").success(), "{}", agent.log());
        assert_counts(&text, 0, 40_000);
    }
    until("both are removed", || ok(&agent, &["ps", "-aq"]).is_empty());
    agent.finish();
}

#[test]
fn a_log_that_is_not_kept_is_not_read_and_what_is_not_served_is_refused() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let run = ["run", "--name", "quiet", "--log-driver", "none", IMAGE, "echo", "gone"];
    assert_eq!(ok(&agent, &run), "gone");
    let refused = fails(&agent, &["logs", "quiet"]);
    assert!(refused.contains("configured logging driver does not support reading"), "{refused}");
    assert_eq!(ok(&agent, &["inspect", "--format", "{{.LogPath}}", "quiet"]), "");
    assert_eq!(log_config(&agent, "quiet"), json!({ "Type": "none", "Config": {} }));
    for (flags, words) in [
        (["--log-driver", "syslog"], ["LogConfig.Type", "syslog", "json-file"]),
        (["--log-opt", "tag=x"], ["LogConfig.Config", "tag", "max-size"]),
        (["--log-opt", "max-size=much"], ["max-size", "much", "10m"]),
        (["--log-opt", "max-size=1"], ["max-size", "\"1\"", "1000"]),
        (["--log-opt", "max-file=0"], ["max-file", "\"0\"", "1 to 1000"]),
    ] {
        let refused = fails(&agent, &[&["create"], &flags[..], &[IMAGE, "true"]].concat());
        for word in words {
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
    assert_eq!(ok(&agent, &["ps", "-aq"]).lines().count(), 1);
    assert_eq!(ok(&agent, &["info", "--format", "{{.LoggingDriver}}"]), "json-file");
    let default = json!({ "Type": "json-file", "Config": { "max-size": "20m", "max-file": "5" } });
    agent.run(&["run", "--name", "own", "--log-opt", "max-size=2k", IMAGE, "true"]).unwrap();
    assert_eq!(log_config(&agent, "own")["Config"], json!({ "max-size": "2k", "max-file": "1" }));
    ok(&agent, &["create", "--name", "plain", IMAGE, "true"]);
    assert_eq!(log_config(&agent, "plain"), default);
    agent.finish();
}

#[test]
fn logs_are_shown_by_time_and_by_line() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let script = "echo first; sleep 0.3; echo second; echo third >&2; \
                  printf fou; sleep 0.3; echo rth; \
                  while [ ! -e /go ]; do sleep 0.02; done; echo more; \
                  while :; do sleep 0.1; echo tick; done";
    ok(&agent, &["run", "-d", "--name", "web", IMAGE, "sh", "-c", script]);
    until("four lines", || ok(&agent, &["logs", "web"]).contains("rth"));
    let stamped = ok(&agent, &["logs", "--timestamps", "web"]);
    let (stamps, lines): (Vec<&str>, Vec<&str>) =
        stamped.lines().map(|line| line.split_once(' ').expect("a time and a line")).unzip();
    // What was written in two pieces is one line, with the time of its end.
    assert_eq!(lines, ["first", "second", "fourth"]);
    assert!(stamps.iter().all(|time| time.len() == "2026-11-23T13:40:00.123456789Z".len()));
    assert!(stamps.is_sorted(), "{stamps:?}");

    let both = |flags: &[&str]| {
        let output = output(&agent, &[&["logs"], flags, &["web"]].concat());
        assert!(output.status.success(), "{flags:?}: {output:?}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\n', " ");
        (text(&output.stdout), text(&output.stderr))
    };
    let check = |flags: &[&str], stdout: &str, stderr: &str| {
        assert_eq!(both(flags), (stdout.to_owned(), stderr.to_owned()), "{flags:?}");
    };
    check(&["--since", stamps[1]], "second fourth ", "third ");
    check(&["--until", stamps[0]], "first ", "");
    check(&["--since", stamps[0], "--until", stamps[1]], "first second ", "");
    check(&["--since", "10m"], "first second fourth ", "third ");
    check(&["--until", "10m"], "", "");
    check(&["--tail", "2"], "fourth ", "third ");
    check(&["--tail", "0"], "", "");
    check(&["--tail", "all"], "first second fourth ", "third ");
    check(&["-n", "1", "--since", stamps[1]], "fourth ", "");

    let of_ours = |flags: &[&str]| agent.run(&[&["logs"], flags, &["web"]].concat()).unwrap();
    assert_eq!(of_ours(&["--since", "10m", "--tail", "1"]).trim(), "fourth");
    assert_eq!(of_ours(&["--until", "10m"]).trim(), "");

    // The last lines, and then what comes, each once.
    let follow = ["logs", "--follow", "--tail", "1", "web"];
    let mut client = command(&agent, &follow).stdout(Stdio::piped()).spawn().expect("docker runs");
    let mut shown = BufReader::new(client.stdout.take().expect("a pipe")).lines();
    let mut next = || shown.next().expect("a line").expect("text");
    assert_eq!(next(), "fourth");
    ok(&agent, &["exec", "web", "touch", "/go"]);
    assert_eq!((next(), next()), ("more".to_owned(), "tick".to_owned()));
    client.kill().expect("the client is killed");
    client.wait().expect("the client ends");

    // A time that is still to come ends what would go on without end.
    let soon = Command::new("date").args(["-u", "-d", "+2 seconds", "+%FT%T.%NZ"]).output();
    let soon = String::from_utf8(soon.expect("date runs").stdout).expect("text");
    let soon = soon.trim();
    let shown = ok(&agent, &["logs", "-f", "-t", "--until", soon, "--since", stamps[2], "web"]);
    let now = Command::new("date").args(["-u", "+%FT%T.%NZ"]).output().expect("date runs").stdout;
    assert!(String::from_utf8(now).expect("text").trim() >= soon);
    assert!(shown.lines().filter(|line| line.ends_with(" tick")).count() > 5, "{shown}");
    let last = shown.lines().last().and_then(|line| line.split_once(' ')).expect("a line").0;
    assert!(last <= soon, "{last} after {soon}");
    assert_eq!(agent.inspect("web")["State"]["Running"], true);
    agent.finish();
}
