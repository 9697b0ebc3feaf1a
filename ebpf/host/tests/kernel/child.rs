//! Children that wait at a gate until they are in their cgroup. Forks from a process with
//! threads: a child's body makes system calls and touches its own stack, nothing else.

use std::ffi::CStr;
use std::io;

use crate::groups::Container;

/// A forked child before its gate opens.
pub struct Child {
    pub pid: i32,
    gate: i32,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

impl Child {
    /// `body` runs in the child when the gate opens, and its result is the exit code. It
    /// must not allocate, lock or panic.
    pub fn gated(body: impl FnOnce() -> i32) -> Child {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: the child calls only what is safe after a fork of a process with threads.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            close(ends[1]);
            let mut byte = 0_u8;
            // SAFETY: reads one byte into `byte`.
            let opened = unsafe { libc::read(ends[0], (&raw mut byte).cast(), 1) } == 1;
            let code = if opened { body() } else { 126 };
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) };
        }
        close(ends[0]);
        Child { pid, gate: ends[1] }
    }

    /// A child that becomes another program.
    pub fn exec(path: &CStr, argv: &[&CStr]) -> Child {
        assert!(argv.len() < 8, "more arguments than the child has room for");
        Child::gated(|| {
            let mut pointers = [std::ptr::null(); 8];
            for (pointer, argument) in pointers.iter_mut().zip(argv) {
                *pointer = argument.as_ptr();
            }
            // SAFETY: strings with a NUL and a list that ends with null, alive in the child.
            unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
            127
        })
    }

    pub fn put(self, container: &Container) -> Child {
        container.add(self.pid);
        self
    }

    pub fn open_gate(&mut self) {
        // A byte, not the pipe's end: children that were forked later hold that end too.
        // SAFETY: writes one byte of a literal.
        unsafe { libc::write(self.gate, b"!".as_ptr().cast(), 1) };
    }

    /// Opens the gate and waits for the end.
    pub fn run(mut self) -> End {
        self.open_gate();
        self.wait()
    }

    pub fn wait(mut self) -> End {
        let status = self.reap();
        match libc::WIFSIGNALED(status) {
            true => End::Signal(libc::WTERMSIG(status)),
            false => End::Code(libc::WEXITSTATUS(status)),
        }
    }

    fn reap(&mut self) -> i32 {
        let mut status = 0;
        let pid = std::mem::replace(&mut self.pid, 0);
        // SAFETY: waits for a child of this process that nobody else waits for.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        status
    }
}

impl Drop for Child {
    /// Whoever was not waited for goes with the test.
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: a child that was not waited for, so that the id is still its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.reap();
        }
        close(self.gate);
    }
}

fn close(fd: i32) {
    // SAFETY: a descriptor that this module opened and uses no more.
    unsafe { libc::close(fd) };
}

/// A pipe that children read one byte each from.
pub struct Gate([i32; 2]);

impl Gate {
    pub fn new() -> Gate {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        Gate(ends)
    }

    pub fn wait(&self) -> bool {
        let mut byte = 0_u8;
        // SAFETY: reads one byte into `byte`.
        unsafe { libc::syscall(libc::SYS_read, self.0[0], &raw mut byte, 1) == 1 }
    }

    pub fn open_for(&self, children: usize) {
        let bytes = vec![b'!'; children];
        // SAFETY: writes as many bytes as there are; a pipe holds more.
        unsafe { libc::write(self.0[1], bytes.as_ptr().cast(), bytes.len()) };
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // SAFETY: descriptors of this gate, used no more.
        self.0.iter().for_each(|fd| unsafe {
            libc::close(*fd);
        });
    }
}

/// Whether it waits in a call.
pub fn sleeps(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid)).unwrap();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// A system call without arguments, past libc.
pub fn call(nr: libc::c_long) -> libc::c_long {
    // SAFETY: callers use calls that take no arguments and touch no memory.
    unsafe { libc::syscall(nr) }
}

pub fn call_often(times: u32, nr: libc::c_long) {
    for _ in 0..times {
        call(nr);
    }
}

pub fn sleep_ms(ms: i64) {
    let time = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    // SAFETY: reads `time`; the rest is not wanted.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const time, 0) };
}

/// Burns CPU on one processor for a while.
pub fn spin_ms(cpu: usize, ms: i64) {
    pin_to(0, cpu);
    burn_ms(ms);
}

/// Burns CPU wherever it is.
pub fn burn_ms(ms: i64) {
    let end = now_ms() + ms;
    while now_ms() < end {
        std::hint::spin_loop();
    }
}

/// Binds a process to one processor; 0 is the calling thread.
pub fn pin_to(pid: i32, cpu: usize) {
    // SAFETY: all zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: processors 0 to 1023 fit a set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    set_affinity(pid, &set);
}

/// Lets the calling thread run anywhere.
pub fn unpin() {
    // SAFETY: any bits are a set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: processors 0 to 1023 fit a set.
    (0..64).for_each(|cpu| unsafe { libc::CPU_SET(cpu, &mut set) });
    set_affinity(0, &set);
}

fn set_affinity(pid: i32, set: &libc::cpu_set_t) {
    // SAFETY: `set` is a set of its own size.
    unsafe { libc::sched_setaffinity(pid, size_of_val(set), std::ptr::from_ref(set)) };
}

pub fn now_ms() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}
