//! System calls as audit events: a child makes known ones, and each arrives once, with what
//! the child and the kernel's own files say of it.

use std::ffi::{CStr, CString};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tenantry_ebpf::{
    AuditFilter, CallEvent, Event, EventKind, NO_CALL, OpenFilter, ProbeStatus, SentSignal,
};

use crate::child::{Child, End, call, sleep_ms};
use crate::fixture::Fixture;

/// A directory of the test's own, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("tenantry-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        // As the kernel has it: without symbolic links.
        Directory(fs::canonicalize(path).unwrap())
    }

    fn path(&self, name: &str) -> CString {
        CString::new(self.0.join(name).as_os_str().as_bytes()).unwrap()
    }

    fn text(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sys(nr: libc::c_long, args: [usize; 5]) -> i64 {
    let [a, b, c, d, e] = args;
    // SAFETY: callers give each call the arguments that it takes, alive while it lasts.
    unsafe { libc::syscall(nr, a, b, c, d, e) }
}

fn at(pointer: &CStr) -> usize {
    pointer.as_ptr() as usize
}

const HERE: usize = libc::AT_FDCWD as usize;

fn calls(events: Vec<Event>, kind: EventKind) -> Vec<CallEvent> {
    let calls = events.into_iter().filter_map(|event| match event {
        Event::Call(call) => Some(*call),
        _ => None,
    });
    calls.filter(|call| call.kind == kind).collect()
}

/// Runs it in an armed container of slot 1; what came of one kind.
fn run(f: &mut Fixture, kind: EventKind, body: impl FnOnce() -> i32) -> Vec<CallEvent> {
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    calls(f.events(), kind)
}

fn assert_account(f: &Fixture, kind: EventKind, delivered: usize, filtered: u64) {
    let counters = f.read(1).events.of(kind);
    assert_eq!((counters.produced, counters.lost), (delivered as u64, 0), "{kind:?}");
    assert_eq!(counters.filtered, filtered, "{kind:?}");
}

#[test]
fn each_open_for_writing_and_each_denied_one_arrives_once_with_its_path() {
    let Some(mut f) = Fixture::share() else { return };
    let dir = Directory::new("opens");
    let (file, link, missing) = (dir.path("file"), dir.path("link"), dir.path("no/such"));
    fs::write(dir.0.join("file"), "x").unwrap();
    std::os::unix::fs::symlink("file", dir.0.join("link")).unwrap();
    let home = dir.path(".");
    const TIMES: usize = 100;
    let events = run(&mut f, EventKind::Open, || {
        for _ in 0..TIMES {
            let fd = sys(libc::SYS_openat, [HERE, at(&link), libc::O_WRONLY as usize, 0, 0]);
            sys(libc::SYS_close, [fd as usize, 0, 0, 0, 0]);
            // For reading alone: filtered.
            let fd = sys(libc::SYS_open, [at(&file), 0, 0, 0, 0]);
            sys(libc::SYS_close, [fd as usize, 0, 0, 0, 0]);
        }
        sys(libc::SYS_openat, [HERE, at(&missing), libc::O_RDWR as usize, 0, 0]);
        sys(libc::SYS_chdir, [at(&home), 0, 0, 0, 0]);
        let how: [u64; 3] = [(libc::O_CREAT | libc::O_RDWR) as u64, 0o600, 0];
        let how = how.as_ptr() as usize;
        sys(libc::SYS_openat2, [HERE, at(c"./new"), how, 24, 0]);
        sys(libc::SYS_creat, [at(c"made"), 0o600, 0, 0, 0]);
        // The pointer leads nowhere.
        sys(libc::SYS_openat, [HERE, 8, libc::O_WRONLY as usize, 0, 0]);
        0
    });
    let inode = fs::metadata(dir.0.join("file")).unwrap().ino();
    let [through_link @ .., missing, new, made, nowhere] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(through_link.len(), TIMES);
    for event in through_link {
        assert_eq!(event.nr, libc::SYS_openat as u32);
        assert_eq!(event.path.as_deref(), Some(dir.text("link").as_str()));
        let opened = event.file.as_ref().expect("it was opened");
        assert_eq!((opened.path.as_str(), opened.inode), (dir.text("file").as_str(), inode));
        assert_eq!(event.open_flags, Some(libc::O_WRONLY as u32));
        assert!(event.result >= 0 && !event.truncated && !event.unread);
    }
    assert_eq!(missing.path.as_deref(), Some(dir.text("no/such").as_str()));
    assert_eq!((missing.result, &missing.file), (-i64::from(libc::ENOENT), &None));
    assert_eq!(new.path.as_deref(), Some(dir.text("./new").as_str()));
    assert_eq!(new.file.as_ref().unwrap().path, dir.text("new"));
    assert_eq!(new.open_flags, Some((libc::O_CREAT | libc::O_RDWR) as u32));
    assert_eq!(made.file.as_ref().unwrap().path, dir.text("made"));
    assert_eq!(made.file.as_ref().unwrap().mode, 0o100_600);
    assert_eq!((nowhere.result, nowhere.unread), (-i64::from(libc::EFAULT), true));
    assert_account(&f, EventKind::Open, TIMES + 4, TIMES as u64);
}

#[test]
fn who_is_above_a_process_is_told_up_to_the_first_outside_and_eight_at_most() {
    let Some(mut f) = Fixture::share() else { return };
    let dir = Directory::new("ancestors");
    let file = dir.path("file");
    let events = run(&mut f, EventKind::Open, || {
        for _ in 0..12 {
            sys(libc::SYS_creat, [at(&file), 0o600, 0, 0, 0]);
            if sys(libc::SYS_fork, [0; 5]) != 0 {
                sys(libc::SYS_wait4, [usize::MAX, 0, 0, 0, 0]);
                break;
            }
        }
        0
    });
    assert_eq!(events.len(), 12);
    let mut above = vec![std::process::id()];
    let name = fs::read_to_string("/proc/thread-self/comm").unwrap();
    for event in &events {
        let told = &event.header.ancestors;
        let pids: Vec<u32> = told.iter().map(|ancestor| ancestor.pid).collect();
        assert_eq!(pids, above[..above.len().min(8)]);
        assert!(told.iter().all(|ancestor| !ancestor.comm.is_empty()), "{told:?}");
        above.insert(0, event.header.pid);
    }
    // A child has its parent's name, and the threads of the test that of the test.
    assert_eq!(events[1].header.ancestors[0].comm, name.trim_end());
}

#[test]
fn a_path_across_a_mount_and_one_that_is_too_long_are_told_as_they_are() {
    let Some(mut f) = Fixture::share() else { return };
    let dir = Directory::new("deep");
    let mount = dir.path("mount");
    fs::create_dir(dir.0.join("mount")).unwrap();
    let names = "y".repeat(200);
    let deep = dir.0.join("mount").join(&names);
    let file = CString::new(deep.join("file").as_os_str().as_bytes()).unwrap();
    let deep_text = CString::new(deep.as_os_str().as_bytes()).unwrap();
    let below = CString::new(names.clone()).unwrap();
    let long = CString::new(format!("/{}", "long/".repeat(400))).unwrap();
    let events = run(&mut f, EventKind::Open, || {
        sys(libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0]);
        let private = (libc::MS_REC | libc::MS_PRIVATE) as usize;
        sys(libc::SYS_mount, [at(c"none"), at(c"/"), 0, private, 0]);
        let mounted = sys(libc::SYS_mount, [at(c"none"), at(&mount), at(c"tmpfs"), 0, 0]);
        sys(libc::SYS_mkdir, [at(&deep_text), 0o700, 0, 0, 0]);
        sys(libc::SYS_creat, [at(&file), 0o600, 0, 0, 0]);
        sys(libc::SYS_creat, [at(&long), 0o600, 0, 0, 0]);
        // Deeper than is kept: seven times two hundred letters.
        sys(libc::SYS_chdir, [at(&deep_text), 0, 0, 0, 0]);
        for _ in 0..6 {
            sys(libc::SYS_mkdir, [at(&below), 0o700, 0, 0, 0]);
            sys(libc::SYS_chdir, [at(&below), 0, 0, 0, 0]);
        }
        sys(libc::SYS_creat, [at(c"leaf"), 0o600, 0, 0, 0]);
        mounted as i32
    });
    let [across, long, leaf] = &events[..] else { panic!("{events:?}") };
    let path = deep.join("file");
    assert_eq!(across.file.as_ref().unwrap().path, path.to_str().unwrap());
    assert!(!across.truncated);
    assert_eq!((long.path.as_ref().unwrap().len(), long.truncated), (1023, true));
    let leaf_path = &leaf.file.as_ref().unwrap().path;
    assert!(leaf.truncated && leaf_path.ends_with(&format!("{names}/leaf")), "{leaf_path}");
}

