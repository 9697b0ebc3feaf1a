//! Lines of the chained files by time, container and kind. Nothing is kept but places in the
//! files, and of those as many as lines were asked for at most.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::chain::{Link, MAX_LINE_BYTES};
use super::follow::Filter;
use super::heading::Heading;
use super::reading::{line_at, seek};
use super::recent::Line;
use super::rotation;

/// The most lines of a query that names a number of them.
pub const MAX_LIMIT: u64 = 100_000;
/// Lines stand in the order in which the agent read them. Times are the events' own: this far
/// one may stand behind a later one, if the agent was behind or the clock was set.
const DISORDER: SignedDuration = SignedDuration::from_secs(10);
/// Read at once, where a file is read from its end.
const WINDOW_BYTES: u64 = 256 << 10;

#[derive(Clone, Debug, Default)]
pub struct Query {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub filter: Filter,
    /// The sequence number to begin behind.
    pub after: Option<u64>,
    /// With `after` the next ones, else the newest.
    pub limit: Option<u64>,
}

/// What a line is for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Wanted,
    Not,
    /// Nor any line before it, or behind it.
    TooEarly,
    TooLate,
}

impl Query {
    fn fit(&self, line: &[u8]) -> Fit {
        let Some(link) = Link::parse(line) else { return Fit::Not };
        let sequence = link.head.sequence;
        if self.after.is_some_and(|after| sequence <= after) {
            return Fit::TooEarly;
        }
        let Some(heading) = Heading::parse(line) else { return Fit::Not };
        // The file's own lines are as late as whoever wrote them: they say nothing of the others.
        let is_own = matches!(&*heading.event.action, "chain" | "gap" | "torn");
        let beyond = |fit: Fit| if is_own { Fit::Not } else { fit };
        if let Ok(time) = heading.time.parse::<Timestamp>() {
            if let Some(since) = self.since.filter(|since| time < *since) {
                let is_early = time < since.saturating_sub(DISORDER).unwrap_or(since);
                return if is_early { beyond(Fit::TooEarly) } else { Fit::Not };
            }
            if let Some(until) = self.until.filter(|until| time >= *until) {
                let is_late = time > until.saturating_add(DISORDER).unwrap_or(until);
                return if is_late { beyond(Fit::TooLate) } else { Fit::Not };
            }
        }
        let wanted = self.filter.wants(&Line {
            sequence: Some(sequence),
            kind: &heading.event.action,
            container_id: &heading.container.id,
            container_name: &heading.container.name,
            object: line,
        });
        if wanted { Fit::Wanted } else { Fit::Not }
    }

    /// Gives `take` each line that fits, with its newline, in the chain's order, until it says
    /// that it wants no more.
    ///
    /// # Errors
    /// A file could not be opened or read; there is no file at all.
    pub fn run(&self, path: &Path, take: &mut dyn FnMut(Vec<u8>) -> bool) -> io::Result<()> {
        let files: Vec<File> =
            rotation::open_all(path)?.into_iter().map(|(_, file)| file).collect();
        match (self.limit, self.after) {
            (Some(limit), None) => self.newest(&files, limit, take),
            (limit, _) => self.oldest_first(&files, limit.unwrap_or(u64::MAX), take),
        }
    }

    fn oldest_first(
        &self,
        files: &[File],
        limit: u64,
        take: &mut dyn FnMut(Vec<u8>) -> bool,
    ) -> io::Result<()> {
        let mut left = limit;
        for (number, file) in files.iter().enumerate() {
            // Where the next one's first event is too early, so is all of this one.
            if let Some(next) = files.get(number + 1)
                && let Some((_, second)) = line_at(next, 0)?
                && let Some((line, _)) = line_at(next, second)?
                && self.fit(&line) == Fit::TooEarly
            {
                continue;
            }
            let mut at = seek(file, |line| Some(self.fit(line) == Fit::TooEarly))?;
            while left > 0
                && let Some((mut line, next)) = line_at(file, at)?
            {
                at = next;
                match self.fit(&line) {
                    Fit::Wanted => {
                        left -= 1;
                        line.push(b'\n');
                        if !take(line) {
                            return Ok(());
                        }
                    }
                    Fit::TooLate => return Ok(()),
                    Fit::Not | Fit::TooEarly => {}
                }
            }
        }
        Ok(())
    }

