//! What the controller can turn, and in which unit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::Resource;

/// A block device as the kernel names it: `8:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

/// Which of `io.max`'s four limits, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IoKind {
    ReadBytes,
    WriteBytes,
    ReadOps,
    WriteOps,
}

/// One limit of one container. In JSON (also as a key) the text that is displayed:
/// `cpu.weight`, `io.max 8:0 wbps`.
///
/// Values are `f64`, tighter when smaller, except `cpu.idle` and `net.priority`, which are 0
/// or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Actuator {
    /// 1 to 10,000 on cgroup v2's scale; without a wish the kernel's 100.
    CpuWeight,
    /// 1: runs when nobody else wants to; 0: as others. The kernel forgets the weight when
    /// this is written (1 sets the least, 0 sets 100): write the weight again after a 0.
    CpuIdle,
    /// CPUs, 1.0 = one.
    CpuMax,
    /// Bytes.
    MemoryHigh,
    /// 1 to 10,000 on cgroup v2's scale, of the group at all of its disks; without a wish the
    /// kernel's 100. Heeded where [`crate::DiskRates::weighted`].
    IoWeight,
    /// Bytes or operations per second.
    IoMax { device: Device, kind: IoKind },
    /// **Bytes** per second that the container sends.
    NetEgress,
    /// **Bytes** per second that the container receives.
    NetIngress,
    /// 1: what it sends goes after what others send, in a queue that knows classes; 0: as
    /// others.
    NetPriority,
}

/// An actuator of whatever device: what a policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ActuatorKind {
    #[serde(rename = "cpu.weight")]
    CpuWeight,
    #[serde(rename = "cpu.idle")]
    CpuIdle,
    #[serde(rename = "cpu.max")]
    CpuMax,
    #[serde(rename = "memory.high")]
    MemoryHigh,
    #[serde(rename = "io.weight")]
    IoWeight,
    #[serde(rename = "io.max")]
    IoMax,
    #[serde(rename = "net.egress")]
    NetEgress,
    #[serde(rename = "net.ingress")]
    NetIngress,
    #[serde(rename = "net.priority")]
    NetPriority,
}

impl ActuatorKind {
    pub const ALL: [ActuatorKind; 9] = [
        ActuatorKind::CpuWeight,
        ActuatorKind::CpuIdle,
        ActuatorKind::CpuMax,
        ActuatorKind::MemoryHigh,
        ActuatorKind::IoWeight,
        ActuatorKind::IoMax,
        ActuatorKind::NetEgress,
        ActuatorKind::NetIngress,
        ActuatorKind::NetPriority,
    ];
}

impl Actuator {
    pub fn resource(&self) -> Resource {
        match self {
            Actuator::CpuWeight | Actuator::CpuIdle | Actuator::CpuMax => Resource::Cpu,
            Actuator::MemoryHigh => Resource::Memory,
            Actuator::IoWeight | Actuator::IoMax { .. } => Resource::Disk,
            Actuator::NetEgress | Actuator::NetIngress | Actuator::NetPriority => Resource::Network,
        }
    }

    pub fn kind(&self) -> ActuatorKind {
        match self {
            Actuator::CpuWeight => ActuatorKind::CpuWeight,
            Actuator::CpuIdle => ActuatorKind::CpuIdle,
            Actuator::CpuMax => ActuatorKind::CpuMax,
            Actuator::MemoryHigh => ActuatorKind::MemoryHigh,
            Actuator::IoWeight => ActuatorKind::IoWeight,
            Actuator::IoMax { .. } => ActuatorKind::IoMax,
            Actuator::NetEgress => ActuatorKind::NetEgress,
            Actuator::NetIngress => ActuatorKind::NetIngress,
            Actuator::NetPriority => ActuatorKind::NetPriority,
        }
    }

    /// Takes from a container only what others want, and nothing when nobody does.
    pub fn is_work_conserving(&self) -> bool {
        matches!(self, Actuator::CpuWeight | Actuator::IoWeight) || self.is_switch()
    }

    /// On or off; on is tighter.
    fn is_switch(&self) -> bool {
        matches!(self, Actuator::CpuIdle | Actuator::NetPriority)
    }

    /// A container that is another runtime's, or on no network of ours, has its limits in cgroup
    /// files; its interfaces are not ours to shape.
    pub fn reaches_unshaped(&self) -> bool {
        self.resource() != Resource::Network
    }

    /// Whether `a` leaves the container less than `b`; `None` is the kernel's default.
    pub fn is_tighter(&self, a: Option<f64>, b: Option<f64>) -> bool {
        let [a, b] = [a, b].map(|value| value.unwrap_or(self.unlimited()));
        if self.is_switch() { a > b } else { a < b }
    }

    /// What the kernel does when nobody wrote anything.
    pub(crate) fn unlimited(&self) -> f64 {
        match self {
            Actuator::CpuWeight | Actuator::IoWeight => 100.0,
            Actuator::CpuIdle | Actuator::NetPriority => 0.0,
            _ => f64::INFINITY,
        }
    }
}

