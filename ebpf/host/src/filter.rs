//! Which audit events the kernel sends. Pure, but for [`Meters`]' two calls.

use tenantry_abi as abi;
use zerocopy::FromZeros;

use crate::map::MapError;
use crate::{EventKind, Meters, Slot};

/// The most prefixes of one filter.
pub const AUDIT_PREFIXES: usize = abi::PREFIXES;
/// The longest prefix.
pub const AUDIT_PREFIX_BYTES: usize = abi::PREFIX_WORDS * 8;

/// What a slot's filter lets through. What it leaves out is counted:
/// [`EventCounters::filtered`](crate::EventCounters).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditFilter {
    pub kinds: Vec<EventKind>,
    /// Opens besides those below a prefix.
    pub opens: Vec<OpenFilter>,
    /// An open of a path that begins so is an event, whatever `opens` says. Compared as bytes:
    /// a directory's ends with a slash. At most [`AUDIT_PREFIX_BYTES`] bytes each.
    pub open_prefixes: Vec<String>,
    /// If there are some, only changes of paths that begin so are events of kind `file`.
    pub file_prefixes: Vec<String>,
    /// First and last of the users, as the host numbers them, whose doings are events.
    pub uids: (u32, u32),
    /// Numbers of system calls that are never events.
    pub syscalls_off: Vec<u32>,
}

/// Which opens are events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFilter {
    /// For writing: `O_WRONLY`, `O_RDWR`, `O_CREAT`, `O_TRUNC`.
    Write,
    /// Failed by `EACCES` or `EPERM`.
    Denied,
    Failed,
    All,
}

impl OpenFilter {
    pub const ALL: [OpenFilter; 4] =
        [OpenFilter::Write, OpenFilter::Denied, OpenFilter::Failed, OpenFilter::All];

    pub fn name(self) -> &'static str {
        match self {
            OpenFilter::Write => "write",
            OpenFilter::Denied => "denied",
            OpenFilter::Failed => "failed",
            OpenFilter::All => "all",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|open| open.name() == name)
    }

    fn bit(self) -> u32 {
        match self {
            OpenFilter::Write => abi::OPEN_WRITE,
            OpenFilter::Denied => abi::OPEN_DENIED,
            OpenFilter::Failed => abi::OPEN_FAILED,
            OpenFilter::All => abi::OPEN_ALL,
        }
    }
}

impl Default for AuditFilter {
    /// What an auditor wants and a busy host can pay: all kinds but denied capabilities, which
    /// the kernel asks for all the time; opens for writing and those that were denied.
    fn default() -> Self {
        let is_on = |kind: &EventKind| *kind != EventKind::Capability;
        Self {
            kinds: EventKind::ALL.into_iter().filter(is_on).collect(),
            opens: vec![OpenFilter::Write, OpenFilter::Denied],
            open_prefixes: Vec::new(),
            file_prefixes: Vec::new(),
            uids: (0, u32::MAX),
            syscalls_off: Vec::new(),
        }
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    #[error("{count} path prefixes, {AUDIT_PREFIXES} at most")]
    Prefixes { count: usize },
    #[error("path prefix {prefix:?}: 1 to {AUDIT_PREFIX_BYTES} bytes that begin with a slash")]
    Prefix { prefix: String },
    #[error("uids {first} to {last}: the first is the larger one")]
    Uids { first: u32, last: u32 },
    #[error("system call {nr}: 0 to {}", abi::SYSCALL_OTHER - 1)]
    Syscall { nr: u32 },
}

impl AuditFilter {
    /// What the kernel programs read.
    pub(crate) fn render(&self) -> Result<abi::AuditFilter, FilterError> {
        let mut raw = abi::AuditFilter::new_zeroed();
        raw.kinds = self.kinds.iter().fold(0, |bits, kind| bits | 1 << *kind as u32);
        raw.opens = self.opens.iter().fold(0, |bits, open| bits | open.bit());
        let (first, last) = self.uids;
        if first > last {
            return Err(FilterError::Uids { first, last });
        }
        (raw.uid_first, raw.uid_last) = (first, last);
        for nr in &self.syscalls_off {
            if *nr >= abi::SYSCALL_OTHER {
                return Err(FilterError::Syscall { nr: *nr });
            }
            raw.syscalls_off[*nr as usize / 64] |= 1 << (nr % 64);
        }
        let opens = self.open_prefixes.iter().map(|prefix| (prefix, abi::PREFIX_OPEN));
        let files = self.file_prefixes.iter().map(|prefix| (prefix, abi::PREFIX_FILE));
        let count = self.open_prefixes.len() + self.file_prefixes.len();
        if count > AUDIT_PREFIXES {
            return Err(FilterError::Prefixes { count });
        }
        for (row, (prefix, kinds)) in raw.prefix.iter_mut().zip(opens.chain(files)) {
            *row = render_prefix(prefix, kinds)?;
            raw.prefixed |= kinds;
        }
        Ok(raw)
    }

