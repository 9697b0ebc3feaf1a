//! Sparse files whose map is not in pax records: GNU's own format, and pax format 1.0
//! with its map in front of the content.

use std::io::Read;

use tar::{GnuExtSparseHeader, Header};

use super::{Archive, BLOCK, Entry};
use crate::error::Result;
use crate::pax::{self, Segment};

impl<R: Read> Archive<'_, R> {
    /// The old GNU format: four segments in the header, more in blocks behind it.
    pub(super) fn gnu_sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<()> {
        let Some(gnu) = header.as_gnu() else {
            return Err(self.malformed("a sparse file's header is not GNU's".into()));
        };
        let mut numbers = Vec::new();
        for segment in gnu.sparse.iter().filter(|segment| !segment.is_empty()) {
            numbers.push(self.number(&segment.offset, "sparse offset")?);
            numbers.push(self.number(&segment.numbytes, "sparse length")?);
        }
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.read_extension(block.as_mut_bytes())?;
            for segment in block.sparse.iter().filter(|segment| !segment.is_empty()) {
                numbers.push(self.number(&segment.offset, "sparse offset")?);
                numbers.push(self.number(&segment.numbytes, "sparse length")?);
            }
            self.bound(
                "segments of a sparse file",
                numbers.len() as u64 / 2,
                self.limits.sparse_segments,
            )?;
            more = block.is_extended();
        }
        entry.size = self.number(&gnu.realsize, "real size")?;
        let segments =
            pax::segments(&numbers, entry.size).map_err(|reason| self.malformed(reason))?;
        entry.sparse = Some(segments);
        Ok(())
    }

    /// Pax format 1.0: decimal lines in front of the content, padded to a block.
    pub(super) fn leading_map(&mut self, real_bytes: u64) -> Result<Vec<Segment>> {
        let mut numbers = Vec::new();
        let mut expected = None;
        let mut digits = Vec::new();
        let mut block = [0; BLOCK as usize];
        while expected.is_none_or(|expected: u64| (numbers.len() as u64) < expected) {
            if self.pending < BLOCK {
                return Err(self.malformed("a sparse file's map is cut off".into()));
            }
            self.pending -= BLOCK;
            self.read_extension(&mut block)?;
            for byte in block {
                match byte {
                    b'\n' => {
                        let number = pax::decimal(&digits);
                        let number = number
                            .ok_or_else(|| self.malformed("a sparse map has no number".into()))?;
                        digits.clear();
                        match expected {
                            None => {
                                let what = "segments of a sparse file";
                                self.bound(what, number, self.limits.sparse_segments)?;
                                expected = Some(number * 2);
                            }
                            Some(expected) if (numbers.len() as u64) < expected => {
                                numbers.push(number)
                            }
                            Some(_) => {}
                        }
                    }
                    0 => {}
                    digit if digits.len() < 20 => digits.push(digit),
                    _ => return Err(self.malformed("a sparse map has no number".into())),
                }
            }
        }
        pax::segments(&numbers, real_bytes).map_err(|reason| self.malformed(reason))
    }
}
