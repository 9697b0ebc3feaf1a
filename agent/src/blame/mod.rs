//! Who keeps whom waiting: the kernel's shares of each wait, by container, second by second.
//!
//! [`Blames`] reads the kernel's table once a second, which is a handful of system calls
//! however many containers there are, and keeps what grew: nothing while nobody waits. The
//! controller's readings are these, too: it looks when it wants to, and then nobody else has
//! to. Waits
//! for memory are not in that table: the controller shares them out and adds them. A
//! container is named when its waits are read, so that a slot's next holder is never
//! blamed for the last one's doings. [`History`] answers for a window of time, [`Series`]
//! for the metrics, [`verdicts`] says who is to be named; all three are pure.
//!
//! Nothing is decided or limited here.

mod history;
mod series;
mod verdict;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tenantry_ebpf::{Blame, BlamedResource, Culprit, MapError, Meters, Slot};

use crate::registry::Registry;

pub use tenantry_control::Resource;

pub use history::{History, Part, Window};
pub use series::{Series, SeriesRow, Shown};
pub use verdict::{Verdict, verdicts};

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Another reader may be so late.
const PATIENCE: Duration = Duration::from_millis(200);
/// Questions make no reading when the last one is as young as this.
const FRESH: Duration = Duration::from_millis(100);

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party {
    pub id: String,
    pub name: String,
}

/// Why a container waited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    Container(Arc<Party>),
    /// Other threads, requests or packets of the victim's own.
    Itself,
    /// What is in no container; a CPU or a disk on its way out of idling.
    Host,
    /// The victim's own limit.
    Quota,
    /// The hypervisor.
    Steal,
    Unexplained,
}

/// What one container waited for because of somebody.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub victim: Arc<Party>,
    pub culprit: Who,
    pub resource: Resource,
    pub seconds: f64,
}

impl Who {
    /// `container`, or the name of what is none.
    pub fn kind(&self) -> &'static str {
        match self {
            Who::Container(_) => "container",
            Who::Itself => "self",
            Who::Host => "host",
            Who::Quota => "quota",
            Who::Steal => "steal",
            Who::Unexplained => "unexplained",
        }
    }
}

/// The kernel's word for it in everybody's.
pub fn contested(resource: BlamedResource) -> Resource {
    match resource {
        BlamedResource::Cpu => Resource::Cpu,
        BlamedResource::Disk => Resource::Disk,
        BlamedResource::Network => Resource::Network,
    }
}

/// Rows of several sources as one table, longest wait first; the same pair's are added up.
pub fn merge(sources: impl IntoIterator<Item = Row>) -> Vec<Row> {
    let mut sums = HashMap::new();
    for Row { victim, culprit, resource, seconds } in sources {
        *sums.entry((victim, culprit, resource)).or_insert(0.0) += seconds;
    }
    let mut rows: Vec<Row> = sums
        .into_iter()
        .map(|((victim, culprit, resource), seconds)| Row { victim, culprit, resource, seconds })
        .collect();
    rows.sort_by(|a, b| {
        let by_name = (&a.victim, &a.culprit, a.resource).cmp(&(&b.victim, &b.culprit, b.resource));
        b.seconds.total_cmp(&a.seconds).then(by_name)
    });
    rows
}

/// The readings, and who takes them.
#[derive(Debug)]
pub struct Blames {
    meters: Arc<Meters>,
    registry: Arc<Registry>,
    began: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    history: History,
    series: Series,
}

impl Blames {
    /// `pairs` of victim and culprit have series of their own.
    pub fn new(meters: Arc<Meters>, registry: Arc<Registry>, pairs: usize) -> Self {
        let kept = Kept { history: History::default(), series: Series::new(pairs) };
        Self { meters, registry, began: Instant::now(), kept: Mutex::new(kept) }
    }

