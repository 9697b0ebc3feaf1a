//! A toy host in which limits have effects: a few containers that share CPUs, one disk, an
//! uplink and memory. Only the directions are true: who is limited takes less, and who
//! waited for it waits less. That is what a control loop is tested with; figures of real
//! hosts come from the benchmark.

// Each test program uses its part.
#![allow(dead_code)]

use std::collections::BTreeMap;

use tenantry_control::{
    Actuator, Blame, ContainerRates, CpuRates, Culprit, Decision, Device, DiskRates, IoKind, Kind,
    MemoryRates, Mode, NetworkRates, Policy, Pressure, Rates, Resource, State, Wish, decide,
};

pub const DISK: Device = Device { major: 8, minor: 0 };
pub const WRITES: Actuator = Actuator::IoMax { device: DISK, kind: IoKind::WriteBytes };
const CPUS: f64 = 2.0;
const DISK_BYTES_PER_S: f64 = 200e6;
const UPLINK_BYTES_PER_S: f64 = 125e6;
const MEMORY_BYTES: f64 = 4e9;

/// What a container would do if nobody hindered it.
#[derive(Clone, Debug, Default)]
pub struct Toy {
    pub id: String,
    pub class: &'static str,
    pub foreign: bool,
    pub unshaped: bool,
    pub stopped: bool,
    pub cores: f64,
    pub write_bytes_per_s: f64,
    pub egress_bytes_per_s: f64,
    /// Its CPU time goes into what it sends.
    pub streams: bool,
    pub memory_bytes: f64,
    /// None of its memory can be reclaimed: it keeps what it has, and gets no more.
    pub is_locked: bool,
    /// Seconds per second that its own quota throttles it.
    pub quota: f64,
    /// It says how long its answers take.
    pub tells: bool,
    pub wishes: BTreeMap<Actuator, Wish>,
    pub in_force: BTreeMap<Actuator, f64>,
}

pub fn toy(id: &str, class: &'static str) -> Toy {
    Toy { id: id.into(), class, ..Toy::default() }
}

#[derive(Clone, Debug, Default)]
pub struct Plant {
    pub toys: Vec<Toy>,
    pub now_ms: u64,
    pub steal: f64,
    /// Part of each victim's wait that comes whatever its neighbours do.
    pub stubborn: f64,
    /// The uplink's queue lets who is `net.priority` 1 wait for the others.
    pub uplink_has_classes: bool,
    /// But everybody waits at a queue that does not.
    pub waits_elsewhere: bool,
    /// Nobody is in anybody's way.
    pub harmless: bool,
    /// The disk's queue knows weights.
    pub weighted_disk: bool,
}

impl Toy {
    fn limit(&self, actuator: Actuator) -> f64 {
        self.in_force.get(&actuator).copied().unwrap_or(f64::INFINITY)
    }

    fn cores_wanted(&self) -> f64 {
        let share = if self.streams { self.sends() / self.egress_bytes_per_s } else { 1.0 };
        (self.cores * share).min(self.limit(Actuator::CpuMax))
    }

    fn writes(&self) -> f64 {
        self.write_bytes_per_s.min(self.limit(WRITES))
    }

    fn sends(&self) -> f64 {
        self.egress_bytes_per_s.min(self.limit(Actuator::NetEgress))
    }

    fn memory(&self) -> f64 {
        self.memory_bytes.min(self.limit(Actuator::MemoryHigh))
    }

    /// How much of what it wants a disk with weights gives it beside `other`: all with the same
    /// weight.
    fn disk_share(&self, other: &Toy) -> f64 {
        let weight = |toy: &Toy| toy.in_force.get(&Actuator::IoWeight).copied().unwrap_or(100.0);
        (2.0 * weight(self) / (weight(self) + weight(other))).min(1.0)
    }

    /// How much of a CPU it takes from another one that wants it, 0 to 1.
    fn weight(&self) -> f64 {
        if self.in_force.get(&Actuator::CpuIdle).is_some_and(|idle| *idle > 0.0) {
            return 0.003;
        }
        let weight = self.in_force.get(&Actuator::CpuWeight).copied().unwrap_or(100.0);
        weight / (weight + 100.0)
    }
}

impl Plant {
    /// What it writes: all that it wants while nobody else wants the disk.
    fn written(&self, toy: &Toy) -> f64 {
        let rivals = self.running().filter(|other| other.id != toy.id);
        let shares = rivals.filter(|other| other.writes() > 0.0).map(|one| toy.disk_share(one));
        toy.writes() * if self.weighted_disk { shares.fold(1.0, f64::min) } else { 1.0 }
    }

