//! The verbs over images that are here, by the stock `docker` client; skopeo and Podman
//! read what `save` writes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::docker::{self, fails, ok};
use tenantry_e2e::image_store::faults;
use tenantry_e2e::{skip_without_docker, until};

fn store(agent: &TestAgent) -> std::path::PathBuf {
    agent.data_dir().join("images")
}

const NAMES: [&str; 4] = ["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter"];

#[test]
fn names_come_and_go_and_filters_choose() {
    skip_without_docker!();
    let agent = TestAgent::start();
    ok(&agent, &["tag", IMAGE, "localhost:5000/me/demo:v2"]);
    ok(&agent, &["tag", IMAGE, "other"]);
    ok(&agent, &["run", "--name", "cc", IMAGE, "touch", "/new"]);
    ok(&agent, &["commit", "--change", "LABEL tier=web", "cc", "labelled:1"]);
    let by = |filter: &str| {
        let mut names: Vec<String> =
            ok(&agent, &[&NAMES[..], &[filter]].concat()).lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(by("reference=*"), "demo:latest labelled:1 other:latest");
    assert_eq!(by("reference=localhost:5000/*/*"), "localhost:5000/me/demo:v2");
    assert_eq!(by("reference=demo:l?test"), "demo:latest");
    assert_eq!(by("label=tier=web"), "labelled:1");
    assert_eq!(by("label=tier=db"), "");
    assert_eq!(by("since=demo"), "labelled:1");
    assert_eq!(by("before=labelled:1"), "demo:latest localhost:5000/me/demo:v2 other:latest");
    assert_eq!(by("dangling=true"), "");
    let digests = ok(&agent, &["images", "--digests", "--no-trunc", "-a", "labelled:1"]);
    assert!(digests.contains("labelled") && digests.contains("<none>"), "{digests}");

    // Docker's words.
    let id = ok(&agent, &["images", "-q", "demo"]);
    let complaint = fails(&agent, &["rmi", &id]);
    let expected = format!(
        "Error response from daemon: conflict: unable to delete {id} (cannot be forced) - image \
         has dependent child images"
    );
    assert_eq!(complaint, expected);
    assert!(fails(&agent, &["rmi", "nobody"]).contains("o such image: nobody"));
    assert_eq!(ok(&agent, &["rmi", "other"]), "Untagged: other:latest");
    assert_eq!(
        ok(&agent, &["rmi", "localhost:5000/me/demo:v2"]),
        "Untagged: localhost:5000/me/demo:v2"
    );
    let complaint = fails(&agent, &["rmi", "demo"]);
    assert!(complaint.contains("(must force) - container"), "{complaint}");
    let child = ok(&agent, &["images", "-q", "--no-trunc", "labelled:1"]);
    assert_eq!(
        ok(&agent, &["rmi", "labelled:1"]),
        format!("Untagged: labelled:1\nDeleted: {child}")
    );
    ok(&agent, &["rm", "cc"]);
    assert!(ok(&agent, &["rmi", "demo"]).contains("Deleted: sha256:"));
    assert_eq!(ok(&agent, &["images", "-q", "-a"]), "");
    assert_eq!(faults(&store(&agent)), [""; 0]);
    agent.finish();
}

#[test]
fn what_a_container_changed_is_committed() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let script = "echo hello > /data/new; rm /bin/vi; rm -r /root; mkdir /root; \
                  echo 1 > /root/own; chmod 4755 /data/new; ln /data/new /data/twin; \
                  while true; do echo x >> /tmp/count; sleep 0.01; done";
    ok(&agent, &["run", "-d", "--name", "cc", "-e", "A=b", IMAGE, "sh", "-c", script]);
    until("it counts", || ok(&agent, &["exec", "cc", "cat", "/tmp/count"]).len() > 4);
    let flags = ["commit", "-a", "me", "-m", "said", "-c", "CMD [\"cat\", \"/data/new\"]"];
    let id = ok(&agent, &[&flags[..], &["-c", "ENV C=d", "cc", "made:v1"]].concat());
    // It goes on.
    let count = || ok(&agent, &["exec", "cc", "wc", "-l", "/tmp/count"]);
    let before = count();
    until("it counts again", || count() != before);

    assert_eq!(ok(&agent, &["run", "--rm", "made:v1"]), "hello");
    let look = "ls /root /bin/vi; stat -c %a-%h /data/twin; echo $A$C";
    let output = docker::output(&agent, &["run", "--rm", "made:v1", "sh", "-c", look]);
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out, "/root:\nown\n4755-2\nbd\n", "{error}");
    assert!(error.contains("/bin/vi: No such file"), "{error}");

    let seen: Value = json(&ok(&agent, &["inspect", "made:v1"]));
    let seen = &seen[0];
    assert_eq!(seen["Id"], id.as_str());
    let parent = ok(&agent, &["images", "-q", "--no-trunc", IMAGE]);
    assert_eq!(
        (&seen["Parent"], &seen["Author"], &seen["Comment"]),
        (&parent.into(), &"me".into(), &"said".into())
    );
    assert_eq!(seen["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert!(seen["Config"]["Env"].as_array().unwrap().contains(&"A=b".into()), "{seen}");
    assert_eq!(seen["RepoTags"], serde_json::json!(["made:v1"]));
    let history = ok(&agent, &["history", "--format", "{{.ID}} {{.Comment}}", "made:v1"]);
    let history: Vec<&str> = history.lines().collect();
    assert_eq!(history.len(), 2, "{history:?}");
    assert!(history[0].ends_with(" said") && id.contains(history[0].split(' ').next().unwrap()));
    assert!(history[1].ends_with("imported by tenantry"), "{history:?}");
    let created = ok(&agent, &["history", "--no-trunc", "--format", "{{.CreatedBy}}", "made:v1"]);
    assert!(created.starts_with("sh -c echo hello"), "{created}");

    // A layer that no image can hold, and a name that none can have.
    ok(&agent, &["exec", "cc", "touch", "/.wh.x"]);
    assert!(fails(&agent, &["commit", "cc"]).contains("whiteouts"));
    assert!(fails(&agent, &["commit", "cc", "UPPER"]).contains("lowercase"));
    assert!(fails(&agent, &["commit", "-c", "RUN x", "cc"]).contains("RUN x"));
    assert_eq!(faults(&store(&agent)), [""; 0]);
    agent.finish();
}

#[test]
fn a_mapped_containers_commit_runs_with_its_own_owners() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let script = "echo x > /data/f; chown 1000:1000 /data/f";
    // The stock client knows no such mode.
    agent.ok(&["run", "--name", "cc", "--userns", "private", IMAGE, "sh", "-c", script]);
    ok(&agent, &["commit", "cc", "mapped"]);
    let look = ["stat", "-c", "%u:%g", "/data/f", "/data"];
    assert_eq!(ok(&agent, &[&["run", "--rm", "mapped"][..], &look].concat()), "1000:1000\n0:0");
    agent.finish();
}