    fn newest(
        &self,
        files: &[File],
        limit: u64,
        take: &mut dyn FnMut(Vec<u8>) -> bool,
    ) -> io::Result<()> {
        let mut places = Vec::new();
        for (number, file) in files.iter().enumerate().rev() {
            let goes_on = from_its_end(file, |line, start| {
                match self.fit(line) {
                    Fit::Wanted => places.push((number, start, line.len())),
                    Fit::TooEarly => return false,
                    Fit::Not | Fit::TooLate => {}
                }
                (places.len() as u64) < limit
            })?;
            if !goes_on {
                break;
            }
        }
        for (number, start, length) in places.into_iter().rev() {
            let mut line = vec![b'\n'; length + 1];
            files[number].read_exact_at(&mut line[..length], start)?;
            if !take(line) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Each whole line and where it begins, the last first, until `take` wants no more. Whether it
/// wanted all.
fn from_its_end(file: &File, mut take: impl FnMut(&[u8], u64) -> bool) -> io::Result<bool> {
    let mut end = file.metadata()?.len();
    let mut wanted = WINDOW_BYTES;
    let mut is_whole = false;
    while end > 0 {
        let start = end.saturating_sub(wanted);
        let mut window = vec![0; (end - start) as usize];
        file.read_exact_at(&mut window, start)?;
        // Up to the last newline; what stands behind that of the file is no whole line.
        let Some(last) = window.iter().rposition(|byte| *byte == b'\n') else {
            if start == 0 || wanted > 2 * MAX_LINE_BYTES as u64 {
                return Ok(true);
            }
            wanted *= 4;
            continue;
        };
        if !is_whole {
            window.truncate(last + 1);
            end = start + last as u64 + 1;
            is_whole = true;
        }
        // The window's first line may have begun before it.
        let first = match window.iter().position(|byte| *byte == b'\n') {
            _ if start == 0 => 0,
            Some(newline) if newline + 1 < window.len() => newline + 1,
            _ if wanted > 2 * MAX_LINE_BYTES as u64 => return Ok(true),
            _ => {
                wanted *= 4;
                continue;
            }
        };
        let mut line_end = window.len() - 1;
        loop {
            let line_start = window[first..line_end]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(first, |at| first + at + 1);
            if !take(&window[line_start..line_end], start + line_start as u64) {
                return Ok(false);
            }
            if line_start == first {
                break;
            }
            line_end = line_start - 1;
        }
        end = start + first as u64;
        wanted = WINDOW_BYTES;
    }
    Ok(true)
}

/// A moment as people write it: RFC 3339, or so long before `now`: `90s`, `15m`, `1h`, `2d`.
pub fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let (number, unit_s) = match text.chars().last()? {
        's' => (&text[..text.len() - 1], 1),
        'm' => (&text[..text.len() - 1], 60),
        'h' => (&text[..text.len() - 1], 3600),
        'd' => (&text[..text.len() - 1], 86_400),
        _ => return None,
    };
    let seconds = number.parse::<u32>().ok()?;
    now.checked_sub(SignedDuration::from_secs(i64::from(seconds) * unit_s)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::file::{AuditFile, FileLimits};
    use super::*;

    /// One event a second; every third of them an exec of `web`, the others exits of `db`.
    fn write(directory: &Path, max_bytes: u64, events: i64) -> u64 {
        let path = directory.join("audit.jsonl");
        let mut file = AuditFile::open(FileLimits { path, max_bytes, keep_files: 5 }).unwrap();
        for n in 0..events {
            let (kind, name) = if n % 3 == 0 { ("exec", "web") } else { ("exit", "db") };
            let time = at(n);
            let long = "x".repeat(if n % 500 == 7 { 300_000 } else { 200 });
            let object = format!(
                r#"{{"event":{{"action":"{kind}"}},"@timestamp":"{time}","container":{{"id":"c{name}","name":"{name}"}},"n":{n},"t":"{long}"}}"#
            );
            file.append(format!("{object}\n").as_bytes(), 1);
        }
        file.head().sequence
    }

    fn at(n: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + n).unwrap()
    }

    fn run(directory: &Path, query: &Query) -> Vec<i64> {
        let mut numbers = Vec::new();
        let mut take = |line: Vec<u8>| {
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert!(line.ends_with(b"\"}\n"));
            numbers.extend(value["n"].as_i64());
            true
        };
        query.run(&directory.join("audit.jsonl"), &mut take).unwrap();
        numbers
    }

    #[test]
    fn lines_are_found_by_time_container_kind_and_number() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), 1_000_000, 3000);
        let execs = Filter { container: Some("web".into()), kinds: vec!["exec".into()] };
        let all = Query::default();
        assert_eq!(run(directory.path(), &all), (0..3000).collect::<Vec<_>>());
        for (since, until) in [(0, 10), (999, 1400), (2990, 4000), (-5, 3), (1499, 1500)] {
            let between = |numbers: std::ops::Range<i64>, step: usize| -> Vec<i64> {
                numbers.filter(|n| (0..3000).contains(n)).filter(|n| n % step as i64 == 0).collect()
            };
            let query =
                Query { since: Some(at(since)), until: Some(at(until)), ..Query::default() };
            assert_eq!(run(directory.path(), &query), between(since..until, 1), "{since} {until}");
            let query = Query { filter: execs.clone(), ..query };
            let expected = between(since..until, 3);
            assert_eq!(run(directory.path(), &query), expected);
            for limit in [1, 3, 200] {
                let query = Query { limit: Some(limit), ..query.clone() };
                let newest = expected[expected.len().saturating_sub(limit as usize)..].to_vec();
                assert_eq!(run(directory.path(), &query), newest, "{since} {until} {limit}");
            }
        }
        let newest = Query { limit: Some(2000), ..Query::default() };
        let numbers = run(directory.path(), &newest);
        assert_eq!(numbers.last(), Some(&2999));
        assert!(numbers.len() >= 1990 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let elsewhere = Filter { container: Some("nobody".into()), ..Filter::default() };
        assert!(run(directory.path(), &Query { filter: elsewhere, ..Query::default() }).is_empty());
    }

