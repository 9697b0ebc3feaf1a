//! What a container sees and may do, asked from inside.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use support::{DEFAULT_CAPABILITIES, Lab, new_network, null, skipped};
use tenantry_shim::protocol::Reply;
use tenantry_shim::spec::{Bind, IdMapping, NetworkNamespace};

/// Runs `script` with `change` made to its spec; exit code 0 and its output.
#[track_caller]
fn output_of(script: &str, change: impl FnOnce(&mut Lab)) -> String {
    let mut lab = Lab::shell(script);
    change(&mut lab);
    let status = lab.run();
    let (stdout, stderr) = (lab.stdout(), lab.stderr());
    assert_eq!(status.code, 0, "{script}\n{stdout}\n{stderr}");
    lab.assert_nothing_left();
    stdout
}

fn mapped(lab: &mut Lab) {
    lab.spec.user_namespace = Some(IdMapping { host_base: 1_000_000, size: 65_536 });
}

#[test]
fn namespaces_are_its_own() {
    if skipped() {
        return;
    }
    let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
    let script = "hostname; echo $$; cd /proc/self/ns; for n in mnt pid ipc uts net cgroup user; do readlink $n; done; ls -d /proc/[0-9]* | wc -l; ls /sys/class/net";
    let output = output_of(script, |_| {});
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..2], ["apartment", "1"]);
    for (line, name) in lines[2..8].iter().zip(["mnt", "pid", "ipc", "uts", "net", "cgroup"]) {
        assert_ne!(PathBuf::from(line), own(name), "{name}");
    }
    assert_eq!(PathBuf::from(lines[8]), own("user"));
    assert!(lines[9].parse::<u32>().expect("a number") <= 3, "{output}");
    assert_eq!(&lines[10..], ["lo"]);
}

#[test]
fn the_host_network_is_shared_on_request() {
    if skipped() {
        return;
    }
    let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
    let script =
        "readlink /proc/self/ns/net; test -d /sys/class/net/lo && echo ok; touch /sys/x 2>&1";
    for user_namespace in [false, true] {
        let mut lab = Lab::shell(script);
        lab.spec.network = NetworkNamespace::Host;
        if user_namespace {
            mapped(&mut lab);
        }
        assert_eq!(lab.run().code, 1);
        let stdout = lab.stdout();
        assert!(stdout.starts_with(own.to_str().expect("text")), "{stdout}");
        assert!(stdout.contains("\nok\n"), "{stdout}");
        lab.assert_nothing_left();
    }
}

#[test]
fn a_network_that_is_given_is_entered() {
    if skipped() {
        return;
    }
    let network = new_network();
    let inode = fs::File::from(network.try_clone().expect("a copy"));
    let inode = inode.metadata().expect("nsfs tells").ino();
    let output = output_of("readlink /proc/self/ns/net; ls /sys/class/net", |lab| {
        lab.spec.network = NetworkNamespace::Given;
        lab.network = Some(network);
    });
    assert_eq!(output, format!("net:[{inode}]\nlo\n"));
}

#[test]
fn a_network_that_is_promised_and_not_given_is_said_so() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("true");
    lab.spec.network = NetworkNamespace::Given;
    let mut shim = lab.spawn();
    let mut client = shim.connect();
    client.send(&tenantry_shim::protocol::Request::Watch);
    let Reply::Failed(failure) = client.receive() else { panic!("it began") };
    assert_eq!(failure.object, "network namespace");
    shim.wait();
    lab.assert_nothing_left();
}

#[test]
fn layers_are_stacked_and_only_the_upper_directory_is_written() {
    if skipped() {
        return;
    }
    let mut lab = Lab::shell("cat /top-file; echo new >/written; rm /etc/passwd; ls /etc");
    assert_eq!(lab.run().code, 0);
    assert_eq!(lab.stdout(), "from the topmost layer\n");
    assert_eq!(fs::read_to_string(lab.path("upper/written")).expect("written"), "new\n");
    assert!(lab.path("layer/etc/passwd").exists());
    lab.assert_nothing_left();
}

