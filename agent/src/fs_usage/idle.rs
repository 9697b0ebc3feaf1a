//! The calling thread gives way to all others.

use std::io;

const WHO_PROCESS: libc::c_int = 1;
const CLASS_IDLE: libc::c_int = 3;
const CLASS_SHIFT: libc::c_int = 13;

/// Disks serve this thread when nobody else wants them (where their scheduler knows
/// classes), and processors with the least weight.
pub fn give_way() -> io::Result<()> {
    rustix::process::setpriority_process(None, 19)?;
    // SAFETY: three numbers; 0 is the calling thread.
    let result =
        unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE << CLASS_SHIFT) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
