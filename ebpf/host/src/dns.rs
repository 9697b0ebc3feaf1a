//! What a slot's sockets ask name servers over UDP, as a caller reads it. Pure.

use std::ops::{Add, AddAssign};

use tenantry_abi as abi;

use crate::Histogram;

/// Of one name, or of several together. Asked = answered + unanswered + still waiting, but
/// for questions that were lost from sight ([`Lost::dns_questions`](crate::Lost)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsCounters {
    /// Questions for an IPv4 address.
    pub a: u64,
    /// Questions for an IPv6 address.
    pub aaaa: u64,
    pub other_types: u64,
    /// Answers by code.
    pub answers: [u64; abi::DNS_CODES],
    /// Asked again, or its socket was closed, before an answer came.
    pub unanswered: u64,
    /// From the question's way out to its answer's arrival at the socket.
    pub latency: Histogram,
}

/// The code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DnsCode {
    NoError,
    NxDomain,
    ServFail,
    Refused,
    Other,
}

/// What one slot asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsQuestions {
    /// The last labels of names, four at most, in lower case, and what was asked of them.
    pub names: Vec<(String, DnsCounters)>,
    /// Of names that are none.
    pub other: DnsCounters,
}

impl DnsCode {
    pub const ALL: [DnsCode; abi::DNS_CODES] =
        [DnsCode::NoError, DnsCode::NxDomain, DnsCode::ServFail, DnsCode::Refused, DnsCode::Other];

    /// As `dig` shows it; `other` for the rest.
    pub fn name(self) -> &'static str {
        match self {
            DnsCode::NoError => "NOERROR",
            DnsCode::NxDomain => "NXDOMAIN",
            DnsCode::ServFail => "SERVFAIL",
            DnsCode::Refused => "REFUSED",
            DnsCode::Other => "other",
        }
    }

    fn index(self) -> usize {
        match self {
            DnsCode::NoError => abi::DNS_NOERROR,
            DnsCode::NxDomain => abi::DNS_NXDOMAIN,
            DnsCode::ServFail => abi::DNS_SERVFAIL,
            DnsCode::Refused => abi::DNS_REFUSED,
            DnsCode::Other => abi::DNS_OTHER_CODE,
        }
    }
}

impl DnsCounters {
    pub fn queries(&self) -> u64 {
        self.a + self.aaaa + self.other_types
    }

    pub fn answers_of(&self, code: DnsCode) -> u64 {
        self.answers[code.index()]
    }
}

impl Add<&DnsCounters> for DnsCounters {
    type Output = Self;

