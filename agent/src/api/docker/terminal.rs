//! Terminals: their size, what is typed into them, and the keys that leave one.
//!
//! [`Keys`] and [`Scanner`] are pure. The terminals themselves are the shims' and, for
//! exec, the connection's.

use std::os::fd::OwnedFd;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use tenantry_container::{Action, WindowSize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;

use super::super::Shared;
use crate::api::error::{ApiError, ApiResult};

/// Docker's: nothing that a shell or an editor needs often.
const DEFAULT_KEYS: &str = "ctrl-p,ctrl-q";
const MOST_KEYS: usize = 16;

#[derive(Debug, Deserialize)]
pub struct ResizeQuery {
    h: u16,
    w: u16,
}

impl From<ResizeQuery> for WindowSize {
    fn from(query: ResizeQuery) -> Self {
        Self { rows: query.h, columns: query.w }
    }
}

/// `POST /containers/{id}/resize`.
pub async fn resize(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<ResizeQuery>,
) -> ApiResult<StatusCode> {
    let (height, width) = (query.h.to_string(), query.w.to_string());
    app.engine.resize(&id, query.into()).await?;
    app.engine.note(&id, Action::Resize, &[("height", height), ("width", width)])?;
    Ok(StatusCode::OK)
}

/// Rows and columns as `ConsoleSize` has them.
pub fn console_size(sizes: Option<&[usize]>) -> WindowSize {
    let at = |index: usize| sizes.and_then(|sizes| u16::try_from(*sizes.get(index)?).ok());
    WindowSize { rows: at(0).unwrap_or(0), columns: at(1).unwrap_or(0) }
}

/// What has to be typed to leave a terminal and let the program run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl Keys {
    /// `a`, `ctrl-p,ctrl-q`, `ctrl-p,x`; nothing is Docker's default.
    pub fn parse(text: Option<&str>) -> ApiResult<Self> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or(DEFAULT_KEYS);
        let allowed = "up to 16 keys separated by commas, each one character or ctrl-KEY";
        let refused = || ApiError::invalid("detachKeys", text, allowed);
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>().ok_or_else(refused)?;
        if keys.len() > MOST_KEYS { Err(refused()) } else { Ok(Self(keys)) }
    }
}

fn key(text: &str) -> Option<u8> {
    let one = |text: &str| match text.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    };
    let Some(name) = text.strip_prefix("ctrl-") else { return one(text) };
    match one(name)? {
        letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
        other @ (b'@' | b'['..=b'_') => Some(other - b'@'),
        _ => None,
    }
}

/// Looks for the keys in what is typed, however it is cut into pieces.
#[derive(Debug)]
pub struct Scanner {
    keys: Keys,
    matched: usize,
}

impl Scanner {
    pub fn new(keys: Keys) -> Self {
        Self { keys, matched: 0 }
    }

    /// What is for the program, and whether the keys are complete; what follows them is
    /// nobody's. What may yet become the keys is held back.
    pub fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let Self { keys: Keys(keys), matched } = self;
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            // The longest beginning of the keys that what was held back and this byte end in.
            let mut seen = keys[..*matched].to_vec();
            seen.push(*byte);
            let start = (0..seen.len()).find(|start| keys.starts_with(&seen[*start..]));
            let start = start.unwrap_or(seen.len());
            passed.extend_from_slice(&seen[..start]);
            *matched = seen.len() - start;
            if *matched == keys.len() {
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// By the keys.
    Detached,
    /// The client types no more, or the terminal is hung up.
    Ended,
}

/// Copies what a client types to a terminal's master.
pub async fn type_into(mut reader: impl AsyncRead + Unpin, master: OwnedFd, keys: Keys) -> Left {
    // No pipe, but it waits and is written to just the same.
    let Ok(mut master) = pipe::Sender::from_owned_fd_unchecked(master) else { return Left::Ended };
    let mut scanner = Scanner::new(keys);
    let mut piece = vec![0; 4 << 10];
    loop {
        let length = reader.read(&mut piece).await.unwrap_or(0);
        if length == 0 {
            return Left::Ended;
        }
        let (passed, detached) = scanner.take(&piece[..length]);
        if master.write_all(&passed).await.is_err() {
            return Left::Ended;
        }
        if detached {
            return Left::Detached;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_dockers_client_writes_them() {
        let check = |text, expected: &[u8]| {
            assert_eq!(Keys::parse(text).unwrap(), Keys(expected.to_vec()), "{text:?}");
        };
        check(None, &[16, 17]);
        check(Some(""), &[16, 17]);
        check(Some("a"), b"a");
        check(Some("ctrl-x,x,ctrl-[,ctrl-@,ctrl-_"), &[24, b'x', 27, 0, 31]);
        for wrong in ["ctrl-", "ctrl-ab", "ab", "a,,b", &"a,".repeat(20)] {
            let error = Keys::parse(Some(wrong)).unwrap_err();
            assert!(error.message.contains("detachKeys"), "{}", error.message);
        }
    }

    #[test]
    fn keys_are_found_in_whatever_pieces_they_come() {
        let check = |pieces: &[&[u8]], passed: &[u8], found| {
            let mut scanner = Scanner::new(Keys(b"aab".to_vec()));
            let mut all = Vec::new();
            let mut detached = false;
            for piece in pieces {
                let (more, now) = scanner.take(piece);
                all.extend(more);
                detached |= now;
            }
            assert_eq!((all.as_slice(), detached), (passed, found), "{pieces:?}");
        };
        check(&[b"xaaby"], b"x", true);
        check(&[b"xa", b"a", b"b"], b"x", true);
        check(&[b"aaab"], b"a", true);
        check(&[b"aacab"], b"aacab", false);
        check(&[b"aaca"], b"aac", false);
        check(&[b"ls\n"], b"ls\n", false);
        check(&[b"a", b"x"], b"ax", false);
    }

    #[test]
    fn a_console_of_two_numbers_has_a_size() {
        let size = |sizes: Option<&[usize]>| {
            let size = console_size(sizes);
            (size.rows, size.columns)
        };
        assert_eq!(size(Some(&[24, 80])), (24, 80));
        assert_eq!(size(Some(&[70_000])), (0, 0));
        assert_eq!(size(None), (0, 0));
    }
}
