//! What happens to containers, told to whoever subscribed.
//!
//! Owns the event type. The channel is bounded; a subscriber that is too slow
//! learns from `RecvError::Lagged` how many it missed.

use std::collections::BTreeMap;

use serde::Serialize;

/// Events that a slow subscriber may lag behind before it misses some.
pub const CHANNEL_EVENTS: usize = 1024;

/// Docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Create,
    Start,
    Die,
    Oom,
    /// A restart, by policy or by request, has succeeded.
    Restart,
    Stop,
    Kill,
    Destroy,
    Update,
    /// It is held below its limits for a while, or otherwise than before.
    Throttle,
    /// It, or some of it, ended: `why` is `released`, `expired`, `operator`, `another
    /// writer` or `agent ends`, `actuators` says what.
    Unthrottle,
    ExecCreate,
    ExecStart,
    ExecDie,
    /// Its changes became an image.
    Commit,
    /// A client reads, or types into, what runs.
    Attach,
    /// It left by its keys, and the program runs on.
    Detach,
    ExecDetach,
    /// A terminal has another size.
    Resize,
    Pause,
    Unpause,
    /// `oldName` says which it had.
    Rename,
    /// Its health check says so, and did not before.
    Healthy,
    Unhealthy,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Start => "start",
            Action::Die => "die",
            Action::Oom => "oom",
            Action::Restart => "restart",
            Action::Stop => "stop",
            Action::Kill => "kill",
            Action::Destroy => "destroy",
            Action::Update => "update",
            Action::Throttle => "throttle",
            Action::Unthrottle => "unthrottle",
            Action::ExecCreate => "exec_create",
            Action::ExecStart => "exec_start",
            Action::ExecDie => "exec_die",
            Action::Commit => "commit",
            Action::Attach => "attach",
            Action::Detach => "detach",
            Action::ExecDetach => "exec_detach",
            Action::Resize => "resize",
            Action::Pause => "pause",
            Action::Unpause => "unpause",
            Action::Rename => "rename",
            Action::Healthy => "health_status: healthy",
            Action::Unhealthy => "health_status: unhealthy",
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct LifecycleEvent {
    pub unix_ns: u64,
    pub action: Action,
    pub id: String,
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// `exitCode`, `signal` and the like; labels are the snapshot's matter.
    pub attributes: BTreeMap<String, String>,
}
