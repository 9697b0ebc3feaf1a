//! Images beside peers, against the real registry on loopback: pull and unpack of 200 MB in ten
//! layers, a second image that shares nine of them, a build of twelve steps, cold and cached, and
//! what containers of one image take on the disk.
//!
//! The peers start no daemon; Buildah runs its steps in a chroot, without cgroups or network.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::image;
use tenantry_e2e::registry::{Options, TestRegistry};

use crate::spread::Spread;

const CONTAINERS: u32 = 200;
const ROUNDS: usize = 5;
const LAYERS: u64 = 10;
const FILES_PER_LAYER: u64 = 400;
const FILE_BYTES: usize = 50_000;
/// A build step of each kind, over the base image `BASE`.
const DOCKERFILE: &str = "FROM BASE
ENV PLACE=/srv/app
WORKDIR /srv/app
COPY one.txt .
COPY tree tree
RUN echo a > a && mkdir -p deep/er
RUN cp -r tree copy
RUN rm -r copy/b && ln -s a link
LABEL purpose=bench
RUN date +%s > stamp
EXPOSE 80
CMD [\"/bin/cat\", \"stamp\"]
";

pub fn run() -> Result<()> {
    // All slots but a few for ours.
    let agent = TestAgent::try_start_with("max_containers = 250\n[foreign]\nmax = 5\n")?;
    let registry = TestRegistry::start(&agent.scratch.join("registry"), Options::default())?;
    // Of its own: what it built stays in its store as long as its cache does.
    let maker = TestAgent::try_start()?;
    let base = fill(&maker, &registry)?;
    maker.finish();
    pulls(&agent, &registry)?;
    builds(&agent, &base)?;
    disk(&agent)?;
    drop(registry);
    // Podman and Buildah mount their store upon itself and leave it so.
    for root in ["podman/root/overlay", "buildah/root/overlay"] {
        let _ =
            rustix::mount::unmount(agent.scratch.join(root), rustix::mount::UnmountFlags::DETACH);
    }
    agent.finish();
    Ok(())
}

/// Builds and pushes what is pulled: `big`, `sibling`, and the builds' base image, whose name it
/// returns.
fn fill(agent: &TestAgent, registry: &TestRegistry) -> Result<String> {
    let context = agent.scratch.join("context");
    let mut seed = 1;
    let mut dockerfile = String::from("FROM scratch\n");
    for layer in 0..=LAYERS {
        let directory = context.join(format!("l{layer}"));
        fs::create_dir_all(&directory)?;
        for file in 0..FILES_PER_LAYER {
            fs::write(directory.join(format!("f{file}")), text(&mut seed))?;
        }
        if layer < LAYERS {
            dockerfile += &format!("COPY l{layer} /l{layer}\n");
        }
    }
    let sibling = dockerfile.replace("COPY l9 /l9", "COPY l10 /l10");
    for (name, dockerfile) in [("big", dockerfile), ("sibling", sibling)] {
        fs::write(context.join("Dockerfile"), dockerfile)?;
        let name = registry.name(name);
        agent.run(&["build", "-q", "-t", &name, &context.display().to_string()])?;
        agent.run(&["image", "push", &name])?;
    }
    let base = registry.name("base");
    let rootfs = agent.scratch.join("base.tar");
    image::write_rootfs(&rootfs)?;
    let change = "CMD [\"/bin/sh\"]";
    agent.run(&["image", "import", &base, &rootfs.display().to_string(), "--change", change])?;
    agent.run(&["image", "push", &base])?;
    fs::remove_dir_all(context)?;
    Ok(base)
}

/// Hexadecimal digits: what gzip halves, as it does programs.
fn text(seed: &mut u64) -> Vec<u8> {
    let mut content = Vec::with_capacity(FILE_BYTES + 16);
    while content.len() < FILE_BYTES {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        content.extend_from_slice(format!("{seed:016x}").as_bytes());
    }
    content
}

fn pulls(agent: &TestAgent, registry: &TestRegistry) -> Result<()> {
    println!("pull and unpack, ms (median [quartiles] of {ROUNDS}, in turns)");
    let (big, sibling) = (registry.name("big"), registry.name("sibling"));
    let podman = Podman::new("podman", &agent.scratch)?;
    let oci = agent.scratch.join("oci");
    let bundle = agent.scratch.join("unpacked");
    let plain = agent.scratch.join("plain");
    let blobs = compressed_layers(&big, &agent.scratch.join("blobs"))?;
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(timed(|| agent.run(&["image", "pull", &big]).map(drop))?);
        times[1].push(timed(|| agent.run(&["image", "pull", &sibling]).map(drop))?);
        agent.run(&["image", "rm", &big, &sibling])?;
        times[2].push(timed(|| {
            let layout = format!("oci:{}:big", oci.display());
            call(
                Command::new("skopeo")
                    .args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"])
                    .args([format!("docker://{big}"), layout]),
            )?;
            call(
                Command::new("umoci")
                    .args(["raw", "unpack", "--image"])
                    .arg(format!("{}:big", oci.display()))
                    .arg(&bundle),
            )
        })?);
        fs::remove_dir_all(&oci)?;
        fs::remove_dir_all(&bundle)?;
        times[3].push(timed(|| {
            call(podman.command().args(["pull", "-q", "--tls-verify=false", &big]))
        })?);
        call(podman.command().args(["rmi", "-f", &big]))?;
        times[4].push(timed(|| unpack(&blobs, &plain))?);
        fs::remove_dir_all(&plain)?;
    }
    let names = [
        "tenantry: ten layers, 200 MB",
        "tenantry: a second image that shares nine",
        "skopeo copy, umoci raw unpack",
        "podman pull",
        "gzip -d | tar -x, one after the other, then sync",
    ];
    report(&names, &times)
}