#[test]
fn four_hundred_layers_are_one_root() {
    if skipped() {
        return;
    }
    if !kernel_has_lowerdir_append() {
        println!("SKIPPED: before 6.8 one page of mount options takes about 200 layers");
        return;
    }
    let output = output_of("cat /n0 /n199 /n399", |lab| {
        for number in 0..400 {
            let layer = lab.path(&format!("layer-{number}"));
            fs::create_dir(&layer).expect("a layer");
            fs::write(layer.join(format!("n{number}")), format!("{number}\n")).expect("a file");
            lab.spec.rootfs.lower.insert(0, layer);
        }
    });
    assert_eq!(output, "0\n199\n399\n");
}

fn kernel_has_lowerdir_append() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    let mut numbers = release.split(['.', '-']).filter_map(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(8))
}

#[test]
fn a_read_only_root_still_has_its_mounts() {
    if skipped() {
        return;
    }
    let script =
        "touch /x 2>/dev/null && echo wrote; touch /dev/shm/x && mount | grep -c ' / .*[(,]ro[,)]'";
    assert_eq!(output_of(script, |lab| lab.spec.rootfs.read_only = true), "1\n");
}

#[test]
fn standard_devices_work_and_no_other_does() {
    if skipped() {
        return;
    }
    for user_namespace in [false, true] {
        let script = "
            echo x >/dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c
            head -c 4 /dev/random | wc -c; echo x 2>/dev/null >/dev/full || echo full
            test -c /dev/ptmx && test -d /dev/pts && test -d /dev/mqueue && echo there
            for l in fd stdin stdout stderr; do readlink /dev/$l; done
            for d in / /dev /tmp /dev/shm /volume; do
              mknod $d/node c 1 5 2>/dev/null && head -c 1 $d/node 2>/dev/null && echo \"usable in $d\"
            done; echo done";
        let output = output_of(script, |lab| {
            fs::create_dir(lab.path("volume")).expect("a directory");
            fs::set_permissions(
                lab.path("volume"),
                std::os::unix::fs::PermissionsExt::from_mode(0o777),
            )
            .expect("chmod");
            lab.spec.binds.push(Bind {
                source: lab.path("volume"),
                target: "/volume".into(),
                read_only: false,
                propagation: Default::default(),
            });
            if user_namespace {
                mapped(lab);
            }
        });
        let links = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n";
        assert_eq!(output, format!("4\n4\n4\nfull\nthere\n{links}done\n"));
    }
}

#[test]
fn the_hosts_null_device_cannot_be_changed_from_inside() {
    if skipped() {
        return;
    }
    let before = fs::metadata("/dev/null").expect("/dev/null");
    let script = "chmod 600 /dev/null; chown 12 /dev/null; chmod 600 /proc/self/fd/0; true";
    output_of(script, |_| {});
    output_of(script, mapped);
    let after = fs::metadata("/dev/null").expect("/dev/null");
    assert_eq!((before.mode(), before.uid()), (after.mode(), after.uid()));
}

/// The hole that libcontainer has on v1: a container lifts its own limits.
#[test]
fn a_container_sees_its_cgroups_and_cannot_write_them() {
    if skipped() {
        return;
    }
    for user_namespace in [false, true] {
        let script = "
            find /sys/fs/cgroup -name cgroup.procs
            for f in $(find /sys/fs/cgroup -type f); do
              (echo 1 >$f) 2>/dev/null && echo \"wrote $f\"
            done
            for d in $(find /sys/fs/cgroup -type d); do
              mkdir $d/x 2>/dev/null && echo \"made $d\"
            done
            mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted
            cut -d: -f3 /proc/self/cgroup | sort -u; true";
        let mut lab = Lab::shell(script);
        if user_namespace {
            mapped(&mut lab);
        }
        assert_eq!(lab.run().code, 0);
        let output = lab.stdout();
        assert!(!output.contains("wrote") && !output.contains("made"), "{output}");
        assert!(!output.contains("remounted"), "{output}");
        let expected = lab.cgroup_directories().len();
        assert_eq!(output.matches("cgroup.procs").count(), expected, "{output}");
        // Hierarchies that no cgroup was made in (systemd's) show where the host's
        // process is, relative to the namespace; its own are the root.
        assert!(output.lines().any(|line| line == "/"), "{output}");
        lab.assert_nothing_left();
    }
}

