//! What a question to a container's name server is answered with. Pure: bytes to bytes.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

/// Without EDNS (RFC 1035, 4.2.1).
const PLAIN_BYTES: usize = 512;
/// What we take in a datagram, as the field agrees on; loopback would carry more.
const EDNS_BYTES: u16 = 1232;
/// A container that starts again may have another address: asked again soon enough.
const TTL_S: u32 = 30;
const HEADER_BYTES: usize = 12;
/// In the third byte.
const RESPONSE: u8 = 0x80;

/// What is known here.
pub(crate) trait Known {
    fn addresses(&self, name: &str) -> Vec<IpAddr>;
    fn name_of(&self, address: IpAddr) -> Option<String>;
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Answer(Vec<u8>),
    /// Not ours to know.
    Forward,
    /// With an answer that says so, where there is an id to answer to.
    Malformed(Option<Vec<u8>>),
}

/// `over_tcp`: an answer may have any length.
pub(crate) fn judge(question: &[u8], known: &impl Known, over_tcp: bool) -> Verdict {
    let malformed = |code| Verdict::Malformed(error(question, code));
    let Ok(asked) = Message::from_vec(question) else { return malformed(ResponseCode::FormErr) };
    if asked.metadata.message_type != MessageType::Query {
        // Never answered: two servers would talk for ever.
        return Verdict::Malformed(None);
    }
    if asked.metadata.op_code != OpCode::Query {
        return malformed(ResponseCode::NotImp);
    }
    if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        // RFC 6891, 6.1.3: the answer says which version there is.
        return malformed(ResponseCode::BADVERS);
    }
    let [query] = asked.queries.as_slice() else { return malformed(ResponseCode::FormErr) };
    if query.query_class() != DNSClass::IN {
        return Verdict::Forward;
    }
    let answers = match query.query_type() {
        RecordType::PTR => {
            let Some(name) = pointed_at(query.name(), known) else { return Verdict::Forward };
            vec![RData::PTR(PTR(name))]
        }
        kind => {
            let addresses = known.addresses(&query.name().to_ascii());
            if addresses.is_empty() {
                return Verdict::Forward;
            }
            // None of them is an answer, too: the name is there, and has nothing of this type.
            addresses.into_iter().filter_map(|address| data_of(address, kind)).collect()
        }
    };
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = asked.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    for data in answers {
        answer.add_answer(Record::from_rdata(query.name().clone(), TTL_S, data));
    }
    let most = asked.edns.as_ref().map_or(PLAIN_BYTES, |edns| edns.max_payload().into());
    if asked.edns.is_some() {
        answer.set_edns(own_edns());
    }
    match answer.to_vec() {
        Ok(bytes) if over_tcp || bytes.len() <= most.max(PLAIN_BYTES) => Verdict::Answer(bytes),
        Ok(_) => answer.truncate().to_vec().map_or_else(|_| fault(question), Verdict::Answer),
        Err(_) => fault(question),
    }
}

fn data_of(address: IpAddr, kind: RecordType) -> Option<RData> {
    match (address, kind) {
        (IpAddr::V4(four), RecordType::A | RecordType::ANY) => Some(RData::A(A(four))),
        (IpAddr::V6(six), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(six))),
        _ => None,
    }
}

fn fault(question: &[u8]) -> Verdict {
    error(question, ResponseCode::ServFail).map_or(Verdict::Malformed(None), Verdict::Answer)
}

fn pointed_at(name: &Name, known: &impl Known) -> Option<Name> {
    let net = name.parse_arpa_name().ok()?;
    // All of an address, not the beginning of one.
    if net.prefix_len() != net.max_prefix_len() {
        return None;
    }
    Name::from_ascii(format!("{}.", known.name_of(net.addr())?)).ok()
}

fn own_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(EDNS_BYTES);
    edns
}

