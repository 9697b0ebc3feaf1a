//! Reads what a Rust test program prints and turns it into counts.
//!
//! A test that cannot run prints `SKIPPED: why` and returns; libtest calls that
//! "ok". With `--show-output` libtest also prints what each passing test said, under
//! the test's name, so the two are put together here: such a test counts as skipped.
//! Pure: lines in, a tally out.

/// One test that did not pass, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub test: String,
    pub why: String,
}

/// Stands for a test's name where a program failed as a whole.
pub const PROGRAM: &str = "(the program)";

/// What one or more test programs came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: Vec<Outcome>,
    pub skipped: Vec<Outcome>,
    /// Failed first and passed, or were skipped, when run once more; counted there, too.
    pub unsteady: Vec<Outcome>,
    /// Each program that began came to its end.
    pub complete: bool,
}

/// Where in libtest's output the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Running,
    /// What passing tests printed.
    Successes,
    /// What failing tests printed.
    Failures,
}

/// What a failing test said, while it is read.
#[derive(Debug)]
struct Panic {
    why: String,
    /// The message may go on in the next line.
    open: bool,
}

/// Bytes of a panic's message after which no further line of it is taken.
const LONGEST_WHY: usize = 400;

/// Fed line by line; says of each line whether a person wants to see it.
#[derive(Debug)]
pub struct Reader {
    part: Part,
    /// Test whose captured output is being read.
    section: Option<String>,
    /// Test whose result has not come yet: other output may stand between the two.
    pending: Option<String>,
    ok: Vec<String>,
    failed: Vec<Outcome>,
    skipped: Vec<Outcome>,
    /// What the failing test of the section said when it panicked, as far as it was read.
    panic: Option<Panic>,
    /// Programs whose `running N tests` was seen, and whose `test result` was.
    begun: usize,
    ended: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            part: Part::Running,
            section: None,
            pending: None,
            ok: Vec::new(),
            failed: Vec::new(),
            skipped: Vec::new(),
            panic: None,
            begun: 0,
            ended: 0,
        }
    }
}