#[test]
fn an_image_saved_is_loaded_by_us_by_skopeo_and_by_podman() {
    skip_without_docker!();
    let agent = TestAgent::start();
    ok(&agent, &["run", "--name", "cc", IMAGE, "sh", "-c", "echo two > /data/second; rm /bin/vi"]);
    let id = ok(&agent, &["commit", "-c", "CMD [\"cat\", \"/data/second\"]", "cc", "two:v1"]);
    ok(&agent, &["rm", "cc"]);
    let archive = agent.scratch.join("two.tar");
    let archive = archive.to_str().unwrap();
    ok(&agent, &["save", "-o", archive, "two:v1", IMAGE]);
    let ours = agent.scratch.join("ours.tar");
    agent.ok(&["image", "save", "-o", ours.to_str().unwrap(), "two:v1", IMAGE]);
    assert!(std::fs::read(archive).unwrap() == std::fs::read(&ours).unwrap());
    assert!(fails(&agent, &["save", "-o", archive, "nobody"]).contains("o such image: nobody"));

    ok(&agent, &["rmi", "-f", "two:v1", IMAGE]);
    assert_eq!(ok(&agent, &["images", "-q", "-a"]), "");
    let loaded = ok(&agent, &["load", "-i", archive]);
    assert_eq!(loaded, "Loaded image: two:v1\nLoaded image: demo:latest");
    assert_eq!(ok(&agent, &["images", "-q", "--no-trunc", "two:v1"]), id);
    assert_eq!(ok(&agent, &["run", "--rm", "two:v1"]), "two");

    let root = agent.scratch.join("foreign");
    for kind in ["docker-archive", "oci-archive"] {
        let from = format!("{kind}:{archive}:two:v1");
        // An OCI reference is the annotation's text, which is a tag alone.
        let from = if kind == "oci-archive" { format!("{kind}:{archive}:v1") } else { from };
        let to = format!("dir:{}", root.join(kind).display());
        std::fs::create_dir_all(root.join(kind)).unwrap();
        let Some(output) = run("skopeo", &["--insecure-policy", "copy", &from, &to]) else { break };
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{from}: {error}");
        let manifest: Value =
            json(&std::fs::read_to_string(root.join(kind).join("manifest.json")).unwrap());
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2, "{from}");
        assert_eq!(manifest["config"]["digest"], id.as_str(), "{from}");
    }
    podman_runs(&root, archive);
    agent.finish();
}

