//! Keeps the memory that loading takes from staying.
//!
//! Parsing the kernel's BTF takes some 30 MiB, all free again a moment later. All calls
//! into the C library's allocator are here; they do nothing to memory in use.

/// glibc's own default, until it frees one large block and doubles it to that block's size.
const TRIM_THRESHOLD_BYTES: libc::c_int = 128 * 1024;

/// Before loading: the 5 MiB that hold the kernel's BTF shall not teach the allocator to
/// keep twice as much.
pub(crate) fn keep_trimming() {
    // SAFETY: mallopt takes any value and may be called at any time.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES) };
}

/// After loading: gives back what is free between blocks in use, too.
pub(crate) fn return_free_memory() {
    // SAFETY: malloc_trim takes any pad and touches only memory that is free.
    unsafe { libc::malloc_trim(0) };
}
