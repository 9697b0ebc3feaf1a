//! Pinned maps as typed tables, by the bpf system call: aya's own per-CPU look-ups
//! allocate at each call. All `unsafe` for it is here.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use aya::maps::{MapData, MapType};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Slot;

#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("{operation} in map {map}")]
    Call {
        operation: &'static str,
        map: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("map {map} cannot be opened from its pin")]
    Open {
        map: &'static str,
        #[source]
        source: aya::maps::MapError,
    },
    #[error("map {map} has {found} as {what}, this build expects {expected}")]
    Layout { map: &'static str, what: &'static str, found: u32, expected: u32 },
    #[error("slot {slot} does not exist: 1 to {last} do")]
    Slot { slot: Slot, last: Slot },
    #[error("the number of possible CPUs is unknown")]
    Cpus(#[source] io::Error),
}

/// A map with keys K and, for each CPU if it is a per-CPU map, one V.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    name: &'static str,
    data: MapData,
    max_entries: usize,
    copies: usize,
    types: PhantomData<fn(K) -> V>,
}

/// Memory for values, used again for each look-up; words keep it aligned.
pub(crate) type Buffer = Vec<u64>;

impl<K, V> Table<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    pub fn open(pin_dir: &Path, name: &'static str, cpus: usize) -> Result<Self, MapError> {
        let open = |source| MapError::Open { map: name, source };
        let data = MapData::from_pin(pin_dir.join(name)).map_err(open)?;
        let info = data.info().map_err(open)?;
        let layout = |what, found, expected| match found == expected {
            true => Ok(()),
            false => Err(MapError::Layout { map: name, what, found, expected }),
        };
        layout("key size", info.key_size(), size_of::<K>() as u32)?;
        layout("value size", info.value_size(), size_of::<V>() as u32)?;
        let per_cpu = matches!(info.map_type(), Ok(MapType::PerCpuArray | MapType::PerCpuHash));
        const { assert!(size_of::<V>().is_multiple_of(4) && align_of::<V>() <= align_of::<u64>()) };
        let max_entries = info.max_entries() as usize;
        let copies = if per_cpu { cpus } else { 1 };
        Ok(Self { name, data, max_entries, copies, types: PhantomData })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    /// One value, or one for each CPU. `None` if a hash has no such key.
    pub fn read<'b>(&self, key: &K, buffer: &'b mut Buffer) -> Result<Option<&'b [V]>, MapError> {
        let words = (self.copies * size_of::<V>()).div_ceil(8);
        if buffer.len() < words {
            buffer.resize(words, 0);
        }
        let value = buffer.as_mut_bytes();
        match self.element(libc_bpf::LOOKUP, Some(key), value.as_mut_ptr()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            result => result.map_err(|source| self.error("look-up", source))?,
        }
        let bytes = &buffer.as_bytes()[..self.copies * size_of::<V>()];
        // The buffer is made of words, which is alignment enough, and as long as `copies` values.
        Ok(<[V]>::ref_from_bytes(bytes).ok())
    }

    /// The only value of a map that is not per CPU.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut buffer = Buffer::new();
        let values = self.read(key, &mut buffer)?;
        Ok(values.and_then(|values| V::read_from_bytes(values.first()?.as_bytes()).ok()))
    }

    /// Sets the value, or each CPU's copy of it.
    pub fn write(&self, key: &K, value: &V) -> Result<(), MapError> {
        // Per CPU the kernel reads each value at a multiple of 8 bytes; sizes of such maps are.
        let mut values = value.as_bytes().repeat(self.copies);
        self.element(libc_bpf::UPDATE, Some(key), values.as_mut_ptr())
            .map_err(|source| self.error("update", source))
    }

    /// False if there was no such key.
    pub fn remove(&self, key: &K) -> Result<bool, MapError> {
        match self.element(libc_bpf::DELETE, Some(key), std::ptr::null_mut()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(self.error("delete", source)),
            Ok(()) => Ok(true),
        }
    }

    /// Keys of a hash. While programs add and remove some, a key may be missed or come twice.
    pub fn keys(&self) -> Result<Vec<K>, MapError> {
        let mut keys: Vec<K> = Vec::new();
        // The kernel begins anew when the last key is gone: that must not go on forever.
        while keys.len() < 2 * self.max_entries {
            let mut next = K::new_zeroed();
            let pointer = next.as_mut_bytes().as_mut_ptr();
            match self.element(libc_bpf::NEXT_KEY, keys.last(), pointer) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                result => result.map_err(|source| self.error("next key", source))?,
            }
            keys.push(next);
        }
        Ok(keys)
    }

    /// Shows every row to `visit`, with one value or one for each CPU, by a few system calls.
    /// While programs add and remove some, a row of a hash may be missed or come twice.
    pub fn read_all(
        &self,
        buffer: &mut Buffer,
        mut visit: impl FnMut(&K, &[V]),
    ) -> Result<(), MapError> {
        const { assert!(size_of::<V>().is_multiple_of(8) && align_of::<K>() <= align_of::<u64>()) };
        // Where the kernel is to go on: a key, or a number of its own.
        let place_words = size_of::<K>().max(4).div_ceil(8);
        let value_words = self.copies * size_of::<V>() / 8;
        // More than any bucket of a hash holds, or the kernel could not go on.
        let mut rows = self.max_entries.min(BATCH_ROWS);
        let mut is_first = true;
        let mut seen = 0;
        loop {
            let keys_words = (rows * size_of::<K>()).div_ceil(8);
            buffer.resize(2 * place_words + keys_words + rows * value_words, 0);
            let (places, rest) = buffer.split_at_mut(2 * place_words);
            let (keys, values) = rest.split_at_mut(keys_words);
            let (from, next) = places.split_at_mut(place_words);
            let from = (!is_first).then_some(from);
            let (count, end) = match self.batch(from, next, keys, values, rows as u32) {
                Ok(count) => (count, false),
                Err((count, error)) => match error.raw_os_error() {
                    Some(libc::ENOENT) => (count, true),
                    Some(libc::ENOSPC) if rows < self.max_entries => {
                        rows = (rows * 2).min(self.max_entries);
                        // `resize` keeps the places, which are in front.
                        continue;
                    }
                    _ => return Err(self.error("batch look-up", error)),
                },
            };
            let keys = <[K]>::ref_from_prefix_with_elems(keys.as_bytes(), count);
            let values = <[V]>::ref_from_prefix_with_elems(values.as_bytes(), count * self.copies);
            if let (Ok((keys, _)), Ok((values, _))) = (keys, values) {
                keys.iter().zip(values.chunks_exact(self.copies)).for_each(|(k, v)| visit(k, v));
            }
            seen += count;
            // The bound is for a hash that others change all the time.
            if end || seen > 2 * self.max_entries {
                return Ok(());
            }
            buffer.copy_within(place_words..2 * place_words, 0);
            is_first = false;
        }
    }

    fn error(&self, operation: &'static str, source: io::Error) -> MapError {
        MapError::Call { operation, map: self.name, source }
    }

    /// `value` is as long as the command reads or writes: `copies` values for a look-up or an
    /// update, a key for the next key, nothing for a deletion.
    fn element(&self, command: libc::c_long, key: Option<&K>, value: *mut u8) -> io::Result<()> {
        let attributes = libc_bpf::Element {
            map_fd: self.fd().as_raw_fd() as u32,
            reserved: 0,
            key: key.map_or(0, |key| key.as_bytes().as_ptr() as u64),
            value: value as u64,
            flags: 0,
        };
        // SAFETY: the attributes are those of an element command and live through the call. The
        // map's key and value sizes were compared with K and V in `open`, so that the kernel
        // reads a whole key, and reads or writes no more at `value` than the callers above give.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command, &raw const attributes, size_of_val(&attributes))
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl<K, V> Table<K, V> {
    /// How many rows came; at an error, how many came before it. `keys` and `values` have room
    /// for `rows` rows, `from` and `next` for the kernel's place in the table.
    fn batch(
        &self,
        from: Option<&mut [u64]>,
        next: &mut [u64],
        keys: &mut [u64],
        values: &mut [u64],
        rows: u32,
    ) -> Result<usize, (usize, io::Error)> {
        let mut attributes = libc_bpf::Batch {
            in_batch: from.map_or(0, |from| from.as_mut_ptr() as u64),
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: rows,
            map_fd: self.data.fd().as_fd().as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        let bytes = size_of_val(&attributes);
        // SAFETY: the attributes are a batch look-up's and live through the call. `open` compared
        // the map's key and value sizes with K and V: the kernel writes at most `rows` of each, for
        // which the only caller made room, and a place no longer than a key or four bytes.
        let result = unsafe {
            let batch = libc_bpf::LOOKUP_BATCH;
            libc::syscall(libc::SYS_bpf, batch, &raw mut attributes, bytes)
        };
        // It is not written where the call fails early.
        let count = attributes.count.min(rows) as usize;
        match result {
            0 => Ok(count),
            _ => Err((count, io::Error::last_os_error())),
        }
    }
}

/// Rows of one batch look-up.
const BATCH_ROWS: usize = 512;

/// A pinned queue of words, first in, first out.
#[derive(Debug)]
pub(crate) struct Queue {
    name: &'static str,
    data: MapData,
}

impl Queue {
    pub fn open(pin_dir: &Path, name: &'static str) -> Result<Self, MapError> {
        let open = |source| MapError::Open { map: name, source };
        let data = MapData::from_pin(pin_dir.join(name)).map_err(open)?;
        let found = data.info().map_err(open)?.value_size();
        if found != size_of::<u32>() as u32 {
            return Err(MapError::Layout { map: name, what: "value size", found, expected: 4 });
        }
        Ok(Self { name, data })
    }

    /// False if it is full.
    pub fn push(&self, mut value: u32) -> Result<bool, MapError> {
        match self.element(libc_bpf::UPDATE, &mut value) {
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(false),
            Err(source) => Err(MapError::Call { operation: "push", map: self.name, source }),
            Ok(()) => Ok(true),
        }
    }

    /// `None` if it is empty.
    pub fn pop(&self) -> Result<Option<u32>, MapError> {
        let mut value = 0;
        match self.element(libc_bpf::LOOKUP_AND_DELETE, &mut value) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(MapError::Call { operation: "pop", map: self.name, source }),
            Ok(()) => Ok(Some(value)),
        }
    }

    fn element(&self, command: libc::c_long, value: &mut u32) -> io::Result<()> {
        let attributes = libc_bpf::Element {
            map_fd: self.data.fd().as_fd().as_raw_fd() as u32,
            reserved: 0,
            key: 0,
            value: std::ptr::from_mut(value) as u64,
            flags: 0,
        };
        // SAFETY: the attributes are those of an element command on a map without keys and live
        // through the call; `open` has seen that the map's values are as large as `value`.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command, &raw const attributes, size_of_val(&attributes))
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The part of `linux/bpf.h` that libc has not.
mod libc_bpf {
    pub const LOOKUP: libc::c_long = 1;
    pub const UPDATE: libc::c_long = 2;
    pub const DELETE: libc::c_long = 3;
    pub const NEXT_KEY: libc::c_long = 4;
    pub const LOOKUP_AND_DELETE: libc::c_long = 21;
    pub const LOOKUP_BATCH: libc::c_long = 24;

    /// `union bpf_attr` for these commands.
    #[repr(C)]
    pub struct Element {
        pub map_fd: u32,
        pub reserved: u32,
        pub key: u64,
        pub value: u64,
        pub flags: u64,
    }

    /// The same for batches.
    #[repr(C)]
    pub struct Batch {
        pub in_batch: u64,
        pub out_batch: u64,
        pub keys: u64,
        pub values: u64,
        pub count: u32,
        pub map_fd: u32,
        pub element_flags: u64,
        pub flags: u64,
    }
}
