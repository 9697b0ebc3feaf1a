//! Fields of a tar header. Pure.

use tar::Header;

/// Over the header with the checksum's own field as spaces.
pub(super) fn checksum_fits(header: &Header, wanted: u64) -> bool {
    let bytes = header.as_bytes();
    let outside = || bytes[..148].iter().chain(&bytes[156..]);
    let unsigned = outside().map(|byte| u64::from(*byte)).sum::<u64>() + 8 * 32;
    // Some old writers summed signed bytes.
    let signed = outside().map(|byte| i64::from(*byte as i8)).sum::<i64>() + 8 * 32;
    wanted == unsigned || i64::try_from(wanted) == Ok(signed)
}

pub(super) fn until_nul(text: &[u8]) -> Vec<u8> {
    text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Octal digits between spaces and NULs, blank meaning zero, or GNU's base 256.
/// `None` if negative, too large or neither.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            // 0xff would be a negative number.
            let top = u64::from(first & 0x7f);
            rest.iter().try_fold(top, |value, byte| {
                (value >> 56 == 0).then(|| value << 8 | u64::from(*byte))
            })
        }
        _ => {
            let text = field.split(|byte| *byte == 0).next()?.trim_ascii();
            if !text.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
                return None;
            }
            text.iter().try_fold(0u64, |value, digit| {
                value.checked_mul(8)?.checked_add(u64::from(digit - b'0'))
            })
        }
    }
}

/// A time that cannot be read is the epoch: it decides nothing.
pub(super) fn header_time(field: &[u8]) -> i64 {
    number(field).and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0)
}
