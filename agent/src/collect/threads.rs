//! One list of work shared among a few threads that end with it.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// A scrape is short, and whose processors it takes has other work for them.
const MOST: usize = 4;
/// What one thread does while another one would still be starting.
const FEW: usize = 16;

/// How many threads are worth their start.
pub fn how_many(items: usize) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    processors.min(MOST).min(items.div_ceil(FEW)).max(1)
}

/// `f` of each item, in their order. The caller is one of the threads, and the only one where
/// no other can be made.
///
/// # Panics
/// If `f` does.
pub fn share<T: Send, R: Send>(items: Vec<T>, threads: usize, f: impl Fn(T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(items.into_iter().enumerate());
    // One at a time: a thread that has to wait for its processor leaves the rest to others.
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((place, item)) = next() {
            done.push((place, f(item)));
        }
        done
    };
    let mut all = thread::scope(|scope| {
        let start =
            |_| thread::Builder::new().name("collect".into()).spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).filter_map(start).collect();
        let mut all = work();
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_work_whoever_did_it() {
        for threads in [1, 2, 4] {
            let squares = share((0..1000_u64).collect(), threads, |n| n * n);
            assert!(squares.into_iter().eq((0..1000).map(|n| n * n)), "{threads}");
        }
        assert!(share(Vec::<u8>::new(), 3, |n| n).is_empty());
    }

    #[test]
    fn as_many_threads_work_at_once_as_were_asked_for() {
        let together = Barrier::new(3);
        // Each waits for two others: one thread alone would never end.
        let ids = share(vec![(); 3], 3, |()| {
            together.wait();
            thread::current().id()
        });
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    }

    #[test]
    fn few_items_are_one_threads_work() {
        assert_eq!((how_many(0), how_many(1), how_many(FEW)), (1, 1, 1));
        assert!((1..=MOST).contains(&how_many(10_000)));
    }
}
