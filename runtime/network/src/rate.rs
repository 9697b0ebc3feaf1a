//! Rates as values: bounds, text, and the shape of a token bucket for a rate.
//!
//! Pure. A rate counts bytes as the container's sockets and the link's counters
//! see them: IP packets, and of a TCP super-packet (GSO) one set of headers.
//! Measured, a TCP receiver gets 97 to 100 % of the limit as payload, a UDP
//! receiver with full packets 98 %. TBF's own measure, Ethernet frames, would
//! leave a TCP receiver 95.6 %.

use std::fmt::Write as _;

use crate::decode::NS_PER_TICK;
use crate::error::{Error, Result};

/// Slower, and one full frame would take longer than 1.5 s.
pub const MIN_BITS_PER_S: u64 = 8_000;
/// Faster than any veth moves data.
pub const MAX_BITS_PER_S: u64 = 100_000_000_000;

/// A GSO super-packet with its headers, with room to spare: a bucket that holds
/// one passes it whole. TBF segments what its bucket cannot hold.
const SUPER_PACKET_BYTES: u64 = 68 * 1024;
/// Two full frames, the least that keeps a slow bucket flowing.
const LEAST_BURST_BYTES: u64 = 4 * 1024;
const MOST_BURST_BYTES: u64 = 16 << 20;
const MOST_QUEUE_BYTES: u64 = 64 << 20;
/// The kernel keeps a burst as the time that it takes, of which it can count 274 s.
const LONGEST_BURST_S: u64 = 60;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rate {0:?}: expected a whole number of bits per second with kbit, mbit, gbit or bit")]
pub struct RateError(pub String);

const UNITS: [(&str, u64); 4] =
    [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

/// `20mbit` → 20,000,000 bits/s. Units are `tc`'s, decimal; a bare number is bits.
pub fn parse_rate(text: &str) -> Result<u64, RateError> {
    let error = || RateError(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let scale = match unit.as_str() {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?.1,
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error());
    }
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(error)
}

/// In the largest unit that loses nothing: 20,000,000 → `20mbit`.
pub fn render_rate(bits_per_s: u64) -> String {
    let (unit, scale) = UNITS
        .into_iter()
        .find(|(_, scale)| bits_per_s >= *scale && bits_per_s.is_multiple_of(*scale))
        .unwrap_or(("bit", 1));
    let mut text = String::new();
    let _ = write!(text, "{}{unit}", bits_per_s / scale);
    text
}

/// # Errors
/// [`Error::Invalid`] naming field, value and what is allowed.
pub(crate) fn validate_rate(field: &'static str, bits_per_s: u64) -> Result<()> {
    if (MIN_BITS_PER_S..=MAX_BITS_PER_S).contains(&bits_per_s) {
        return Ok(());
    }
    Err(Error::Invalid {
        field,
        value: format!("{bits_per_s} bit/s"),
        allowed: format!("{} .. {}", render_rate(MIN_BITS_PER_S), render_rate(MAX_BITS_PER_S)),
    })
}

/// A burst that somebody chose, for a rate that is valid.
///
/// # Errors
/// [`Error::Invalid`] naming field, value and what is allowed at this rate.
pub(crate) fn validate_burst(field: &'static str, burst_bytes: u64, bits_per_s: u64) -> Result<()> {
    let most = (bits_per_s / 8 * LONGEST_BURST_S).min(MOST_BURST_BYTES);
    if (LEAST_BURST_BYTES..=most).contains(&burst_bytes) {
        return Ok(());
    }
    Err(Error::Invalid {
        field,
        value: format!("{burst_bytes} bytes"),
        allowed: format!("{LEAST_BURST_BYTES} .. {most} bytes at {}", render_rate(bits_per_s)),
    })
}

/// A token bucket as TBF wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub rate_bytes_per_s: u64,
    /// Sent at once after a pause, and the longest packet that passes whole.
    pub burst_bytes: u32,
    /// The queue in front of it; what finds it full is dropped.
    pub queue_bytes: u32,
}

impl Bucket {
    /// TBF counts whole bytes: a rate is rounded down to 8 bits/s.
    ///
    /// The burst is 50 ms of the rate, so that a softirq that is late by some
    /// milliseconds loses no tokens, but at least one super-packet; where that is
    /// more than 100 ms, below about 5 Mbit/s, it is 100 ms and TBF segments. The
    /// queue is 100 ms of the rate, at least two bursts. With a second of queue at
    /// 1 Mbit/s, eight TCP flows timed out on packets that only waited, and sent
    /// 17,000 of them twice in 12 s, for 500 now.
    pub fn for_rate(bits_per_s: u64) -> Bucket {
        let rate = bits_per_s / 8;
        let least = (rate / 10).clamp(LEAST_BURST_BYTES, SUPER_PACKET_BYTES);
        let burst = (rate / 20).clamp(least, MOST_BURST_BYTES);
        let queue = (rate / 10).clamp(2 * burst, MOST_QUEUE_BYTES);
        Bucket { rate_bytes_per_s: rate, burst_bytes: burst as u32, queue_bytes: queue as u32 }
    }

    /// With a burst that somebody chose instead, both validated. The queue stays: it is how
    /// long a packet may wait, which a burst does not change.
    pub fn new(bits_per_s: u64, burst_bytes: Option<u64>) -> Bucket {
        let bucket = Bucket::for_rate(bits_per_s);
        let burst_bytes = burst_bytes.map_or(bucket.burst_bytes, |bytes| bytes as u32);
        Bucket { burst_bytes, ..bucket }
    }

