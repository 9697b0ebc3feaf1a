//! A registry that lies, stalls and hangs up, as each test tells it to: HTTP by hand over plain
//! sockets, so that it can be as wrong as it likes.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lowercase.
    pub headers: HashMap<String, String>,
    /// As long as its head says.
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is answered; the connection ends with it.
#[derive(Clone, Debug)]
pub enum Reply {
    Whole {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// A head that promises `promised` bytes, and then only this.
    Cut {
        promised: usize,
        body: Vec<u8>,
    },
    /// The same, but the connection stays open.
    Stall {
        promised: usize,
        body: Vec<u8>,
    },
    /// Bytes without an end.
    Endless,
    /// Not a word.
    Silent,
    HangUp,
}

impl Reply {
    pub fn ok(media_type: &str, body: &[u8]) -> Reply {
        Reply::status(200, &[("Content-Type", media_type)], body)
    }

    pub fn status(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Reply::Whole { status, headers: headers.iter().map(owned).collect(), body: body.to_vec() }
    }
}

#[derive(Debug)]
pub struct HostileRegistry {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

impl HostileRegistry {
    /// On a free port of `host`. `answer` is told the request, and how many of the same method and
    /// path came before.
    pub fn start(
        host: &str,
        answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let address = listener.local_addr()?;
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let (answer, log, end) = (Arc::new(answer), Arc::clone(&requests), Arc::clone(&ended));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (answer, log, end) = (Arc::clone(&answer), Arc::clone(&log), Arc::clone(&end));
                let serve = move |stream: TcpStream| {
                    // Who hangs up on us has its reasons.
                    let _ = serve(stream, &*answer, &log, &end);
                };
                if let Ok(stream) = stream {
                    thread::spawn(move || serve(stream));
                }
            }
        });
        Ok(Self { address, requests, ended })
    }

    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no thread panicked").clone()
    }

    /// Those whose path holds `part`.
    pub fn requests_of(&self, part: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path.contains(part)).collect()
    }
}

impl Drop for HostileRegistry {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&Request, usize) -> Reply + Send + Sync),
    log: &Mutex<Vec<Request>>,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        // TLS is not spoken here.
        if stream.read(&mut byte)? == 0 || (head.is_empty() && byte[0] == 0x16) {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: HashMap<String, String> =
        headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let request = Request { method, path, headers, body };
    let before = {
        let mut log = log.lock().expect("no thread panicked");
        let same =
            |other: &&Request| (&other.method, &other.path) == (&request.method, &request.path);
        let before = log.iter().filter(same).count();
        log.push(request.clone());
        before
    };
    let promise = |stream: &mut TcpStream, bytes: usize, body: &[u8]| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n")?;
        stream.write_all(body)
    };
    let wait = || {
        while !ended.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
        }
    };
    match answer(&request, before) {
        Reply::Whole { status, headers, body } => {
            write!(stream, "HTTP/1.1 {status} Said\r\nConnection: close\r\n")?;
            for (name, value) in headers {
                write!(stream, "{name}: {value}\r\n")?;
            }
            write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
            if request.method != "HEAD" {
                stream.write_all(&body)?;
            }
        }
        Reply::Cut { promised, body } => promise(&mut stream, promised, &body)?,
        Reply::Stall { promised, body } => {
            promise(&mut stream, promised, &body)?;
            wait();
        }
        Reply::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            while !ended.load(Ordering::Relaxed) {
                stream.write_all(&[b' '; 64 << 10])?;
            }
        }
        Reply::Silent => wait(),
        Reply::HangUp => {}
    }
    Ok(())
}

/// An image whose parts are at hand.
#[derive(Clone, Debug)]
pub struct Parts {
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Parts {
    /// One plain layer with a file `/content` of so many bytes that begin with `text`.
    pub fn make(text: &str, bytes: usize) -> Result<Parts> {
        let directory = tempfile_in_scratch()?;
        let mut content = text.as_bytes().to_vec();
        // Nothing that compresses or that is a hole.
        content.extend(
            (0..bytes as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8),
        );
        content.truncate(bytes.max(text.len()));
        std::fs::write(directory.join("content"), content)?;
        let mut tar = Command::new("tar");
        tar.args(["--mtime=@0", "--owner=0", "--group=0", "-cf", "-", "-C"]);
        let output = tar.arg(&directory).arg("content").output().context("tar")?;
        std::fs::remove_dir_all(&directory)?;
        ensure!(output.status.success(), "tar: {}", output.status);
        let layer = output.stdout;
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)?] },
        });
        let config = config.to_string().into_bytes();
        let manifest = manifest(&config, &[(&layer, layer.len())])?;
        Ok(Parts { layer, config, manifest })
    }
}

/// An OCI manifest; each layer with the size that it is said to have.
pub fn manifest(config: &[u8], layers: &[(&[u8], usize)]) -> Result<Vec<u8>> {
    let descriptors = layers.iter().map(|(layer, size)| {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        Ok(json!({ "mediaType": media_type, "digest": digest(layer)?, "size": size }))
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config)?, "size": config.len(),
        },
        "layers": descriptors.collect::<Result<Vec<_>>>()?,
    });
    Ok(manifest.to_string().into_bytes())
}

/// `sha256:` and hex digits, by coreutils.
pub fn digest(content: &[u8]) -> Result<String> {
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(content)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(format!("sha256:{}", text.split(' ').next().unwrap_or_default()))
}

fn tempfile_in_scratch() -> Result<std::path::PathBuf> {
    static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let name = format!("tenantry-parts-{}-{serial}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}
