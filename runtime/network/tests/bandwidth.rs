//! Rate limits, seen by `tc` and by what a receiver on the other side gets.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use support::flow::{Flow, Window, judge, passed_bytes};
use support::{Container, links, on_a_host, open, run, try_run};
use tenantry_network::{Bandwidth, Endpoint, Error, Network};

/// Measurements share two CPUs: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first losses leave the receiver with megabits that it had, out of order,
/// before the window and hands over within it.
const WARM_UP: Duration = Duration::from_millis(2500);

fn both(egress: u64, ingress: u64) -> Bandwidth {
    Bandwidth {
        egress_bits_per_s: Some(egress),
        ingress_bits_per_s: Some(ingress),
        ..Bandwidth::default()
    }
}

struct Pair {
    network: Network,
    limited: Container,
    other: Container,
    limited_end: Endpoint,
    other_end: Endpoint,
}

async fn pair() -> Pair {
    let network = open().await;
    let (limited, other) = (Container::new(), Container::new());
    let limited_end = network.connect("limited", limited.pid, None).await.unwrap();
    let other_end = network.connect("other", other.pid, None).await.unwrap();
    Pair { network, limited, other, limited_end, other_end }
}

impl Pair {
    /// From the limited container.
    fn outward(&self) -> Flow {
        let end = &self.other_end;
        Flow::tcp(&self.limited, &self.other, end.address, &end.host_interface)
    }

    /// To the limited container.
    fn inward(&self) -> Flow {
        let end = &self.limited_end;
        Flow::tcp(&self.other, &self.limited, end.address, &end.host_interface)
    }

    async fn set(&self, bandwidth: Bandwidth) -> Vec<tenantry_network::Applied> {
        self.network.set_bandwidth(&self.limited_end, &bandwidth).await.unwrap()
    }

    fn ifb(&self) -> String {
        self.limited_end.host_interface.replace("veth", "ifb")
    }
}

type Begin = fn(&Pair) -> Flow;

#[track_caller]
fn assert_within_5_percent(what: &str, flow: &Flow, limit: u64) {
    std::thread::sleep(WARM_UP);
    let windows = flow.windows(limit, 5);
    for window in &windows {
        let [passed, payload] = [window.passed, window.payload].map(|r| r / limit as f64 * 100.0);
        let mbits = limit / 1_000_000;
        println!("{what} at {mbits} Mbit/s: passed {passed:.2} %, payload {payload:.2} %");
    }
    judge(&windows, limit).unwrap_or_else(|why| panic!("{what}: {why}"));
}

/// What stood in the queue of a limit that is removed is lost, and TCP sends it again when it
/// has waited for it: hundreds of milliseconds.
#[track_caller]
fn assert_not_limited(what: &str, flow: &Flow) {
    let mut rates = vec![];
    while rates.last().is_none_or(|rate| *rate < 200e6) {
        assert!(rates.len() < 20, "{what}: {rates:?}");
        rates.push(flow.window(Duration::from_millis(500)).payload);
    }
    let mbits: Vec<f64> = rates.iter().map(|rate| (rate / 1e6).round()).collect();
    println!("{what}, not limited: {mbits:?} Mbit/s in half seconds");
}

#[test]
fn a_judgement_is_about_the_shaper_and_not_about_the_machine() {
    let check = |windows: &[(f64, f64)], expected: &str| {
        let windows: Vec<Window> = windows
            .iter()
            .map(|(passed, payload)| Window { passed: passed * 1e6, payload: payload * 1e6 })
            .collect();
        let judged = judge(&windows, 50_000_000).err().unwrap_or_default();
        assert!(judged.starts_with(expected), "{windows:?}: {judged}");
        assert_eq!(judged.is_empty(), expected.is_empty(), "{windows:?}: {judged}");
    };
    check(&[], "too slow");
    check(&[(50.0, 48.5)], "");
    // The machine stood still, then went on.
    check(&[(40.0, 38.0), (51.2, 50.0)], "");
    check(&[(40.0, 38.0), (46.8, 45.0)], "too slow");
    // The receiver had stood still: what it takes at last had passed before.
    check(&[(45.0, 40.0), (45.0, 50.0)], "too slow");
    check(&[(50.0, 50.0), (53.0, 50.0)], "too fast");
}

