//! Recordings: what a slot asks the kernel for, and what seccomp refuses it.
//!
//! Two programs are attached while at least one slot is recorded. Whether a slot is lies in
//! the kernel, pinned like everything else: a recording goes on without an agent, and the next
//! one finds it.

use aya::programs::ProgramInfo;
use tenantry_abi as abi;
use zerocopy::FromZeros;

use crate::cost;
use crate::map::MapError;
use crate::probe::{METERS, ProbeStatus, RECORDERS};
use crate::switch::{SwitchError, Switches, now_ns};
use crate::{Meters, Slot};

/// Whose calls in a slot's cgroups are its container's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subjects {
    /// Threads with a seccomp filter: from the moment the runtime has installed it, and never
    /// the runtime before that.
    Filtered,
    /// Everybody, from the slot's first exec on. Refusals are not told.
    Armed,
}

/// What a slot asked for since its recording began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    pub running: bool,
    pub subjects: Subjects,
    /// It began before a process was in the slot's cgroup: nothing is missing.
    pub from_start: bool,
    /// Numbers of calls that were let pass, in order. 511 stands for those beyond the table.
    pub called: Vec<u32>,
    /// The same of 32-bit calls, which have numbers of their own.
    pub called_compat: Vec<u32>,
    /// By number, native ones first.
    pub refused: Vec<RefusedCall>,
    /// Calls that may stand among the refused ones though they passed; 0 is as it should be.
    pub unnoted: u64,
    /// Refusals that are not in `refused`; 0 is as it should be.
    pub refusals_lost: u64,
    /// Runs of the recorders that the kernel left out meanwhile, of this slot's calls or others';
    /// 0 as long as it does not preempt such programs, which it does since 7.0.
    pub missed: u64,
}

/// A call that a seccomp filter answered instead of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedCall {
    pub nr: u32,
    pub is_compat: bool,
    pub count: u64,
    /// What the first one was answered with; `None` if that was no error.
    pub error: Option<u32>,
}

impl Meters {
    /// Records a slot from now on; what an earlier recording saw is forgotten. False, and
    /// nothing is changed, if it is recorded already.
    pub fn record(
        &self,
        slot: Slot,
        subjects: Subjects,
        from_start: bool,
    ) -> Result<bool, SwitchError> {
        self.check(slot)?;
        let mut switches = self.switches();
        if self.control(slot)?.recording != 0 {
            return Ok(false);
        }
        self.clear_recording(slot)?;
        self.attach_recorders(&mut switches)?;
        // Last: by now both programs see every call.
        let begun = self.maps.profile_controls.write(
            &slot,
            &abi::ProfileControl {
                since_ns: now_ns(),
                recording: 1,
                filtered: (subjects == Subjects::Filtered).into(),
                from_start: from_start.into(),
                missed_before: self.recorder_misses() as u32,
            },
        );
        if let Err(error) = begun {
            self.detach_idle_recorders(&mut switches)?;
            return Err(error.into());
        }
        Ok(true)
    }

    /// Ends a recording; what it saw stays until the next one or the slot's reset. Fine if
    /// there is none.
    pub fn end_recording(&self, slot: Slot) -> Result<(), SwitchError> {
        self.check(slot)?;
        let mut switches = self.switches();
        let control = self.control(slot)?;
        if control.recording == 0 {
            return Ok(());
        }
        self.maps
            .profile_controls
            .write(&slot, &abi::ProfileControl { recording: 0, ..control })?;
        self.detach_idle_recorders(&mut switches)
    }

    /// What a slot's recording saw so far; `None` if it never had one.
    pub fn read_recording(&self, slot: Slot) -> Result<Option<Recording>, MapError> {
        self.check(slot)?;
        let control = self.control(slot)?;
        if control.since_ns == 0 {
            return Ok(None);
        }
        let profile = self.maps.profiles.get(&slot)?.unwrap_or(FromZeros::new_zeroed());
        let mut refused = Vec::new();
        for key in self.refused_keys(slot)? {
            // Gone since the listing: the slot was reset.
            let Some(row) = self.maps.refused_calls.get(&key)? else { continue };
            refused.push(refused_call(&key, &row));
        }
        refused.sort_unstable_by_key(|call| (call.is_compat, call.nr));
        refused.dedup();
        Ok(Some(Recording {
            running: control.recording != 0,
            subjects: match control.filtered {
                0 => Subjects::Armed,
                _ => Subjects::Filtered,
            },
            from_start: control.from_start != 0,
            called: numbers(&profile.called),
            called_compat: numbers(&profile.compat),
            refused,
            unnoted: profile.unnoted,
            refusals_lost: profile.refusals_lost,
            missed: self.recorder_misses().saturating_sub(control.missed_before.into()),
        }))
    }

