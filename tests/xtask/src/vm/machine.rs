//! One boot of a virtual machine: starts QEMU, reads what the guest says, watches
//! the console, and is sure that QEMU is gone afterwards.

use std::cell::Cell;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::supervise::{self, End, Limits, Next};
use crate::vm::disks::{self, Payload};
use crate::vm::emulator::Emulator;
use crate::vm::kernel::{Files, Kernel};
use crate::vm::protocol::{self, Marker};

const MEMORY_MIB: u32 = 1024;
const CPUS: u32 = 2;

/// The guest may say nothing for this long before it is taken for dead. A single
/// slow test is silent until it ends.
const SILENCE: Duration = Duration::from_secs(300);

/// The kernel's security modules, with `bpf`, which no stock configuration lists.
const LSM: &str = "landlock,lockdown,yama,integrity,apparmor,bpf";

/// Lines of the console that mean trouble.
const COMPLAINTS: &[&str] = &[
    "Kernel panic",
    "BUG:",
    "Oops",
    "general protection fault",
    "rcu: INFO:",
    "soft lockup",
    "hung_task",
    "blocked for more than",
    "WARNING: ",
];

/// A machine that can be run; files of the run lie in `work` and go with it.
#[derive(Debug)]
pub struct Machine {
    pub work: PathBuf,
    emulator: Emulator,
    command_line: Vec<String>,
    console: PathBuf,
    /// Where the console is kept when the run is over.
    last_console: PathBuf,
}

impl Machine {
    /// `scratch`: options of the disk on which programs write, from a comma on.
    pub fn new(
        emulator: Emulator,
        kernel: &Kernel,
        files: &Files,
        initrd: PathBuf,
        root: PathBuf,
        scratch: &str,
        cache: &Path,
    ) -> Result<Machine> {
        remove_dead_runs(cache);
        let work = cache.join(format!("run-{}-{}", std::process::id(), kernel.version));
        fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
        let console = work.join("console.log");
        let disk = |id: &str, file: &Path, options: &str| {
            let file = file.display();
            [
                "-drive".to_owned(),
                format!("if=none,format=raw,id={id},file={file},{options}"),
                "-device".to_owned(),
                format!("virtio-blk-pci,drive={id}"),
            ]
        };
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut command_line = words(&format!(
            "{} -smp {CPUS} -m {MEMORY_MIB} -nodefaults -display none -no-reboot",
            emulator.processor_arguments(kernel.emulated_cpu)
        ));
        command_line.extend([
            "-kernel".to_owned(),
            files.vmlinux.display().to_string(),
            "-initrd".to_owned(),
            initrd.display().to_string(),
            "-append".to_owned(),
            format!("console=ttyS0 quiet panic=-1 oops=panic no_timer_check lsm={LSM}"),
            "-serial".to_owned(),
            format!("file:{}", console.display()),
        ]);
        // The order is the guest's: vda, vdb, vdc.
        command_line.extend(disk("root", &root, "snapshot=on,cache=unsafe"));
        command_line.extend(disk("payload", &work.join("payload.img"), "readonly=on"));
        command_line.extend(disk(
            "scratch",
            &work.join("scratch.img"),
            &format!("cache=unsafe,discard=unmap{scratch}"),
        ));
        command_line.extend(words(
            "-object rng-random,id=random,filename=/dev/urandom -device virtio-rng-pci,rng=random \
             -device virtio-serial-pci \
             -chardev file,id=out,path=/dev/stdout,append=on -device virtserialport,chardev=out,name=out",
        ));
        let last_console = cache.join(format!("last-console-{}.log", kernel.version));
        Ok(Machine { work, emulator, command_line, console, last_console })
    }

