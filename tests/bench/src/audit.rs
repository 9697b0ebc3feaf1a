//! What the audit delivers: a container makes opens, connects and execs, all of which are events;
//! the agent writes each to its chained file, and to readers of its stream. Events by second of
//! the agent's own CPU time: what one core delivers. And what is left of the account when it
//! gets a tenth of the time that it needs.
//!
//! The file is always written: what a stream costs alone is the difference.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::host::cpu_ticks;

const CONFIG: &str =
    "[audit]\nmax_bytes = 1073741824\nkeep_files = 1\n[audit.filter]\nopens = [\"all\"]\n";
const SECONDS: u64 = 8;
/// The rate of our goal.
const RATE: u64 = 200_000;
const KINDS: [&str; 3] = ["open", "connect", "exec"];
/// In overload the agent runs for so long, and then is stopped for so long.
const RUNS: Duration = Duration::from_millis(10);
const STOPS: Duration = Duration::from_millis(90);
/// Between two looks at the account.
const LOOKS: Duration = Duration::from_millis(50);

pub fn run() -> Result<()> {
    println!("audit: opens, connects and execs of one container, {SECONDS} s each");
    arm("file, paced", Some(RATE), 0)?;
    arm("file, unpaced", None, 0)?;
    arm("file and a stream, unpaced", None, 1)?;
    arm("file and three streams, unpaced", None, 3)?;
    overload()
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    produced: u64,
    delivered: u64,
    lost: u64,
}

impl Account {
    fn of(agent: &TestAgent, name: &str) -> Self {
        let metrics = agent.metrics();
        let sum = |what: &str| {
            let of = |kind| {
                metrics.sum(
                    &format!("tenantry_events_{what}_total"),
                    &[("name", name), ("kind", kind)],
                )
            };
            KINDS.iter().filter_map(|kind| of(kind)).sum::<f64>() as u64
        };
        Self { produced: sum("produced"), delivered: sum("delivered"), lost: sum("lost") }
    }

    /// Waits until nothing is under way. How long that took.
    fn settled(agent: &TestAgent, name: &str) -> Result<(Self, Duration)> {
        let began = Instant::now();
        loop {
            let account = Self::of(agent, name);
            if account.produced == account.delivered + account.lost {
                return Ok((account, began.elapsed()));
            }
            ensure!(began.elapsed() < Duration::from_secs(20), "{account:?} does not add up");
            std::thread::sleep(LOOKS);
        }
    }
}

/// What the workload itself counted.
fn storm(agent: &TestAgent, name: &str, rate: Option<u64>, workers: u64) -> Result<u64> {
    let mut words = format!("workload storm --seconds {SECONDS} --workers {workers}");
    if let Some(rate) = rate {
        words += &format!(" --rate {rate}");
    }
    let words: Vec<&str> = words.split(' ').collect();
    let told = agent.run(&[&["run", "--name", name, IMAGE], &words[..]].concat())?;
    let told: serde_json::Value = serde_json::from_str(told.lines().last().unwrap_or_default())?;
    Ok(["opens", "connects", "execs"].iter().filter_map(|kind| told[kind].as_u64()).sum())
}

fn arm(what: &str, rate: Option<u64>, readers: usize) -> Result<()> {
    let agent = TestAgent::try_start_with(CONFIG)?;
    let streams: Vec<Stream> = (0..readers).map(|_| Stream::open(&agent)).collect::<Result<_>>()?;
    let cpu = || cpu_ticks(agent.pid()).context("the agent runs");
    let (began, before) = (Instant::now(), cpu()?);
    let counted = storm(&agent, "storm", rate, if rate.is_some() { 1 } else { 2 })?;
    let (account, _) = Account::settled(&agent, "storm")?;
    let (took, used) = (began.elapsed().as_secs_f64(), (cpu()? - before) as f64 / 100.0);
    ensure!(account.produced >= counted, "the workload made {counted} events: {account:?}");
    println!(
        "  {what:32} {:>7.0} events/s of one core ({:.2} cores busy); {:.0} produced/s, {:.2} % lost",
        account.delivered as f64 / used,
        used / took,
        account.produced as f64 / SECONDS as f64,
        account.lost as f64 / account.produced as f64 * 100.0,
    );
    for stream in streams {
        println!("  {:32} {:.1} MB read", "", stream.close() as f64 / 1e6);
    }
    agent.finish();
    Ok(())
}

fn overload() -> Result<()> {
    let agent = TestAgent::try_start_with(CONFIG)?;
    let pid = rustix::process::Pid::from_raw(agent.pid() as i32).context("the agent's pid")?;
    let signal = |signal| rustix::process::kill_process(pid, signal);
    let is_over = AtomicBool::new(false);
    let counted = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The container must be started first.
            std::thread::sleep(Duration::from_millis(500));
            while !is_over.load(Ordering::Relaxed) {
                let _ = signal(rustix::process::Signal::STOP);
                std::thread::sleep(STOPS);
                let _ = signal(rustix::process::Signal::CONT);
                std::thread::sleep(RUNS);
            }
        });
        let counted = storm(&agent, "storm", None, 2);
        is_over.store(true, Ordering::Relaxed);
        counted
    })?;
    let (account, settled) = Account::settled(&agent, "storm")?;
    ensure!(account.produced >= counted, "the workload made {counted} events: {account:?}");
    println!(
        "  overload: {} produced = {} delivered + {} lost, {:.1} × what was delivered; all was accounted {:.2} s after the end",
        account.produced,
        account.delivered,
        account.lost,
        account.produced as f64 / account.delivered as f64,
        settled.as_secs_f64(),
    );
    agent.run(&["run", "--rm", "--name", "after", IMAGE, "true"])?;
    agent.finish();
    Ok(())
}

/// A reader of the stream that takes all and keeps nothing.
struct Stream {
    socket: UnixStream,
    bytes: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Stream {
    fn open(agent: &TestAgent) -> Result<Self> {
        let path: PathBuf = agent.run_dir().join("tenantry.sock");
        let mut socket = UnixStream::connect(path)?;
        socket.write_all(b"GET /v1/events HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let bytes = Arc::new(AtomicU64::new(0));
        let (mut reader, count) = (socket.try_clone()?, Arc::clone(&bytes));
        let thread = std::thread::spawn(move || {
            let mut piece = vec![0; 256 << 10];
            while let Ok(read) = reader.read(&mut piece)
                && read > 0
            {
                count.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
        Ok(Self { socket, bytes, thread })
    }

    fn close(self) -> u64 {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.thread.join();
        self.bytes.load(Ordering::Relaxed)
    }
}
