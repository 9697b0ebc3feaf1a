//! The import rules of ARCHITECTURE.md: which room may name which, who alone may
//! name a crate, where unsafe code may stand. What is absent is held here too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Each room and the rooms it may depend on, directly or through others. A package
/// that is not listed may not exist; tests and tools may name any room.
const ROOMS: &[(&str, &[&str])] = &[
    // The kernel boundary.
    ("tenantry-abi", &[]),
    ("tenantry-programs", &["tenantry-abi"]),
    ("tenantry-ebpf", &["tenantry-abi", "tenantry-programs"]),
    // The runtime: it never names eBPF.
    // Dockerfiles: values in, values out. It knows no store and no engine.
    ("tenantry-build", &[]),
    ("tenantry-cgroupfs", &[]),
    // Compose files: values in, values out. It asks no agent.
    ("tenantry-compose", &[]),
    ("tenantry-image", &[]),
    ("tenantry-network", &[]),
    // The protocol alone: what is fetched is handed to whoever keeps it.
    ("tenantry-registry", &[]),
    // Literal writes that take a limit back, nothing else of it.
    ("tenantry-shim", &["tenantry-cgroupfs"]),
    (
        "tenantry-container",
        &["tenantry-cgroupfs", "tenantry-image", "tenantry-network", "tenantry-shim"],
    ),
    // The runtime for others: their bundles, our shim's steps.
    (
        "tenantry-oci",
        &[
            "tenantry-cgroupfs",
            "tenantry-container",
            "tenantry-image",
            "tenantry-network",
            "tenantry-shim",
        ],
    ),
    // The controller's brain: values in, values out. It knows no kernel and no runtime.
    ("tenantry-control", &[]),
    // Rules over audit events: values in, values out.
    ("tenantry-rules", &[]),
    // The agent: the only place where the two meet.
    (
        "tenantry",
        &[
            "tenantry-abi",
            "tenantry-build",
            "tenantry-cgroupfs",
            "tenantry-compose",
            "tenantry-container",
            "tenantry-control",
            "tenantry-ebpf",
            "tenantry-image",
            "tenantry-network",
            "tenantry-programs",
            "tenantry-registry",
            "tenantry-rules",
            "tenantry-shim",
        ],
    ),
    // The workload runs inside containers and knows nothing of its keeper; xtask is
    // built before anything else can be.
    ("tenantry-workload", &[]),
    ("xtask", &[]),
];

/// Packages that only test or measure: any room may be theirs.
const TESTERS: &[&str] = &["tenantry-e2e", "tenantry-bench"];

/// Outside crates that only some rooms may name, and which.
const OWNED: &[(&str, &[&str])] = &[
    ("aya", &["tenantry-ebpf"]),
    // Its tests compare the object's own type information with the Rust types.
    ("aya-obj", &["tenantry-ebpf", "tenantry-programs"]),
    ("rtnetlink", &["tenantry-network"]),
    ("nftables", &["tenantry-network"]),
    ("hyper-rustls", &["tenantry-registry"]),
    ("rustls", &["tenantry-registry"]),
    ("axum", &["tenantry"]),
    ("bollard", &["tenantry", "tenantry-e2e", "tenantry-bench"]),
];

/// Files that may contain unsafe code, and why they must. One that ends with `/` is a
/// folder: allowed for tests alone, whose children fork and call the kernel directly.
const UNSAFE: &[(&str, &str)] = &[
    ("agent/src/fs_usage/idle.rs", "ioprio_set, which neither rustix nor libc wraps"),
    ("agent/src/readable.rs", "descriptors registered with the event loop"),
    ("ebpf/host/src/cache.rs", "a map mapped into memory, changed by atomics"),
    ("ebpf/host/src/map.rs", "the bpf system call, without an allocation per look-up"),
    ("ebpf/host/src/memory.rs", "libc's allocator settings"),
    ("ebpf/host/tests/kernel/", "children that make exact system calls before they exec"),
    ("runtime/container/src/shim/program.rs", "mount_setattr, which rustix does not have"),
    ("runtime/container/src/shim/spawn.rs", "a pidfd registered with the event loop"),
    ("runtime/shim/src/sys.rs", "clone3, signals and what rustix does not cover, in one thread"),
    ("runtime/shim/tests/support/mod.rs", "descriptors at fixed numbers between fork and exec"),
    ("tests/fixtures/workload/src/sys.rs", "exact numbers of raw system calls, fork"),
];

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// Workspace packages by name.
fn members(metadata: &Metadata) -> BTreeMap<String, &Package> {
    metadata.workspace_packages().into_iter().map(|p| (p.name.to_string(), p)).collect()
}

/// What a package names in its manifest, for building, running and testing.
fn dependencies(package: &Package, tests_too: bool) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|d| tests_too || d.kind != DependencyKind::Development)
        .map(|d| d.name.clone())
        .collect()
}

/// `name` and all workspace members it reaches.
fn reach(name: &str, members: &BTreeMap<String, &Package>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![name.to_owned()];
    while let Some(name) = todo.pop() {
        for next in dependencies(members[&name], false) {
            if members.contains_key(&next) && seen.insert(next.clone()) {
                todo.push(next);
            }
        }
    }
    seen
}

