//! What the host says of itself as a whole: time that its hypervisor took, pressure.
//!
//! Reads `/proc` and nothing else; the collector calls it once for each scrape.

use std::path::Path;

use tenantry_cgroupfs::sample::{Pressure, Stall};

/// Counters since the host booted. `None` where this kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSample {
    /// Time for which the hypervisor let a CPU wait that had something to do, of all CPUs.
    /// Nobody can tell which container would have run: a thread that is on a CPU which does
    /// not run looks like one that does.
    pub steal_seconds: Option<f64>,
    /// Of all tasks. `full` of the CPU has no meaning here: the kernel says 0.
    pub pressure: Pressure,
}

/// # Errors
/// Never: what cannot be read is `None`.
pub fn read_sample() -> HostSample {
    read_sample_at(Path::new("/proc"))
}

/// As [`HostSample::steal_seconds`], alone.
pub fn read_steal_seconds() -> Option<f64> {
    steal_seconds_at(Path::new("/proc"))
}

/// For how long some task of the host stood still for want of memory.
pub fn read_memory_stall_usec() -> Option<u64> {
    memory_stall_usec_at(Path::new("/proc"))
}

/// Room in swap; 0 where there is none.
pub fn read_free_swap_bytes() -> Option<u64> {
    use procfs::Current as _;
    procfs::Meminfo::current().ok().map(|memory| memory.swap_free)
}

fn memory_stall_usec_at(proc: &Path) -> Option<u64> {
    Some(read_stall_at(proc, "memory")?.some.total_usec)
}

fn steal_seconds_at(proc: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(proc.join("stat")).ok()?;
    Some(parse_steal(&text)? as f64 / procfs::ticks_per_second() as f64)
}

fn read_sample_at(proc: &Path) -> HostSample {
    let stall = |resource: &str| read_stall_at(proc, resource);
    HostSample {
        steal_seconds: steal_seconds_at(proc),
        pressure: Pressure { cpu: stall("cpu"), memory: stall("memory"), io: stall("io") },
    }
}

fn read_stall_at(proc: &Path, resource: &str) -> Option<Stall> {
    let text = std::fs::read_to_string(proc.join("pressure").join(resource)).ok()?;
    tenantry_cgroupfs::parse_pressure(&text)
}

/// Clock ticks, from the line of all CPUs: user, nice, system, idle, iowait, irq, softirq,
/// steal (proc(5)).
fn parse_steal(stat: &str) -> Option<u64> {
    let mut words = stat.lines().next()?.split_ascii_whitespace();
    (words.next()? == "cpu").then(|| words.nth(7)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_ticks_are_the_eighth_number_of_the_first_line() {
        let check = |text, expected| assert_eq!(parse_steal(text), expected, "{text:?}");
        check(
            "cpu  100055 0 17069 85065 2013 0 211 114 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n",
            Some(114),
        );
        check("cpu  1 2 3 4\n", None);
        check("cpu0 1 2 3 4 5 6 7 8 9 10\n", None);
        check("", None);
    }

    #[test]
    fn pressure_is_read_where_the_kernel_has_it() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir(proc.path().join("pressure")).unwrap();
        let text = "some avg10=0.12 avg60=0.00 avg300=0.00 total=1538360226\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=77\n";
        std::fs::write(proc.path().join("pressure/io"), text).unwrap();
        let pressure = read_sample_at(proc.path()).pressure;
        let io = pressure.io.unwrap();
        assert_eq!((io.some.total_usec, io.full.unwrap().total_usec), (1_538_360_226, 77));
        assert_eq!((pressure.cpu, pressure.memory), (None, None));
        assert_eq!(memory_stall_usec_at(proc.path()), None);
        std::fs::rename(proc.path().join("pressure/io"), proc.path().join("pressure/memory"))
            .unwrap();
        assert_eq!(memory_stall_usec_at(proc.path()), Some(io.some.total_usec));
    }

    #[test]
    fn a_host_that_tells_nothing_has_no_numbers() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(read_sample_at(empty.path()), HostSample::default());
    }
}
