//! `update_limits`: one change across cgroup and network, all of it or none.
//!
//! Owns the order (cgroup first, since it refuses more often) and the way back.

use std::sync::Arc;

use tenantry_cgroupfs::{ApplyError, IoLimit, Resources};

use super::{Shared, blocking, cell::Cell, throttle::yield_to_operator};
use crate::{
    config::NetworkMode,
    error::Error,
    events::Action,
    limit_changes::{self, Act},
    limits::{Applied, Limits, LimitsPatch},
    state::State,
    throttle,
};

pub(super) async fn update(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    patch: &LimitsPatch,
) -> Result<Vec<Applied>, Error> {
    let change = patch.validate(shared.host_cpus)?;
    let _op = cell.op.lock().await;
    let (record, running) = {
        let inner = cell.lock();
        (inner.record.clone(), inner.running.clone())
    };
    if record.state == State::Dead {
        return Err(Error::Conflict(format!("container {} is dead", record.name)));
    }
    if patch.changes_bandwidth() && record.config.network != NetworkMode::Bridge {
        let value = "a bandwidth limit";
        return Err(Error::invalid("limits", value, "bandwidth limits on network bridge only"));
    }
    let merged = record.limits.with(patch, &change);
    let mut change = change;
    let force = running.as_ref().and_then(|running| running.throttled.as_ref());
    let left = force.map(|force| throttle::ended_by(patch, &change, &force.force));
    let held = force.map(|force| force.force.clone()).unwrap_or_default();
    let effective = [
        limit_changes::effective(&record.limits, &held),
        limit_changes::effective(&merged, left.as_ref().unwrap_or(&held)),
    ];
    if force.is_some_and(|force| force.force.resources.cpu_idle == Some(true))
        && change.resources.cpu_weight.is_some()
    {
        // An idle group takes no weight.
        change.resources.cpu_idle = Some(false);
    }
    let mut applied = vec![];
    if let Some(running) = &running {
        let (group, wanted) = (running.group.clone(), change.resources.clone());
        let own = record.limits.resources.clone();
        let (before, written) = blocking("write limits", move || {
            let before = group.read_resources();
            let mut before = before.map_err(|e| Error::failed("read the present limits", e))?;
            // Nobody else changes these two, and they are not read.
            before.memory_low_bytes = own.memory_low_bytes.or(Some(0));
            before.oom_kill_disable = own.oom_kill_disable.or(Some(false));
            Ok((before, group.apply(&wanted).map_err(refused)?))
        })
        .await?;
        applied.extend(written.into_iter().map(Applied::from));
        if patch.changes_bandwidth()
            && let Some(endpoint) = &running.live.endpoint
        {
            let held = left.unwrap_or_default().bandwidth;
            let wanted = throttle::bandwidth_of(&merged.bandwidth, &held);
            match shared.networks.set_bandwidth(endpoint, &wanted).await {
                Ok(written) => applied.extend(written.into_iter().map(Applied::from)),
                Err(error) => {
                    restore(cell, running.group.clone(), &before, &change.resources).await;
                    return Err(Error::failed("limit bandwidth", error));
                }
            }
        }
    }
    keep(cell, record.limits, merged).await?;
    yield_to_operator(shared, cell, patch, &change).await;
    let [before, after] = &effective;
    shared.record(cell, Act::SET, limit_changes::differences(before, after));
    let summary = serde_json::to_string(patch).unwrap_or_default();
    shared.tell(cell, Action::Update, &[("limits", summary)]);
    Ok(applied)
}

/// On disk before anybody hears that it is done; if it cannot be, not in memory
/// either, so that what a restart would bring back is what is shown.
async fn keep(cell: &Arc<Cell>, before: Limits, merged: Limits) -> Result<(), Error> {
    cell.update(|inner| inner.record.limits = merged);
    let writer = cell.clone();
    let kept = blocking("write the record", move || writer.persist()).await;
    if kept.is_err() {
        cell.update(|inner| inner.record.limits = before);
    }
    kept
}

async fn restore(
    cell: &Cell,
    group: tenantry_cgroupfs::Group,
    before: &Resources,
    changed: &Resources,
) {
    let wanted = touched(before, changed);
    let restored =
        blocking("restore limits", move || group.apply(&wanted).map(|_| ()).map_err(refused));
    if let Err(error) = restored.await {
        tracing::error!(container_id = cell.id, error = error.chain(), "limits not restored");
    }
}

/// Of the earlier values those that a change has touched.
fn touched(before: &Resources, changed: &Resources) -> Resources {
    let device = |limit: &IoLimit| {
        before.io.iter().find(|b| (b.major, b.minor) == (limit.major, limit.minor)).cloned()
    };
    let lifted = |limit: &IoLimit| {
        use tenantry_cgroupfs::Max::Unlimited;
        IoLimit::with_limits(limit.major, limit.minor, [Some(Unlimited); 4])
    };
    Resources {
        cpu: changed.cpu.and(before.cpu),
        cpu_weight: changed.cpu_weight.and(before.cpu_weight),
        cpu_idle: changed.cpu_idle.and(before.cpu_idle),
        cpuset_cpus: changed.cpuset_cpus.as_ref().and(before.cpuset_cpus.clone()),
        memory_max_bytes: changed.memory_max_bytes.and(before.memory_max_bytes),
        memory_swap_max_bytes: changed.memory_swap_max_bytes.and(before.memory_swap_max_bytes),
        memory_high_bytes: changed.memory_high_bytes.and(before.memory_high_bytes),
        memory_low_bytes: changed.memory_low_bytes.and(before.memory_low_bytes),
        oom_kill_disable: changed.oom_kill_disable.and(before.oom_kill_disable),
        pids_max: changed.pids_max.and(before.pids_max),
        io_weight: changed.io_weight.and(before.io_weight),
        io: changed.io.iter().map(|limit| device(limit).unwrap_or_else(|| lifted(limit))).collect(),
    }
}

/// What the cgroup says, in this crate's words.
pub(crate) fn refused(error: ApplyError) -> Error {
    match error {
        ApplyError::Invalid { field, value, allowed } => Error::invalid(field, value, allowed),
        ApplyError::Unsupported { resource, why } => Error::Unsupported { what: resource, why },
        ApplyError::MemoryBelowUse { wanted_bytes, used_bytes } => Error::invalid(
            "memory_bytes",
            wanted_bytes,
            format!("at least {used_bytes}, which are in use"),
        ),
        other => Error::failed("write limits", other),
    }
}

#[cfg(test)]
mod tests {
    use tenantry_cgroupfs::Max;

    use super::*;

    #[test]
    fn only_what_was_touched_is_restored() {
        let before = Resources {
            memory_max_bytes: Some(Max::Unlimited),
            pids_max: Some(Max::Value(7)),
            ..Resources::default()
        };
        let changed = Resources {
            pids_max: Some(Max::Value(9)),
            io: vec![IoLimit {
                major: 8,
                read_bytes_per_s: Some(Max::Value(1)),
                ..IoLimit::default()
            }],
            ..Resources::default()
        };
        let restored = touched(&before, &changed);
        assert_eq!(restored.memory_max_bytes, None);
        assert_eq!(restored.pids_max, Some(Max::Value(7)));
        assert_eq!(restored.io[0].read_bytes_per_s, Some(Max::Unlimited));
    }
}
