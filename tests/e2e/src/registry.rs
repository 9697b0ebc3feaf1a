//! Debian's `docker-registry` on a port of the test's own, and images made by hand for it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::hostile_registry::{self, INDEX, MANIFEST, Parts};
use crate::patience;

/// What the certificate knows the registry by, beside this host's own addresses.
pub const NAME: &str = "registry.test";
pub const USER: &str = "jane";
pub const PASSWORD: &str = "s3cret?>";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// With a certificate that [`TestRegistry::authority`] signed.
    pub tls: bool,
    /// From when to when that certificate is valid, as openssl writes it (`20240131120000Z`).
    pub validity: Option<(&'static str, &'static str)>,
    /// [`USER`] with [`PASSWORD`] and nobody else.
    pub password: bool,
}

#[derive(Debug)]
pub struct TestRegistry {
    pub address: SocketAddr,
    directory: PathBuf,
    child: Child,
}

/// Whether the registry and the independent client are installed.
pub fn obstacle() -> Option<String> {
    let missing = ["docker-registry", "skopeo", "docker", "openssl", "htpasswd"]
        .into_iter()
        .filter(|program| Command::new(program).arg("--version").output().is_err());
    let missing: Vec<&str> = missing.collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

impl TestRegistry {
    /// Its files are below `directory`, which is created.
    pub fn start(directory: &Path, options: Options) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
            directory.join("storage").display()
        );
        if options.tls {
            make_certificates(directory, options.validity)?;
            config += &format!(
                "  tls:\n    certificate: {0}/server.crt\n    key: {0}/server.key\n",
                directory.display()
            );
        }
        if options.password {
            let entry = run(Command::new("htpasswd").args(["-nbB", USER, PASSWORD]))?;
            fs::write(directory.join("htpasswd"), entry)?;
            let path = directory.join("htpasswd");
            config +=
                &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display());
        }
        fs::write(directory.join("config.yml"), config)?;
        let log = fs::File::create(directory.join("registry.log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(directory.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry")?;
        let registry = Self { address, directory: directory.to_path_buf(), child };
        let deadline = std::time::Instant::now() + patience(20);
        while std::net::TcpStream::connect(address).is_err() {
            ensure!(std::time::Instant::now() < deadline, "not ready:\n{}", registry.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(registry)
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The certificate that signed the registry's own.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("registry.log")).unwrap_or_default()
    }

    /// How many requests of this kind it has been sent, by its own log: `GET /v2/demo/blobs/`.
    pub fn requests(&self, beginning: &str) -> usize {
        let quoted = format!("\"{beginning}");
        self.log().lines().filter(|line| line.contains(&quoted)).count()
    }

    /// skopeo's view of an image, by its JSON.
    pub fn skopeo_inspect(&self, name: &str, flags: &[&str]) -> Result<Value> {
        let mut command = Command::new("skopeo");
        command.args(["inspect", "--tls-verify=false"]).args(flags);
        let text = run(command.arg(format!("docker://{}", self.name(name))))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Brings an archive there, by skopeo.
    pub fn skopeo_push(&self, archive: &Path, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        command.arg(format!("docker-archive:{}", archive.display()));
        run(command.arg(format!("docker://{}", self.name(name)))).map(drop)
    }

    /// Fetches an image into a directory, by skopeo, which checks all digests.
    pub fn skopeo_pull(&self, name: &str, directory: &Path) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"]);
        command.arg(format!("docker://{}", self.name(name)));
        run(command.arg(format!("dir:{}", directory.display()))).map(drop)
    }

    /// Brings an OCI layout with all its platforms there, by skopeo.
    pub fn skopeo_push_all(&self, layout: &Path, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--all", "--preserve-digests", "--quiet", "--insecure-policy"]);
        command.arg("--dest-tls-verify=false");
        command.arg(format!("oci:{}:multi", layout.display()));
        run(command.arg(format!("docker://{}", self.name(name)))).map(drop)
    }

    /// It is gone in the middle of whatever it does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A `docker save` archive of one image: a root filesystem's tar, then layers of one file
/// `/layers/NAME` each, with that content.
pub fn write_archive(path: &Path, rootfs: &Path, layers: &[(&str, &[u8])]) -> Result<()> {
    let root = path.with_extension("parts");
    fs::create_dir_all(&root)?;
    fs::copy(rootfs, root.join("0.tar"))?;
    let mut tars = vec!["0.tar".to_owned()];
    for (at, (name, content)) in layers.iter().enumerate() {
        let tree = root.join("tree");
        fs::create_dir_all(tree.join("layers"))?;
        fs::write(tree.join("layers").join(name), content)?;
        // The same content is the same layer, whenever it is made.
        let tar = format!("{}.tar", at + 1);
        let mut command = Command::new("tar");
        command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf"]);
        run(command.arg(root.join(&tar)).arg("-C").arg(&tree).arg("."))?;
        fs::remove_dir_all(&tree)?;
        tars.push(tar);
    }
    let diff_ids: Vec<String> =
        tars.iter().map(|tar| sha256(&root.join(tar))).collect::<Result<_>>()?;
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-31T12:00:00Z",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": tars.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
    });
    fs::write(root.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["test:made"], "Layers": tars }]);
    fs::write(root.join("manifest.json"), manifest.to_string())?;
    let mut command = Command::new("tar");
    run(command.arg("-cf").arg(path).arg("-C").arg(&root).arg("."))?;
    Ok(fs::remove_dir_all(&root)?)
}

