//! The face of the crate: slots in, numbers out.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::programs::ProgramInfo;
use tenantry_abi as abi;
use zerocopy::FromZeros;

use crate::cache::SlotCache;
use crate::cost;
use crate::counters::{self, Lost, SlotCounters, SlotEvents};
use crate::disk::{self, Disks};
use crate::filter::AuditFilter;
use crate::foreign::ForeignMaps;
use crate::load::{LoadError, load_anew};
use crate::map::{Buffer, MapError, Table};
use crate::memory::{keep_trimming, return_free_memory};
use crate::options::LoadOptions;
use crate::pins::{Pins, fingerprint};
use crate::probe::{
    METERS, Probe, ProbeStatus, Program, TCP_LIFE, TRAMPOLINES, UDP_RECEIVE_FAILED,
};
use crate::reader::EventReader;
use crate::switch::Switches;
use crate::{
    Destination, DestinationCounters, DnsQuestions, Histogram, Slot, destinations, dns, scheduler,
    tcp,
};

/// A container's cgroups, by kernfs id (the inode number of their directories).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupIds {
    /// In the v2 hierarchy.
    pub unified: u64,
    /// In v1's blkio hierarchy, where there is one.
    pub blkio: Option<u64>,
}

/// The loaded programs' maps. Dropping it leaves everything pinned and running.
#[derive(Debug)]
pub struct Meters {
    pub(crate) pins: Pins,
    adopted: bool,
    pub(crate) slots: u32,
    blkio_hierarchy: u32,
    switches: Mutex<Switches>,
    pub(crate) maps: Maps,
    pub(crate) cache: SlotCache,
    /// Of slots that have none of their own.
    filter: Mutex<abi::AuditFilter>,
}

#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) foreign: ForeignMaps,
    pub(crate) cgroup_slots: Table<abi::CgroupKey, u32>,
    pub slot_states: Table<u32, abi::SlotState>,
    pub syscalls: Table<u32, abi::Syscalls>,
    pub namespace_syscalls: Table<abi::NamespaceKey, abi::Syscalls>,
    syscall_latency: Table<u32, abi::SyscallLatency>,
    sync_latency: Table<u32, abi::Histogram>,
    pub timing: Table<u32, abi::Timing>,
    pub slot_traces: Table<u32, abi::SlotTrace>,
    pub trace_calls: Table<u32, abi::TraceCall>,
    pub profile_controls: Table<u32, abi::ProfileControl>,
    pub profiles: Table<u32, abi::Profile>,
    pub refused_calls: Table<abi::RefusedKey, abi::Refused>,
    pub network: Table<u32, abi::Network>,
    pub scheduler: Table<u32, abi::Scheduler>,
    pub causes: Table<u32, abi::Causes>,
    pub blame: Table<abi::BlameKey, u64>,
    pub flows: Table<u32, u64>,
    tcp: Table<u32, abi::Tcp>,
    tcp_rtt: Table<u32, abi::TcpRtt>,
    destinations: Table<abi::DestinationKey, abi::Destination>,
    dns: Table<u32, abi::Dns>,
    dns_names: Table<abi::DnsKey, abi::DnsName>,
    disks: Table<abi::DiskKey, abi::Disk>,
    requests: Table<u64, abi::Request>,
    event_counts: Table<u32, abi::EventCounts>,
    pub audit_filters: Table<u32, abi::AuditFilter>,
    trampoline_counts: Table<u32, abi::TrampolineCounts>,
    self_counters: Table<u32, u64>,
}

impl Meters {
    /// Loads and attaches the programs, or adopts what an earlier agent pinned in
    /// `options.pin_dir` with the same object and the same options: then nothing stopped
    /// counting meanwhile, and events wait in the ring. Pins that differ are removed first.
    ///
    /// Callers make sure that one agent at a time uses a pin directory.
    pub fn load(options: &LoadOptions) -> Result<(Meters, EventReader), LoadError> {
        options.check().map_err(LoadError::Options)?;
        let blkio_hierarchy = match options.blkio_v1 {
            true => blkio_hierarchy().map_err(LoadError::Blkio)?,
            false => 0,
        };
        let fingerprint = fingerprint(options, blkio_hierarchy)?;
        let pins = Pins::open(&options.pin_dir)?;
        if pins.is_made_by(&fingerprint) {
            match Self::open(options, blkio_hierarchy, &pins, true) {
                Ok(opened) => return Ok(opened),
                Err(error) => tracing::warn!(%error, "pins not adopted"),
            }
        }
        let pin = |source| LoadError::PinDir { path: pins.dir.clone(), source };
        pins.clear().map_err(pin)?;
        keep_trimming();
        let loaded = load_anew(options, blkio_hierarchy, &pins);
        return_free_memory();
        let finish = || {
            let opened = Self::open(options, blkio_hierarchy, &pins, false)?;
            opened.0.switch_first(options.syscall_latency)?;
            pins.write_marker(&fingerprint).map_err(pin)?;
            Ok(opened)
        };
        loaded.and_then(|()| finish()).inspect_err(|_| {
            // The error that is on its way matters more than one of this tidying.
            let _ = pins.remove();
        })
    }

