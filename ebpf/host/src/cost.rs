//! What the programs and maps cost: time by the kernel's own statistics, memory by what
//! it says of each descriptor.
//!
//! Owns no number of its own: everything is read from the kernel when it is asked for.
//! Statistics are two more clock reads a run, so they are on only while a [`Timing`] is held.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::maps::{MapInfo, MapType};
use aya::programs::ProgramInfo;
use aya::sys::{Stats, enable_stats};

use crate::meters::Meters;
use crate::probe::ProbeStatus;

#[derive(Debug, thiserror::Error)]
pub enum CostError {
    #[error("BPF_ENABLE_STATS, which Linux has since 5.8")]
    Timing(#[source] io::Error),
    #[error("program {program}")]
    Program {
        program: String,
        #[source]
        source: aya::programs::ProgramError,
    },
    #[error("map {map}")]
    Map {
        map: String,
        #[source]
        source: aya::maps::MapError,
    },
    #[error("{path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// While it is held, the kernel times each run of each program of the host. Others may hold
/// one too; the last that goes switches the statistics off.
#[derive(Debug)]
pub struct Timing {
    _held: OwnedFd,
}

impl Timing {
    /// # Errors
    /// [`CostError::Timing`] on a kernel without `BPF_ENABLE_STATS`, or without the right.
    pub fn begin() -> Result<Self, CostError> {
        let held = enable_stats(Stats::RunTime).map_err(|call| CostError::Timing(call.io_error))?;
        Ok(Self { _held: held })
    }
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Those that are active, in the order of attachment.
    pub programs: Vec<ProgramCost>,
    /// All maps that the programs use or the pins keep, largest first.
    pub maps: Vec<MapCost>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramCost {
    pub name: String,
    pub hook: String,
    /// Runs and their time while statistics were on, since the program was loaded. The
    /// time holds about one of the two clock reads that the statistics add to each run.
    pub runs: u64,
    pub run_ns: u64,
    /// Instructions, their machine code and the kernel's notes of them.
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapCost {
    pub name: String,
    /// As the kernel accounts it: exact from 6.4 on, keys and values alone before. A
    /// task storage counts without its elements, which come and go with threads.
    pub memory_bytes: u64,
}

impl Cost {
    /// What the programs did between two readings. Programs that were loaded anew
    /// meanwhile count from zero, those that are gone not at all; memory is the later one's.
    pub fn since(&self, earlier: &Cost) -> Cost {
        let mut cost = self.clone();
        for program in &mut cost.programs {
            let before = earlier.programs.iter().find(|before| before.name == program.name);
            let before = before.filter(|b| b.runs <= program.runs && b.run_ns <= program.run_ns);
            if let Some(before) = before {
                program.runs -= before.runs;
                program.run_ns -= before.run_ns;
            }
        }
        cost
    }

    pub fn run_ns(&self) -> u64 {
        self.programs.iter().map(|program| program.run_ns).sum()
    }

    pub fn map_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.memory_bytes).sum()
    }

    pub fn program_bytes(&self) -> u64 {
        self.programs.iter().map(|program| program.memory_bytes).sum()
    }
}

impl Meters {
    /// Runs, times and memory now. Runs and times stand still but while a [`Timing`] is held.
    pub fn cost(&self) -> Result<Cost, CostError> {
        let (mut programs, infos): (Vec<_>, Vec<_>) = self.program_costs()?.into_iter().unzip();
        for (program, info) in programs.iter_mut().zip(&infos) {
            let failed = |source| CostError::Program { program: program.name.clone(), source };
            let pages = info.memory_locked().map_err(failed)?;
            program.memory_bytes = u64::from(pages) + u64::from(info.size_jitted());
        }
        Ok(Cost { programs, maps: self.map_costs(&infos)? })
    }

    /// Runs and times alone: memory never changes, and to ask for it takes longer.
    pub fn run_cost(&self) -> Result<Cost, CostError> {
        let programs = self.program_costs()?.into_iter().map(|(program, _)| program).collect();
        Ok(Cost { programs, maps: Vec::new() })
    }

    fn program_costs(&self) -> Result<Vec<(ProgramCost, ProgramInfo)>, CostError> {
        let statuses = self.statuses();
        statuses
            .iter()
            .filter(|(_, status)| *status == ProbeStatus::Active)
            .map(|(program, _)| {
                let failed = |source| CostError::Program { program: program.name.into(), source };
                let info = ProgramInfo::from_pin(self.pins.program(program)).map_err(failed)?;
                let cost = ProgramCost {
                    name: program.name.into(),
                    hook: program.hook.to_string(),
                    runs: info.run_count(),
                    run_ns: info.run_time().as_nanos() as u64,
                    memory_bytes: 0,
                };
                Ok((cost, info))
            })
            .collect()
    }

    /// Pinned maps by their pins' names, then those that only programs hold (`.rodata`).
    fn map_costs(&self, programs: &[ProgramInfo]) -> Result<Vec<MapCost>, CostError> {
        let (mut seen, mut maps) = (HashSet::new(), Vec::new());
        let dir = self.pins.dir.display();
        let failed = |source| CostError::Read { path: dir.to_string(), source };
        for entry in fs::read_dir(&self.pins.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Links and programs lie there too: they are no maps, and say so.
            let Ok(info) = MapInfo::from_pin(entry.path()) else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_map_pin(&name) || !seen.insert(info.id()) {
                continue;
            }
            maps.push(map_cost(name, &info)?);
        }
        for program in programs {
            let name = || program.name_as_str().unwrap_or_default().to_owned();
            let failed = |source| CostError::Program { program: name(), source };
            for id in program.map_ids().map_err(failed)?.unwrap_or_default() {
                if !seen.insert(id) {
                    continue;
                }
                let failed = |source| CostError::Map { map: id.to_string(), source };
                let info = MapInfo::from_id(id).map_err(failed)?;
                maps.push(map_cost(info.name_as_str().unwrap_or_default().into(), &info)?);
            }
        }
        maps.sort_by(|a, b| b.memory_bytes.cmp(&a.memory_bytes).then(a.name.cmp(&b.name)));
        Ok(maps)
    }
}

/// What else lies in a pin directory has a prefix or is the marker.
fn is_map_pin(name: &str) -> bool {
    name != "marker" && !["link_", "prog_", "why_"].iter().any(|other| name.starts_with(other))
}

fn map_cost(name: String, info: &MapInfo) -> Result<MapCost, CostError> {
    let failed = |source| CostError::Map { map: name.clone(), source };
    let fd = info.fd().map_err(failed)?;
    let mut memory_bytes = memlock(fd.as_fd())?;
    // Before 6.4 the kernel multiplied entries by key and value, which a ring has not.
    if matches!(info.map_type(), Ok(MapType::RingBuf)) {
        memory_bytes = memory_bytes.max(u64::from(info.max_entries()));
    }
    Ok(MapCost { name, memory_bytes })
}

fn memlock(fd: BorrowedFd<'_>) -> Result<u64, CostError> {
    let field = fdinfo(fd, "memlock");
    let failed = |source| CostError::Read { path: "the map's fdinfo".into(), source };
    field.map_err(failed)?.ok_or_else(|| failed(io::Error::other("no memlock in it")))
}

/// Runs of an attached program that the kernel left out, since the program was running on
/// that CPU already, from its load on. `None` before 5.12.
pub(crate) fn misses(program: &ProgramInfo) -> Option<u64> {
    fdinfo(program.fd().ok()?.as_fd(), "recursion_misses").ok()?
}

/// A number that the kernel tells of one of this process's descriptors.
fn fdinfo(fd: BorrowedFd<'_>, field: &str) -> io::Result<Option<u64>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(parse_field(&text, field))
}

fn parse_field(text: &str, field: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok();
    text.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(programs: &[(&str, u64, u64)]) -> Cost {
        let program = |&(name, runs, run_ns): &(&str, u64, u64)| ProgramCost {
            name: name.into(),
            runs,
            run_ns,
            memory_bytes: 4096,
            ..ProgramCost::default()
        };
        Cost { programs: programs.iter().map(program).collect(), maps: Vec::new() }
    }

    #[test]
    fn a_window_holds_what_happened_in_it() {
        let (before, after) = (cost(&[("a", 10, 500), ("b", 7, 70)]), cost(&[("a", 15, 900)]));
        assert_eq!(after.since(&before), cost(&[("a", 5, 400)]));
        // Loaded anew: its counters began again.
        assert_eq!(before.since(&after), cost(&[("a", 10, 500), ("b", 7, 70)]));
        assert_eq!((before.run_ns(), before.program_bytes()), (570, 8192));
    }

    #[test]
    fn a_field_is_found_among_the_others() {
        let text = "pos:\t0\nmap_type:\t2\nmax_entries:\t4\nmemlock:\t4592\nmap_id:\t9\n";
        assert_eq!(parse_field(text, "memlock"), Some(4592));
        assert_eq!(parse_field(text, "mem"), None);
        assert_eq!(parse_field("pos:\t0\n", "memlock"), None);
    }

    #[test]
    fn only_maps_are_taken_for_maps() {
        for (name, map) in
            [("events", true), ("marker", false), ("link_a", false), ("prog_a", false)]
        {
            assert_eq!(is_map_pin(name), map, "{name}");
        }
    }
}