/// The layers as the registry has them.
fn compressed_layers(name: &str, directory: &Path) -> Result<Vec<PathBuf>> {
    call(
        Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy", "--src-tls-verify=false"])
            .args([format!("docker://{name}"), format!("dir:{}", directory.display())]),
    )?;
    let files = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let files = files.collect::<Result<Vec<_>>>()?;
    let is_layer = |path: &PathBuf| path.metadata().is_ok_and(|data| data.len() > 1 << 20);
    Ok(files.into_iter().filter(is_layer).collect())
}

fn unpack(blobs: &[PathBuf], into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    for blob in blobs {
        call(Command::new("tar").arg("-xzf").arg(blob).arg("-C").arg(into))?;
    }
    call(Command::new("sync").arg("-f").arg(into))
}

fn builds(agent: &TestAgent, base: &str) -> Result<()> {
    println!("build of twelve steps, ms (median [quartiles] of {ROUNDS}, in turns)");
    let context = agent.scratch.join("build");
    fs::create_dir_all(context.join("tree/b"))?;
    fs::write(context.join("one.txt"), "one")?;
    fs::write(context.join("tree/a"), "a")?;
    fs::write(context.join("tree/b/c"), "c")?;
    let dockerfile = DOCKERFILE.replace("BASE", base);
    fs::File::create(context.join("Dockerfile"))?.write_all(dockerfile.as_bytes())?;
    let path = context.display().to_string();
    let buildah = Podman::new("buildah", &agent.scratch)?;
    let bud = |flags: &[&str]| {
        call(
            buildah
                .command()
                .args(["bud", "-q", "--isolation", "chroot", "--tls-verify=false", "--layers"])
                .args(flags)
                .args(["-t", "built", &path]),
        )
    };
    bud(&[])?;
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let ours = |flags: &[&str]| {
            agent.run(&[&["build", "-q", "-t", "built"][..], flags, &[&path]].concat()).map(drop)
        };
        times[0].push(timed(|| ours(&["--no-cache"]))?);
        times[1].push(timed(|| ours(&[]))?);
        times[2].push(timed(|| bud(&["--no-cache"]))?);
        times[3].push(timed(|| bud(&[]))?);
    }
    let names = ["tenantry, cold", "tenantry, cached", "buildah bud, cold", "buildah bud, cached"];
    report(&names, &times)
}

/// As `du` counts it, so what is shared counts once.
fn disk(agent: &TestAgent) -> Result<()> {
    let one = used(&agent.data_dir())?;
    for number in 0..CONTAINERS {
        agent.run_detached(&format!("same{number}"), &[], &["sleep", "1000"])?;
    }
    let all = used(&agent.data_dir())?;
    println!("the data directory, KiB: images {one}, with {CONTAINERS} containers of one {all}");
    Ok(())
}

fn used(directory: &Path) -> Result<u64> {
    let output = Command::new("du").args(["-sk", "--one-file-system"]).arg(directory).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let size = text.split_whitespace().next().context("du printed nothing")?;
    size.parse().with_context(|| text.clone())
}

fn report<const N: usize>(names: &[&str; N], times: &[Vec<f64>; N]) -> Result<()> {
    let median = |times: &Vec<f64>| Spread::of(times).map(|spread| spread.median);
    let ours = median(&times[0]).context("no rounds")?;
    for (name, times) in names.iter().zip(times) {
        let spread = Spread::of(times).context("no rounds")?;
        println!("  {name:50} {spread:.0}   the first is × {:.2} of it", ours / spread.median);
    }
    Ok(())
}

/// Podman or Buildah, with a store of the benchmark's own.
struct Podman {
    program: &'static str,
    root: PathBuf,
    run: PathBuf,
}

impl Podman {
    fn new(program: &'static str, scratch: &Path) -> Result<Self> {
        let (root, run) = (scratch.join(program).join("root"), scratch.join(program).join("run"));
        fs::create_dir_all(&root)?;
        fs::create_dir_all(&run)?;
        Ok(Self { program, root, run })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(["--storage-driver", "overlay", "--root"]).arg(&self.root);
        command.arg("--runroot").arg(&self.run);
        command
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn call(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}: is it installed?"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {error}");
    Ok(())
}
