//! How fast a container may send and receive: set, changed while it runs,
//! removed, read back.
//!
//! Owns the root qdisc of a container's host veth (a token bucket on what goes
//! into the container), its ingress qdisc, and one ifb per limited sender: what
//! the container sends is redirected there and passes a token bucket before it
//! reaches the bridge. Who goes last is in our nftables table. All of it is on the host: the
//! container cannot reach it.
//! Called by [`crate::Network::set_bandwidth`].

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::decode::{Link, Qdisc, Tbf};
use crate::error::{Error, Result};
use crate::firewall;
use crate::link;
use crate::netlink::Netlink;
use crate::qdisc;
use crate::rate::{Bucket, render_rate, validate_burst, validate_rate};

/// Major numbers of the token buckets' handles, by which the meters know that who waits there
/// waits for nobody else: they know them under the same name.
pub const BANDWIDTH_MAJORS: [u16; 2] = [0x7e41, 0x7e42];

/// From the container: egress is what it sends. `None`: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    pub egress_bits_per_s: Option<u64>,
    pub ingress_bits_per_s: Option<u64>,
    /// How much may pass at once after a pause; `None`: what takes 50 ms, and at least what
    /// one long packet needs. Nothing without the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_burst_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_burst_bytes: Option<u64>,
    /// What the container sends to elsewhere goes after what others send, in a queue of the
    /// host's that knows classes (`pfifo_fast`, `prio`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub egress_bulk: bool,
}

impl Bandwidth {
    /// # Errors
    /// [`Error::Invalid`] for a rate below 8 kbit/s or above 100 Gbit/s, and for a burst
    /// below 4 KiB, above 16 MiB or what the rate takes a minute for, or without a rate.
    pub fn validate(&self) -> Result<()> {
        let check =
            |names: [&'static str; 2], rate: Option<u64>, burst: Option<u64>| match (rate, burst) {
                (None, None) => Ok(()),
                (Some(rate), None) => validate_rate(names[0], rate),
                (Some(rate), Some(burst)) => {
                    validate_rate(names[0], rate)?;
                    validate_burst(names[1], burst, rate)
                }
                (None, Some(burst)) => Err(Error::Invalid {
                    field: names[1],
                    value: format!("{burst} bytes"),
                    allowed: format!("a burst together with {}", names[0]),
                }),
            };
        let egress = ["egress_bits_per_s", "egress_burst_bytes"];
        let ingress = ["ingress_bits_per_s", "ingress_burst_bytes"];
        check(egress, self.egress_bits_per_s, self.egress_burst_bytes)?;
        check(ingress, self.ingress_bits_per_s, self.ingress_burst_bytes)
    }
}

/// One limit as it was written and as the kernel then reported it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub resource: String,
    pub actuator: String,
    /// `20mbit`, `20mbit burst 65536` (bytes) where one was chosen, or `none`; of
    /// [`Bandwidth::egress_bulk`] `bulk` or `none`.
    pub written: String,
    pub read_back: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buckets {
    egress: Option<Bucket>,
    ingress: Option<Bucket>,
}

/// The ifb of a host veth: same suffix, other prefix.
pub(crate) fn ifb_name(host_interface: &str) -> String {
    format!("ifb{}", host_interface.strip_prefix("veth").unwrap_or(host_interface))
}

/// All or nothing: after an error the limits are as they were before.
///
/// # Errors
/// [`Error::Invalid`] before anything is written; [`Error::Gone`] if the veth
/// is; [`Error::ForeignQdisc`]; [`Error::Mismatch`] if the kernel took something else than was written.
pub(crate) fn apply(
    netlink: &mut Netlink,
    bridge: &str,
    host_interface: &str,
    wanted: &Bandwidth,
) -> Result<Vec<Applied>> {
    wanted.validate()?;
    let veth = link::find(netlink, host_interface)?
        .ok_or_else(|| Error::Gone(host_interface.to_owned()))?;
    let before = read(netlink, &veth)?;
    let buckets = Buckets {
        egress: wanted.egress_bits_per_s.map(|r| Bucket::new(r, wanted.egress_burst_bytes)),
        ingress: wanted.ingress_bits_per_s.map(|r| Bucket::new(r, wanted.ingress_burst_bytes)),
    };
    let outcome = write(netlink, bridge, &veth, &buckets)
        .and_then(|()| compare(&veth.name, &buckets, &read(netlink, &veth)?));
    if outcome.is_err()
        && let Err(e) = write(netlink, bridge, &veth, &before)
    {
        tracing::error!(interface = veth.name, error = %e, "bandwidth limits left as they are");
    }
    outcome
}

