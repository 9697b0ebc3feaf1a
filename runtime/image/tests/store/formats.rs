//! Every format that load and import take.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;
use tenantry_image::{Digest, Error, ErrorKind, ImportOptions};

use crate::archives::*;

fn hello() -> Vec<u8> {
    Layer::new().dir("etc/", 0o755).file("etc/hello", b"hello").tar()
}

/// Loads, and looks the image up by name, id, prefix and manifest.
fn check_loads(archive: &[u8], image: &Image) {
    let scratch = Scratch::new();
    let store = scratch.open();
    let loaded = store.load(archive).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].name.as_deref(), Some("demo:latest"));
    assert_eq!(loaded[0].id, image.id());
    let id = image.id();
    let queries = [
        "demo".into(),
        "docker.io/library/demo:latest".into(),
        id.to_string(),
        id.hex(),
        id.hex()[..4].to_owned(),
        id.short(),
        format!("sha256:{}", id.short()),
        loaded[0].digest.to_string(),
        format!("demo@{}", loaded[0].digest),
    ];
    for query in queries {
        let found = store.resolve(&query).unwrap();
        assert_eq!((found.id, found.manifest_digest), (id, loaded[0].digest), "{query}");
        assert_eq!(found.names, ["demo:latest"]);
        assert_eq!(found.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/bin/sh"]);
        assert_eq!(fs::read(found.layers[0].join("etc/hello")).unwrap(), b"hello");
    }
    let list = store.list().unwrap();
    assert_eq!((list.len(), list[0].size_bytes), (1, 5));
    assert_eq!(list[0].created.as_deref(), Some("2024-01-02T03:04:05Z"));
    drop(store);
    assert_eq!(scratch.open().list().unwrap(), list);
}

#[test]
fn an_oci_archive_loads_plain_gzip_and_zstd_inside_and_outside() {
    if skipped() {
        return;
    }
    let plain = || Image::new(&[hello()]);
    let images = [plain(), plain().compressed(TAR_GZIP, gzip), plain().compressed(TAR_ZSTD, zstd)];
    for image in &images {
        let tar = Archive::oci(&[image], vec![image.named("demo")]).tar();
        for archive in [tar.clone(), gzip(&tar), zstd(&tar)] {
            check_loads(&archive, image);
        }
    }
}

#[test]
fn an_oci_directory_loads() {
    if skipped() {
        return;
    }
    let image = Image::new(&[hello()]).compressed(TAR_GZIP, gzip);
    let dir = tempfile::tempdir().unwrap();
    Archive::oci(&[&image], vec![image.named("demo")]).write(dir.path());
    let scratch = Scratch::new();
    let loaded = scratch.open().load_dir(dir.path()).unwrap();
    assert_eq!(loaded[0].id, image.id());
    assert!(dir.path().join("index.json").exists(), "the source is left alone");
}

#[test]
fn a_docker_save_archive_loads() {
    if skipped() {
        return;
    }
    let image = Image::new(&[hello()]);
    check_loads(&Archive::docker(&image, &["demo:latest"]).tar(), &image);
    check_loads(&gzip(&Archive::docker(&image, &["demo:latest"]).tar()), &image);
}

#[test]
fn a_docker_save_archive_with_equal_layers_as_symlinks_loads() {
    if skipped() {
        return;
    }
    let image = Image::new(&[hello(), hello()]);
    let mut archive = Archive::docker(&image, &["demo:latest"]);
    let second = format!("{:064x}/layer.tar", 1);
    archive.members.remove(&second);
    let members = archive.members.iter();
    let layer = members.fold(Layer::new(), |layer, (path, content)| layer.file(path, content));
    let tar = layer.symlink(&second, &format!("../{:064x}/layer.tar", 0)).tar();
    check_loads(&tar, &image);
}

#[test]
fn a_docker_25_archive_takes_its_names_from_either_document() {
    if skipped() {
        return;
    }
    let image = Image::new(&[hello()]);
    let blob = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content).hex());
    let saved = json!([{
        "Config": blob(&image.config_bytes()),
        "RepoTags": ["demo:latest"],
        "Layers": [blob(&image.layers[0].1)],
        "LayerSources": {},
    }]);
    let mut both = Archive::oci(&[&image], vec![image.named("latest")]);
    both.put("manifest.json", saved.to_string().into_bytes());
    check_loads(&both.tar(), &image);

    let mut descriptor = image.named("latest");
    descriptor["annotations"]["io.containerd.image.name"] = json!("docker.io/library/demo:latest");
    check_loads(&Archive::oci(&[&image], vec![descriptor]).tar(), &image);
}

