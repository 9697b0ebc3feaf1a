//! User and group names of an image become numbers.
//!
//! Owns the parsing of `/etc/passwd` and `/etc/group` and the careful reading of
//! both out of unpacked layers, which are written by strangers: no symlink is
//! followed out of its layer, no special file is opened, no size is trusted.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::error::Error;

const MOST_BYTES: u64 = 1 << 20;

/// The numbers a process runs under, and its home directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub home: String,
}

const ALLOWED: &str = "user, uid, user:group or uid:gid, names as in the image's /etc/passwd and \
                       /etc/group";

/// `text` as in an image's `User`; empty is root. A numeric user needs no entry;
/// its group is then that of its entry, or 0. An explicit group takes away the
/// groups that `/etc/group` would add, as in runc.
pub fn parse_user(text: &str, passwd: &str, group: &str) -> Result<User, Error> {
    let refused = |why: &str| Error::invalid("user", text, format!("{ALLOWED}; {why}"));
    let (user_part, group_part) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let numeric = user_part.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .filter_map(PasswdEntry::parse)
        .find(|entry| entry.name == user_part || numeric.is_some_and(|uid| entry.uid == uid));
    let uid = match (&entry, numeric) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(refused("the image has no such user")),
    };
    let home = entry.as_ref().map_or("", |entry| entry.home);
    let home = if home.starts_with('/') { home } else { "/" }.to_owned();
    let groups = || group.lines().filter_map(GroupEntry::parse);
    if let Some(wanted) = group_part {
        let gid = groups().find(|entry| entry.name == wanted).map(|entry| entry.gid);
        let gid = gid.or_else(|| wanted.parse().ok());
        let gid = gid.ok_or_else(|| refused("the image has no such group"))?;
        return Ok(User { uid, gid, additional_gids: vec![], home });
    }
    let gid = entry.as_ref().map_or(0, |entry| entry.gid);
    let mut additional_gids = vec![];
    if let Some(entry) = &entry {
        let member = |g: &GroupEntry<'_>| g.members.split(',').any(|name| name == entry.name);
        additional_gids.extend(groups().filter(member).map(|g| g.gid).filter(|g| *g != gid));
        additional_gids.sort_unstable();
        additional_gids.dedup();
    }
    Ok(User { uid, gid, additional_gids, home })
}

/// Numbers of groups that are named by name or number.
///
/// # Errors
/// [`Error::Invalid`] for a name that the image does not know.
pub fn parse_groups(names: &[String], group: &str) -> Result<Vec<u32>, Error> {
    let number = |name: &String| {
        let entry = group.lines().filter_map(GroupEntry::parse).find(|entry| entry.name == *name);
        let gid = entry.map(|entry| entry.gid).or_else(|| name.parse().ok());
        let allowed = "a number, or a name as in the image's /etc/group";
        gid.ok_or_else(|| Error::invalid("group_add", name, allowed))
    };
    names.iter().map(number).collect()
}

struct PasswdEntry<'t> {
    name: &'t str,
    uid: u32,
    gid: u32,
    home: &'t str,
}

impl<'t> PasswdEntry<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    }
}

struct GroupEntry<'t> {
    name: &'t str,
    gid: u32,
    members: &'t str,
}

impl<'t> GroupEntry<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or("") })
    }
}

/// A text file as the container will see it: from the topmost of `layers` that
/// has the path. Missing everywhere, or removed by a whiteout: empty.
pub fn read_from_layers<P: AsRef<Path>>(layers: &[P], path: &str) -> Result<String, Error> {
    for layer in layers {
        match read_from_layer(layer.as_ref(), path) {
            Ok(text) => return Ok(text),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(Error::failed(format!("read {path} of the image"), error)),
        }
    }
    Ok(String::new())
}

fn read_from_layer(layer: &Path, path: &str) -> io::Result<String> {
    let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, layer, root, Mode::empty())?;
    // O_NONBLOCK: a FIFO in the image must not hold the agent up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // O_PATH first: opening a device node can have effects of its own.
    let probe = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(&root, path, probe, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&found)?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::RegularFile => {}
        // overlayfs's whiteout: a character device 0:0.
        rustix::fs::FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(String::new()),
        _ => return Err(io::Error::other("not a regular file")),
    }
    let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?;
    let mut bytes = vec![];
    File::from(file).take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("longer than {MOST_BYTES} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                          # comment\n\
                          app:x:1000:1001:App:/home/app:/bin/sh\n\
                          odd:x:7:7\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:app,root\napp:x:1001:\nlog:x:4:app\nlog2:x:4:app\n";

    #[test]
    fn users_are_names_or_numbers() {
        let check = |text: &str, expected: Option<(u32, u32, &[u32], &str)>| {
            let parsed = parse_user(text, PASSWD, GROUP).ok();
            let expected = expected.map(|(uid, gid, groups, home)| User {
                uid,
                gid,
                additional_gids: groups.to_vec(),
                home: home.to_owned(),
            });
            assert_eq!(parsed, expected, "{text:?}");
        };
        check("", Some((0, 0, &[10], "/root")));
        check("root", Some((0, 0, &[10], "/root")));
        check("app", Some((1000, 1001, &[4, 10], "/home/app")));
        check("1000", Some((1000, 1001, &[4, 10], "/home/app")));
        check("app:log", Some((1000, 4, &[], "/home/app")));
        check("app:77", Some((1000, 77, &[], "/home/app")));
        check("4711", Some((4711, 0, &[], "/")));
        check("4711:4712", Some((4711, 4712, &[], "/")));
        check("odd", Some((7, 7, &[], "/")));
        check("nobody", None);
        check("app:nobody", None);
        check("-1", None);
        check("4294967296", None);
    }

    #[test]
    fn the_topmost_layer_that_has_the_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let layers = [dir.path().join("top"), dir.path().join("bottom")];
        for layer in &layers {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        assert_eq!(read_from_layers(&layers, "etc/passwd").unwrap(), "");
        std::fs::write(layers[1].join("etc/passwd"), "bottom").unwrap();
        assert_eq!(read_from_layers(&layers, "etc/passwd").unwrap(), "bottom");
        std::fs::write(layers[0].join("etc/passwd"), "top").unwrap();
        assert_eq!(read_from_layers(&layers, "etc/passwd").unwrap(), "top");
    }

    #[test]
    fn a_link_never_leads_out_of_its_layer() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("../../secret", layer.join("etc/passwd")).unwrap();
        assert_eq!(read_from_layers(&[&layer], "etc/passwd").unwrap(), "");
        std::fs::remove_file(layer.join("etc/passwd")).unwrap();
        let absolute = dir.path().join("secret");
        std::os::unix::fs::symlink(absolute, layer.join("etc/passwd")).unwrap();
        assert_eq!(read_from_layers(&[&layer], "etc/passwd").unwrap(), "");
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("passwd");
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(read_from_layers(&[dir.path()], "passwd").is_err());
    }

    #[test]
    fn groups_are_known_by_name_or_number() {
        let group = "root:x:0:\naudio:x:29:app\n77:x:78:\n";
        let parse = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            parse_groups(&names, group)
        };
        assert_eq!(parse(&["audio", "1234", "77"]).unwrap(), [29, 1234, 78]);
        let error = parse(&["video"]).unwrap_err().to_string();
        assert!(error.contains("group_add") && error.contains("video"), "{error}");
    }
}
