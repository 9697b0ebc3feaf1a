//! A log with a bound: pieces that go, and readers for whom they stay.

mod support;

use std::fs::{self, File};

use rustix::fs::FlockOperation;
use support::{Lab, eventually, skipped};
use tenantry_shim::log::{HEADER_BYTES, Header};
use tenantry_shim::log_pieces;
use tenantry_shim::protocol::Reply;
use tenantry_shim::spec::LogBound;

const PIECE_BYTES: u64 = 4096;

fn counting(lines: u32) -> String {
    format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done")
}

fn bounded(script: &str, pieces: u32) -> Lab {
    let mut lab = Lab::shell(script);
    lab.spec.log_bound = Some(LogBound { piece_bytes: PIECE_BYTES, pieces });
    lab
}

fn pieces(lab: &Lab) -> Vec<u64> {
    let entries = fs::read_dir(lab.path("")).expect("the directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    log_pieces::numbers(&lab.spec.log_path, names)
}

/// Of all pieces together. One may go while they are counted.
fn bytes(lab: &Lab) -> u64 {
    let path = |number: &u64| log_pieces::path(&lab.spec.log_path, *number);
    pieces(lab).iter().filter_map(|number| Some(fs::metadata(path(number)).ok()?.len())).sum()
}

/// What the pieces hold, one behind the other.
fn text(lab: &Lab) -> String {
    let mut text = Vec::new();
    for number in pieces(lab) {
        let piece = fs::read(log_pieces::path(&lab.spec.log_path, number)).expect("a piece");
        let mut rest = &piece[..];
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let header = Header::parse(header).expect("a frame");
            let (payload, behind) = behind.split_at(header.payload_bytes as usize);
            text.extend_from_slice(payload);
            rest = behind;
        }
    }
    String::from_utf8(text).expect("text")
}

/// The lines of `text` are those before `end`, without a gap; the number of the first.
#[track_caller]
fn assert_is_the_end_of_the_count(text: &str, end: u32) -> u32 {
    let number = |line: &str| line.strip_prefix("line ").and_then(|n| n.parse::<u32>().ok());
    // The first may be the end of a line that began in a piece which is gone: a read that was as
    // long as a piece ended in it.
    let lines = text.lines().skip(usize::from(number(text.lines().next().unwrap()).is_none()));
    let numbers: Vec<u32> = lines.map(|line| number(line).expect(line)).collect();
    let first = *numbers.first().expect("a line");
    assert_eq!(numbers, (first..end).collect::<Vec<_>>());
    first
}

#[test]
fn a_log_is_never_longer_than_its_bound_and_ends_with_the_newest_lines() {
    if skipped() {
        return;
    }
    let mut lab = bounded(&counting(20_000), 3);
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.start();
    let mut most = 0;
    eventually("the count is over", || {
        most = most.max(bytes(&lab));
        lab.spec.exit_path.exists()
    });
    assert!(matches!(client.receive(), Reply::Exited(status) if status.code == 0));
    shim.wait();
    assert!(most <= 3 * PIECE_BYTES, "{most} bytes");
    let kept = pieces(&lab);
    assert_eq!(kept.len(), 3);
    assert!(kept[0] > 10, "{kept:?}");
    let first = assert_is_the_end_of_the_count(&text(&lab), 20_000);
    assert!(bytes(&lab) > 2 * PIECE_BYTES - 100, "from {first} on: {} bytes", bytes(&lab));

    // The next run goes on where this one ended, and gives no number twice.
    fs::remove_file(lab.path("socket")).expect("the socket");
    lab.spec.process.args = vec!["/bin/echo".into(), "line 20000".into()];
    assert_eq!(lab.run().code, 0);
    assert_is_the_end_of_the_count(&text(&lab), 20_001);
    assert!(pieces(&lab).last() >= kept.last());
    lab.assert_nothing_left();
}

#[test]
fn a_container_waits_for_who_holds_the_piece_that_is_to_go() {
    if skipped() {
        return;
    }
    let mut lab = bounded(&counting(20_000), 1);
    let held = File::create(&lab.spec.log_path).expect("piece 0");
    rustix::fs::flock(&held, FlockOperation::LockShared).expect("a lock");
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.start();
    eventually("the second piece is begun", || pieces(&lab) == [0, 1]);
    // The pipe is full: the program has not come to its end, and nothing is written.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let before = bytes(&lab);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!((bytes(&lab), pieces(&lab)), (before, vec![0, 1]));
    assert!(!lab.spec.exit_path.exists());
    assert_eq!(text(&lab).lines().next(), Some("line 0"));

    drop(held);
    let Reply::Exited(status) = client.receive() else { panic!("no exit") };
    shim.wait();
    assert_eq!((status.code, pieces(&lab).len()), (0, 1));
    assert_is_the_end_of_the_count(&text(&lab), 20_000);
    lab.assert_nothing_left();
}

#[test]
fn a_container_that_has_ended_waits_for_nobody_and_nothing_is_lost() {
    if skipped() {
        return;
    }
    // Less than a pipe holds, more than a piece.
    let mut lab = bounded(&counting(2000), 1);
    let held = File::create(&lab.spec.log_path).expect("piece 0");
    rustix::fs::flock(&held, FlockOperation::LockShared).expect("a lock");
    assert_eq!(lab.run().code, 0);
    assert_eq!(assert_is_the_end_of_the_count(&text(&lab), 2000), 0);
    drop(held);
    fs::remove_file(lab.path("socket")).expect("the socket");
    lab.run();
    assert_eq!(pieces(&lab).len(), 1);
    lab.assert_nothing_left();
}