#[test]
fn a_nested_index_gives_the_image_of_this_platform() {
    if skipped() {
        return;
    }
    let ours = Image::new(&[hello()]);
    let other = Image::new(&[Layer::new().file("other", b"x").tar()]);
    let entry = |image: &Image, os: &str, arch: &str| {
        let mut descriptor = image.descriptor();
        descriptor["platform"] = json!({"os": os, "architecture": arch});
        descriptor
    };
    let mut newest = entry(&other, "linux", &arch());
    newest["platform"]["variant"] = json!("v4");
    let mut attestation = entry(&other, "linux", &arch());
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let manifests = json!([
        attestation,
        entry(&other, "linux", "s390x"),
        entry(&other, "windows", &arch()),
        newest,
        entry(&ours, "linux", &arch()),
    ]);
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    let index = index.to_string().into_bytes();
    let mut top = descriptor(kind, &index);
    top["annotations"] = json!({"io.containerd.image.name": "demo"});
    // The other platforms' blobs need not be there.
    let mut archive = Archive::oci(&[&ours], vec![top]);
    archive.members.retain(|path, _| !path.contains(&other.id().hex()));
    archive.blob(other.manifest_bytes());
    archive.blob(index);
    check_loads(&archive.tar(), &ours);
}

#[test]
fn an_archive_without_this_platform_says_what_it_has() {
    let image = Image::new(&[hello()]);
    let mut descriptor = image.named("demo");
    descriptor["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let scratch = Scratch::new();
    let error = scratch.open().load(&*Archive::oci(&[&image], vec![descriptor]).tar()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&format!("no image for linux/{}", arch())), "{message}");
    assert!(message.contains("linux/s390x"), "{message}");
}

#[test]
fn several_images_and_names_load_at_once() {
    if skipped() {
        return;
    }
    let base = hello();
    let one = Image::new(std::slice::from_ref(&base));
    let two = Image::new(&[base, Layer::new().file("two", b"2").tar()]);
    let manifests =
        vec![one.named("one"), one.named("uno:1"), two.named("quay.io/x/two"), two.descriptor()];
    let scratch = Scratch::new();
    let loaded = scratch.open().load(&*Archive::oci(&[&one, &two], manifests).tar()).unwrap();
    let names: Vec<_> = loaded.iter().map(|one| one.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["one:latest", "uno:1", "quay.io/x/two:latest"]);
}

#[test]
fn an_image_without_a_name_or_layers_is_found_by_id() {
    let image = Image::new(&[]);
    let scratch = Scratch::new();
    let store = scratch.open();
    let loaded = store.load(&*Archive::oci(&[&image], vec![image.descriptor()]).tar()).unwrap();
    assert_eq!(loaded[0].name, None);
    let found = store.resolve(&loaded[0].id.short()).unwrap();
    assert_eq!(found.names, [""; 0]);
    assert_eq!(found.layers.len(), 1, "overlayfs wants one");
    assert_eq!(fs::read_dir(&found.layers[0]).unwrap().count(), 0);
}

#[test]
fn what_is_no_image_archive_says_what_would_be() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for archive in [&b""[..], &hello()] {
        let error = store.load(archive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("allowed are an OCI layout"), "{error}");
    }
    let error = store.load(&b"just some text that is longer than nothing"[..]).unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
}

fn options() -> ImportOptions {
    ImportOptions {
        cmd: vec!["/bin/sh".into(), "-c".into(), "true".into()],
        entrypoint: vec!["/entry".into()],
        env: vec!["PATH=/bin".into(), "EMPTY=".into()],
        working_dir: Some("/srv".into()),
        user: Some("7:8".into()),
        labels: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
        exposed_ports: vec!["80/tcp".into()],
        stop_signal: Some("SIGINT".into()),
        created: Some("2024-01-31T12:00:00Z".into()),
        comment: None,
    }
}

