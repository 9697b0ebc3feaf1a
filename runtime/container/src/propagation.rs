//! Whether a bind can have the propagation that it asks for.
//!
//! Owns the question, which mount of the host a path lies on (pure, by `mountinfo`), and asks it
//! at each start. A copy of a private mount is private, whatever is asked for: Docker says so in
//! the place of letting it happen, and so does this.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tenantry_shim::spec::Propagation;

use crate::{config::BindRequest, error::Error};

const MOUNTS: &str = "/proc/self/mountinfo";

/// # Errors
/// [`Error::Invalid`] with Docker's words.
pub(crate) fn check(binds: &[BindRequest]) -> Result<(), Error> {
    if binds.iter().all(|bind| bind.propagation == Propagation::Private) {
        return Ok(());
    }
    let mounts =
        fs::read_to_string(MOUNTS).map_err(|e| Error::failed(format!("read {MOUNTS}"), e))?;
    for bind in binds {
        let (wanted, kind) = match bind.propagation {
            Propagation::Private => continue,
            Propagation::Slave => ("rslave", "shared or slave"),
            Propagation::Shared => ("rshared", "shared"),
        };
        let path = fs::canonicalize(&bind.source)
            .map_err(|e| Error::failed(format!("resolve {}", bind.source), e))?;
        let Some(mount) = mount_of(&mounts, &path) else { continue };
        let is_enough = mount.is_shared || mount.is_slave && bind.propagation == Propagation::Slave;
        if !is_enough {
            let at = mount.point.display();
            let source = &bind.source;
            let allowed = format!("path {source} is mounted on {at} but it is not a {kind} mount");
            return Err(Error::invalid("bind propagation", wanted, allowed));
        }
    }
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    is_shared: bool,
    is_slave: bool,
}

/// The mount that an absolute path without links lies on: of those deepest, the last.
fn mount_of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse);
    mounts
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// `proc_pid_mountinfo(5)`: the point is the fifth field, the optional ones end with a dash.
fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ').skip(4);
    let point = unescape(fields.next()?);
    let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
    Some(Mount {
        point: PathBuf::from(point),
        is_shared: optional.iter().any(|field| field.starts_with("shared:")),
        is_slave: optional.iter().any(|field| field.starts_with("master:")),
    })
}

fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (code, byte)| text.replace(code, byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:20 / /srv rw - tmpfs x rw
31 30 0:21 / /srv/with\\040space rw master:7 - tmpfs x rw
32 21 0:22 / /mnt rw - tmpfs x rw
33 21 0:23 / /mnt rw shared:9 master:3 - tmpfs x rw
";

    #[test]
    fn a_path_lies_on_the_deepest_mount_and_of_two_on_the_upper_one() {
        let check = |path: &str, point: &str, is_shared: bool, is_slave: bool| {
            let found = mount_of(HOST, Path::new(path)).unwrap();
            assert_eq!(found, Mount { point: point.into(), is_shared, is_slave }, "{path}");
        };
        check("/home/me", "/", true, false);
        check("/srvs", "/", true, false);
        check("/srv/www", "/srv", false, false);
        check("/srv/with space/x", "/srv/with space", false, true);
        check("/mnt/a", "/mnt", true, true);
    }

    #[test]
    fn who_asks_for_nothing_is_asked_nothing() {
        let source = "/there/is/none".to_owned();
        let bind = BindRequest {
            source,
            target: "/x".into(),
            read_only: false,
            propagation: Propagation::Private,
        };
        assert!(check(std::slice::from_ref(&bind)).is_ok());
        let slave = BindRequest { propagation: Propagation::Slave, ..bind };
        assert!(matches!(check(&[slave]), Err(Error::Failed { .. })));
    }
}
