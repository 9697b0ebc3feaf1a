//! Volumes, binds and file systems in memory, by the stock `docker` client; what is in them is
//! looked at on the host and from other containers.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::docker::{fails, ok, output};
use tenantry_e2e::{skip_without_docker, until};

fn data(agent: &TestAgent, name: &str) -> PathBuf {
    agent.data_dir().join("volumes").join(name).join("_data")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names(agent: &TestAgent) -> Vec<String> {
    ok(agent, &["volume", "ls", "-q"]).lines().map(str::to_owned).collect()
}

/// An image that declares a volume with files in it.
fn image_with_volume(agent: &TestAgent) {
    let script = "mkdir -p /srv/data/in; echo of the image > /srv/data/in/file; ln -s in /srv/data/link; \
                  chown -R 1000:1000 /srv/data; chmod 750 /srv/data; chmod 4755 /srv/data/in/file";
    ok(agent, &["run", "--name", "maker", IMAGE, "sh", "-c", script]);
    ok(agent, &["commit", "--change", "VOLUME /srv/data", "maker", "declares"]);
    ok(agent, &["rm", "maker"]);
}

#[test]
fn a_named_volume_outlives_its_containers_and_the_agent() {
    skip_without_docker!();
    let mut agent = TestAgent::start();
    assert_eq!(ok(&agent, &["volume", "create", "--label", "tier=db", "store"]), "store");
    let run = |agent: &TestAgent, volume: &str, script: &str| {
        ok(agent, &["run", "--rm", "-v", volume, IMAGE, "sh", "-c", script])
    };
    run(&agent, "store:/data", "echo kept > /data/file");
    assert_eq!(read(&data(&agent, "store").join("file")), "kept\n");
    agent.kill_nine();
    agent.spawn().unwrap();
    assert_eq!(run(&agent, "store:/elsewhere:ro", "cat /elsewhere/file"), "kept");
    let refused = run(&agent, "store:/data:ro", "echo x > /data/file 2>/dev/null || echo refused");
    assert_eq!(refused, "refused");
    let view: Value = json(&ok(&agent, &["volume", "inspect", "store"]));
    assert_eq!(view[0]["Labels"]["tier"], "db");
    assert_eq!(view[0]["Mountpoint"], data(&agent, "store").to_str().unwrap());
    assert_eq!(ok(&agent, &["volume", "ls", "-q", "--filter", "label=tier=db"]), "store");
    assert_eq!(ok(&agent, &["volume", "ls", "-q", "--filter", "label=tier=web"]), "");

    // Made by its first use, and in use while a container has it, running or not.
    ok(
        &agent,
        &["create", "--name", "holder", "--mount", "type=volume,src=made,dst=/m", IMAGE, "true"],
    );
    let error = fails(&agent, &["volume", "rm", "made"]);
    assert!(error.contains("in use"), "{error}");
    assert_eq!(ok(&agent, &["volume", "ls", "-q", "--filter", "dangling=true"]), "store");
    agent.stop_agent();
    agent.spawn().unwrap();
    assert!(fails(&agent, &["volume", "rm", "made"]).contains("in use"));
    ok(&agent, &["rm", "holder"]);
    ok(&agent, &["volume", "rm", "made", "store"]);
    assert_eq!(names(&agent), [""; 0]);
    assert!(fails(&agent, &["volume", "inspect", "store"]).contains("no such volume"));
    assert!(!data(&agent, "store").parent().unwrap().exists());
    for wrong in [["volume", "create", "../x"], ["volume", "create", "--driver=nfs"]] {
        let error = fails(&agent, &wrong);
        assert!(error.contains("allowed"), "{error}");
    }
    agent.finish();
}

#[test]
fn a_new_volume_gets_what_the_image_has_there() {
    skip_without_docker!();
    let agent = TestAgent::start();
    image_with_volume(&agent);
    ok(&agent, &["create", "--name", "one", "-v", "named:/srv/data", "declares", "sleep", "1000"]);
    let named = data(&agent, "named");
    assert_eq!(read(&named.join("link/file")), "of the image\n");
    use std::os::unix::fs::MetadataExt as _;
    let root = named.metadata().unwrap();
    assert_eq!((root.uid(), root.mode() & 0o7777), (1000, 0o750));
    assert_eq!(named.join("in/file").metadata().unwrap().mode() & 0o7777, 0o4755);

    // What is in a volume stays, and an empty one that was asked to stay empty does.
    std::fs::write(named.join("in/file"), "changed").unwrap();
    let cat = ["cat", "/srv/data/in/file"];
    let run = ["run", "--rm", "-v", "named:/srv/data", "declares"];
    assert_eq!(ok(&agent, &[&run[..], &cat].concat()), "changed");
    ok(&agent, &["run", "--rm", "-v", "bare:/srv/data:nocopy", "declares", "true"]);
    assert_eq!(std::fs::read_dir(data(&agent, "bare")).unwrap().count(), 0);

    // Of a user namespace the owners are the container's own.
    let mapped = ["run", "--rm", "--userns", "private", "-v", "mapped:/srv/data", "declares"];
    let owners = agent.ok(&[&mapped[..], &["stat", "-c", "%u", "/srv/data/in/file"]].concat());
    assert_eq!(owners, "1000\n");
    agent.finish();
}

#[test]
fn a_volume_that_nobody_named_goes_with_its_container_if_asked() {
    skip_without_docker!();
    let agent = TestAgent::start();
    image_with_volume(&agent);
    let output =
        ok(&agent, &["run", "--rm", "-v", "/more", "declares", "cat", "/srv/data/in/file"]);
    assert_eq!(output, "of the image");
    assert_eq!(names(&agent), [""; 0], "--rm takes them along");
    ok(&agent, &["run", "--name", "one", "declares", "touch", "/srv/data/mine"]);
    ok(
        &agent,
        &["run", "--name", "two", "--volumes-from", "one:ro", IMAGE, "ls", "/srv/data/mine"],
    );
    let [volume] = &names(&agent)[..] else { panic!("{:?}", names(&agent)) };
    assert_eq!(volume.len(), 64);
    let mounts = json(&ok(&agent, &["inspect", "--format", "{{json .Mounts}}", "two"]));
    assert_eq!(mounts[0]["Name"], volume.as_str());
    assert_eq!((&mounts[0]["Destination"], &mounts[0]["RW"]), (&"/srv/data".into(), &false.into()));
    ok(&agent, &["rm", "-v", "one"]);
    assert_eq!(names(&agent).len(), 1, "two uses it still");
    ok(&agent, &["rm", "two"]);
    assert_eq!(names(&agent).len(), 1, "it was not asked for");
    ok(&agent, &["volume", "create", "named"]);
    let pruned = ok(&agent, &["volume", "prune", "-f"]);
    assert!(pruned.contains(volume), "{pruned}");
    assert_eq!(names(&agent), ["named"]);
    let usage = ok(&agent, &["system", "df", "--format", "{{.Type}}={{.TotalCount}}"]);
    assert!(usage.contains("Local Volumes=1"), "{usage}");
    ok(&agent, &["volume", "prune", "-af"]);
    assert_eq!(names(&agent), [""; 0]);
    agent.finish();
}

#[test]
fn every_kind_of_mount_is_what_it_says() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let host = agent.scratch.join("bound");
    std::fs::create_dir_all(host.join("inner")).unwrap();
    std::fs::write(host.join("file"), "bound").unwrap();
    let bind = format!("type=bind,src={},dst=/b,readonly", host.display());
    let script = "cat /b/file; touch /b/x 2>/dev/null || echo ' read-only'; \
                  grep ' /t ' /proc/mounts; stat -c %a /t; grep ' /s ' /proc/mounts; touch /v/ok && echo written";
    let mounts = ["--mount", &bind, "--mount", "type=volume,src=vol,dst=/v"];
    let tmpfs = [
        "--mount",
        "type=tmpfs,dst=/t,tmpfs-size=65536,tmpfs-mode=0700",
        "--tmpfs",
        "/s:size=1m,exec",
    ];
    let run = [&["run", "--rm"][..], &mounts, &tmpfs, &[IMAGE, "sh", "-c", script]].concat();
    let text = ok(&agent, &run);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "bound read-only");
    assert!(lines[1].contains(" /t tmpfs ") && lines[1].contains("size=64k"), "{text}");
    assert!(lines[1].contains("noexec") && lines[1].contains("nosuid"), "{text}");
    assert_eq!(lines[2], "700");
    assert!(lines[3].contains("size=1024k") && !lines[3].contains("noexec"), "{text}");
    assert_eq!(lines[4], "written");
    // A mount in a mount is under it, in whatever order they were asked for.
    let nested = format!("{}:/b/inner", host.join("inner").display());
    let outer = format!("{}:/b", host.display());
    std::fs::write(host.join("inner/deep"), "deep").unwrap();
    let run = ["run", "--rm", "-v", &nested, "-v", &outer, "--tmpfs", "/b/inner/t", IMAGE];
    let text = ok(&agent, &[&run[..], &["cat", "/b/inner/deep"]].concat());
    assert_eq!(text, "deep");
    let twice = fails(&agent, &["run", "--rm", "-v", "a1:/x", "-v", "b1:/x/", IMAGE, "true"]);
    assert!(twice.contains("mount") || twice.contains("Duplicate"), "{twice}");
    agent.finish();
}