/// As [`apply`], for a program that has no [`crate::Network`]: an agent that is gone has left
/// a limit that nobody else takes back. A veth that is gone has none. `bulk`: our table and
/// an address that goes first again; no error if the table is gone.
///
/// # Errors
/// As [`crate::Network::set_bandwidth`].
pub fn set_bandwidth_without_network(
    bridge: &str,
    host_interface: &str,
    wanted: &Bandwidth,
    bulk: Option<(&str, Ipv4Addr)>,
) -> Result<()> {
    // One does not depend on the other.
    let first_again = match bulk {
        Some((table, address)) => firewall::remove_bulk(table, address),
        None => Ok(()),
    };
    match apply(&mut Netlink::open()?, bridge, host_interface, wanted) {
        Ok(_) | Err(Error::Gone(_)) => first_again,
        Err(error) => Err(error),
    }
}

/// Puts an address in the last class, or takes it out, whatever the table says now: a shim may
/// have been there meanwhile.
///
/// # Errors
/// [`Error::Firewall`]; [`Error::Mismatch`] if the table does not say so afterwards.
pub(crate) fn set_bulk(table: &str, address: Ipv4Addr, is_bulk: bool) -> Result<Applied> {
    match is_bulk {
        true => firewall::add_bulk(table, address)?,
        false => firewall::remove_bulk(table, address)?,
    }
    let word = |is_bulk| if is_bulk { "bulk" } else { "none" }.to_owned();
    let actuator = format!("class of {address} in the nftables table {table}");
    let found = match firewall::is_bulk(table, address) {
        // Somebody has flushed all tables: it is out of the class.
        Err(_) if !is_bulk && !firewall::has_table(table)? => false,
        found => found?,
    };
    let (written, read_back) = (word(is_bulk), word(found));
    match written == read_back {
        true => Ok(Applied { resource: "network.priority".into(), actuator, written, read_back }),
        false => Err(Error::Mismatch { actuator, written, read_back }),
    }
}

fn read(netlink: &mut Netlink, veth: &Link) -> Result<Buckets> {
    let ingress = read_bucket(netlink, veth)?;
    let egress = match read_path_through_ifb(netlink, veth)? {
        Some(ifb) => read_bucket(netlink, &ifb)?,
        None => None,
    };
    Ok(Buckets { egress, ingress })
}

/// The ifb, if it exists and the veth's traffic really goes there.
fn read_path_through_ifb(netlink: &mut Netlink, veth: &Link) -> Result<Option<Link>> {
    let Some(ifb) = link::find(netlink, &ifb_name(&veth.name))? else { return Ok(None) };
    if !has_own_ingress(netlink, veth)? {
        return Ok(None);
    }
    let target = qdisc::read_redirect(netlink, veth.index, &veth.name)?;
    Ok((target == Some(ifb.index)).then_some(ifb))
}

/// `clsact`, which somebody else may have put there, is not ours to touch.
fn has_own_ingress(netlink: &mut Netlink, veth: &Link) -> Result<bool> {
    let present = qdisc::read_ingress(netlink, veth.index, &veth.name)?;
    Ok(present.is_some_and(|q| q.kind == "ingress"))
}

fn read_bucket(netlink: &mut Netlink, link: &Link) -> Result<Option<Bucket>> {
    Ok(qdisc::read_root(netlink, link.index, &link.name)?.and_then(|q| q.tbf).map(bucket_of))
}

fn bucket_of(tbf: Tbf) -> Bucket {
    Bucket {
        rate_bytes_per_s: tbf.rate_bytes_per_s,
        burst_bytes: u32::try_from(tbf.burst_bytes).unwrap_or(u32::MAX),
        queue_bytes: tbf.queue_bytes,
    }
}

