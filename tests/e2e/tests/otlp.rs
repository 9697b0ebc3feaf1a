//! The audit's lines as OpenTelemetry logs, at a collector of the test's own, which decodes what it
//! gets with the OpenTelemetry project's types: each line comes once, whatever the collector
//! does, and what could not come is counted.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tenantry_e2e::agent::{self, IMAGE, TestAgent};
use tenantry_e2e::{skip_unless_possible, until};

/// Takes what it is sent, unless it was told to answer something else first.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    taken: Vec<LogRecord>,
    /// Records of requests that got another answer than 200.
    not_taken: Vec<usize>,
    /// Status lines and further headers of the next answers.
    next: Vec<&'static str>,
}

impl Collector {
    /// A port where nobody listens yet.
    fn reserve() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn listen(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let collector = Self { address, state: Arc::default() };
        let serving = collector.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream.unwrap()));
            }
        });
        collector
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
                head += &line;
            }
            assert!(head.starts_with("POST /v1/logs HTTP/1.1\r\n"), "{head}");
            assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
            assert!(length < 4 << 20, "a request of {length} bytes");
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = self.take(&body);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    }

    fn take(&self, body: &[u8]) -> String {
        let request: ExportLogsServiceRequest = serde_json::from_slice(body).unwrap();
        let logs = request.resource_logs.into_iter().next().unwrap();
        let resource = logs.resource.unwrap().attributes;
        assert!(resource.iter().any(|it| it.key == "service.name"), "{resource:?}");
        let records = logs.scope_logs.into_iter().next().unwrap().log_records;
        let mut state = self.state.lock().unwrap();
        if state.next.is_empty() {
            state.taken.extend(records);
            return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".into();
        }
        state.not_taken.push(records.len());
        format!("HTTP/1.1 {}\r\nContent-Length: 0\r\n\r\n", state.next.remove(0))
    }

    fn answer_next(&self, answers: &[&'static str]) {
        self.state.lock().unwrap().next = answers.to_vec();
    }

    /// The bodies of the records: lines of the audit file, and notices that are none.
    fn lines(&self) -> (Vec<String>, Vec<String>) {
        let state = self.state.lock().unwrap();
        let bodies = state.taken.iter().map(|record| {
            match record.body.as_ref().and_then(|body| body.value.as_ref()) {
                Some(Any::StringValue(text)) => text.clone(),
                other => panic!("{other:?}"),
            }
        });
        bodies.partition(|body| body.starts_with("{\"seq\":"))
    }
}

fn configured(address: SocketAddr, more: &str) -> TestAgent {
    let endpoint = format!("otlp_endpoint = \"http://{address}/v1/logs\"");
    TestAgent::try_start_with(&format!("[audit]\n{endpoint}\n{more}")).unwrap()
}

fn audit_file(agent: &TestAgent) -> PathBuf {
    agent.data_dir().join("audit.jsonl")
}

