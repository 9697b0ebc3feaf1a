//! Loads, attaches and reads the kernel programs: the only crate that names aya.
//!
//! Owns the pinned maps and links under one directory of bpffs and turns raw bytes
//! into numbers and events. It knows containers only as slots, cgroups only as ids,
//! and never writes to a cgroup or a process. The agent is its caller.
//!
//! A restarted agent finds its predecessor's pins and goes on with the same
//! counters ([`Meters::adopted`]); the programs never stop counting meanwhile.

mod arguments;
mod blame;
mod cache;
mod call;
mod call_shapes;
mod cost;
mod counters;
mod destinations;
mod disk;
mod dns;
mod error_class;
mod event;
mod event_kind;
mod filter;
mod floor;
mod foreign;
mod histogram;
mod load;
mod map;
mod memory;
mod meters;
mod names;
mod namespaces;
mod options;
mod pace;
mod pins;
mod probe;
mod profile;
mod reader;
mod scheduler;
mod switch;
mod syscall_counts;
mod syscall_table;
mod syscalls;
mod tcp;
mod trace;

pub use arguments::argument_count;
pub use blame::{Blame, BlamedResource, Culprit};
pub use call::{CallEvent, OpenFile, Question, SentSignal, Socket};
pub use cost::{Cost, CostError, MapCost, ProgramCost, Timing};
pub use counters::{
    EVENT_KINDS, EventCounters, Lost, NetworkCounters, SlotCounters, SlotEvents, UdpCounters,
    UdpDrops,
};
pub use destinations::{Destination, DestinationCounters, Direction};
pub use disk::{DiskCounters, DiskKey, DiskOp, Disks};
pub use dns::{DnsCode, DnsCounters, DnsQuestions};
pub use error_class::{ErrorClass, error_class};
pub use event::{Ancestor, Event, EventHeader, ExecEvent, ExitEvent, Namespaces, OomEvent};
pub use event_kind::EventKind;
pub use filter::{
    AUDIT_PREFIX_BYTES, AUDIT_PREFIXES, AuditFilter, FilterError, OpenFilter, SetFilterError,
};
pub use floor::Floor;
pub use foreign::{CgroupEvent, CgroupReader, ForeignCgroup, POOL_SLOTS, Tree};
pub use histogram::Histogram;
pub use load::LoadError;
pub use map::MapError;
pub use meters::{CgroupIds, Meters};
pub use names::{capability_name, error_name, open_flag_names};
pub use namespaces::NamespaceCounts;
pub use options::{ForeignOptions, LoadOptions};
pub use pace::Pace;
pub use probe::{Probe, ProbeStatus, SYSCALL_ENTER as SYSCALL_LATENCY_PROBE};
pub use profile::{Recording, RefusedCall, Subjects};
pub use reader::EventReader;
pub use scheduler::{OffCpu, SchedulerCounters};
pub use switch::SwitchError;
pub use syscall_counts::{SyscallCount, SyscallErrors};
pub use syscalls::{SyscallClass, syscall_class, syscall_name, syscall_number};
pub use tcp::{TcpCounters, TcpError};
pub use tenantry_abi::{BANDWIDTH_MAJORS, NO_CALL};
pub use trace::{TRACES, TraceError, TracedSyscall};

/// A container's index in the kernel's maps. 0 is "no container".
pub type Slot = u32;