#[test]
fn changes_of_names_and_permissions_arrive_with_both_names() {
    let Some(mut f) = Fixture::share() else { return };
    let dir = Directory::new("files");
    let home = dir.path(".");
    fs::write(dir.0.join("file"), "x").unwrap();
    let events = run(&mut f, EventKind::File, || {
        sys(libc::SYS_chdir, [at(&home), 0, 0, 0, 0]);
        let dirfd = sys(libc::SYS_open, [at(&home), 0, 0, 0, 0]) as usize;
        let fd = sys(libc::SYS_open, [at(c"file"), libc::O_RDWR as usize, 0, 0, 0]) as usize;
        sys(libc::SYS_mkdirat, [dirfd, at(c"sub"), 0o700, 0, 0]);
        sys(libc::SYS_renameat2, [HERE, at(c"file"), dirfd, at(c"sub/moved"), 0]);
        sys(libc::SYS_symlinkat, [at(c"../anywhere"), dirfd, at(c"link"), 0, 0]);
        sys(libc::SYS_linkat, [HERE, at(c"sub/moved"), HERE, at(c"hard"), 0]);
        sys(libc::SYS_fchmod, [fd, 0o4755, 0, 0, 0]);
        sys(libc::SYS_chown, [at(c"hard"), 7, 8, 0, 0]);
        sys(libc::SYS_unlinkat, [dirfd, at(c"hard"), 0, 0, 0]);
        sys(libc::SYS_rmdir, [at(c"none"), 0, 0, 0, 0]);
        0
    });
    let text = |name: &str| Some(dir.text(name));
    let found: Vec<_> = events
        .iter()
        .map(|e| (i64::from(e.nr), e.path.clone(), e.target.clone(), e.result))
        .collect();
    let missing = -i64::from(libc::ENOENT);
    let expected = [
        (libc::SYS_mkdirat, text("sub"), None, 0),
        (libc::SYS_renameat2, text("./file"), text("sub/moved"), 0),
        (libc::SYS_symlinkat, text("link"), Some("../anywhere".into()), 0),
        (libc::SYS_linkat, text("./hard"), text("./sub/moved"), 0),
        (libc::SYS_fchmod, None, None, 0),
        (libc::SYS_chown, text("./hard"), None, 0),
        (libc::SYS_unlinkat, text("hard"), None, 0),
        (libc::SYS_rmdir, text("./none"), None, missing),
    ];
    // The working directory's own path has no dot.
    let plain = |path: &Option<String>| path.clone().map(|path| path.replace("/./", "/"));
    let expected: Vec<_> = expected
        .iter()
        .map(|(nr, path, target, result)| (*nr, plain(path), plain(target), *result))
        .collect();
    assert_eq!(found, expected);
    let changed = events[4].file.as_ref().expect("of the descriptor");
    assert_eq!((changed.path.as_str(), changed.mode), (dir.text("sub/moved").as_str(), 0o104_755));
    assert_eq!(events[4].args[1], 0o4755);
    assert_account(&f, EventKind::File, expected.len(), 0);
}