/// An OCI layout whose index, named `multi`, has one image for each architecture, with the
/// environment variable `FOR`. Returns the index's digest.
pub fn write_index_layout(directory: &Path, architectures: &[&str]) -> Result<String> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let blob = |media_type: &str, content: &[u8]| {
        let digest = hostile_registry::digest(content)?;
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), content)?;
        Ok::<_, anyhow::Error>(json!({
            "mediaType": media_type, "digest": digest, "size": content.len(),
        }))
    };
    let mut entries = Vec::new();
    for architecture in architectures {
        let layer = Parts::make(architecture, 1000)?.layer;
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": { "Env": [format!("FOR={architecture}")] },
            "rootfs": { "type": "layers", "diff_ids": [hostile_registry::digest(&layer)?] },
        });
        let config =
            blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
        let layer = blob("application/vnd.oci.image.layer.v1.tar", &layer)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        let mut entry = blob(MANIFEST, manifest.to_string().as_bytes())?;
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        entries.push(entry);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let mut index = blob(INDEX, index.to_string().as_bytes())?;
    let digest = index["digest"].as_str().unwrap_or_default().to_owned();
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": "multi" });
    let root = json!({ "schemaVersion": 2, "manifests": [index] });
    fs::write(directory.join("index.json"), root.to_string())?;
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(digest)
}

/// `sha256:` and hex digits, by coreutils.
pub fn sha256(path: &Path) -> Result<String> {
    let text = run(Command::new("sha256sum").arg(path))?;
    Ok(format!("sha256:{}", text.split(' ').next().unwrap_or_default()))
}

/// An authority, and a certificate for 127.0.0.1, localhost and [`NAME`] that it signed.
fn make_certificates(directory: &Path, validity: Option<(&str, &str)>) -> Result<()> {
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl").current_dir(directory).args(arguments)).map(drop)
    };
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority"];
    openssl(&[&["req", "-x509", "-days", "30"][..], &new_key, &authority].concat())?;
    let server = ["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=registry"];
    openssl(&[&["req"][..], &new_key, &server].concat())?;
    // Only `ca` signs for a time of one's choice, and it wants books kept.
    let config = format!(
        "[ca]\ndefault_ca = books\n[books]\ndatabase = index.txt\nserial = serial\n\
         new_certs_dir = .\ndefault_md = sha256\ndefault_days = 30\npolicy = names\n\
         x509_extensions = alternatives\n[names]\ncommonName = supplied\n\
         [alternatives]\nsubjectAltName = IP:127.0.0.1,DNS:localhost,DNS:{NAME}\n"
    );
    for (name, content) in [("ca.cnf", config.as_str()), ("index.txt", ""), ("serial", "01\n")] {
        fs::write(directory.join(name), content)?;
    }
    let mut sign = vec!["ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.crt"];
    sign.extend(["-keyfile", "ca.key", "-in", "server.csr", "-out", "server.crt"]);
    if let Some((begin, end)) = validity {
        sign.extend(["-startdate", begin, "-enddate", end]);
    }
    openssl(&sign)
}

fn run(command: &mut Command) -> Result<String> {
    let output: Output = command.stdin(Stdio::null()).output().context("cannot be run")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Leaves a test that cannot run, and says why; the runner counts it as skipped.
#[macro_export]
macro_rules! skip_without_registry {
    () => {
        $crate::skip_unless_possible!();
        if let Some(why) = $crate::registry::obstacle() {
            println!("SKIPPED: {why}");
            return;
        }
    };
}
