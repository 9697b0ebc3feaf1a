//! Keys and values of the maps.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Namespaces;

/// Syscall numbers that have a counter of their own.
pub const SYSCALLS: usize = 512;
/// The counter of 32-bit calls and of numbers beyond the table.
pub const SYSCALL_OTHER: u32 = 511;
pub const SYSCALL_CLASSES: usize = 12;
/// Error numbers that have a class of their own in the table.
pub const ERRNOS: usize = 256;
pub const ERROR_CLASSES: usize = 9;
pub const ERROR_CELLS: usize = 256;
pub const BUCKETS: usize = 40;
/// Slots that can be traced at once.
pub const TRACES: usize = 4;
pub const CACHE_WORDS: usize = 16384;
/// A cache word has 16 bits for the slot.
pub const SLOTS_MAX: u32 = 65535;
pub const EVENT_EXEC: u32 = 0;
pub const EVENT_EXIT: u32 = 1;
pub const EVENT_OOM: u32 = 2;
pub const EVENT_OPEN: u32 = 3;
pub const EVENT_FILE: u32 = 4;
pub const EVENT_CONNECT: u32 = 5;
pub const EVENT_ACCEPT: u32 = 6;
pub const EVENT_BIND: u32 = 7;
pub const EVENT_LISTEN: u32 = 8;
pub const EVENT_DNS: u32 = 9;
pub const EVENT_MOUNT: u32 = 10;
pub const EVENT_NAMESPACE: u32 = 11;
pub const EVENT_PTRACE: u32 = 12;
pub const EVENT_KERNEL: u32 = 13;
pub const EVENT_CREDENTIALS: u32 = 14;
pub const EVENT_KEYRING: u32 = 15;
pub const EVENT_SIGNAL: u32 = 16;
pub const EVENT_CAPABILITY: u32 = 17;
pub const EVENT_KINDS: usize = 18;
/// What a thread that is off its CPU does.
pub const OFF_INTERRUPTIBLE: usize = 0;
pub const OFF_UNINTERRUPTIBLE: usize = 1;
pub const OFF_STOPPED: usize = 2;
pub const OFF_PREEMPTED: usize = 3;
pub const OFF_WOKEN: usize = 4;
pub const OFF_STATES: usize = 5;
pub const SELF_CGROUPS_FULL: u32 = 0;
pub const SELF_DISKS_FULL: u32 = 1;
pub const SELF_REQUESTS_FULL: u32 = 2;
pub const SELF_TASKS_FULL: u32 = 3;
pub const SELF_SOCKETS_FULL: u32 = 4;
pub const SELF_NAMESPACES_FULL: u32 = 5;
pub const SELF_DESTINATIONS_FULL: u32 = 6;
pub const SELF_POOL_EMPTY: u32 = 7;
pub const SELF_CGROUP_EVENTS_LOST: u32 = 8;
pub const SELF_DNS_NAMES_FULL: u32 = 9;
pub const SELF_DNS_QUESTIONS_FULL: u32 = 10;
/// Disk requests whose completion the kernel ran no program for.
pub const SELF_COMPLETIONS_UNSEEN: u32 = 11;
pub const SELF_BLAME_FULL: u32 = 12;
pub const SELF_DISK_SERVICES_FULL: u32 = 13;
/// Packets of containers that left a queue which nobody saw them enter.
pub const SELF_QUEUED_UNSEEN: u32 = 14;
pub const SELF_COUNTERS: u32 = 15;
/// The same container.
pub const CAUSE_SELF: usize = 0;
/// What is in no container; a CPU or a disk that idled, too.
pub const CAUSE_HOST: usize = 1;
/// Its own CPU quota, or one above it; a container's own bandwidth.
pub const CAUSE_QUOTA: usize = 2;
/// The hypervisor had the CPU.
pub const CAUSE_STEAL: usize = 3;
/// Nobody remembers.
pub const CAUSE_UNEXPLAINED: usize = 4;
pub const CAUSES: usize = 5;
pub const BLAME_CPU: u32 = 0;
pub const BLAME_DISK: u32 = 1;
pub const BLAME_NETWORK: u32 = 2;
pub const BLAMED_RESOURCES: usize = 3;
/// Major numbers of the queues that hold a container to its own bandwidth.
pub const BANDWIDTH_MAJORS: [u16; 2] = [0x7e41, 0x7e42];
pub const OUTGOING: u8 = 0;
pub const INCOMING: u8 = 1;
/// Destinations of their own that one slot may have.
pub const SLOT_DESTINATIONS: usize = 1024;
/// An attempt that its own program gave up.
pub const TCP_NONE: usize = 0;
pub const TCP_REFUSED: usize = 1;
pub const TCP_TIMED_OUT: usize = 2;
pub const TCP_HOST_UNREACHABLE: usize = 3;
pub const TCP_NET_UNREACHABLE: usize = 4;
pub const TCP_RESET: usize = 5;
pub const TCP_BROKEN_PIPE: usize = 6;
pub const TCP_OTHER: usize = 7;
pub const TCP_ERRORS: usize = 8;
/// The socket's receive buffer was full.
pub const UDP_BUFFER: usize = 0;
/// All UDP sockets together had their share, or there was no memory.
pub const UDP_MEMORY: usize = 1;
pub const UDP_DROPS: usize = 2;
pub const DNS_A: usize = 0;
pub const DNS_AAAA: usize = 1;
pub const DNS_OTHER_TYPE: usize = 2;
pub const DNS_TYPES: usize = 3;
pub const DNS_NOERROR: usize = 0;
pub const DNS_NXDOMAIN: usize = 1;
pub const DNS_SERVFAIL: usize = 2;
pub const DNS_REFUSED: usize = 3;
pub const DNS_OTHER_CODE: usize = 4;
pub const DNS_CODES: usize = 5;
/// The end of a name that is kept.
pub const DNS_NAME: usize = 64;
/// Names of their own that one slot may have.
pub const SLOT_DNS_NAMES: usize = 256;
pub const DISK_READ: u32 = 0;
pub const DISK_WRITE: u32 = 1;
pub const DISK_FLUSH: u32 = 2;
pub const DISK_DISCARD: u32 = 3;
pub const DISK_OTHER: u32 = 4;