#[test]
fn a_wrong_rate_is_seen_as_one() {
    let _alone = alone();
    on_a_host(async || {
        let pair = pair().await;
        pair.set(both(45_000_000, 56_000_000)).await;
        let begin: [(Begin, &str); 2] = [(Pair::outward, "too slow"), (Pair::inward, "too fast")];
        for (begin, expected) in begin {
            let flow = begin(&pair);
            std::thread::sleep(WARM_UP);
            let judged = judge(&flow.windows(50_000_000, 2), 50_000_000).unwrap_err();
            assert!(judged.starts_with(expected), "{judged}");
            flow.end();
        }
        pair.network.close().await.unwrap();
    });
}

#[test]
fn both_directions_are_within_5_percent_and_follow_a_live_change_and_a_removal() {
    let _alone = alone();
    on_a_host(async || {
        let pair = pair().await;
        // One connection each way that sees all of it.
        let out = pair.outward();
        assert_not_limited("egress", &out);
        let applied = pair.set(both(20_000_000, 50_000_000)).await;
        let rows: Vec<_> = applied
            .iter()
            .map(|a| (a.resource.as_str(), a.written.as_str(), a.read_back.as_str()))
            .collect();
        assert_eq!(
            rows,
            [("network.egress", "20mbit", "20mbit"), ("network.ingress", "50mbit", "50mbit")]
        );
        let (veth, ifb) = (&pair.limited_end.host_interface, pair.ifb());
        let witness = run(&format!("tc qdisc show dev {veth}"));
        assert!(witness.contains("tbf 7e41: root") && witness.contains("rate 50Mbit"), "{witness}");
        assert!(witness.contains("ingress ffff:"), "{witness}");
        assert!(run(&format!("tc qdisc show dev {ifb}")).contains("rate 20Mbit burst 12"));
        let filter = run(&format!("tc filter show dev {veth} ingress"));
        assert!(filter.contains(&format!("Egress Redirect to device {ifb}")), "{filter}");
        assert_within_5_percent("egress", &out, 20_000_000);
        pair.set(both(50_000_000, 50_000_000)).await;
        assert_within_5_percent("egress", &out, 50_000_000);
        pair.set(Bandwidth::default()).await;
        assert_not_limited("egress", &out);
        out.end();

        let into = pair.inward();
        assert_not_limited("ingress", &into);
        pair.set(both(20_000_000, 50_000_000)).await;
        assert_within_5_percent("ingress", &into, 50_000_000);
        pair.set(both(20_000_000, 20_000_000)).await;
        assert_within_5_percent("ingress", &into, 20_000_000);
        let applied = pair.set(Bandwidth::default()).await;
        assert!(applied.iter().all(|a| a.written == "none" && a.read_back == "none"));
        assert!(!links().contains(&ifb));
        let witness = run(&format!("tc qdisc show dev {veth}"));
        assert!(!witness.contains("tbf") && !witness.contains("ingress"), "{witness}");
        assert_not_limited("ingress", &into);
        into.end();
        pair.network.close().await.unwrap();
    });
}

#[test]
fn udp_is_within_5_percent_too() {
    let _alone = alone();
    on_a_host(async || {
        let pair = pair().await;
        pair.set(both(20_000_000, 20_000_000)).await;
        let (limited, other) = (&pair.limited, &pair.other);
        for (what, from, to, end) in [
            ("UDP egress", limited, other, &pair.other_end),
            ("UDP ingress", other, limited, &pair.limited_end),
        ] {
            let flow = Flow::udp(from, to, end.address, &end.host_interface, 40_000_000);
            assert_within_5_percent(what, &flow, 20_000_000);
            flow.end();
        }
        pair.network.close().await.unwrap();
    });
}

