//! What each container did about memory between two samples: how long it stood still, what it
//! took, what it lost. Pure; whom to blame is [`memory`]'s.

use std::time::Duration;

use tenantry_control::Pressure;
use tenantry_ebpf::{DiskCounters, DiskOp, Slot};

use super::memory;
use super::sample::{Counters, FromFiles, Sample, pressure};

/// At this share of its limit a container is taken for at it, where nobody counts.
const AT_LIMIT: f64 = 0.95;

impl FromFiles {
    /// Whether the kernel held it back at its own limit in between.
    pub fn came_to_limit(&self, before: &FromFiles) -> bool {
        match (before.memory_limit_hits, self.memory_limit_hits) {
            // v1's file says 0 for ever where the kernel no longer counts: seen on 6.18.
            (Some(0), Some(0)) | (None, _) | (_, None) => {
                let limit = self.memory_limit_bytes.map(|limit| AT_LIMIT * limit as f64);
                limit.is_some_and(|limit| self.memory_usage_bytes as f64 >= limit)
            }
            (Some(before), Some(now)) => now > before,
        }
    }

    fn refaulted_bytes(&self, before: &FromFiles) -> f64 {
        self.refaults.saturating_sub(before.refaults) as f64 * memory::PAGE_BYTES
    }

    /// Bytes that were reclaimed and may be missed: files of which less is in memory now
    /// although some was read again, and what went to swap. What a process gave back is not in
    /// it; what is read once and passes is not, either.
    fn lost_bytes(&self, before: &FromFiles) -> f64 {
        let swapped = self.swap_bytes.saturating_sub(before.swap_bytes) as f64;
        let files = before.file_bytes as f64 - self.file_bytes as f64;
        let lost = (files + self.refaulted_bytes(before)).max(0.0) + swapped;
        match (before.stolen_pages, self.stolen_pages) {
            (Some(before), Some(now)) => {
                lost.min(now.saturating_sub(before) as f64 * memory::PAGE_BYTES)
            }
            _ => lost,
        }
    }

    /// Bytes of files that may be what it had lost: read again, or written anew.
    fn regained_bytes(&self, before: &FromFiles) -> f64 {
        self.refaulted_bytes(before).max(self.file_bytes as f64 - before.file_bytes as f64)
    }
}

/// What was reclaimed at a limit is missed, and read again, for a while.
const LIMIT_LASTS: Duration = Duration::from_secs(5);

/// What everybody did about memory whose files were read, by id.
pub fn takers<'a>(before: &Sample, now: &'a Sample, seconds: f64) -> Vec<memory::Taken<'a>> {
    let of = |(slot, counters): (&Slot, &'a Counters)| {
        counters.files.as_ref()?;
        let had = before.counters(*slot, &counters.identity.id)?;
        taken(now.at, had, counters, seconds)
    };
    let mut takers: Vec<memory::Taken> = now.containers.iter().filter_map(of).collect();
    takers.sort_by_key(|taken| taken.id);
    takers
}

/// What it did about memory; `None` where its cgroup's files were not read: it neither stalls
/// nor takes, as far as is known.
fn taken<'a>(
    at: Duration,
    before: &Counters,
    now: &'a Counters,
    seconds: f64,
) -> Option<memory::Taken<'a>> {
    let (had, has) = (before.files.as_ref()?, now.files.as_ref()?);
    let grown = has.memory_usage_bytes.saturating_sub(had.memory_usage_bytes);
    let refaulted = has.refaulted_bytes(had);
    let Pressure { memory, io, cpu: _ } = pressure(before, now, seconds);
    Some(memory::Taken {
        id: &now.identity.id,
        stalled: memory,
        read_again: io * read_again(before, now, refaulted),
        of_host: now.identity.holds_agent,
        hit_limit: now.limit_hit_at.is_some_and(|hit| at <= hit + LIMIT_LASTS),
        growth_per_s: grown as f64 / seconds,
        refaults_per_s: refaulted / memory::PAGE_BYTES / seconds,
        lost_per_s: has.lost_bytes(had) / seconds,
        regained_per_s: has.regained_bytes(had) / seconds,
    })
}