/// `sockaddr_in` of the loopback address.
fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}

#[test]
fn connections_arrive_with_their_ends() {
    let Some(mut f) = Fixture::share() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || listener.accept().unwrap().1);
    let (address, any) = (loopback(there.port()), loopback(0));
    let size = size_of_val(&address);
    let mut unix = [0_u8; 2 + 14];
    unix[0] = libc::AF_UNIX as u8;
    unix[2..].copy_from_slice(b"/no/such.sock\0");
    let (inet, stream) = (libc::AF_INET as usize, libc::SOCK_STREAM as usize);
    let body = || {
        let fd = sys(libc::SYS_socket, [inet, stream, 0, 0, 0]) as usize;
        let connected = sys(libc::SYS_connect, [fd, &raw const address as usize, size, 0, 0]);
        let fd = sys(libc::SYS_socket, [libc::AF_UNIX as usize, stream, 0, 0, 0]) as usize;
        sys(libc::SYS_connect, [fd, unix.as_ptr() as usize, unix.len(), 0, 0]);
        let udp = sys(libc::SYS_socket, [inet, libc::SOCK_DGRAM as usize, 0, 0, 0]) as usize;
        sys(libc::SYS_bind, [udp, &raw const any as usize, size, 0, 0]);
        let fd =
            sys(libc::SYS_socket, [inet, stream | libc::SOCK_NONBLOCK as usize, 0, 0, 0]) as usize;
        sys(libc::SYS_bind, [fd, &raw const any as usize, size, 0, 0]);
        sys(libc::SYS_listen, [fd, 5, 0, 0, 0]);
        // Nobody is there: no event.
        sys(libc::SYS_accept4, [fd, 0, 0, 0, 0]);
        let mut own = loopback(0);
        let mut own_size = size as u32;
        let name = [fd, &raw mut own as usize, &raw mut own_size as usize, 0, 0];
        sys(libc::SYS_getsockname, name);
        let client = sys(libc::SYS_socket, [inet, stream, 0, 0, 0]) as usize;
        sys(libc::SYS_connect, [client, &raw const own as usize, size, 0, 0]);
        sys(libc::SYS_accept4, [fd, 0, 0, 0, 0]);
        connected as i32
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let client: SocketAddr = server.join().unwrap();
    let events = f.events();
    let of = |kind| calls(events.clone(), kind);
    let socket = |event: &CallEvent| event.socket.clone().unwrap_or_default();

    let connects = of(EventKind::Connect);
    let [tcp, path, own] = &connects[..] else { panic!("{connects:?}") };
    // The other side's word.
    assert_eq!((socket(tcp).local, socket(tcp).remote), (Some(client), Some(there)));
    assert_eq!((socket(tcp).transport(), tcp.result), (Some("tcp"), 0));
    assert_eq!(socket(path).path.as_deref(), Some("/no/such.sock"));
    assert_eq!((socket(path).transport(), path.result), (Some("unix"), -i64::from(libc::ENOENT)));

    let binds = of(EventKind::Bind);
    let [udp, bound] = &binds[..] else { panic!("{binds:?}") };
    assert_eq!(socket(udp).transport(), Some("udp"));
    let port = |event| socket(event).local.map_or(0, |local| local.port());
    assert!(port(udp) != 0, "the kernel chose one");
    let listens = of(EventKind::Listen);
    let [listen] = &listens[..] else { panic!("{listens:?}") };
    assert_eq!(socket(listen).local, socket(bound).local);
    assert_eq!(socket(own).remote, socket(listen).local);

    let accepts = of(EventKind::Accept);
    let [accept] = &accepts[..] else { panic!("{accepts:?}") };
    assert_eq!(
        (socket(accept).local, socket(accept).remote),
        (socket(own).remote, socket(own).local)
    );
    assert_account(&f, EventKind::Accept, 1, 0);
}

