//! Questions to a name server of the test's own, against what that server received.

use std::sync::atomic::Ordering::Relaxed;

use tenantry_ebpf::{CallEvent, DnsCode, DnsCounters, DnsQuestions, Event, EventKind};

use crate::child::{Child, sleep_ms};
use crate::fixture::{Fixture, wait_until};
use crate::socket::{
    LOCALHOST, address, bind, close, enter_new_namespace, receive, receive_from, send_bytes,
    shared_words, stop, udp, udp_v6,
};
use crate::witness::{namespace_counters, wait_for_stop};

const A: u16 = 1;
const MX: u16 = 15;
const AAAA: u16 = 28;

/// A question, and the code that it is answered with.
struct Step {
    packet: Vec<u8>,
    code: Option<u8>,
    after_ms: i64,
}

/// A packet as RFC 1035 has it.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let header = [id, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    let labels = name.split('.').filter(|label| !label.is_empty());
    let labels = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    let end = [&[0][..], &kind.to_be_bytes(), &1_u16.to_be_bytes()].concat();
    header.into_iter().chain(labels).chain(end).collect()
}

fn step(id: u16, name: &str, kind: u16, code: impl Into<Option<u8>>) -> Step {
    Step { packet: question(id, name, kind), code: code.into(), after_ms: 0 }
}

/// Each question in turn through one socket; the server counts what it receives in `seen`.
/// Both are the caller's own, and the caller is one thread.
fn play<F: Copy>(steps: &[Step], client: i32, server: i32, at: &F, seen: &dyn Fn()) -> bool {
    if !bind(server, at) {
        return false;
    }
    steps.iter().all(|step| {
        let (mut buffer, mut from) = ([0; 600], *at);
        if !send_bytes(client, &step.packet, at) {
            return false;
        }
        let Ok(length) = usize::try_from(receive_from(server, &mut buffer, &mut from)) else {
            return false;
        };
        seen();
        let Some(code) = step.code else { return true };
        sleep_ms(step.after_ms);
        buffer[2] |= 0x80;
        buffer[3] = code;
        send_bytes(server, &buffer[..length], &from) && receive(client) == length as isize
    })
}

fn asked(f: &Fixture, slot: u32) -> DnsQuestions {
    f.meters().read_dns().expect("read").remove(&slot).unwrap_or_default()
}

fn of(questions: &DnsQuestions, name: &str) -> DnsCounters {
    let mut found = questions.names.iter().filter(|(one, _)| one == name);
    let (_, counters) = found.next().unwrap_or_else(|| panic!("no {name}: {questions:?}"));
    assert!(found.next().is_none(), "{name} twice");
    counters.clone()
}

/// Asked by type; answered by code; not answered.
fn check(counters: &DnsCounters, types: [u64; 3], codes: [u64; 5], unanswered: u64) {
    let found = [counters.a, counters.aaaa, counters.other_types];
    let answers = DnsCode::ALL.map(|code| counters.answers_of(code));
    assert_eq!((found, answers, counters.unanswered), (types, codes, unanswered));
    assert_eq!(counters.latency.count, codes.iter().sum::<u64>());
}

/// Plays all steps in a namespace and a container of its own, and leaves the socket open.
fn run_steps(f: &Fixture, steps: &[Step]) -> Child {
    let words = shared_words();
    let body = || {
        let seen = || {
            words[0].fetch_add(1, Relaxed);
        };
        let well = enter_new_namespace();
        if !well || !play(steps, udp(), udp(), &address(LOCALHOST, 53), &seen) {
            return 2;
        }
        stop();
        0
    };
    let mut child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    child.open_gate();
    wait_for_stop(&child);
    // What went through the namespace was questions and answers.
    let answers = steps.iter().filter(|step| step.code.is_some()).count();
    assert_eq!(words[0].load(Relaxed), steps.len() as u64);
    let witness = namespace_counters(child.pid, &["Udp"]);
    assert_eq!(witness["InDatagrams"], (steps.len() + answers) as u64);
    child
}

