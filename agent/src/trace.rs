//! Traces on demand: leases of the kernel's few trace rows, one per container.
//!
//! A lease ends by itself: the kernel stops counting at its end, a timer of this module
//! then reads the outcome and gives the row back. There is no timer without a lease. An
//! outcome that nobody fetched is kept until its container is traced again, at most
//! [`MAX_KEPT`] of them. An agent that dies forgets its traces; the programs stop at the
//! lease's end, and the next agent clears what is left.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tenantry_ebpf::{Meters, Slot, TraceError, TracedSyscall};

/// Outcomes that wait to be fetched.
const MAX_KEPT: usize = 16;

/// One lease and what it saw.
#[derive(Clone, Debug)]
pub struct Trace {
    pub container_id: String,
    pub name: String,
    pub began: SystemTime,
    pub ends: SystemTime,
    pub running: bool,
    /// By number.
    pub calls: Vec<TracedSyscall>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{name} is traced already, until its trace ends or is ended")]
    Already { name: String },
    #[error("{} containers are traced, which is all at once: {}", names.len(), names.join(", "))]
    Full { names: Vec<String> },
    #[error("cannot trace")]
    Kernel(#[source] TraceError),
}

#[derive(Debug)]
pub struct Traces {
    meters: Arc<Meters>,
    leases: Arc<Mutex<Vec<Lease>>>,
}

#[derive(Debug)]
struct Lease {
    trace: Trace,
    slot: Slot,
    /// Tells a lease from a later one of the same container.
    serial: u64,
}

impl Traces {
    pub fn new(meters: Arc<Meters>) -> Self {
        Self { meters, leases: Arc::default() }
    }

    /// Times every call of the container in `slot` for `time`. An earlier outcome that nobody
    /// fetched is dropped.
    pub fn start(
        &self,
        container_id: &str,
        name: &str,
        slot: Slot,
        time: Duration,
    ) -> Result<Trace, StartError> {
        let mut leases = self.lock();
        let began = SystemTime::now();
        match self.meters.trace(slot, time) {
            Ok(()) => {}
            Err(TraceError::Already { .. }) => {
                return Err(StartError::Already { name: name.into() });
            }
            Err(TraceError::Full { .. }) => {
                let running = leases.iter().filter(|lease| lease.trace.running);
                let names = running.map(|lease| lease.trace.name.clone()).collect();
                return Err(StartError::Full { names });
            }
            Err(error) => return Err(StartError::Kernel(error)),
        }
        let trace = Trace {
            container_id: container_id.into(),
            name: name.into(),
            began,
            ends: began + time,
            running: true,
            calls: Vec::new(),
        };
        let serial = leases.iter().map(|lease| lease.serial).max().unwrap_or(0) + 1;
        leases.retain(|lease| lease.trace.container_id != container_id);
        leases.push(Lease { trace: trace.clone(), slot, serial });
        drop_oldest(&mut leases);
        let (meters, leases) = (Arc::clone(&self.meters), Arc::clone(&self.leases));
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let mut leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
            let ours = |lease: &&mut Lease| lease.serial == serial && lease.trace.running;
            if let Some(lease) = leases.iter_mut().find(ours) {
                end(&meters, lease);
            }
        });
        Ok(trace)
    }

    /// What a container's trace saw until now; of an ended one the outcome, once. `None` if
    /// there is nothing to tell.
    pub fn read(&self, container_id: &str) -> Option<Trace> {
        let mut leases = self.lock();
        let index = leases.iter().position(|lease| lease.trace.container_id == container_id)?;
        let lease = &mut leases[index];
        if !lease.trace.running {
            return Some(leases.remove(index).trace);
        }
        read_calls(&self.meters, lease);
        Some(lease.trace.clone())
    }

    /// Ends a container's trace before its time, and gives the outcome. `None` as in `read`.
    pub fn end(&self, container_id: &str) -> Option<Trace> {
        let mut leases = self.lock();
        let index = leases.iter().position(|lease| lease.trace.container_id == container_id)?;
        let mut lease = leases.remove(index);
        if lease.trace.running {
            end(&self.meters, &mut lease);
        }
        Some(lease.trace)
    }

    /// Before the agent leaves its containers to the next one.
    pub fn end_all(&self) {
        for mut lease in self.lock().drain(..).filter(|lease| lease.trace.running) {
            end(&self.meters, &mut lease);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lease>> {
        // A panic while it was held left whole leases: each change is one push or remove.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps all running ones and the newest of the others.
fn drop_oldest(leases: &mut Vec<Lease>) {
    let ended = leases.iter().filter(|lease| !lease.trace.running).count();
    let mut surplus = ended.saturating_sub(MAX_KEPT);
    leases.retain(|lease| {
        let drop = surplus > 0 && !lease.trace.running;
        surplus -= usize::from(drop);
        !drop
    });
}

fn end(meters: &Meters, lease: &mut Lease) {
    read_calls(meters, lease);
    lease.trace.running = false;
    lease.trace.ends = lease.trace.ends.min(SystemTime::now());
    if let Err(error) = meters.end_trace(lease.slot) {
        tracing::warn!(container_id = lease.trace.container_id, %error, "trace not ended");
    }
}

/// Leaves the last reading where the kernel has none any more: the container is gone.
fn read_calls(meters: &Meters, lease: &mut Lease) {
    match meters.read_trace(lease.slot) {
        Ok(Some(calls)) => lease.trace.calls = calls,
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "trace not read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(serial: u64, running: bool) -> Lease {
        let trace = Trace {
            container_id: serial.to_string(),
            name: String::new(),
            began: SystemTime::UNIX_EPOCH,
            ends: SystemTime::UNIX_EPOCH,
            running,
            calls: Vec::new(),
        };
        Lease { trace, slot: 1, serial }
    }

    #[test]
    fn outcomes_that_nobody_fetches_are_bounded_and_running_traces_stay() {
        let mut leases: Vec<Lease> = (0..30).map(|n| lease(n, n < 4)).collect();
        drop_oldest(&mut leases);
        let left: Vec<u64> = leases.iter().map(|lease| lease.serial).collect();
        let expected: Vec<u64> = (0..4).chain(14..30).collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn who_is_traced_is_named() {
        let names = vec!["a".into(), "b".into()];
        let error = StartError::Full { names }.to_string();
        assert_eq!(error, "2 containers are traced, which is all at once: a, b");
    }
}
