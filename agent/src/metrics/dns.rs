//! What each container asks name servers for: a few domains by name, the rest as `other`.

use std::fmt::Error;

use tenantry_ebpf::{DnsCode, DnsCounters};

use super::buckets::{Buckets, NAME_SERVER};
use super::family::Families;
use super::{Base, base};
use crate::report::ContainerReport;

type Labels<'a> = (Base<'a>, [(&'static str, &'a str); 1]);

/// The failures that someone may wait for: these begin with 0, others when they occur.
const EXPECTED: [DnsCode; 2] = [DnsCode::NxDomain, DnsCode::ServFail];

pub(super) fn encode(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    f.counter(
        "tenantry_dns_queries_total",
        "Questions to port 53 over UDP by the name's registered domain, each time they were asked",
        all(containers).flat_map(|(labels, asked)| {
            [("A", asked.a), ("AAAA", asked.aaaa), ("other", asked.other_types)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(move |(kind, count)| ((labels, [("type", kind)]), count))
        }),
    )?;
    f.counter(
        "tenantry_dns_failures_total",
        "Questions that were answered with an error; none is one that had no answer before it \
         was asked again or its socket was closed",
        all(containers).flat_map(|(labels, asked)| {
            failures(asked).map(move |(code, count)| ((labels, [("rcode", code)]), count))
        }),
    )?;
    f.histogram(
        "tenantry_dns_latency_seconds",
        "Time from a question to its answer's arrival at the socket, whatever the answer",
        all(containers).filter_map(|(labels, asked)| {
            Some((labels, Buckets::cut(&asked.latency, NAME_SERVER)?))
        }),
    )
}

fn all(containers: &[ContainerReport]) -> impl Iterator<Item = (Labels<'_>, &DnsCounters)> {
    let shown = containers.iter().filter_map(|one| Some((base(one), one.domains.as_ref()?)));
    shown.flat_map(|(base, shown)| {
        let seated = shown.seated.iter().map(|(domain, asked)| (domain.as_str(), asked));
        let other = shown.other.iter().map(|asked| ("other", asked));
        seated.chain(other).map(move |(domain, asked)| ((base, [("domain", domain)]), asked))
    })
}

fn failures(asked: &DnsCounters) -> impl Iterator<Item = (&'static str, u64)> {
    let answered = DnsCode::ALL
        .into_iter()
        .filter(|code| *code != DnsCode::NoError)
        .map(|code| (code, asked.answers_of(code)))
        .filter(|(code, count)| EXPECTED.contains(code) || *count > 0)
        .map(|(code, count)| (code.name(), count));
    answered.chain([("none", asked.unanswered)])
}
