//! A profile's rules become a program for the kernel, through libseccomp.
//!
//! Owns the translation and one addition of ours: libseccomp knows only the
//! system calls of its own age. What a profile allows by a newer name is allowed
//! by number in a short prologue, and a call newer than everything known here
//! fails with ENOSYS instead of EPERM, so that C libraries fall back (runc does
//! the same: `libcontainer/seccomp/patchbpf`).

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::OwnedFd,
};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use rustix::fs::{MemfdFlags, SealFlags};

use super::profile::{Action, Arg, Facts, Operator, Profile, Rule};
use crate::error::Error;

#[cfg(target_arch = "x86_64")]
pub const ARCH: &str = "amd64";
#[cfg(target_arch = "x86_64")]
const NATIVE: (&str, u32) = ("SCMP_ARCH_X86_64", 0xc000_003e);
#[cfg(target_arch = "aarch64")]
pub const ARCH: &str = "arm64";
#[cfg(target_arch = "aarch64")]
const NATIVE: (&str, u32) = ("SCMP_ARCH_AARCH64", 0xc000_00b7);
#[cfg(target_arch = "riscv64")]
pub const ARCH: &str = "riscv64";
#[cfg(target_arch = "riscv64")]
const NATIVE: (&str, u32) = ("SCMP_ARCH_RISCV64", 0xc000_00f3);

/// Numbers are the same on every architecture (`asm-generic/unistd.h`).
const NEWER: [(&str, u32); 19] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];
/// The highest number that this file judges; a later one is ENOSYS.
const NEWEST: u32 = 469;
/// x32 numbers carry this bit; the prologue leaves them to libseccomp's part.
const X32_BIT: u32 = 0x4000_0000;

/// The program in a sealed memfd, at offset 0.
pub fn compile(profile: &Profile, facts: Facts) -> Result<OwnedFd, Error> {
    let failed = |error: libseccomp::error::SeccompError| Error::failed("compile seccomp", error);
    let default = action(profile.default_action, profile.default_errno_ret);
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    // no_new_privs is the container's choice, made elsewhere.
    context.set_ctl_nnp(false).map_err(failed)?;
    // Level 2 is a binary tree instead of a list; libseccomp before 2.5 has none.
    let _ = context.set_ctl_optimize(2);
    for name in profile.sub_architectures(NATIVE.0) {
        let arch: ScmpArch = name.parse().map_err(failed)?;
        context.add_arch(arch).map_err(failed)?;
    }
    let mut newer = vec![];
    for rule in profile.rules(facts) {
        let rule_action = action(rule.action, rule.errno_ret.or(profile.default_errno_ret));
        if rule_action == default {
            // The kernel's answer is the same; libseccomp refuses such a rule.
            continue;
        }
        for name in rule.all_names() {
            match ScmpSyscall::from_name(name) {
                Ok(syscall) => add(&mut context, rule, rule_action, syscall).map_err(failed)?,
                // A name that no architecture here has says nothing; so does Docker.
                Err(_) => newer.extend(newer_number(rule, name)),
            }
        }
    }
    let mut scratch = memfd("tenantry-seccomp-scratch")?;
    context.export_bpf(&scratch).map_err(failed)?;
    let io = |error| Error::failed("write the seccomp program", error);
    let mut program = prologue(&newer, profile.default_action == Action::Errno);
    scratch.rewind().map_err(io)?;
    scratch.read_to_end(&mut program).map_err(io)?;
    let mut sealed = memfd("tenantry-seccomp")?;
    sealed.write_all(&program).map_err(io)?;
    sealed.rewind().map_err(io)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&sealed, seals).map_err(|e| io(e.into()))?;
    Ok(sealed.into())
}

fn add(
    context: &mut ScmpFilterContext,
    rule: &Rule,
    action: ScmpAction,
    syscall: ScmpSyscall,
) -> Result<(), libseccomp::error::SeccompError> {
    let repeated = |arg: &Arg| rule.args.iter().filter(|a| a.index == arg.index).count() > 1;
    if rule.args.iter().any(repeated) {
        // libseccomp takes one comparison per argument; runc, too, makes such a
        // rule several, any of which matches.
        for arg in &rule.args {
            context.add_rule_conditional(action, syscall, &[compare(arg)])?;
        }
        return Ok(());
    }
    let comparisons: Vec<_> = rule.args.iter().map(compare).collect();
    context.add_rule_conditional(action, syscall, &comparisons)?;
    Ok(())
}

fn newer_number(rule: &Rule, name: &str) -> Option<u32> {
    if rule.action != Action::Allow || !rule.args.is_empty() {
        return None;
    }
    NEWER.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn compare(arg: &Arg) -> ScmpArgCompare {
    let (op, datum) = match arg.op {
        Operator::NotEqual => (ScmpCompareOp::NotEqual, arg.value),
        Operator::Less => (ScmpCompareOp::Less, arg.value),
        Operator::LessOrEqual => (ScmpCompareOp::LessOrEqual, arg.value),
        Operator::Equal => (ScmpCompareOp::Equal, arg.value),
        Operator::GreaterOrEqual => (ScmpCompareOp::GreaterEqual, arg.value),
        Operator::Greater => (ScmpCompareOp::Greater, arg.value),
        Operator::MaskedEqual => (ScmpCompareOp::MaskedEqual(arg.value), arg.value_two),
    };
    ScmpArgCompare::new(arg.index, op, datum)
}

fn action(action: Action, errno: Option<u32>) -> ScmpAction {
    const EPERM: u32 = 1;
    match action {
        Action::Allow => ScmpAction::Allow,
        Action::Errno => ScmpAction::Errno(errno.unwrap_or(EPERM) as i32),
        Action::KillThread => ScmpAction::KillThread,
        Action::KillProcess => ScmpAction::KillProcess,
        Action::Log => ScmpAction::Log,
        Action::Trap => ScmpAction::Trap,
        Action::Trace => ScmpAction::Trace(errno.unwrap_or(EPERM) as u16),
    }
}

fn memfd(name: &str) -> Result<File, Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(name, flags);
    Ok(File::from(fd.map_err(|e| Error::failed("memfd_create", e))?))
}

