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

/// A datagram socket for IPv4, or -1.
pub fn udp() -> i32 {
    // SAFETY: makes a socket, nothing else.
    unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) }
}

/// The same for IPv6, and an address of this host's.
pub fn udp_v6(port: u16) -> (i32, libc::sockaddr_in6) {
    // SAFETY: all zero is an empty address.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    address.sin6_family = libc::AF_INET6 as u16;
    address.sin6_port = port.to_be();
    address.sin6_addr.s6_addr[15] = 1;
    // SAFETY: makes a socket, nothing else.
    (unsafe { libc::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0) }, address)
}

/// As little room for what arrives as the kernel lets one ask for.
pub fn narrow(socket: i32) -> bool {
    let (bytes, name) = (1_i32, libc::SO_RCVBUF);
    let value = (&raw const bytes).cast();
    // SAFETY: a number and its length.
    unsafe {
        libc::setsockopt(socket, libc::SOL_SOCKET, name, value, size_of_val(&bytes) as u32) == 0
    }
}

/// Makes a socket throw away whatever arrives, as if the network lost it, or hear again.
pub fn deaf(socket: i32, deaf: bool) -> bool {
    // Classic BPF: return 0, no byte of the packet is wanted.
    let mut nothing = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
    let filter = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    let name = if deaf { libc::SO_ATTACH_FILTER } else { libc::SO_DETACH_FILTER };
    let (value, length) = ((&raw const filter).cast(), size_of_val(&filter) as u32);
    // SAFETY: a program of one instruction, which the kernel copies; it ignores the value when
    // it detaches one.
    unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, name, value, length) == 0 }
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

/// Takes an IPv4 or IPv6 address.
pub fn bind<A>(socket: i32, address: &A) -> bool {
    let (address, length) = ((&raw const *address).cast(), size_of_val(address) as u32);
    // SAFETY: an address of the given length.
    unsafe { libc::bind(socket, address, length) == 0 }
}

/// A listener at 127.0.0.1, or -1.
pub fn listen(port: u16, backlog: i32) -> i32 {
    let socket = tcp(0);
    if !bind(socket, &address(LOCALHOST, port)) {
        return -1;
    }
    // SAFETY: a number and a descriptor.
    if unsafe { libc::listen(socket, backlog) } != 0 { -1 } else { socket }
}

/// 0, or the error's number.
pub fn connect(socket: i32, port: u16) -> i32 {
    connect_to(socket, &address(LOCALHOST, port))
}

/// 0, or the error's number.
pub fn connect_to(socket: i32, address: &libc::sockaddr_in) -> i32 {
    let length = size_of_val(address) as u32;
    // SAFETY: an address of the given length.
    if unsafe { libc::connect(socket, (&raw const *address).cast(), length) } == 0 {
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

/// One datagram, to whom the socket is connected.
pub fn send_buffer(socket: i32, buffer: &[u8]) -> bool {
    let (data, length) = (buffer.as_ptr().cast(), buffer.len());
    // SAFETY: reads the buffer.
    unsafe { libc::send(socket, data, length, libc::MSG_NOSIGNAL) == length as isize }
}

/// Its length, negative after an error; what is longer than the buffer is cut.
pub fn receive_into(socket: i32, buffer: &mut [u8]) -> isize {
    // SAFETY: writes into the buffer only.
    unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) }
}

/// When the device had what was received last, by [`realtime_ns`]'s clock. `None` before
/// anything was; to ask makes the kernel note it from then on.
pub fn arrival_ns(socket: i32) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes `time`, which has the layout of the 64-bit request.
    let answer = unsafe { libc::ioctl(socket, SIOCGSTAMPNS, &raw mut time) };
    (answer == 0).then(|| nanoseconds(&time))
}

/// `linux/sockios.h`, of 64-bit time.
const SIOCGSTAMPNS: libc::c_ulong = 0x8010_8907;

/// Since 1970, by the clock of receive times.
pub fn realtime_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    nanoseconds(&time)
}

fn nanoseconds(time: &libc::timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One datagram of `bytes` bytes, 1,000 at most, to an IPv4 or IPv6 address.
pub fn send_to<A>(socket: i32, bytes: usize, to: &A) -> bool {
    send_bytes(socket, &[7; 1000][..bytes], to)
}

/// One datagram to an IPv4 or IPv6 address.
pub fn send_bytes<A>(socket: i32, bytes: &[u8], to: &A) -> bool {
    let (to, length) = ((&raw const *to).cast(), size_of_val(to) as u32);
    // SAFETY: reads the bytes and an address of the given length.
    let sent = unsafe { libc::sendto(socket, bytes.as_ptr().cast(), bytes.len(), 0, to, length) };
    sent == bytes.len() as isize
}

/// One datagram into `buffer` and where it came from; its length, negative after an error.
pub fn receive_from<A>(socket: i32, buffer: &mut [u8], from: &mut A) -> isize {
    let (from, mut length) = ((&raw mut *from).cast(), size_of_val(from) as u32);
    let (data, room) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: writes into the buffer and at most the address's length.
    unsafe { libc::recvfrom(socket, data, room, 0, from, &raw mut length) }
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
