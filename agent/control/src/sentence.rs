//! A decision in one plain sentence, for a person.

use std::fmt;

use crate::actuator::{Actuator, IoKind};
use crate::decision::{Decision, Evidence, Kind, Objective, Reason};
use crate::types::Mode;

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (victim, name, resource) = (&self.victim_name, &self.name, self.resource);
        match self.kind {
            Kind::Advise => self.write_advice(f)?,
            kind => {
                let verb = match (kind, self.mode) {
                    (Kind::Tighten, Mode::Enforce) => "limited",
                    (Kind::Tighten, _) => "would be limited",
                    (Kind::Loosen, _) => "gets some back",
                    (Kind::Release, _) => "is let go",
                    (Kind::Undo, _) => "is let go again",
                    (Kind::Yield | Kind::Advise, _) => "is left alone",
                };
                write!(f, "{name} {verb}")?;
                if let Some(actuator) = &self.actuator {
                    let value = |value| Shown(actuator, value);
                    write!(f, ": {actuator} {} → {}", value(self.before), value(self.after))?;
                }
            }
        }
        match self.reason {
            Reason::ObjectiveMissed => {
                write!(f, ", since {victim} {}", Missed(&self.evidence))?;
                write!(f, " and waits for it ({resource})")
            }
            Reason::CulpritNotBestEffort | Reason::CulpritForeign | Reason::VictimNotProtected => {
                Ok(())
            }
            Reason::VictimWell => write!(f, ", since {victim} is well"),
            Reason::VictimGone => write!(f, ", since {victim} ended"),
            Reason::VictimIdle => write!(f, ", since {victim} asks for no {resource}"),
            Reason::CulpritGone => write!(f, ", since it ended"),
            Reason::CulpritIdle => write!(f, ", since it asks for little {resource} itself"),
            Reason::DidNotHelp => {
                write!(
                    f,
                    ", since it did not help {victim}, which still {}",
                    Missed(&self.evidence)
                )
            }
            Reason::OperatorChanged => write!(f, ", since the operator set this limit anew"),
            Reason::SomebodyElseWrote => write!(f, ", since somebody else wrote this limit"),
            Reason::PolicyChanged => write!(f, ", since the policy no longer says so"),
        }?;
        f.write_str(".")
    }
}

impl Decision {
    fn write_advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (victim, name) = (&self.victim_name, &self.name);
        let Evidence { share, wait, .. } = self.evidence;
        match (self.reason, &self.actuator) {
            (Reason::ObjectiveMissed, Some(actuator)) => {
                let value = |value| Shown(actuator, value);
                write!(
                    f,
                    "In enforce mode {name} would be limited: {actuator} {} → {}",
                    value(self.before),
                    value(self.after)
                )
            }
            (reason, _) => {
                write!(
                    f,
                    "{victim} is hurt by {name} ({:.0} % of {wait:.3} s/s of waiting for {}): class ",
                    share * 100.0,
                    self.resource
                )?;
                match reason {
                    Reason::VictimNotProtected => write!(f, "{victim} protected and ")?,
                    Reason::CulpritForeign => {
                        write!(f, "{name} best-effort and say limit_foreign = true")?;
                        return write!(f, " to let me act on another runtime's container");
                    }
                    _ => {}
                }
                write!(f, "{name} best-effort to let me act")
            }
        }
    }
}

/// Which objective is missed, and by how much.
struct Missed<'e>(&'e Evidence);

impl fmt::Display for Missed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evidence { measured, wanted, .. } = self.0;
        let (what, unit, scale) = match self.0.objective {
            None => return f.write_str("misses its objective"),
            Some(Objective::RunQueueP99Ms) => ("a run-queue p99", "ms", 1.0),
            Some(Objective::DiskP99Ms) => ("a disk p99", "ms", 1.0),
            Some(Objective::PressureCpu) => ("a CPU pressure", "%", 100.0),
            Some(Objective::PressureMemory) => ("a memory pressure", "%", 100.0),
            Some(Objective::PressureIo) => ("an I/O pressure", "%", 100.0),
            Some(Objective::NetworkWait) => ("a wait for the network", "ms/s", 1000.0),
            Some(Objective::LatencyMs) => ("a latency", "ms", 1.0),
        };
        write!(f, "has {what} of {:.1} {unit} (wanted {:.1})", measured * scale, wanted * scale)
    }
}

/// A value with its unit.
struct Shown<'a>(&'a Actuator, Option<f64>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(value) = self.1 else { return f.write_str("none") };
        match self.0 {
            Actuator::CpuWeight | Actuator::IoWeight => write!(f, "{value:.0}"),
            Actuator::CpuIdle | Actuator::NetPriority => {
                f.write_str(if value > 0.0 { "on" } else { "off" })
            }
            Actuator::CpuMax => write!(f, "{value:.2} CPUs"),
            Actuator::MemoryHigh => write!(f, "{:.0} MiB", value / f64::from(1 << 20)),
            Actuator::IoMax { kind: IoKind::ReadOps | IoKind::WriteOps, .. } => {
                write!(f, "{value:.0}/s")
            }
            Actuator::IoMax { .. } => write!(f, "{:.1} MB/s", value / 1e6),
            Actuator::NetEgress | Actuator::NetIngress => {
                write!(f, "{:.1} Mbit/s", value * 8.0 / 1e6)
            }
        }
    }
}
