//! The shim's one loop: `poll`, then one look at each thing that is ready.
//!
//! Owns the connections and the phase; asks `lifecycle` what an event means and
//! executes the answer. Called by `main`; when it returns the shim exits.

mod ready;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, accept_with};
use tenantry_shim::protocol::{Failure, Reply, Request};

use crate::connection::Connection;
use crate::container::{Container, ExecNews, reaped};
use crate::failure::failure;
use crate::hold::Switch;
use crate::lifecycle::{Action, Event, Phase, next};
use crate::log_file::{Transfer, unix_ns};
use crate::serve::ready::{Source, timespec_until};

/// More clients wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 64;

/// For clients that are slow to take their last reply.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Shim {
    phase: Phase,
    container: Option<Container>,
    failure: Option<Failure>,
    listener: OwnedFd,
    connections: Vec<Connection>,
    accepted: u64,
    /// Some connection has asked to watch.
    watched: bool,
    born: Instant,
    drain_started: Instant,
    last_output: Instant,
    switch: Switch,
}

impl Shim {
    /// Of a container that waits at its gate, or of one whose start failed.
    pub fn new(launched: Result<Container, Failure>, listener: OwnedFd) -> Self {
        let now = Instant::now();
        let (phase, container, failure) = match launched {
            Ok(container) => (Phase::Gate, Some(container), None),
            Err(failure) => (Phase::Failed, None, Some(failure)),
        };
        Self {
            phase,
            container,
            failure,
            listener,
            connections: Vec::new(),
            accepted: 0,
            watched: false,
            born: now,
            drain_started: now,
            last_output: now,
            switch: Switch::default(),
        }
    }

    pub fn serve(mut self) {
        loop {
            let ready = self.wait();
            for source in ready {
                if self.look_at(source) {
                    return self.take_leave();
                }
            }
            self.connections.retain(Connection::is_open);
            if let Some(container) = &mut self.container {
                container.look_at_readers();
            }
            // After the requests that were there: a renewal that came in time counts.
            self.switch.look_at_the_clock();
            if let Some(event) = self.silence()
                && self.happen(event)
            {
                return self.take_leave();
            }
        }
    }

