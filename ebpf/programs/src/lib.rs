//! The kernel programs as ELF objects, compiled by `build.rs` from `bpf/`.
//!
//! Owns the C sources and the bytes; loads nothing. `tenantry-ebpf` is its only
//! caller. The sources are GPL-2.0 OR BSD-2-Clause, as the kernel demands.

/// Aligned as ELF structures want to be read in place.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

static METERS_ALIGNED: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/meters.bpf.o")));
static TRAMPOLINES_ALIGNED: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/trampoline.bpf.o")));
static FLOOR_ALIGNED: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/floor.bpf.o")));

/// What every supported kernel loads.
pub static METERS: &[u8] = &METERS_ALIGNED.0;
/// What needs trampolines: fentry and LSM programs.
pub static TRAMPOLINES: &[u8] = &TRAMPOLINES_ALIGNED.0;
/// Empty programs at the syscall hooks, to measure beside.
pub static FLOOR: &[u8] = &FLOOR_ALIGNED.0;

/// Changes with each of the objects' bytes, as decimal text.
pub const METERS_HASH: &str = env!("TENANTRY_METERS_HASH");
pub const TRAMPOLINES_HASH: &str = env!("TENANTRY_TRAMPOLINE_HASH");
