use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::super::verify::{Summary, verify};
use super::*;

const BIG: u64 = 1 << 40;

fn limits(directory: &Path, max_bytes: u64, keep_files: u32) -> FileLimits {
    FileLimits { path: directory.join("audit.jsonl"), max_bytes, keep_files }
}

/// As long as an exec's line.
fn objects(count: u64) -> Vec<u8> {
    let argv = "x".repeat(400);
    (0..count)
        .flat_map(|n| format!("{{\"time\":\"t\",\"n\":{n},\"argv\":\"{argv}\"}}\n").into_bytes())
        .collect()
}

fn append(file: &mut AuditFile, count: u64) -> Outcome {
    file.append(&objects(count), count).outcome
}

#[track_caller]
fn check(directory: &Path) -> Summary {
    let summary = verify(&directory.join("audit.jsonl"), None).unwrap();
    assert_eq!(summary.wrong, None, "{summary:?}");
    summary
}

/// The numbers of the files there are.
fn present(directory: &Path) -> Vec<u32> {
    rotation::present(&directory.join("audit.jsonl")).unwrap()
}

#[test]
fn the_chain_goes_on_over_files_that_are_rotated_and_removed() {
    for (keep, expected) in [(0, vec![0]), (1, vec![0, 1]), (2, vec![0, 1, 2])] {
        let directory = tempfile::tempdir().unwrap();
        let mut file = AuditFile::open(limits(directory.path(), 2000, keep)).unwrap();
        for _ in 0..20 {
            assert_eq!(append(&mut file, 1), Outcome { written: 1, lost: 0 });
            let length = std::fs::metadata(file.path()).unwrap().len();
            assert!(length <= 2000 && length == file.bytes, "{length}");
        }
        assert_eq!(present(directory.path()), expected);
        let summary = check(directory.path());
        // Each file has 3 events and a line of its own.
        assert_eq!(summary.last_sequence, Some(20 + 7));
        assert_eq!(summary.first_sequence, Some(27 - 2 - 4 * u64::from(keep)));
        assert_eq!(summary.head_hash, Some(file.head.hash.to_string()));
    }
}

#[test]
fn fewer_files_are_kept_than_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = AuditFile::open(limits(directory.path(), 2000, 4)).unwrap();
    (0..20).for_each(|_| assert_eq!(append(&mut file, 1).lost, 0));
    assert_eq!(present(directory.path()), [0, 1, 2, 3, 4]);
    let mut file = AuditFile::open(limits(directory.path(), 2000, 1)).unwrap();
    (0..3).for_each(|_| assert_eq!(append(&mut file, 1).lost, 0));
    assert_eq!(present(directory.path()), [0, 1]);
    check(directory.path());
}

#[test]
fn the_next_agent_goes_on_where_one_ended() {
    let directory = tempfile::tempdir().unwrap();
    let limits = limits(directory.path(), 2000, 2);
    for run in 1..=9u64 {
        let mut file = AuditFile::open(limits.clone()).unwrap();
        append(&mut file, 1);
        drop(file);
        let summary = check(directory.path());
        assert_eq!(summary.last_sequence, Some(run + run.div_ceil(3)));
    }
    // An agent that died between putting a file aside and beginning the next one.
    rotate(&limits.path, limits.keep_files).unwrap();
    assert_eq!(present(directory.path()), [1, 2]);
    let mut file = AuditFile::open(limits.clone()).unwrap();
    check(directory.path());
    append(&mut file, 1);
    assert_eq!(check(directory.path()).last_sequence, Some(14));
    // And one that died in the first line of a file.
    rotate(&limits.path, limits.keep_files).unwrap();
    std::fs::write(&limits.path, b"{\"seq\":15,\"event\"").unwrap();
    let mut file = AuditFile::open(limits.clone()).unwrap();
    append(&mut file, 1);
    let summary = check(directory.path());
    assert_eq!((summary.last_sequence, summary.torn), (Some(17), 1));
}

