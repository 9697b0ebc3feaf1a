//! The chain of hashes through the audit's lines. Values in, values out: no file is opened here.
//!
//! A line is a JSON object on one line. It begins with `{"seq":N,` and ends with
//! `,"hash":"H"}`. *H* is the SHA-256, as 64 lowercase hex digits, of the 64 digits of the line
//! before and of this line's bytes from its `{` up to its `,"hash":"`, without it. The first
//! line of each file is a `chain` line, which names the hash that it follows as `prev`: a file
//! is checked without the one before it, which may have been removed. The first line of all
//! follows 64 zeros.
//!
//! What this finds is an accident, and an edit by somebody who does not make all later hashes
//! anew. Who can write the file can do that, and can cut its end off: only a head that was
//! kept elsewhere shows it.

use std::fmt;
use std::io;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A longer line is none of ours: the kernel's side keeps some kilobytes of an exec.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// What [`seal`] adds to a line, its newline counted, at most.
pub const SEAL_BYTES: usize = OPENING.len() + 20 + HASH_OPENING.len() + HASH_BYTES + 2;

const OPENING: &[u8] = b"{\"seq\":";
const CHAIN_OPENING: &[u8] = b"\"event\":{\"action\":\"chain\"},\"prev\":\"";
const HASH_OPENING: &[u8] = b",\"hash\":\"";
const HASH_BYTES: usize = 64;
const CLOSING: &[u8] = b"\"}";

/// A SHA-256 as 64 lowercase hex digits, which is how it is hashed and written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; HASH_BYTES]);

impl Hash {
    /// What the first line of all follows.
    pub const NONE: Self = Self([b'0'; HASH_BYTES]);

    /// Of all parts, one after the other.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        Self::end(hasher)
    }

    pub fn of_content(mut content: impl io::Read) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match content.read(&mut buffer)? {
                0 => return Ok(Self::end(hasher)),
                bytes => hasher.update(&buffer[..bytes]),
            }
        }
    }

    fn end(hasher: Sha256) -> Self {
        let mut hex = [0; HASH_BYTES];
        for (digits, byte) in hex.chunks_exact_mut(2).zip(hasher.finalize()) {
            let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
            digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Self(hex)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let hex: [u8; HASH_BYTES] = text.try_into().ok()?;
        hex.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(hex))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|digit| write!(f, "{}", char::from(*digit)))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The last line of a chain, written `N:H`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first line of all has 1.
    pub sequence: u64,
    pub hash: Hash,
}

impl Head {
    /// Before the first line of all.
    pub const START: Self = Self { sequence: 0, hash: Hash::NONE };
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a sequence number, a colon and 64 hex digits, as `tenantry audit head` prints")]
pub struct NotAHead;

impl FromStr for Head {
    type Err = NotAHead;

    fn from_str(text: &str) -> Result<Self, NotAHead> {
        let (sequence, hash) = text.split_once(':').ok_or(NotAHead)?;
        let sequence = sequence.parse().map_err(|_| NotAHead)?;
        Ok(Self { sequence, hash: Hash::parse(hash.as_bytes()).ok_or(NotAHead)? })
    }
}

/// Puts a line behind `head`, which it moves, and its bytes with a newline behind `lines`.
///
/// `object` is a JSON object with one member at least, without a newline.
pub fn seal(head: &mut Head, object: &[u8], lines: &mut Vec<u8>) {
    let sequence = head.sequence + 1;
    let start = lines.len();
    lines.extend_from_slice(OPENING);
    lines.extend_from_slice(itoa::Buffer::new().format(sequence).as_bytes());
    lines.push(b',');
    let members = object.strip_prefix(b"{").unwrap_or(object);
    lines.extend_from_slice(members.strip_suffix(b"}").unwrap_or(members));
    let hash = Hash::of(&[&head.hash.0, &lines[start..]]);
    lines.extend_from_slice(HASH_OPENING);
    lines.extend_from_slice(&hash.0);
    lines.extend_from_slice(CLOSING);
    lines.push(b'\n');
    *head = Head { sequence, hash };
}

/// A line as its own bytes have it. Whether they are true is for [`follow`] to say.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    pub head: Head,
    /// What the hash is over, but for the hash before.
    hashed: &'a [u8],
    /// All members but `seq` and `hash`.
    members: &'a [u8],
}

impl<'a> Link<'a> {
    /// `line` without its newline. `None`: not in the form of a sealed line.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_suffix(CLOSING)?;
        let (rest, hash) = rest.split_at(rest.len().checked_sub(HASH_BYTES)?);
        let hashed = rest.strip_suffix(HASH_OPENING)?;
        let rest = hashed.strip_prefix(OPENING)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let sequence = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        let members = rest[digits..].strip_prefix(b",")?;
        let is_written_so = digits > 0 && rest[0] != b'0' && !line.contains(&b'\n');
        is_written_so.then_some(Self {
            head: Head { sequence, hash: Hash::parse(hash)? },
            hashed,
            members,
        })
    }

    /// What a `chain` line says it follows; `None` for any other line.
    pub fn previous(&self) -> Option<Hash> {
        let rest = self.members.strip_prefix(CHAIN_OPENING)?;
        Hash::parse(rest.get(..HASH_BYTES)?)
    }

    pub fn is_kind(&self, kind: &str) -> bool {
        self.members
            .strip_prefix(b"\"event\":{\"action\":\"")
            .and_then(|rest| rest.strip_prefix(kind.as_bytes()))
            .is_some_and(|rest| rest.starts_with(b"\""))
    }

    /// Whether its hash is over `previous` and its own bytes.
    pub fn follows(&self, previous: &Hash) -> bool {
        Hash::of(&[&previous.0, self.hashed]) == self.head.hash
    }

    /// Whether its hash is right but for its sequence number, which was `sequence`.
    fn was(&self, previous: &Hash, sequence: u64) -> bool {
        let number = sequence.to_string();
        let parts: [&[u8]; 5] = [&previous.0, OPENING, number.as_bytes(), b",", self.members];
        Hash::of(&parts) == self.head.hash
    }
}

