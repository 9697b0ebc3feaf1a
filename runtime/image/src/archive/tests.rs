use proptest::prelude::*;
use tar::{Builder, EntryType};

use super::*;

fn limits() -> Limits {
    Limits::default()
}

fn header(kind: EntryType, path: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1234);
    header.set_size(size);
    header.set_cksum();
    header
}

fn archive_of(entries: &[(Header, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (header, content) in entries {
        builder.append(header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Paths and contents of all entries.
fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let limits = limits();
    let mut archive = Archive::new("test", bytes, &limits);
    let mut found = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut content = vec![0; 100_000];
        let n = archive.content().read_full(&mut content)?;
        content.truncate(n);
        found.push((entry.shown(), content));
    }
    archive.drain()?;
    Ok(found)
}

fn first(bytes: &[u8]) -> Entry {
    Archive::new("test", bytes, &limits()).next_entry().unwrap().unwrap()
}

#[test]
fn an_entry_has_what_its_header_says() {
    let bytes = archive_of(&[(header(EntryType::Regular, "etc/passwd", 4), b"root")]);
    let entry = first(&bytes);
    assert_eq!(entry.path, b"etc/passwd");
    assert_eq!((entry.kind, entry.size, entry.mode), (Kind::File, 4, 0o640));
    assert_eq!((entry.uid, entry.gid, entry.mtime), (7, 8, (1234, 0)));
}

#[test]
fn an_archive_may_end_wherever_docker_lets_it_end() {
    let file = header(EntryType::Regular, "a", 700);
    let whole =
        archive_of(&[(file.clone(), &[1; 700]), (header(EntryType::Regular, "b", 3), b"end")]);
    let padded = 512 + 1024 + 512 + 512;
    assert_eq!(whole.len(), padded + 1024);
    let entries = |bytes: usize| read(&whole[..bytes]).map(|entries| entries.len());
    // Without the end mark, with half of it, inside padding, right behind content.
    for bytes in [padded, padded + 512, padded - 100, padded - 509] {
        assert_eq!(entries(bytes).unwrap(), 2, "{bytes}");
    }
    assert_eq!(entries(512 + 700).unwrap(), 1);
    assert_eq!(entries(0).unwrap(), 0);
    // Inside content or a header, it was cut off.
    for bytes in [padded - 510, 512 + 1024 + 100, 512 + 699, 512, 1] {
        assert!(matches!(entries(bytes), Err(Error::Truncated { .. })), "{bytes}");
    }
}

#[test]
fn kinds_without_content_have_none_whatever_their_size_says() {
    let mut link = header(EntryType::Link, "b", 4096);
    link.set_link_name("a").unwrap();
    link.set_cksum();
    let mut bytes = link.as_bytes().to_vec();
    bytes.extend(archive_of(&[(header(EntryType::Regular, "c", 1), b"x")]));
    let found = read(&bytes).unwrap();
    assert_eq!(found, [("b".into(), vec![]), ("c".into(), b"x".to_vec())]);
}

#[test]
fn an_old_style_directory_is_a_file_with_a_slash() {
    assert_eq!(
        first(&archive_of(&[(header(EntryType::Regular, "d/", 0), b"")])).kind,
        Kind::Directory
    );
}

#[test]
fn long_names_pax_names_and_binary_attributes_are_read() {
    let path = format!("{}/file", "d".repeat(150));
    let mut builder = Builder::new(Vec::new());
    let mut plain = Header::new_gnu();
    plain.set_size(2);
    builder.append_data(&mut plain, &path, &b"ok"[..]).unwrap();
    let value = b"\n\0=\n";
    let records: [(&str, &[u8]); 4] = [
        ("path", b"from pax"),
        ("mtime", b"5.5"),
        ("uid", b"3000000"),
        ("SCHILY.xattr.user.x", value),
    ];
    builder.append_pax_extensions(records).unwrap();
    builder.append(&header(EntryType::Regular, "ignored", 0), &b""[..]).unwrap();
    let bytes = builder.into_inner().unwrap();

    let limits = limits();
    let mut archive = Archive::new("test", &bytes[..], &limits);
    assert_eq!(archive.next_entry().unwrap().unwrap().path, path.as_bytes());
    let entry = archive.next_entry().unwrap().unwrap();
    assert_eq!(entry.path, b"from pax");
    assert_eq!((entry.mtime, entry.uid), ((5, 500_000_000), 3_000_000));
    assert_eq!(entry.xattrs, [(b"user.x".to_vec(), value.to_vec())]);
}

#[test]
fn a_gnu_sparse_file_has_segments() {
    let mut sparse = header(EntryType::GNUSparse, "s", 1024);
    let gnu = sparse.as_gnu_mut().unwrap();
    for (segment, (offset, bytes)) in gnu.sparse.iter_mut().zip([(0, 512), (1 << 20, 512)]) {
        segment.offset.copy_from_slice(format!("{offset:011o}\0").as_bytes());
        segment.numbytes.copy_from_slice(format!("{bytes:011o}\0").as_bytes());
    }
    gnu.set_real_size((1 << 20) + 512);
    sparse.set_cksum();
    let bytes = archive_of(&[(sparse, &[9; 1024]), (header(EntryType::Regular, "next", 0), b"")]);
    let entry = first(&bytes);
    assert_eq!(entry.size, (1 << 20) + 512);
    let expected = [Segment { offset: 0, bytes: 512 }, Segment { offset: 1 << 20, bytes: 512 }];
    assert_eq!(entry.sparse.unwrap(), expected);
    assert_eq!(read(&bytes).unwrap()[1].0, "next");
}

#[test]
fn a_pax_1_0_sparse_file_has_its_map_in_front() {
    let mut content = b"2\n0\n3\n8192\n2\n".to_vec();
    content.resize(512, 0);
    content.extend(b"abcde");
    let mut builder = Builder::new(Vec::new());
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"real"),
        ("GNU.sparse.realsize", b"9000"),
    ];
    builder.append_pax_extensions(records).unwrap();
    builder.append(&header(EntryType::Regular, "GNUSparseFile.0/x", 517), &content[..]).unwrap();
    let bytes = builder.into_inner().unwrap();
    let entry = first(&bytes);
    assert_eq!((entry.path.as_slice(), entry.size), (&b"real"[..], 9000));
    let expected = [Segment { offset: 0, bytes: 3 }, Segment { offset: 8192, bytes: 2 }];
    assert_eq!(entry.sparse.unwrap(), expected);
    assert_eq!(read(&bytes).unwrap()[0].1, b"abcde");
}

#[test]
fn hostile_sizes_are_refused_before_memory_is_taken() {
    let limits = Limits { pax_bytes: 1000, ..limits() };
    let rows = [
        header(EntryType::GNULongName, "x", 1 << 40),
        header(EntryType::GNULongLink, "x", 5000),
        header(EntryType::XHeader, "x", 1001),
        header(EntryType::XGlobalHeader, "x", 1 << 62),
    ];
    for row in rows {
        let error = Archive::new("test", &row.as_bytes()[..], &limits).next_entry().unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}

#[test]
fn garbage_is_malformed_with_a_position() {
    let error = read(&[7; 1024]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "test at byte 512: header field checksum is `\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07`"
    );
    let mut bytes = archive_of(&[(header(EntryType::Regular, "a", 0), b"")]);
    bytes[0] = b'b';
    assert!(read(&bytes).unwrap_err().to_string().contains("checksum is wrong"));
    let unknown = header(EntryType::new(b'V'), "volume", 0);
    assert!(
        read(&archive_of(&[(unknown, b"")])).unwrap_err().to_string().contains("unknown type V")
    );
}

#[test]
fn numbers_are_octal_or_base_256() {
    let rows: [(&[u8], Option<u64>); 8] = [
        (b"0000644\0", Some(0o644)),
        (b" 644 \0\0\0", Some(0o644)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"9\0\0\0\0\0\0\0", None),
        (b"-1\0\0\0\0\0\0", None),
        (b"\x80\0\0\0\0\0\x01\x02", Some(0x102)),
        (b"\x80\0\0\0\x01\0\0\0\0\0\0\0", Some(1 << 56)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
    ];
    for (field, expected) in rows {
        assert_eq!(number(field), expected, "{}", field.escape_ascii());
    }
}

proptest! {
    #[test]
    fn what_the_tar_crate_writes_is_read(
        files in proptest::collection::vec(("[a-z]{1,120}(/[a-z]{1,90}){0,2}", proptest::collection::vec(any::<u8>(), 0..1200)), 0..8)
    ) {
        let mut builder = Builder::new(Vec::new());
        for (path, content) in &files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, &content[..]).unwrap();
        }
        let found = read(&builder.into_inner().unwrap()).unwrap();
        prop_assert_eq!(found.len(), files.len());
        for ((path, content), (found_path, found_content)) in files.iter().zip(&found) {
            prop_assert!(path.starts_with(found_path.trim_end_matches('…')));
            prop_assert_eq!(content, found_content);
        }
    }

    #[test]
    fn no_change_of_a_byte_makes_it_panic(at in 0usize..2048, byte in any::<u8>(), cut in 0usize..3000) {
        let mut bytes = archive_of(&[
            (header(EntryType::XHeader, "x", 11), b"11 path=ab\n"),
            (header(EntryType::Regular, "a", 3), b"abc"),
        ]);
        bytes[at] = byte;
        bytes.truncate(cut);
        let _ = read(&bytes);
    }
}