    fn open(
        options: &LoadOptions,
        blkio_hierarchy: u32,
        pins: &Pins,
        adopted: bool,
    ) -> Result<(Meters, EventReader), LoadError> {
        let mut statuses = Vec::new();
        for program in METERS.iter().chain(TRAMPOLINES) {
            let status = pins.status(program).ok_or_else(|| LoadError::Essential {
                program: program.name,
                why: "its pin is gone".into(),
            })?;
            statuses.push((*program, status));
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| MapError::Cpus(error))?;
        let maps = Maps::open(pins, cpus)?;
        let cache_map: Table<u32, u64> = Table::open(&pins.dir, "slot_cache", cpus)?;
        let cache = SlotCache::map(cache_map.fd()).map_err(|source| MapError::Call {
            operation: "mmap",
            map: "slot_cache",
            source,
        })?;
        let reader = EventReader::open(&pins.dir)?;
        let default_filter = AuditFilter::default()
            .render()
            .map_err(|error| LoadError::Options(error.to_string()))?;
        let meters = Meters {
            pins: pins.clone(),
            adopted,
            slots: options.slots,
            blkio_hierarchy,
            switches: Mutex::new(Switches::new(statuses)),
            maps,
            cache,
            filter: Mutex::new(FromZeros::new_zeroed()),
        };
        // Those of an earlier agent hold until somebody sets others.
        match adopted {
            true => *meters.filter() = meters.maps.audit_filters.get(&0)?.unwrap_or(default_filter),
            false => meters.write_audit_filter(default_filter)?,
        }
        if adopted {
            meters.end_orphaned_traces()?;
            meters.settle_recorders()?;
        }
        Ok((meters, reader))
    }

