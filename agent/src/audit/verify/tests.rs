use std::io::Cursor;

use proptest::prelude::*;

use super::super::chain::{Hash, seal};
use super::super::file::{AuditFile, FileLimits};
use super::*;

/// The first line names what it follows, as in each file.
fn chain(members: &[String]) -> Vec<Vec<u8>> {
    let mut head = Head { sequence: 41, hash: Hash::of(&[b"before"]) };
    let first =
        format!(r#"{{"event":{{"action":"chain"}},"prev":"{}","@timestamp":"t0"}}"#, head.hash);
    let others = members.iter().map(|text| serde_json::json!({ "argv": text }).to_string());
    std::iter::once(first)
        .chain(others)
        .map(|object| {
            let mut line = Vec::new();
            seal(&mut head, object.as_bytes(), &mut line);
            line
        })
        .collect()
}

/// In memory, by the code that reads files.
fn judge(text: &[u8]) -> Option<(u64, Finding)> {
    Lines::of(Cursor::new(text)).walk(&mut Walk::default(), Duration::ZERO).unwrap()
}

#[derive(Clone, Debug)]
enum Harm {
    Flip(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    /// Another line's members under this line's number and hash.
    Replace(prop::sample::Index, String),
    Insert(prop::sample::Index, String),
    CutOff(prop::sample::Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), 1..=255u8).prop_map(|(at, mask)| Harm::Flip(at, mask)),
        1 => index().prop_map(Harm::Remove),
        1 => (index(), index()).prop_map(|(one, other)| Harm::Swap(one, other)),
        1 => (index(), index()).prop_map(|(of, at)| Harm::Repeat(of, at)),
        1 => (index(), any::<String>()).prop_map(|(at, text)| Harm::Replace(at, text)),
        1 => (index(), any::<String>()).prop_map(|(at, text)| Harm::Insert(at, text)),
        1 => index().prop_map(Harm::CutOff),
    ]
}

/// The text after the harm, which may have left it as it was.
fn harmed(mut lines: Vec<Vec<u8>>, harm: &Harm) -> Vec<u8> {
    let count = lines.len();
    match harm {
        Harm::Flip(at, mask) => {
            let mut text = lines.concat();
            let at = at.index(text.len());
            text[at] ^= mask;
            return text;
        }
        Harm::CutOff(at) => {
            let mut text = lines.concat();
            let end = text.len() - lines[count - 1].len();
            // In the last line: whole lines that are missing at the end are for a kept head.
            text.truncate(end + 1 + at.index(text.len() - end - 1));
            return text;
        }
        Harm::Remove(at) => drop(lines.remove(at.index(count - 1))),
        Harm::Swap(one, other) => lines.swap(one.index(count), other.index(count)),
        Harm::Repeat(of, at) => lines.insert(at.index(count + 1), lines[of.index(count)].clone()),
        Harm::Replace(at, text) => {
            let line = &mut lines[at.index(count)];
            let link = Link::parse(&line[..line.len() - 1]).unwrap();
            let members = serde_json::json!({ "argv": text }).to_string();
            let Head { sequence, hash } = link.head;
            let members = &members[1..members.len() - 1];
            *line = format!("{{\"seq\":{sequence},{members},\"hash\":\"{hash}\"}}\n").into_bytes();
        }
        Harm::Insert(at, text) => lines.insert(at.index(count + 1), format!("{text}\n").into()),
    }
    lines.concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn whatever_is_edited_removed_repeated_or_moved_is_found(
        members in prop::collection::vec(any::<String>(), 1..12),
        harm in harm(),
    ) {
        let lines = chain(&members);
        let text = lines.concat();
        prop_assert_eq!(judge(&text), None);
        let harmed = harmed(lines, &harm);
        prop_assert_eq!(judge(&harmed).is_some(), harmed != text, "{:?}", harm);
    }
}

fn written(directory: &Path, lines: u64, max_bytes: u64) -> PathBuf {
    let path = directory.join("audit.jsonl");
    let limits = FileLimits { path: path.clone(), max_bytes, keep_files: 3 };
    let mut file = AuditFile::open(limits).unwrap();
    for n in 0..lines {
        let object = format!("{{\"@timestamp\":\"2026-11-22T00:00:{n:02}Z\",\"n\":{n}}}\n");
        assert_eq!(file.append(object.as_bytes(), 1).outcome.lost, 0);
    }
    path
}

fn lines_of(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// Twelve lines of events in four files of 1 + 3 each; the harm is done to the second oldest,
/// whose lines have the sequence numbers 5 to 8.
#[track_caller]
fn check(harm: impl Fn(&mut Vec<String>), line: u64, sequence: Option<u64>, expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), 12, 720);
    let file = rotation::numbered(&path, 2);
    let mut lines = lines_of(&file);
    assert_eq!(lines.len(), 4);
    harm(&mut lines);
    std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    let wrong = verify(&path, None).unwrap().wrong.unwrap();
    let place = (wrong.file, wrong.line, wrong.sequence);
    assert_eq!(place, (file, line, sequence), "{}", wrong.what);
    assert!(wrong.what.starts_with(expected), "{}", wrong.what);
}