fn podman_runs(root: &Path, archive: &str) {
    let at = |part: &str| root.join(part).to_str().unwrap().to_owned();
    let (storage, run_root) = (at("storage"), at("run"));
    let store = ["--root", &storage, "--runroot", &run_root, "--storage-driver", "vfs"];
    let Some(output) = run("podman", &[&store[..], &["load", "-i", archive]].concat()) else {
        return;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "podman load: {error}");
    let list = [&store[..], &["images", "--format", "{{.Repository}}:{{.Tag}}"]].concat();
    let listed = String::from_utf8(run("podman", &list).unwrap().stdout).unwrap();
    assert!(listed.contains("/two:v1") && listed.contains("/demo:latest"), "{listed}");
    let mount = [&store[..], &["image", "mount", "two:v1"]].concat();
    let mounted = run("podman", &mount).unwrap();
    let path = String::from_utf8(mounted.stdout).unwrap();
    let path = Path::new(path.trim());
    assert_eq!(std::fs::read_to_string(path.join("data/second")).unwrap(), "two\n");
    assert!(path.join("bin/sh").exists() && path.join("bin/vi").symlink_metadata().is_err());
    run("podman", &[&store[..], &["image", "umount", "-a"]].concat());
    run("podman", &[&store[..], &["rmi", "-a", "-f"]].concat());
}

/// `None`, and a word about it, where the program is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(arguments).output();
    output.inspect_err(|error| println!("SKIPPED: {program}: {error}")).ok()
}

#[test]
fn prune_and_df_tell_what_nobody_needs() {
    skip_without_docker!();
    let agent = TestAgent::start();
    ok(&agent, &["run", "--name", "cc", IMAGE, "sh", "-c", "head -c 100000 /dev/zero > /data/big"]);
    ok(&agent, &["commit", "cc", "again"]);
    ok(&agent, &["tag", IMAGE, "again"]);
    // Unnamed now, and made into nothing.
    assert_eq!(ok(&agent, &["images", "-q", "--filter", "dangling=true"]).lines().count(), 1);
    let rows = ok(
        &agent,
        &["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}}"],
    );
    let images = rows.lines().next().unwrap().to_owned();
    assert!(images.starts_with("Images 2 1 "), "{rows}");
    assert!(ok(&agent, &["system", "df", "-v"]).contains("<none>"));
    let pruned = ok(&agent, &["image", "prune", "-f"]);
    assert!(pruned.contains("deleted: sha256:") && pruned.ends_with("100kB"), "{pruned}");
    let pruned = ok(&agent, &["image", "prune", "-f", "-a"]);
    assert!(pruned.ends_with("0B"), "in use: {pruned}");
    ok(&agent, &["rm", "cc"]);
    let pruned = ok(&agent, &["image", "prune", "-f", "-a", "--filter", "label=x"]);
    assert!(pruned.ends_with("0B"), "{pruned}");
    let pruned = ok(&agent, &["image", "prune", "-f", "-a", "--filter", "until=1h"]);
    assert!(pruned.ends_with("0B"), "{pruned}");
    let pruned = ok(&agent, &["image", "prune", "-f", "-a"]);
    assert!(pruned.contains("untagged: demo:latest"), "{pruned}");
    assert_eq!(ok(&agent, &["images", "-q", "-a"]), "");
    assert_eq!(faults(&store(&agent)), [""; 0]);
    agent.finish();
}

