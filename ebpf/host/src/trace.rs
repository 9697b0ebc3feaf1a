//! Traces: for a while every call of one slot is timed, by syscall.
//!
//! The kernel holds the end of each trace: the programs stop by themselves, also when the
//! agent is gone. User space gives away the rows of the trace table and takes them back.

use std::time::Duration;

use tenantry_abi as abi;
use zerocopy::FromZeros;

use crate::map::{Buffer, MapError};
use crate::switch::{SwitchError, Switches, now_ns};
use crate::{Histogram, Meters, Slot};

/// Slots that can be traced at once.
pub const TRACES: usize = abi::TRACES;

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("slot {slot} is traced already")]
    Already { slot: Slot },
    /// With the slots that are traced.
    #[error("{TRACES} slots are traced already, which is all at once")]
    Full { traced: [Slot; TRACES] },
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error(transparent)]
    Map(#[from] MapError),
}

/// One syscall in a trace. Calls that began and returned within it: `latency.count`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedSyscall {
    pub nr: u32,
    pub errors: u64,
    pub latency: Histogram,
}

impl Meters {
    /// Times every call of a slot from now on until `time` has gone by. The row is taken
    /// until [`end_trace`](Self::end_trace), so that the outcome can be read after the end.
    pub fn trace(&self, slot: Slot, time: Duration) -> Result<(), TraceError> {
        self.check(slot)?;
        let mut switches = self.switches();
        if switches.traced.contains(&slot) {
            return Err(TraceError::Already { slot });
        }
        let full = TraceError::Full { traced: switches.traced };
        let row = switches.traced.iter().position(|holder| *holder == 0).ok_or(full)?;
        for nr in 0..abi::SYSCALLS {
            self.maps.trace_calls.write(&key(row, nr), &FromZeros::new_zeroed())?;
        }
        self.set_timing(&mut switches, |timing| timing.traces += 1)?;
        switches.traced[row] = slot;
        let since_ns = now_ns();
        let until_ns = since_ns + time.as_nanos() as u64;
        let trace = abi::SlotTrace { since_ns, until_ns, row: row as u32, reserved: 0 };
        if let Err(error) = self.maps.slot_traces.write(&slot, &trace) {
            self.release(&mut switches, slot)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// What a trace saw so far or until its end, by number; `None` if the slot has none.
    pub fn read_trace(&self, slot: Slot) -> Result<Option<Vec<TracedSyscall>>, MapError> {
        let switches = self.switches();
        let Some(row) = switches.traced.iter().position(|holder| *holder == slot && slot != 0)
        else {
            return Ok(None);
        };
        let mut buffer = Buffer::new();
        let mut calls = Vec::new();
        for nr in 0..abi::SYSCALLS {
            let copies = self.maps.trace_calls.read(&key(row, nr), &mut buffer)?;
            let copies = copies.unwrap_or_default();
            let latency = Histogram::sum(copies.iter().map(|copy| &copy.latency));
            let errors = copies.iter().map(|copy| copy.errors).sum();
            if latency.count > 0 {
                calls.push(TracedSyscall { nr: nr as u32, errors, latency });
            }
        }
        Ok(Some(calls))
    }

    /// Ends a trace and gives its row back. Fine if the slot has none.
    pub fn end_trace(&self, slot: Slot) -> Result<(), TraceError> {
        let mut switches = self.switches();
        if !switches.traced.contains(&slot) || slot == 0 {
            return Ok(());
        }
        self.maps.slot_traces.write(&slot, &FromZeros::new_zeroed())?;
        Ok(self.release(&mut switches, slot)?)
    }

    /// As [`end_trace`](Self::end_trace), for a slot that is being taken away.
    pub(crate) fn forget_trace(&self, slot: Slot) -> Result<(), MapError> {
        match self.end_trace(slot) {
            Err(TraceError::Map(error)) => Err(error),
            Err(error) => {
                tracing::warn!(slot, error = %error, "syscall_enter stays attached");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Traces of an agent that is gone: nobody will ask for them.
    pub(crate) fn end_orphaned_traces(&self) -> Result<(), SwitchError> {
        if self.maps.timing.get(&0)?.is_none_or(|timing| timing.traces == 0) {
            return Ok(());
        }
        for slot in 1..self.slots {
            if self.maps.slot_traces.get(&slot)?.is_some_and(|trace| trace.until_ns != 0) {
                self.maps.slot_traces.write(&slot, &FromZeros::new_zeroed())?;
            }
        }
        self.set_timing(&mut self.switches(), |timing| timing.traces = 0)
    }

    fn release(&self, switches: &mut Switches, slot: Slot) -> Result<(), SwitchError> {
        for holder in switches.traced.iter_mut().filter(|holder| **holder == slot) {
            *holder = 0;
        }
        let left = switches.traced.iter().filter(|holder| **holder != 0).count();
        self.set_timing(switches, |timing| timing.traces = left as u32)
    }
}

fn key(row: usize, nr: usize) -> u32 {
    (row * abi::SYSCALLS + nr) as u32
}
