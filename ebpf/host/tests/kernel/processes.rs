//! Exec and exit events, and the account of those that found no room.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;

use tenantry_ebpf::{Ancestor, Event, EventKind, ExecEvent, ExitEvent, Namespaces};

use crate::child::{Child, End, sleep_ms};
use crate::fixture::Fixture;

fn execs(events: &[Event]) -> Vec<&ExecEvent> {
    fn exec(event: &Event) -> Option<&ExecEvent> {
        if let Event::Exec(exec) = event { Some(exec) } else { None }
    }
    events.iter().filter_map(exec).collect()
}

fn exits(events: &[Event]) -> Vec<&ExitEvent> {
    fn exit(event: &Event) -> Option<&ExitEvent> {
        if let Event::Exit(exit) = event { Some(exit) } else { None }
    }
    events.iter().filter_map(exit).collect()
}

fn own_namespaces() -> Namespaces {
    let inode = |name| std::fs::metadata(format!("/proc/self/ns/{name}")).unwrap().ino() as u32;
    Namespaces {
        mnt: inode("mnt"),
        pid: inode("pid"),
        net: inode("net"),
        user: inode("user"),
        uts: inode("uts"),
        ipc: inode("ipc"),
        cgroup: inode("cgroup"),
    }
}

#[test]
fn an_exec_and_its_exit_say_who_what_and_where() {
    let Some(mut f) = Fixture::share() else { return };
    let container = f.container(1);
    let argv = [c"sh", c"-c", c"exit 3", c"", c"last"];
    let child = Child::exec(c"/bin/sh", &argv).put(&container);
    let pid = child.pid as u32;
    assert_eq!(child.run(), End::Code(3));
    let events = f.events();
    let [exec] = execs(&events)[..] else { panic!("{events:?}") };
    assert_eq!((exec.path.as_str(), exec.path_truncated), ("/bin/sh", false));
    assert_eq!(exec.argv, ["sh", "-c", "exit 3", "", "last"]);
    assert!(!exec.argv_truncated);
    let [exit] = exits(&events)[..] else { panic!("{events:?}") };
    assert_eq!((exit.exit_code, exit.signal), (3, None));
    for header in events.iter().map(Event::header) {
        assert_eq!((header.slot, header.pid, header.tid), (1, pid, pid));
        assert_eq!((header.ppid, header.uid), (std::process::id(), 0));
        assert_eq!(header.comm, "sh");
        assert_eq!(header.cgroup_id, container.ids().unified);
        assert_eq!(header.namespaces, own_namespaces());
    }
    assert!(exec.header.time_ns < exit.header.time_ns);
    let counters = f.read(1);
    assert_eq!(
        (
            counters.events.of(EventKind::Exec).produced,
            counters.events.of(EventKind::Exit).produced
        ),
        (1, 1)
    );
}

#[test]
fn long_arguments_and_paths_are_cut_and_say_so() {
    let Some(mut f) = Fixture::share() else { return };
    let container = f.container(1);
    let long = CString::new("y".repeat(3000)).unwrap();
    let child = Child::exec(c"/bin/true", &[c"true", &long]).put(&container);
    assert_eq!(child.run(), End::Code(0));
    // A path that is longer than what is kept, to the same program.
    let path = CString::new(format!("{}/bin/true", "/.".repeat(200))).unwrap();
    let child = Child::exec(&path, &[c"true"]).put(&container);
    assert_eq!(child.run(), End::Code(0));
    // Between the short and the long record's sizes.
    let path = CString::new(format!("{}/bin/true", "/.".repeat(60))).unwrap();
    let child = Child::exec(&path, &[c"true", &CString::new("z".repeat(500)).unwrap()]);
    assert_eq!(child.put(&container).run(), End::Code(0));
    let events = f.events();
    let [argv, cut_path, fits] = execs(&events)[..] else { panic!("{events:?}") };
    assert_eq!((argv.argv[0].as_str(), argv.argv[1].len()), ("true", 1024 - 5));
    assert!(argv.argv_truncated && !argv.path_truncated);
    assert_eq!((cut_path.path.len(), cut_path.path_truncated), (255, true));
    assert!(!cut_path.argv_truncated);
    assert_eq!((fits.path.len(), fits.argv[1].len()), (129, 500));
    assert!(!fits.path_truncated && !fits.argv_truncated);
}

