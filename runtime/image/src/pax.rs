//! Pax extended headers of tar entries: records, and sparse maps in them.
//!
//! Owns parsing, pure. The `tar` crate's own parser splits records at newlines, so
//! it breaks on binary attributes such as `security.capability`; this one goes by
//! each record's length, as POSIX says. Called by [`crate::archive`].

/// Where a part of a sparse file's content belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub offset: u64,
    pub bytes: u64,
}

/// What the records of one entry say; absent ones leave the header's value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Option<PaxSparse>,
}

/// The three ways in which GNU tar writes sparse files in pax archives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxSparse {
    /// Formats 0.0 and 0.1: the map itself. `None` for 1.0, whose map precedes the content.
    pub map: Option<Vec<Segment>>,
    pub name: Option<Vec<u8>>,
    pub real_bytes: u64,
}

/// # Errors
/// Says which record is malformed.
pub(crate) fn parse(mut content: &[u8]) -> Result<Pax, String> {
    let mut pax = Pax::default();
    let mut sparse = SparseRecords::default();
    while !content.is_empty() {
        let Record { key, value } = next_record(&mut content)?;
        match key {
            b"path" => pax.path = Some(value.to_vec()),
            b"linkpath" => pax.link = Some(value.to_vec()),
            b"size" => pax.size = Some(number(key, value)?),
            b"uid" => pax.uid = Some(number(key, value)?),
            b"gid" => pax.gid = Some(number(key, value)?),
            b"mtime" => pax.mtime = Some(time(value).ok_or_else(|| wrong(key, value))?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    pax.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    sparse.take(name, value)?;
                }
            }
        }
    }
    pax.sparse = sparse.finish()?;
    Ok(pax)
}

struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

/// `"<length> <key>=<value>\n"`, the length counting itself and the newline.
fn next_record<'a>(content: &mut &'a [u8]) -> Result<Record<'a>, String> {
    let malformed = || "a pax record is malformed".to_owned();
    let space = content.iter().take(20).position(|b| *b == b' ').ok_or_else(malformed)?;
    let length = decimal(&content[..space]).ok_or_else(malformed)?;
    let length = usize::try_from(length).map_err(|_| malformed())?;
    if length <= space + 1 || length > content.len() || content[length - 1] != b'\n' {
        return Err(malformed());
    }
    let text = &content[space + 1..length - 1];
    *content = &content[length..];
    let equals = text.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or_else(malformed)?;
    Ok(Record { key: &text[..equals], value: &text[equals + 1..] })
}

#[derive(Default)]
struct SparseRecords {
    seen: bool,
    version: (Option<u64>, Option<u64>),
    name: Option<Vec<u8>>,
    size: Option<u64>,
    numbers: Vec<u64>,
}

