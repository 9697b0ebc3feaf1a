//! Syscalls as a caller reads them: sums over CPUs. Pure.

use tenantry_abi as abi;

use crate::ErrorClass;

/// Calls that returned. 511 stands for 32-bit calls and unknown numbers. Neither `exit`
/// nor `exit_group` ever returns; a clone counts once, in the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallCount {
    pub nr: u32,
    pub count: u64,
    /// Those of `count` that gave the caller an error number.
    pub errors: u64,
}

/// Errors of one syscall and one class; of a syscall, all classes add up to its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallErrors {
    pub nr: u32,
    pub class: ErrorClass,
    pub count: u64,
}

/// Syscalls that were called at all, by number.
pub(crate) fn syscalls(copies: &[abi::Syscalls]) -> Vec<SyscallCount> {
    (0..abi::SYSCALLS)
        .map(|nr| SyscallCount {
            nr: nr as u32,
            count: copies.iter().map(|copy| copy.count[nr]).sum(),
            errors: copies.iter().map(|copy| copy.errors[nr]).sum(),
        })
        .filter(|syscall| syscall.count > 0)
        .collect()
}

/// Errors by number and class, those that found no cell among the others. `syscalls` was
/// read from the same copies.
pub(crate) fn errors(copies: &[abi::Syscalls], syscalls: &[SyscallCount]) -> Vec<SyscallErrors> {
    let mut all: Vec<SyscallErrors> = copies
        .iter()
        .flat_map(|copy| &copy.cells)
        .filter(|cell| cell.count > 0)
        .filter_map(|cell| {
            let (nr, class) = key_of(cell.key)?;
            Some(SyscallErrors { nr, class, count: cell.count })
        })
        .collect();
    all.sort_unstable_by_key(|errors| (errors.nr, errors.class));
    all.dedup_by(|next, sum| {
        let is_same = (next.nr, next.class) == (sum.nr, sum.class);
        sum.count += if is_same { next.count } else { 0 };
        is_same
    });
    let rest = syscalls.iter().filter_map(|syscall| {
        let first = all.partition_point(|errors| errors.nr < syscall.nr);
        let of_it = all[first..].iter().take_while(|errors| errors.nr == syscall.nr);
        let classified: u64 = of_it.map(|errors| errors.count).sum();
        let count = syscall.errors.checked_sub(classified).filter(|rest| *rest > 0)?;
        Some(SyscallErrors { nr: syscall.nr, class: ErrorClass::Other, count })
    });
    let rest: Vec<SyscallErrors> = rest.collect();
    add_errors(&mut all, &rest);
    all
}

/// Syscall and class of a cell; `None` of a free one.
fn key_of(key: u32) -> Option<(u32, ErrorClass)> {
    let nr = (key & 0xffff).checked_sub(1)?;
    Some((nr, *ErrorClass::ALL.get((key >> 16) as usize)?))
}

/// Adds the calls of one row to those of another, both by number.
pub(crate) fn add_syscalls(sum: &mut Vec<SyscallCount>, more: &[SyscallCount]) {
    for call in more {
        match sum.binary_search_by_key(&call.nr, |known| known.nr) {
            Ok(index) => {
                sum[index].count += call.count;
                sum[index].errors += call.errors;
            }
            Err(index) => sum.insert(index, *call),
        }
    }
}

/// As [`add_syscalls`], for errors.
pub(crate) fn add_errors(sum: &mut Vec<SyscallErrors>, more: &[SyscallErrors]) {
    for errors in more {
        let key = |known: &SyscallErrors| (known.nr, known.class);
        match sum.binary_search_by_key(&key(errors), key) {
            Ok(index) => sum[index].count += errors.count,
            Err(index) => sum.insert(index, *errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn cell(nr: u32, class: ErrorClass, count: u64) -> abi::ErrorCell {
        abi::ErrorCell { count, key: (class as u32) << 16 | (nr + 1), reserved: 0 }
    }

    #[test]
    fn syscalls_add_up_over_cpus_and_skip_what_was_never_called() {
        let mut copies = [abi::Syscalls::new_zeroed(), abi::Syscalls::new_zeroed()];
        copies[0].count[39] = 3000;
        copies[1].count[39] = 2000;
        copies[1].count[257] = 300;
        copies[1].errors[257] = 299;
        let expected = [
            SyscallCount { nr: 39, count: 5000, errors: 0 },
            SyscallCount { nr: 257, count: 300, errors: 299 },
        ];
        assert_eq!(syscalls(&copies), expected);
    }

    #[test]
    fn errors_add_up_over_cpus_wherever_their_cells_lie() {
        let mut copies = [abi::Syscalls::new_zeroed(), abi::Syscalls::new_zeroed()];
        copies[0].count[0] = 10;
        copies[0].errors[0] = 6;
        copies[0].cells[3] = cell(0, ErrorClass::Busy, 5);
        copies[0].cells[9] = cell(0, ErrorClass::Invalid, 1);
        copies[1].count[0] = 10;
        copies[1].errors[0] = 2;
        copies[1].cells[200] = cell(0, ErrorClass::Busy, 2);
        let check = |class, count| SyscallErrors { nr: 0, class, count };
        let expected = [check(ErrorClass::Busy, 7), check(ErrorClass::Invalid, 1)];
        assert_eq!(errors(&copies, &syscalls(&copies)), expected);
    }

    #[test]
    fn errors_that_found_no_cell_are_others_so_that_the_sum_is_right() {
        let mut copy = abi::Syscalls::new_zeroed();
        copy.count[257] = 9;
        copy.errors[257] = 9;
        copy.cells[0] = cell(257, ErrorClass::NotFound, 5);
        let check = |class, count| SyscallErrors { nr: 257, class, count };
        let expected = [check(ErrorClass::Other, 4), check(ErrorClass::NotFound, 5)];
        assert_eq!(errors(&[copy], &syscalls(&[copy])), expected);
    }

    #[test]
    fn rows_of_one_container_add_up_by_number_and_class() {
        let call = |nr, count, errors| SyscallCount { nr, count, errors };
        let mut sum = vec![call(0, 1, 0), call(39, 5, 1)];
        add_syscalls(&mut sum, &[call(1, 7, 7), call(39, 2, 1)]);
        assert_eq!(sum, [call(0, 1, 0), call(1, 7, 7), call(39, 7, 2)]);
        let errors = |nr, class, count| SyscallErrors { nr, class, count };
        let mut sum = vec![errors(1, ErrorClass::Busy, 1)];
        add_errors(&mut sum, &[errors(1, ErrorClass::Other, 2), errors(1, ErrorClass::Busy, 3)]);
        assert_eq!(sum, [errors(1, ErrorClass::Other, 2), errors(1, ErrorClass::Busy, 4)]);
    }

    #[test]
    fn a_cell_without_a_key_or_of_an_unknown_class_is_nobodys() {
        assert_eq!(key_of(0), None);
        assert_eq!(key_of(200 << 16 | 1), None);
        assert_eq!(key_of(8 << 16 | 512), Some((511, ErrorClass::Io)));
    }
}