    #[test]
    fn pages_follow_each_other_without_a_hole_or_a_double() {
        let directory = tempfile::tempdir().unwrap();
        let last = write(directory.path(), 100_000, 700);
        let (mut after, mut pages, mut numbers) = (0, 0, Vec::new());
        while after < last {
            let query = Query { after: Some(after), limit: Some(50), ..Query::default() };
            let mut take = |line: Vec<u8>| {
                after = Link::parse(line.strip_suffix(b"\n").unwrap()).unwrap().head.sequence;
                numbers.push(after);
                true
            };
            query.run(&directory.path().join("audit.jsonl"), &mut take).unwrap();
            pages += 1;
        }
        assert_eq!(pages, numbers.len().div_ceil(50));
        assert_eq!(numbers, (numbers[0]..=last).collect::<Vec<_>>());
    }

    #[test]
    fn a_moment_is_a_time_or_a_while_ago() {
        let now = at(0);
        let ago = |seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok();
        assert_eq!(moment("2027-01-15T08:00:00Z", now), Some(at(0)));
        assert_eq!(moment("90s", now), ago(90));
        assert_eq!(moment("15m", now), ago(900));
        assert_eq!(moment("1h", now), ago(3600));
        assert_eq!(moment("2d", now), ago(172_800));
        for text in ["", "h", "1", "-1h", "1.5h", "yesterday", "9999999999d", "1é"] {
            assert_eq!(moment(text, now), None, "{text}");
        }
    }
}