#[test]
fn dependencies_between_rooms_point_one_way() {
    let metadata = metadata();
    let members = members(&metadata);
    let mut wrong = Vec::new();
    for name in members.keys().filter(|name| !TESTERS.contains(&name.as_str())) {
        let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| room == name) else {
            wrong.push(format!("{name} is in no list of rooms"));
            continue;
        };
        for room in reach(name, &members).iter().filter(|r| !allowed.contains(&r.as_str())) {
            wrong.push(format!("{name} must not depend on {room}"));
        }
        // A room's own tests may look at no more than the room itself.
        for room in dependencies(members[name], true) {
            if members.contains_key(&room) && !allowed.contains(&room.as_str()) && room != *name {
                wrong.push(format!("{name} must not name {room}, not even for its tests"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_runtime_never_names_ebpf_and_ebpf_never_the_runtime() {
    let metadata = metadata();
    let members = members(&metadata);
    let folder = |package: &Package| {
        let dir = package.manifest_path.parent().unwrap().as_std_path();
        dir.strip_prefix(root()).unwrap().components().next().unwrap().as_os_str().to_owned()
    };
    for (name, package) in &members {
        let (own, other) = match folder(package).to_str() {
            Some("ebpf") => ("ebpf", "runtime"),
            Some("runtime") => ("runtime", "ebpf"),
            _ => continue,
        };
        for reached in reach(name, &members) {
            let place = folder(members[&reached]);
            assert_ne!(place, other, "{name} (in {own}) reaches {reached} (in {other})");
        }
    }
}

#[test]
fn outside_crates_stay_in_their_rooms() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for (name, package) in members(&metadata) {
        for dependency in dependencies(package, true) {
            let owners = OWNED.iter().find(|(crate_name, _)| *crate_name == dependency);
            if let Some((_, owners)) = owners
                && !owners.contains(&name.as_str())
            {
                wrong.push(format!("{name} must not name {dependency}, only {owners:?} may"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The shim's library has, beside what it and the agent say to each other, the steps by
/// which a process becomes a container. They are sound in programs of one thread only.
#[test]
fn only_programs_of_one_thread_name_the_steps_of_a_birth() {
    const CONTRACT: [&str; 4] = ["log", "log_pieces", "protocol", "spec"];
    let mut wrong = Vec::new();
    for folder in ["agent", "runtime/container", "runtime/network", "runtime/image", "tests"] {
        rust_files(&root().join(folder), &mut |path, text| {
            for (at, name) in text.match_indices(concat!("tenantry_", "shim::")) {
                let rest = &text[at + name.len()..];
                let named = names_after(rest);
                let foreign = named.iter().find(|name| !CONTRACT.contains(&name.as_str()));
                if let Some(foreign) = foreign {
                    wrong.push(format!("{} names {foreign}", path.display()));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first names of a path, or of each in a list: `spec::X` or `{log::A, spec::{B, C}}`.
fn names_after(path: &str) -> Vec<String> {
    let word = |text: &str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        text[..end].to_owned()
    };
    let Some(list) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(word(list[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn the_names_of_a_list_are_its_first_ones() {
    let check = |path: &str, expected: &[&str]| assert_eq!(names_after(path), expected, "{path}");
    check("spec::Process;", &["spec"]);
    check("{log::A, spec::{B, C}};", &["log", "spec"]);
    check("{\n    protocol::{A, B},\n    sys,\n};", &["protocol", "sys"]);
}

#[test]
fn every_package_inherits_the_workspaces_lints() {
    for (name, package) in members(&metadata()) {
        let text = fs::read_to_string(&package.manifest_path).unwrap();
        let inherits = text.split("[lints]").nth(1).is_some_and(|rest| {
            rest.lines().take_while(|line| !line.starts_with('[')).any(|l| l == "workspace = true")
        });
        assert!(inherits, "{name} does not say [lints] workspace = true");
    }
}

#[test]
fn unsafe_code_stands_only_in_the_listed_files() {
    let mut found = BTreeSet::new();
    for folder in ["agent", "ebpf", "runtime", "tests"] {
        rust_files(&root().join(folder), &mut |path, text| {
            if names_unsafe(text) {
                found.insert(path.strip_prefix(root()).unwrap().display().to_string());
            }
        });
    }
    let covers = |entry: &str, file: &str| match entry.strip_suffix('/') {
        Some(_) => entry.contains("/tests/") && file.starts_with(entry),
        None => entry == file,
    };
    let unlisted: Vec<&String> =
        found.iter().filter(|file| !UNSAFE.iter().any(|(entry, _)| covers(entry, file))).collect();
    assert!(unlisted.is_empty(), "unsafe code in files that are not listed: {unlisted:#?}");
    let stale: Vec<&str> = UNSAFE
        .iter()
        .map(|(entry, _)| *entry)
        .filter(|entry| !found.iter().any(|file| covers(entry, file)))
        .collect();
    assert!(stale.is_empty(), "listed, but without unsafe code: {stale:#?}");
}

fn rust_files(dir: &Path, each: &mut impl FnMut(&Path, &str)) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            rust_files(&path, each);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            each(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

/// Whether a source has unsafe code: the keyword before what it can stand before, so
/// that the word in a string is none.
fn names_unsafe(source: &str) -> bool {
    let code: String = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    let keyword = concat!("un", "safe");
    code.match_indices(keyword).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + keyword.len()..].trim_start();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            && ["{", "(", "fn ", "impl ", "impl<", "extern ", "trait "]
                .iter()
                .any(|follower| after.starts_with(follower))
    })
}

#[test]
fn the_keyword_is_found_where_it_is_code() {
    let check = |line: &str, expected: bool| {
        assert_eq!(names_unsafe(&line.replace('!', "un")), expected, "{line}");
    };
    check("let x = !safe { f() };", true);
    check("!safe impl Send for X {}", true);
    check("#[!safe(no_mangle)]", true);
    check("// !safe is not needed", false);
    check("/// An !safe block", false);
    check("#![forbid(!safe_code)]", false);
    check("fn !safely() {}", false);
    check("!safe\n{ f() }", true);
    check("\"cache=!safe,discard\"", false);
}