    /// For as long as the agent lives: reads where nobody else has read for an interval.
    pub async fn run(&self) {
        loop {
            let last = self.lock().history.last();
            let age = last.map(|last| self.began.elapsed().saturating_sub(last));
            let wait = match age {
                Some(age) if age < INTERVAL => INTERVAL + PATIENCE - age,
                _ => {
                    if let Err(error) = self.read() {
                        tracing::warn!(%error, "waits are blamed on nobody any more");
                        return;
                    }
                    INTERVAL
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// What each container waited for in the last `length`, up to now.
    ///
    /// # Errors
    /// If the kernel's table cannot be read.
    pub fn window(&self, length: Duration) -> Result<Window, MapError> {
        let is_fresh = |last: Duration| self.began.elapsed().saturating_sub(last) < FRESH;
        let last = self.lock().history.last();
        if !last.is_some_and(is_fresh) {
            self.read()?;
        }
        Ok(self.lock().history.window(length))
    }

    /// What was shared out without the kernel's table, since the last time.
    pub fn add(&self, parts: Vec<Part>) {
        let mut kept = self.lock();
        kept.series.add(&parts);
        kept.history.append(parts);
    }

    /// For a scrape, as of the last reading: series of containers that are still known.
    pub fn shown(&self, is_known: impl Fn(&str) -> bool) -> Shown {
        let series = &mut self.lock().series;
        series.keep(is_known);
        series.shown()
    }

    /// The kernel's table as it is now. Blame of what the agent itself runs in is the host's.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self) -> Result<Vec<Blame>, MapError> {
        let read = of_hosts(self.meters.read_blame()?, &self.registry.agents_slots());
        let mut kept = self.lock();
        let Kept { history, series } = &mut *kept;
        let grown = history.add(self.began.elapsed(), &read, |slot| {
            let holder = self.registry.holder(slot)?;
            Some(Arc::new(Party { id: holder.id, name: holder.name }))
        });
        series.add(grown);
        Ok(read)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic while it was held lost one reading at most: the next one is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With these slots as the host: what they did is added to what it did.
fn of_hosts(rows: Vec<Blame>, slots: &[Slot]) -> Vec<Blame> {
    let is_hosts = |culprit: Culprit| match culprit {
        Culprit::Slot(slot) => slots.contains(&slot),
        other => other == Culprit::Host,
    };
    if slots.is_empty() {
        return rows;
    }
    let mut of_host: HashMap<(Slot, BlamedResource), u64> = HashMap::new();
    let mut rest = rows;
    rest.retain(|row| {
        if is_hosts(row.culprit) {
            *of_host.entry((row.victim, row.resource)).or_default() += row.ns;
        }
        !is_hosts(row.culprit)
    });
    let row = |((victim, resource), ns)| Blame { victim, culprit: Culprit::Host, resource, ns };
    rest.extend(of_host.into_iter().map(row));
    rest
}

/// The kernel's word for it, with names. `None` for a victim that nobody knows any more.
fn named(
    blame: &Blame,
    holder: &mut impl FnMut(Slot) -> Option<Arc<Party>>,
) -> Option<(Arc<Party>, Who, Resource)> {
    let victim = holder(blame.victim)?;
    let culprit = match blame.culprit {
        Culprit::Slot(slot) => holder(slot).map_or(Who::Unexplained, Who::Container),
        Culprit::Itself => Who::Itself,
        Culprit::Host => Who::Host,
        Culprit::Quota => Who::Quota,
        Culprit::Steal => Who::Steal,
        Culprit::Unexplained => Who::Unexplained,
    };
    Some((victim, culprit, contested(blame.resource)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(victim: &str, culprit: Who, resource: Resource, seconds: f64) -> Row {
        let victim = Arc::new(Party { id: victim.into(), name: victim.into() });
        Row { victim, culprit, resource, seconds }
    }

    #[test]
    fn the_meters_know_a_containers_own_bandwidth_by_its_queue() {
        assert_eq!(tenantry_ebpf::BANDWIDTH_MAJORS, tenantry_network::BANDWIDTH_MAJORS);
    }

    #[test]
    fn what_holds_the_agent_is_the_host() {
        let row = |culprit, ns| Blame { victim: 1, culprit, resource: BlamedResource::Cpu, ns };
        let (noise, agent) = (row(Culprit::Slot(7), 5), row(Culprit::Slot(9), 30));
        let rows = vec![noise, agent, row(Culprit::Host, 2), row(Culprit::Quota, 1)];
        assert_eq!(of_hosts(rows.clone(), &[]), rows);
        let found = of_hosts(rows, &[9]);
        assert_eq!(found, [noise, row(Culprit::Quota, 1), row(Culprit::Host, 32)]);
    }

    #[test]
    fn merged_rows_are_added_up_and_the_longest_comes_first() {
        let rows = merge([
            row("a", Who::Host, Resource::Cpu, 1.0),
            row("a", Who::Quota, Resource::Cpu, 1.5),
            row("a", Who::Host, Resource::Memory, 4.0),
            row("a", Who::Host, Resource::Cpu, 2.0),
        ]);
        let seconds: Vec<f64> = rows.iter().map(|row| row.seconds).collect();
        assert_eq!(seconds, [4.0, 3.0, 1.5]);
    }
}