    /// For a slot that is being taken away.
    pub(crate) fn forget_recording(&self, slot: Slot) -> Result<(), MapError> {
        if self.control(slot)?.since_ns == 0 {
            return Ok(());
        }
        match self.end_recording(slot) {
            Ok(()) => {}
            Err(SwitchError::Map(error)) => return Err(error),
            Err(error) => tracing::warn!(slot, %error, "recorders stay attached"),
        }
        self.maps.profile_controls.write(&slot, &FromZeros::new_zeroed())?;
        self.clear_recording(slot)
    }

    /// Attached if and only if somebody is recorded, whatever an agent was killed in.
    pub(crate) fn settle_recorders(&self) -> Result<(), SwitchError> {
        let mut switches = self.switches();
        if self.is_recording()? {
            return self.attach_recorders(&mut switches);
        }
        self.detach_idle_recorders(&mut switches)
    }

    fn control(&self, slot: Slot) -> Result<abi::ProfileControl, MapError> {
        Ok(self.maps.profile_controls.get(&slot)?.unwrap_or(FromZeros::new_zeroed()))
    }

    fn is_recording(&self) -> Result<bool, MapError> {
        for slot in 1..self.slots {
            if self.control(slot)?.recording != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn recorder_misses(&self) -> u64 {
        let recorders = METERS.iter().filter(|program| RECORDERS.contains(&program.name));
        let infos = recorders.filter_map(|p| ProgramInfo::from_pin(self.pins.program(p)).ok());
        infos.filter_map(|info| cost::misses(&info)).sum()
    }

    fn clear_recording(&self, slot: Slot) -> Result<(), MapError> {
        self.maps.profiles.write(&slot, &FromZeros::new_zeroed())?;
        for key in self.refused_keys(slot)? {
            self.maps.refused_calls.remove(&key)?;
        }
        Ok(())
    }

    fn refused_keys(&self, slot: Slot) -> Result<Vec<abi::RefusedKey>, MapError> {
        let keys = self.maps.refused_calls.keys()?;
        Ok(keys.into_iter().filter(|key| key.slot == slot).collect())
    }

    fn attach_recorders(&self, switches: &mut Switches) -> Result<(), SwitchError> {
        for probe in RECORDERS {
            let (program, status) = switches.find(probe)?;
            if *status != ProbeStatus::Active {
                self.attach(program)?;
                *status = ProbeStatus::Active;
            }
        }
        Ok(())
    }

    fn detach_idle_recorders(&self, switches: &mut Switches) -> Result<(), SwitchError> {
        if self.is_recording()? {
            return Ok(());
        }
        for probe in RECORDERS {
            // One that does not run here needs no detaching.
            let Ok((program, status)) = switches.find(probe) else { continue };
            if *status == ProbeStatus::Active {
                self.detach(program)?;
                *status = ProbeStatus::Disabled;
            }
        }
        Ok(())
    }
}

/// Numbers of the bits that are set.
fn numbers(words: &[u64; abi::PROFILE_WORDS]) -> Vec<u32> {
    let is_set = |nr: &u32| words[*nr as usize / 64] & 1 << (nr % 64) != 0;
    (0..abi::SYSCALLS as u32).filter(is_set).collect()
}

fn refused_call(key: &abi::RefusedKey, row: &abi::Refused) -> RefusedCall {
    RefusedCall {
        nr: key.nr & !abi::PROFILE_COMPAT,
        is_compat: key.nr & abi::PROFILE_COMPAT != 0,
        count: row.count,
        error: Some(row.error).filter(|error| *error != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_is_one_number() {
        let mut words = [0; abi::PROFILE_WORDS];
        assert_eq!(numbers(&words), []);
        words[0] = 1 | 1 << 63;
        words[4] = 2;
        words[7] = 1 << 63;
        assert_eq!(numbers(&words), [0, 63, 257, 511]);
    }

    #[test]
    fn a_refusal_says_whether_its_number_is_a_32_bit_calls() {
        let row = abi::Refused { count: 3, error: 1, reserved: 0 };
        let call = refused_call(&abi::RefusedKey { slot: 1, nr: 165 }, &row);
        assert_eq!(call, RefusedCall { nr: 165, is_compat: false, count: 3, error: Some(1) });
        let key = abi::RefusedKey { slot: 1, nr: 21 | abi::PROFILE_COMPAT };
        let call = refused_call(&key, &abi::Refused { error: 0, ..row });
        assert_eq!(call, RefusedCall { nr: 21, is_compat: true, count: 3, error: None });
    }
}
