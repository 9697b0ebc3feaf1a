//! Containers: created, started, watched, limited, stopped, removed, adopted.
//!
//! Owns the lifecycle engine ([`Engine`]) and everything that decides for it:
//! requests and their validation ([`config`]), the merge with an image
//! ([`process`], [`user`]), security defaults ([`capabilities`], [`seccomp`]),
//! limits ([`limits`], [`units`]), the start plan ([`plan`]), the states
//! ([`state`]) and restarts ([`restart`]).
//!
//! It must not fork into a container (the shim does), write cgroup files (the
//! cgroupfs crate does), speak netlink (network does), unpack images (image
//! does) or know what an [`Identity`] is used for. Its only caller is the agent.

pub mod capabilities;
pub mod config;
pub mod devices;
mod engine;
mod error;
mod etc;
mod events;
pub mod health;
pub mod held;
pub mod limit_changes;
pub mod limit_history;
pub mod limits;
pub mod log_config;
pub mod names;
pub mod namespaces;
pub mod overlay;
pub mod plan;
pub mod process;
mod propagation;
pub mod record;
pub mod restart;
pub mod seccomp;
mod security;
mod shim;
pub mod signals;
mod snapshot;
pub mod state;
pub mod sysctls;
pub mod throttle;
pub mod ulimits;
pub mod units;
pub mod user;
pub mod volumes;

pub use config::{
    BindRequest, ContainerConfig, CreateRequest, NetworkMode, NetworkWish, SeccompChoice,
    TmpfsRequest, VolumeRequest,
};
pub use devices::DeviceRequest;
pub use engine::{
    Engine, EngineConfig, ExecHandle, ExecRequest, ExecStdio, Files, Identity, Throttled,
    WaitCondition, set_size,
};
pub use error::{Error, ShimFailure};
pub use etc::Resolver;
pub use events::{Action, LifecycleEvent};
pub use health::{Health, HealthCheck, HealthStatus, HealthWish};
pub use held::{Holder, InForce};
pub use limit_changes::{Cause, ChangeKind, HeldLimit, LimitChange, Party};
pub use limit_history::{LimitCounts, LimitHistory};
pub use limits::{Applied, IoPatch, Limit, Limits, LimitsPatch};
pub use log_config::LogConfig;
pub use namespaces::NamespaceMode;
pub use record::{Ended, ImageReference, Record};
pub use restart::RestartPolicy;
pub use snapshot::{Live, Snapshot};
pub use state::State;
pub use tenantry_shim::protocol::ExitStatus;
pub use tenantry_shim::spec::{Propagation, WindowSize};
pub use throttle::{Actuator, IoThrottle, Lease, Owner, Throttle};
pub use ulimits::Ulimit;