    /// Boots, hands each line of the guest to `each`, and ends the machine. `Some` is
    /// the reason why the guest did not come to its end.
    pub fn run(
        &self,
        payload: &Payload,
        limit: Duration,
        mut each: impl FnMut(&str),
    ) -> Result<Option<String>> {
        payload.build(&self.work)?;
        disks::scratch(&self.work)?;
        let (mut done, begun) = (false, Cell::new(false));
        let mut boot = || {
            supervise::run_lines(
                &mut self.command(),
                Limits { total: limit, silence: SILENCE },
                |line| {
                    let marker = protocol::marker(line);
                    begun.set(begun.get() || marker.is_some());
                    if marker == Some(Marker::Done) {
                        // Nothing that the guest does after this is worth waiting for.
                        done = true;
                        return Next::Stop;
                    }
                    each(line);
                    Next::Continue
                },
            )
        };
        let mut end = boot()?;
        if is_emulators_fault(&end) && !begun.get() {
            println!("the emulator died before the first test: once more");
            end = boot()?;
        }
        if done {
            return Ok(None);
        }
        let why = match end {
            End::TimedOut(limit) => format!("it took longer than {} s", limit.as_secs()),
            End::Silent(limit) => format!("it said nothing for {} s", limit.as_secs()),
            End::Exited(_) | End::Stopped => "the guest stopped".to_owned(),
        };
        let console = self.console_lines();
        for line in console.iter().rev().take(40).rev() {
            println!("console: {line}");
        }
        let first = self.complaints().into_iter().next().or_else(|| console.last().cloned());
        Ok(Some(format!("{why}; {}", first.unwrap_or_else(|| "the console is empty".to_owned()))))
    }

    fn command(&self) -> Command {
        let mut command = self.emulator.command();
        // QEMU keeps what is written to the root disk in a file there.
        command.args(&self.command_line).env("TMPDIR", &self.work);
        command
    }

    /// What the guest's kernel complained about, in order, a few at most.
    pub fn complaints(&self) -> Vec<String> {
        self.console_lines()
            .into_iter()
            .filter(|line| COMPLAINTS.iter().any(|text| line.contains(text)))
            .take(20)
            .collect()
    }

    fn console_lines(&self) -> Vec<String> {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The last console is worth keeping for whoever looks into a failure.
        let _ = fs::copy(&self.console, &self.last_console);
        if let Err(e) = fs::remove_dir_all(&self.work) {
            eprintln!("xtask: {} could not be removed: {e}", self.work.display());
        }
    }
}

/// Folders of runs that were killed stay behind; their process no longer exists.
fn remove_dead_runs(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(pid_of_run).is_some_and(|pid| !process_exists(pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whose run a folder of the cache is, if it is one.
fn pid_of_run(name: &str) -> Option<u32> {
    let (pid, _kernel) = name.strip_prefix("run-")?.split_once('-')?;
    pid.parse().ok()
}

fn process_exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// QEMU's own assertions abort it, seldom (`iotlb_to_section` in 10.0, while a guest boots on
/// two processors). No guest can do that.
fn is_emulators_fault(end: &End) -> bool {
    let abort = rustix::process::Signal::ABORT.as_raw();
    matches!(end, End::Exited(status) if status.signal() == Some(abort))
}

/// Whether a complaint is a defect of the kernel under our programs, and no sign of
/// a slow host: emulation on a busy machine brings stall warnings.
pub fn is_fatal(complaint: &str) -> bool {
    ["Kernel panic", "BUG:", "Oops", "general protection fault"]
        .iter()
        .any(|text| complaint.contains(text))
        && !complaint.contains("soft lockup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_folder_names_its_process() {
        assert_eq!(pid_of_run("run-4711-6.1"), Some(4711));
        assert_eq!(pid_of_run("run-4711-newest"), Some(4711));
        assert_eq!(pid_of_run("6.1"), None);
        assert_eq!(pid_of_run("run-x-6.1"), None);
    }

    #[test]
    fn only_an_abort_is_the_emulators_own_fault() {
        let ended = |raw| End::Exited(std::process::ExitStatus::from_raw(raw));
        assert!(is_emulators_fault(&ended(6)));
        assert!(!is_emulators_fault(&ended(0)) && !is_emulators_fault(&ended(1 << 8)));
        assert!(!is_emulators_fault(&ended(9)) && !is_emulators_fault(&End::Stopped));
    }

    #[test]
    fn a_slow_host_is_no_defect() {
        assert!(is_fatal("[  3.1] Kernel panic - not syncing: x"));
        assert!(is_fatal("[  3.1] BUG: kernel NULL pointer dereference"));
        assert!(!is_fatal("[  3.1] watchdog: BUG: soft lockup - CPU#1 stuck for 22s!"));
        assert!(!is_fatal("[  3.1] rcu: INFO: rcu_preempt self-detected stall on CPU"));
    }
}
