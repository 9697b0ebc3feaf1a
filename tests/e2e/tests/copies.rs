//! `docker cp` both ways, `docker export`: of running and of stopped containers, which cannot
//! lead out of themselves.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{self, fails, ok};
use tenantry_e2e::skip_without_docker;

const SCRIPT: &str = "mkdir -p /w/d/e; echo one > /w/f; echo two > /w/d/e/g; ln -s f /w/l; \
                      ln -s /etc/passwd /w/abs; ln /w/f /w/hard; chown 1000:1000 /w/d; echo v > /v/in; sleep 1000";

fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn started(agent: &TestAgent) {
    ok(agent, &["run", "-d", "--name", "web", "-v", "vol:/v", IMAGE, "sh", "-c", SCRIPT]);
    tenantry_e2e::until("the files are there", || {
        docker::output(agent, &["exec", "web", "cat", "/v/in"]).stdout == b"v\n"
    });
}

fn copy_both_ways(agent: &TestAgent, state: &str) {
    let out = agent.scratch.join(format!("out-{state}"));
    std::fs::create_dir(&out).unwrap();
    let to = |name: &str| out.join(name).to_str().unwrap().to_owned();
    ok(agent, &["cp", "web:/w/f", &to("file")]);
    assert_eq!(text(out.join("file")), "one\n");
    ok(agent, &["cp", "web:/w", &to("dir")]);
    assert_eq!(text(out.join("dir/d/e/g")), "two\n");
    assert_eq!(std::fs::read_link(out.join("dir/l")).unwrap(), Path::new("f"));
    ok(agent, &["cp", "web:/w/.", &to("")]);
    assert_eq!(text(out.join("f")), "one\n");
    ok(agent, &["cp", "-L", "web:/w/l", &to("followed")]);
    assert_eq!(text(out.join("followed")), "one\n");
    ok(agent, &["cp", "web:/v/in", &to("of-volume")]);
    assert_eq!(text(out.join("of-volume")), "v\n");
    // What the client unpacks is its user's; the archive has the owners.
    let archive = docker::output(agent, &["cp", "web:/w/d", "-"]).stdout;
    std::fs::write(out.join("archive.tar"), archive).unwrap();
    let listed = shell(&format!("tar --numeric-owner -tvf {}", to("archive.tar")));
    assert!(listed.lines().next().is_some_and(|line| line.contains("1000/1000")), "{listed}");

    let inside = agent.scratch.join(format!("in-{state}"));
    std::fs::create_dir_all(inside.join("sub")).unwrap();
    std::fs::write(inside.join("sub/new"), state).unwrap();
    let from = inside.to_str().unwrap();
    ok(agent, &["cp", from, "web:/w/"]);
    ok(agent, &["cp", &format!("{from}/sub/new"), "web:/w/d/renamed"]);
    ok(agent, &["cp", &format!("{from}/sub/new"), "web:/v/new"]);
    assert_eq!(text(agent.data_dir().join("volumes/vol/_data/new")), state);
    ok(agent, &["cp", &format!("web:/w/in-{state}/sub/new"), &to("back")]);
    assert_eq!(text(out.join("back")), state);
    ok(agent, &["cp", "web:/w/d/renamed", &to("renamed")]);
    assert_eq!(text(out.join("renamed")), state);
    let missing = fails(agent, &["cp", "web:/no/such", &to("x")]);
    assert!(missing.contains("/no/such"), "{missing}");
    let file = fails(agent, &["cp", &format!("{from}/sub/new"), "web:/w/f/"]);
    assert!(file.contains("not a directory") || file.contains("directory"), "{file}");
}

#[test]
fn files_go_both_ways_whether_the_container_runs_or_not() {
    skip_without_docker!();
    let agent = TestAgent::start();
    started(&agent);
    copy_both_ways(&agent, "running");
    assert_eq!(ok(&agent, &["exec", "web", "cat", "/w/d/renamed"]), "running");
    ok(&agent, &["kill", "web"]);
    ok(&agent, &["wait", "web"]);
    copy_both_ways(&agent, "stopped");
    let seen = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!seen.contains(agent.data_dir().to_str().unwrap()), "a mount was left: {seen}");
    agent.finish();
}

