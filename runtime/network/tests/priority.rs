//! Who goes last in the host's queue, seen by round trips through that queue and by `nft`.

mod support;

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{BRIDGE, Container, TABLE, on_a_host, open, run};
use tenantry_network::{Bandwidth, Network, set_bandwidth_without_network};

const FAR: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);
const ECHO: u16 = 7000;
const SINK: u16 = 7001;
const BITS_PER_S: u64 = 20_000_000;
const BULK: Bandwidth = Bandwidth {
    egress_bits_per_s: None,
    ingress_bits_per_s: None,
    egress_burst_bytes: None,
    ingress_burst_bytes: None,
    egress_bulk: true,
};

/// A link from the host to a namespace of its own, where a queue of 120 ms can stand.
fn uplink() -> Container {
    let far = Container::new();
    run(&format!("ip link add up0 type veth peer name eth0 netns {}", far.pid));
    run("ip address add 10.98.0.1/30 dev up0");
    run("ip link set up0 up");
    run(&format!(
        "tc qdisc add dev up0 root handle 1: tbf rate {BITS_PER_S}bit burst 40k limit 300000"
    ));
    far.run(&format!("ip address add {FAR}/30 dev eth0"));
    far.run("ip link set eth0 up");
    far
}

/// Answers and takes at the far end until it is over.
fn serve(far: &Container, received: &Arc<AtomicU64>, is_over: &Arc<AtomicBool>) {
    let (received, is_over) = (received.clone(), is_over.clone());
    far.inside(move || {
        let bind = |port| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket
        };
        let (echo, sink, over) = (bind(ECHO), bind(SINK), is_over.clone());
        // Born in this namespace.
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            while !over.load(Ordering::Relaxed) {
                if let Ok((n, from)) = echo.recv_from(&mut buffer) {
                    let _ = echo.send_to(&buffer[..n], from);
                }
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while !is_over.load(Ordering::Relaxed) {
                let n = sink.recv(&mut buffer).unwrap_or(0);
                received.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
    });
}

/// Ends the threads of [`serve`] and [`flood`], also when the test fails.
struct Until(Arc<AtomicBool>);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Twice what the link takes.
fn flood(bulk: &Container, is_over: &Arc<AtomicBool>) {
    let is_over = is_over.clone();
    let _ = bulk.start(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let (begin, mut sent) = (Instant::now(), 0u64);
        while !is_over.load(Ordering::Relaxed) {
            if u128::from(sent * 1400 * 8)
                < begin.elapsed().as_micros() * u128::from(2 * BITS_PER_S) / 1_000_000
            {
                let _ = socket.send_to(&[0; 1400], (FAR, SINK));
                sent += 1;
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

/// The median; who gets no answer within half a second, as when it is dropped, took that long.
fn round_trip(from: &Container) -> Duration {
    from.inside(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut times: Vec<Duration> = (0..7)
            .map(|_| {
                let begin = Instant::now();
                socket.send_to(b"x", (FAR, ECHO)).unwrap();
                let _ = socket.recv(&mut [0; 8]);
                let time = begin.elapsed();
                std::thread::sleep(Duration::from_millis(10));
                time
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    })
}

fn listed() -> String {
    run(&format!("nft list set ip {TABLE} bulk"))
}

/// Bits per second that arrive at the far end for a second.
fn arriving(received: &AtomicU64) -> u64 {
    let (begin, before) = (Instant::now(), received.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs(1));
    let bytes = received.load(Ordering::Relaxed) - before;
    (bytes * 8 * 1000) / begin.elapsed().as_millis() as u64
}

async fn put_last(network: &Network, end: &tenantry_network::Endpoint) {
    let rows = network.set_bandwidth(end, &BULK).await.unwrap();
    let class = rows.iter().find(|row| row.resource == "network.priority").unwrap();
    assert_eq!((class.written.as_str(), class.read_back.as_str()), ("bulk", "bulk"));
    assert!(listed().contains(&end.address.to_string()), "{}", listed());
}

#[test]
fn who_goes_last_sends_what_the_others_leave_and_they_do_not_wait_for_it() {
    on_a_host(async || {
        let network = open().await;
        let (bulk, victim, far) = (Container::new(), Container::new(), uplink());
        let bulk_end = network.connect("bulk", bulk.pid, None).await.unwrap();
        network.connect("victim", victim.pid, None).await.unwrap();
        let (received, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let _until = Until(is_over.clone());
        serve(&far, &received, &is_over);
        let alone = round_trip(&victim);
        assert_eq!(network.standing_queue_knows_classes().unwrap(), None);

        flood(&bulk, &is_over);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(network.standing_queue_knows_classes().unwrap(), Some(false));
        // The bucket's own queue has one class; this one has three.
        run("tc qdisc add dev up0 parent 1:1 handle 10: pfifo_fast");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(network.standing_queue_knows_classes().unwrap(), Some(true));
        let beside = round_trip(&victim);
        put_last(&network, &bulk_end).await;
        std::thread::sleep(Duration::from_secs(1));
        let last = round_trip(&victim);
        let rate = arriving(&received);
        println!("alone {alone:?}, beside {beside:?}, the other last {last:?} at {rate} bit/s");
        assert!(beside > Duration::from_millis(20), "no queue stood: {beside:?}");
        assert!(last < alone + beside / 10, "{last:?}, alone {alone:?}, beside {beside:?}");
        assert!(rate * 100 > BITS_PER_S * 85, "it keeps what is left: {rate}");
        network.set_bandwidth(&bulk_end, &Bandwidth::default()).await.unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let again = round_trip(&victim);
        assert!(again > Duration::from_millis(20), "it is one among others again: {again:?}");
        run("ip link delete up0");
        network.close().await.unwrap();
    });
}

#[test]
fn an_address_leaves_the_last_class_with_its_container_or_by_a_shim() {
    on_a_host(async || {
        let network = open().await;
        let one = Container::new();
        let end = network.connect("one", one.pid, None).await.unwrap();
        let (address, name) = (end.address.to_string(), end.host_interface.clone());
        let none = Bandwidth::default();
        // Who never was in it costs no run of nft.
        let rows = network.set_bandwidth(&end, &none).await.unwrap();
        assert!(rows.iter().all(|row| row.resource != "network.priority"), "{rows:?}");
        put_last(&network, &end).await;
        put_last(&network, &end).await;
        let shim =
            || set_bandwidth_without_network(BRIDGE, &name, &none, Some((TABLE, end.address)));
        shim().unwrap();
        assert!(!listed().contains(&address), "{}", listed());
        shim().unwrap();
        // What the network remembers is not what it believes.
        put_last(&network, &end).await;
        // A bandwidth that is refused leaves the class as it is.
        let slow = Bandwidth { egress_bits_per_s: Some(1), ..none };
        assert!(network.set_bandwidth(&end, &slow).await.is_err());
        assert!(listed().contains(&address), "{}", listed());
        network.disconnect(&end).await.unwrap();
        assert!(!listed().contains(&address), "{}", listed());

        let next = Container::new();
        let wanted = Some(end.address);
        let end = network.connect("next", next.pid, wanted).await.unwrap();
        put_last(&network, &end).await;
        network.close().await.unwrap();
        set_bandwidth_without_network(
            BRIDGE,
            &end.host_interface,
            &none,
            Some((TABLE, end.address)),
        )
        .expect("no table, no class");
    });
}