#[test]
fn events_tell_what_happens_to_images() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let format =
        ["events", "--filter", "type=image", "--format", "{{.Action}} {{.Actor.Attributes.name}}"];
    let mut child = docker::command(&agent, &format).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The client subscribes when it likes: the first event is repeated until it is heard.
    let (heard, hear) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            if heard.send(line).is_err() {
                return;
            }
        }
    });
    until("the client hears", || {
        ok(&agent, &["tag", IMAGE, "heard"]);
        hear.recv_timeout(std::time::Duration::from_millis(200)).is_ok()
    });
    while hear.recv_timeout(std::time::Duration::from_millis(300)).is_ok() {}
    let archive = agent.scratch.join("demo.tar");
    let archive = archive.to_str().unwrap();
    ok(&agent, &["save", "-o", archive, IMAGE]);
    ok(&agent, &["rmi", "heard"]);
    ok(&agent, &["rmi", IMAGE]);
    ok(&agent, &["load", "-i", archive]);
    let mut told = Vec::new();
    while told.len() < 5 {
        let line = hear.recv_timeout(std::time::Duration::from_secs(10));
        told.push(line.unwrap_or_else(|_| panic!("only {told:?}")));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    let deleted = told.remove(3);
    assert_eq!(told, ["save demo", "untag heard:latest", "untag demo:latest", "load demo:latest"]);
    assert!(deleted.starts_with("delete sha256:"), "{deleted}");
    agent.finish();
}

#[test]
fn our_own_verbs_say_the_same() {
    skip_without_docker!();
    let agent = TestAgent::start();
    agent.run_detached("cc", &[], &["sleep", "1000"]).unwrap();
    agent.ok(&["exec", "cc", "touch", "/data/mine"]);
    let id = agent.ok(&["commit", "-m", "mine", "-c", "ENV X=y", "-c", "CMD env", "cc", "mine:v1"]);
    agent.ok(&["image", "tag", "mine:v1", "host:5000/mine"]);
    let history = agent.ok(&["image", "history", "mine:v1"]);
    assert!(history.contains("mine") && history.contains(&id[7..19]), "{history}");
    let seen = json(&agent.ok(&["image", "inspect", "mine:v1"]));
    assert_eq!(seen[0]["RepoTags"], serde_json::json!(["mine:v1", "host:5000/mine:latest"]));
    assert!(agent.ok(&["run", "--rm", "mine:v1"]).contains("X=y"));
    assert!(agent.ok(&["image", "df"]).contains("Images"));
    agent.ok(&["image", "rm", "mine:v1", "host:5000/mine"]);
    // Its parent lost its name while a container uses it: it is no rubbish.
    agent.ok(&["image", "rm", "-f", IMAGE]);
    let pruned = agent.ok(&["image", "prune", "--all"]);
    assert!(pruned.starts_with("0 B freed"), "{pruned}");
    agent.ok(&["rm", "-f", "cc"]);
    let pruned = agent.ok(&["image", "prune"]);
    assert!(pruned.contains("deleted sha256:") && pruned.contains("MiB freed"), "{pruned}");
    assert_eq!(faults(&store(&agent)), [""; 0]);
    agent.finish();
}
