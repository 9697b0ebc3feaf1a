//! The slot cache, mapped into this process: user space must change its words in one
//! piece, which the bpf system call does not promise. All `unsafe` for it is here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use tenantry_abi::{CACHE_WORDS, cache_index, cache_word};

#[derive(Debug)]
pub(crate) struct SlotCache {
    words: NonNull<AtomicU64>,
}

// SAFETY: the mapping belongs to this value alone and may be used from any thread.
unsafe impl Send for SlotCache {}
// SAFETY: all access goes through atomics.
unsafe impl Sync for SlotCache {}

const BYTES: usize = CACHE_WORDS * size_of::<u64>();

impl SlotCache {
    /// `map` is the pinned `slot_cache`, whose size the caller has checked.
    pub fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice replaces nothing;
        // the map has CACHE_WORDS 8-byte values, so that BYTES are backed by it.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { words })
    }

    /// From now on the programs take `id` for `slot`'s; 0 = nobody's.
    pub fn store(&self, id: u64, slot: u32) {
        // SAFETY: the index is masked to below CACHE_WORDS, so it stays within the mapping.
        let word = unsafe { self.words.add(cache_index(id)) };
        // SAFETY: mapped, aligned (the mapping is to a page, the words are 8 bytes), and
        // alive as long as self; programs change it only atomically too.
        let word = unsafe { word.as_ref() };
        word.store(cache_word(id, slot), Ordering::Release);
    }
}

impl Drop for SlotCache {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this address and length; no reference outlives self.
        unsafe { libc::munmap(self.words.as_ptr().cast(), BYTES) };
    }
}