/// Word of the slot cache: the cgroup's id and its slot, read and written as one.
pub const fn cache_word(id: u64, slot: u32) -> u64 {
    id << 16 | slot as u64
}

pub const fn cache_index(id: u64) -> usize {
    id as usize & (CACHE_WORDS - 1)
}

/// A cgroup: its kernfs id within one hierarchy (0 is v2, else the number in `/proc/cgroups`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupKey {
    pub id: u64,
    pub hierarchy: u32,
    pub reserved: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SlotState {
    /// 0 until the first exec in the slot's cgroups.
    pub armed: u32,
    /// Not 0 when `own` is known, the namespaces of the first that counted in this run; each
    /// run has another.
    pub claimed: u32,
    /// Kernel addresses, which mean nothing here.
    pub nsproxy: u64,
    pub user_ns: u64,
    /// In the slot's own row from earlier runs, which had other namespaces.
    pub calls_before: u64,
    pub errors_before: u64,
    pub own: Namespaces,
    /// 1 if the slot has rows in `namespace_syscalls`.
    pub others: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NamespaceKey {
    pub slot: u32,
    pub namespaces: Namespaces,
}

/// Bucket 0 holds 0 and 1 ns, bucket i (2^(i-1), 2^i] ns, the last one everything above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Histogram {
    pub sum_ns: u64,
    pub buckets: [u64; BUCKETS],
}

