//! Reads `/metrics` as any scraper would: over TCP, without the product's code.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// The body of a GET that answers 200.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.lines().next().is_some_and(|line| line.contains(" 200")), "{head}");
    Ok(body.to_owned())
}

/// Series of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    series: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(series);
        Self { series: series.collect() }
    }

    /// The sum of the series of this name that have all these labels; `None` if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |have: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| have.get(*label).is_some_and(|have| have == value))
        };
        let values: Vec<f64> = self
            .series
            .iter()
            .filter(|(have, labels, _)| have == name && fits(labels))
            .map(|(_, _, value)| *value)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// A destination's series: connections, failures, bytes sent and received.
pub fn destination(metrics: &Metrics, container: &str, labels: &[(&str, &str)]) -> [f64; 4] {
    ["connections", "failures", "transmit_bytes", "receive_bytes"].map(|what| {
        let labels: Vec<_> = [("name", container)].iter().chain(labels).copied().collect();
        metrics.sum(&format!("tenantry_tcp_destination_{what}_total"), &labels).unwrap_or(0.0)
    })
}

fn series(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (key, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = key.split_once('{') else {
        return Some((key.to_owned(), BTreeMap::new(), value));
    };
    let labels = labels.strip_suffix('}')?.split("\",").filter_map(|pair| {
        let (label, value) = pair.split_once("=\"")?;
        Some((label.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    Some((name.to_owned(), labels.collect(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_name_and_labels() {
        let text = "# TYPE a counter\na_total{name=\"x\",op=\"read\"} 3\na_total{name=\"y\",op=\"read\"} 4\nb 5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total", &[("name", "x")]), Some(3.0));
        assert_eq!(metrics.sum("a_total", &[("op", "read")]), Some(7.0));
        assert_eq!(metrics.sum("b", &[]), Some(5.0));
        assert_eq!(metrics.sum("c", &[]), None);
    }
}