    /// `true`: the shim is done.
    fn look_at(&mut self, source: Source) -> bool {
        match source {
            Source::Channel => self.look_at_channel(),
            Source::Output(stream) => {
                if let Some(container) = &mut self.container
                    && container.transfer(stream) == Transfer::Bytes
                {
                    self.last_output = Instant::now();
                }
                false
            }
            Source::ExecChannel(pid) => {
                if let Some(container) = &mut self.container {
                    let news = container.look_at_exec_channel(pid);
                    self.tell_execution(news);
                }
                false
            }
            Source::ExecProcess(pid) => {
                if let Some(container) = &mut self.container {
                    for news in container.look_at_exec_process(pid) {
                        self.tell_execution(Some(news));
                    }
                }
                false
            }
            Source::Init => self.look_at_init(),
            Source::Command => {
                self.switch.look_at_command();
                false
            }
            Source::Connection(index) => self.look_at_connection(index),
            Source::Listener => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                if let Ok(socket) = accept_with(&self.listener, flags) {
                    self.accepted += 1;
                    self.connections.push(Connection::new(self.accepted, socket));
                }
                false
            }
        }
    }

    fn look_at_channel(&mut self) -> bool {
        use crate::channel::FromChild;
        let Some(container) = &mut self.container else { return false };
        loop {
            match container.channel.receive() {
                Some(FromChild::Terminal(pty)) => container.take_terminal(pty),
                Some(FromChild::Ready) => {}
                Some(FromChild::Failed(failure)) => {
                    self.failure = Some(failure);
                    return self.happen(Event::ChildFailed);
                }
                Some(FromChild::Closed) => return self.happen(Event::ChannelClosed),
                None => return false,
            }
        }
    }

    fn look_at_init(&mut self) -> bool {
        // Its channel was closed before it ended, maybe after `poll` had looked.
        if self.phase == Phase::Starting && self.look_at_channel() {
            return true;
        }
        let Some(container) = &mut self.container else { return false };
        let Some(status) = reaped(container.pidfd.as_fd()) else { return false };
        container.status = Some(status);
        container.end_the_rest();
        self.happen(Event::InitEnded)
    }

    fn look_at_connection(&mut self, index: usize) -> bool {
        let connection = &mut self.connections[index];
        connection.flush();
        connection.receive();
        while let Some(request) = self.connections[index].next_request() {
            if self.answer(index, request) {
                return true;
            }
        }
        false
    }

    fn answer(&mut self, index: usize, request: Request) -> bool {
        match request {
            Request::Watch => {
                self.watched = true;
                self.connections[index].watching = true;
                if let Some(reply) = self.state() {
                    self.connections[index].send(&reply);
                }
                self.phase == Phase::Failed && self.happen(Event::WatcherTold)
            }
            Request::Start => {
                self.connections[index].watching && self.happen(Event::StartRequested)
            }
            Request::Signal { signal } => {
                let alive = matches!(self.phase, Phase::Gate | Phase::Starting | Phase::Running);
                let container = self.container.as_ref().filter(|_| alive);
                let errno = container.map_or(libc::ESRCH, |container| container.signal(signal));
                self.connections[index].send(&Reply::Signalled { errno });
                false
            }
            Request::Exec(process) => {
                let connection = &mut self.connections[index];
                let descriptors = connection.take_descriptors();
                let started = match &mut self.container {
                    Some(container) if self.phase == Phase::Running => {
                        container.execute(connection.id, &process, descriptors)
                    }
                    _ => Err(failure("exec", "no running container", rustix::io::Errno::SRCH)),
                };
                if let Err(failure) = started {
                    connection.send(&Reply::ExecFailed(failure));
                }
                false
            }
            Request::Hold(hold) => {
                let lapse = self.switch.hold(hold);
                self.connections[index].send(&Reply::Held { lapse });
                false
            }
            Request::LetGo => {
                let lapse = self.switch.let_go();
                self.connections[index].send(&Reply::Held { lapse });
                false
            }
            Request::Terminal => {
                let terminal = self.container.as_ref().and_then(Container::share_terminal);
                match terminal {
                    Some(terminal) => {
                        self.connections[index].send_with(&Reply::Terminal, terminal);
                    }
                    None => self.connections[index].send(&Reply::NoTerminal),
                }
                false
            }
            Request::SignalExec { signal } => {
                let connection = &mut self.connections[index];
                let errno = self.container.as_ref().map_or(libc::ESRCH, |container| {
                    container.signal_execution(connection.id, signal)
                });
                connection.send(&Reply::Signalled { errno });
                false
            }
        }
    }

    /// What a new watcher is told first.
    fn state(&self) -> Option<Reply> {
        if let Some(failure) = &self.failure {
            return Some(Reply::Failed(failure.clone()));
        }
        let container = self.container.as_ref()?;
        Some(match self.phase {
            Phase::Gate | Phase::Starting | Phase::Failed => Reply::Created { pid: container.pid },
            Phase::Running | Phase::Draining => container.running(),
        })
    }

    fn happen(&mut self, event: Event) -> bool {
        let (phase, action) = next(self.phase, event);
        self.phase = phase;
        match action {
            Action::Nothing => false,
            Action::OpenGate => {
                if let Some(container) = &self.container {
                    // A child that died before this says so through the channel.
                    let _ = container.channel.go();
                }
                false
            }
            Action::SayRunning => {
                if let Some(container) = &mut self.container {
                    container.started_unix_ns = unix_ns();
                    let reply = container.running();
                    self.tell_watchers(&reply);
                }
                false
            }
            Action::UndoAndSayFailed => self.undo_and_say_failed(),
            Action::KeepStatus => {
                if let Some(container) = &mut self.container {
                    container.let_output_end();
                }
                self.drain_started = Instant::now();
                self.last_output = self.drain_started;
                false
            }
            Action::Conclude => {
                if let Some(reply) = self.container.as_mut().and_then(Container::conclude) {
                    self.tell_watchers(&reply);
                }
                true
            }
            Action::UndoAndLeave => {
                if let Some(container) = self.container.take() {
                    container.undo();
                }
                true
            }
            Action::Leave => true,
        }
    }

    fn undo_and_say_failed(&mut self) -> bool {
        if let Some(container) = self.container.take() {
            container.undo();
        }
        let failure = self.failure.get_or_insert_with(|| {
            let object = "the first process, which ended before its program was executed";
            failure("start", object, rustix::io::Errno::CANCELED)
        });
        let reply = Reply::Failed(failure.clone());
        self.tell_watchers(&reply) && self.happen(Event::WatcherTold)
    }

    /// Whether there was anybody to tell.
    fn tell_watchers(&mut self, reply: &Reply) -> bool {
        let mut told = false;
        for connection in self.connections.iter_mut().filter(|connection| connection.watching) {
            connection.send(reply);
            told |= connection.is_open();
        }
        told
    }

    fn tell_execution(&mut self, news: Option<(u64, ExecNews)>) {
        let Some((id, news)) = news else { return };
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
            match news {
                ExecNews::Said(reply) => connection.send(&reply),
                ExecNews::Terminal(master) => connection.send_with(&Reply::Terminal, master),
            }
        }
    }

    fn take_leave(mut self) {
        let end = Instant::now() + FAREWELL_WAIT;
        while Instant::now() < end {
            self.connections.retain(|c| c.is_open() && c.wants_to_write());
            if self.connections.is_empty() {
                return;
            }
            let watch = |connection| PollFd::from_borrowed_fd(connection, PollFlags::OUT);
            let mut polled: Vec<_> = self.connections.iter().map(|c| watch(c.as_fd())).collect();
            let _ = poll(&mut polled, Some(&timespec_until(end)));
            drop(polled);
            self.connections.iter_mut().for_each(Connection::flush);
        }
    }
}
