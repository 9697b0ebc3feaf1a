//! Sizes, rates and devices as people type them: `256m`, `20mbit`, `0.5`, `/dev/sda:10m`.
//!
//! Owns the parsing; every function is pure but [`read_device_number`]. The CLI
//! and the API call them so that one text means one thing everywhere.

use std::path::{Path, PathBuf};

use crate::{error::Error, limits::Limit};

const BYTES_ALLOWED: &str = "a number with an optional unit b, k, m, g or t (powers of 1024)";
const BITS_ALLOWED: &str = "a number with an optional unit bit, kbit, mbit or gbit, or max";
const FILE_SIZE_ALLOWED: &str = "a number with an optional unit k, m or g, such as 10m";
const CPUS_ALLOWED: &str = "a number of CPUs such as 0.5 or 2, at least 0.01, or max";
const DEVICE_ALLOWED: &str = "DEVICE:RATE, such as /dev/sda:10m or 8:0:10m";

/// `256m`, `1.5g`, `1048576`, `64MiB`: bytes, in powers of 1024 as Docker reads them.
pub fn parse_bytes(field: &str, text: &str) -> Result<u64, Error> {
    let refused = || Error::invalid(field, text, BYTES_ALLOWED);
    let (number, unit) = split_number(text);
    let unit = unit.to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let shift = match letter {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(refused()),
    };
    scale(number, (1u64 << shift) as f64).ok_or_else(refused)
}

/// `20m`, `10k`, `1000`: bytes of a file of the log, in powers of 1000 as Docker reads them.
pub fn parse_file_size(field: &str, text: &str) -> Result<u64, Error> {
    let refused = || Error::invalid(field, text, FILE_SIZE_ALLOWED);
    let (number, unit) = split_number(text);
    let unit = unit.trim_start().to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let factor = match letter {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        _ => return Err(refused()),
    };
    scale(number, factor).ok_or_else(refused)
}

