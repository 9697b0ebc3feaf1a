//! Which namespaces a slot's syscalls were made in.
//!
//! A slot's own row holds those of the first namespaces that counted in its present run;
//! every other set has a row of its own. A container's totals are the sum of its rows.

use tenantry_abi as abi;

use crate::map::{Buffer, MapError};
use crate::syscall_counts::{self, SyscallCount, SyscallErrors};
use crate::{Meters, Namespaces, Slot};

/// What a slot's processes did while they were in exactly these namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceCounts {
    pub namespaces: Namespaces,
    pub calls: u64,
    /// Those of `calls` that failed.
    pub errors: u64,
}

/// The syscalls of one slot, all rows added up.
#[derive(Debug, Default)]
pub(crate) struct SlotSyscalls {
    pub syscalls: Vec<SyscallCount>,
    pub errors: Vec<SyscallErrors>,
    pub namespaces: Vec<NamespaceCounts>,
}

impl Meters {
    /// The syscalls of a slot by number for each set of namespaces that its processes were
    /// in during the present run, the slot's own first; one row of another run may be among
    /// the others. For whoever looks closely: [`read`](Self::read) has the totals.
    pub fn read_namespaces(
        &self,
        slot: Slot,
    ) -> Result<Vec<(Namespaces, Vec<SyscallCount>)>, MapError> {
        self.check(slot)?;
        let buffer = &mut Buffer::new();
        let Some(state) = self.maps.slot_states.get(&slot)? else { return Ok(Vec::new()) };
        let mut rows: Vec<(Namespaces, Vec<SyscallCount>)> = Vec::new();
        if state.claimed != 0 {
            let copies = self.maps.syscalls.read(&slot, buffer)?.unwrap_or_default();
            rows.push((Namespaces::from(state.own), syscall_counts::syscalls(copies)));
        }
        self.for_each_other(slot, &state, buffer, |namespaces, copies| {
            let calls = syscall_counts::syscalls(copies);
            match rows.iter_mut().find(|(known, _)| *known == namespaces) {
                Some((_, sum)) => syscall_counts::add_syscalls(sum, &calls),
                None => rows.push((namespaces, calls)),
            }
        })?;
        Ok(rows)
    }

    pub(crate) fn read_syscalls(
        &self,
        slot: Slot,
        buffer: &mut Buffer,
    ) -> Result<SlotSyscalls, MapError> {
        let copies = self.maps.syscalls.read(&slot, buffer)?.unwrap_or_default();
        let syscalls = syscall_counts::syscalls(copies);
        let errors = syscall_counts::errors(copies, &syscalls);
        let mut all = SlotSyscalls { syscalls, errors, namespaces: Vec::new() };
        let Some(state) = self.maps.slot_states.get(&slot)? else { return Ok(all) };
        if state.claimed != 0 {
            let (calls, errors) = totals(&all.syscalls);
            all.namespaces.push(NamespaceCounts {
                namespaces: state.own.into(),
                calls: calls.saturating_sub(state.calls_before),
                errors: errors.saturating_sub(state.errors_before),
            });
        }
        self.for_each_other(slot, &state, buffer, |namespaces, copies| {
            let syscalls = syscall_counts::syscalls(copies);
            let errors = syscall_counts::errors(copies, &syscalls);
            add(&mut all.namespaces, namespaces, totals(&syscalls));
            syscall_counts::add_syscalls(&mut all.syscalls, &syscalls);
            syscall_counts::add_errors(&mut all.errors, &errors);
        })?;
        Ok(all)
    }

    /// Before the first process of a run: what its namespaces will be is not known, and what
    /// was counted so far was in others.
    pub(crate) fn begin_run(&self, slot: Slot) -> Result<(), MapError> {
        let mut buffer = Buffer::new();
        let copies = self.maps.syscalls.read(&slot, &mut buffer)?.unwrap_or_default();
        let (calls_before, errors_before) = totals(&syscall_counts::syscalls(copies));
        let others = self.maps.slot_states.get(&slot)?.map_or(0, |state| state.others);
        let fresh = abi::SlotState {
            armed: 0,
            claimed: 0,
            nsproxy: 0,
            user_ns: 0,
            calls_before,
            errors_before,
            own: Namespaces::default().into(),
            others,
        };
        self.maps.slot_states.write(&slot, &fresh)
    }

    /// After the slot's state: a program that still counts makes no new row then.
    pub(crate) fn reset_namespaces(&self, slot: Slot) -> Result<(), MapError> {
        let map = &self.maps.namespace_syscalls;
        let ours = map.keys()?.into_iter().filter(|key| key.slot == slot);
        ours.into_iter().try_for_each(|key| map.remove(&key).map(drop))
    }

    fn for_each_other(
        &self,
        slot: Slot,
        state: &abi::SlotState,
        buffer: &mut Buffer,
        mut f: impl FnMut(Namespaces, &[abi::Syscalls]),
    ) -> Result<(), MapError> {
        if state.others == 0 {
            return Ok(());
        }
        let map = &self.maps.namespace_syscalls;
        let mut keys = map.keys()?;
        keys.retain(|key| key.slot == slot);
        // The listing may name a key twice while another one comes or goes.
        keys.sort_unstable_by_key(|key| Namespaces::from(key.namespaces));
        keys.dedup();
        for key in keys {
            if let Some(copies) = map.read(&key, buffer)? {
                f(key.namespaces.into(), copies);
            }
        }
        Ok(())
    }
}

/// Calls and errors of all numbers.
fn totals(syscalls: &[SyscallCount]) -> (u64, u64) {
    syscalls.iter().fold((0, 0), |(calls, errors), call| (calls + call.count, errors + call.errors))
}

fn add(rows: &mut Vec<NamespaceCounts>, namespaces: Namespaces, (calls, errors): (u64, u64)) {
    match rows.iter_mut().find(|row| row.namespaces == namespaces) {
        Some(row) => {
            row.calls += calls;
            row.errors += errors;
        }
        None => rows.push(NamespaceCounts { namespaces, calls, errors }),
    }
}

impl From<abi::Namespaces> for Namespaces {
    fn from(raw: abi::Namespaces) -> Self {
        let abi::Namespaces { mnt, pid, net, user, uts, ipc, cgroup } = raw;
        Self { mnt, pid, net, user, uts, ipc, cgroup }
    }
}

impl From<Namespaces> for abi::Namespaces {
    fn from(namespaces: Namespaces) -> Self {
        let Namespaces { mnt, pid, net, user, uts, ipc, cgroup } = namespaces;
        Self { mnt, pid, net, user, uts, ipc, cgroup }
    }
}

impl Namespaces {
    /// Type as in `/proc/PID/ns`, and inode.
    pub fn by_type(&self) -> [(&'static str, u32); 7] {
        [
            ("cgroup", self.cgroup),
            ("ipc", self.ipc),
            ("mnt", self.mnt),
            ("net", self.net),
            ("pid", self.pid),
            ("user", self.user),
            ("uts", self.uts),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_same_namespaces_are_one() {
        let set = |net| Namespaces { net, ..Namespaces::default() };
        let mut rows = Vec::new();
        add(&mut rows, set(1), (10, 1));
        add(&mut rows, set(2), (5, 0));
        add(&mut rows, set(1), (1, 1));
        let row = |net, calls, errors| NamespaceCounts { namespaces: set(net), calls, errors };
        assert_eq!(rows, [row(1, 11, 2), row(2, 5, 0)]);
    }
}
