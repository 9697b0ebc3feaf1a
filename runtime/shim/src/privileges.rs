//! The last things before `execve`: who the process is and what it may do.
//!
//! Called in the child, by `launch` and `exec` alike. The order is the point:
//! groups before the user (who may not change them), the bounding set and seccomp
//! without `no_new_privs` while there still are capabilities, and with
//! `no_new_privs` seccomp at the very end, so that the program need not allow
//! what happens here.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::thread::{Gid, Uid};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::Process;

use crate::failure::at;
use crate::sys;

/// Gives up everything that `process` does not name.
pub fn assume(process: &Process, seccomp: Option<&[u8]>) -> Result<(), Failure> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    match sys::new_session_keyring() {
        // A kernel without keyrings has none to inherit.
        Ok(()) | Err(Errno::NOSYS) => {}
        Err(errno) => return Err(at("keyctl", "session keyring")(errno)),
    }
    let early = seccomp.filter(|_| !process.no_new_privileges);
    if let Some(program) = early {
        sys::install_seccomp(program).map_err(at("seccomp", "filter"))?;
    }
    drop_from_bounding_set(process.capabilities)?;
    become_user(process)?;
    reduce_capabilities(process.capabilities)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(at("prctl", "no_new_privs"))?;
        if let Some(program) = seccomp {
            sys::install_seccomp(program).map_err(at("seccomp", "filter"))?;
        }
    }
    Ok(())
}

fn drop_from_bounding_set(keep: u64) -> Result<(), Failure> {
    for number in 0..u64::BITS {
        let bit = 1_u64 << number;
        if keep & bit != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            bit,
        )) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(at("prctl", format_args!("drop capability {number}"))(errno)),
        }
    }
    Ok(())
}

fn become_user(process: &Process) -> Result<(), Failure> {
    let groups: Vec<Gid> = process.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(at("setgroups", process.gid))?;
    let gid = Gid::from_raw(process.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("setresgid", process.gid))?;
    let uid = Uid::from_raw(process.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("setresuid", process.uid))
}

/// Becomes root of the user namespace that was just entered.
pub fn become_mapped_root() -> Result<(), Failure> {
    let gid = Gid::from_raw(0);
    rustix::thread::set_thread_groups(&[]).map_err(at("setgroups", "user namespace"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("setresgid", "user namespace"))?;
    let uid = Uid::from_raw(0);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("setresuid", "user namespace"))
}

fn reduce_capabilities(keep: u64) -> Result<(), Failure> {
    // Fails before 4.3 only.
    let _ = rustix::thread::clear_ambient_capability_set();
    let held = rustix::thread::capabilities(None).map_err(at("capget", "self"))?;
    let kept = CapabilitySet::from_bits_retain(keep & held.permitted.bits());
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(at("capset", format_args!("{keep:#x}")))
}