#[test]
fn what_happens_to_a_volume_is_told() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let log = agent.scratch.join("events");
    let mut events = tenantry_e2e::docker::command(
        &agent,
        &["events", "--filter", "type=volume", "--format", "{{.Action}} {{.Actor.ID}}"],
    )
    .stdout(std::fs::File::create(&log).unwrap())
    .spawn()
    .unwrap();
    until("the stream is there", || {
        ok(&agent, &["volume", "create", "probe"]);
        ok(&agent, &["volume", "rm", "probe"]);
        read(&log).contains("destroy probe")
    });
    ok(&agent, &["run", "--rm", "-v", "told:/t", IMAGE, "true"]);
    ok(&agent, &["volume", "rm", "told"]);
    until("the last is told", || read(&log).contains("destroy told"));
    let of_told = read(&log);
    let of_told: Vec<&str> = of_told.lines().filter(|line| line.ends_with("told")).collect();
    assert_eq!(of_told, ["create told", "mount told", "unmount told", "destroy told"]);
    events.kill().unwrap();
    events.wait().unwrap();
    agent.finish();
}

#[test]
fn later_mounts_are_seen_as_a_binds_propagation_says() {
    skip_without_docker!();
    let mut agent = TestAgent::prepare().unwrap();
    agent.configure("").unwrap();
    agent.spawn_with_own_mounts().unwrap();
    agent.import_image().unwrap();
    let there = agent.scratch.join("there").display().to_string();
    let pid = agent.pid().to_string();
    // What the host is to these containers: the agent's mounts, which end with it.
    let on_host = |script: &str| {
        let mut command = std::process::Command::new("nsenter");
        command.args(["-t", &pid, "-m", "sh", "-ec", script]).env("THERE", &there);
        command.status().expect("nsenter runs").success()
    };
    assert!(on_host("mkdir $THERE && mount -t tmpfs x $THERE && mount --make-shared $THERE"));
    for (word, hosts_are_seen, own_are_seen) in
        [("rprivate", false, false), ("rslave", true, false), ("rshared", true, true)]
    {
        assert!(on_host(&format!("mkdir $THERE/host.{word} $THERE/own.{word}")));
        let bind = format!("{there}:/there:{word}");
        let run = ["run", "-d", "--name", word, "--privileged", "-v", &bind];
        ok(&agent, &[&run[..], &[IMAGE, "sleep", "1000"]].concat());
        let file = format!("host.{word}/later");
        assert!(on_host(&format!("mount -t tmpfs x $THERE/host.{word}; touch $THERE/{file}")));
        let seen = output(&agent, &["exec", word, "test", "-e", &format!("/there/{file}")]);
        assert_eq!(seen.status.success(), hosts_are_seen, "{word}, of the host");
        let file = format!("own.{word}/later");
        let mount = format!("mount -t tmpfs x /there/own.{word} && touch /there/{file}");
        ok(&agent, &["exec", word, "sh", "-c", &mount]);
        assert_eq!(on_host(&format!("test -e $THERE/{file}")), own_are_seen, "{word}, of its own");
        let format = "{{(index .Mounts 0).Propagation}} {{index .HostConfig.Binds 0}}";
        let told = ok(&agent, &["inspect", "--format", format, word]);
        let bind = if word == "rprivate" { bind.replace(":rprivate", "") } else { bind };
        assert_eq!(told, format!("{word} {bind}"));
    }
    let mount = format!("type=bind,source={there},target=/x,bind-propagation=slave");
    let peers = ["run", "--rm", "--mount", &mount, IMAGE, "grep", " /x ", "/proc/self/mountinfo"];
    assert!(ok(&agent, &peers).contains(" master:"));
    // Of what is private there is nothing to be had.
    let private = agent.scratch.display().to_string();
    for (word, kind) in [("rslave", "shared or slave"), ("shared", "shared")] {
        let bind = format!("{private}:/x:{word}");
        let refused = fails(&agent, &["run", "--rm", "-v", &bind, IMAGE, "true"]);
        assert!(refused.contains(&format!("but it is not a {kind} mount")), "{refused}");
    }
    let wrong = format!("{there}:/x:rsideways");
    let refused = fails(&agent, &["create", "-v", &wrong, IMAGE, "true"]);
    assert!(refused.contains("rsideways") && refused.contains("[r]shared"), "{refused}");
    agent.finish();
}