#[test]
fn what_changes_the_house_arrives_with_its_arguments() {
    let Some(mut f) = Fixture::share() else { return };
    let body = || {
        sys(libc::SYS_unshare, [libc::CLONE_NEWUTS as usize, 0, 0, 0, 0]);
        // No namespace: no event.
        sys(libc::SYS_unshare, [libc::CLONE_FILES as usize, 0, 0, 0, 0]);
        sys(libc::SYS_setns, [usize::MAX, 0, 0, 0, 0]);
        for flags in [libc::CLONE_NEWIPC | libc::SIGCHLD, libc::SIGCHLD] {
            let pid = sys(libc::SYS_clone, [flags as usize, 0, 0, 0, 0]);
            if pid == 0 {
                // SAFETY: ends the grandchild.
                unsafe { libc::_exit(0) };
            }
            sys(libc::SYS_wait4, [pid as usize, 0, 0, 0, 0]);
        }
        sys(libc::SYS_mount, [at(c"dev"), at(c"/no/where"), at(c"tmpfs"), 0, 0]);
        sys(libc::SYS_umount2, [at(c"/no/where"), 0, 0, 0, 0]);
        sys(libc::SYS_ptrace, [16, 0x7fff_fff0, 0, 0, 0]);
        sys(libc::SYS_bpf, [999, 0, 0, 0, 0]);
        sys(libc::SYS_delete_module, [at(c"no_such"), 0, 0, 0, 0]);
        sys(libc::SYS_add_key, [at(c"no_type"), at(c"the key"), 0, 0, 0]);
        sys(libc::SYS_setgid, [77, 0, 0, 0, 0]);
        sys(libc::SYS_setuid, [88, 0, 0, 0, 0]);
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let events = f.events();
    let of = |kind| calls(events.clone(), kind);
    let numbers = |kind| of(kind).iter().map(|event| i64::from(event.nr)).collect::<Vec<_>>();
    let namespaces = of(EventKind::Namespace);
    let [unshare, setns, clone] = &namespaces[..] else { panic!("{namespaces:?}") };
    assert_eq!(unshare.args[0], libc::CLONE_NEWUTS as u64);
    assert_eq!((i64::from(setns.nr), setns.result), (libc::SYS_setns, -i64::from(libc::EBADF)));
    assert_eq!(i64::from(clone.nr), libc::SYS_clone);
    assert!(clone.result > 0);
    let mounts = of(EventKind::Mount);
    let [mount, umount] = &mounts[..] else { panic!("{mounts:?}") };
    assert_eq!(
        (mount.path.as_deref(), mount.target.as_deref(), mount.extra.as_deref()),
        (Some("/no/where"), Some("dev"), Some("tmpfs"))
    );
    assert_eq!((umount.path.as_deref(), umount.result), (Some("/no/where"), -2));
    assert_eq!(numbers(EventKind::Ptrace), [libc::SYS_ptrace]);
    assert_eq!(numbers(EventKind::Kernel), [libc::SYS_bpf, libc::SYS_delete_module]);
    assert_eq!(of(EventKind::Kernel)[1].extra.as_deref(), Some("no_such"));
    assert_eq!(of(EventKind::Keyring)[0].extra.as_deref(), Some("the key"));
    let credentials = of(EventKind::Credentials);
    let [gid, uid] = &credentials[..] else { panic!("{credentials:?}") };
    assert_eq!((gid.args[0], gid.result, uid.args[0]), (77, 0, 88));
    assert_eq!(uid.header.uid, 88, "as it was when the call returned");
}

#[test]
fn filters_choose_by_kind_call_user_and_path() {
    let Some(mut f) = Fixture::load(|_| ()) else { return };
    let dir = Directory::new("filters");
    fs::create_dir(dir.0.join("watched")).unwrap();
    let (inside, outside) = (dir.path("watched/a"), dir.path("unwatched"));
    let around = dir.path("watched/../watched/a");
    fs::write(dir.0.join("watched/a"), "x").unwrap();
    fs::write(dir.0.join("unwatched"), "x").unwrap();
    let filter = AuditFilter {
        kinds: vec![EventKind::Open, EventKind::File],
        opens: vec![OpenFilter::Denied],
        open_prefixes: vec![dir.text("watched/")],
        file_prefixes: vec![dir.text("watched/")],
        syscalls_off: vec![libc::SYS_chown as u32],
        ..AuditFilter::default()
    };
    f.meters().set_audit_filter(&filter).unwrap();
    let body = || {
        for path in [&inside, &outside, &around] {
            let fd = sys(libc::SYS_open, [at(path), 0, 0, 0, 0]) as usize;
            sys(libc::SYS_close, [fd, 0, 0, 0, 0]);
            sys(libc::SYS_chmod, [at(path), 0o600, 0, 0, 0]);
            sys(libc::SYS_chown, [at(path), 0, 0, 0, 0]);
        }
        sys(libc::SYS_setgid, [0, 0, 0, 0, 0]);
        0
    };
    let (first, second) = (f.container(1), f.container(2));
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    let only_others = AuditFilter { uids: (1, u32::MAX), ..filter };
    f.meters().set_slot_audit_filter(2, &only_others).unwrap();
    assert_eq!(Child::gated(body).put(&second).run(), End::Code(0));
    assert_eq!(Child::gated(body).put(&first).run(), End::Code(0));
    let events = f.events();
    assert!(events.iter().all(|event| event.header().slot == 1), "{events:?}");
    assert_eq!(calls(events.clone(), EventKind::Open).len(), 2, "inside, and around to it");
    assert_eq!(calls(events, EventKind::File).len(), 2, "chmod, not chown, and not outside");
    assert_account(&f, EventKind::Open, 2, 1);
    assert_account(&f, EventKind::File, 2, 4);
    assert_account(&f, EventKind::Credentials, 0, 1);
    assert_account(&f, EventKind::Exit, 0, 1);
    let of_second = f.read(2).events;
    let all: u64 = of_second.by_kind.iter().map(|kind| kind.produced + kind.lost).sum();
    assert_eq!((all, of_second.of(EventKind::Open).filtered), (0, 3));
}

#[test]
fn calls_by_the_32_bit_door_are_events_like_others() {
    let Some(mut f) = Fixture::share() else { return };
    /// creat(path, 0600), whose path must lie in the first 4 GiB.
    fn creat_32(path: u32) -> u32 {
        let result: u32;
        // SAFETY: the gate changes eax and what is listed; rbx is put back.
        unsafe {
            std::arch::asm!("xchg rbx, {path}", "int 0x80", "xchg rbx, {path}",
                path = inout(reg) u64::from(path) => _,
                inlateout("eax") 8_u32 => result, in("ecx") 0o600_u32,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        result
    }
    let dir = Directory::new("compat");
    let path = dir.path("made");
    let bytes = path.as_bytes_with_nul();
    let events = run(&mut f, EventKind::Open, || {
        // SAFETY: a new page in the first 2 GiB.
        let page = unsafe {
            let (rights, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            );
            libc::mmap(std::ptr::null_mut(), 4096, rights, flags, -1, 0)
        };
        // SAFETY: the path is shorter than the page.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), page.cast(), bytes.len()) };
        creat_32(page as usize as u32);
        call(libc::SYS_getpid);
        0
    });
    if !Path::new(&dir.text("made")).exists() {
        return println!("SKIPPED: this kernel runs no 32-bit calls");
    }
    let [made] = &events[..] else { panic!("{events:?}") };
    assert_eq!((made.nr, made.compat), (libc::SYS_creat as u32, true));
    assert_eq!(made.file.as_ref().unwrap().path, dir.text("made"));
}

#[test]
fn a_flood_is_delivered_or_counted_as_lost_and_nothing_else() {
    let Some(mut f) = Fixture::load(|options| options.ring_bytes = 64 << 10) else { return };
    const CALLS: u64 = 20_000;
    let (one, two) = (f.container(1), f.container(2));
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    let flood = || {
        for _ in 0..CALLS {
            let flags = libc::O_WRONLY as usize;
            sys(libc::SYS_openat, [HERE, at(c"/no/such/file"), flags, 0, 0]);
            sys(libc::SYS_rmdir, [at(c"/no/such/file"), 0, 0, 0, 0]);
        }
        0
    };
    let mut children = [Child::gated(flood).put(&one), Child::gated(flood).put(&two)];
    children.iter_mut().for_each(Child::open_gate);
    // A reader that is slower than they are.
    let mut events = Vec::new();
    for _ in 0..20 {
        f.reader.as_mut().unwrap().read(50, |event| events.push(event));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    for child in children {
        assert_eq!(child.wait(), End::Code(0));
    }
    events.extend(f.events());
    let misses = f.misses("syscall_exit");
    for slot in [1, 2] {
        for kind in [EventKind::Open, EventKind::File] {
            let is_it = |event: &&Event| event.header().slot == slot && event.kind() == kind;
            let delivered = events.iter().filter(is_it).count() as u64;
            let counters = f.read(slot).events.of(kind);
            assert_eq!(delivered + counters.lost, counters.produced, "{slot} {kind:?}");
            assert!(counters.lost > 0, "the ring was never full");
            assert!(counters.produced <= CALLS && counters.produced + misses >= CALLS);
        }
    }
    assert_eq!(f.reader.as_ref().unwrap().undecodable(), 0);
    // It recovers: nothing more is lost.
    let lost = f.read(1).events.of(EventKind::File).lost;
    let child = Child::gated(|| sys(libc::SYS_rmdir, [at(c"/no"), 0, 0, 0, 0]) as i32 + 1);
    assert_eq!(child.put(&one).run(), End::Code(0));
    assert_eq!(calls(f.events(), EventKind::File).len(), 1);
    assert_eq!(f.read(1).events.of(EventKind::File).lost, lost);
}

#[test]
fn who_is_in_no_container_makes_no_events() {
    let Some(mut f) = Fixture::share() else { return };
    let stranger = f.stranger(1);
    let body = || sys(libc::SYS_rmdir, [at(c"/no"), 0, 0, 0, 0]) as i32 + 1;
    assert_eq!(Child::gated(body).put(&stranger).run(), End::Code(0));
    assert_eq!(Child::gated(body).run(), End::Code(0));
    assert_eq!(f.events(), []);
}

#[test]
fn the_program_for_calls_is_in_place() {
    let Some(f) = Fixture::share() else { return };
    let probes = f.meters().probes();
    let probe = probes.iter().find(|probe| probe.name == "audit_call").unwrap();
    assert_eq!((probe.hook.as_str(), &probe.status), ("tp_btf/sys_exit", &ProbeStatus::Active));
}

#[test]
fn a_signal_that_leaves_the_container_is_an_event_and_one_that_stays_is_none() {
    let Some(mut f) = Fixture::share() else { return };
    let neighbour = Child::gated(|| 0).put(&f.container(2));
    let host = Child::gated(|| 0);
    let (there, outside) = (neighbour.pid as u32, host.pid as u32);
    let body = || {
        for target in [there, outside] {
            // Children of the test: their default for it is to ignore it.
            sys(libc::SYS_kill, [target as usize, libc::SIGURG as usize, 0, 0, 0]);
        }
        // SAFETY: the grandchild only ends, which sends a signal of the kernel's to its parent.
        let own = unsafe { libc::syscall(libc::SYS_fork) } as i32;
        if own == 0 {
            sleep_ms(10_000);
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        sys(libc::SYS_kill, [own as usize, libc::SIGKILL as usize, 0, 0, 0]);
        sys(libc::SYS_wait4, [own as usize, 0, 0, 0, 0]);
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    let pid = child.pid as u32;
    assert_eq!(child.run(), End::Code(0));
    let signals = calls(f.events(), EventKind::Signal);
    let found: Vec<_> = signals.iter().map(|event| (event.header.pid, event.signal)).collect();
    let sent =
        |target, slot| (pid, Some(SentSignal { number: libc::SIGURG as u32, pid: target, slot }));
    assert_eq!(found, [sent(there, 2), sent(outside, 0)]);
    assert!(signals.iter().all(|event| event.nr == NO_CALL));
    assert_account(&f, EventKind::Signal, 2, 0);
}

#[test]
fn a_capability_that_was_lacking_is_told_where_the_call_failed_for_it() {
    let Some(mut f) = Fixture::load(|_| ()) else { return };
    let probes = f.meters().probes();
    let hook = probes.iter().find(|probe| probe.name == "capability_checked").unwrap();
    if hook.status != ProbeStatus::Active {
        return println!("SKIPPED: {:?}", hook.status);
    }
    let filter = AuditFilter { kinds: vec![EventKind::Capability], ..AuditFilter::default() };
    f.meters().set_audit_filter(&filter).unwrap();
    let body = || {
        sys(libc::SYS_setresuid, [65534, 65534, 65534, 0, 0]);
        // Asks whether there may be more than there is: refused, and the call succeeds.
        for _ in 0..10 {
            let memory = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
            sys(libc::SYS_mmap, [0, 1 << 20, 3, memory, usize::MAX]);
        }
        sys(libc::SYS_chroot, [at(c"/"), 0, 0, 0, 0]);
        sys(libc::SYS_sethostname, [at(c"x"), 1, 0, 0, 0]);
        sys(libc::SYS_kill, [1, 0, 0, 0, 0]);
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let events = calls(f.events(), EventKind::Capability);
    let found: Vec<_> = events.iter().map(|e| (i64::from(e.nr), e.capability, e.result)).collect();
    let denied = -i64::from(libc::EPERM);
    let [kill, chroot, admin] = [5, 18, 21];
    let expected = [
        (libc::SYS_chroot, Some(chroot), denied),
        (libc::SYS_sethostname, Some(admin), denied),
        (libc::SYS_kill, Some(kill), denied),
    ];
    assert_eq!(found, expected);
    assert_account(&f, EventKind::Capability, 3, 0);
}
