//! Rate limits, seen by `tc` and by what a receiver on the other side gets.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use support::{Container, datagram_rate, links, on_a_host, open, receive_rate, run, try_run};
use tenantry_network::{Bandwidth, Endpoint, Error, Network};

/// Measurements share two CPUs: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first losses leave the receiver with megabits that it had, out of order,
/// before the window and hands over within it.
const WARM_UP_MS: u64 = 2500;

fn both(egress: u64, ingress: u64) -> Bandwidth {
    Bandwidth { egress_bits_per_s: Some(egress), ingress_bits_per_s: Some(ingress) }
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
    /// TCP payload that arrives from, and at, the limited container, in bits
    /// per second.
    fn measure(&self, warm_up_ms: u64, window_ms: u64) -> (f64, f64) {
        let (w, d) = (Duration::from_millis(warm_up_ms), Duration::from_millis(window_ms));
        let out = receive_rate(&self.limited, &self.other, self.other_end.address, w, d);
        let into = receive_rate(&self.other, &self.limited, self.limited_end.address, w, d);
        (out, into)
    }

    async fn set(&self, bandwidth: Bandwidth) -> Vec<tenantry_network::Applied> {
        self.network.set_bandwidth(&self.limited_end, &bandwidth).await.unwrap()
    }

    fn ifb(&self) -> String {
        self.limited_end.host_interface.replace("veth", "ifb")
    }
}

#[track_caller]
fn assert_within_5_percent(what: &str, measured: f64, limit: u64) {
    let ratio = measured / limit as f64;
    println!("{what} at {} Mbit/s: payload {:.2} %", limit / 1_000_000, ratio * 100.0);
    assert!((0.95..=1.05).contains(&ratio), "{what}: {measured:.0} bit/s of {limit}");
}

#[test]
fn both_directions_are_within_5_percent_and_follow_a_live_change_and_a_removal() {
    let _alone = alone();
    on_a_host(async || {
        let pair = pair().await;
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

        let (out, into) = pair.measure(WARM_UP_MS, 3000);
        assert_within_5_percent("egress", out, 20_000_000);
        assert_within_5_percent("ingress", into, 50_000_000);

        pair.set(both(50_000_000, 20_000_000)).await;
        let (out, into) = pair.measure(WARM_UP_MS, 3000);
        assert_within_5_percent("egress", out, 50_000_000);
        assert_within_5_percent("ingress", into, 20_000_000);

        let applied = pair.set(Bandwidth::default()).await;
        assert!(applied.iter().all(|a| a.written == "none" && a.read_back == "none"));
        assert!(!links().contains(&ifb));
        let witness = run(&format!("tc qdisc show dev {veth}"));
        assert!(!witness.contains("tbf") && !witness.contains("ingress"), "{witness}");
        let (out, into) = pair.measure(100, 500);
        println!("not limited: out {:.0}, in {:.0} Mbit/s", out / 1e6, into / 1e6);
        assert!(out > 200e6 && into > 200e6, "{out} {into}");
        pair.network.close().await.unwrap();
    });
}

#[test]
fn udp_is_within_5_percent_too() {
    let _alone = alone();
    on_a_host(async || {
        let pair = pair().await;
        pair.set(both(20_000_000, 20_000_000)).await;
        let out = datagram_rate(&pair.limited, &pair.other, pair.other_end.address);
        assert_within_5_percent("UDP egress", out, 20_000_000);
        let into = datagram_rate(&pair.other, &pair.limited, pair.limited_end.address);
        assert_within_5_percent("UDP ingress", into, 20_000_000);
        pair.network.close().await.unwrap();
    });
}

#[test]
fn a_change_under_load_to_a_bucket_smaller_than_the_queued_packets_goes_on_flowing() {
    let _alone = alone();
    on_a_host(async || {
        let pair = pair().await;
        pair.set(both(50_000_000, 50_000_000)).await;
        let (network, end) = (&pair.network, &pair.limited_end);
        let slow = both(400_000, 400_000);
        let change = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            network.set_bandwidth(end, &slow).await.unwrap()
        };
        let (limited, other) = (&pair.limited, &pair.other);
        let (to, from) = (pair.other_end.address, pair.limited_end.address);
        let measure = |sender: &Container, receiver: &Container, address| {
            let (w, d) = (Duration::from_millis(3000), Duration::from_millis(4000));
            receive_rate(sender, receiver, address, w, d)
        };
        // The measuring blocks its thread; the change runs on another.
        let (out, _) = std::thread::scope(|s| {
            let out = s.spawn(|| measure(limited, other, to));
            let runtime = tokio::runtime::Handle::current();
            let changed = tokio::task::block_in_place(|| runtime.block_on(change));
            (out.join().unwrap(), changed)
        });
        println!("egress changed from 50 Mbit/s under load to 400 kbit/s: {out:.0} bit/s payload");
        assert!((200_000.0..600_000.0).contains(&out), "{out}");
        let into = measure(other, limited, from);
        println!("ingress at 400 kbit/s: {into:.0} bit/s payload");
        assert!((200_000.0..600_000.0).contains(&into), "{into}");
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