#[test]
fn an_imported_root_filesystem_is_an_oci_image() {
    if skipped() {
        return;
    }
    for tar in [hello(), gzip(&hello()), zstd(&hello())] {
        let scratch = Scratch::new();
        let store = scratch.open();
        let loaded = store.import("mine:1", &*tar, options()).unwrap();
        assert_eq!(loaded.name.as_deref(), Some("mine:1"));
        assert_eq!(store.import("mine:1", &*tar, options()).unwrap(), loaded, "deterministic");
        let image = store.resolve("mine:1").unwrap();
        let config = image.config.config().clone().unwrap();
        assert_eq!(config.cmd().as_ref().unwrap()[2], "true");
        assert_eq!(config.entrypoint().as_ref().unwrap(), &["/entry"]);
        assert_eq!(config.env().as_ref().unwrap()[1], "EMPTY=");
        assert_eq!(config.working_dir().as_deref(), Some("/srv"));
        assert_eq!(config.user().as_deref(), Some("7:8"));
        assert_eq!(config.labels().as_ref().unwrap()["a"], "1");
        assert_eq!(config.exposed_ports().as_ref().unwrap(), &["80/tcp"]);
        assert_eq!(image.config.rootfs().diff_ids(), &[Digest::of(&hello()).to_string()]);
        assert_eq!(fs::read(image.layers[0].join("etc/hello")).unwrap(), b"hello");
        assert_eq!(store.list().unwrap()[0].created.as_deref(), Some("2024-01-31T12:00:00Z"));
    }
}

/// Golden: a change of these bytes changes every imported image's id.
#[test]
fn imported_documents_have_these_bytes() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let options = ImportOptions { labels: BTreeMap::new(), ..options() };
    let loaded = store.import("mine", &*hello(), options).unwrap();
    let blob = |digest: Digest| {
        fs::read_to_string(scratch.path().join("blobs/sha256").join(digest.hex())).unwrap()
    };
    let layer = Digest::of(&hello());
    let expected = concat!(
        r#"{"architecture":"ARCH","config":{"Cmd":["/bin/sh","-c","true"],"Entrypoint":["/entry"],"#,
        r#""Env":["PATH=/bin","EMPTY="],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGINT","#,
        r#""User":"7:8","WorkingDir":"/srv"},"created":"2024-01-31T12:00:00Z","#,
        r#""history":[{"comment":"imported by tenantry","created":"2024-01-31T12:00:00Z"}],"#,
        r#""os":"linux","rootfs":{"diff_ids":["LAYER"],"type":"layers"}}"#,
    );
    let expected = expected.replace("ARCH", &arch()).replace("LAYER", &layer.to_string());
    assert_eq!(blob(loaded.id), expected);
    let expected = format!(
        concat!(
            r#"{{"config":{{"digest":"{}","mediaType":"application/vnd.oci.image.config.v1+json","size":{}}},"#,
            r#""layers":[{{"digest":"{}","mediaType":"application/vnd.oci.image.layer.v1.tar","size":{}}}],"#,
            r#""mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#,
        ),
        loaded.id,
        expected.len(),
        layer,
        hello().len(),
    );
    assert_eq!(blob(loaded.digest), expected);
}

#[test]
fn wrong_import_options_name_the_option_and_what_is_allowed() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let rows = [
        (
            ImportOptions { env: vec!["NOVALUE".into()], ..options() },
            "env `NOVALUE`: allowed is NAME=value",
        ),
        (ImportOptions { env: vec!["=x".into()], ..options() }, "env `=x`"),
        (
            ImportOptions { working_dir: Some("srv".into()), ..options() },
            "working_dir `srv`: allowed is an absolute path",
        ),
        (
            ImportOptions { exposed_ports: vec!["0/tcp".into()], ..options() },
            "exposed_ports `0/tcp`",
        ),
        (ImportOptions { created: Some("now".into()), ..options() }, "created `now`"),
    ];
    for (options, expected) in rows {
        let error = store.import("mine", &*hello(), options).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = store.import("Mine", &*hello(), options()).unwrap_err();
    assert!(matches!(error, Error::InvalidName { .. }));
    let empty = store.import("mine", &b""[..], options()).unwrap_err();
    assert!(empty.to_string().contains("it holds no files"), "{empty}");
}
