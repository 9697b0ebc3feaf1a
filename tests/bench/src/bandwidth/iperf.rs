//! One run of `iperf3` from one container's network to another's: the host's own program in
//! their network namespaces, so that only the network is the containers'.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::netns;

/// The first only warms up.
const WINDOWS: u32 = 4;
/// One Ethernet frame's payload.
const DATAGRAM_BYTES: &str = "1472";
const ETHERNET_HEADER_BYTES: f64 = 14.0;
const PORT: u16 = 5201;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub protocol: Protocol,
    pub flows: u32,
    /// Of datagrams, all flows together.
    pub offered_mbit: u64,
}

/// Of each window, megabits a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// What the server took.
    pub payload_mbit: Vec<f64>,
    /// IP bytes that the receiver's interface brought.
    pub passed_mbit: Vec<f64>,
}

/// `window` in whole seconds.
pub fn run(
    agent: &TestAgent,
    from: &str,
    to: &str,
    load: Load,
    window: Duration,
) -> Result<Windows> {
    let (sender, receiver) = (agent.pid_of(from), agent.pid_of(to));
    let server = Flow::serve(receiver, window)?;
    let seconds = window.as_secs() * u64::from(WINDOWS);
    let mut client = Flow::send(sender, &agent.address(to), load, seconds)?;
    let began = Instant::now();
    let mut passed_mbit = Vec::new();
    let mut before = passed_bits(receiver);
    for number in 1..=WINDOWS {
        let begin = Instant::now();
        std::thread::sleep((window * number).saturating_sub(began.elapsed()));
        let now = passed_bits(receiver);
        passed_mbit.push((now - before) / begin.elapsed().as_secs_f64() / 1e6);
        before = now;
    }
    client.wait(Duration::from_secs(30)).context("the client")?;
    let text = server.end().context("the server")?;
    Ok(Windows { payload_mbit: payload_of(&text, window)?, passed_mbit: passed_mbit.split_off(1) })
}

/// A stream that nobody measures, until it is dropped.
pub fn saturate(agent: &TestAgent, from: &str, to: &str) -> Result<(Flow, Flow)> {
    let server = Flow::serve(agent.pid_of(to), Duration::from_secs(1))?;
    let load = Load { protocol: Protocol::Tcp, flows: 1, offered_mbit: 0 };
    Ok((Flow::send(agent.pid_of(from), &agent.address(to), load, 600)?, server))
}

fn passed_bits(pid: u32) -> f64 {
    let [bytes, packets, ..] = netns::interface(pid, "eth0");
    (bytes - packets * ETHERNET_HEADER_BYTES) * 8.0
}

/// The server's windows but the first; a last one that is cut short is none.
fn payload_of(text: &str, window: Duration) -> Result<Vec<f64>> {
    let said: Value = serde_json::from_str(text).context("the server's report")?;
    let error = &said["error"];
    ensure!(error.is_null(), "{error}");
    let intervals = said["intervals"].as_array().context("intervals")?;
    let whole = intervals.iter().map(|interval| &interval["sum"]).filter(|sum| {
        sum["seconds"].as_f64().is_some_and(|seconds| seconds > 0.9 * window.as_secs_f64())
    });
    let windows = whole.filter_map(|sum| Some(sum["bits_per_second"].as_f64()? / 1e6)).skip(1);
    let windows: Vec<f64> = windows.collect();
    ensure!(!windows.is_empty(), "the server saw no whole window: {text}");
    Ok(windows)
}

/// One end.
#[derive(Debug)]
pub struct Flow {
    child: Child,
}

impl Flow {
    fn serve(pid: u32, window: Duration) -> Result<Flow> {
        let interval = window.as_secs().to_string();
        let flow = Flow::start(pid, &["-s", "-1", "-J", "-i", &interval])?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !listens(pid) {
            ensure!(Instant::now() < deadline, "iperf3's server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(flow)
    }

    fn send(pid: u32, to: &str, load: Load, seconds: u64) -> Result<Flow> {
        let (seconds, flows) = (seconds.to_string(), load.flows.to_string());
        let mut words = vec!["-c", to, "-t", &seconds, "-P", &flows];
        let each = format!("{}K", load.offered_mbit * 1000 / u64::from(load.flows));
        if load.protocol == Protocol::Udp {
            words.extend(["-u", "-b", &each, "-l", DATAGRAM_BYTES]);
        }
        Flow::start(pid, &words)
    }

    fn start(pid: u32, words: &[&str]) -> Result<Flow> {
        let child = Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-n", "iperf3", "-p", &PORT.to_string()])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Flow { child })
    }

    /// What it reports at its end does not fill a pipe.
    fn wait(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "iperf3 does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn end(mut self) -> Result<String> {
        use std::io::Read as _;
        self.wait(Duration::from_secs(30))?;
        let mut text = String::new();
        self.child.stdout.take().context("its output")?.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listens(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default();
    text.contains(&format!(":{PORT:04X} 00000000000000000000000000000000:0000 0A"))
        || netns::listens(pid, PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_windows_count_but_for_the_first() {
        let text = r#"{"intervals": [
            {"sum": {"seconds": 2.0, "bits_per_second": 9e9}},
            {"sum": {"seconds": 2.01, "bits_per_second": 9.7e6}},
            {"sum": {"seconds": 2.0, "bits_per_second": 9.6e6}},
            {"sum": {"seconds": 0.3, "bits_per_second": 1e6}}]}"#;
        let window = Duration::from_secs(2);
        assert_eq!(payload_of(text, window).unwrap(), [9.7, 9.6]);
        assert!(payload_of(r#"{"intervals": [], "error": "busy"}"#, window).is_err());
        assert!(payload_of(r#"{"intervals": []}"#, window).is_err());
    }
}