    pub fn of(toys: impl IntoIterator<Item = Toy>) -> Plant {
        let mut plant = Plant { toys: toys.into_iter().collect(), ..Plant::default() };
        plant.now_ms = 1_000_000;
        plant.restore();
        plant
    }

    pub fn toy(&mut self, id: &str) -> &mut Toy {
        self.toys.iter_mut().find(|toy| toy.id == id).unwrap()
    }

    /// The operators' wishes are in force.
    fn restore(&mut self) {
        for toy in &mut self.toys {
            for (actuator, wish) in &toy.wishes {
                if let Some(limit) = wish.limit {
                    toy.in_force.insert(*actuator, limit);
                }
            }
        }
    }

    /// How long `victim` waits for `resource` because of `other`; seconds per second.
    fn wait(&self, victim: &Toy, other: &Toy, resource: Resource) -> f64 {
        match resource {
            _ if self.harmless => 0.0,
            Resource::Cpu => {
                let crowd: f64 = self.running().map(Toy::cores_wanted).sum::<f64>().max(CPUS);
                2.0 * victim.cores * other.weight() * other.cores_wanted() / crowd
            }
            Resource::Disk if victim.write_bytes_per_s > 0.0 => {
                let in_the_way = |share: f64| (share * other.writes() / DISK_BYTES_PER_S).powi(2);
                // The lighter one waits while the other's requests are served.
                let held_up = |share: f64| if other.writes() > 0.0 { 1.0 - share } else { 0.0 };
                match self.weighted_disk {
                    true => {
                        in_the_way(other.disk_share(victim)) + held_up(victim.disk_share(other))
                    }
                    false => in_the_way(1.0),
                }
            }
            Resource::Network if victim.egress_bytes_per_s > 0.0 => {
                // One of its packets may be on its way already.
                let goes_last = other.in_force.contains_key(&Actuator::NetPriority);
                let sorts = self.uplink_has_classes && !self.waits_elsewhere;
                let part = if goes_last && sorts { 0.01 } else { 1.0 };
                part * (other.sends() / UPLINK_BYTES_PER_S).powi(2)
            }
            Resource::Memory if victim.memory_bytes > 0.0 => {
                let all: f64 = self.running().map(Toy::memory).sum();
                ((all - MEMORY_BYTES) / MEMORY_BYTES).max(0.0) * other.memory() / all
            }
            _ => 0.0,
        }
    }

    fn running(&self) -> impl Iterator<Item = &Toy> {
        self.toys.iter().filter(|toy| !toy.stopped)
    }

    pub fn rates(&self) -> Rates {
        let mut rates = Rates {
            at_ms: self.now_ms,
            interval_ms: 1000,
            uplink_has_classes: self.uplink_has_classes,
            cpus: CPUS as u32,
            steal: self.steal,
            ..Rates::default()
        };
        for victim in &self.toys {
            let mut waits = BTreeMap::new();
            for resource in Resource::ALL {
                let mut total = self.stubborn * f64::from(u8::from(resource == Resource::Cpu));
                for other in self.running().filter(|other| other.id != victim.id) {
                    let seconds = self.wait(victim, other, resource);
                    total += seconds;
                    if seconds > 1e-6 && !victim.stopped {
                        rates.blame.push(Blame {
                            victim: victim.id.clone(),
                            culprit: Culprit::Container(other.id.clone()),
                            resource,
                            seconds_per_second: seconds,
                        });
                    }
                }
                waits.insert(resource, total);
            }
            let mut row = container(victim, &waits);
            for disk in &mut row.disks {
                disk.write_bytes_per_s = self.written(victim);
                disk.write_ops_per_s = disk.write_bytes_per_s / 131_072.0;
                disk.weighted = self.weighted_disk;
            }
            rates.containers.push(row);
        }
        rates
    }

    /// One look a second later: measures, decides, executes.
    pub fn look(&mut self, policy: &Policy, state: &mut State) -> Vec<Decision> {
        self.now_ms += 1000;
        let (next, decisions) = decide(policy, state, &self.rates(), self.now_ms);
        *state = next;
        self.execute(&decisions);
        decisions
    }

    pub fn looks(&mut self, policy: &Policy, state: &mut State, count: u32) -> Vec<Decision> {
        (0..count).flat_map(|_| self.look(policy, state)).collect()
    }