/// Errors of one syscall and one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ErrorCell {
    pub count: u64,
    /// `class << 16 | nr + 1`; 0 = free.
    pub key: u32,
    pub reserved: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Syscalls {
    pub count: [u64; SYSCALLS],
    /// All errors; `cells` has them by class, but for those that found no cell.
    pub errors: [u64; SYSCALLS],
    pub cells: [ErrorCell; ERROR_CELLS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyscallLatency {
    pub classes: [Histogram; SYSCALL_CLASSES],
}

/// How syscalls are timed at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timing {
    /// When `syscall_enter` was attached, CLOCK_MONOTONIC; 0 = it is not.
    pub since_ns: u64,
    /// Whether one call in sixteen is timed.
    pub sample: u32,
    /// How many slots are traced.
    pub traces: u32,
}

/// A slot whose every call is timed for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SlotTrace {
    /// CLOCK_MONOTONIC; calls that began before are not part of it.
    pub since_ns: u64,
    /// CLOCK_MONOTONIC, when it ends by itself; 0 = no trace.
    pub until_ns: u64,
    pub row: u32,
    pub reserved: u32,
}

/// Calls of one number in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceCall {
    pub errors: u64,
    pub latency: Histogram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Scheduler {
    /// From runnable to running.
    pub waits: Histogram,
    pub on_cpu_ns: u64,
    pub off_cpu_ns: [u64; OFF_STATES],
    pub voluntary: u64,
    pub involuntary: u64,
    pub migrations: u64,
}

/// Who kept whom waiting, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlameKey {
    /// Slots, none of them 0, and never the same.
    pub victim: u32,
    pub culprit: u32,
    /// `BLAME_*`
    pub resource: u32,
}

