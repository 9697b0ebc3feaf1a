//! Plain, gzip or zstd, told by content and never by file name or media type.
//!
//! Owns detection and decoding. Called for whole archives and for layers.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use oci_spec::image::MediaType;

use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 256 * 1024;
const MAGIC_BYTES: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// The OCI media type of a layer so compressed.
    pub fn layer_media_type(self) -> MediaType {
        match self {
            Compression::Plain => MediaType::ImageLayer,
            Compression::Gzip => MediaType::ImageLayerGzip,
            Compression::Zstd => MediaType::ImageLayerZstd,
        }
    }
}

type Peeked<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// The decompressed content of any of the three.
pub(crate) enum Decoder<R: Read> {
    Plain(Peeked<R>),
    Gzip(Box<MultiGzDecoder<Peeked<R>>>),
    Zstd(Box<zstd::Decoder<'static, Peeked<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes of `reader` and chooses. `what` names it in errors.
    pub fn new(what: &str, mut reader: R) -> Result<Decoder<R>> {
        let failed = |source| Error::Read { what: what.to_owned(), source };
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        reader.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic).map_err(failed)?;
        let unsupported = |format| Err(Error::Compression { what: what.to_owned(), format });
        let compression = match magic.as_slice() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => return unsupported("xz"),
            [b'B', b'Z', b'h', ..] => return unsupported("bzip2"),
            [b'P', b'K', 3, 4, ..] => return unsupported("zip"),
            _ => Compression::Plain,
        };
        let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(reader));
        Ok(match compression {
            Compression::Plain => Decoder::Plain(whole),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(whole))),
            Compression::Zstd => {
                Decoder::Zstd(Box::new(zstd::Decoder::with_buffer(whole).map_err(failed)?))
            }
        })
    }

    pub fn compression(&self) -> Compression {
        match self {
            Decoder::Plain(_) => Compression::Plain,
            Decoder::Gzip(_) => Compression::Gzip,
            Decoder::Zstd(_) => Compression::Zstd,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(reader) => reader.read(buffer),
            Decoder::Gzip(reader) => reader.read(buffer),
            Decoder::Zstd(reader) => reader.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn check(content: &[u8], expected: Compression) {
        let mut decoder = Decoder::new("test", content).unwrap();
        assert_eq!(decoder.compression(), expected);
        let mut text = String::new();
        decoder.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn plain_gzip_and_zstd_are_told_apart_by_content() {
        check(b"hello", Compression::Plain);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gzip.write_all(b"hello").unwrap();
        check(&gzip.finish().unwrap(), Compression::Gzip);
        check(&zstd::encode_all(&b"hello"[..], 1).unwrap(), Compression::Zstd);
        assert_eq!(Decoder::new("test", &b""[..]).unwrap().compression(), Compression::Plain);
    }

    #[test]
    fn other_compressions_are_named_with_what_is_allowed() {
        let error = Decoder::new("layer x", &b"\xfd7zXZ\0rest"[..]).err().unwrap().to_string();
        assert_eq!(error, "layer x is compressed with xz: allowed are plain, gzip and zstd");
    }
}