fn written(agent: &TestAgent) -> Vec<String> {
    let text = std::fs::read_to_string(audit_file(agent)).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn sent(agent: &TestAgent, outcome: &str) -> u64 {
    let sum = agent.metrics().sum("tenantry_otlp_records_total", &[("outcome", outcome)]);
    sum.expect("logs are sent") as u64
}

fn of(agent: &TestAgent, name: &str) -> u64 {
    agent.metrics().sum(name, &[]).expect("logs are sent") as u64
}

#[test]
fn each_line_comes_once_though_the_collector_was_away_and_the_agent_went() {
    skip_unless_possible!();
    let address = Collector::reserve();
    let mut agent = configured(address, "");
    let script = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); /bin/true; done";
    let work = |agent: &TestAgent| {
        agent.ok(&["run", "--rm", "--name", "web", IMAGE, "sh", "-c", script]);
    };
    work(&agent);
    until("a try in vain", || of(&agent, "tenantry_otlp_retries_total") > 0);
    assert!(of(&agent, "tenantry_otlp_behind_lines") > 600);
    let collector = Collector::listen(address);
    assert_eq!(collector.address, address);
    collector.answer_next(&[
        "503 Service Unavailable\r\nRetry-After: 1",
        "429 Too Many Requests",
        "502 Bad Gateway",
    ]);
    until("the collector to have all", || of(&agent, "tenantry_otlp_behind_lines") == 0);
    work(&agent);
    until("the collector to have all", || of(&agent, "tenantry_otlp_behind_lines") == 0);
    assert!(of(&agent, "tenantry_otlp_retries_total") >= 4);
    let (lines, notices) = collector.lines();
    assert_eq!((sent(&agent, "exported"), notices.len()), (lines.len() as u64, 0));
    // What is still to be sent when it ends, it sends, or the next one does.
    work(&agent);
    agent.stop_agent();
    agent.spawn().unwrap();
    work(&agent);
    until("the collector to have all", || of(&agent, "tenantry_otlp_behind_lines") == 0);
    let (lines, _) = collector.lines();
    let all = written(&agent);
    let first = all.iter().position(|line| *line == lines[0]).expect("a line of the file");
    assert!(first <= 1, "what was there before it began is left out: {first}");
    assert_eq!(lines, all[first..lines.len() + first], "each line, once, in order");
    assert!(lines.len() > 4 * 600);
    {
        let state = collector.state.lock().unwrap();
        let record = state.taken.iter().find(|it| it.severity_text == "INFO").unwrap();
        assert!(record.time_unix_nano > 1_700_000_000_000_000_000);
        assert!(record.observed_time_unix_nano >= record.time_unix_nano);
        let named = |record: &LogRecord| {
            record.attributes.iter().any(|it| {
                let value = it.value.as_ref().and_then(|value| value.value.as_ref());
                it.key == "container.name" && value == Some(&Any::StringValue("web".into()))
            })
        };
        assert!(state.taken.iter().filter(|record| named(record)).count() > 4 * 600);
    }
    // One that it will never have is not tried again, and is counted.
    collector.state.lock().unwrap().not_taken.clear();
    collector.answer_next(&["400 Bad Request"]);
    let retries = of(&agent, "tenantry_otlp_retries_total");
    agent.ok(&["run", "--rm", "--name", "web", IMAGE, "true"]);
    until("a refusal", || sent(&agent, "refused") > 0);
    until("the collector to have been asked", || of(&agent, "tenantry_otlp_behind_lines") == 0);
    let refused: usize = collector.state.lock().unwrap().not_taken.iter().sum();
    assert_eq!(sent(&agent, "refused"), refused as u64);
    assert_eq!(of(&agent, "tenantry_otlp_retries_total"), retries);
    agent.finish();
}

#[test]
fn what_the_files_no_longer_have_when_the_collector_comes_is_counted_exactly() {
    skip_unless_possible!();
    let address = Collector::reserve();
    // Little of what memory no longer holds is in the files.
    let agent = configured(address, "max_bytes = 262144\nkeep_files = 1\n");
    let word = "x".repeat(1000);
    let script =
        format!("n=0; while [ $n -lt 1000 ]; do n=$((n+1)); /bin/true {word} {word} {word}; done");
    let written = || of(&agent, "tenantry_audit_records_written_total");
    until("more than memory holds", || {
        agent.ok(&["run", "--rm", IMAGE, "sh", "-c", &script]);
        written() > 14_000
    });
    let collector = Collector::listen(address);
    until("the collector to have the rest", || of(&agent, "tenantry_otlp_behind_lines") == 0);
    let (lines, notices) = collector.lines();
    let (exported, lost) = (sent(&agent, "exported"), sent(&agent, "lost"));
    assert!(lost > 0 && sent(&agent, "refused") == 0);
    assert_eq!(exported, lines.len() as u64);
    let numbers: Vec<u64> =
        lines.iter().map(|line| agent::json(line)["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] > pair[0]), "in order, none twice");
    let span = numbers[numbers.len() - 1] - numbers[0] + 1;
    assert_eq!(exported + lost, span, "each line came or was counted");
    let told = notices.iter().map(|line| agent::json(line)["lost"]["count"].as_u64().unwrap());
    assert_eq!(told.sum::<u64>(), lost);
    println!("{exported} lines came, {lost} were gone");
    agent.finish();
}