    fn execute(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            if decision.mode != Mode::Enforce || matches!(decision.kind, Kind::Advise | Kind::Yield)
            {
                continue;
            }
            let Some(toy) = self.toys.iter_mut().find(|toy| toy.id == decision.container) else {
                continue;
            };
            let actuator = decision.actuator.expect("what is executed has an actuator");
            match decision.after {
                Some(value) => drop(toy.in_force.insert(actuator, value)),
                None => drop(toy.in_force.remove(&actuator)),
            }
        }
    }

    /// What the victim's p99 run-queue wait is, in milliseconds.
    pub fn run_queue_p99_ms(&self, victim: &str) -> f64 {
        let rates = self.rates();
        let victim = rates.containers.iter().find(|container| container.id == victim).unwrap();
        victim.cpu.wait_p99_us.unwrap_or_default() / 1000.0
    }
}

fn container(toy: &Toy, waits: &BTreeMap<Resource, f64>) -> ContainerRates {
    let wait = |resource| waits[&resource];
    let busy = toy.cores > 0.0 && !toy.stopped;
    let disk = DiskRates {
        device: DISK,
        read_bytes_per_s: 0.0,
        write_bytes_per_s: toy.writes(),
        read_ops_per_s: 0.0,
        write_ops_per_s: toy.writes() / 131_072.0,
        weighted: false,
        p99_us: (toy.write_bytes_per_s > 0.0).then(|| 1000.0 + 40_000.0 * wait(Resource::Disk)),
    };
    ContainerRates {
        id: toy.id.clone(),
        name: format!("the-{}", toy.id),
        labels: [("tenantry.class".to_owned(), toy.class.to_owned())].into(),
        foreign: toy.foreign,
        unshaped: toy.unshaped,
        running: !toy.stopped,
        cpu: CpuRates {
            used_cores: toy.cores_wanted(),
            wait: wait(Resource::Cpu),
            wait_p99_us: busy.then(|| 100.0 + 40_000.0 * wait(Resource::Cpu)),
            quota: toy.quota,
        },
        disks: if toy.write_bytes_per_s > 0.0 { vec![disk] } else { Vec::new() },
        memory: MemoryRates {
            usage_bytes: toy.memory(),
            unreclaimable_bytes: if toy.is_locked { toy.memory() } else { 0.0 },
            ..MemoryRates::default()
        },
        network: NetworkRates { egress_bytes_per_s: toy.sends(), ingress_bytes_per_s: 0.0 },
        pressure: Pressure {
            cpu: (wait(Resource::Cpu) / 2.0).min(1.0),
            memory: wait(Resource::Memory).min(1.0),
            io: (wait(Resource::Disk) / 2.0).min(1.0),
        },
        latency_ms: toy.tells.then(|| 1.0 + 40.0 * wait(Resource::Cpu)),
        wishes: toy.wishes.clone(),
        in_force: toy.in_force.clone(),
        ..ContainerRates::default()
    }
}

/// A server and a few that compete with it for the CPUs.
pub fn server_and_spinners(spinners: usize) -> Plant {
    let server = Toy { cores: 0.3, ..toy("web", "protected") };
    let spinner = |index| Toy { cores: 2.0, ..toy(&format!("spin{index}"), "best-effort") };
    Plant::of([server].into_iter().chain((0..spinners).map(spinner)))
}

pub fn enforce(more: &str) -> Policy {
    Policy::parse(&format!("mode = \"enforce\"\n{more}")).unwrap()
}

/// How often a limit turned from tighter to looser or back, in the order of time.
pub fn turns(decisions: &[Decision], container: &str, actuator: Actuator) -> Vec<u64> {
    let mut last = None;
    let mut turns = Vec::new();
    for decision in decisions {
        if decision.container != container || decision.actuator != Some(actuator) {
            continue;
        }
        let tighter = match decision.kind {
            Kind::Tighten => true,
            Kind::Loosen | Kind::Release | Kind::Undo => false,
            Kind::Advise | Kind::Yield => continue,
        };
        if last.is_some_and(|last| last != tighter) {
            turns.push(decision.at_ms);
        }
        last = Some(tighter);
    }
    turns
}

/// What each decision did, and with what.
pub fn kinds(decisions: &[Decision]) -> Vec<(Kind, Option<Actuator>)> {
    decisions.iter().map(|decision| (decision.kind, decision.actuator)).collect()
}