#[test]
fn a_torn_line_is_cut_off_at_each_of_its_bytes_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let limits = limits(directory.path(), BIG, 2);
    let mut file = AuditFile::open(limits.clone()).unwrap();
    append(&mut file, 2);
    let whole = std::fs::read(&limits.path).unwrap();
    let end = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for cut in end..=whole.len() {
        std::fs::write(&limits.path, &whole[..cut]).unwrap();
        append(&mut AuditFile::open(limits.clone()).unwrap(), 1);
        let summary = check(directory.path());
        let is_torn = cut > end && cut < whole.len();
        assert_eq!(summary.torn, u64::from(is_torn));
        assert_eq!(summary.lines, if cut == end { 3 } else { 4 });
        let text = std::fs::read_to_string(&limits.path).unwrap();
        let notice = text.lines().find(|line| line.contains("\"event\":{\"action\":\"torn\"}"));
        assert_eq!(notice.is_some(), is_torn);
        if let Some(notice) = notice {
            let bytes = cut - end;
            let hash = chain::Hash::of(&[&whole[end..cut]]);
            let expected = format!(
                "{{\"seq\":3,\"event\":{{\"action\":\"torn\"}},\"torn\":{{\"bytes\":{bytes},\"sha256\":\"{hash}\"}},"
            );
            assert!(notice.starts_with(&expected), "{notice}");
        }
    }
}

#[test]
fn a_file_without_a_chain_is_put_aside_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let limits = limits(directory.path(), BIG, 2);
    let foreign = "{\"kind\":\"exec\"}\n{\"kind\":\"ex";
    std::fs::write(&limits.path, foreign).unwrap();
    append(&mut AuditFile::open(limits.clone()).unwrap(), 1);
    let aside = rotation::numbered(&limits.path, 1);
    assert_eq!(std::fs::read_to_string(&aside).unwrap(), foreign);
    let wrong = verify(&limits.path, None).unwrap().wrong.unwrap();
    assert_eq!((wrong.file, wrong.line), (aside.clone(), 1));
    std::fs::remove_file(aside).unwrap();
    assert_eq!(check(directory.path()).lines, 2);
}

/// This test again, in a process of its own, which finds this variable set.
const CHILD: &str = "TENANTRY_AUDIT_CHILD";

fn child(test: &str, directory: &Path) -> Command {
    let mut command = Command::new("sh");
    // Beyond its limit a write then fails, and does not kill.
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("audit::file::tests::{test}")]);
    command.env(CHILD, directory);
    command
}

/// No file of this process may be larger; `None`: as large as it likes.
fn let_grow_to(bytes: Option<u64>) {
    let rlimit = Rlimit { current: bytes, maximum: None };
    setrlimit(Resource::Fsize, rlimit).unwrap();
}

