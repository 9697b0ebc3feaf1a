//! Which QEMU runs the guest, and how its processors are run.
//!
//! Without hardware virtualisation QEMU translates the guest's code. Before 8.1 it read
//! the code first and guarded its page against changes afterwards: what another
//! processor patched in between stayed in the translation for ever. Attaching a
//! tracepoint patches the running kernel, so that in one of seven runs a processor met
//! the same `int3` again and again and the guest stood still. Where the host's QEMU is
//! that old, Debian's newer one is unpacked into the cache, never installed; where that
//! cannot be had, one thread runs all processors, which is right and half as fast.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt;
use crate::process;
use crate::supervise;

const PROGRAM: &str = "qemu-system-x86_64";

/// The first version that guards a page before it reads it ("accel/tcg: Always lock pages
/// before translation").
const GUARDS_PAGES: (u32, u32) = (8, 1);

/// Where a host with an older version finds a newer one; it needs the same libraries.
const NEWER_SUITE: &str = "bookworm-backports";
const NEWER_PACKAGES: &[&str] =
    &["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// How the guest's processors are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Processors {
    Hardware,
    /// Emulated, each by a thread of its own.
    Threads,
    /// Emulated in turns by one thread.
    OneThread,
}

/// A QEMU that can run the guest.
#[derive(Debug)]
pub struct Emulator {
    program: PathBuf,
    /// The root that it was unpacked to, where it is not the host's.
    root: Option<PathBuf>,
    processors: Processors,
}

impl Emulator {
    /// The host's, or a newer one from `cache`.
    pub fn find(cache: &Path) -> Result<Emulator> {
        let host =
            Emulator { program: PROGRAM.into(), root: None, processors: Processors::Threads };
        if has_hardware_virtualisation() {
            return Ok(Emulator { processors: Processors::Hardware, ..host });
        }
        let said = host.version_text()?;
        let version = version(&said).with_context(|| format!("{PROGRAM} says {said:?}"))?;
        if version >= GUARDS_PAGES {
            return Ok(host);
        }
        match newer(&cache.join("qemu")) {
            Ok(newer) => Ok(newer),
            Err(e) => {
                println!("vm: QEMU {}.{} in one thread: {e:#}", version.0, version.1);
                Ok(Emulator { processors: Processors::OneThread, ..host })
            }
        }
    }

    /// The arguments that choose the processors; `emulated` is QEMU's name for the one to
    /// emulate.
    pub fn processor_arguments(&self, emulated: &str) -> String {
        match self.processors {
            Processors::Hardware => "-accel kvm -cpu host".to_owned(),
            Processors::Threads => format!("-accel tcg,thread=multi -cpu {emulated}"),
            // The kernel's allocator relies on `cmpxchg16b` being one step even without a lock
            // prefix, and the old QEMU lets an interrupt in between.
            Processors::OneThread => format!("-accel tcg,thread=single -cpu {emulated},cx16=off"),
        }
    }

    /// Without its arguments; it is killed when xtask ends.
    pub fn command(&self) -> Command {
        let mut command = supervise::dying_with_us(&self.program);
        self.look_into_root(&mut command);
        command
    }

    fn version_text(&self) -> Result<String> {
        let mut command = process::command(&self.program);
        self.look_into_root(&mut command);
        process::text(command.arg("--version"))
    }

    fn look_into_root(&self, command: &mut Command) {
        let Some(root) = &self.root else { return };
        command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(firmware));
        }
    }
}

/// Debian's newer QEMU, from `place` or downloaded and unpacked there.
fn newer(place: &Path) -> Result<Emulator> {
    let root = place.join("root");
    let emulator = Emulator {
        program: root.join("usr/bin").join(PROGRAM),
        root: Some(root.clone()),
        processors: Processors::Threads,
    };
    let stamp = place.join("version");
    if stamp.exists() {
        return Ok(emulator);
    }
    println!("vm: getting Debian's newer QEMU");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    fs::create_dir_all(place).with_context(|| format!("creating {}", place.display()))?;
    for deb in apt::download(NEWER_SUITE, NEWER_PACKAGES, &place.join("apt"))? {
        process::run(process::command("dpkg-deb").arg("-x").arg(&deb).arg(&root))?;
    }
    // Another release's libraries may not do.
    let said = emulator.version_text().context("the newer QEMU does not run here")?;
    // Written last: without it the next run begins anew.
    fs::write(&stamp, said).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(emulator)
}

/// Major and minor number from what `--version` prints.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("QEMU emulator version ")?.split(['.', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `/dev/kvm` can be there and still not run a stock kernel (nested software
/// virtualisation): the processor itself must say so.
fn has_hardware_virtualisation() -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let extension = flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"));
    extension && fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_qemu_says() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c)\n";
        assert_eq!(version(debian), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.2\n"), Some((10, 0)));
        assert_eq!(version("QEMU emulator version ten"), None);
        assert_eq!(version("qemu: not found"), None);
    }
}