fn write(netlink: &mut Netlink, bridge: &str, veth: &Link, buckets: &Buckets) -> Result<()> {
    write_egress(netlink, bridge, veth, buckets.egress.as_ref())?;
    write_bucket(netlink, veth, buckets.ingress.as_ref())
}

fn write_egress(
    netlink: &mut Netlink,
    bridge: &str,
    veth: &Link,
    bucket: Option<&Bucket>,
) -> Result<()> {
    if let (Some(ifb), Some(bucket)) = (read_path_through_ifb(netlink, veth)?, bucket) {
        return write_bucket(netlink, &ifb, Some(bucket));
    }
    // Whatever half of the path is there goes first: the redirect before the
    // ifb, because packets redirected to a deleted link are dropped.
    if has_own_ingress(netlink, veth)? {
        qdisc::delete_ingress(netlink, veth.index, &veth.name)?;
    }
    let name = ifb_name(&veth.name);
    let Some(bucket) = bucket else {
        return link::delete(netlink, &name).map(|_| ());
    };
    if link::find(netlink, &name)?.is_none() {
        link::create_ifb(netlink, &name)?;
    }
    link::set_alias(netlink, &name, &link::alias(bridge, &format!("ifb {}", veth.name)))?;
    let ifb = link::find(netlink, &name)?.ok_or(Error::Gone(name))?;
    // The bucket before the redirect: nothing passes unlimited.
    write_bucket(netlink, &ifb, Some(bucket))?;
    qdisc::add_ingress(netlink, veth.index, &veth.name)?;
    qdisc::add_redirect(netlink, veth.index, &veth.name, ifb.index)
}

fn write_bucket(netlink: &mut Netlink, link: &Link, bucket: Option<&Bucket>) -> Result<()> {
    let present = qdisc::read_root(netlink, link.index, &link.name)?;
    match bucket {
        Some(bucket) => {
            if let Some(other) = present.as_ref().filter(|qdisc| is_somebody_elses(qdisc)) {
                let (interface, kind) = (link.name.clone(), other.kind.clone());
                return Err(Error::ForeignQdisc { interface, kind });
            }
            let major = choose_major(present.as_ref(), bucket);
            qdisc::set_tbf(netlink, link.index, &link.name, major, bucket)
        }
        None if present.is_some_and(|q| q.tbf.is_some()) => {
            qdisc::delete_root(netlink, link.index, &link.name)
        }
        None => Ok(()),
    }
}

/// What the kernel puts there by itself has no handle.
fn is_somebody_elses(root: &Qdisc) -> bool {
    root.handle != 0 && root.tbf.is_none()
}

/// The present bucket's handle changes it in place, keeping its queue. But a
/// queued packet that is longer than the new bucket would stand there for ever,
/// so then the other handle puts a new one in its place.
fn choose_major(present: Option<&Qdisc>, next: &Bucket) -> u16 {
    let [first, second] = BANDWIDTH_MAJORS;
    let Some((qdisc, tbf)) = present.and_then(|q| Some((q, q.tbf?))) else { return first };
    let major = (qdisc.handle >> 16) as u16;
    match bucket_of(tbf).may_hold_packets_too_long_for(next) {
        true if major == first => second,
        true => first,
        false => major,
    }
}

fn compare(host_interface: &str, written: &Buckets, read: &Buckets) -> Result<Vec<Applied>> {
    let ifb = ifb_name(host_interface);
    let row = |resource: &str, actuator, written: Option<Bucket>, read: Option<Bucket>| {
        let same = match (written, read) {
            (Some(w), Some(r)) => r.is_kept_as(&w),
            (w, r) => w == r,
        };
        let (written, read_back) = (render(written), render(read));
        match same {
            true => Ok(Applied { resource: resource.to_owned(), actuator, written, read_back }),
            false => Err(Error::Mismatch { actuator, written, read_back }),
        }
    };
    Ok(vec![
        row(
            "network.egress",
            format!("tbf on {ifb} (redirected from {host_interface})"),
            written.egress,
            read.egress,
        )?,
        row(
            "network.ingress",
            format!("tbf on {host_interface} (host side)"),
            written.ingress,
            read.ingress,
        )?,
    ])
}