/// Instructions that end the common question early: `allowed` numbers of the
/// native architecture pass, unheard-of ones fail with ENOSYS where the profile
/// would say EPERM, and everything else goes on to libseccomp's program.
fn prologue(allowed: &[u32], unknown_is_enosys: bool) -> Vec<u8> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER: u16 = 0x25;
    const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const RET_ALLOW: u32 = 0x7fff_0000;
    const RET_ENOSYS: u32 = 0x0005_0000 | 38;
    const OFFSET_NR: u32 = 0;
    const OFFSET_ARCH: u32 = 4;
    let mut program: Vec<(u16, u8, u8, u32)> = vec![];
    let tests = allowed.len() as u8;
    // Jumps count from the next instruction; `end` is the first of libseccomp's.
    let tail = if unknown_is_enosys { 3 } else { 0 };
    let end = |instructions_left: u8| instructions_left;
    program.push((LOAD_WORD, 0, 0, OFFSET_ARCH));
    program.push((JUMP_EQUAL, 0, end(1 + 2 * tests + tail), NATIVE.1));
    program.push((LOAD_WORD, 0, 0, OFFSET_NR));
    for number in allowed {
        program.push((JUMP_EQUAL, 0, 1, *number));
        program.push((RETURN, 0, 0, RET_ALLOW));
    }
    if unknown_is_enosys {
        program.push((JUMP_GREATER_OR_EQUAL, end(2), 0, X32_BIT));
        program.push((JUMP_GREATER, 0, end(1), NEWEST));
        program.push((RETURN, 0, 0, RET_ENOSYS));
    }
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for (code, jump_true, jump_false, operand) in program {
        bytes.extend(code.to_ne_bytes());
        bytes.extend([jump_true, jump_false]);
        bytes.extend(operand.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{super::profile::DEFAULT, *};

    /// Runs a program as the kernel would: only the instructions that occur.
    fn run(program: &[u8], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let mut data = vec![];
        data.extend(nr.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let i = &program[at * 8..at * 8 + 8];
            let code = u16::from_ne_bytes([i[0], i[1]]);
            let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
            at += 1;
            let jump = |yes: bool| usize::from(if yes { i[2] } else { i[3] });
            match code {
                0x20 => {
                    let word = &data[k as usize..k as usize + 4];
                    accumulator = u32::from_ne_bytes(word.try_into().unwrap());
                }
                0x05 => at += k as usize,
                0x15 => at += jump(accumulator == k),
                0x25 => at += jump(accumulator > k),
                0x35 => at += jump(accumulator >= k),
                0x54 => accumulator &= k,
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_default_program_answers_as_docker_documents() {
        const ALLOW: u32 = 0x7fff_0000;
        const EPERM: u32 = 0x5_0001;
        const ENOSYS: u32 = 0x5_0026;
        let facts =
            Facts { capabilities: crate::capabilities::default_set(), kernel: (6, 1), arch: ARCH };
        let mut program = vec![];
        let compiled = compile(&Profile::parse(DEFAULT).unwrap(), facts).unwrap();
        File::from(compiled).read_to_end(&mut program).unwrap();
        let check = |nr: u32, arg0: u64, expected: u32| {
            let got = run(&program, NATIVE.1, nr, [arg0, 0, 0, 0, 0, 0]);
            assert_eq!(got, expected, "syscall {nr}({arg0:#x})");
        };
        check(0, 0, ALLOW); // read
        check(39, 0, ALLOW); // getpid
        check(165, 0, EPERM); // mount
        check(41, 2, ALLOW); // socket(AF_INET)
        check(41, 40, EPERM); // socket(AF_VSOCK)
        check(56, 0x11, ALLOW); // clone(SIGCHLD)
        check(56, 0x1000_0000, EPERM); // clone(CLONE_NEWUSER)
        check(435, 0, ENOSYS); // clone3
        check(161, 0, ALLOW); // chroot, CAP_SYS_CHROOT being a default
        check(135, 0x2_0008, ALLOW); // personality
        check(135, 1, EPERM);
        check(425, 0, EPERM); // io_uring_setup
        check(452, 0, ALLOW); // fchmodat2
        check(457, 0, EPERM); // statmount wants CAP_SYS_ADMIN
        check(470, 0, ENOSYS);
        check(100_000, 0, ENOSYS);
        const I386: u32 = 0x4000_0003;
        assert_eq!(run(&program, I386, 4, [0; 6]), ALLOW, "i386 write");
        assert_eq!(run(&program, I386, 21, [0; 6]), EPERM, "i386 mount");
        assert_eq!(run(&program, NATIVE.1, X32_BIT, [0; 6]), ALLOW, "x32 read");
        assert_eq!(run(&program, NATIVE.1, X32_BIT | 165, [0; 6]), EPERM, "x32 mount");
    }
}
