//! What the scheduler did with one slot's threads, in the reader's words. Pure.

use tenantry_abi as abi;

/// Threads' time and switches. A thread's time is cut where its state changes, and each
/// piece is counted when it has ended: what sleeps for an hour shows it after an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerCounters {
    /// From switch in to switch out, by the wall clock: what the hypervisor stole and what
    /// interrupts took is in it.
    pub on_cpu_ns: u64,
    pub off_cpu: OffCpu,
    /// The thread gave its CPU away to wait for something.
    pub voluntary_switches: u64,
    /// The scheduler took the CPU, or the thread yielded it.
    pub involuntary_switches: u64,
    /// Moves of a thread to another CPU.
    pub migrations: u64,
}

/// Nanoseconds off the CPU; all five together are all the time that threads did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffCpu {
    /// Asleep until something happens: a timer, a packet, a lock.
    pub interruptible_ns: u64,
    /// Asleep where no signal is heard, as a rule for a disk: `D` in ps.
    pub uninterruptible_ns: u64,
    /// Stopped by a signal, a tracer or the freezer.
    pub stopped_ns: u64,
    /// Runnable all the time: preempted, or it yielded.
    pub preempted_ns: u64,
    /// Runnable since a wake-up, and waiting for the CPU.
    pub woken_ns: u64,
}

impl OffCpu {
    /// By name, in the order of the fields.
    pub fn by_state(&self) -> [(&'static str, u64); 5] {
        [
            ("interruptible", self.interruptible_ns),
            ("uninterruptible", self.uninterruptible_ns),
            ("stopped", self.stopped_ns),
            ("preempted", self.preempted_ns),
            ("woken", self.woken_ns),
        ]
    }
}

/// Sums the copies of several CPUs.
pub(crate) fn sum(copies: &[abi::Scheduler]) -> SchedulerCounters {
    let total = |field: fn(&abi::Scheduler) -> u64| {
        copies.iter().map(field).fold(0_u64, |sum, value| sum.wrapping_add(value))
    };
    SchedulerCounters {
        on_cpu_ns: total(|copy| copy.on_cpu_ns),
        off_cpu: OffCpu {
            interruptible_ns: total(|copy| copy.off_cpu_ns[abi::OFF_INTERRUPTIBLE]),
            uninterruptible_ns: total(|copy| copy.off_cpu_ns[abi::OFF_UNINTERRUPTIBLE]),
            stopped_ns: total(|copy| copy.off_cpu_ns[abi::OFF_STOPPED]),
            preempted_ns: total(|copy| copy.off_cpu_ns[abi::OFF_PREEMPTED]),
            woken_ns: total(|copy| copy.off_cpu_ns[abi::OFF_WOKEN]),
        },
        voluntary_switches: total(|copy| copy.voluntary),
        involuntary_switches: total(|copy| copy.involuntary),
        migrations: total(|copy| copy.migrations),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn copies_of_cpus_add_up_field_by_field() {
        let mut copy = abi::Scheduler::new_zeroed();
        copy.on_cpu_ns = 1;
        copy.off_cpu_ns = [2, 3, 4, 5, 6];
        (copy.voluntary, copy.involuntary, copy.migrations) = (7, 8, 9);
        let both = sum(&[copy, copy]);
        let off: Vec<u64> = both.off_cpu.by_state().iter().map(|(_, ns)| *ns).collect();
        assert_eq!((both.on_cpu_ns, &off[..]), (2, &[4, 6, 8, 10, 12][..]));
        let switches = (both.voluntary_switches, both.involuntary_switches, both.migrations);
        assert_eq!(switches, (14, 16, 18));
    }
}
