//! What a shim does next, as a table.
//!
//! Pure. `serve` turns what it sees into an [`Event`] and executes the [`Action`].
//!
//! ```text
//! Gate ──Start──▶ Starting ──ChannelClosed──▶ Running ──InitEnded──▶ Draining ──OutputOver──▶ (leave)
//!  │                 │
//!  │ last watcher    │ ChildFailed
//!  ▼                 ▼
//! (leave)          Failed ──WatcherTold──▶ (leave)
//! ```

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The child prepares itself or waits.
    Gate,
    /// The gate is open; `execve` has not succeeded yet.
    Starting,
    Running,
    /// The first process is gone; its last output is on the way to the log.
    Draining,
    /// Nothing of the container is left; somebody should hear why.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    StartRequested,
    /// The child told a failure and exits.
    ChildFailed,
    /// The child's end is closed: by `execve`, or by its death.
    ChannelClosed,
    InitEnded,
    OutputOver,
    /// No `Watch` connection is left, or none came in time.
    Abandoned,
    WatcherTold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    OpenGate,
    SayRunning,
    /// Kill what may be left of the child, reap it, tell the watchers.
    UndoAndSayFailed,
    /// Keep the status; go on reading output.
    KeepStatus,
    /// Exit file, `Exited`, exit.
    Conclude,
    /// Kill the child, reap it, exit without a word.
    UndoAndLeave,
    Leave,
}

pub fn next(phase: Phase, event: Event) -> (Phase, Action) {
    use Action as A;
    use Event as E;
    use Phase as P;
    match (phase, event) {
        (P::Gate, E::StartRequested) => (P::Starting, A::OpenGate),
        // Before the gate opens nothing closes the channel but death.
        (P::Gate, E::ChildFailed | E::ChannelClosed | E::InitEnded)
        | (P::Starting, E::ChildFailed) => (P::Failed, A::UndoAndSayFailed),
        (P::Gate, E::Abandoned) => (P::Gate, A::UndoAndLeave),
        (P::Starting, E::ChannelClosed) => (P::Running, A::SayRunning),
        (P::Starting | P::Running, E::InitEnded) => (P::Draining, A::KeepStatus),
        (P::Draining, E::OutputOver) => (P::Draining, A::Conclude),
        (P::Failed, E::WatcherTold | E::Abandoned) => (P::Failed, A::Leave),
        (phase, _) => (phase, A::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(events: &[Event], expected_phase: Phase, expected_last: Action) {
        let mut state = (Phase::Gate, Action::Nothing);
        for event in events {
            state = next(state.0, *event);
        }
        assert_eq!(state, (expected_phase, expected_last), "{events:?}");
    }

    #[test]
    fn a_container_starts_runs_and_ends() {
        use Event::*;
        check(&[StartRequested], Phase::Starting, Action::OpenGate);
        check(&[StartRequested, ChannelClosed], Phase::Running, Action::SayRunning);
        check(&[StartRequested, ChannelClosed, InitEnded], Phase::Draining, Action::KeepStatus);
        check(
            &[StartRequested, ChannelClosed, InitEnded, OutputOver],
            Phase::Draining,
            Action::Conclude,
        );
    }

    #[test]
    fn a_shut_gate_with_nobody_watching_is_undone() {
        check(&[Event::Abandoned], Phase::Gate, Action::UndoAndLeave);
    }

    #[test]
    fn an_open_gate_needs_no_watcher() {
        use Event::*;
        check(&[StartRequested, Abandoned], Phase::Starting, Action::Nothing);
        check(&[StartRequested, ChannelClosed, Abandoned], Phase::Running, Action::Nothing);
    }

    #[test]
    fn a_failure_is_told_before_the_shim_leaves() {
        use Event::*;
        check(&[ChildFailed], Phase::Failed, Action::UndoAndSayFailed);
        check(&[ChannelClosed], Phase::Failed, Action::UndoAndSayFailed);
        check(&[StartRequested, ChildFailed], Phase::Failed, Action::UndoAndSayFailed);
        check(&[StartRequested, ChildFailed, WatcherTold], Phase::Failed, Action::Leave);
        check(&[ChildFailed, Abandoned], Phase::Failed, Action::Leave);
    }

    #[test]
    fn a_second_start_changes_nothing() {
        use Event::*;
        check(&[StartRequested, StartRequested], Phase::Starting, Action::Nothing);
        check(&[StartRequested, ChannelClosed, StartRequested], Phase::Running, Action::Nothing);
    }
}
