//! Asks protected containers for the latency that the policy goes by: each look begins a GET
//! of the container's own page, the next look takes what came.
//!
//! Never waited for: an answer has most of the time between two looks, and who is slow just
//! when it is hurt still gets to say so. What does not come is counted by why, and is no
//! latency at all, neither a good one nor a bad one.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tenantry_control::Metric;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::exposed::Exposed;
use super::sample::{Counters, Sample};

const MOST_BYTES: usize = 4 << 20;
/// Containers that are asked at a look.
const MOST_TARGETS: usize = 64;
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// Whom to ask for what.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub id: String,
    /// `None`: it has no address that the host can reach.
    pub address: Option<SocketAddr>,
    pub metric: Metric,
}

/// Why there is no latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    NoAddress,
    TooMany,
    Unreachable,
    Timeout,
    /// Another status than 200; a redirect is not followed.
    Status,
    TooLarge,
    /// Neither UTF-8 nor the metric in it.
    Absent,
}

impl Failure {
    pub const ALL: [Failure; 7] = [
        Failure::NoAddress,
        Failure::TooMany,
        Failure::Unreachable,
        Failure::Timeout,
        Failure::Status,
        Failure::TooLarge,
        Failure::Absent,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Failure::NoAddress => "no_address",
            Failure::TooMany => "too_many",
            Failure::Unreachable => "unreachable",
            Failure::Timeout => "timeout",
            Failure::Status => "status",
            Failure::TooLarge => "too_large",
            Failure::Absent => "absent",
        }
    }
}

#[derive(Debug, Default)]
pub struct Scraper {
    under_way: JoinSet<(Target, Result<Exposed, Failure>)>,
    asked: HashSet<String>,
    /// By id: the page before.
    before: HashMap<String, (Metric, Exposed)>,
    /// Said once, until it is another one or none.
    failing: HashMap<String, Failure>,
    /// Answers that held the metric.
    pub answers: u64,
    pub failures: HashMap<Failure, u64>,
}

/// The containers whose rule names a metric.
pub fn targets(sample: &Sample) -> Vec<Target> {
    let target = |counters: &Counters| {
        let identity = &counters.identity;
        let metric = identity.metric.clone()?;
        let address = identity.address.map(|address| SocketAddr::new(address, metric.port));
        Some(Target { id: identity.id.clone(), address, metric })
    };
    let mut targets: Vec<Target> = sample.containers.values().filter_map(target).collect();
    // The same ones each time, if there are too many.
    targets.sort_by(|a, b| a.id.cmp(&b.id));
    targets
}

impl Scraper {
    /// The latencies that came since the last call, in milliseconds by id.
    pub fn take(&mut self) -> HashMap<String, f64> {
        let mut latencies = HashMap::new();
        while let Some(done) = self.under_way.try_join_next() {
            let Ok((target, answer)) = done else { continue };
            self.asked.remove(&target.id);
            match answer {
                Ok(page) => {
                    self.answers += 1;
                    if self.failing.remove(&target.id).is_some() {
                        tracing::info!(container_id = target.id, "its latency is known again");
                    }
                    let known = self.before.get(&target.id);
                    let before = known.filter(|(of, _)| *of == target.metric).map(|(_, page)| page);
                    if let Some(ms) = page.latency_ms(before, &target.metric) {
                        latencies.insert(target.id.clone(), ms);
                    }
                    self.before.insert(target.id, (target.metric, page));
                }
                Err(failure) => self.failed(&target, failure),
            }
        }
        latencies
    }

    /// Begins to ask them all; an answer comes within `interval` or not at all.
    pub fn ask(&mut self, targets: Vec<Target>, interval: Duration) {
        let is_wanted = |id: &str| targets.binary_search_by(|t| t.id.as_str().cmp(id)).is_ok();
        self.before.retain(|id, _| is_wanted(id));
        self.failing.retain(|id, _| is_wanted(id));
        let patience = interval.mul_f64(0.9).min(MOST_PATIENCE);
        for (index, target) in targets.into_iter().enumerate() {
            let Some(address) = target.address else {
                self.failed(&target, Failure::NoAddress);
                continue;
            };
            if index >= MOST_TARGETS {
                self.failed(&target, Failure::TooMany);
                continue;
            }
            // Still under way: the agent itself had no time to see it end.
            if !self.asked.insert(target.id.clone()) {
                continue;
            }
            self.under_way.spawn(async move {
                let get = tokio::time::timeout(patience, get(address, &target.metric));
                let answer = get.await.unwrap_or(Err(Failure::Timeout));
                (target, answer)
            });
        }
    }

    fn failed(&mut self, target: &Target, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
        if self.failing.insert(target.id.clone(), failure) != Some(failure) {
            let Target { id, metric, .. } = target;
            let (name, why) = (&metric.name, failure.as_str());
            tracing::warn!(container_id = id, metric = name, why, "its latency is not known");
        }
    }
}