#[test]
fn a_burst_that_was_chosen_passes_at_once_and_changes_no_rate() {
    let _alone = alone();
    on_a_host(async || {
        let pair = pair().await;
        let bursts = |egress, ingress| Bandwidth {
            egress_burst_bytes: Some(egress),
            ingress_burst_bytes: Some(ingress),
            ..both(20_000_000, 20_000_000)
        };
        let applied = pair.set(bursts(16 << 10, 4 << 20)).await;
        let read: Vec<_> = applied.iter().map(|a| a.read_back.as_str()).collect();
        assert_eq!(read, ["20mbit burst 16384", "20mbit burst 4194304"]);
        let (veth, ifb) = (&pair.limited_end.host_interface, pair.ifb());
        let shown = run(&format!("tc qdisc show dev {ifb}"));
        assert!(shown.contains("burst 16Kb") || shown.contains("burst 16383b"), "{shown}");
        let shown = run(&format!("tc qdisc show dev {veth}"));
        assert!(shown.contains("burst 4Mb") || shown.contains("burst 4095Kb"), "{shown}");
        // 32 Mbit pass before the rate holds: more than the rate's own second, and then it.
        let before = passed_bytes(veth);
        let into = pair.inward();
        std::thread::sleep(Duration::from_secs(1));
        let first = (passed_bytes(veth) - before) * 8;
        println!("first second with 4 MiB of burst at 20 Mbit/s: {first} bits");
        assert!(first > 45_000_000, "{first}");
        assert_within_5_percent("ingress", &into, 20_000_000);
        into.end();
        // Long packets are cut into frames, and 6.5 ms late is too late already: it flows.
        let out = pair.outward();
        std::thread::sleep(WARM_UP);
        let rate = out.window(Duration::from_secs(2));
        println!("egress with 16 KiB of burst at 20 Mbit/s: {rate:?}");
        assert!(rate.passed < 21e6 && rate.payload > 15e6, "{rate:?}");
        out.end();
        // A rate that comes without one has the usual one again.
        pair.set(both(20_000_000, 20_000_000)).await;
        assert!(run(&format!("tc qdisc show dev {veth}")).contains("burst 12"));
        pair.network.close().await.unwrap();
    });
}

#[test]
fn a_change_under_load_to_a_bucket_smaller_than_the_queued_packets_goes_on_flowing() {
    let _alone = alone();
    on_a_host(async || {
        let pair = pair().await;
        let wait = |ms| std::thread::sleep(Duration::from_millis(ms));
        let begin: [(Begin, &str); 2] = [(Pair::outward, "egress"), (Pair::inward, "ingress")];
        for (begin, what) in begin {
            pair.set(both(50_000_000, 50_000_000)).await;
            let flow = begin(&pair);
            wait(700);
            pair.set(both(400_000, 400_000)).await;
            wait(2300);
            // Of what was queued most is lost, and TCP takes seconds to send it again.
            let mut windows = vec![];
            while windows.last().is_none_or(|w: &Window| w.payload < 200_000.0) {
                assert!(windows.len() < 5, "{what}: {windows:?}");
                windows.push(flow.window(Duration::from_secs(4)));
            }
            println!("{what} changed from 50 Mbit/s under load to 400 kbit/s: {windows:?}");
            assert!(windows.iter().all(|w| w.passed < 600_000.0), "{what}: {windows:?}");
            flow.end();
        }
        pair.network.close().await.unwrap();
    });
}

#[test]
fn every_rate_between_the_bounds_is_taken_by_the_kernel_as_written() {
    on_a_host(async || {
        let pair = pair().await;
        for rate in [8_000, 1_000_000, 999_999_992, 34_359_738_360, 34_359_738_368, 100_000_000_000]
        {
            for applied in pair.set(both(rate, rate)).await {
                assert_eq!(applied.written, applied.read_back);
            }
        }
        // One direction alone, then the other alone.
        let one_way = Bandwidth { egress_bits_per_s: Some(9_000_000), ..Bandwidth::default() };
        let rows = pair.set(one_way).await;
        assert_eq!((rows[0].read_back.as_str(), rows[1].read_back.as_str()), ("9mbit", "none"));
        let one_way = Bandwidth { ingress_bits_per_s: Some(9_000_000), ..Bandwidth::default() };
        let rows = pair.set(one_way).await;
        assert_eq!((rows[0].read_back.as_str(), rows[1].read_back.as_str()), ("none", "9mbit"));
        assert!(!links().contains(&pair.ifb()));

        let begin = std::time::Instant::now();
        for _ in 0..50 {
            pair.set(one_way).await;
        }
        println!("a live change: {:?}", begin.elapsed() / 50);
        pair.network.close().await.unwrap();
    });
}

