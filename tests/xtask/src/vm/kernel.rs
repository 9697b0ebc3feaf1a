//! Gets a stock Debian kernel: downloaded, unpacked, never installed, and kept.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::process;

/// A kernel that the suite can boot.
#[derive(Debug)]
pub struct Kernel {
    /// What a person types.
    pub version: &'static str,
    /// Debian suite that carries it.
    suite: &'static str,
    /// Meta package; what it depends on moves with security updates.
    meta: &'static str,
    /// QEMU's processor when there is no hardware virtualisation.
    pub emulated_cpu: &'static str,
}

const KERNELS: &[Kernel] = &[
    Kernel {
        version: "6.1",
        suite: "bookworm",
        meta: "linux-image-cloud-amd64",
        emulated_cpu: "max",
    },
    Kernel {
        version: "6.12",
        suite: "bookworm-backports",
        meta: "linux-image-cloud-amd64",
        // With five-level paging and two processors it panics under emulation.
        emulated_cpu: "max,la57=off",
    },
    Kernel {
        version: "newest",
        suite: "trixie-backports",
        meta: "linux-image-cloud-amd64",
        emulated_cpu: "max,la57=off",
    },
];

pub fn find(version: &str) -> Result<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.version == version).with_context(|| {
        let known: Vec<&str> = KERNELS.iter().map(|kernel| kernel.version).collect();
        format!("no kernel {version} is known here, only {}", known.join(", "))
    })
}

/// An unpacked kernel.
#[derive(Debug)]
pub struct Files {
    pub version: &'static str,
    /// `uname -r`.
    pub release: String,
    /// Uncompressed, as QEMU boots it without firmware.
    pub vmlinux: PathBuf,
    /// A root with `lib/modules/RELEASE`, modules uncompressed, `depmod` done.
    pub modules_root: PathBuf,
}

/// The kernel from the cache, or downloaded and unpacked into it.
pub fn obtain(kernel: &Kernel, cache: &Path) -> Result<Files> {
    let place = cache.join(kernel.version);
    let stamp = place.join("release");
    let files = |release: String| Files {
        version: find(kernel.version).expect("a known kernel").version,
        vmlinux: place.join("vmlinux"),
        modules_root: place.join("root"),
        release,
    };
    if let Ok(release) = fs::read_to_string(&stamp) {
        return Ok(files(release));
    }
    println!("vm: getting Debian's kernel {}", kernel.version);
    fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
    let debs = apt::download_kernel(kernel.suite, kernel.meta, &place.join("apt"))?;
    let root = place.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    for deb in debs {
        process::run(process::command("dpkg-deb").arg("-x").arg(&deb).arg(&root))?;
    }
    // Newer packages put everything below usr.
    let merged = root.join("usr/lib");
    if merged.join("modules").exists() {
        fs::rename(&merged, root.join("lib")).context("moving the modules")?;
    }
    let release = only_entry(&root.join("lib/modules"))?;
    let own = root.join("lib/modules").join(&release).join("vmlinuz");
    let image =
        if own.exists() { own } else { root.join("boot").join(format!("vmlinuz-{release}")) };
    extract_vmlinux(&image, &place.join("vmlinux"))?;
    uncompress_modules(&root.join("lib/modules").join(&release))?;
    process::run(process::command("depmod").arg("-b").arg(&root).arg(&release))?;
    fs::remove_file(&image).context("removing the packed kernel")?;
    // Written last: without it the next run begins anew.
    fs::write(&stamp, &release).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(files(release))
}

fn only_entry(dir: &Path) -> Result<String> {
    let mut names = fs::read_dir(dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<String>>>()?;
    match (names.pop(), names.is_empty()) {
        (Some(name), true) => Ok(name),
        _ => bail!("{} should have exactly one entry", dir.display()),
    }
}

/// Takes the ELF kernel out of a bzImage: the setup header says where the packed
/// payload lies (Documentation/arch/x86/boot.rst, `payload_offset`).
fn extract_vmlinux(image: &Path, vmlinux: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let payload = payload(&bytes).context("the kernel image has no payload")?;
    let (program, args, packed): (&str, &[&str], &[u8]) = match payload {
        // Behind what the compressor wrote stands the unpacked length (not with gzip).
        [0xfd, b'7', b'z', ..] => ("xz", &["-dc", "--single-stream"], payload),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", &["-dc"], &payload[..payload.len() - 4]),
        [0x02, 0x21, 0x4c, 0x18, ..] => ("lz4", &["-dc"], &payload[..payload.len() - 4]),
        [0x1f, 0x8b, ..] => ("gzip", &["-dc"], payload),
        _ => bail!("{} is packed in a way not known here", image.display()),
    };
    let out =
        fs::File::create(vmlinux).with_context(|| format!("creating {}", vmlinux.display()))?;
    let mut child = process::command(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let written = child.stdin.take().context("no pipe to the unpacker")?.write_all(packed);
    let status = child.wait().with_context(|| format!("waiting for {program}"))?;
    // xz stops reading at the end of its stream.
    if let Err(e) = written
        && e.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(e).context("writing to the unpacker");
    }
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup_sectors + 1) * 512 + u32_at(0x248)? as usize;
    image.get(start..start.checked_add(u32_at(0x24c)? as usize)?)
}

/// Debian packs modules since 6.3; unpacked ones load faster under emulation.
fn uncompress_modules(dir: &Path) -> Result<()> {
    let list = process::text(process::command("find").arg(dir).args(["-name", "*.ko.xz"]))?;
    let files: Vec<&str> = list.lines().collect();
    for files in files.chunks(256) {
        process::run(process::command("xz").arg("-d").args(files))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_of_a_cut_image_is_none() {
        assert_eq!(payload(&[0; 0x24c]), None);
        let mut image = vec![0; 5 * 512 + 8];
        image[0x24c] = 8;
        assert_eq!(payload(&image).map(<[u8]>::len), Some(8));
        image[0x24c] = 9;
        assert_eq!(payload(&image), None);
    }
}
