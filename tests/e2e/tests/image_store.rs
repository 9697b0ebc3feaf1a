//! kill -9 of the agent at fifty points of what changes the image store: the next agent
//! finds a store without a fault.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::image_store::faults;
use tenantry_e2e::skip_unless_possible;

const POINTS: u32 = 50;

/// What one round does, and how long it takes undisturbed.
struct Verb {
    arguments: Vec<String>,
    takes: Duration,
}

#[test]
fn an_agent_killed_at_any_point_leaves_a_store_that_the_next_one_finds_whole() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let path = |name: &str| agent.scratch.join(name).to_str().unwrap().to_owned();
    let (archive, saved, rootfs) = (path("demo.tar"), path("saved.tar"), path("rootfs.tar"));
    agent.ok(&["image", "save", "-o", &archive, IMAGE]);
    let script = "head -c 4000000 /bin/busybox > /data/a; mkdir -p /data/d; rm /bin/vi";
    agent.ok(&["run", "--name", "cc", IMAGE, "sh", "-c", script]);
    let verbs: [&[&str]; 5] = [
        &["image", "load", &archive],
        &["image", "import", "imported", &rootfs],
        &["commit", "cc", "made"],
        &["image", "rm", "-f", "made", "imported"],
        &["image", "save", "-o", &saved, IMAGE],
    ];
    let mut rounds: Vec<Verb> = Vec::new();
    for verb in verbs {
        let started = Instant::now();
        agent.ok(verb);
        let arguments = verb.iter().map(|word| (*word).to_owned()).collect();
        rounds.push(Verb { arguments, takes: started.elapsed() });
    }
    let store = agent.data_dir().join("images");
    assert_eq!(faults(&store), [""; 0]);
    let mut cut_off = 0;
    for point in 0..POINTS {
        let verb = &rounds[point as usize % rounds.len()];
        let words: Vec<&str> = verb.arguments.iter().map(String::as_str).collect();
        // To have something to remove; it may be there from a round before.
        if words[1] == "rm" {
            agent.ok(&["commit", "cc", "made"]);
            agent.ok(&["image", "import", "imported", &rootfs]);
        }
        let null = Stdio::null;
        let mut client = agent.client(&words).stdout(null()).stderr(null()).spawn().unwrap();
        // Points all over the verb, in no order that its rounds repeat.
        std::thread::sleep(verb.takes * (point * 37 % POINTS) / POINTS);
        agent.kill_nine();
        cut_off += u32::from(!client.wait().unwrap().success());
        agent.spawn().unwrap();
        assert_eq!(faults(&store), [""; 0], "point {point} of {}", words.join(" "));
        agent.ok(&["run", "--rm", IMAGE, "true"]);
    }
    assert!(cut_off > POINTS / 4, "{cut_off} of {POINTS} points lay inside a verb");
    agent.ok(&["rm", "cc"]);
    agent.ok(&["image", "prune", "--all"]);
    for part in ["layers", "blobs/sha256", "tmp"] {
        assert_eq!(std::fs::read_dir(store.join(part)).unwrap().count(), 0, "{part}");
    }
    agent.finish();
}