#[test]
fn questions_and_answers_are_counted_by_name_type_and_code() {
    let Some(f) = Fixture::share() else { return };
    let mut steps: Vec<Step> = (0..5).map(|id| step(id, "www.Example.COM", A, 0)).collect();
    steps.extend((0..4).map(|id| step(id, "WWW.example.com", AAAA, 3)));
    steps.extend((0..3).map(|id| step(id, "mail.example.org", MX, 2)));
    steps.extend((0..2).map(|id| step(id, "a.b.c.d.e.example.net", A, 5)));
    steps.push(step(9, "localhost", A, 4));
    steps.push(Step { after_ms: 60, ..step(10, "slow.example", A, 0) });
    let long = ["b".repeat(60), "c".repeat(40), "example".into()].join(".");
    steps.push(step(11, &long, A, 0));
    let of_v6 = "8.b.d.0.1.0.0.2.ip6.arpa".to_owned();
    steps.push(step(12, &format!("{}{of_v6}", "0.".repeat(24)), A, 0));
    let child = run_steps(&f, &steps);
    let questions = asked(&f, 1);
    check(&of(&questions, "www.example.com"), [5, 4, 0], [5, 4, 0, 0, 0], 0);
    check(&of(&questions, "mail.example.org"), [0, 0, 3], [0, 0, 3, 0, 0], 0);
    check(&of(&questions, "d.e.example.net"), [2, 0, 0], [0, 0, 0, 2, 0], 0);
    check(&of(&questions, "localhost"), [1, 0, 0], [0, 0, 0, 0, 1], 0);
    check(&of(&questions, &format!("{}.example", "c".repeat(40))), [1, 0, 0], [1, 0, 0, 0, 0], 0);
    check(&of(&questions, "0.2.ip6.arpa"), [1, 0, 0], [1, 0, 0, 0, 0], 0);
    assert_eq!(questions.names.len(), 7, "{questions:?}");
    // The server waited for 60 ms; the machine is busy, and more so when it is emulated.
    let slow = of(&questions, "slow.example").latency;
    println!("60 ms took {} ns", slow.sum_ns);
    assert!((60_000_000..2_000_000_000).contains(&slow.sum_ns), "{slow:?}");
    let quick = of(&questions, "www.example.com").latency;
    // Of these there are nine: the emulator's single slow one may take as long.
    assert!(quick.sum_ns / quick.count < slow.sum_ns / slow.count, "{quick:?}");
    drop(child);
}

#[test]
fn a_question_that_is_asked_again_or_given_up_had_no_answer() {
    let Some(f) = Fixture::share() else { return };
    let mut steps = vec![step(1, "late.example", A, None), step(1, "late.example", A, 0)];
    steps.extend((2..5).map(|id| step(id, "never.example", AAAA, None)));
    let child = run_steps(&f, &steps);
    let questions = asked(&f, 1);
    check(&of(&questions, "late.example"), [2, 0, 0], [1, 0, 0, 0, 0], 1);
    check(&of(&questions, "never.example"), [0, 3, 0], [0; 5], 0);
    drop(child);
    wait_until("the socket to be closed", || of(&asked(&f, 1), "never.example").unanswered == 3);
    check(&of(&asked(&f, 1), "late.example"), [2, 0, 0], [1, 0, 0, 0, 0], 1);
    assert_eq!(f.meters().lost().unwrap().dns_questions, 0);
}

#[test]
fn more_questions_at_once_than_a_socket_has_places_are_counted_as_lost_from_sight() {
    let Some(f) = Fixture::share() else { return };
    let steps: Vec<Step> = (0..20).map(|id| step(id, "many.example", A, None)).collect();
    drop(run_steps(&f, &steps));
    wait_until("the socket to be closed", || of(&asked(&f, 1), "many.example").unanswered == 16);
    check(&of(&asked(&f, 1), "many.example"), [20, 0, 0], [0; 5], 16);
    assert_eq!(f.meters().lost().unwrap().dns_questions, 4);
}

#[test]
fn names_beyond_a_slots_share_and_what_is_no_name_are_added_up() {
    let Some(f) = Fixture::share() else { return };
    let mut steps: Vec<Step> = (0..300).map(|n| step(n, &format!("n{n}.example"), A, 3)).collect();
    // The root; a label that is a pointer; more labels than any name has. Of the last two not
    // even the type is known.
    steps.push(step(1000, "", MX, 0));
    let mut pointer = step(1001, "x", A, 1);
    pointer.packet[12] = 0xc0;
    steps.push(pointer);
    steps.push(step(1002, &"x.".repeat(41), A, 0));
    let child = run_steps(&f, &steps);
    let questions = asked(&f, 1);
    assert_eq!(questions.names.len(), 256);
    questions.names.iter().for_each(|(_, one)| check(one, [1, 0, 0], [0, 1, 0, 0, 0], 0));
    check(&f.read(1).dns_other, [44, 0, 3], [2, 44, 0, 0, 1], 0);
    assert_eq!(f.meters().lost().unwrap().dns_names, 44);
    drop(child);

    f.meters().reset(1).unwrap();
    f.meters().register(1, &f.stranger(1).ids()).unwrap();
    assert_eq!(asked(&f, 1), DnsQuestions::default());
    assert_eq!(f.read(1).dns_other.queries(), 0);
}

