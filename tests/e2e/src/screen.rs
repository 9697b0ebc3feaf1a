//! A terminal of the test's own, with a program at it, as a person has one.

use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::patience;

#[derive(Debug)]
pub struct Screen {
    master: OwnedFd,
    child: Child,
    /// Everything that was shown.
    shown: Vec<u8>,
    /// How much of it was looked at.
    read: usize,
}

impl Screen {
    /// Runs the command at a new terminal, which controls its session.
    pub fn open(command: &Command, (rows, columns): (u16, u16)) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).expect("a terminal");
        rustix::pty::unlockpt(&master).expect("unlockpt");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&*name, flags, Mode::empty()).expect("its other end");
        rustix::io::ioctl_fionbio(&master, true).expect("non-blocking");
        resize(&master, rows, columns);
        let end = || slave.try_clone().expect("a copy");
        // The program's own parent may not make a session in it.
        let mut setsid = Command::new("setsid");
        setsid.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(name, value),
                None => setsid.env_remove(name),
            };
        }
        let child = setsid.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid runs");
        Self { master, child, shown: Vec::new(), read: 0 }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.master, rows, columns);
    }

    pub fn type_text(&self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&self.master, rest) {
                Ok(written) => rest = &rest[written..],
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Waits until this is shown, after what was expected before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + patience(20);
        loop {
            let unread = &self.shown[self.read..];
            if let Some(at) =
                unread.windows(text.len()).position(|window| window == text.as_bytes())
            {
                self.read += at + text.len();
                return;
            }
            let shown = String::from_utf8_lossy(unread);
            assert!(Instant::now() < deadline, "{text:?} was not shown, but {shown:?}");
            if !self.look() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Reads what is there, if anything is.
    fn look(&mut self) -> bool {
        let mut piece = [0; 4096];
        let read = rustix::io::read(&self.master, &mut piece).unwrap_or(0);
        self.shown.extend_from_slice(&piece[..read]);
        read > 0
    }

    /// Waits for the program's end: its code, and all that was shown.
    #[track_caller]
    pub fn wait(mut self) -> (i32, String) {
        let deadline = Instant::now() + patience(30);
        loop {
            let more = self.look();
            if let Some(status) = self.child.try_wait().expect("wait")
                && !more
            {
                let shown = String::from_utf8_lossy(&self.shown).into_owned();
                return (status.code().unwrap_or(-1), shown);
            }
            let shown = String::from_utf8_lossy(&self.shown);
            assert!(Instant::now() < deadline, "it does not end, and has shown {shown:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Screen {
    /// After a failed test.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn resize(master: &OwnedFd, ws_row: u16, ws_col: u16) {
    let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("a size");
}
