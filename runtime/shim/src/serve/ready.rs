//! What the shim waits for, and for how long.
//!
//! Reads the shim's state and changes none of it: `serve` looks at what is ready.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tenantry_shim::log::Stream;

use super::{MAX_CONNECTIONS, Shim};
use crate::container::Container;
use crate::lifecycle::{Event, Phase};

/// An agent that spawned a shim and never watched it is gone.
const FIRST_WATCH_WAIT: Duration = Duration::from_secs(30);

/// The first process has ended, somebody else holds its output open: how long
/// silence must last, and how long the shim listens at most.
const DRAIN_QUIET: Duration = Duration::from_millis(100);
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Nothing tells when a reader lets go of a piece of the log.
const LOOK_AT_READERS: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Channel,
    Output(Stream),
    /// By pid: one may go while another is looked at.
    ExecChannel(i32),
    ExecProcess(i32),
    Init,
    /// What the end of a lease has started.
    Command,
    Connection(usize),
    Listener,
}

impl Shim {
    /// What is ready, in an order that matters: what a child said comes before
    /// its end, output before the end of it, ends before new requests. Connections
    /// keep their index until all have been looked at.
    pub(super) fn wait(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        let mut polled = Vec::new();
        let mut add = |source, descriptor, flags| {
            sources.push(source);
            polled.push(PollFd::from_borrowed_fd(descriptor, flags));
        };
        if let Some(container) = &self.container {
            if matches!(self.phase, Phase::Gate | Phase::Starting) {
                add(Source::Channel, container.channel.as_fd(), PollFlags::IN);
            }
            if !container.is_held_up() {
                for (stream, pipe) in container.outputs() {
                    add(Source::Output(stream), pipe, PollFlags::IN);
                }
            }
            for execution in &container.executions {
                if let Some(channel) = &execution.channel {
                    add(Source::ExecChannel(execution.pid), channel.as_fd(), PollFlags::IN);
                }
                add(Source::ExecProcess(execution.pid), execution.pidfd.as_fd(), PollFlags::IN);
            }
            if self.phase != Phase::Draining {
                add(Source::Init, container.pidfd.as_fd(), PollFlags::IN);
            }
        }
        if let Some(command) = self.switch.command() {
            add(Source::Command, command, PollFlags::IN);
        }
        for (index, connection) in self.connections.iter().enumerate() {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, connection.wants_to_write());
            add(Source::Connection(index), connection.as_fd(), flags);
        }
        if self.connections.len() < MAX_CONNECTIONS {
            add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        }
        let held_up = self.container.as_ref().is_some_and(Container::is_held_up);
        let look = held_up.then(|| Instant::now() + LOOK_AT_READERS);
        let deadline = self.deadline().into_iter().chain(self.switch.deadline()).chain(look).min();
        let timeout = deadline.map(timespec_until);
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            // Nothing is ready; a loop without progress would only burn CPU.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        let ready = polled.iter().zip(sources).filter(|(fd, _)| !fd.revents().is_empty());
        ready.map(|(_, source)| source).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Gate | Phase::Failed if !self.watched => Some(self.born + FIRST_WATCH_WAIT),
            Phase::Draining => {
                Some((self.last_output + DRAIN_QUIET).min(self.drain_started + DRAIN_LIMIT))
            }
            _ => None,
        }
    }

    /// Events that are the absence of something.
    pub(super) fn silence(&self) -> Option<Event> {
        let late = self.deadline().is_some_and(|deadline| Instant::now() >= deadline);
        match self.phase {
            Phase::Gate | Phase::Failed => {
                let watchers = self.connections.iter().any(|connection| connection.watching);
                (!watchers && (self.watched || late)).then_some(Event::Abandoned)
            }
            Phase::Draining => {
                let container = self.container.as_ref();
                let ended = container.is_none_or(|container| container.outputs().next().is_none());
                (ended || late).then_some(Event::OutputOver)
            }
            Phase::Starting | Phase::Running => None,
        }
    }
}

pub(super) fn timespec_until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    // A millisecond more, so that the deadline has passed when the wait is over.
    let left = left + Duration::from_millis(1);
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}