/// What a host without v1 hierarchies gives.
#[test]
fn a_lone_v2_cgroup_is_the_whole_of_sys_fs_cgroup() {
    if skipped() {
        return;
    }
    for user_namespace in [false, true] {
        let script = "ls /sys/fs/cgroup/cgroup.procs; grep ^0: /proc/self/cgroup
            echo 0 2>/dev/null >/sys/fs/cgroup/cgroup.procs && echo wrote
            mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; true";
        let output = output_of(script, |lab| {
            for v1 in std::mem::take(&mut lab.spec.cgroup.v1) {
                fs::remove_dir(v1.path).expect("rmdir");
            }
            if user_namespace {
                mapped(lab);
            }
        });
        assert_eq!(output, "/sys/fs/cgroup/cgroup.procs\n0::/\n");
    }
}

#[test]
fn the_hosts_cgroup_hierarchies_stay_writable() {
    if skipped() {
        return;
    }
    let flags = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup"));
        cgroups.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = flags();
    output_of("true", |_| {});
    assert_eq!(before, flags());
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_are_not_written() {
    if skipped() {
        return;
    }
    let script = "
        head -c 10 /proc/kcore | wc -c; ls /sys/firmware /secrets | grep -v : | wc -w; cat /secret
        touch /secrets/x 2>/dev/null && echo touched
        echo x >/proc/sys/kernel/hostname 2>/dev/null && echo wrote
        echo h >/proc/sysrq-trigger 2>/dev/null && echo wrote
        touch /frozen/x 2>/dev/null && echo touched
        ls /frozen; true";
    let output = output_of(script, |lab| {
        let top = lab.path("top");
        fs::create_dir_all(top.join("secrets/deep")).expect("a directory");
        fs::create_dir_all(top.join("frozen/lake")).expect("a directory");
        fs::write(top.join("secret"), "secret").expect("a file");
        for path in ["/secrets", "/secret", "/no/such/path"] {
            lab.spec.masked_paths.push(path.into());
        }
        lab.spec.read_only_paths.extend(["/frozen".into(), "/no/such/path".into()]);
    });
    assert_eq!(output, "0\n0\nlake\n");
}

#[test]
fn binds_appear_where_they_should_and_nowhere_else() {
    if skipped() {
        return;
    }
    let mut lab =
        Lab::shell("cat /etc/hosts /a/b/c/file /linked/file; touch /a/b/c/x || touch /linked/x");
    fs::create_dir(lab.path("data")).expect("a directory");
    fs::write(lab.path("data/file"), "data\n").expect("a file");
    fs::write(lab.path("hosts"), "hosts\n").expect("a file");
    // A symlink of the image that would lead to the host's /tmp.
    let place = format!("tenantry-{}", lab.id);
    std::os::unix::fs::symlink(format!("/../../tmp/{place}"), lab.path("top/linked"))
        .expect("a link");
    let bind = |source: &str, target: &str, read_only| Bind {
        source: lab.path(source),
        target: target.into(),
        read_only,
        propagation: Default::default(),
    };
    let binds = vec![
        bind("hosts", "/etc/hosts", false),
        bind("data", "/a/b/c", true),
        bind("data", &format!("/tmp/{place}"), false),
    ];
    lab.spec.binds = binds;
    let status = lab.run();
    assert_eq!(
        (status.code, lab.stdout().as_str()),
        (0, "hosts\ndata\ndata\n"),
        "{}",
        lab.stderr()
    );
    assert!(lab.path("data/x").exists());
    assert!(!PathBuf::from("/tmp").join(&place).exists());
    lab.assert_nothing_left();
}

#[test]
fn capabilities_are_those_of_the_mask() {
    if skipped() {
        return;
    }
    let bounding = support::status_of(std::process::id() as i32, "CapBnd");
    let bounding = u64::from_str_radix(&bounding, 16).expect("a mask");
    for wanted in [DEFAULT_CAPABILITIES, 0, u64::MAX] {
        let kept = wanted & bounding;
        let script = "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status";
        let output = output_of(script, |lab| lab.spec.process.capabilities = wanted);
        let (none, kept) = ("0000000000000000", format!("{kept:016x}"));
        let lines = [("CapInh", none), ("CapPrm", &kept), ("CapEff", &kept), ("CapBnd", &kept)];
        let mut expected: String = lines.iter().map(|(k, v)| format!("{k}:\t{v}\n")).collect();
        expected.push_str(&format!("CapAmb:\t{none}\nNoNewPrivs:\t1\n"));
        assert_eq!(output, expected);
    }
}

#[test]
fn the_process_is_who_the_spec_says() {
    if skipped() {
        return;
    }
    let script = "id -u; id -g; id -G; pwd; umask; grep -E 'CapEff|SigBlk|SigIgn' /proc/self/status; echo err >/dev/stderr; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; id -u >/dev/stdout";
    for user_namespace in [false, true] {
        let mut lab = Lab::shell(script);
        let process = &mut lab.spec.process;
        (process.uid, process.gid, process.additional_gids) = (1000, 1001, vec![1001, 7]);
        process.cwd = "/made/for/it".into();
        process.oom_score_adj = Some(500);
        if user_namespace {
            mapped(&mut lab);
        }
        assert_eq!(lab.run().code, 0, "{}", lab.stderr());
        let zero = "0000000000000000";
        let expected = format!(
            "1000\n1001\n1001 7\n/made/for/it\n0022\nSigBlk:\t{zero}\nSigIgn:\t{zero}\nCapEff:\t{zero}\n500\n4\n1000\n"
        );
        assert_eq!(lab.stdout(), expected);
        assert_eq!(lab.stderr(), "err\n");
        lab.assert_nothing_left();
    }
}

#[test]
fn a_path_through_a_descriptor_leads_to_no_host_directory() {
    if skipped() {
        return;
    }
    for number in 3..20 {
        let mut lab = Lab::shell("pwd");
        lab.spec.process.cwd = format!("/proc/self/fd/{number}");
        let mut shim = lab.spawn();
        let mut client = shim.connect();
        client.send(&tenantry_shim::protocol::Request::Watch);
        assert!(matches!(client.receive(), Reply::Created { .. }));
        client.send(&tenantry_shim::protocol::Request::Start);
        let Reply::Failed(failure) = client.receive() else { panic!("fd {number}") };
        assert!(failure.operation == "chdir" || failure.operation == "mkdir", "{failure:?}");
        shim.wait();
        lab.assert_nothing_left();
    }
}

/// `struct sock_filter`s: uname fails with ENOTTY, everything else is allowed.
fn no_uname() -> Vec<u8> {
    let instructions: [(u16, u8, u8, u32); 4] = [
        (0x20, 0, 0, 0),                                 // load the syscall's number
        (0x15, 0, 1, libc::SYS_uname as u32),            // if it is uname
        (0x06, 0, 0, 0x0005_0000 | libc::ENOTTY as u32), // errno
        (0x06, 0, 0, 0x7fff_0000),                       // allow
    ];
    let mut program = Vec::new();
    for (code, jt, jf, k) in instructions {
        program.extend(code.to_ne_bytes());
        program.extend([jt, jf]);
        program.extend(k.to_ne_bytes());
    }
    program
}

#[test]
fn the_seccomp_program_is_in_force_for_all_processes() {
    if skipped() {
        return;
    }
    for (no_new_privileges, user_namespace) in [(true, false), (false, false), (false, true)] {
        let script = "grep Seccomp: /proc/self/status; uname 2>&1; read line";
        let mut lab = Lab::shell(script);
        lab.seccomp = Some(no_uname());
        lab.spec.process.no_new_privileges = no_new_privileges;
        if user_namespace {
            mapped(&mut lab);
        }
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        lab.stdin = Some(read);
        let mut shim = lab.spawn();
        let mut client = shim.connect();
        client.start();
        let mut exec = shim.connect();
        let (output, end) = support::pipe();
        let mut process =
            support::process(&["/bin/sh", "-c", "uname; grep Seccomp: /proc/self/status"]);
        process.no_new_privileges = no_new_privileges;
        let request = tenantry_shim::protocol::Request::Exec(Box::new(process));
        exec.send_with(&request, &[&null(), &end, &end]);
        drop(end);
        let output = support::read_to_end(output);
        assert!(!output.contains("Linux"), "{output}");
        assert!(output.contains("Seccomp:\t2"), "{output}");
        drop(write);
        client.exit_status();
        let stdout = lab.stdout();
        assert!(stdout.contains("Seccomp:\t2") && !stdout.contains("Linux"), "{stdout}");
        shim.wait();
        lab.assert_nothing_left();
    }
}

#[test]
fn root_of_a_user_namespace_owns_the_image_and_nobody_elses_files() {
    if skipped() {
        return;
    }
    let script = "
        cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '
        stat -c '%u %g' / /bin/busybox /etc/passwd
        echo new >/written; mkdir -p /etc/new; chown 33:33 /written; id -u
        stat -c %u /volume/file; cat /volume/file 2>/dev/null || echo refused
        mount -t tmpfs none /mnt 2>/dev/null || echo 'no mount'";
    let mut lab = Lab::shell(script);
    mapped(&mut lab);
    fs::create_dir(lab.path("volume")).expect("a directory");
    fs::write(lab.path("volume/file"), "the host's").expect("a file");
    fs::set_permissions(
        lab.path("volume/file"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .expect("chmod");
    lab.spec.binds.push(Bind {
        source: lab.path("volume"),
        target: "/volume".into(),
        read_only: false,
        propagation: Default::default(),
    });
    assert_eq!(lab.run().code, 0, "{}", lab.stderr());
    let map = " 0 1000000 65536\n";
    let expected = format!("{map}{map}0 0\n0 0\n0 0\n0\n65534\nrefused\nno mount\n");
    assert_eq!(lab.stdout(), expected);
    let written = fs::metadata(lab.path("upper/written")).expect("written");
    assert_eq!((written.uid(), written.gid()), (1_000_033, 1_000_033));
    // The layer itself stays the host's.
    assert_eq!(fs::metadata(lab.path("layer/bin/busybox")).expect("busybox").uid(), 0);
    lab.assert_nothing_left();
}

#[test]
fn no_mount_of_a_running_container_is_seen_on_the_host() {
    if skipped() {
        return;
    }
    for user_namespace in [false, true] {
        let mut lab = Lab::shell("echo up; read line");
        if user_namespace {
            mapped(&mut lab);
        }
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        lab.stdin = Some(read);
        let mut shim = lab.spawn();
        let mut client = shim.connect();
        let pid = client.start();
        let directory = lab.directory.path().to_str().expect("a path").to_owned();
        let host = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!host.contains(&directory), "{host}");
        let own = fs::read_link("/proc/self/ns/mnt").expect("a namespace");
        let of_shim = fs::read_link(format!("/proc/{}/ns/mnt", shim.child.id())).expect("one");
        assert_eq!(own, of_shim);
        let inside = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
        assert!(inside.lines().any(|line| line.contains(" / / rw,nodev")), "{inside}");
        assert!(!inside.contains(&directory), "{inside}");
        drop(write);
        client.exit_status();
        shim.wait();
        lab.assert_nothing_left();
    }
}
