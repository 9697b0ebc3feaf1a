//! Builds what the guest starts from: an initrd with a few modules, a root disk with
//! tools of this host, a payload disk per run, and an empty scratch disk.
//!
//! Nothing is mounted and no loop device is used: `mke2fs -d` fills the images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::vm::image::{Stage, build_if_changed, make_ext4, pack_cpio, size_of_tree};
use crate::vm::kernel::Files;
use crate::{cargo, process};

/// Tools of this host that the guest gets, with the libraries they need. Those in
/// the second list come along where this host has them.
const TOOLS: &[&str] = &["nft", "ip", "tc", "kmod", "mke2fs", "e2fsck"];
const MORE_TOOLS: &[&str] = &["ss", "iperf3", "runc", "crun", "setpriv", "unshare", "nsenter"];

/// Names under which `kmod` and `mke2fs` act.
const ALIASES: &[(&str, &str)] = &[
    ("modprobe", "kmod"),
    ("insmod", "kmod"),
    ("lsmod", "kmod"),
    ("rmmod", "kmod"),
    ("mkfs.ext4", "mke2fs"),
];

/// What the root disk is reached through.
const BOOT_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "ext4"];

fn guest_script(name: &str) -> PathBuf {
    cargo::workspace_root().join("tests/e2e/vm").join(name)
}

/// The initrd for a kernel, rebuilt when the script in it changed.
pub fn initrd(kernel: &Files, cache: &Path) -> Result<PathBuf> {
    let image = cache.join(kernel.version).join("initrd.cpio");
    let (script, busybox) = (guest_script("initrd-init"), tool("busybox")?);
    let inputs = [script.clone(), busybox.clone(), kernel.vmlinux.clone()];
    build_if_changed(&image, &inputs, |image| {
        let stage = Stage::new(image)?;
        for dir in ["bin", "modules", "proc", "sys", "dev", "newroot"] {
            stage.dir(dir)?;
        }
        stage.copy(&busybox, "bin/busybox")?;
        stage.copy(&script, "init")?;
        for (i, module) in module_files(kernel)?.iter().enumerate() {
            let name = module.file_name().context("a module without a name")?.to_string_lossy();
            // The order of the names is the order of loading.
            stage.copy(module, &format!("modules/{i:02}-{name}"))?;
        }
        pack_cpio(&stage.path, image)
    })?;
    Ok(image)
}