/// With what the map `blame` has of the same victim, these are all its waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Causes {
    /// By `BLAME_*` and `CAUSE_*`.
    pub ns: [[u64; CAUSES]; BLAMED_RESOURCES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Traffic {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Network {
    pub external: Traffic,
    pub loopback: Traffic,
    /// What of it was UDP.
    pub udp_external: Traffic,
    pub udp_loopback: Traffic,
    /// By `UDP_*`.
    pub udp_drops: [u64; UDP_DROPS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DiskKey {
    /// 0: charged to the root cgroup, of which only ios, bytes and errors are kept.
    pub slot: u32,
    pub major: u32,
    pub minor: u32,
    pub op: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Disk {
    pub ios: u64,
    pub bytes: u64,
    pub errors: u64,
    pub requeues: u64,
    pub merges: u64,
    pub in_flight: u64,
    pub latency: Histogram,
    pub queue: Histogram,
}

/// A request at the device; bytes and time add up over partial completions and requeues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    pub issued_ns: u64,
    pub served_ns: u64,
    pub bytes: u64,
    pub asked_bytes: u64,
    pub key: DiskKey,
}

/// By event kind; delivered + lost = produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventCounts {
    pub produced: [u64; EVENT_KINDS],
    pub lost: [u64; EVENT_KINDS],
    /// What a filter left out: neither produced nor lost.
    pub filtered: [u64; EVENT_KINDS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrampolineCounts {
    pub exec_attempts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tcp {
    /// Changes when the slot is handed out anew: a socket may outlive its container.
    pub generation: u32,
    /// That it has in the table.
    pub destinations: u32,
    pub connects_begun: u64,
    pub connects_established: u64,
    pub connects_failed: u64,
    pub accepts: u64,
    /// Of the established and the accepted ones.
    pub closed: u64,
    pub resets_received: u64,
    pub resets_sent: u64,
    /// Segments.
    pub retransmits: u64,
    /// Segments that found a listener's queue full.
    pub listen_overflows: u64,
    /// By `TCP_*`.
    pub failures: [u64; TCP_ERRORS],
    pub duration: Histogram,
    /// Of the destinations that found no room, by direction.
    pub other: [Destination; 2],
}

/// An address and its port, or a network of clients and the slot's own port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestinationKey {
    pub slot: u32,
    /// Remote if outgoing, local if incoming.
    pub port: u16,
    pub direction: u8,
    /// 4 or 6.
    pub family: u8,
    /// Network order; of IPv4 the first word alone; /24 or /64 if incoming.
    pub address: [u32; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Destination {
    pub connections: u64,
    pub failures: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TcpRtt {
    pub external: Histogram,
    pub loopback: Histogram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DnsKey {
    /// Of the name's end, in lower case.
    pub hash: u64,
    pub slot: u32,
    pub reserved: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DnsCounts {
    /// By type: `DNS_A`, …
    pub queries: [u64; DNS_TYPES],
    /// By code: `DNS_NOERROR`, …
    pub answers: [u64; DNS_CODES],
    /// Asked again, or its socket was closed, before an answer came.
    pub unanswered: u64,
    /// Of the answers.
    pub latency: Histogram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DnsName {
    pub counts: DnsCounts,
    /// Each label behind its length, without the end's 0, in lower case.
    pub name: [u8; DNS_NAME],
    /// 0 until the name is there.
    pub name_bytes: u32,
    pub reserved: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dns {
    /// Changes when the slot is handed out anew: a socket may outlive its container.
    pub generation: u32,
    /// That it has in the table.
    pub names: u32,
    /// Of names that found no room or cannot be read, and of the root.
    pub other: DnsCounts,
}

const _: () = {
    assert!(size_of::<CgroupKey>() == 16 && offset_of!(CgroupKey, hierarchy) == 8);
    assert!(size_of::<SlotState>() == 72 && offset_of!(SlotState, own) == 40);
    assert!(offset_of!(SlotState, others) == 68 && size_of::<NamespaceKey>() == 32);
    assert!(size_of::<Histogram>() == 328 && offset_of!(Histogram, buckets) == 8);
    assert!(size_of::<ErrorCell>() == 16 && offset_of!(ErrorCell, key) == 8);
    assert!(size_of::<Syscalls>() == 12288 && offset_of!(Syscalls, cells) == 8192);
    assert!(size_of::<SyscallLatency>() == 3936);
    assert!(size_of::<Timing>() == 16 && offset_of!(Timing, sample) == 8);
    assert!(size_of::<Scheduler>() == 400 && offset_of!(Scheduler, off_cpu_ns) == 336);
    assert!(offset_of!(Scheduler, voluntary) == 376 && offset_of!(Scheduler, migrations) == 392);
    assert!(size_of::<BlameKey>() == 12 && offset_of!(BlameKey, resource) == 8);
    assert!(size_of::<Causes>() == 120);
    assert!(size_of::<SlotTrace>() == 24 && offset_of!(SlotTrace, row) == 16);
    assert!(size_of::<TraceCall>() == 336 && offset_of!(TraceCall, latency) == 8);
    assert!(size_of::<Traffic>() == 32 && offset_of!(Traffic, tx_bytes) == 16);
    assert!(size_of::<Network>() == 144 && offset_of!(Network, udp_drops) == 128);
    assert!(size_of::<DiskKey>() == 16 && offset_of!(DiskKey, op) == 12);
    assert!(size_of::<Disk>() == 704 && offset_of!(Disk, latency) == 48);
    assert!(size_of::<Request>() == 48 && offset_of!(Request, key) == 32);
    assert!(size_of::<EventCounts>() == 432 && offset_of!(EventCounts, lost) == 144);
    assert!(size_of::<TrampolineCounts>() == 8);
    assert!(size_of::<Tcp>() == 536 && offset_of!(Tcp, failures) == 80);
    assert!(offset_of!(Tcp, other) == 472 && size_of::<Destination>() == 32);
    assert!(size_of::<DestinationKey>() == 24 && offset_of!(DestinationKey, address) == 8);
    assert!(size_of::<TcpRtt>() == 656 && offset_of!(TcpRtt, loopback) == 328);
    assert!(size_of::<DnsKey>() == 16 && offset_of!(DnsKey, slot) == 8);
    assert!(size_of::<DnsCounts>() == 400 && offset_of!(DnsCounts, latency) == 72);
    assert!(size_of::<DnsName>() == 472 && offset_of!(DnsName, name_bytes) == 464);
    assert!(size_of::<Dns>() == 408 && offset_of!(Dns, other) == 8);
    // The kernel's per-CPU allocator takes no larger values.
    assert!(size_of::<Syscalls>() <= 32 * 1024 && size_of::<SyscallLatency>() <= 32 * 1024);
};