impl SparseRecords {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        self.seen = true;
        match name {
            b"major" => self.version.0 = Some(number(name, value)?),
            b"minor" => self.version.1 = Some(number(name, value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(name, value)?),
            b"offset" | b"numbytes" => self.numbers.push(number(name, value)?),
            b"map" => {
                for part in value.split(|b| *b == b',').filter(|part| !part.is_empty()) {
                    self.numbers.push(number(name, part)?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<PaxSparse>, String> {
        if !self.seen {
            return Ok(None);
        }
        let real_bytes = self.size.ok_or("a sparse file lacks its size")?;
        let map = match self.version {
            (Some(1), Some(0)) => None,
            (None, None) => Some(segments(&self.numbers, real_bytes)?),
            (major, minor) => return Err(format!("sparse format {major:?}.{minor:?} is unknown")),
        };
        Ok(Some(PaxSparse { map, name: self.name, real_bytes }))
    }
}

/// Pairs of offset and length, ascending, inside `real_bytes`.
pub(crate) fn segments(numbers: &[u64], real_bytes: u64) -> Result<Vec<Segment>, String> {
    if !numbers.len().is_multiple_of(2) {
        return Err("a sparse map has an offset without a length".into());
    }
    let mut end = 0;
    let mut segments = Vec::with_capacity(numbers.len() / 2);
    for pair in numbers.chunks_exact(2) {
        let (offset, bytes) = (pair[0], pair[1]);
        let next = offset.checked_add(bytes).filter(|next| offset >= end && *next <= real_bytes);
        end = next.ok_or("a sparse map is out of order or exceeds its file")?;
        if bytes > 0 {
            segments.push(Segment { offset, bytes });
        }
    }
    Ok(segments)
}

fn number(key: &[u8], value: &[u8]) -> Result<u64, String> {
    decimal(value).ok_or_else(|| wrong(key, value))
}

fn wrong(key: &[u8], value: &[u8]) -> String {
    let value = &value[..value.len().min(40)];
    format!("pax record {} has the value {}", key.escape_ascii(), value.escape_ascii())
}

/// Digits only: no sign, no space.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`; a negative time's fraction counts away from zero.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[][..]),
    };
    let seconds = i64::try_from(decimal(seconds)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, at| {
        nanos * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'))
    });
    Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::write::record as render;

    #[test]
    fn a_binary_attribute_with_newlines_survives() {
        let value = b"\x01\0\0\x02\n\n=\n12 a=b\n";
        let mut content = render(b"SCHILY.xattr.security.capability", value);
        content.extend(render(b"path", b"bin/ping"));
        let pax = parse(&content).unwrap();
        assert_eq!(pax.xattrs, [(b"security.capability".to_vec(), value.to_vec())]);
        assert_eq!(pax.path.as_deref(), Some(&b"bin/ping"[..]));
    }

    #[test]
    fn times_may_be_negative_and_fractional() {
        type Time = Option<(i64, u32)>;
        let rows: [(&[u8], Time); 7] = [
            (b"12", Some((12, 0))),
            (b"12.5", Some((12, 500_000_000))),
            (b"12.0000000019", Some((12, 1))),
            (b"-1.25", Some((-2, 750_000_000))),
            (b"-3", Some((-3, 0))),
            (b"1e9", None),
            (b"", None),
        ];
        for (text, expected) in rows {
            assert_eq!(time(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn malformed_records_are_errors() {
        let rows: [&[u8]; 8] = [
            b"x",
            b"5 a=b",
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 a=bc",
            b"5 ab\n",
            b"6 =ab\n",
            b"4 \n\n\n",
        ];
        for content in rows {
            assert!(parse(content).is_err(), "{}", content.escape_ascii());
        }
        assert!(parse(&render(b"size", b"-1")).unwrap_err().contains("size"));
    }

    #[test]
    fn the_three_sparse_formats_are_read() {
        let map =
            Some(vec![Segment { offset: 0, bytes: 512 }, Segment { offset: 4096, bytes: 10 }]);
        let mut v00 = render(b"GNU.sparse.size", b"8192");
        for (key, value) in
            [("offset", "0"), ("numbytes", "512"), ("offset", "4096"), ("numbytes", "10")]
        {
            v00.extend(render(format!("GNU.sparse.{key}").as_bytes(), value.as_bytes()));
        }
        let mut v01 = render(b"GNU.sparse.size", b"8192");
        v01.extend(render(b"GNU.sparse.map", b"0,512,4096,10"));
        for content in [v00, v01] {
            let sparse = parse(&content).unwrap().sparse.unwrap();
            assert_eq!((sparse.map, sparse.real_bytes), (map.clone(), 8192));
        }
        let mut v10 = render(b"GNU.sparse.major", b"1");
        v10.extend(render(b"GNU.sparse.minor", b"0"));
        v10.extend(render(b"GNU.sparse.realsize", b"8192"));
        assert_eq!(parse(&v10).unwrap().sparse.unwrap().map, None);
    }

    #[test]
    fn sparse_maps_that_overlap_or_exceed_are_refused() {
        for (numbers, size) in
            [(&[0, 10, 5, 10][..], 100), (&[0, 101], 100), (&[5], 100), (&[u64::MAX, 2], 9)]
        {
            assert!(segments(numbers, size).is_err(), "{numbers:?}");
        }
    }

    proptest! {
        #[test]
        fn records_of_any_value_parse_back(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let pax = parse(&render(b"SCHILY.xattr.user.x", &value)).unwrap();
            prop_assert_eq!(&pax.xattrs[0].1, &value);
        }

        #[test]
        fn no_content_makes_it_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&content);
        }
    }
}