/// The boot modules and what they need, in load order.
fn module_files(kernel: &Files) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in BOOT_MODULES {
        let text = process::text(
            process::command("modprobe")
                .args(["--show-depends", "--ignore-install", "-S", &kernel.release, "-d"])
                .arg(&kernel.modules_root)
                .arg(module),
        )?;
        for file in text.lines().filter_map(|line| line.trim().strip_prefix("insmod ")) {
            let file = PathBuf::from(file.split_whitespace().next().unwrap_or(file));
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// The root disk for a kernel, rebuilt when the script or a tool in it changed.
pub fn root(kernel: &Files, cache: &Path) -> Result<PathBuf> {
    let image = cache.join(kernel.version).join("root.img");
    let script = guest_script("vm-init");
    let busybox = tool("busybox")?;
    let mut tools = TOOLS.iter().map(|name| tool(name)).collect::<Result<Vec<_>>>()?;
    tools.extend(MORE_TOOLS.iter().filter_map(|name| process::find_program(name)));
    let mut inputs = tools.clone();
    inputs.extend([script.clone(), busybox.clone(), kernel.vmlinux.clone()]);
    build_if_changed(&image, &inputs, |image| {
        let stage = Stage::new(image)?;
        root_tree(&stage, kernel, &script, &busybox, &tools)?;
        make_ext4(image, "2G", Some(&stage.path))
    })?;
    Ok(image)
}

fn root_tree(
    stage: &Stage,
    kernel: &Files,
    script: &Path,
    busybox: &Path,
    tools: &[PathBuf],
) -> Result<()> {
    const DIRS: &[&str] = &[
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "mnt",
        "etc",
        "root",
        "payload",
        "scratch",
        "var/lib",
        "var/log",
        "var/tmp",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
    ];
    for dir in DIRS {
        stage.dir(dir)?;
    }
    for dir in ["bin", "sbin", "lib", "lib64"] {
        stage.link(&format!("usr/{dir}"), dir)?;
    }
    stage.link("/proc/self/mounts", "etc/mtab")?;
    for (file, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
    ] {
        stage.write(file, text)?;
    }
    stage.copy(script, "usr/sbin/vm-init")?;

    let mut libraries = BTreeSet::new();
    for tool in tools {
        let name = tool.file_name().context("a tool without a name")?.to_string_lossy();
        stage.copy(tool, &format!("usr/sbin/{name}"))?;
        libraries.extend(libraries_of(tool));
    }
    for library in &libraries {
        // The loader finds them where it found them here.
        stage.copy(library, library.to_string_lossy().trim_start_matches('/'))?;
    }
    for (alias, program) in ALIASES {
        stage.link(program, &format!("usr/sbin/{alias}"))?;
    }
    stage.copy(busybox, "usr/bin/busybox")?;
    for applet in process::text(process::command(busybox).arg("--list"))?.lines() {
        // A full tool goes before busybox's small one.
        if !stage.path.join("usr/sbin").join(applet).is_symlink()
            && !stage.path.join("usr/sbin").join(applet).exists()
            && applet != "busybox"
        {
            stage.link("busybox", &format!("usr/bin/{applet}"))?;
        }
    }
    let modules = kernel.modules_root.join("lib/modules");
    process::run(process::command("cp").arg("-a").arg(&modules).arg(stage.path.join("usr/lib")))
}

/// The shared libraries (and the loader) that a program names, as paths; a static
/// one names none.
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let text = process::text(process::command("ldd").arg(program)).unwrap_or_default();
    parse_ldd(&text)
}

fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// What one run carries: test programs, the product's programs and the plan.
#[derive(Debug)]
pub struct Payload {
    stage: Stage,
    plan: String,
    /// Lines of a shell script.
    variables: String,
}

impl Payload {
    pub fn new(work: &Path) -> Result<Payload> {
        let stage = Stage::new(&work.join("payload.img"))?;
        stage.dir("bin")?;
        stage.dir("tests")?;
        stage.copy(&guest_script("run-tests"), "run-tests")?;
        Ok(Payload { stage, plan: String::new(), variables: String::new() })
    }

    /// A program that tests start, from `TENANTRY_BIN_DIR` or by its path on the host.
    pub fn add_program(&mut self, file: &Path) -> Result<()> {
        let directory = file.parent().context("a program without a folder")?;
        self.stage.write("host-bin-dir", &format!("{}\n", directory.display()))?;
        let name = file.file_name().context("a program without a name")?.to_string_lossy();
        self.stage.copy(file, &format!("bin/{name}"))
    }

    /// A test program: one test at a time, each one's output shown.
    pub fn add_test(
        &mut self,
        id: &str,
        file: &Path,
        limit_s: u64,
        arguments: &[&str],
    ) -> Result<()> {
        let arguments = [&["--test-threads=1", "--show-output"], arguments].concat();
        self.add_test_with(id, file, limit_s, &arguments)
    }

    /// Any static program. Arguments are single words.
    pub fn add_test_with(
        &mut self,
        id: &str,
        file: &Path,
        limit_s: u64,
        args: &[&str],
    ) -> Result<()> {
        if args.iter().any(|arg| arg.contains(char::is_whitespace)) {
            bail!("arguments with spaces cannot be handed to the guest");
        }
        self.stage.copy(file, &format!("tests/{id}"))?;
        self.plan += &format!("{id} {limit_s} {}\n", args.join(" "));
        Ok(())
    }

    /// A variable of the programs' environment.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.variables += &assignment(name, value)?;
        Ok(())
    }

    /// Writes the disk and hands back its file.
    pub fn build(&self, work: &Path) -> Result<PathBuf> {
        self.stage.write("plan", &self.plan)?;
        self.stage.write("environment", &self.variables)?;
        let image = work.join("payload.img");
        let bytes = size_of_tree(&self.stage.path)?;
        make_ext4(
            &image,
            &format!("{}M", bytes / (1 << 20) * 11 / 10 + 16),
            Some(&self.stage.path),
        )?;
        Ok(image)
    }
}

/// A line that the guest's shell reads, of a value in which nothing means anything to it.
fn assignment(name: &str, value: &str) -> Result<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.,".contains(c);
    if !value.chars().all(is_plain) {
        bail!("{name}: {value:?} cannot be handed to the guest; letters, digits, - _ . , can");
    }
    Ok(format!("export {name}={value}\n"))
}

/// An empty disk for what the tests write.
pub fn scratch(work: &Path) -> Result<PathBuf> {
    let image = work.join("scratch.img");
    make_ext4(&image, "2G", None)?;
    Ok(image)
}

fn tool(name: &str) -> Result<PathBuf> {
    process::find_program(name).with_context(|| format!("{name} is not installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guests_shell_would_read_otherwise_is_refused() {
        assert_eq!(assignment("NAMES", "T4-10,T4-25").unwrap(), "export NAMES=T4-10,T4-25\n");
        for value in ["T1 T2", "$HOME", "a;b", "'", "a\nb"] {
            let error = assignment("NAMES", value).unwrap_err().to_string();
            assert!(error.contains("NAMES") && error.contains("letters"), "{error}");
        }
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x7ffe)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let expected: Vec<PathBuf> =
            vec!["/lib/x86_64-linux-gnu/libm.so.6".into(), "/lib64/ld-linux-x86-64.so.2".into()];
        assert_eq!(parse_ldd(text), expected);
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }
}
