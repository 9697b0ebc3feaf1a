//! The terminal that somebody sits at: raw while a container's is shown on it.
//!
//! Owns the local terminal's mode, its size, and reading from standard input without
//! keeping the program from ending.

use std::io::{IsTerminal as _, Read as _};
use std::pin::Pin;

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What was typed and not sent yet, in pieces.
const WAITING_PIECES: usize = 16;

/// Gives every key to whoever reads, until it is dropped.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("standard input is not a terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("cannot change the terminal")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no care.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// As Docker's client says it: what is typed at no terminal cannot go to one.
pub fn check_input(interactive: bool, terminal: bool) -> anyhow::Result<()> {
    let wrong = interactive && terminal && !std::io::stdin().is_terminal();
    anyhow::ensure!(!wrong, "the input device is not a terminal: leave out -t, or -i");
    Ok(())
}

/// Rows and columns, if standard output has them.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Tells `resize` of each new size, for as long as it is polled.
pub async fn follow_size(resize: impl AsyncFn(u16, u16)) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        if let Some((rows, columns)) = size() {
            resize(rows, columns).await;
        }
    }
}

/// Copies standard input until it ends. It is read by a thread of its own, which nobody waits
/// for: a key that is never pressed keeps no program from ending.
pub async fn copy_stdin(mut input: Pin<Box<dyn AsyncWrite + Send>>) {
    let (pieces, mut waiting) = mpsc::channel(WAITING_PIECES);
    std::thread::spawn(move || {
        let mut piece = [0; 4 << 10];
        while let Ok(length @ 1..) = std::io::stdin().read(&mut piece) {
            if pieces.blocking_send(piece[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    while let Some(piece) = waiting.recv().await {
        // A container that stopped reading is no error of ours.
        if input.write_all(&piece).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
    let _ = input.shutdown().await;
}
