//! The agent's faces: the Docker Engine API, the native API and the scrape port.
//!
//! [`docker`] serves what Docker's clients ask for, [`native`] what Docker has no
//! words for, [`scrape`] what Prometheus and probes of life read. All three are
//! thin: they parse, call the engine, and render. None of them names eBPF's
//! loader or touches a cgroup.

pub mod docker;
pub mod error;
pub mod logs;
pub mod native;
mod pieces;
pub mod scrape;

use std::sync::Arc;
use std::task::Poll;

use axum::http::StatusCode;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tenantry_cgroupfs::Hierarchy;
use tenantry_container::{Engine, LimitHistory, Record, Snapshot, State};
use tenantry_ebpf::{Meters, Slot};
use tenantry_image::Store;

use crate::audit::Audit;
use crate::build::Builds;
use crate::collect::Collector;
use crate::config::Config;
use crate::controller::Controller;
use crate::foreign::Entry;
use crate::foreign::throttle::Throttles;
use crate::metrics::Cap;
use crate::profile;
use crate::registries::Registries;
use crate::registry::{Holder, Registry};
use crate::rules::Rules;
use crate::trace::Traces;

use self::error::{ApiError, ApiResult};

/// Everything that a request may need.
#[derive(Debug)]
pub struct App {
    pub config: Config,
    pub engine: Engine,
    pub images: Arc<Store>,
    pub builds: Builds,
    pub registries: Arc<Registries>,
    pub meters: Arc<Meters>,
    pub registry: Arc<Registry>,
    pub audit: Arc<Audit>,
    pub hierarchy: Hierarchy,
    pub execs: docker::exec::Execs,
    pub image_events: Arc<docker::images::events::ImageEvents>,
    pub event_history: docker::event_history::EventHistory,
    pub collector: Collector,
    pub controller: Arc<Controller>,
    pub rules: Arc<Rules>,
    pub traces: Traces,
    pub cap: Arc<Cap>,
    pub foreign_throttles: Arc<Throttles>,
    pub limit_history: Arc<LimitHistory>,
}

impl App {
    /// Gives a container its name in the kernel meters, and begins what its labels ask for.
    pub fn introduce(&self, container: &Snapshot) {
        if container.record.config.labels.contains_key(profile::LABEL)
            && let Err(error) = self.registry.record_once(
                &container.record.id,
                profile::subjects(&container.record),
                profile::is_idle(&container.record),
            )
        {
            tracing::warn!(container_id = container.record.id, %error, "not recorded");
        }
        self.registry.introduce(Holder {
            id: container.record.id.clone(),
            name: container.record.name.clone(),
            image: container.record.image.name.clone(),
        });
    }

    /// Another runtime's container, by name, id, the id's beginning, or cgroup. One of ours
    /// of that name hides it.
    pub fn foreign(&self, wanted: &str) -> Option<Entry> {
        let known = self.engine.get(wanted).is_ok();
        if known { None } else { self.registry.foreign()?.find(wanted) }
    }

    /// Id, name and slot of a container, whoever runs it.
    ///
    /// # Errors
    /// 404, if nobody does.
    pub fn metered(&self, wanted: &str) -> ApiResult<(String, String, Option<Slot>)> {
        match self.engine.get(wanted) {
            Ok(container) => {
                let Record { id, name, .. } = &container.record;
                Ok((id.clone(), name.clone(), self.registry.slot(id)))
            }
            Err(error) => match self.registry.foreign().and_then(|foreign| foreign.find(wanted)) {
                Some(entry) => Ok((entry.subject.id, entry.name, Some(entry.slot))),
                None => Err(error.into()),
            },
        }
    }

    /// For what only a container's own runtime may do.
    ///
    /// # Errors
    /// 409 with the runtime's name, if it is not ours.
    pub fn refuse_foreign(&self, wanted: &str) -> ApiResult<()> {
        let Some(entry) = self.foreign(wanted) else { return Ok(()) };
        let (name, runtime) = (&entry.name, entry.origin.runtime);
        let what = format!("{name} is run by {runtime}: tenantry meters it, {runtime} changes it");
        Err(ApiError::new(StatusCode::CONFLICT, what))
    }
}

pub type Shared = Arc<App>;

/// Longer JSON bodies are refused with 413. Image archives are streamed and not
/// bound by this.
pub const MAX_BODY_BYTES: usize = 4 << 20;

/// Whether its program runs now.
pub fn is_running(container: &Snapshot) -> bool {
    container.record.state == State::Running
}

/// Begins to wait before it returns: what `wait` looks at first is seen now, not
/// when the answer's body is sent.
pub async fn begin<T: Send + 'static>(
    wait: impl Future<Output = T> + Send + 'static,
) -> BoxFuture<'static, T> {
    let mut wait = wait.boxed();
    match futures_util::poll!(&mut wait) {
        Poll::Ready(answer) => std::future::ready(answer).boxed(),
        Poll::Pending => wait,
    }
}