/// Why a line does not continue the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Not in the form of a line of the chain.
    NotALine,
    /// The first line there is names no hash that it follows: those before it in its file are
    /// missing.
    NoBeginning,
    /// Its hash is not over its bytes and the hash before.
    Edited,
    /// `found` stands where `expected` should.
    Ahead { expected: u64, found: u64 },
    /// A sequence number that was there before.
    Behind { expected: u64, found: u64 },
}

/// The head after `line`. `head` is `None` for the first line that there is.
pub fn follow<'a>(head: Option<&Head>, line: &'a [u8]) -> Result<Link<'a>, Wrong> {
    let link = Link::parse(line).ok_or(Wrong::NotALine)?;
    let found = link.head.sequence;
    let previous = match head {
        None => link.previous().ok_or(Wrong::NoBeginning)?,
        Some(head) => head.hash,
    };
    let expected = head.map_or(found, |head| head.sequence + 1);
    if found != expected && link.was(&previous, expected) {
        return Err(Wrong::Edited);
    }
    match found.cmp(&expected) {
        std::cmp::Ordering::Greater => Err(Wrong::Ahead { expected, found }),
        std::cmp::Ordering::Less => Err(Wrong::Behind { expected, found }),
        std::cmp::Ordering::Equal if link.follows(&previous) => Ok(link),
        std::cmp::Ordering::Equal => Err(Wrong::Edited),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its hash was made by `sha256sum` and Python's hashlib.
    const FIRST: &str = r#"{"seq":1,"event":{"action":"chain"},"prev":"0000000000000000000000000000000000000000000000000000000000000000","@timestamp":"1970-01-01T00:00:00Z","hash":"fee2fddc3d628e9d37a4c80d8e1b548f7a352ad684e5a2c2ea7f7f848032b81b"}"#;
    const SECOND: &str = r#"{"seq":2,"path":"/bin/sh","note":"a \",\"hash\":\" b","hash":"694db4b3e59faa8da3ff616c4e929bfe8c28d759e532f4ab858833ceb0c73421"}"#;

    fn sealed(objects: &[&str]) -> (Head, String) {
        let (mut head, mut lines) = (Head::START, Vec::new());
        objects.iter().for_each(|object| seal(&mut head, object.as_bytes(), &mut lines));
        (head, String::from_utf8(lines).unwrap())
    }

    #[test]
    fn a_line_is_sealed_as_other_programs_do() {
        let zeros = "0".repeat(64);
        let chain = format!(
            r#"{{"event":{{"action":"chain"}},"prev":"{zeros}","@timestamp":"1970-01-01T00:00:00Z"}}"#
        );
        let exec = r#"{"path":"/bin/sh","note":"a \",\"hash\":\" b"}"#;
        let (head, text) = sealed(&[&chain, exec]);
        assert_eq!(text, format!("{FIRST}\n{SECOND}\n"));
        let added = text.len() - chain.len() - exec.len();
        assert_eq!(added, 2 * (SEAL_BYTES - 19), "a number of 20 digits adds 19");
        let first = follow(None, FIRST.as_bytes()).unwrap();
        assert_eq!(first.previous(), Some(Hash::NONE));
        assert!(first.is_kind("chain") && !first.is_kind("cha"));
        let second = follow(Some(&first.head), SECOND.as_bytes()).unwrap();
        assert_eq!((second.head, second.previous()), (head, None));
        assert_eq!(head.to_string().parse(), Ok(head));
    }

    #[track_caller]
    fn check(head: Option<&Head>, line: &str, expected: Wrong) {
        assert_eq!(follow(head, line.as_bytes()).map(|link| link.head), Err(expected), "{line}");
    }

    #[test]
    fn what_does_not_continue_the_chain_is_told_apart() {
        let one = Link::parse(FIRST.as_bytes()).unwrap().head;
        let two = Link::parse(SECOND.as_bytes()).unwrap().head;
        check(None, SECOND, Wrong::NoBeginning);
        check(Some(&one), &SECOND.replace("/bin/sh", "/bin/ls"), Wrong::Edited);
        check(Some(&one), &SECOND.replace("\"seq\":2", "\"seq\":7"), Wrong::Edited);
        check(Some(&Head::START), SECOND, Wrong::Ahead { expected: 1, found: 2 });
        check(Some(&two), SECOND, Wrong::Behind { expected: 3, found: 2 });
        check(None, &FIRST.replace("1970", "1971"), Wrong::Edited);
        for line in [
            "",
            "{}",
            r#"{"event":{"action":"exec"}}"#,
            &SECOND.replace("\"seq\":2", "\"seq\":02"),
            &SECOND.replace("\"seq\":2", "\"seq\":"),
            &SECOND.replace("\"seq\":2", "\"seq\":99999999999999999999"),
            &format!("{SECOND}\r"),
            &SECOND[..SECOND.len() - 1],
            &SECOND[1..],
        ] {
            check(Some(&one), line, Wrong::NotALine);
        }
    }

    #[test]
    fn a_head_that_nobody_printed_is_refused() {
        let hash = "a".repeat(64);
        for text in ["", "1", "1:", ":", &format!("x:{hash}"), &format!("1:{}", "A".repeat(64))] {
            assert_eq!(text.parse::<Head>(), Err(NotAHead), "{text}");
        }
    }
}
