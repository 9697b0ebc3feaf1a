//! `HOME`, where a bundle names none: as the container's own `/etc/passwd` has it.
//!
//! Called in the child, in the container's root, which is a stranger's: the file is read as
//! those of images are. One that cannot be read keeps nothing from running.

use std::path::Path;

use tenantry_container::process::with_home as or_home;
use tenantry_container::user::{parse_user, read_from_layers};
use tenantry_shim::spec::Process;

pub fn with_home(process: &Process) -> Process {
    with_home_of(process, Path::new("/"))
}

fn with_home_of(process: &Process, root: &Path) -> Process {
    let passwd = read_from_layers(&[root], "etc/passwd").unwrap_or_default();
    let user = parse_user(&process.uid.to_string(), &passwd, "");
    let home = user.map_or_else(|_| "/".to_owned(), |user| user.home);
    Process { env: or_home(process.env.clone(), &home), ..process.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_users_unless_the_bundle_names_one() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/var/empty:/bin/sh\n";
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        let check = |uid: u32, env: &[&str], expected: &str| {
            let env = env.iter().map(|variable| (*variable).to_owned()).collect();
            let process = Process { uid, env, ..process() };
            let env = with_home_of(&process, root.path()).env;
            assert!(env.iter().any(|variable| variable == expected), "{uid}: {env:?}");
        };
        check(0, &["A=1"], "HOME=/root");
        check(1000, &["A=1"], "HOME=/var/empty");
        check(1000, &["HOME=/data"], "HOME=/data");
        check(77, &[], "HOME=/");
        std::fs::remove_file(root.path().join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", root.path().join("etc/passwd")).unwrap();
        check(1000, &[], "HOME=/");
    }

    fn process() -> Process {
        Process {
            args: vec!["x".into()],
            env: vec![],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            additional_gids: vec![],
            capabilities: 0,
            no_new_privileges: true,
            oom_score_adj: None,
            rlimits: vec![],
            terminal: None,
        }
    }
}