impl Reader {
    /// Takes one line of output; `true` if it is worth showing.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some(at) = line.find("SKIPPED:") {
            self.skip(line[at + "SKIPPED:".len()..].trim());
            return true;
        }
        if is_running(line) {
            self.begun += 1;
            self.part = Part::Running;
            return false;
        }
        if line.starts_with("test result: ") {
            self.ended += 1;
            self.part = Part::Running;
            self.section = None;
            return false;
        }
        match line {
            "successes:" => self.part = Part::Successes,
            "failures:" => self.part = Part::Failures,
            _ if self.part == Part::Running => return self.running_line(line),
            _ => {
                match section_title(line) {
                    Some(test) => {
                        self.section = Some(test.to_owned());
                        self.panic = None;
                    }
                    None if self.part == Part::Failures => self.failure_line(line),
                    None => {}
                }
                return self.part == Part::Failures && !line.is_empty();
            }
        }
        self.section = None;
        false
    }

    fn running_line(&mut self, line: &str) -> bool {
        if let Some((test, result)) = test_line(line) {
            let test = test.strip_suffix(" - should panic").unwrap_or(test).to_owned();
            if !self.result(&test, result) {
                self.pending = Some(test);
            }
            return true;
        }
        if let Some(test) = self.pending.take() {
            // With one thread libtest prints the name first; the result may follow
            // on a later line, behind what the test wrote past the capture.
            let word = ["ok", "FAILED"].into_iter().find(|word| line.ends_with(word));
            if !word.is_some_and(|word| self.result(&test, word)) {
                self.pending = Some(test);
            }
        }
        !line.is_empty()
    }

    /// Books a result; `false` if `result` is none.
    fn result(&mut self, test: &str, result: &str) -> bool {
        let outcome = |why: &str| Outcome { test: test.to_owned(), why: why.to_owned() };
        match result {
            "ok" => self.ok.push(test.to_owned()),
            "FAILED" => self.failed.push(outcome("failed")),
            "ignored" => self.skipped.push(outcome("ignored")),
            other => match other.strip_prefix("ignored, ") {
                Some(why) => self.skipped.push(outcome(why)),
                None => return false,
            },
        }
        true
    }

    /// Puts the first panic's place and message in the section's outcome.
    fn failure_line(&mut self, line: &str) {
        let place = panic_place(line);
        match (&mut self.panic, place) {
            (None, Some(place)) => {
                self.panic = Some(Panic { why: format!("{place}:"), open: true });
            }
            (Some(panic), None) if panic.open => {
                panic.open = !ends_message(line) && panic.why.len() < LONGEST_WHY;
                if !panic.open {
                    return;
                }
                panic.why += &format!(" {}", line.trim());
            }
            _ => return,
        }
        let outcome =
            self.failed.iter_mut().find(|failed| Some(&failed.test) == self.section.as_ref());
        if let (Some(outcome), Some(panic)) = (outcome, &self.panic) {
            outcome.why.clone_from(&panic.why);
        }
    }

    fn skip(&mut self, said: &str) {
        let named = self.section.clone().or_else(|| self.pending.clone());
        let (test, why) = match named {
            Some(test) => {
                let why = said.strip_prefix(&test).and_then(|rest| rest.strip_prefix(':'));
                let why = why.unwrap_or(said).trim().to_owned();
                (test, why)
            }
            // Outside of any test's output: the convention puts the name in front.
            None => match said.split_once(':') {
                Some((test, why)) => (test.trim().to_owned(), why.trim().to_owned()),
                None => (said.to_owned(), said.to_owned()),
            },
        };
        if !self.skipped.iter().any(|known| known.test == test) {
            self.skipped.push(Outcome { test, why });
        }
    }

    /// The tally at the end. `end` says how the program ended if not with status 0:
    /// a failure unless failing tests explain it.
    pub fn finish(self, end: Option<&str>) -> Tally {
        let mut failed = self.failed;
        let skipped: Vec<Outcome> = self
            .skipped
            .into_iter()
            .filter(|skip| !failed.iter().any(|fail| fail.test == skip.test))
            .collect();
        let passed =
            self.ok.iter().filter(|test| !skipped.iter().any(|skip| skip.test == **test)).count();
        let complete = self.ended == self.begun;
        if let Some(why) = end
            && (failed.is_empty() || !complete)
        {
            let test = self.pending.unwrap_or_else(|| PROGRAM.to_owned());
            failed.push(Outcome { test, why: why.to_owned() });
        } else if !complete {
            let why = "ended without a result".to_owned();
            failed.push(Outcome { test: PROGRAM.to_owned(), why });
        }
        Tally { passed, failed, skipped, complete, ..Tally::default() }
    }
}

/// `running 3 tests`
fn is_running(line: &str) -> bool {
    line.strip_prefix("running ")
        .and_then(|rest| rest.strip_suffix(" tests").or(rest.strip_suffix(" test")))
        .is_some_and(|count| !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit()))
}

/// `test NAME ... RESULT` into name and result (which may be empty).
fn test_line(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("test ")?;
    let (test, result) =
        rest.split_once(" ... ").or_else(|| Some((rest.strip_suffix(" ...")?, "")))?;
    Some((test, result.trim()))
}