async fn get(address: SocketAddr, metric: &Metric) -> Result<Exposed, Failure> {
    let unreachable = |_| Failure::Unreachable;
    let stream = TcpStream::connect(address).await.map_err(|_| Failure::Unreachable)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(unreachable)?;
    let request = Request::get(metric.path.as_str())
        .header(header::HOST, address.to_string())
        .header(header::ACCEPT, "text/plain;version=0.0.4")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        // A path that a policy allows and HTTP does not.
        .map_err(|_| Failure::Status)?;
    let exchange = std::pin::pin!(async move {
        let response = sender.send_request(request).await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Status);
        }
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| match error.is::<LengthLimitError>() {
            true => Failure::TooLarge,
            false => Failure::Unreachable,
        })
    });
    // Both end with this future, whenever that is dropped.
    let page = match select(exchange, std::pin::pin!(connection)).await {
        Either::Left((page, _)) => page?,
        Either::Right((_, exchange)) => exchange.await?,
    };
    let text = std::str::from_utf8(&page).map_err(|_| Failure::Absent)?;
    Exposed::find(text, metric).ok_or(Failure::Absent)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn metric() -> Metric {
        let (name, path) = ("seconds".to_owned(), "/metrics".to_owned());
        Metric { name, port: 0, path, quantile: 0.99, unit_ms: 1000.0 }
    }

    /// Answers one connection after the other, each with the next of these.
    async fn serve(answers: Vec<String>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /metrics HTTP/1.1\r\n"));
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    // Never, as far as the one who asks can tell.
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            }
        });
        address
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    /// Asks `times` times with a fifth of a second for each; the last latency.
    async fn ask(scraper: &mut Scraper, address: Option<SocketAddr>, times: usize) -> Option<f64> {
        let mut last = HashMap::new();
        for _ in 0..times {
            let target = Target { id: "web".into(), address, metric: metric() };
            scraper.ask(vec![target], Duration::from_millis(200));
            while !scraper.asked.is_empty() {
                last = scraper.take();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        last.remove("web")
    }

    #[tokio::test]
    async fn a_histogram_is_told_from_the_second_page_on_and_a_gauge_at_once() {
        let page = |count: u32| {
            ok(&format!(
                "seconds_bucket{{le=\"0.1\"}} {count}\nseconds_bucket{{le=\"+Inf\"}} {count}\n"
            ))
        };
        let mut scraper = Scraper::default();
        let address = serve(vec![page(10), page(110), ok("seconds 0.5\n")]).await;
        assert_eq!(ask(&mut scraper, Some(address), 1).await, None);
        assert_eq!(ask(&mut scraper, Some(address), 1).await, Some(99.0));
        assert_eq!(ask(&mut scraper, Some(address), 1).await, Some(500.0));
        assert_eq!((scraper.answers, scraper.failures.len()), (3, 0));
    }

    #[tokio::test]
    async fn what_does_not_come_is_counted_by_why() {
        let check = async |answer: &str, expected: Failure| {
            let mut scraper = Scraper::default();
            let address = serve(vec![answer.to_owned(); 2]).await;
            let latency = ask(&mut scraper, Some(address), 2).await;
            assert_eq!((latency, scraper.answers), (None, 0));
            assert_eq!(scraper.failures, HashMap::from([(expected, 2)]));
        };
        check("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", Failure::Status).await;
        check("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", Failure::Status).await;
        check(&ok("other 5\n"), Failure::Absent).await;
        check(&ok(&"x".repeat(MOST_BYTES + 1)), Failure::TooLarge).await;
        check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsec", Failure::Unreachable).await;
        check("SSH-2.0\r\n\r\n", Failure::Unreachable).await;
        let mut scraper = Scraper::default();
        let address = serve(vec![String::new()]).await;
        assert_eq!(ask(&mut scraper, Some(address), 1).await, None);
        assert_eq!(ask(&mut scraper, None, 1).await, None);
        let expected = HashMap::from([(Failure::Timeout, 1), (Failure::NoAddress, 1)]);
        assert_eq!(scraper.failures, expected);
    }

    #[tokio::test]
    async fn who_is_one_too_many_is_counted_and_who_is_gone_forgotten() {
        let target = |n: usize| Target {
            id: format!("{n:03}"),
            address: Some(([127, 0, 0, 1], 1).into()),
            metric: metric(),
        };
        let mut scraper = Scraper::default();
        scraper.ask((0..MOST_TARGETS + 3).map(target).collect(), Duration::from_millis(200));
        assert_eq!(scraper.failures, HashMap::from([(Failure::TooMany, 3)]));
        assert_eq!(scraper.under_way.len(), MOST_TARGETS);
        scraper.ask(vec![], Duration::from_millis(200));
        assert!(scraper.failing.is_empty());
    }
}