impl IoKind {
    fn as_str(self) -> &'static str {
        match self {
            IoKind::ReadBytes => "rbps",
            IoKind::WriteBytes => "wbps",
            IoKind::ReadOps => "riops",
            IoKind::WriteOps => "wiops",
        }
    }
}

/// The text that is no actuator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no actuator: cpu.weight, cpu.idle, cpu.max, memory.high, io.weight, net.egress, \
     net.ingress, net.priority or `io.max MAJOR:MINOR rbps|wbps|riops|wiops`"
)]
pub struct ActuatorError(String);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for Device {
    type Err = ActuatorError;

    fn from_str(text: &str) -> Result<Self, ActuatorError> {
        let parse = || {
            let (major, minor) = text.split_once(':')?;
            Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
        };
        parse().ok_or_else(|| ActuatorError(text.into()))
    }
}

impl fmt::Display for Actuator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actuator::CpuWeight => f.write_str("cpu.weight"),
            Actuator::CpuIdle => f.write_str("cpu.idle"),
            Actuator::CpuMax => f.write_str("cpu.max"),
            Actuator::MemoryHigh => f.write_str("memory.high"),
            Actuator::IoWeight => f.write_str("io.weight"),
            Actuator::IoMax { device, kind } => write!(f, "io.max {device} {}", kind.as_str()),
            Actuator::NetEgress => f.write_str("net.egress"),
            Actuator::NetIngress => f.write_str("net.ingress"),
            Actuator::NetPriority => f.write_str("net.priority"),
        }
    }
}

impl FromStr for Actuator {
    type Err = ActuatorError;

    fn from_str(text: &str) -> Result<Self, ActuatorError> {
        Ok(match text {
            "cpu.weight" => Actuator::CpuWeight,
            "cpu.idle" => Actuator::CpuIdle,
            "cpu.max" => Actuator::CpuMax,
            "memory.high" => Actuator::MemoryHigh,
            "io.weight" => Actuator::IoWeight,
            "net.egress" => Actuator::NetEgress,
            "net.ingress" => Actuator::NetIngress,
            "net.priority" => Actuator::NetPriority,
            _ => {
                let wrong = || ActuatorError(text.into());
                let rest = text.strip_prefix("io.max ").ok_or_else(wrong)?;
                let (device, word) = rest.split_once(' ').ok_or_else(wrong)?;
                let kinds =
                    [IoKind::ReadBytes, IoKind::WriteBytes, IoKind::ReadOps, IoKind::WriteOps];
                let kind = kinds.into_iter().find(|kind| kind.as_str() == word);
                Actuator::IoMax { device: device.parse()?, kind: kind.ok_or_else(wrong)? }
            }
        })
    }
}

macro_rules! through_text {
    ($($kind:ty),*) => {$(
        impl From<$kind> for String {
            fn from(value: $kind) -> String {
                value.to_string()
            }
        }

        impl TryFrom<String> for $kind {
            type Error = ActuatorError;

            fn try_from(text: String) -> Result<Self, ActuatorError> {
                text.parse()
            }
        }
    )*};
}

through_text!(Actuator, Device);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actuators_text_comes_back_as_the_same_actuator() {
        let device = Device { major: 259, minor: 3 };
        for actuator in [
            Actuator::CpuWeight,
            Actuator::CpuIdle,
            Actuator::CpuMax,
            Actuator::MemoryHigh,
            Actuator::IoWeight,
            Actuator::IoMax { device, kind: IoKind::ReadBytes },
            Actuator::IoMax { device, kind: IoKind::WriteOps },
            Actuator::NetEgress,
            Actuator::NetIngress,
            Actuator::NetPriority,
        ] {
            assert_eq!(actuator.to_string().parse(), Ok(actuator));
        }
        for wrong in ["", "cpu", "io.max", "io.max 8 rbps", "io.max 8:0", "io.max 8:0 bps"] {
            assert!(wrong.parse::<Actuator>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tighter_is_less_but_for_what_is_on_or_off() {
        assert!(Actuator::CpuMax.is_tighter(Some(0.5), None));
        assert!(Actuator::CpuWeight.is_tighter(Some(1.0), None));
        assert!(!Actuator::CpuWeight.is_tighter(Some(200.0), None));
        assert!(Actuator::IoWeight.is_tighter(Some(1.0), None));
        assert!(Actuator::CpuIdle.is_tighter(Some(1.0), None));
        assert!(!Actuator::CpuIdle.is_tighter(None, Some(1.0)));
        assert!(Actuator::NetPriority.is_tighter(Some(1.0), None));
        assert!(!Actuator::NetPriority.is_tighter(Some(0.0), None));
        assert!(!Actuator::CpuMax.is_tighter(None, None));
    }
}
