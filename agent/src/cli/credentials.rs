//! Docker's `config.json`: who we are at which registry, or which program knows.
//!
//! Owns reading it and the entries that `login` and `logout` change; every other key stays as it
//! is. The agent never sees the file: what it needs goes with each request.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Docker Hub's key in the file, for history's sake.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// How a helper says that a name stands for a token.
const TOKEN_USER: &str = "<token>";

#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    content: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The registry that an image's name begins with, as the file has it.
pub fn server_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => key_of(first),
        _ => HUB_KEY,
    }
}

/// The key of a registry that somebody typed.
pub fn key_of(server: &str) -> &str {
    let host = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB_KEY,
        host => host,
    }
}

impl ConfigFile {
    /// `$DOCKER_CONFIG/config.json`, or the one in the home directory. Empty if it is not there.
    pub fn read() -> anyhow::Result<Self> {
        let directory = match std::env::var_os("DOCKER_CONFIG") {
            Some(directory) => PathBuf::from(directory),
            None => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
                .join(".docker"),
        };
        Self::read_from(&directory.join("config.json"))
    }

    fn read_from(path: &Path) -> anyhow::Result<Self> {
        let content = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is no JSON object", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        Ok(Self { path: path.to_owned(), content })
    }

    /// For a request about this image. `None`: as nobody.
    pub fn for_image(&self, image: &str) -> anyhow::Result<Option<DockerCredentials>> {
        self.credentials(server_of(image))
    }

    fn credentials(&self, key: &str) -> anyhow::Result<Option<DockerCredentials>> {
        if let Some(helper) = self.helper(key) {
            return ask_helper(helper, key);
        }
        let Some(entry) = self.content.get("auths").and_then(|auths| auths.get(key)) else {
            return Ok(None);
        };
        let text =
            |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let mut found = DockerCredentials {
            identitytoken: text("identitytoken").map(str::to_owned),
            registrytoken: text("registrytoken").map(str::to_owned),
            serveraddress: Some(key.to_owned()),
            ..DockerCredentials::default()
        };
        if let Some(auth) = text("auth") {
            let wrong = || {
                format!(
                    "{}: auths of {key}: auth is no base64 of NAME:PASSWORD",
                    self.path.display()
                )
            };
            let decoded =
                STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let decoded = decoded.with_context(wrong)?;
            let (username, password) = decoded.split_once(':').with_context(wrong)?;
            found.username = Some(username.to_owned());
            // Docker once wrote passwords with a zero behind them.
            found.password = Some(password.trim_end_matches('\0').to_owned());
        }
        let is_empty = found.username.is_none()
            && found.identitytoken.is_none()
            && found.registrytoken.is_none();
        Ok((!is_empty).then_some(found))
    }

    fn helper(&self, key: &str) -> Option<&str> {
        let of_server = self.content.get("credHelpers").and_then(|helpers| helpers.get(key));
        of_server
            .or_else(|| self.content.get("credsStore"))?
            .as_str()
            .filter(|name| !name.is_empty())
    }

    /// Keeps a password, by the helper if there is one.
    pub fn store(&mut self, key: &str, username: &str, password: &str) -> anyhow::Result<()> {
        if let Some(helper) = self.helper(key) {
            let secret = json!({ "ServerURL": key, "Username": username, "Secret": password });
            return run_helper(helper, "store", &secret.to_string()).map(drop);
        }
        let auth = STANDARD.encode(format!("{username}:{password}"));
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        let auths = auths.as_object_mut().context("auths is no object")?;
        auths.insert(key.to_owned(), json!({ "auth": auth }));
        self.write()
    }

    /// Whether there was anything to forget.
    pub fn erase(&mut self, key: &str) -> anyhow::Result<bool> {
        if let Some(helper) = self.helper(key) {
            return run_helper(helper, "erase", key).map(|_| true);
        }
        let auths = self.content.get_mut("auths").and_then(Value::as_object_mut);
        if auths.and_then(|auths| auths.remove(key)).is_none() {
            return Ok(false);
        }
        self.write().map(|()| true)
    }

    /// Replaced whole, and readable by its owner alone.
    fn write(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let directory = self.path.parent().context("a directory")?;
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let temporary = self.path.with_extension(format!("json.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(&self.content)?;
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&temporary, &self.path));
        written.with_context(|| self.path.display().to_string())
    }
}