/// `---- NAME stdout ----`
fn section_title(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// A line as it is shown while the run goes on: a test that is to be run once more has not
/// `FAILED` before the report says so.
pub fn provisional(line: &str) -> String {
    match (test_line(line), line.strip_suffix("FAILED")) {
        (Some(_), Some(rest)) => format!("{rest}failed"),
        _ => line.to_owned(),
    }
}

/// `thread 'NAME' (17) panicked at FILE:LINE:COLUMN:` into the place.
fn panic_place(line: &str) -> Option<&str> {
    line.strip_prefix("thread '")?.split_once(" panicked at ")?.1.strip_suffix(':')
}

fn ends_message(line: &str) -> bool {
    line.is_empty() || line == "stack backtrace:" || line.starts_with("note: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, end: Option<&str>) -> Tally {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line);
        }
        reader.finish(end)
    }

    fn outcome(test: &str, why: &str) -> Outcome {
        Outcome { test: test.to_owned(), why: why.to_owned() }
    }

    #[test]
    fn a_passing_test_that_said_skipped_counts_as_skipped() {
        let tally = read(
            "\nrunning 3 tests\ntest a ... ok\ntest b ... ok\ntest c ... ok\n\nsuccesses:\n\n\
             ---- b stdout ----\nSKIPPED: b: not root\n\n---- c stdout ----\nSKIPPED: no docker client\n\n\n\
             successes:\n    a\n    b\n    c\n\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            None,
        );
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.skipped, [outcome("b", "not root"), outcome("c", "no docker client")]);
        assert_eq!(tally.failed, []);
    }

    #[test]
    fn failures_and_ignored_tests_are_told_apart() {
        let tally = read(
            "running 4 tests\ntest a - should panic ... ok\ntest b ... FAILED\ntest c ... ignored\n\
             test d ... ignored, slow\n\nfailures:\n\n---- b stdout ----\nSKIPPED: half of it\nboom\n\n\
             failures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 2 ignored\n",
            Some("exit status: 101"),
        );
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, [outcome("b", "failed")]);
        assert_eq!(tally.skipped, [outcome("c", "ignored"), outcome("d", "slow")]);
    }

    #[test]
    fn a_failure_says_where_and_why() {
        let tally = read(
            "running 2 tests\ntest a ... FAILED\ntest b ... FAILED\n\nfailures:\n\n---- a stdout ----\nchatter\n\
             thread 'a' (7) panicked at src/a.rs:9:5:\nassertion failed\n  left: 1\nstack backtrace:\n   0: x\n\
             thread 'a' (7) panicked at src/drop.rs:1:1:\nlater\n\n---- b stdout ----\nError: no\n\n\
             failures:\n    a\n    b\n\ntest result: FAILED. 0 passed; 2 failed\n",
            Some("exit status: 101"),
        );
        let why = "src/a.rs:9:5: assertion failed left: 1";
        assert_eq!(tally.failed, [outcome("a", why), outcome("b", "failed")]);
    }

    #[test]
    fn a_program_that_dies_is_a_failure_of_the_test_it_was_in() {
        let tally = read("running 2 tests\ntest a ... ok\ntest b ... \n", Some("signal: 6"));
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, [outcome("b", "signal: 6")]);
        let tally = read("", Some("exit status: 1"));
        assert_eq!(tally.failed, [outcome(PROGRAM, "exit status: 1")]);
        let tally = read("running 1 test\ntest a ... ok\n", None);
        assert_eq!(tally.failed, [outcome(PROGRAM, "ended without a result")]);
    }

    #[test]
    fn uncaptured_output_between_name_and_result_is_stepped_over() {
        let tally = read(
            "running 2 tests\ntest a ... from a child\nmore\nok\ntest b ... SKIPPED: b: why: really\nok\n\
             test result: ok. 2 passed\n",
            None,
        );
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.skipped, [outcome("b", "why: really")]);
        assert_eq!(tally.failed, []);
    }

    #[test]
    fn several_programs_in_one_stream_are_added_up() {
        let one =
            "running 1 test\ntest src/lib.rs - x (line 3) ... ok\n\ntest result: ok. 1 passed\n";
        let tally =
            read(&format!("{one}\nrunning 0 tests\n\ntest result: ok. 0 passed\n{one}"), None);
        assert_eq!(tally.passed, 2);
    }

    #[test]
    fn what_passing_tests_print_is_not_shown_and_what_failing_ones_print_is() {
        let mut reader = Reader::default();
        let text =
            "test a ... ok|successes:|---- a stdout ----|chatter|failures:|---- b stdout ----|boom";
        let shown: Vec<&str> = text.split('|').filter(|line| reader.line(line)).collect();
        assert_eq!(shown, ["test a ... ok", "---- b stdout ----", "boom"]);
    }
}