    /// Whether the kernel keeps `self` when it was given `other`: a burst as a time in ticks,
    /// which may be one tick's worth less, rounded.
    pub fn is_kept_as(&self, other: &Bucket) -> bool {
        let tick_bytes = self.rate_bytes_per_s * NS_PER_TICK / 1_000_000_000 + 2;
        self.rate_bytes_per_s == other.rate_bytes_per_s
            && self.queue_bytes == other.queue_bytes
            && u64::from(self.burst_bytes.abs_diff(other.burst_bytes)) <= tick_bytes
    }

    pub fn bits_per_s(&self) -> u64 {
        self.rate_bytes_per_s * 8
    }

    /// Whether a packet that may stand in `self`'s queue is longer than
    /// `next`'s bucket: TBF would wait for it for ever.
    pub fn may_hold_packets_too_long_for(&self, next: &Bucket) -> bool {
        u64::from(next.burst_bytes) < SUPER_PACKET_BYTES && next.burst_bytes < self.burst_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read_and_written_in_tc_units() {
        #[track_caller]
        fn check(text: &str, expected: Option<u64>) {
            assert_eq!(parse_rate(text).ok(), expected, "{text}");
        }
        check("20mbit", Some(20_000_000));
        check("8Kbit", Some(8_000));
        check("1gbit", Some(1_000_000_000));
        check("12345", Some(12_345));
        check("12345bit", Some(12_345));
        for wrong in
            ["", "mbit", "1.5mbit", "-1mbit", "+1", "1 mbit", "1mb", "99999999999gbit", "1é"]
        {
            check(wrong, None);
        }
        assert_eq!(render_rate(20_000_000), "20mbit");
        assert_eq!(render_rate(1_500_000), "1500kbit");
        assert_eq!(render_rate(12_345), "12345bit");
        assert_eq!(render_rate(0), "0bit");
    }

    #[test]
    fn a_rate_out_of_bounds_is_refused_with_the_bounds() {
        assert!(validate_rate("f", MIN_BITS_PER_S).is_ok());
        assert!(validate_rate("f", MAX_BITS_PER_S).is_ok());
        assert_eq!(
            validate_rate("egress_bits_per_s", 7_999).unwrap_err().to_string(),
            "egress_bits_per_s = 7999 bit/s: allowed is 8kbit .. 100gbit"
        );
        assert!(validate_rate("f", MAX_BITS_PER_S + 1).is_err());
    }

    #[test]
    fn the_bucket_of_20_mbit_holds_a_super_packet_and_50_ms() {
        assert_eq!(
            Bucket::for_rate(20_000_000),
            Bucket { rate_bytes_per_s: 2_500_000, burst_bytes: 125_000, queue_bytes: 250_000 }
        );
    }

    #[test]
    fn a_burst_is_bounded_by_what_its_rate_takes_a_minute_for() {
        #[track_caller]
        fn check(burst: u64, rate: u64, allowed: Option<&str>) {
            let refused = validate_burst("egress_burst_bytes", burst, rate).err();
            let expected = allowed
                .map(|allowed| format!("egress_burst_bytes = {burst} bytes: allowed is {allowed}"));
            assert_eq!(refused.map(|e| e.to_string()), expected);
        }
        check(64 << 10, 20_000_000, None);
        check(4096, 8_000, None);
        check(4095, 20_000_000, Some("4096 .. 16777216 bytes at 20mbit"));
        check((16 << 20) + 1, 20_000_000, Some("4096 .. 16777216 bytes at 20mbit"));
        check(60_000, 8_000, None);
        check(60_001, 8_000, Some("4096 .. 60000 bytes at 8kbit"));
        let chosen = Bucket::new(20_000_000, Some(64 << 10));
        assert_eq!(chosen, Bucket { burst_bytes: 65_536, ..Bucket::for_rate(20_000_000) });
        assert!(chosen.is_kept_as(&Bucket { burst_bytes: 65_535, ..chosen }));
        assert!(!chosen.is_kept_as(&Bucket { burst_bytes: 60_000, ..chosen }));
        assert!(!chosen.is_kept_as(&Bucket { queue_bytes: 1, ..chosen }));
    }

    proptest! {
        #[test]
        fn parse_undoes_render(bits: u64) {
            prop_assert_eq!(parse_rate(&render_rate(bits)), Ok(bits));
        }

        #[test]
        fn every_allowed_rate_has_a_bucket_that_flows(bits in MIN_BITS_PER_S..=MAX_BITS_PER_S) {
            let bucket = Bucket::for_rate(bits);
            prop_assert_eq!(bucket.rate_bytes_per_s, bits / 8);
            prop_assert!(bucket.burst_bytes >= 3028);
            prop_assert!(bucket.queue_bytes >= 2 * bucket.burst_bytes);
            // GSO whole where that takes no longer than a tenth of a second.
            if bits >= 5_600_000 {
                prop_assert!(u64::from(bucket.burst_bytes) >= SUPER_PACKET_BYTES);
                prop_assert!(u64::from(bucket.burst_bytes) <= bucket.rate_bytes_per_s / 10 + 1);
            }
            // No packet waits so long that TCP takes it for lost.
            if bits >= 1_000_000 {
                prop_assert!(u64::from(bucket.queue_bytes) <= bucket.rate_bytes_per_s / 5 + 1);
            }
            // The kernel keeps the burst as a time in 64 ns ticks, 32 bits wide.
            let ticks = u64::from(bucket.burst_bytes) * 1_000_000_000
                / bucket.rate_bytes_per_s / 64;
            prop_assert!(ticks < u64::from(u32::MAX));
        }
    }
}