    /// Whether the programs were running already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    pub fn probes(&self) -> Vec<Probe> {
        let counting = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")
            .is_ok_and(|text| text.trim() == "1");
        let probe = |(program, status): &(Program, ProbeStatus)| {
            let info = (*status == ProbeStatus::Active)
                .then(|| ProgramInfo::from_pin(self.pins.program(program)).ok())
                .flatten();
            let timed = info.as_ref().filter(|_| counting);
            Probe {
                name: program.name.into(),
                hook: program.hook.to_string(),
                status: status.clone(),
                runs: timed.map(ProgramInfo::run_count),
                run_ns: timed.map(|info| info.run_time().as_nanos() as u64),
                misses: info.as_ref().and_then(cost::misses),
            }
        };
        self.switches().statuses.iter().map(probe).collect()
    }

    /// Gives cgroups, and those made below them from now on, to a slot, before a process is
    /// in them. The slot counts from the first exec in them; a second registration (a
    /// restart) waits for the next one again.
    pub fn register(&self, slot: Slot, ids: &CgroupIds) -> Result<(), MapError> {
        self.check(slot)?;
        self.begin_run(slot)?;
        for key in self.keys(ids) {
            if let Err(error) = self.maps.cgroup_slots.write(&key, &slot) {
                self.unregister(ids)?;
                return Err(error);
            }
        }
        self.cache.store(ids.unified, slot);
        Ok(())
    }

    /// Counts from now on, without waiting for an exec: for cgroups that have processes already.
    pub fn arm(&self, slot: Slot) -> Result<(), MapError> {
        self.check(slot)?;
        let state = self.maps.slot_states.get(&slot)?.unwrap_or(FromZeros::new_zeroed());
        self.maps.slot_states.write(&slot, &abi::SlotState { armed: 1, ..state })
    }

    /// The cgroups are nobody's from now on. Fine if they were so already, as when the
    /// kernel saw their directories removed.
    pub fn unregister(&self, ids: &CgroupIds) -> Result<(), MapError> {
        let removed =
            self.keys(ids).try_for_each(|key| self.maps.cgroup_slots.remove(&key).map(drop));
        // After the hash: a program that misses in between finds nothing there either.
        self.cache.store(ids.unified, 0);
        removed
    }

    /// Makes all counters of a slot zero and takes its cgroups away, before it is handed out.
    pub fn reset(&self, slot: Slot) -> Result<(), MapError> {
        self.check(slot)?;
        self.forget_trace(slot)?;
        self.forget_recording(slot)?;
        for key in self.maps.cgroup_slots.keys()? {
            let value = self.maps.cgroup_slots.get(&key)?;
            if value.is_some_and(|value| value & abi::SLOT_MASK == slot) {
                self.maps.cgroup_slots.remove(&key)?;
                if key.hierarchy == 0 {
                    self.cache.store(key.id, 0);
                }
            }
        }
        self.maps.slot_states.write(&slot, &FromZeros::new_zeroed())?;
        self.reset_namespaces(slot)?;
        self.maps.foreign.forget(slot)?;
        for address in self.maps.requests.keys()? {
            let request = self.maps.requests.get(&address)?;
            if request.is_some_and(|request| request.key.slot == slot) {
                self.maps.requests.remove(&address)?;
            }
        }
        for key in self.maps.disks.keys()? {
            if key.slot == slot {
                self.maps.disks.remove(&key)?;
            }
        }
        self.maps.syscalls.write(&slot, &FromZeros::new_zeroed())?;
        self.maps.syscall_latency.write(&slot, &FromZeros::new_zeroed())?;
        self.maps.sync_latency.write(&slot, &FromZeros::new_zeroed())?;
        self.maps.network.write(&slot, &FromZeros::new_zeroed())?;
        self.maps.scheduler.write(&slot, &FromZeros::new_zeroed())?;
        self.reset_blame(slot)?;
        let tcp = self.maps.tcp.get(&slot)?.unwrap_or(FromZeros::new_zeroed());
        self.maps.tcp.write(&slot, &tcp::next_generation(&tcp))?;
        self.maps.tcp_rtt.write(&slot, &FromZeros::new_zeroed())?;
        // After the generation: no socket of the last holder makes one again.
        for key in self.maps.destinations.keys()? {
            if key.slot == slot {
                self.maps.destinations.remove(&key)?;
            }
        }
        let dns = self.maps.dns.get(&slot)?.unwrap_or(FromZeros::new_zeroed());
        self.maps.dns.write(&slot, &dns::next_generation(&dns))?;
        for key in self.maps.dns_names.keys()? {
            if key.slot == slot {
                self.maps.dns_names.remove(&key)?;
            }
        }
        self.reset_audit_filter(slot)?;
        self.maps.event_counts.write(&slot, &FromZeros::new_zeroed())?;
        self.maps.trampoline_counts.write(&slot, &FromZeros::new_zeroed())
    }

    /// What the ring was told of a slot: one look-up, where [`read`](Self::read) sums every
    /// table over all CPUs.
    pub fn read_events(&self, slot: Slot) -> Result<SlotEvents, MapError> {
        self.check(slot)?;
        let raw = self.maps.event_counts.get(&slot)?.unwrap_or(FromZeros::new_zeroed());
        Ok(counters::events(&raw))
    }

    /// All counters of a slot but the disks', summed over CPUs while they go on counting.
    pub fn read(&self, slot: Slot) -> Result<SlotCounters, MapError> {
        self.check(slot)?;
        let maps = &self.maps;
        let buffer = &mut Buffer::new();
        let calls = self.read_syscalls(slot, buffer)?;
        let latency =
            counters::latency(maps.syscall_latency.read(&slot, buffer)?.unwrap_or_default());
        let sync_latency =
            Histogram::sum(maps.sync_latency.read(&slot, buffer)?.unwrap_or_default().iter());
        let network = maps.network.read(&slot, buffer)?.unwrap_or_default();
        let external = counters::traffic(network.iter().map(|copy| &copy.external));
        let loopback = counters::traffic(network.iter().map(|copy| &copy.loopback));
        let udp = counters::udp(network, self.is_active(UDP_RECEIVE_FAILED));
        let switches = maps.scheduler.read(&slot, buffer)?.unwrap_or_default();
        let run_queue = Histogram::sum(switches.iter().map(|copy| &copy.waits));
        let scheduler = scheduler::sum(switches);
        let tcp = match self.is_active(TCP_LIFE) {
            true => {
                let life = maps.tcp.get(&slot)?.unwrap_or(FromZeros::new_zeroed());
                let rtt = maps.tcp_rtt.read(&slot, buffer)?.unwrap_or_default();
                Some(tcp::counters(&life, rtt))
            }
            false => None,
        };
        let dns = maps.dns.get(&slot)?.unwrap_or(FromZeros::new_zeroed());
        let events = self.read_events(slot)?;
        let trampolines = maps.trampoline_counts.get(&slot)?.unwrap_or(FromZeros::new_zeroed());
        let if_active = |name, value| self.is_active(name).then_some(value);
        Ok(SlotCounters {
            syscalls: calls.syscalls,
            syscall_errors: calls.errors,
            namespaces: calls.namespaces,
            latency,
            sync_latency,
            external,
            loopback,
            udp,
            run_queue,
            scheduler,
            events,
            tcp,
            dns_other: dns::counters(&dns.other),
            exec_attempts: if_active("exec_attempted", trampolines.exec_attempts),
        })
    }

    /// The disks' counters of all slots, and of the root cgroup.
    pub fn read_disks(&self) -> Result<Disks, MapError> {
        disk::read(&self.maps.disks)
    }

    /// Whom each slot talks to, each destination once; what found no room among them is in
    /// [`TcpCounters::other`](crate::TcpCounters::other).
    pub fn read_destinations(
        &self,
    ) -> Result<HashMap<Slot, Vec<(Destination, DestinationCounters)>>, MapError> {
        let mut seen = HashSet::new();
        let mut found: HashMap<Slot, Vec<_>> = HashMap::new();
        for key in self.maps.destinations.keys()? {
            let (slot, destination) = destinations::destination(&key);
            // Gone since the listing: its slot was reset.
            let Some(raw) = self.maps.destinations.get(&key)? else { continue };
            if seen.insert((slot, destination)) {
                found.entry(slot).or_default().push((destination, destinations::counters(&raw)));
            }
        }
        Ok(found)
    }

    /// What each slot asks name servers for, each name once; what found no room among them is
    /// in [`SlotCounters::dns_other`].
    pub fn read_dns(&self) -> Result<HashMap<Slot, DnsQuestions>, MapError> {
        let mut found: HashMap<Slot, DnsQuestions> = HashMap::new();
        let mut seen = HashSet::new();
        for key in self.maps.dns_names.keys()? {
            // Gone since the listing: its slot was reset.
            let Some(row) = self.maps.dns_names.get(&key)? else { continue };
            if seen.insert((key.slot, key.hash)) {
                dns::add_row(found.entry(key.slot).or_default(), &row);
            }
        }
        Ok(found)
    }

    /// What found no room in the kernel's maps; all zero is as it should be.
    pub fn lost(&self) -> Result<Lost, MapError> {
        let get = |index| Ok(self.maps.self_counters.get(&index)?.unwrap_or_default());
        Ok(Lost {
            cgroups: get(abi::SELF_CGROUPS_FULL)?,
            disks: get(abi::SELF_DISKS_FULL)?,
            requests: get(abi::SELF_REQUESTS_FULL)?,
            tasks: get(abi::SELF_TASKS_FULL)?,
            tcp_sockets: get(abi::SELF_SOCKETS_FULL)?,
            namespaces: get(abi::SELF_NAMESPACES_FULL)?,
            destinations: get(abi::SELF_DESTINATIONS_FULL)?,
            dns_names: get(abi::SELF_DNS_NAMES_FULL)?,
            dns_questions: get(abi::SELF_DNS_QUESTIONS_FULL)?,
            blame: get(abi::SELF_BLAME_FULL)?,
            disk_services: get(abi::SELF_DISK_SERVICES_FULL)?,
            pool: get(abi::SELF_POOL_EMPTY)?,
            cgroup_events: get(abi::SELF_CGROUP_EVENTS_LOST)?,
        })
    }

    /// Disk requests whose completion the kernel showed to nobody: counted when the next
    /// request took their place, without their duration.
    pub fn unseen_completions(&self) -> Result<u64, MapError> {
        Ok(self.maps.self_counters.get(&abi::SELF_COMPLETIONS_UNSEEN)?.unwrap_or_default())
    }

    /// Packets of containers that left a device's queue which nobody saw them enter: it cut a
    /// long one into pieces, or too many stood there. Their wait is reckoned from their
    /// container's last packets.
    pub fn unseen_packets(&self) -> Result<u64, MapError> {
        Ok(self.maps.self_counters.get(&abi::SELF_QUEUED_UNSEEN)?.unwrap_or_default())
    }

    /// Removes all pins: the programs are detached and, with the last handle to their maps,
    /// gone. Nobody counts any more; reads give what was counted until now.
    pub fn unpin(&self) -> io::Result<()> {
        self.pins.remove()
    }

    pub(crate) fn check(&self, slot: Slot) -> Result<(), MapError> {
        match slot {
            0 => Err(MapError::Slot { slot, last: self.slots - 1 }),
            _ if slot >= self.slots => Err(MapError::Slot { slot, last: self.slots - 1 }),
            _ => Ok(()),
        }
    }

    pub(crate) fn keys(&self, ids: &CgroupIds) -> impl Iterator<Item = abi::CgroupKey> {
        let key = |id, hierarchy| abi::CgroupKey { id, hierarchy, reserved: 0 };
        let blkio = ids.blkio.filter(|_| self.blkio_hierarchy != 0);
        let blkio = blkio.map(|id| key(id, self.blkio_hierarchy));
        // 0 is no cgroup: a foreign container may have none in v2.
        let unified = Some(key(ids.unified, 0)).filter(|key| key.id != 0);
        unified.into_iter().chain(blkio)
    }

    fn is_active(&self, name: &str) -> bool {
        let switches = self.switches();
        switches.statuses.iter().any(|(p, status)| p.name == name && *status == ProbeStatus::Active)
    }

    /// As they are now; programs are switched meanwhile.
    pub(crate) fn statuses(&self) -> Vec<(Program, ProbeStatus)> {
        self.switches().statuses.clone()
    }

    pub(crate) fn filter(&self) -> MutexGuard<'_, abi::AuditFilter> {
        // As above.
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn switches(&self) -> MutexGuard<'_, Switches> {
        // A panic while it was held left it whole: a change is one assignment.
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    fn open(pins: &Pins, cpus: usize) -> Result<Self, MapError> {
        let dir = &pins.dir;
        Ok(Self {
            foreign: ForeignMaps::open(dir, cpus)?,
            cgroup_slots: Table::open(dir, "cgroup_slots", cpus)?,
            slot_states: Table::open(dir, "slot_states", cpus)?,
            syscalls: Table::open(dir, "syscalls", cpus)?,
            namespace_syscalls: Table::open(dir, "namespace_syscalls", cpus)?,
            syscall_latency: Table::open(dir, "syscall_latency", cpus)?,
            sync_latency: Table::open(dir, "sync_latency", cpus)?,
            timing: Table::open(dir, "timing", cpus)?,
            slot_traces: Table::open(dir, "slot_traces", cpus)?,
            trace_calls: Table::open(dir, "trace_calls", cpus)?,
            profile_controls: Table::open(dir, "profile_controls", cpus)?,
            profiles: Table::open(dir, "profiles", cpus)?,
            refused_calls: Table::open(dir, "refused_calls", cpus)?,
            network: Table::open(dir, "network", cpus)?,
            scheduler: Table::open(dir, "scheduler", cpus)?,
            causes: Table::open(dir, "causes", cpus)?,
            blame: Table::open(dir, "blame", cpus)?,
            flows: Table::open(dir, "flows", cpus)?,
            tcp: Table::open(dir, "tcp", cpus)?,
            tcp_rtt: Table::open(dir, "tcp_rtt", cpus)?,
            destinations: Table::open(dir, "destinations", cpus)?,
            dns: Table::open(dir, "dns", cpus)?,
            dns_names: Table::open(dir, "dns_names", cpus)?,
            disks: Table::open(dir, "disks", cpus)?,
            requests: Table::open(dir, "requests", cpus)?,
            event_counts: Table::open(dir, "event_counts", cpus)?,
            audit_filters: Table::open(dir, "audit_filters", cpus)?,
            trampoline_counts: Table::open(dir, "trampoline_counts", cpus)?,
            self_counters: Table::open(dir, "self_counters", cpus)?,
        })
    }
}

/// The kernel's number of v1's blkio hierarchy.
fn blkio_hierarchy() -> Result<u32, String> {
    let path = "/proc/cgroups";
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    parse_blkio_hierarchy(&text).ok_or_else(|| format!("{path} has no v1 hierarchy with blkio"))
}

/// Lines are `name hierarchy cgroups enabled`; hierarchy 0 is v2.
fn parse_blkio_hierarchy(text: &str) -> Option<u32> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some("blkio"))?;
    line.split_whitespace().nth(1)?.parse().ok().filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blkio_hierarchy_is_the_second_word_of_its_line() {
        let check = |text, expected| assert_eq!(parse_blkio_hierarchy(text), expected);
        check("#subsys_name\thierarchy\tnum\tenabled\ncpu\t2\t1\t1\nblkio\t8\t1\t1\n", Some(8));
        check("blkio\t0\t1\t1\n", None);
        check("cpu\t2\t1\t1\n", None);
        check("", None);
    }
}