#[test]
fn a_rate_out_of_bounds_changes_nothing() {
    on_a_host(async || {
        let pair = pair().await;
        pair.set(both(20_000_000, 20_000_000)).await;
        for (bandwidth, message) in [
            (both(1, 30_000_000), "egress_bits_per_s = 1 bit/s: allowed is 8kbit .. 100gbit"),
            (
                both(30_000_000, 100_000_000_001),
                "ingress_bits_per_s = 100000000001 bit/s: allowed is 8kbit .. 100gbit",
            ),
        ] {
            let e = pair.network.set_bandwidth(&pair.limited_end, &bandwidth).await.unwrap_err();
            assert_eq!(e.to_string(), message);
        }
        let veth = &pair.limited_end.host_interface;
        assert!(run(&format!("tc qdisc show dev {veth}")).contains("rate 20Mbit"));
        pair.network.close().await.unwrap();
    });
}

#[test]
fn a_failure_in_the_middle_leaves_the_limits_as_they_were() {
    on_a_host(async || {
        let pair = pair().await;
        let (veth, ifb) = (pair.limited_end.host_interface.clone(), pair.ifb());
        // Somebody else's qdisc where the second step wants to write.
        if let Err(why) = try_run(&format!("tc qdisc add dev {veth} root handle 5: htb")) {
            println!("SKIPPED: {why}");
            return pair.network.close().await.unwrap();
        }
        let set = async |b| pair.network.set_bandwidth(&pair.limited_end, &b).await;
        let e = set(both(20_000_000, 20_000_000)).await.unwrap_err();
        assert!(matches!(e, Error::ForeignQdisc { .. }), "{e}");
        assert!(e.to_string().starts_with(&format!("{veth} has a queueing")), "{e}");
        assert!(!links().contains(&ifb), "the first step is undone");
        assert!(!run(&format!("tc qdisc show dev {veth}")).contains("ingress"));

        let out = Bandwidth { egress_bits_per_s: Some(30_000_000), ..Bandwidth::default() };
        set(out).await.unwrap();
        set(both(20_000_000, 20_000_000)).await.unwrap_err();
        assert!(run(&format!("tc qdisc show dev {ifb}")).contains("rate 30Mbit"));
        assert!(run(&format!("tc qdisc show dev {veth}")).contains("htb"));
        pair.network.close().await.unwrap();
    });
}

#[test]
fn limiting_an_endpoint_that_is_gone_says_so() {
    on_a_host(async || {
        let pair = pair().await;
        run(&format!("ip link del {}", pair.limited_end.host_interface));
        let e = pair.network.set_bandwidth(&pair.limited_end, &both(20_000_000, 20_000_000)).await;
        assert!(matches!(e, Err(Error::Gone(_))), "{e:?}");
        pair.network.close().await.unwrap();
    });
}

#[test]
fn an_ifb_goes_with_the_disconnect() {
    on_a_host(async || {
        let pair = pair().await;
        pair.set(both(20_000_000, 20_000_000)).await;
        assert!(links().contains(&pair.ifb()));
        pair.network.disconnect(&pair.limited_end).await.unwrap();
        let (ifb, veth) = (pair.ifb(), pair.limited_end.host_interface.clone());
        support::eventually("ifb and veth are gone", || {
            let links = links();
            !links.contains(&ifb) && !links.contains(&veth)
        });
        pair.network.close().await.unwrap();
    });
}