#[test]
fn a_signals_victim_and_a_pid_namespaces_first_process() {
    let Some(mut f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let body = || {
        // SAFETY: new children go into a new namespace, this child stays.
        unsafe { libc::unshare(libc::CLONE_NEWPID) };
        // SAFETY: the grandchild only stops itself, for good.
        let pid = unsafe { libc::syscall(libc::SYS_fork) } as i32;
        if pid == 0 {
            loop {
                sleep_ms(1000);
            }
        }
        // SAFETY: the grandchild, which was not waited for.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        // SAFETY: waits for the grandchild.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        0
    };
    let child = Child::gated(body).put(&container);
    let pid = child.pid as u32;
    assert_eq!(child.run(), End::Code(0));
    let events = f.events();
    let [killed, parent] = exits(&events)[..] else { panic!("{events:?}") };
    assert_eq!((killed.exit_code, killed.signal), (137, Some(9)));
    assert_eq!((killed.header.container_pid, killed.header.ppid), (1, pid));
    assert_ne!(killed.header.namespaces.pid, own_namespaces().pid);
    assert_eq!(parent.header.pid, pid);
    // Its children are elsewhere, it is not.
    assert_eq!(parent.header.namespaces, own_namespaces());
}

/// Starts threads of `body` with `clone`, past libc's own accounts, which a fork confuses.
fn start_thread(body: extern "C" fn(*mut libc::c_void) -> libc::c_int, stack: &mut [u8]) {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    let top = stack.as_mut_ptr_range().end as usize & !15;
    // SAFETY: the stack is this thread's alone and lives as long as the process.
    unsafe { libc::clone(body, top as *mut libc::c_void, flags, std::ptr::null_mut()) };
}

#[test]
fn a_process_ends_once_however_many_threads_it_has() {
    let Some(mut f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    extern "C" fn end_alone(_: *mut libc::c_void) -> libc::c_int {
        // SAFETY: ends this thread only.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        0
    }
    extern "C" fn end_all_later(_: *mut libc::c_void) -> libc::c_int {
        sleep_ms(20);
        // SAFETY: ends the process.
        unsafe { libc::syscall(libc::SYS_exit_group, 9) };
        0
    }
    // All end at once, and each might take itself for the last.
    const PROCESSES: usize = 100;
    for _ in 0..PROCESSES {
        let body = || {
            let mut stacks = [[0; 8192]; 7];
            stacks.iter_mut().for_each(|stack| start_thread(end_alone, stack));
            end_alone(std::ptr::null_mut())
        };
        assert_eq!(Child::gated(body).put(&container).run(), End::Code(0));
    }
    // The leader goes first; the last thread's code counts.
    let body = || {
        let mut stack = [0; 8192];
        start_thread(end_all_later, &mut stack);
        end_alone(std::ptr::null_mut())
    };
    assert_eq!(Child::gated(body).put(&container).run(), End::Code(9));
    let events = f.events();
    let codes: Vec<i32> = exits(&events).iter().map(|exit| exit.exit_code).collect();
    assert_eq!(codes.len(), PROCESSES + 1, "{codes:?}");
    assert_eq!(codes[PROCESSES], 9);
    assert!(codes[..PROCESSES].iter().all(|code| *code == 0), "{codes:?}");
}

#[test]
fn delivered_and_lost_are_what_was_produced() {
    let Some(mut f) = Fixture::load(|options| options.ring_bytes = 8192) else { return };
    let (one, two) = (f.container(1), f.container(2));
    const RUNS: u64 = 60;
    let run = |container| {
        let child = Child::exec(c"/bin/true", &[c"true"]).put(container);
        assert_eq!(child.run(), End::Code(0));
    };
    // Nobody reads: the ring fills up.
    for _ in 0..RUNS {
        run(&one);
        run(&two);
    }
    let stalled = f.events();
    // Somebody reads again: nothing more is lost.
    run(&one);
    let after = f.events();
    assert_eq!((execs(&after).len(), exits(&after).len()), (1, 1));
    for slot in [1, 2] {
        let more = u64::from(slot == 1);
        let of_slot: Vec<Event> =
            stalled.iter().chain(&after).filter(|e| e.header().slot == slot).cloned().collect();
        let counters = f.read(slot);
        assert_eq!(counters.events.of(EventKind::Exec).produced, RUNS + more);
        assert_eq!(counters.events.of(EventKind::Exit).produced, RUNS + more);
        assert!(
            counters.events.of(EventKind::Exec).lost > 0
                && counters.events.of(EventKind::Exit).lost > 0,
            "{counters:?}"
        );
        assert_eq!(
            execs(&of_slot).len() as u64 + counters.events.of(EventKind::Exec).lost,
            counters.events.of(EventKind::Exec).produced
        );
        assert_eq!(
            exits(&of_slot).len() as u64 + counters.events.of(EventKind::Exit).lost,
            counters.events.of(EventKind::Exit).produced
        );
    }
    assert_eq!(f.reader.as_ref().unwrap().undecodable(), 0);
}

#[test]
fn an_exec_says_where_it_stood_what_file_it_is_and_who_is_above_it() {
    let Some(mut f) = Fixture::share() else { return };
    let directory = std::env::temp_dir().join(format!("tenantry-cwd-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let standing = CString::new(directory.to_str().unwrap()).unwrap();
    let body = || {
        let argv = [c"true".as_ptr(), std::ptr::null()];
        // SAFETY: a string with a NUL.
        unsafe { libc::chdir(standing.as_ptr()) };
        // SAFETY: a string with a NUL, and a list that ends with null.
        unsafe { libc::execv(c"/bin/true".as_ptr(), argv.as_ptr()) };
        127
    };
    assert_eq!(Child::gated(body).put(&f.container(1)).run(), End::Code(0));
    let events = f.events();
    std::fs::remove_dir(&directory).unwrap();
    let [exec] = execs(&events)[..] else { panic!("{events:?}") };
    assert_eq!((exec.cwd.as_str(), exec.cwd_truncated), (directory.to_str().unwrap(), false));
    let program = std::fs::metadata("/bin/true").unwrap();
    assert_eq!((exec.inode, exec.memfd), (program.ino(), false));
    let device = (libc::major(program.dev()), libc::minor(program.dev()));
    assert_eq!(exec.device, device);
    // The first one above it that is in no container, and no further.
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
    assert_eq!(exec.header.ancestors, [Ancestor { pid: std::process::id(), comm }]);
}

#[test]
fn a_program_that_lies_in_memory_alone_is_told_apart() {
    let Some(mut f) = Fixture::share() else { return };
    // SAFETY: the name ends with a NUL; without CLOEXEC, so that the child has it.
    let descriptor = unsafe { libc::memfd_create(c"hidden".as_ptr(), 0) };
    assert!(descriptor >= 0);
    let image = std::fs::read("/bin/true").unwrap();
    std::fs::write(format!("/proc/self/fd/{descriptor}"), &image).unwrap();
    let body = || {
        let argv = [c"true".as_ptr(), std::ptr::null()];
        let none = [std::ptr::null::<libc::c_char>()];
        // SAFETY: the descriptor is open, strings have a NUL and lists end with null.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                descriptor,
                c"".as_ptr(),
                argv.as_ptr(),
                none.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        127
    };
    let child = Child::gated(body).put(&f.container(1));
    // SAFETY: ours, and the child has its own.
    unsafe { libc::close(descriptor) };
    assert_eq!(child.run(), End::Code(0));
    let events = f.events();
    let [exec] = execs(&events)[..] else { panic!("{events:?}") };
    assert!(exec.memfd, "{exec:?}");
    assert_eq!(
        (exec.argv[0].as_str(), exec.path.as_str()),
        ("true", format!("/dev/fd/{descriptor}").as_str())
    );
}
