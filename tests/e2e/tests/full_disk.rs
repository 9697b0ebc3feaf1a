//! A disk that is full at each moment of a container's life: a clear error, nothing half-made
//! left, what needs no room goes on, and with room again everything does. The witnesses are the
//! file system, the host's links and the stock client.

use std::path::{Path, PathBuf};

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{self, ok};
use tenantry_e2e::small_disk::SmallDisk;
use tenantry_e2e::{skip_without_docker, until};

const FULL: &str = "No space left on device";

/// An agent whose data are on a disk of their own.
fn agent_on_a_small_disk() -> (TestAgent, SmallDisk) {
    let mut agent = TestAgent::prepare().unwrap();
    let disk = SmallDisk::mounted_at(agent.data_dir(), "48m");
    agent.configure("").unwrap();
    agent.spawn_with_image().unwrap();
    (agent, disk)
}

/// What there is: everything below the data but layers' and volumes' contents, what the client
/// lists, and the host's links.
fn everything(agent: &TestAgent) -> Vec<String> {
    let mut found = Vec::new();
    walk(&agent.data_dir(), 4, &mut found);
    found.retain(|path| !path.ends_with("/filler"));
    for list in [["ps", "-a", "-q"], ["volume", "ls", "-q"], ["network", "ls", "-q"]] {
        found.push(format!("{list:?} {}", ok(agent, &list)));
    }
    for entry in std::fs::read_dir("/sys/class/net").unwrap().flatten() {
        let alias = std::fs::read_to_string(entry.path().join("ifalias")).unwrap_or_default();
        if alias.contains(&agent.cgroup_parent) {
            found.push(format!("link {}", entry.file_name().to_string_lossy()));
        }
    }
    found.sort();
    found
}

fn walk(directory: &Path, depth: usize, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        if depth > 1 && path.is_dir() && !path.is_symlink() {
            walk(&path, depth - 1, found);
        }
        found.push(path.display().to_string());
    }
}

/// The verb fails, says so and which file it was, and has changed nothing.
#[track_caller]
fn refused(agent: &TestAgent, arguments: &[&str]) {
    let before = everything(agent);
    let output = docker::output(agent, arguments);
    let error = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let line = arguments.join(" ");
    assert!(!output.status.success(), "docker {line} succeeded: {error}");
    assert!(error.contains(FULL), "docker {line}: {error}");
    assert_eq!(everything(agent), before, "docker {line} left something: {error}");
}

#[test]
fn on_a_full_disk_what_needs_room_is_refused_and_what_needs_none_goes_on() {
    skip_without_docker!();
    let (mut agent, disk) = agent_on_a_small_disk();
    ok(&agent, &["run", "-d", "--name", "busy", IMAGE, "sleep", "1000"]);
    ok(&agent, &["create", "--name", "ready", IMAGE, "sleep", "1000"]);
    ok(&agent, &["run", "-d", "--name", "victim", IMAGE, "sleep", "1000"]);
    ok(&agent, &["volume", "create", "kept"]);
    ok(&agent, &["volume", "create", "unused"]);
    ok(&agent, &["network", "create", "quiet"]);
    let file = agent.scratch.join("file");
    std::fs::write(&file, vec![7; 100_000]).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let filler = disk.fill();

    refused(&agent, &["create", "--name", "more", IMAGE, "true"]);
    refused(&agent, &["run", "-d", "--name", "more", IMAGE, "true"]);
    refused(&agent, &["run", "--rm", "-v", "fresh:/data", IMAGE, "true"]);
    refused(&agent, &["volume", "create", "another"]);
    refused(&agent, &["network", "create", "another"]);
    refused(&agent, &["cp", &file, "busy:/copy"]);
    refused(&agent, &["commit", "busy", "picture"]);
    refused(&agent, &["start", "ready"]);
    assert_eq!(ok(&agent, &["inspect", "-f", "{{.State.Status}}", "ready"]), "created");

    // Looking and further processes need no room; who writes hears it from the kernel.
    assert_eq!(ok(&agent, &["exec", "busy", "echo", "here"]), "here");
    let script = "yes > /big 2> /dev/shm/error; cat /dev/shm/error; rm /big";
    let said = ok(&agent, &["exec", "busy", "sh", "-c", script]);
    assert!(said.contains(FULL), "{said}");
    assert_eq!(ok(&agent, &["inspect", "-f", "{{.State.Status}}", "busy"]), "running");

    // What is there can go.
    ok(&agent, &["rm", "-f", "victim"]);
    ok(&agent, &["volume", "rm", "unused"]);
    ok(&agent, &["network", "rm", "quiet"]);
    // Each gave back a little.
    let _ = std::fs::remove_file(filler);
    let filler = disk.fill();
    ok(&agent, &["stop", "-t", "0", "busy"]);
    until("it has ended", || {
        ok(&agent, &["inspect", "-f", "{{.State.Status}}", "busy"]) == "exited"
    });
    // An agent that ends in the middle of it, and one that begins.
    agent.kill_nine();
    agent.spawn().unwrap();
    assert_eq!(ok(&agent, &["inspect", "-f", "{{.State.Status}}", "busy"]), "exited");
    std::fs::remove_file(filler).unwrap();

    ok(&agent, &["start", "ready"]);
    ok(&agent, &["start", "busy"]);
    assert_eq!(ok(&agent, &["exec", "busy", "echo", "again"]), "again");
    ok(&agent, &["cp", &file, "busy:/copy"]);
    ok(&agent, &["network", "create", "another"]);
    assert_eq!(
        ok(
            &agent,
            &["run", "--rm", "--network", "another", "-v", "kept:/data", IMAGE, "echo", "on"]
        ),
        "on"
    );
    ok(&agent, &["rm", "-f", "ready", "busy"]);
    ok(&agent, &["network", "rm", "another"]);
    ok(&agent, &["volume", "rm", "kept"]);
    end(agent, disk);
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_start_leaves_nothing_of_it() {
    skip_without_docker!();
    let (agent, disk) = agent_on_a_small_disk();
    let run = ["run", "--rm", "-v", "data:/data", "-v", "/anonymous", IMAGE, "echo", "done"];
    // Once with room, so that what is made once is there.
    ok(&agent, &run);
    ok(&agent, &["volume", "rm", "data"]);
    let (mut refusals, mut successes) = (0, 0);
    for pages in 0..24 {
        let before = everything(&agent);
        let filler = disk.fill_but(pages);
        let output = docker::output(&agent, &run);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        std::fs::remove_file(filler).unwrap();
        if output.status.success() {
            // Output goes through the log: where that has no room, the loss is told.
            let told =
                ["output lost", "output was lost"].iter().any(|told| agent.log().contains(told));
            assert!(text.trim() == "done" || told, "{pages} pages: {text}");
            ok(&agent, &["volume", "rm", "data"]);
            successes += 1;
        } else {
            assert!(text.contains(FULL), "{pages} pages: {text}");
            // The volume was asked for by name, and stays as Docker's does where the start fails.
            let _ = docker::output(&agent, &["volume", "rm", "data"]);
            refusals += 1;
        }
        until("everything is as before", || everything(&agent) == before);
        if successes == 3 {
            break;
        }
    }
    assert!(refusals >= 2 && successes >= 1, "{refusals} refused, {successes} not");
    end(agent, disk);
}

fn end(mut agent: TestAgent, disk: SmallDisk) {
    agent.stop_agent();
    drop(disk);
    agent.spawn().unwrap();
    agent.finish();
}