/// The kernel takes a part of a write and refuses the rest, as a full disk does.
#[test]
fn what_a_full_disk_did_not_take_is_a_gap_of_exactly_that() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return fill_up(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let test = "what_a_full_disk_did_not_take_is_a_gap_of_exactly_that";
    let output = child(test, directory.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let number = |name: &str| {
        let rest = told.split(&format!("{name}=")).nth(1).unwrap_or_else(|| panic!("{told}"));
        rest.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let summary = check(directory.path());
    assert_eq!(summary.lost, number("lost"));
    assert_eq!(summary.lines, number("written") + summary.gaps + 1);
    assert!(summary.lost > 100 && number("pieces") > 50, "{told}");
}

fn fill_up(directory: &Path) {
    let mut file = AuditFile::open(limits(directory, BIG, 2)).unwrap();
    let (mut written, mut lost, mut pieces) = (0, 0, 0);
    let mut count = |file: &mut AuditFile, events| {
        let outcome = append(file, events);
        assert_eq!(outcome.written + outcome.lost, events);
        written += outcome.written;
        lost += outcome.lost;
        outcome
    };
    // The first line of all does not fit, either.
    let_grow_to(Some(0));
    assert_eq!(count(&mut file, 2).lost, 2);
    let_grow_to(None);
    assert_eq!(count(&mut file, 1).lost, 0);
    for room in (0..2200).step_by(17) {
        let before = std::fs::metadata(file.path()).unwrap().len();
        let_grow_to(Some(before + room));
        let first = count(&mut file, 3);
        let after = std::fs::metadata(file.path()).unwrap().len();
        assert!(after <= before + room && after == file.bytes);
        // What fitted whole is there, and no piece of the next one.
        pieces += u64::from(after < before + room && first.lost > 0);
        // Where the line about the gap fits and no event behind it, another gap begins.
        count(&mut file, 1);
        let_grow_to(None);
        assert_eq!(count(&mut file, 1).lost, 0);
        assert_eq!(file.pending.len() + usize::try_from(file.uncut).unwrap(), 0);
    }
    println!("lost={lost} written={written} pieces={pieces} ");
}

#[test]
fn a_writer_that_is_killed_leaves_a_chain_that_goes_on() {
    if let Some(directory) = std::env::var_os(CHILD) {
        let mut file = AuditFile::open(limits(Path::new(&directory), 2 << 20, 1)).unwrap();
        // Long lines: most of the time passes in the kernel's copying of them.
        let object = format!("{{\"argv\":\"{}\"}}\n", "x".repeat(100_000));
        let objects = object.repeat(15).into_bytes();
        append(&mut file, 1);
        println!("ready");
        loop {
            file.append(&objects, 15);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let limits = limits(directory.path(), 2 << 20, 1);
    let (mut torn, mut last) = (0, 0);
    for round in 0..20 {
        let mut child =
            child("a_writer_that_is_killed_leaves_a_chain_that_goes_on", directory.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
        let mut told = Vec::new();
        let mut stdout = child.stdout.take().unwrap();
        while !told.ends_with(b"ready\n") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            told.push(byte[0]);
        }
        std::thread::sleep(Duration::from_micros(3000 + round * 1307));
        child.kill().unwrap();
        child.wait().unwrap();
        // Killed between two files, it leaves none under this name.
        if let Ok(file) = std::fs::File::open(&limits.path) {
            torn += u64::from(tail::read(&file).unwrap().torn.is_some());
        }
        append(&mut AuditFile::open(limits.clone()).unwrap(), 1);
        let summary = check(directory.path());
        assert!(summary.last_sequence > Some(last), "{summary:?}");
        last = summary.last_sequence.unwrap();
    }
    println!("{torn} of 20 were killed in the middle of a line; {last} lines");
}

#[test]
fn a_file_that_cannot_be_put_aside_goes_on_to_twice_its_size_and_no_further() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = AuditFile::open(limits(directory.path(), 2000, 1)).unwrap();
    // What is to be removed is a directory.
    let in_the_way = directory.path().join("audit.jsonl.1");
    std::fs::create_dir(&in_the_way).unwrap();
    let lost: u64 = (0..9).map(|_| append(&mut file, 1).lost).sum();
    let length = std::fs::metadata(file.path()).unwrap().len();
    assert!((3000..=4000).contains(&length) && lost > 0, "{length} {lost}");
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(append(&mut file, 1).lost, 0);
    let summary = check(directory.path());
    assert_eq!((summary.lost, summary.files, summary.gaps), (lost, 2, 1));
    assert_eq!(summary.lines, 10 - lost + 1 + 2);
}

#[test]
fn the_only_file_of_a_chain_stays_until_its_follower_has_begun() {
    let test = "the_only_file_of_a_chain_stays_until_its_follower_has_begun";
    let Some(directory) = std::env::var_os(CHILD) else {
        let directory = tempfile::tempdir().unwrap();
        let output = child(test, directory.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        let summary = check(directory.path());
        assert_eq!((summary.last_sequence, summary.lost, summary.files), (Some(9), 0, 1));
        return;
    };
    let limits = limits(Path::new(&directory), 2000, 0);
    let mut file = AuditFile::open(limits.clone()).unwrap();
    (0..3).for_each(|_| assert_eq!(append(&mut file, 1).lost, 0));
    let_grow_to(Some(0));
    assert_eq!(append(&mut file, 2).lost, 2);
    assert_eq!(present(Path::new(&directory)), [0, 1]);
    assert_eq!(check(Path::new(&directory)).last_sequence, Some(4));
    let_grow_to(None);
    assert_eq!(append(&mut file, 1).lost, 0);
    assert_eq!(present(Path::new(&directory)), [0]);
    drop(file);
    // A file of somebody else's, in the place of one that has not begun.
    rotate(&limits.path, 0).unwrap();
    std::fs::write(&limits.path, "not ours\n").unwrap();
    append(&mut AuditFile::open(limits.clone()).unwrap(), 1);
    assert_eq!(check_newest(&limits.path), Some(9));
    std::fs::remove_file(rotation::numbered(&limits.path, 1)).unwrap();
    std::fs::remove_file(rotation::numbered(&limits.path, 2)).unwrap();
}

fn check_newest(path: &Path) -> Option<u64> {
    tail::newest(path).unwrap().map(|last| last.head.sequence)
}
