//! The last things before `execve`: who the process is and what it may do.
//!
//! Called in the child, by `launch` and `exec` alike. The order is the point:
//! groups before the user (who may not change them), the bounding set and seccomp
//! without `no_new_privs` while there still are capabilities, and with
//! `no_new_privs` seccomp at the very end, so that the program need not allow
//! what happens here.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, Rlimit, getrlimit, prlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::thread::{Gid, Uid};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::Process;

use crate::failure::at;
use crate::sys;

/// The five sets of `capabilities(7)`, one bit per capability number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// What a process keeps.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: &'a [u32],
    pub umask: u32,
    pub sets: Sets,
    pub no_new_privileges: bool,
    /// A user who is not root keeps the permitted set. Else that is lost with the user id.
    pub over_user: bool,
}

/// Gives up everything that `process` does not name.
pub fn assume(process: &Process, seccomp: Option<&[u8]>) -> Result<(), Failure> {
    let keep = process.capabilities;
    let sets = Sets { bounding: keep, permitted: keep, effective: keep, ..Sets::default() };
    let kept = Kept {
        uid: process.uid,
        gid: process.gid,
        additional_gids: &process.additional_gids,
        umask: 0o022,
        sets,
        no_new_privileges: process.no_new_privileges,
        over_user: false,
    };
    // While there still is the privilege to raise them.
    set_limits(process)?;
    reduce_to(&kept, seccomp)
}

/// Gives up everything that `kept` does not name.
pub fn reduce_to(kept: &Kept<'_>, seccomp: Option<&[u8]>) -> Result<(), Failure> {
    rustix::process::umask(Mode::from_raw_mode(kept.umask));
    match sys::new_session_keyring() {
        // A kernel without keyrings has none to inherit.
        Ok(()) | Err(Errno::NOSYS) => {}
        Err(errno) => return Err(at("keyctl", "session keyring")(errno)),
    }
    let early = seccomp.filter(|_| !kept.no_new_privileges);
    if let Some(program) = early {
        sys::install_seccomp(program).map_err(at("seccomp", "filter"))?;
    }
    drop_from_bounding_set(kept.sets.bounding)?;
    if kept.over_user {
        rustix::thread::set_keep_capabilities(true).map_err(at("prctl", "keep capabilities"))?;
    }
    become_user(kept)?;
    reduce_capabilities(kept.sets)?;
    if kept.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(at("prctl", "no_new_privs"))?;
        if let Some(program) = seccomp {
            sys::install_seccomp(program).map_err(at("seccomp", "filter"))?;
        }
    }
    Ok(())
}

/// Raises hard limits as far as [`assume`] will need them, which takes a privilege that root of
/// a user namespace does not have. `None`: the calling process itself. Its limits are the
/// caller's in either case.
pub fn raise_limits(process: &Process, pid: Option<Pid>) -> Result<(), Failure> {
    for wanted in &process.rlimits {
        let resource = wanted.resource.into();
        let now = getrlimit(resource);
        if exceeds(wanted.hard, now.maximum) {
            let raised = Rlimit { current: now.current, maximum: wanted.hard };
            prlimit(pid, resource, raised)
                .map_err(at("prlimit", format_args!("{:?}", wanted.resource)))?;
        }
    }
    Ok(())
}

fn set_limits(process: &Process) -> Result<(), Failure> {
    for wanted in &process.rlimits {
        let limit = Rlimit { current: wanted.soft, maximum: wanted.hard };
        setrlimit(wanted.resource.into(), limit)
            .map_err(at("setrlimit", format_args!("{:?}", wanted.resource)))?;
    }
    Ok(())
}

/// Of two limits, where `None` is none.
fn exceeds(wanted: Option<u64>, now: Option<u64>) -> bool {
    match (wanted, now) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wanted), Some(now)) => wanted > now,
    }
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

fn become_user(kept: &Kept<'_>) -> Result<(), Failure> {
    let groups: Vec<Gid> = kept.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(at("setgroups", kept.gid))?;
    let gid = Gid::from_raw(kept.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("setresgid", kept.gid))?;
    let uid = Uid::from_raw(kept.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("setresuid", kept.uid))
}

/// Becomes root of the user namespace that was just entered.
pub fn become_mapped_root() -> Result<(), Failure> {
    let gid = Gid::from_raw(0);
    rustix::thread::set_thread_groups(&[]).map_err(at("setgroups", "user namespace"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("setresgid", "user namespace"))?;
    let uid = Uid::from_raw(0);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("setresuid", "user namespace"))
}

fn reduce_capabilities(wanted: Sets) -> Result<(), Failure> {
    // Fails before 4.3 only.
    let _ = rustix::thread::clear_ambient_capability_set();
    let held = rustix::thread::capabilities(None).map_err(at("capget", "self"))?;
    let held = held.permitted.bits();
    let permitted = wanted.permitted & held;
    let inheritable = wanted.inheritable & held;
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(wanted.effective & permitted),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    rustix::thread::set_capabilities(None, sets)
        .map_err(at("capset", format_args!("{:#x}", wanted.permitted)))?;
    // Only what is both permitted and inheritable can be ambient.
    let ambient = wanted.ambient & permitted & inheritable;
    for number in 0..u64::BITS {
        let bit = 1_u64 << number;
        if ambient & bit == 0 {
            continue;
        }
        let one = CapabilitySet::from_bits_retain(bit);
        rustix::thread::configure_capability_in_ambient_set(one, true)
            .map_err(at("prctl", format_args!("ambient capability {number}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_exceeds_every_limit_and_nothing_exceeds_it() {
        assert!(exceeds(None, Some(u64::MAX)));
        assert!(exceeds(Some(2), Some(1)));
        assert!(!exceeds(Some(1), Some(1)));
        assert!(!exceeds(Some(u64::MAX), None));
        assert!(!exceeds(None, None));
    }
}
