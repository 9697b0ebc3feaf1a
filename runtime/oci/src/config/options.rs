//! The words of `mounts[].options`: attributes, propagation, and what is the file system's.

use rustix::mount::MountAttrFlags as Attr;
use tenantry_shim::spec::Propagation;

use crate::error::Error;

/// What a list of options comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub attributes: Attr,
    /// `Some(recursive)`.
    pub bind: Option<bool>,
    pub propagation: Propagation,
    /// What is in the directory is copied into the new tmpfs.
    pub copy_up: bool,
    /// Name and value for the file system; an empty value is a flag.
    pub data: Vec<(String, String)>,
}

/// Every word that is not the file system's own, for `features`.
pub const FLAGS: [&str; 51] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nolazytime",
    "nomand",
    "norelatime",
    "notmpcopyup",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "rbind",
    "rdev",
    "relatime",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "rsymfollow",
];

/// `place` is the field's name, for what is refused.
pub fn parse(options: &[String], place: &str) -> Result<Options, Error> {
    let mut parsed = Options {
        attributes: Attr::empty(),
        bind: None,
        propagation: Propagation::Private,
        copy_up: false,
        data: Vec::new(),
    };
    for option in options {
        parsed.take(option, place)?;
    }
    Ok(parsed)
}

impl Options {
    fn take(&mut self, option: &str, place: &str) -> Result<(), Error> {
        // A tree that is bound has its attributes all the way down: that is what the
        // words with an `r` ask for, and more than those without it do.
        let (set, clear) = match option {
            "ro" | "rro" => (Attr::MOUNT_ATTR_RDONLY, Attr::empty()),
            "rw" | "rrw" => (Attr::empty(), Attr::MOUNT_ATTR_RDONLY),
            "nosuid" | "rnosuid" => (Attr::MOUNT_ATTR_NOSUID, Attr::empty()),
            "suid" | "rsuid" => (Attr::empty(), Attr::MOUNT_ATTR_NOSUID),
            "nodev" | "rnodev" => (Attr::MOUNT_ATTR_NODEV, Attr::empty()),
            "dev" | "rdev" => (Attr::empty(), Attr::MOUNT_ATTR_NODEV),
            "noexec" | "rnoexec" => (Attr::MOUNT_ATTR_NOEXEC, Attr::empty()),
            "exec" | "rexec" => (Attr::empty(), Attr::MOUNT_ATTR_NOEXEC),
            "nodiratime" => (Attr::MOUNT_ATTR_NODIRATIME, Attr::empty()),
            "diratime" => (Attr::empty(), Attr::MOUNT_ATTR_NODIRATIME),
            "nosymfollow" | "rnosymfollow" => (Attr::MOUNT_ATTR_NOSYMFOLLOW, Attr::empty()),
            "symfollow" | "rsymfollow" => (Attr::empty(), Attr::MOUNT_ATTR_NOSYMFOLLOW),
            "noatime" | "rnoatime" => (Attr::MOUNT_ATTR_NOATIME, Attr::MOUNT_ATTR_STRICTATIME),
            "strictatime" | "rstrictatime" => {
                (Attr::MOUNT_ATTR_STRICTATIME, Attr::MOUNT_ATTR_NOATIME)
            }
            "atime" | "relatime" | "rrelatime" | "norelatime" | "nostrictatime" => {
                (Attr::empty(), Attr::MOUNT_ATTR_NOATIME | Attr::MOUNT_ATTR_STRICTATIME)
            }
            _ => return self.take_other(option, place),
        };
        self.attributes.remove(clear);
        self.attributes.insert(set);
        Ok(())
    }

    fn take_other(&mut self, option: &str, place: &str) -> Result<(), Error> {
        match option {
            "" | "defaults" | "async" | "loud" | "silent" | "nomand" | "nolazytime" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "private" | "rprivate" => self.propagation = Propagation::Private,
            "slave" | "rslave" => self.propagation = Propagation::Slave,
            "shared" | "rshared" => self.propagation = Propagation::Shared,
            "tmpcopyup" => self.copy_up = true,
            "notmpcopyup" => self.copy_up = false,
            "unbindable" | "runbindable" | "remount" | "idmap" | "ridmap" | "copy-symlink" => {
                let field = format!("{place}.options {option}");
                return Err(Error::unsupported(field, "other options are"));
            }
            // `sync`, `dirsync`, `mand` and `lazytime` are flags of the file system itself.
            other => {
                let (name, value) = other.split_once('=').unwrap_or((other, ""));
                self.data.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Options {
        let owned: Vec<String> = options.iter().map(ToString::to_string).collect();
        parse(&owned, "mounts[0]").unwrap()
    }

    #[test]
    fn the_last_of_two_that_contradict_wins() {
        assert_eq!(parsed(&["ro", "rw"]).attributes, Attr::empty());
        assert_eq!(parsed(&["rw", "ro"]).attributes, Attr::MOUNT_ATTR_RDONLY);
        assert_eq!(parsed(&["noatime", "strictatime"]).attributes, Attr::MOUNT_ATTR_STRICTATIME);
        assert_eq!(parsed(&["noatime", "relatime"]).attributes, Attr::empty());
    }

    #[test]
    fn what_is_no_word_of_ours_is_the_file_systems() {
        let options = parsed(&["nosuid", "mode=1777", "size=65536k", "newinstance"]);
        assert_eq!(options.attributes, Attr::MOUNT_ATTR_NOSUID);
        let expected = [("mode", "1777"), ("size", "65536k"), ("newinstance", "")];
        let data: Vec<_> = options.data.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(data, expected);
    }

    #[test]
    fn binds_and_propagation() {
        assert_eq!(parsed(&["bind", "rprivate"]).bind, Some(false));
        assert_eq!(parsed(&["rbind", "bind"]).bind, Some(true));
        assert_eq!(parsed(&["rbind", "rslave"]).propagation, Propagation::Slave);
        assert_eq!(parsed(&[]).bind, None);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for option in ["idmap", "remount", "copy-symlink"] {
            let error = parse(&[option.to_owned()], "mounts[3]").unwrap_err().to_string();
            assert!(error.contains("mounts[3].options") && error.contains(option), "{error}");
        }
    }

    #[test]
    fn every_word_that_features_tells_of_is_taken() {
        for option in FLAGS {
            let options = parse(&[option.to_owned()], "mounts[0]").unwrap();
            let superblock = ["sync", "dirsync", "mand", "lazytime"].contains(&option);
            assert_eq!(options.data.is_empty(), !superblock, "{option}");
        }
    }
}