/// Nothing but a code, for this question; `None` if it has not even an id, or is an answer.
pub(crate) fn error(question: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let header = question.get(..HEADER_BYTES)?;
    if header[2] & RESPONSE != 0 {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let mut answer = Message::error_msg(id, OpCode::Query, code);
    answer.metadata.recursion_available = true;
    if let Ok(asked) = Message::from_vec(question) {
        answer.metadata.recursion_desired = asked.metadata.recursion_desired;
        answer.add_queries(asked.queries.iter().cloned());
        if asked.edns.is_some() {
            answer.set_edns(own_edns());
        }
    }
    answer.to_vec().ok()
}

/// Whether these bytes answer that question: id, direction, and what was asked. What follows
/// may be anything: it is for the asker to read.
pub(crate) fn answers(question: &[u8], bytes: &[u8]) -> bool {
    let (Some((asked, wanted)), Some((answer, given))) = (opening(question), opening(bytes)) else {
        return false;
    };
    let is_the_same = match (wanted, given) {
        (Some(wanted), Some(given)) => wanted == given,
        // Some servers leave the question out where they could not read it.
        (Some(_), None) => {
            matches!(
                answer.metadata.response_code,
                ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::Refused
            )
        }
        (None, _) => false,
    };
    is_the_same
        && answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
}

/// The header and the first question, if there is one.
fn opening(bytes: &[u8]) -> Option<(Header, Option<Query>)> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).ok()?;
    let query = match header.counts.queries {
        0 => None,
        _ => Some(Query::read(&mut decoder).ok()?),
    };
    Some((header, query))
}

