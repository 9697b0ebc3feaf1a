//! What a scrape of a full host costs: 200 containers, each of which called some 190
//! different system calls, so that the answer has about 140,000 series; and half of them,
//! so that it has the 100,000 of our goal.
//!
//! Beside it stands what Debian has: node_exporter, which reads one host and no container.
//! cAdvisor is no Debian package and is not compared here.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::{cpu_ticks, status_kib};
use tenantry_e2e::scrape::Metrics;

use crate::spread::quantile;

const CONTAINERS: usize = 200;
/// With so many busy ones the answer has the 100,000 series of our goal.
const OF_THE_GOAL: usize = 100;
const SCRAPES: usize = 60;
const PAIRS: usize = 20;
/// Between the starts of two scrapes: enough for the machine to come to rest.
const PAUSE: Duration = Duration::from_millis(250);
/// Prometheus' default is a minute; most people set this.
const INTERVAL_S: f64 = 15.0;

pub fn run() -> Result<()> {
    for busy in [OF_THE_GOAL, CONTAINERS] {
        full_host(busy)?;
    }
    match Exporter::start() {
        Ok(exporter) => measure(exporter.child.id(), exporter.listen)?
            .print("prometheus-node-exporter, the host alone"),
        Err(error) => println!("  prometheus-node-exporter: {error:#}"),
    }
    Ok(())
}

/// `busy` of the containers call everything, the others sleep.
fn full_host(busy: usize) -> Result<()> {
    // All slots but a few for ours.
    let agent = TestAgent::try_start_with("max_containers = 250\n[foreign]\nmax = 5\n")?;
    let began = Instant::now();
    for number in 0..CONTAINERS {
        let script = match number < busy {
            true => "workload touch-syscalls; exec sleep 100000",
            false => "exec sleep 100000",
        };
        agent.run_detached(&format!("busy{number:03}"), &[], &["sh", "-c", script])?;
    }
    let took = began.elapsed().as_secs_f64();
    println!("{CONTAINERS} containers, {busy} of them busy, started in {took:.1} s");
    let ours = measure(agent.pid(), agent.listen)?;
    ours.print("tenantry");
    let metrics = Metrics::parse(&String::from_utf8(ours.answer)?);
    for stage in ["links", "maps", "cgroups"] {
        let seconds = metrics.sum("tenantry_agent_collect_seconds", &[("stage", stage)]);
        println!("    last scrape's {stage}, all threads: {:.1} ms", seconds.unwrap_or(0.0) * 1e3);
    }
    let kernel = metrics.sum("tenantry_kernel_memory_bytes", &[]).unwrap_or(0.0);
    println!("    kernel memory of programs and maps: {:.1} MiB", kernel / 1048576.0);
    two_at_once(agent.pid(), agent.listen)?;
    agent.finish();
    Ok(())
}

/// A pair of Prometheus servers asks at the same time.
fn two_at_once(pid: u32, listen: SocketAddr) -> Result<()> {
    let together = Barrier::new(2);
    let ask = || -> Result<Vec<f64>> {
        let mut client = Client::connect(listen)?;
        (0..PAIRS)
            .map(|_| {
                together.wait();
                let began = Instant::now();
                client.get().map(|()| began.elapsed().as_secs_f64())
            })
            .collect()
    };
    let took = std::thread::scope(|scope| {
        let other = scope.spawn(ask);
        let mut took = ask()?;
        took.extend(other.join().expect("no panic")?);
        anyhow::Ok(took)
    })?;
    let rss_kib = status_kib(pid, "VmHWM").unwrap_or(0);
    println!(
        "    two at once: p50 {:.1} ms of {PAIRS} pairs; RSS at most {:.1} MiB",
        quantile(&took, 0.5).unwrap_or(0.0) * 1e3,
        rss_kib as f64 / 1024.0
    );
    Ok(())
}

struct Measured {
    answer: Vec<u8>,
    series: usize,
    /// Seconds from the request to the answer's last byte.
    took: Vec<f64>,
    cpu_s: f64,
    rss_kib: u64,
}