    fn add(mut self, other: &Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign<&DnsCounters> for DnsCounters {
    fn add_assign(&mut self, other: &Self) {
        self.a += other.a;
        self.aaaa += other.aaaa;
        self.other_types += other.other_types;
        for (sum, more) in self.answers.iter_mut().zip(other.answers) {
            *sum += more;
        }
        self.unanswered += other.unanswered;
        self.latency += &other.latency;
    }
}

pub(crate) fn counters(raw: &abi::DnsCounts) -> DnsCounters {
    DnsCounters {
        a: raw.queries[abi::DNS_A],
        aaaa: raw.queries[abi::DNS_AAAA],
        other_types: raw.queries[abi::DNS_OTHER_TYPE],
        answers: raw.answers,
        unanswered: raw.unanswered,
        latency: Histogram::sum([&raw.latency].into_iter()),
    }
}

/// An empty row for a slot's next holder: sockets of the last one know it by the generation
/// and leave it alone.
pub(crate) fn next_generation(last: &abi::Dns) -> abi::Dns {
    let empty: abi::Dns = zerocopy::FromZeros::new_zeroed();
    abi::Dns { generation: last.generation.wrapping_add(1), ..empty }
}

/// One row of the table into its slot's questions; a row that is just being made is left out.
pub(crate) fn add_row(questions: &mut DnsQuestions, row: &abi::DnsName) {
    let bytes = usize::try_from(row.name_bytes).unwrap_or(usize::MAX);
    let Some(wire) = row.name.get(..bytes).filter(|wire| !wire.is_empty()) else { return };
    let counters = counters(&row.counts);
    match text(wire) {
        Some(name) => questions.names.push((name, counters)),
        None => questions.other += &counters,
    }
}

/// Labels behind their lengths with dots between them; `None` if it is no name that a host
/// could have: a packet may carry any bytes.
fn text(mut wire: &[u8]) -> Option<String> {
    let mut name = String::new();
    while let Some((length, rest)) = wire.split_first() {
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if label.is_empty() || !label.iter().all(plain) {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(*byte)));
        wire = rest;
    }
    Some(name)
}

/// As a zone file has it, whatever bytes it is made of: `\.` and `\032` within a label. What is
/// shorter than its lengths say ends where it ends.
pub(crate) fn written_out(mut wire: &[u8]) -> String {
    let mut name = String::new();
    while let Some((length, rest)) = wire.split_first() {
        let (label, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            match byte {
                b'.' | b'\\' => name.extend(['\\', char::from(*byte)]),
                _ if byte.is_ascii_graphic() => name.push(char::from(*byte)),
                _ => name.push_str(&format!("\\{byte:03}")),
            }
        }
        wire = rest;
    }
    name
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn names_are_labels_behind_their_lengths() {
        let check = |wire: &[u8], expected: Option<&str>| {
            assert_eq!(text(wire).as_deref(), expected, "{wire:?}");
        };
        check(b"\x03www\x07example\x03com", Some("www.example.com"));
        check(b"\x09localhost", Some("localhost"));
        check(b"\x05_http\x04_tcp", Some("_http._tcp"));
        check(b"\x0cxn--mnchen-3", Some("xn--mnchen-3"));
        check(b"\x03a.b", None);
        check(b"\x03a\"b", None);
        check(b"\x03\xff\xfe\xfd", None);
        check(b"\x00", None);
        // Longer than what is there.
        check(b"\x05abc", None);
    }

    #[test]
    fn a_name_of_any_bytes_can_be_written_out() {
        let check = |wire: &[u8], expected: &str| assert_eq!(written_out(wire), expected);
        check(b"\x03www\x07Example\x03com", "www.Example.com");
        check(b"\x03a.b\x02\\ ", "a\\.b.\\\\\\032");
        check(b"\x02\xff\x00", "\\255\\000");
        check(b"\xc0\x0c", "\\012");
        check(b"\x05abc", "abc");
        check(b"", "");
    }

    #[test]
    fn a_row_without_its_name_yet_is_left_out_and_one_that_is_no_name_is_other() {
        let mut row = abi::DnsName::new_zeroed();
        row.counts.queries[abi::DNS_AAAA] = 2;
        row.counts.answers[abi::DNS_SERVFAIL] = 1;
        let mut questions = DnsQuestions::default();
        add_row(&mut questions, &row);
        assert_eq!(questions, DnsQuestions::default());
        row.name[..3].copy_from_slice(b"\x02no");
        row.name_bytes = 3;
        add_row(&mut questions, &row);
        row.name[1] = b' ';
        add_row(&mut questions, &row);
        let (name, counters) = &questions.names[0];
        assert_eq!((name.as_str(), counters.aaaa, counters.queries()), ("no", 2, 2));
        assert_eq!(counters.answers_of(DnsCode::ServFail), 1);
        assert_eq!((questions.names.len(), &questions.other), (1, counters));
        row.name_bytes = 65;
        add_row(&mut questions, &row);
        assert_eq!(questions.names.len(), 1);
    }

    #[test]
    fn counters_add_up() {
        let mut raw = abi::DnsCounts::new_zeroed();
        raw.queries = [1, 2, 3];
        raw.answers = [4, 5, 6, 7, 8];
        raw.unanswered = 9;
        raw.latency.sum_ns = 10;
        raw.latency.buckets[3] = 11;
        let once = counters(&raw);
        let twice = once.clone() + &once;
        assert_eq!((twice.queries(), twice.unanswered), (12, 18));
        assert_eq!(DnsCode::ALL.map(|code| twice.answers_of(code)), [8, 10, 12, 14, 16]);
        assert_eq!((twice.latency.sum_ns, twice.latency.count), (20, 22));
    }

    #[test]
    fn a_new_holder_gets_an_empty_row_of_another_generation() {
        let last = abi::Dns { generation: 4, names: 7, ..FromZeros::new_zeroed() };
        let next = next_generation(&last);
        assert_eq!((next.generation, next.names), (5, 0));
    }
}