fn ask_helper(helper: &str, key: &str) -> anyhow::Result<Option<DockerCredentials>> {
    let Some(answer) = run_helper(helper, "get", key)? else { return Ok(None) };
    let answer: HelperAnswer = serde_json::from_str(&answer)
        .with_context(|| format!("docker-credential-{helper} gave no credentials"))?;
    let mut found = DockerCredentials { serveraddress: Some(key.to_owned()), ..Default::default() };
    if answer.username == TOKEN_USER {
        found.identitytoken = Some(answer.secret);
    } else {
        (found.username, found.password) = (Some(answer.username), Some(answer.secret));
    }
    Ok(Some(found))
}

/// What the helper says; `None` if it knows nothing of what it is asked for.
fn run_helper(helper: &str, verb: &str, input: &str) -> anyhow::Result<Option<String>> {
    let program = format!("docker-credential-{helper}");
    if !helper.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        bail!("{program:?} is no credential helper's name");
    }
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // A helper that does not want to read says why by its exit status.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(Some(said));
    }
    if said.contains("credentials not found") {
        return Ok(None);
    }
    bail!("{program} {verb}: {}: {}", output.status, said.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: Value) -> (tempfile::TempDir, ConfigFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, content.to_string()).unwrap();
        let file = ConfigFile::read_from(&path).unwrap();
        (directory, file)
    }

    #[test]
    fn a_registry_has_one_key_however_it_is_typed() {
        let image = |name, expected| assert_eq!(server_of(name), expected, "{name}");
        image("demo", HUB_KEY);
        image("jane/demo:v1", HUB_KEY);
        image("docker.io/jane/demo", HUB_KEY);
        image("localhost/demo", "localhost");
        image("127.0.0.1:5000/demo@sha256:0", "127.0.0.1:5000");
        let typed = |text, expected| assert_eq!(key_of(text), expected, "{text}");
        typed("https://registry.example.org/v2/", "registry.example.org");
        typed("docker.io", HUB_KEY);
        typed("", HUB_KEY);
    }

    #[test]
    fn what_docker_wrote_is_read() {
        let (_directory, file) = file(json!({ "auths": {
            "r:5000": { "auth": STANDARD.encode("jane:se:cret") },
            "t:5000": { "auth": STANDARD.encode("jane:"), "identitytoken": "t" },
            "empty": {},
        }}));
        let found = file.for_image("r:5000/demo").unwrap().unwrap();
        assert_eq!(
            (found.username.as_deref(), found.password.as_deref()),
            (Some("jane"), Some("se:cret"))
        );
        let found = file.for_image("t:5000/demo").unwrap().unwrap();
        assert_eq!(found.identitytoken.as_deref(), Some("t"));
        assert!(file.credentials("empty").unwrap().is_none());
        assert!(file.for_image("demo").unwrap().is_none());
    }

    #[test]
    fn login_and_logout_leave_everything_else_as_it_is() {
        let (_directory, mut file) =
            file(json!({ "psFormat": "x", "auths": { "other": { "auth": "eDp5" } } }));
        file.store("r:5000", "jane", "secret").unwrap();
        let mut file = ConfigFile::read_from(&file.path).unwrap();
        let found = file.credentials("r:5000").unwrap().unwrap();
        assert_eq!(found.password.as_deref(), Some("secret"));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file.path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        assert!(file.erase("r:5000").unwrap());
        assert!(!file.erase("r:5000").unwrap());
        let file = ConfigFile::read_from(&file.path).unwrap();
        let expected = json!({ "psFormat": "x", "auths": { "other": { "auth": "eDp5" } } });
        assert_eq!(Value::from(file.content.clone()), expected);
    }

    #[test]
    fn a_damaged_file_or_a_strange_helper_is_an_error() {
        let (_directory, file) = file(json!({
            "credHelpers": { "r": "../../bin/sh", "s": "surely-not-installed" },
            "auths": { "bad": { "auth": "!!" }, "short": { "auth": "eA==" } },
        }));
        for (key, expected) in [
            ("r", "no credential helper's name"),
            ("s", "cannot run docker-credential-surely-not-installed"),
            ("bad", "no base64 of NAME:PASSWORD"),
            ("short", "no base64 of NAME:PASSWORD"),
        ] {
            let error = format!("{:#}", file.credentials(key).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