    /// Which bound it breaks, if any.
    pub fn check(&self) -> Result<(), FilterError> {
        self.render().map(drop)
    }
}

fn render_prefix(prefix: &str, kinds: u32) -> Result<abi::Prefix, FilterError> {
    if !prefix.starts_with('/') || prefix.len() > AUDIT_PREFIX_BYTES {
        return Err(FilterError::Prefix { prefix: prefix.into() });
    }
    let mut raw = abi::Prefix { kinds, bytes: prefix.len() as u32, ..abi::Prefix::default() };
    for (place, byte) in prefix.bytes().enumerate() {
        let shift = place % 8 * 8;
        raw.words[place / 8] |= u64::from(byte) << shift;
        raw.masks[place / 8] |= 0xff << shift;
    }
    Ok(raw)
}

#[derive(Debug, thiserror::Error)]
pub enum SetFilterError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Map(#[from] MapError),
}

impl Meters {
    /// From now on all slots have this filter, and those that are handed out later.
    pub fn set_audit_filter(&self, filter: &AuditFilter) -> Result<(), SetFilterError> {
        Ok(self.write_audit_filter(filter.render()?)?)
    }

    /// Slot 0, which is nobody's, keeps it for the next agent.
    pub(crate) fn write_audit_filter(&self, raw: abi::AuditFilter) -> Result<(), MapError> {
        *self.filter() = raw;
        (0..self.slots).try_for_each(|slot| self.maps.audit_filters.write(&slot, &raw))
    }

    /// One slot's, until it is handed out anew or [`Self::set_audit_filter`] is called.
    pub fn set_slot_audit_filter(
        &self,
        slot: Slot,
        filter: &AuditFilter,
    ) -> Result<(), SetFilterError> {
        self.check(slot)?;
        Ok(self.maps.audit_filters.write(&slot, &filter.render()?)?)
    }

    /// Of a slot that is handed out.
    pub(crate) fn reset_audit_filter(&self, slot: Slot) -> Result<(), MapError> {
        let raw = *self.filter();
        self.maps.audit_filters.write(&slot, &raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_bits_and_masked_words() {
        let filter = AuditFilter {
            kinds: vec![EventKind::Exec, EventKind::Open],
            opens: vec![OpenFilter::Denied],
            open_prefixes: vec!["/etc/shadow".into()],
            file_prefixes: vec!["/".into()],
            uids: (1000, 2000),
            syscalls_off: vec![0, 65],
        };
        let raw = filter.render().unwrap();
        assert_eq!((raw.kinds, raw.opens, raw.prefixed), (0b1001, 2, 3));
        assert_eq!((raw.uid_first, raw.uid_last), (1000, 2000));
        assert_eq!(raw.syscalls_off[..3], [1, 2, 0]);
        assert_eq!((raw.prefix[0].kinds, raw.prefix[0].bytes), (1, 11));
        assert_eq!(raw.prefix[0].words[0].to_le_bytes(), *b"/etc/sha");
        assert_eq!(raw.prefix[0].words[1].to_le_bytes(), *b"dow\0\0\0\0\0");
        assert_eq!(raw.prefix[0].masks[..3], [u64::MAX, 0xff_ffff, 0]);
        assert_eq!((raw.prefix[1].kinds, raw.prefix[1].bytes), (2, 1));
    }

    #[test]
    fn what_the_kernel_has_no_room_for_is_refused() {
        let check = |change: fn(&mut AuditFilter), expected| {
            let mut filter = AuditFilter::default();
            change(&mut filter);
            assert_eq!(filter.check(), expected);
        };
        check(|_| (), Ok(()));
        check(|f| f.open_prefixes = vec![format!("/{}", "y".repeat(63))], Ok(()));
        let prefix = format!("/{}", "y".repeat(64));
        check(
            |f| f.open_prefixes = vec![format!("/{}", "y".repeat(64))],
            Err(FilterError::Prefix { prefix }),
        );
        check(
            |f| f.file_prefixes = vec!["etc".into()],
            Err(FilterError::Prefix { prefix: "etc".into() }),
        );
        check(
            |f| f.file_prefixes = vec!["/etc/".into(); 9],
            Err(FilterError::Prefixes { count: 9 }),
        );
        check(|f| f.uids = (2, 1), Err(FilterError::Uids { first: 2, last: 1 }));
        check(|f| f.syscalls_off = vec![511], Err(FilterError::Syscall { nr: 511 }));
    }
}
