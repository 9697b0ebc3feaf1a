//! A real Prometheus for one test: Debian's binary, our configuration, a port of its own.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Prometheus {
    /// Starts Prometheus with `dashboards/prometheus/scrape.yml`, changed in two things: it
    /// scrapes `target`, and every second. `None` if it is not installed.
    pub fn start(dashboards: &Path, target: SocketAddr) -> Result<Option<Prometheus>> {
        let folder = tempfile::tempdir()?;
        for file in ["scrape.yml", "recording.yml", "alerts.yml"] {
            let source = dashboards.join("prometheus").join(file);
            let text = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
            let text = if file == "scrape.yml" {
                ensure!(text.contains("127.0.0.1:9778") && text.contains("interval: 15s"));
                text.replace("127.0.0.1:9778", &target.to_string())
                    .replace("interval: 15s", "interval: 1s")
            } else {
                text
            };
            fs::write(folder.path().join(file), text)?;
        }
        // Another program may take the port before Prometheus does: it then ends, and
        // `wait_until_ready` says what it printed.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = fs::File::create(folder.path().join("log"))?;
        let started = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("scrape.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let process = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.context("prometheus cannot be started")?,
        };
        let mut prometheus = Prometheus { process, address, folder };
        prometheus.wait_until_ready()?;
        Ok(Some(prometheus))
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok((200, _)) = get(self.address, "/-/ready") {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("prometheus ended with {status}: {}", self.log());
            }
            ensure!(Instant::now() < deadline, "prometheus is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The samples of an instant query that are numbers: a quantile of nothing is NaN, and
    /// NaN is not data.
    pub fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        let answer = self.api(&format!("/api/v1/query?query={}", percent_encode(expression)))?;
        let result = answer["result"].as_array().context("a query answers with a list")?;
        // A scalar is one pair `[time, value]`, a vector a list of series.
        if answer["resultType"] == "scalar" {
            return Ok(number(&answer["result"]).map(|n| (Value::Null, n)).into_iter().collect());
        }
        Ok(result
            .iter()
            .filter_map(|series| Some((series["metric"].clone(), number(&series["value"])?)))
            .collect())
    }

    /// The data of an API answer.
    pub fn api(&self, path: &str) -> Result<Value> {
        let (status, body) = get(self.address, path)?;
        let mut answer: Value = serde_json::from_str(&body)
            .with_context(|| format!("{path} answered {status}: {body}"))?;
        ensure!(answer["status"] == "success", "{path} answered {status}: {body}");
        Ok(answer["data"].take())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself, and then both fail, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The number in Prometheus's `[time, "value"]`.
fn number(pair: &Value) -> Option<f64> {
    pair[1].as_str()?.parse().ok().filter(|number: &f64| !number.is_nan())
}

/// Status and body of a GET. HTTP/1.0, so that the body ends with the connection and is
/// not chunked.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    get_accepting(address, path, "*/*").map(|(status, _, body)| (status, body))
}

/// As [`get`], with an `Accept` header, and with the answer's header.
pub fn get_accepting(
    address: SocketAddr,
    path: &str,
    accept: &str,
) -> Result<(u16, String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (header, body) = answer.split_once("\r\n\r\n").context("an answer has a header")?;
    let status = header.split(' ').nth(1).context("an answer has a status")?.parse()?;
    Ok((status, header.to_owned(), body.to_owned()))
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
