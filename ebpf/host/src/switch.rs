//! Programs that come and go while the rest counts on.
//!
//! A switchable program is loaded and pinned with the others; switching makes or removes
//! its link alone. The link's pin is the state, so that it survives the agent.

use std::io;
use std::time::{Duration, Instant};

use aya::programs::ProgramError;
use tenantry_abi as abi;

use crate::load::attach_pinned;
use crate::map::MapError;
use crate::probe::{ProbeStatus, Program, RECORDERS, SYSCALL_ENTER};
use crate::{Meters, Slot};

#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("no probe is called {probe:?}")]
    Unknown { probe: String },
    #[error("probe {probe} cannot be switched: it is on as long as the meters are")]
    NotSwitchable { probe: &'static str },
    #[error("probe {probe} cannot be switched: it is on as long as a container is recorded")]
    Records { probe: &'static str },
    /// This kernel did not take it when the programs were loaded.
    #[error("probe {probe} does not run here: {why}")]
    Unavailable { probe: &'static str, why: String },
    #[error("probe {probe} not attached")]
    Attach {
        probe: &'static str,
        #[source]
        source: ProgramError,
    },
    #[error("pins of probe {probe}")]
    Pin {
        probe: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A link that was removed lets go of its tracepoint a moment later; until then kernels
/// before 6.10 refuse a second one.
const PATIENCE: Duration = Duration::from_secs(2);

/// What changes while the meters run: who is attached, who is traced.
#[derive(Debug)]
pub(crate) struct Switches {
    pub statuses: Vec<(Program, ProbeStatus)>,
    /// Holder of each row of the kernel's trace table; 0 = free.
    pub traced: [Slot; abi::TRACES],
}

impl Switches {
    pub fn new(statuses: Vec<(Program, ProbeStatus)>) -> Self {
        Self { statuses, traced: [0; abi::TRACES] }
    }

    pub fn find(&mut self, probe: &str) -> Result<&mut (Program, ProbeStatus), SwitchError> {
        let found = self.statuses.iter_mut().find(|(program, _)| program.name == probe);
        let found = found.ok_or_else(|| SwitchError::Unknown { probe: probe.into() })?;
        match &found.1 {
            _ if !found.0.switchable => Err(SwitchError::NotSwitchable { probe: found.0.name }),
            ProbeStatus::Unsupported(why) | ProbeStatus::Failed(why) => {
                Err(SwitchError::Unavailable { probe: found.0.name, why: why.clone() })
            }
            ProbeStatus::Active | ProbeStatus::Disabled => Ok(found),
        }
    }
}

impl Meters {
    /// Attaches or detaches a switchable probe while everything else goes on; fine if it is
    /// so already. Its status follows, and stays so when another agent adopts the pins.
    ///
    /// `syscall_enter` is one: with it goes the sampling of latency and the timing of fsync.
    /// While a slot is traced it stays attached, and is detached when the last trace ends.
    pub fn switch(&self, probe: &str, on: bool) -> Result<(), SwitchError> {
        // Held to the end: one switch at a time.
        let mut switches = self.switches();
        let (program, status) = switches.find(probe)?;
        if RECORDERS.contains(&program.name) {
            return Err(SwitchError::Records { probe: program.name });
        }
        if program.name == SYSCALL_ENTER {
            return self.set_timing(&mut switches, |timing| timing.sample = on.into());
        }
        match (&status, on) {
            (ProbeStatus::Disabled, true) => self.attach(program)?,
            (ProbeStatus::Active, false) => self.detach(program)?,
            _ => return Ok(()),
        }
        *status = if on { ProbeStatus::Active } else { ProbeStatus::Disabled };
        Ok(())
    }

    /// Probes that [`switch`](Self::switch) takes, and how they are. One that this kernel
    /// lacks is not among them.
    pub fn switchable(&self) -> Vec<(&'static str, ProbeStatus)> {
        let there =
            |status: &ProbeStatus| matches!(status, ProbeStatus::Active | ProbeStatus::Disabled);
        self.statuses()
            .into_iter()
            .filter(|(program, status)| program.switchable && there(status))
            .filter(|(program, _)| !RECORDERS.contains(&program.name))
            .map(|(program, status)| (program.name, status))
            .collect()
    }

    /// What the options want, once, of programs that were just loaded. A program that does
    /// not run on this kernel has said so in its status.
    pub(crate) fn switch_first(&self, syscall_latency: bool) -> Result<(), SwitchError> {
        if !syscall_latency {
            return Ok(());
        }
        match self.switch(SYSCALL_ENTER, true) {
            Err(SwitchError::Unavailable { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Changes who wants calls timed, and attaches `syscall_enter` for the first that does,
    /// detaches it after the last.
    pub(crate) fn set_timing(
        &self,
        switches: &mut Switches,
        change: impl FnOnce(&mut abi::Timing),
    ) -> Result<(), SwitchError> {
        let (program, status) = switches.find(SYSCALL_ENTER)?;
        let nobody = abi::Timing { since_ns: 0, sample: 0, traces: 0 };
        let mut timing = self.maps.timing.get(&0)?.unwrap_or(nobody);
        change(&mut timing);
        let wanted = timing.sample != 0 || timing.traces != 0;
        match (*status == ProbeStatus::Active, wanted) {
            (true, true) => self.maps.timing.write(&0, &timing)?,
            (false, false) => {}
            (false, true) => {
                // First: what was timed before this moment is never matched.
                timing.since_ns = now_ns();
                self.maps.timing.write(&0, &timing)?;
                if let Err(error) = self.attach(program) {
                    self.maps.timing.write(&0, &nobody)?;
                    return Err(error);
                }
                *status = ProbeStatus::Active;
            }
            (true, false) => {
                self.detach(program)?;
                *status = ProbeStatus::Disabled;
                self.maps.timing.write(&0, &nobody)?;
            }
        }
        Ok(())
    }

    pub(crate) fn attach(&self, program: &Program) -> Result<(), SwitchError> {
        let probe = program.name;
        let begun = Instant::now();
        while let Err(source) = attach_pinned(program, &self.pins) {
            if !is_still_there(&source) || begun.elapsed() > PATIENCE {
                return Err(SwitchError::Attach { probe, source });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.pins.forget_status(program).map_err(|source| SwitchError::Pin { probe, source })
    }

    pub(crate) fn detach(&self, program: &Program) -> Result<(), SwitchError> {
        let probe = program.name;
        self.pins.remove_link(program).map_err(|source| SwitchError::Pin { probe, source })
    }
}

fn is_still_there(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(call) = error else { return false };
    call.io_error.raw_os_error() == Some(libc::EEXIST)
}

/// The programs' clock.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
