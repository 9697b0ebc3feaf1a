//! An entry's header as bytes: POSIX ustar, with pax records for what it cannot hold.
//!
//! Pure, and the same for the same entry. Called by [`crate::pack`] and
//! [`crate::save`].

use tar::Header;

use super::{BLOCK, Entry, Kind};

/// What a header's `name` and `linkname` hold.
const NAME_BYTES: usize = 100;

/// Header blocks that stand before the entry's content.
pub(crate) fn render(entry: &Entry) -> Vec<u8> {
    let mut blocks = Vec::with_capacity(BLOCK as usize);
    let records = records(entry);
    if !records.is_empty() {
        let name = entry.path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty());
        let name = [b"PaxHeaders/", name.unwrap_or(b"root")].concat();
        let size = records.len() as u64;
        blocks.extend_from_slice(&header(b'x', &name, b"", &Fields { size, ..Fields::default() }));
        blocks.extend_from_slice(&records);
        blocks.resize(blocks.len() + padding(size), 0);
    }
    let fields = Fields {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        mtime: u64::try_from(entry.mtime.0).unwrap_or(0),
    };
    blocks.extend_from_slice(&header(flag(entry.kind), &entry.path, &entry.link, &fields));
    blocks
}

/// Zeros that follow so many bytes of content.
pub(crate) fn padding(bytes: u64) -> usize {
    (bytes.wrapping_neg() % BLOCK) as usize
}

/// The two zero blocks at an archive's end.
pub(crate) const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

struct Fields {
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields { mode: 0o644, uid: 0, gid: 0, size: 0, mtime: 0 }
    }
}

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// What a field cannot hold is cut: a pax record says it.
fn header(flag: u8, path: &[u8], link: &[u8], fields: &Fields) -> [u8; BLOCK as usize] {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    old.linkflag[0] = flag;
    let (path, link) = (&path[..path.len().min(NAME_BYTES)], &link[..link.len().min(NAME_BYTES)]);
    old.name[..path.len()].copy_from_slice(path);
    old.linkname[..link.len()].copy_from_slice(link);
    octal(&mut old.mode, fields.mode.into());
    octal(&mut old.uid, fields.uid);
    octal(&mut old.gid, fields.gid);
    octal(&mut old.size, fields.size);
    octal(&mut old.mtime, fields.mtime);
    header.set_cksum();
    *header.as_bytes()
}

fn fits(field_bytes: usize, value: u64) -> bool {
    value < 1 << (3 * (field_bytes - 1))
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let value = if fits(field.len(), value) { value } else { 0 };
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
}

fn records(entry: &Entry) -> Vec<u8> {
    let old = Header::new_ustar();
    let old = old.as_old();
    let mut records = Vec::new();
    if entry.path.len() > NAME_BYTES {
        records.extend(record(b"path", &entry.path));
    }
    if entry.link.len() > NAME_BYTES {
        records.extend(record(b"linkpath", &entry.link));
    }
    for (key, field, value) in [
        (&b"size"[..], old.size.len(), entry.size),
        (b"uid", old.uid.len(), entry.uid),
        (b"gid", old.gid.len(), entry.gid),
    ] {
        if !fits(field, value) {
            records.extend(record(key, value.to_string().as_bytes()));
        }
    }
    let (seconds, nanos) = entry.mtime;
    let plain = u64::try_from(seconds).is_ok_and(|seconds| fits(old.mtime.len(), seconds));
    if !plain || nanos != 0 {
        // A negative time's fraction counts away from zero.
        let text = match (seconds, nanos) {
            (seconds, 0) => seconds.to_string(),
            (seconds @ 0.., nanos) => format!("{seconds}.{nanos:09}"),
            (seconds, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
        };
        records.extend(record(b"mtime", text.as_bytes()));
    }
    for (name, value) in &entry.xattrs {
        records.extend(record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value));
    }
    records
}

/// `"<length> <key>=<value>\n"`, the length counting itself and the newline.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} ").into_bytes();
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::Archive;
    use crate::limits::Limits;

    fn read_back(entry: &Entry) -> Entry {
        let stream = [render(entry), END.to_vec()].concat();
        let limits = Limits::default();
        let mut archive = Archive::new("test", &stream[..], &limits);
        archive.next_entry().unwrap().unwrap()
    }

    fn kind() -> impl Strategy<Value = Kind> {
        proptest::sample::select(vec![Kind::Directory, Kind::Symlink, Kind::HardLink, Kind::Fifo])
    }

    prop_compose! {
        fn entry()(
            kind in kind(),
            path in "[a-z/é]{1,200}",
            link in "[^\0]{0,200}",
            mode in 0..0o10000u32,
            uid in 0..u64::from(u32::MAX),
            gid in 0..u64::from(u32::MAX),
            seconds in -1_000_000_000_000i64..1_000_000_000_000,
            nanos in 0..1_000_000_000u32,
            value in proptest::collection::vec(any::<u8>(), 0..120),
        ) -> Entry {
            Entry {
                path: path.into_bytes(),
                link: link.into_bytes(),
                kind,
                size: 0,
                mode,
                uid,
                gid,
                mtime: (seconds, nanos),
                xattrs: vec![(b"user.x".to_vec(), value)],
                sparse: None,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(entry in entry()) {
            let found = read_back(&entry);
            prop_assert_eq!(format!("{found:?}"), format!("{entry:?}"));
        }

        #[test]
        fn a_records_length_counts_itself(value in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let record = record(b"key", &value);
            let text = String::from_utf8_lossy(&record);
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            prop_assert_eq!(length, record.len());
        }
    }
}
