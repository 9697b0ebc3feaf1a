//! The dead man's switch of the real shim: held, renewed, let go, lapsed.

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use support::{Lab, Shim, eventually, skipped};
use tenantry_cgroupfs::Restore;
use tenantry_shim::protocol::{Hold, Lapse, Reply, Request};

/// A file that stands for a limit's. Unlike the kernel's, it keeps what is longer than the
/// new text: so all texts here have one length.
fn limit(lab: &Lab, name: &str) -> (PathBuf, Restore) {
    let path = lab.path(name);
    fs::write(&path, "tight\n").expect("a file");
    let only_over = vec!["tight".to_owned()];
    (path.clone(), Restore { path, text: "loose".to_owned(), only_over })
}

fn hold(lease_ms: u64, restore: &[&Restore], command: Option<&[&str]>) -> Request {
    Request::Hold(Hold {
        lease_ms,
        restore: restore.iter().map(|restore| (*restore).clone()).collect(),
        command: command.map(|command| command.iter().map(ToString::to_string).collect()),
    })
}

/// Each on a connection of its own, as the agent does it.
fn ask(shim: &Shim, request: &Request) -> Option<Lapse> {
    let mut client = shim.connect();
    client.send(request);
    match client.receive() {
        Reply::Held { lapse } => lapse,
        other => panic!("{other:?}"),
    }
}

fn says(path: &PathBuf) -> String {
    fs::read_to_string(path).expect("the file").trim().to_owned()
}

#[test]
fn a_lease_that_ends_puts_everything_back_and_the_next_agent_hears_of_it() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("while :; do /bin/sleep 0.1; done");
    let mut shim = lab.spawn();
    let mut watcher = shim.connect();
    watcher.start();
    let (first, restore) = limit(&lab, "first");
    let (other, others) = limit(&lab, "other");
    fs::write(&other, "theirs\n").expect("a file");
    let gone = Restore { path: lab.path("gone"), ..restore.clone() };
    let bad = Restore { path: lab.path("."), ..restore.clone() };
    let witness = lab.path("command-ran");
    let touch = witness.to_str().expect("a path");
    let command = ["/bin/busybox", "touch", touch];
    let request = hold(300, &[&gone, &bad, &others, &restore], Some(&command));
    assert_eq!(ask(&shim, &request), None);
    assert_eq!(says(&first), "tight");
    // The agent's end changes nothing of it.
    drop(watcher);
    eventually("the lease ends", || says(&first) == "loose");
    assert_eq!(says(&other), "theirs", "somebody else's value");
    eventually("the command ran", || witness.exists());
    let lapse = ask(&shim, &Request::LetGo).expect("a lapse");
    assert!(lapse.unix_ns > 0);
    assert_eq!(lapse.failures.len(), 1, "{lapse:?}");
    assert!(lapse.failures[0].object.starts_with("loose to"), "{lapse:?}");
    assert_eq!(ask(&shim, &Request::LetGo), None, "told once");
    // Nothing is left of the command, not even a zombie.
    eventually("it was reaped", || shim.status("Threads") == "1" && children(&shim) == 1);
    let mut client = shim.connect();
    client.send(&Request::Signal { signal: 9 });
    client.receive();
    shim.wait();
    lab.assert_nothing_left();
}

#[test]
fn a_renewed_lease_lasts_and_one_that_is_let_go_does_nothing() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("while :; do /bin/sleep 0.1; done");
    let mut shim = lab.spawn();
    shim.connect().start();
    let (path, restore) = limit(&lab, "limit");
    for _ in 0..8 {
        assert_eq!(ask(&shim, &hold(3_000, &[&restore], None)), None);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(says(&path), "tight", "renewed for longer than one lease");
    assert_eq!(ask(&shim, &hold(600, &[&restore], None)), None);
    assert_eq!(ask(&shim, &Request::LetGo), None);
    std::thread::sleep(Duration::from_millis(1_200));
    assert_eq!(says(&path), "tight", "nobody asked for it any more");
    // A command that fails is a failure that is told.
    assert_eq!(ask(&shim, &hold(1, &[], Some(&["/bin/busybox", "false"]))), None);
    // Or the next one would renew it.
    std::thread::sleep(Duration::from_millis(100));
    eventually("it is told that it failed", || {
        let lapse = ask(&shim, &hold(60_000, &[], None));
        lapse.is_some_and(|lapse| lapse.failures.iter().any(|f| f.object.contains("ended with 1")))
    });
    let mut client = shim.connect();
    client.send(&Request::Signal { signal: 9 });
    client.receive();
    shim.wait();
    lab.assert_nothing_left();
}

fn children(shim: &Shim) -> usize {
    let pid = shim.status("Pid");
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().count()
}
