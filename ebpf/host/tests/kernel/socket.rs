//! Sockets for children: system calls alone, no allocation, no panic.

use std::ptr::null_mut;

pub const LOCALHOST: [u8; 4] = [127, 0, 0, 1];

pub fn address(ip: [u8; 4], port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip) },
        sin_zero: [0; 8],
    }
}

/// A socket, or -1.
pub fn tcp(flags: i32) -> i32 {
    // SAFETY: makes a socket, nothing else.
    unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | flags, 0) }
}

/// A network namespace of the caller's own, with its loopback up.
pub fn enter_new_namespace() -> bool {
    // SAFETY: moves this child, which has one thread, into a new namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return false;
    }
    let socket = tcp(0);
    // SAFETY: all zero is an empty request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: reads a request that names an interface and its flags.
    let up = unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request) } == 0;
    close(socket);
    up
}

/// A listener at 127.0.0.1, or -1.
pub fn listen(port: u16, backlog: i32) -> i32 {
    let (socket, address) = (tcp(0), address(LOCALHOST, port));
    let length = size_of_val(&address) as u32;
    // SAFETY: an address of the given length.
    if unsafe { libc::bind(socket, (&raw const address).cast(), length) } != 0 {
        return -1;
    }
    // SAFETY: a number and a descriptor.
    if unsafe { libc::listen(socket, backlog) } != 0 { -1 } else { socket }
}

/// 0, or the error's number.
pub fn connect(socket: i32, port: u16) -> i32 {
    let address = address(LOCALHOST, port);
    let length = size_of_val(&address) as u32;
    // SAFETY: an address of the given length.
    if unsafe { libc::connect(socket, (&raw const address).cast(), length) } == 0 {
        return 0;
    }
    // SAFETY: gives the place of this thread's own errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: which is always there.
    unsafe { *errno }
}

pub fn accept(listener: i32) -> i32 {
    // SAFETY: the address is not wanted.
    unsafe { libc::accept(listener, null_mut(), null_mut()) }
}

/// A connected pair: the client's end and the server's.
pub fn pair(listener: i32, port: u16) -> Option<(i32, i32)> {
    let client = tcp(0);
    (connect(client, port) == 0).then(|| (client, accept(listener))).filter(|(_, end)| *end >= 0)
}

/// Sends `bytes` bytes, 1,000 at most.
pub fn send(socket: i32, bytes: usize) -> bool {
    let buffer = [7_u8; 1000];
    // SAFETY: reads at most the buffer.
    let sent = unsafe { libc::send(socket, buffer.as_ptr().cast(), bytes, libc::MSG_NOSIGNAL) };
    sent == bytes as isize
}

/// Bytes received, 0 at the end, negative after an error.
pub fn receive(socket: i32) -> isize {
    let mut buffer = [0_u8; 2000];
    // SAFETY: writes into the buffer only.
    unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) }
}

pub fn receive_all(socket: i32, bytes: isize) -> bool {
    let mut missing = bytes;
    while missing > 0 {
        match receive(socket) {
            read if read > 0 => missing -= read,
            _ => return false,
        }
    }
    missing == 0
}

pub fn close(socket: i32) {
    // SAFETY: a descriptor of the caller's that it uses no more.
    unsafe { libc::close(socket) };
}

/// Closes at once, with a reset instead of a farewell.
pub fn reset(socket: i32) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    let length = size_of_val(&linger) as u32;
    // SAFETY: an option of the given length.
    unsafe { libc::setsockopt(socket, level, name, (&raw const linger).cast(), length) };
    close(socket);
}

/// The smoothed round-trip time as `ss -i` shows it, in microseconds.
pub fn rtt_usec(socket: i32) -> u32 {
    // SAFETY: all zero is an empty answer.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as u32;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    // SAFETY: writes at most `length` bytes into `info`.
    unsafe { libc::getsockopt(socket, level, name, (&raw mut info).cast(), &raw mut length) };
    info.tcpi_rtt
}

/// Words that a child fills and its parent reads. They live as long as the test program.
pub fn shared_words() -> &'static [std::sync::atomic::AtomicU64; 8] {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let page = unsafe { libc::mmap(null_mut(), 4096, protection, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: a page of zeroes, aligned, never unmapped, and only ever used as atomics.
    unsafe { &*page.cast() }
}

/// Stops the caller until its parent kills it.
pub fn stop() {
    // SAFETY: a signal to oneself.
    unsafe { libc::raise(libc::SIGSTOP) };
}
