//! Compiles the objects' sources in `bpf/` with clang and hashes them.
//!
//! Nothing of the build machine's kernel goes in: types are CO-RE, so the same
//! object loads on every kernel with BTF.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const PACKAGES: &str = "the packages clang, libbpf-dev and linux-libc-dev (Debian, Ubuntu: \
                        apt-get install clang libbpf-dev linux-libc-dev)";

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let (define, multiarch) = match architecture.as_str() {
        "x86_64" => ("-D__TARGET_ARCH_x86", "x86_64-linux-gnu"),
        other => fail(&format!("the kernel programs know x86_64 only, not {other}")),
    };
    for object in ["meters", "trampoline", "floor"] {
        let source = Path::new("bpf").join(format!("{object}.bpf.c"));
        let target = out.join(format!("{object}.bpf.o"));
        compile(&source, &target, define, multiarch);
        let bytes = fs::read(&target).expect("clang has just written the object");
        println!("cargo::rustc-env=TENANTRY_{}_HASH={}", object.to_uppercase(), fnv1a(&bytes));
    }
}

fn compile(source: &Path, target: &Path, define: &str, multiarch: &str) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let result = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // The macros that name a program's arguments leave some unused.
        .args(["-Wno-unused-parameter", define])
        .arg(format!("-I/usr/include/{multiarch}"))
        // The debug information would otherwise name this machine's folders.
        .arg("-fdebug-compilation-dir=.")
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(target)
        .output();
    let output = match result {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fail(&format!("`{clang}` not found: the kernel programs need {PACKAGES}"))
        }
        Err(error) => fail(&format!("`{clang}` did not start: {error}")),
    };
    if output.status.success() {
        return;
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    if messages.contains("file not found") {
        fail(&format!("a header is missing: the kernel programs need {PACKAGES}\n{messages}"));
    }
    fail(&format!("clang rejected {}:\n{messages}", source.display()));
}

/// Names an object's content, so that a running one is known again. Not for security.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    std::process::exit(1)
}