#[test]
fn no_symlink_leads_out_of_a_container() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let secret = agent.scratch.join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("file"), "the host's").unwrap();
    let (deep, host) = ("../".repeat(40), secret.display());
    let script = format!(
        "mkdir /w; ln -s {deep}{host} /w/up; ln -s {host} /w/abs; ln -s {host}/file /w/file; \
         ln -s /proc/self/root /w/magic; sleep 1000"
    );
    ok(&agent, &["run", "-d", "--name", "web", IMAGE, "sh", "-c", &script]);
    tenantry_e2e::until("the links are there", || {
        docker::output(&agent, &["exec", "web", "ls", "-d", "/w/magic"]).status.success()
    });
    let payload = agent.scratch.join("payload");
    std::fs::write(&payload, "overwritten").unwrap();
    let (payload, out) = (payload.to_str().unwrap(), agent.scratch.join("out"));
    for state in ["running", "stopped"] {
        for path in ["/w/up/file", "/w/abs/file", "/w/up/", "/w/magic/etc/passwd"] {
            fails(&agent, &["cp", &format!("web:{path}"), out.to_str().unwrap()]);
        }
        fails(&agent, &["cp", "-L", "web:/w/file", out.to_str().unwrap()]);
        assert!(!out.exists(), "{}", text(&out));
        for path in ["/w/up/file", "/w/abs/file", "/w/up/", "/w/magic/new"] {
            docker::output(&agent, &["cp", payload, &format!("web:{path}")]);
        }
        assert_eq!(text(secret.join("file")), "the host's", "{state}");
        assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 1, "{state}");
        if state == "running" {
            ok(&agent, &["kill", "web"]);
            ok(&agent, &["wait", "web"]);
        }
    }
    // Nor does one in an archive.
    let tree = agent.scratch.join("tree");
    std::fs::create_dir_all(&tree).unwrap();
    symlink(&secret, tree.join("d")).unwrap();
    let tar = agent.scratch.join("evil.tar");
    shell(&format!(
        "tar -C {0} -cf {1} d && rm {0}/d && mkdir {0}/d && cp {payload} {0}/d/file && tar -C {0} -rf {1} d/file",
        tree.display(),
        tar.display()
    ));
    let mut evil = docker::command(&agent, &["cp", "-", "web:/w"]);
    let output = evil.stdin(std::fs::File::open(&tar).unwrap()).output().unwrap();
    assert!(!output.status.success());
    assert_eq!(text(secret.join("file")), "the host's");
    agent.finish();
}

#[test]
fn a_read_only_root_takes_nothing_and_mounts_stay() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let file = agent.scratch.join("file");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    ok(&agent, &["run", "-d", "--name", "ro", "--read-only", IMAGE, "sleep", "1000"]);
    ok(&agent, &["run", "-d", "--name", "rw", IMAGE, "sleep", "1000"]);
    assert!(fails(&agent, &["cp", file, "ro:/tmp/file"]).contains("read-only"));
    let mounted = fails(&agent, &["cp", file, "rw:/etc/hosts"]);
    assert!(mounted.contains("mounted"), "{mounted}");
    assert!(ok(&agent, &["exec", "rw", "cat", "/etc/hosts"]).contains("localhost"));
    ok(&agent, &["kill", "ro"]);
    ok(&agent, &["wait", "ro"]);
    assert!(fails(&agent, &["cp", file, "ro:/tmp/file"]).contains("read-only"));
    agent.finish();
}

#[test]
fn an_export_is_the_containers_files_without_its_mounts() {
    skip_without_docker!();
    let agent = TestAgent::start();
    started(&agent);
    for state in ["running", "stopped"] {
        let tar = agent.scratch.join(format!("{state}.tar"));
        ok(&agent, &["export", "-o", tar.to_str().unwrap(), "web"]);
        let listed = shell(&format!("tar -tvf {}", tar.display()));
        let has = |name: &str| listed.lines().any(|line| line.ends_with(name));
        assert!(has(" w/d/e/g") || has(" ./w/d/e/g"), "{listed}");
        assert!(!listed.contains(" v/in") && !listed.contains("proc/1/"), "{listed}");
        let hard = listed.lines().find(|line| line.contains("link to")).unwrap_or_default();
        assert!(hard.contains("w/"), "the hard link is one: {hard}");
        if state == "running" {
            ok(&agent, &["kill", "web"]);
            ok(&agent, &["wait", "web"]);
        }
    }
    // It makes an image again.
    let tar = agent.scratch.join("stopped.tar");
    ok(&agent, &["import", tar.to_str().unwrap(), "again"]);
    assert_eq!(ok(&agent, &["run", "--rm", "again", "cat", "/w/d/e/g"]), "two");
    agent.finish();
}

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