/// SERVFAIL or REFUSED: another server may know.
pub(crate) fn is_no_help(answer: &[u8]) -> bool {
    matches!(answer.get(3).map(|flags| flags & 0x0f), Some(2 | 5))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 5, 0, 0, 0, 0, 0, 3);

    struct Fake;

    impl Known for Fake {
        fn addresses(&self, name: &str) -> Vec<IpAddr> {
            match name {
                "web." => vec![Ipv4Addr::new(10, 0, 0, 2).into()],
                "both." => vec![Ipv4Addr::new(10, 0, 0, 3).into(), SIX.into()],
                "many." => (0..100).map(|last| Ipv4Addr::new(10, 0, 1, last).into()).collect(),
                _ => vec![],
            }
        }

        fn name_of(&self, address: IpAddr) -> Option<String> {
            match address {
                IpAddr::V4(four) => (four.octets()[3] == 2).then(|| "web.front".to_owned()),
                IpAddr::V6(six) => (six == SIX).then(|| "both.front".to_owned()),
            }
        }
    }

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn answered(name: &str, kind: RecordType) -> Option<Message> {
        let question = question(name, kind);
        match judge(&question, &Fake, false) {
            Verdict::Answer(bytes) => {
                assert!(answers(&question, &bytes));
                Some(Message::from_vec(&bytes).unwrap())
            }
            _ => None,
        }
    }

    #[test]
    fn known_names_are_answered_and_others_are_left_to_others() {
        let answer = answered("web.", RecordType::A).unwrap();
        assert_eq!(answer.answers[0].data, RData::A(A(Ipv4Addr::new(10, 0, 0, 2))));
        assert!(answer.metadata.recursion_available && answer.metadata.id == 7);
        let none = answered("web.", RecordType::AAAA).unwrap();
        assert_eq!((none.answers.len(), none.metadata.response_code), (0, ResponseCode::NoError));
        assert!(answered("www.example.com.", RecordType::A).is_none());
        let pointer = answered("2.0.0.10.in-addr.arpa.", RecordType::PTR).unwrap();
        let name = Name::from_ascii("web.front.").unwrap();
        assert_eq!(pointer.answers[0].data, RData::PTR(PTR(name)));
        assert!(answered("3.0.0.10.in-addr.arpa.", RecordType::PTR).is_none());
    }

    #[test]
    fn each_family_has_a_type_of_its_own_and_pointers_lead_back_from_both() {
        let data = |kind| -> Vec<RData> {
            let answer = answered("both.", kind).unwrap();
            answer.answers.iter().map(|record| record.data.clone()).collect()
        };
        let (four, six) = (RData::A(A(Ipv4Addr::new(10, 0, 0, 3))), RData::AAAA(AAAA(SIX)));
        assert_eq!(data(RecordType::A), std::slice::from_ref(&four));
        assert_eq!(data(RecordType::AAAA), std::slice::from_ref(&six));
        assert_eq!(data(RecordType::ANY), [four, six]);
        let digits: String =
            SIX.octets().iter().rev().map(|b| format!("{:x}.{:x}.", b & 15, b >> 4)).collect();
        let pointer = answered(&format!("{digits}ip6.arpa."), RecordType::PTR).unwrap();
        let name = Name::from_ascii("both.front.").unwrap();
        assert_eq!(pointer.answers[0].data, RData::PTR(PTR(name)));
        assert!(answered("0.0.d.f.ip6.arpa.", RecordType::PTR).is_none());
    }

    #[test]
    fn an_answer_that_is_too_long_says_so_and_is_whole_over_tcp() {
        let cut = answered("many.", RecordType::A).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let question = question("many.", RecordType::A);
        let Verdict::Answer(bytes) = judge(&question, &Fake, true) else { panic!("no answer") };
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 100);
    }

    #[test]
    fn what_is_no_question_is_told_so_and_answers_are_not_answered() {
        let Verdict::Malformed(Some(bytes)) =
            judge(&[0, 7, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0], &Fake, false)
        else {
            panic!("it was taken");
        };
        assert_eq!(
            Message::from_vec(&bytes).unwrap().metadata.response_code,
            ResponseCode::FormErr
        );
        assert_eq!(judge(&[0, 7], &Fake, false), Verdict::Malformed(None));
        let torn = [0, 7, 0x81, 0, 0, 9, 0, 0, 0, 0, 0, 0];
        assert_eq!(judge(&torn, &Fake, false), Verdict::Malformed(None));
        let answer = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert_eq!(judge(&answer, &Fake, false), Verdict::Malformed(None));
    }

    #[test]
    fn edns_is_answered_with_edns_and_gives_room() {
        let asked = |version: u8| {
            let mut message = Message::from_vec(&question("many.", RecordType::A)).unwrap();
            let mut edns = Edns::new();
            edns.set_max_payload(4096).set_version(version);
            message.set_edns(edns);
            message.to_vec().unwrap()
        };
        let Verdict::Answer(bytes) = judge(&asked(0), &Fake, false) else { panic!("no answer") };
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (100, false));
        assert_eq!(answer.edns.unwrap().max_payload(), EDNS_BYTES);
        let Verdict::Malformed(Some(bytes)) = judge(&asked(1), &Fake, false) else {
            panic!("a version that does not exist yet is taken");
        };
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(u16::from(answer.metadata.response_code), 16);
        assert_eq!(answer.edns.unwrap().version(), 0);
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let asked = question("web.", RecordType::A);
        let Verdict::Answer(right) = judge(&asked, &Fake, false) else { panic!("no answer") };
        let check = |change: fn(&mut Vec<u8>), expected: bool| {
            let mut bytes = right.clone();
            change(&mut bytes);
            assert_eq!(answers(&asked, &bytes), expected, "{bytes:?}");
        };
        check(|_| {}, true);
        check(|bytes| bytes[1] ^= 1, false);
        // A question is not an answer.
        check(|bytes| bytes[2] &= 0x7f, false);
        // Letters' case may come back otherwise; another name, type or class may not.
        check(|bytes| bytes[13] = b'W', true);
        check(|bytes| bytes[13] = b'x', false);
        check(|bytes| bytes[18] = 28, false);
        check(|bytes| bytes[20] = 3, false);
        // Whatever stands behind the question.
        check(|bytes| bytes.truncate(21), true);
        // Without a question: only one that could not be read.
        check(|bytes| (bytes[3], bytes[5]) = (0x85, 0), true);
        check(|bytes| bytes[5] = 0, false);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = judge(&bytes, &Fake, false);
            let _ = answers(&bytes, &bytes);
        }
    }
}