#[test]
fn the_first_wrong_line_is_named_with_what_is_wrong() {
    check(|lines| lines[1] = lines[1].replace("\"n\":3", "\"n\":4"), 2, Some(6), "edited: this");
    check(|lines| lines[1] = lines[1].replace("\"seq\":6", "\"seq\":9"), 2, Some(9), "edited");
    check(|lines| lines[2] = "{}".into(), 3, None, "edited: not a line");
    check(|lines| drop(lines.remove(2)), 3, Some(8), "missing: sequence 7");
    check(|lines| drop(lines.drain(1..3)), 2, Some(8), "missing: sequence 6 to 7");
    check(|lines| lines.swap(1, 3), 2, Some(8), "reordered: sequence 8 stands where 6");
    check(|lines| lines.insert(2, lines[1].clone()), 3, Some(6), "repeated: sequence 6");
    check(|lines| lines[0] = lines[1].clone(), 1, Some(6), "missing: sequence 5");
}

#[test]
fn a_file_that_is_missing_between_two_is_found_and_the_oldest_is_not_missed() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), 12, 720);
    let whole = verify(&path, None).unwrap();
    assert_eq!((whole.files, whole.lines, whole.wrong.clone()), (4, 16, None));
    assert_eq!(whole.first_time.as_deref().map(|time| &time[..2]), Some("20"));
    assert_eq!(whole.last_time.as_deref(), Some("2026-11-22T00:00:11Z"));
    let hash = whole.head_hash.clone().unwrap();
    let times = format!("{} to 2026-11-22T00:00:11Z", whole.first_time.clone().unwrap());
    let expected = format!(
        "16 lines in 4 files, sequence 1 to 16, {times}\nhead 16:{hash}\neach line is as it was written\n"
    );
    assert_eq!(whole.told(), expected);
    std::fs::remove_file(rotation::numbered(&path, 3)).unwrap();
    let rest = verify(&path, None).unwrap();
    assert_eq!((rest.first_sequence, rest.lines, rest.wrong), (Some(5), 12, None));
    let aside = rotation::numbered(&path, 1);
    std::fs::remove_file(&aside).unwrap();
    let wrong = verify(&path, None).unwrap().wrong.unwrap();
    assert_eq!((wrong.file, wrong.line, wrong.sequence), (path.clone(), 1, Some(13)));
    assert_eq!(wrong.what, "missing: sequence 9 to 12");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(rotation::numbered(&path, 2)).unwrap();
    assert_eq!(verify(&path, None).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn an_end_that_was_cut_off_and_a_chain_made_anew_are_found_by_a_head_that_was_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), 3, 1 << 20);
    let text = std::fs::read_to_string(&path).unwrap();
    let summary = verify(&path, None).unwrap();
    let kept: Head = format!("4:{}", summary.head_hash.unwrap()).parse().unwrap();
    let what = |kept| verify(&path, Some(kept)).unwrap().wrong.map(|wrong| wrong.what);
    assert_eq!(what(kept), None);
    let last = text.lines().last().unwrap();
    std::fs::write(&path, text.replace(&format!("{last}\n"), "")).unwrap();
    assert_eq!(verify(&path, None).unwrap().wrong, None);
    assert_eq!(what(kept).unwrap(), "missing: the chain ends at 3, a head of 4 was kept");
    std::fs::remove_file(&path).unwrap();
    written(directory.path(), 5, 1 << 20);
    assert_eq!(verify(&path, None).unwrap().wrong, None);
    assert_eq!(what(kept).unwrap(), "edited: not the line whose hash was kept");
    let kept = Head { sequence: 1, ..kept };
    written(directory.path(), 60, 720);
    assert!(what(kept).unwrap().starts_with("removed: the chain begins at"));
}

#[test]
fn a_line_without_an_end_is_torn() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), 3, 1 << 20);
    let text = std::fs::read(&path).unwrap();
    for cut in [1, 2, 100] {
        std::fs::write(&path, &text[..text.len() - cut]).unwrap();
        let wrong = verify_within(&path, None, Duration::ZERO).unwrap().wrong.unwrap();
        assert_eq!((wrong.line, wrong.what.as_str()), (4, "torn: the line has no end"));
    }
    let long = [&text[..], &vec![b'x'; 3 << 20][..]].concat();
    std::fs::write(&path, long).unwrap();
    let wrong = verify_within(&path, None, Duration::ZERO).unwrap().wrong.unwrap();
    assert!(wrong.line == 5 && wrong.what.starts_with("edited: not a line"), "{wrong}");
}

#[test]
fn a_file_that_is_written_and_rotated_meanwhile_gives_no_false_alarm() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), 1, 1 << 20);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let limits = FileLimits { path: path.clone(), max_bytes: 1 << 20, keep_files: 3 };
            let mut file = AuditFile::open(limits).unwrap();
            let objects = "{\"n\":1,\"argv\":\"some words of a line\"}\n".repeat(300);
            // Ten files.
            let outcomes = (0..250).map(|_| file.append(objects.as_bytes(), 300).outcome);
            assert_eq!(outcomes.map(|outcome| outcome.lost).sum::<u64>(), 0);
        });
        let (mut last, mut looks) = (0, 0);
        while !writer.is_finished() {
            let summary = verify(&path, None).unwrap();
            assert_eq!(summary.wrong, None, "{summary:?}");
            assert!(summary.last_sequence >= Some(last));
            last = summary.last_sequence.unwrap();
            looks += 1;
        }
        println!("{looks} looks at {last} lines");
        assert!(looks > 1 && last > 300);
    });
    let summary = verify(&path, None).unwrap();
    assert_eq!((summary.wrong, summary.files), (None, 4));
}