#[test]
fn over_ipv6_it_is_the_same_and_other_ports_are_no_name_servers() {
    let Some(f) = Fixture::share() else { return };
    let steps = [step(1, "six.example", AAAA, 0), step(2, "six.example", A, 0)];
    let body = || {
        let well = enter_new_namespace();
        let ((client, _), (server, at)) = (udp_v6(0), udp_v6(53));
        let elsewhere = address(LOCALHOST, 5300);
        let count = || ();
        let done = play(&steps, client, server, &at, &count)
            && play(&steps, udp(), udp(), &elsewhere, &count);
        close(client);
        if !well || !done {
            return 2;
        }
        stop();
        0
    };
    let mut child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    child.open_gate();
    wait_for_stop(&child);
    let questions = asked(&f, 1);
    check(&of(&questions, "six.example"), [1, 1, 0], [2, 0, 0, 0, 0], 0);
    assert_eq!(f.read(1).udp.loopback.tx_packets, 8);
}

fn question_events(events: Vec<Event>) -> Vec<CallEvent> {
    let call = |event| match event {
        Event::Call(call) if call.kind == EventKind::Dns => Some(*call),
        _ => None,
    };
    events.into_iter().filter_map(call).collect()
}

#[test]
fn each_question_is_an_event_with_its_whole_name() {
    let Some(mut f) = Fixture::share() else { return };
    let long = ["b".repeat(60), "c".repeat(60), "d".repeat(60), "e".repeat(60)].join(".");
    let names = ["www.Example.COM", "a.b.c.d.e.f.example.net", long.as_str()];
    let mut steps: Vec<Step> = names.iter().map(|name| step(1, name, AAAA, 0)).collect();
    let mut odd = step(2, "x.y", MX, 0);
    odd.packet[13] = b' ';
    steps.push(odd);
    // A pointer where the name should be: what there is, and no type.
    let mut pointer = step(3, "x", A, 1);
    pointer.packet[12] = 0xc0;
    steps.push(pointer);
    let child = run_steps(&f, &steps);
    let events = question_events(f.events());
    let asked = |event: &CallEvent| event.question.clone().unwrap();
    let found: Vec<_> = events.iter().map(|event| (asked(event).name, asked(event).kind)).collect();
    let plain = names.map(|name| (name.to_owned(), AAAA));
    assert_eq!(found[..3], plain);
    assert_eq!(found[3], ("\\032.y".into(), MX));
    assert_eq!((found.len(), found[4].1), (5, 0));
    for event in &events {
        assert_eq!((event.header.pid, event.header.slot), (child.pid as u32, 1));
        let socket = event.socket.clone().unwrap();
        let remote = socket.remote.unwrap();
        assert_eq!(
            (remote.to_string().as_str(), socket.transport()),
            ("127.0.0.1:53", Some("udp"))
        );
        assert_ne!(socket.local.unwrap().port(), 0);
    }
    let counters = f.read(1).events.of(EventKind::Dns);
    assert_eq!((counters.produced, counters.lost), (5, 0));
}

#[test]
fn questions_that_found_no_room_in_the_ring_are_counted() {
    let Some(mut f) = Fixture::load(|options| options.ring_bytes = 8192) else { return };
    let steps: Vec<Step> = (0..300).map(|id| step(id, "many.example", A, None)).collect();
    let child = run_steps(&f, &steps);
    let delivered = question_events(f.events()).len() as u64;
    let counters = f.read(1).events.of(EventKind::Dns);
    // The server of the test's own received as many.
    assert_eq!((counters.produced, counters.produced - counters.lost), (300, delivered));
    assert!(counters.lost > 0, "the ring was never full");
    drop(child);
}
