//! The container's output on disk: frames that keep every byte, its stream and
//! its time, so that attach, `logs` and a later agent read the same thing.
//!
//! A frame is a 24-byte little-endian header and then its payload. A file that
//! ends inside a frame was cut by a crash; readers stop before it.

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 24;

/// No frame is longer; the shim reads its pipes in pieces of this size.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;

const MAGIC: u16 = 0x4c54;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub stream: Stream,
    pub payload_bytes: u32,
    pub unix_ns: u64,
}

/// Why bytes are no frame header. Nothing after them can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Header {
    pub fn render(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = match self.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.unix_ns.to_le_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Malformed> {
        let payload_bytes = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
        if magic != MAGIC || payload_bytes as usize > MAX_PAYLOAD_BYTES {
            return Err(Malformed);
        }
        let stream = match bytes[2] {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return Err(Malformed),
        };
        let mut time = [0; 8];
        time.copy_from_slice(&bytes[8..16]);
        Ok(Self { stream, payload_bytes, unix_ns: u64::from_le_bytes(time) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_header_parses_to_what_was_rendered(
            stderr: bool,
            payload_bytes in 0..=MAX_PAYLOAD_BYTES as u32,
            unix_ns: u64,
        ) {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            let header = Header { stream, payload_bytes, unix_ns };
            proptest::prop_assert_eq!(Header::parse(&header.render()), Ok(header));
        }

        #[test]
        fn no_bytes_make_the_parser_fail_otherwise(bytes: [u8; HEADER_BYTES]) {
            if let Ok(header) = Header::parse(&bytes) {
                proptest::prop_assert!(header.payload_bytes as usize <= MAX_PAYLOAD_BYTES);
            }
        }
    }

    #[test]
    fn a_length_that_no_shim_writes_is_malformed() {
        let header = Header { stream: Stream::Stdout, payload_bytes: 65_537, unix_ns: 0 };
        assert_eq!(Header::parse(&header.render()), Err(Malformed));
    }
}