/// Of the time that its disk requests took, the share of those that brought back what had been
/// reclaimed, so many bytes. 0 where its disks were not read. A device that stands on another
/// one counts as well, so that the share is too small there.
fn read_again(before: &Counters, now: &Counters, refaulted_bytes: f64) -> f64 {
    let (Some(before), Some(now)) = (&before.disks, &now.disks) else { return 0.0 };
    let (mut read_bytes, mut read_ns, mut all_ns) = (0, 0, 0);
    for (device, op, counters) in now {
        let had = before.iter().find(|(d, o, _)| (d, o) == (device, op)).map(|(_, _, had)| had);
        let spent = |counters: &DiskCounters| counters.latency.sum_ns + counters.queue.sum_ns;
        let ns = spent(counters).saturating_sub(had.map_or(0, spent));
        all_ns += ns;
        if *op == DiskOp::Read {
            read_ns += ns;
            read_bytes += counters.bytes.saturating_sub(had.map_or(0, |had| had.bytes));
        }
    }
    if read_bytes == 0 || all_ns == 0 {
        return 0.0;
    }
    let of_reads = (refaulted_bytes / read_bytes as f64).min(1.0);
    of_reads * read_ns as f64 / all_ns as f64
}

#[cfg(test)]
mod tests {
    use tenantry_control::Device;
    use tenantry_ebpf::Histogram;

    use super::*;

    #[test]
    fn what_is_lost_is_what_was_reclaimed_and_not_what_was_given_back() {
        let files = |mib: u64, refaults: u64, swap_bytes: u64, stolen_pages: Option<u64>| {
            let file_bytes = mib << 20;
            FromFiles { file_bytes, refaults, swap_bytes, stolen_pages, ..FromFiles::default() }
        };
        let check = |before: &FromFiles, now: &FromFiles, pages: u64| {
            assert_eq!(now.lost_bytes(before), pages as f64 * memory::PAGE_BYTES, "{now:?}");
        };
        let before = files(100, 50, 8192, None);
        check(&before, &files(100, 50, 8192, None), 0);
        check(&before, &files(99, 50, 8192, None), 256);
        // As much as was read again has gone meanwhile.
        check(&before, &files(100, 150, 8192, None), 100);
        check(&before, &files(99, 150, 8192, None), 356);
        check(&before, &files(101, 150, 8192, None), 0);
        check(&before, &files(101, 50, 16384, None), 2);
        check(&before, &files(100, 50, 0, None), 0);
        // A file that was removed is none of what the kernel took.
        let before = files(100, 50, 0, Some(7));
        check(&before, &files(0, 50, 0, Some(7)), 0);
        check(&before, &files(0, 50, 0, Some(17)), 10);
        check(&before, &files(99, 50, 0, Some(9000)), 256);
        let regained = |now: FromFiles| now.regained_bytes(&before) / memory::PAGE_BYTES;
        assert_eq!(regained(files(100, 150, 0, None)), 100.0);
        assert_eq!(regained(files(101, 150, 0, None)), 256.0);
        assert_eq!(regained(files(99, 50, 0, None)), 0.0);
    }

    #[test]
    fn the_disks_time_is_shared_by_what_its_reads_brought_back() {
        let device = Device { major: 8, minor: 0 };
        let row = |op, bytes, ms: u64| {
            let half = Histogram { sum_ns: ms * 500_000, ..Histogram::default() };
            let (latency, queue) = (half.clone(), half);
            (device, op, DiskCounters { bytes, latency, queue, ..DiskCounters::default() })
        };
        let counters = |rows| Counters { disks: Some(rows), ..Counters::default() };
        let before = counters(vec![row(DiskOp::Read, 1 << 20, 10)]);
        let check = |rows, mib: f64, expected: f64| {
            let share = read_again(&before, &counters(rows), mib * 1048576.0);
            assert_eq!(share, expected);
        };
        let four = || row(DiskOp::Read, 5 << 20, 40);
        check(vec![four()], 4.0, 1.0);
        check(vec![four()], 1.0, 0.25);
        check(vec![four()], 9.0, 1.0);
        check(vec![four(), row(DiskOp::Write, 9 << 20, 90)], 4.0, 0.25);
        check(vec![four()], 0.0, 0.0);
        check(vec![row(DiskOp::Read, 1 << 20, 10)], 4.0, 0.0);
        check(vec![row(DiskOp::Write, 1 << 20, 10)], 4.0, 0.0);
        assert_eq!(read_again(&Counters::default(), &before, 4096.0), 0.0);
    }
}