fn render(bucket: Option<Bucket>) -> String {
    let Some(bucket) = bucket else { return "none".to_owned() };
    let rate = render_rate(bucket.bits_per_s());
    // Only one that somebody chose is worth telling.
    match bucket.is_kept_as(&Bucket::for_rate(bucket.bits_per_s())) {
        true => rate,
        false => format!("{rate} burst {}", bucket.burst_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_checked_before_anything_is_written() {
        assert!(Bandwidth::default().validate().is_ok());
        let slow = Bandwidth { ingress_bits_per_s: Some(1), ..Bandwidth::default() };
        assert_eq!(
            slow.validate().unwrap_err().to_string(),
            "ingress_bits_per_s = 1 bit/s: allowed is 8kbit .. 100gbit"
        );
        let alone = Bandwidth { egress_burst_bytes: Some(65_536), ..Bandwidth::default() };
        assert_eq!(
            alone.validate().unwrap_err().to_string(),
            "egress_burst_bytes = 65536 bytes: allowed is a burst together with egress_bits_per_s"
        );
        let both = Bandwidth { egress_bits_per_s: Some(20_000_000), ..alone };
        assert!(both.validate().is_ok());
        let short = Bandwidth { egress_burst_bytes: Some(1), ..both };
        assert!(short.validate().unwrap_err().to_string().starts_with("egress_burst_bytes = 1 b"));
    }

    #[test]
    fn a_bucket_that_shrinks_below_a_super_packet_is_put_in_anew() {
        let present = |bits, major: u16| {
            let b = Bucket::for_rate(bits);
            Qdisc {
                index: 1,
                handle: u32::from(major) << 16,
                parent: u32::MAX,
                kind: "tbf".into(),
                tbf: Some(Tbf {
                    rate_bytes_per_s: b.rate_bytes_per_s,
                    queue_bytes: b.queue_bytes,
                    burst_bytes: b.burst_bytes.into(),
                }),
                backlog_bytes: 0,
                bands: None,
            }
        };
        let check = |from: Option<(u64, u16)>, to, expected| {
            let present = from.map(|(bits, major)| present(bits, major));
            assert_eq!(choose_major(present.as_ref(), &Bucket::for_rate(to)), expected);
        };
        let [first, second] = BANDWIDTH_MAJORS;
        check(None, 20_000_000, first);
        check(Some((20_000_000, first)), 50_000_000, first);
        check(Some((50_000_000, first)), 20_000_000, first);
        check(Some((50_000_000, first)), 100_000, second);
        check(Some((50_000_000, second)), 100_000, first);
        check(Some((100_000, second)), 100_000, second);
        check(Some((100_000, second)), 50_000_000, second);
    }

    #[test]
    fn what_the_kernel_reports_is_compared_with_what_was_written() {
        let b = |bits| Some(Bucket::for_rate(bits));
        let wanted = Buckets { egress: b(20_000_000), ingress: None };
        let rows = compare("veth1", &wanted, &wanted).unwrap();
        assert_eq!(rows[0].written, "20mbit");
        assert_eq!(rows[0].actuator, "tbf on ifb1 (redirected from veth1)");
        assert_eq!((rows[1].written.as_str(), rows[1].read_back.as_str()), ("none", "none"));
        let chosen = Buckets { egress: Some(Bucket::new(20_000_000, Some(65_536))), ..wanted };
        assert_eq!(compare("veth1", &chosen, &chosen).unwrap()[0].written, "20mbit burst 65536");
        assert!(compare("veth1", &chosen, &wanted).is_err());
        let other = Buckets { egress: b(10_000_000), ingress: None };
        assert_eq!(
            compare("veth1", &wanted, &other).unwrap_err().to_string(),
            "tbf on ifb1 (redirected from veth1): wrote 20mbit, read back 10mbit"
        );
        assert!(compare("veth1", &wanted, &Buckets { egress: None, ingress: None }).is_err());
    }
}