/// A connection that stays open, as Prometheus' does; the first scrape is not counted.
fn measure(pid: u32, listen: SocketAddr) -> Result<Measured> {
    let mut client = Client::connect(listen)?;
    client.get()?;
    let before = cpu_ticks(pid).context("it runs")?;
    let mut took = Vec::new();
    let mut rss_kib = 0;
    for _ in 0..SCRAPES {
        let began = Instant::now();
        client.get()?;
        took.push(began.elapsed().as_secs_f64());
        rss_kib = rss_kib.max(status_kib(pid, "VmRSS").unwrap_or(0));
        std::thread::sleep(PAUSE.saturating_sub(began.elapsed()));
    }
    let cpu_s = (cpu_ticks(pid).context("it runs")? - before) as f64 / 100.0 / SCRAPES as f64;
    let answer = client.body;
    let lines = answer.split(|byte| *byte == b'\n');
    let series = lines.filter(|line| !line.is_empty() && line[0] != b'#').count();
    // The most that it ever had, and not only between two scrapes.
    let rss_kib = rss_kib.max(status_kib(pid, "VmHWM").unwrap_or(0));
    Ok(Measured { answer, series, took, cpu_s, rss_kib })
}

impl Measured {
    fn print(&self, what: &str) {
        let ms = |q| quantile(&self.took, q).unwrap_or(0.0) * 1e3;
        println!("  {what}: {} series, {} KiB", self.series, self.answer.len() / 1024);
        println!(
            "    p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms of {SCRAPES} scrapes",
            ms(0.5),
            ms(0.99),
            ms(1.0)
        );
        println!(
            "    CPU {:.1} ms a scrape: {:.2} % of a core at one in {INTERVAL_S} s; RSS at most {:.1} MiB",
            self.cpu_s * 1e3,
            self.cpu_s / INTERVAL_S * 100.0,
            self.rss_kib as f64 / 1024.0
        );
    }
}

/// A connection and memory that is there already: the reader's own page faults are not
/// what is measured.
struct Client {
    connection: TcpStream,
    piece: Vec<u8>,
    /// What of `piece` was received and not used yet.
    unused: std::ops::Range<usize>,
    body: Vec<u8>,
}

impl Client {
    fn connect(listen: SocketAddr) -> Result<Self> {
        let connection = TcpStream::connect(listen)?;
        connection.set_nodelay(true)?;
        Ok(Self { connection, piece: vec![0; 256 << 10], unused: 0..0, body: Vec::new() })
    }

    /// One answer's body over HTTP/1.1, by length or in chunks.
    fn get(&mut self) -> Result<()> {
        write!(self.connection, "GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        self.body.clear();
        let status = self.line()?;
        ensure!(status.starts_with("HTTP/1.1 200"), "{status}");
        let mut length = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        if let Some(length) = length {
            return self.take(length);
        }
        loop {
            let size = usize::from_str_radix(&self.line()?, 16)?;
            self.take(size)?;
            self.line()?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn take(&mut self, mut length: usize) -> Result<()> {
        while length > 0 {
            self.fill()?;
            let part = length.min(self.unused.len());
            let at = self.unused.start;
            self.body.extend_from_slice(&self.piece[at..at + part]);
            self.unused.start += part;
            length -= part;
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            self.fill()?;
            let byte = self.piece[self.unused.start];
            self.unused.start += 1;
            match byte {
                b'\n' => return Ok(String::from_utf8(line)?),
                b'\r' => {}
                other => line.push(other),
            }
        }
    }

    /// Receives if nothing is left.
    fn fill(&mut self) -> Result<()> {
        if self.unused.is_empty() {
            let got = self.connection.read(&mut self.piece)?;
            ensure!(got > 0, "the answer ended early");
            self.unused = 0..got;
        }
        Ok(())
    }
}

struct Exporter {
    child: Child,
    listen: SocketAddr,
}

impl Exporter {
    fn start() -> Result<Self> {
        let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new("prometheus-node-exporter")
            .arg(format!("--web.listen-address={listen}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("not installed")?;
        let exporter = Self { child, listen };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(listen).is_err() {
            ensure!(Instant::now() < deadline, "does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(exporter)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