/// What [`parse_file_size`] reads, exactly.
pub fn render_file_size(bytes: u64) -> String {
    let units = [(1_000_000_000, "g"), (1_000_000, "m"), (1000, "k")];
    match units.into_iter().find(|(factor, _)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((factor, unit)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// As [`parse_bytes`], or `max`.
pub fn parse_bytes_limit(field: &str, text: &str) -> Result<Limit<u64>, Error> {
    parse_limit(text, |text| parse_bytes(field, text))
}

/// `20mbit`, `1gbit`, `512000`, `max`: bits a second, in powers of 1000 as `tc` reads them.
pub fn parse_bits_limit(field: &str, text: &str) -> Result<Limit<u64>, Error> {
    parse_limit(text, |text| {
        let refused = || Error::invalid(field, text, BITS_ALLOWED);
        let (number, unit) = split_number(text);
        let unit = unit.to_ascii_lowercase();
        let factor = match unit.strip_suffix("bit").unwrap_or(&unit) {
            "" => 1.0,
            "k" => 1e3,
            "m" => 1e6,
            "g" => 1e9,
            _ => return Err(refused()),
        };
        scale(number, factor).ok_or_else(refused)
    })
}

/// A rate as [`parse_bits_limit`] reads it, and after a colon, if there is one, the burst as
/// [`parse_bytes`] does: `20mbit`, `20mbit:64k`, `max`.
pub fn parse_bandwidth(field: &str, text: &str) -> Result<(Limit<u64>, Option<u64>), Error> {
    let Some((rate, burst)) = text.split_once(':') else {
        return Ok((parse_bits_limit(field, text)?, None));
    };
    match parse_bits_limit(field, rate)? {
        Limit::Unlimited => Err(Error::invalid(field, text, "max without a burst, or RATE:BURST")),
        limit => Ok((limit, Some(parse_bytes(field, burst)?))),
    }
}

/// What [`parse_bandwidth`] reads: bits a second, `BITS:BYTES`, or `max`.
pub fn render_bandwidth(bits_per_s: Option<u64>, burst_bytes: Option<u64>) -> String {
    match (bits_per_s, burst_bytes) {
        (None, _) => "max".to_owned(),
        (Some(bits), None) => bits.to_string(),
        (Some(bits), Some(burst)) => format!("{bits}:{burst}"),
    }
}

/// `0.5`, `2`, `max`.
pub fn parse_cpus_limit(field: &str, text: &str) -> Result<Limit<f64>, Error> {
    parse_limit(text, |text| {
        let cpus: f64 = text.parse().map_err(|_| Error::invalid(field, text, CPUS_ALLOWED))?;
        if cpus.is_finite() && cpus > 0.0 {
            Ok(cpus)
        } else {
            Err(Error::invalid(field, text, CPUS_ALLOWED))
        }
    })
}

/// `100`, `max`.
pub fn parse_count_limit(field: &str, text: &str) -> Result<Limit<u64>, Error> {
    parse_limit(text, |text| {
        text.parse().map_err(|_| Error::invalid(field, text, "a whole number, or max"))
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Path(PathBuf),
    Number { major: u32, minor: u32 },
}

/// `/dev/sda:10m` or `8:0:10m`: a block device and a rate in bytes a second.
pub fn parse_device_rate(field: &str, text: &str) -> Result<(Device, Limit<u64>), Error> {
    let (device, rate) = split_device(field, text)?;
    Ok((device, parse_bytes_limit(field, rate)?))
}

/// `/dev/sda:1000` or `8:0:1000`: a block device and operations a second.
pub fn parse_device_ops(field: &str, text: &str) -> Result<(Device, Limit<u64>), Error> {
    let (device, rate) = split_device(field, text)?;
    Ok((device, parse_count_limit(field, rate)?))
}

/// The `(major, minor)` of a block device. A path that is none is refused.
pub fn read_device_number(field: &str, device: &Device) -> Result<(u32, u32), Error> {
    match device {
        Device::Number { major, minor } => Ok((*major, *minor)),
        Device::Path(path) => read_block_device(path)
            .map_err(|why| Error::invalid(field, path.display(), format!("a block device; {why}"))),
    }
}

fn read_block_device(path: &Path) -> Result<(u32, u32), String> {
    let stat = rustix::fs::stat(path).map_err(|errno| errno.to_string())?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::BlockDevice {
        return Err("this is none".to_owned());
    }
    Ok((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

fn split_device<'t>(field: &str, text: &'t str) -> Result<(Device, &'t str), Error> {
    let refused = || Error::invalid(field, text, DEVICE_ALLOWED);
    let (device, rate) = text.rsplit_once(':').ok_or_else(refused)?;
    if device.starts_with('/') {
        return Ok((Device::Path(PathBuf::from(device)), rate));
    }
    let (major, minor) = device.split_once(':').ok_or_else(refused)?;
    let major = major.parse().map_err(|_| refused())?;
    let minor = minor.parse().map_err(|_| refused())?;
    Ok((Device::Number { major, minor }, rate))
}

fn parse_limit<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, Error>,
) -> Result<Limit<T>, Error> {
    match text {
        "max" | "unlimited" => Ok(Limit::Unlimited),
        _ => parse(text).map(Limit::Value),
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// Exact for whole numbers below 2^53; `None` for what is no number or overflows.
fn scale(number: &str, factor: f64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor as u64);
    }
    let scaled = number.parse::<f64>().ok()? * factor;
    (scaled.is_finite() && scaled >= 0.0 && scaled < u64::MAX as f64).then_some(scaled as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_powers_of_1024() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_bytes("memory", text).ok(), expected, "{text:?}");
        };
        check("256m", Some(256 << 20));
        check("64MiB", Some(64 << 20));
        check("1.5g", Some(3 << 29));
        check("10kb", Some(10 << 10));
        check("0", Some(0));
        check("7b", Some(7));
        check("18446744073709551615", Some(u64::MAX));
        for wrong in ["", "m", "-1", "1.2.3g", "10x", "1e3", "99999999999t", "inf", "1 g"] {
            check(wrong, None);
        }
    }

    #[test]
    fn bits_are_powers_of_1000() {
        let check = |text: &str, expected: Option<Limit<u64>>| {
            assert_eq!(parse_bits_limit("egress", text).ok(), expected, "{text:?}");
        };
        check("20mbit", Some(Limit::Value(20_000_000)));
        check("1.5Gbit", Some(Limit::Value(1_500_000_000)));
        check("800", Some(Limit::Value(800)));
        check("max", Some(Limit::Unlimited));
        check("20mb", None);
        check("fast", None);
    }

    #[test]
    fn a_burst_stands_behind_its_rate() {
        let check = |text: &str, expected: Option<(Option<u64>, Option<u64>)>| {
            let parsed = parse_bandwidth("--egress", text).ok();
            let parsed = parsed.map(|(limit, burst)| match limit {
                Limit::Unlimited => (None, burst),
                Limit::Value(bits) => (Some(bits), burst),
            });
            assert_eq!(parsed, expected, "{text:?}");
            if let Some((bits, burst)) = expected {
                let again = render_bandwidth(bits, burst);
                assert_eq!(parse_bandwidth("", &again).ok(), parse_bandwidth("", text).ok());
            }
        };
        check("20mbit", Some((Some(20_000_000), None)));
        check("20mbit:64k", Some((Some(20_000_000), Some(65_536))));
        check("8000:5000", Some((Some(8000), Some(5000))));
        check("max", Some((None, None)));
        for wrong in ["max:64k", "20mbit:", ":64k", "20mbit:max", "20mbit:64k:1", "20mbit:fast"] {
            check(wrong, None);
        }
        let error = parse_bandwidth("--egress", "20mbit:fast").unwrap_err().to_string();
        assert!(error.contains("--egress") && error.contains("fast"), "{error}");
    }

    #[test]
    fn cpus_are_fractions() {
        assert_eq!(parse_cpus_limit("cpus", "0.5").unwrap(), Limit::Value(0.5));
        assert_eq!(parse_cpus_limit("cpus", "max").unwrap(), Limit::Unlimited);
        for wrong in ["0", "-1", "nan", "inf", "half", ""] {
            assert!(parse_cpus_limit("cpus", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_device_is_a_path_or_two_numbers() {
        let path = Device::Path("/dev/disk/by-id/a:b".into());
        let parsed = parse_device_rate("io", "/dev/disk/by-id/a:b:10m").unwrap();
        assert_eq!(parsed, (path, Limit::Value(10 << 20)));
        let number = Device::Number { major: 8, minor: 16 };
        assert_eq!(parse_device_rate("io", "8:16:max").unwrap(), (number, Limit::Unlimited));
        for wrong in ["sda:10m", "/dev/sda", "8:10m", "10m", "8:x:1m"] {
            assert!(parse_device_rate("io", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_block_device_is_refused_by_name() {
        let error = read_device_number("io-read", &Device::Path("/dev/null".into())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("io-read") && text.contains("/dev/null"), "{text}");
    }
}
