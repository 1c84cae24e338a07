//! Thin safe wrappers over the system calls the runtime needs and the standard library lacks.
//!
//! Everything here but [`wait_readable`] returns at once: sockets are used with `MSG_DONTWAIT`, event and timer descriptors
//! are non-blocking.
//! Apart from this file only the private rings (`direct/ring.rs`), the glommio bridge (`readiness.rs`), `ordinary.rs` and
//! `signals.rs` use `unsafe` outside tests.

use bytes::Bytes;
use smallvec::SmallVec;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Pieces one `sendmsg` takes at most; the kernel's limit is 1,024.
pub(super) const PIECES_MAX: usize = 64;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn length_of<T>() -> libc::socklen_t {
    mem::size_of::<T>() as libc::socklen_t
}

/// A non-blocking eventfd, the doorbell of one shard.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })
}

/// Adds one to an eventfd. Async-signal-safe. A full counter is already as loud as it gets.
pub(super) fn ring_bell(bell: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: the eight bytes of `one` live across the call.
    let _ = unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Takes the counter of an eventfd down to zero.
pub(super) fn quiet_bell(bell: BorrowedFd<'_>) {
    let mut count = 0u64;
    // SAFETY: the eight bytes of `count` live across the call.
    let _ = unsafe { libc::read(bell.as_raw_fd(), (&raw mut count).cast(), 8) };
}

/// Blocks the thread until the descriptor is readable, at most `wait_us`. Returns whether it may be.
pub(super) fn wait_readable(descriptor: BorrowedFd<'_>, wait_us: u64) -> bool {
    let mut poll = libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let wait = libc::timespec {
        tv_sec: (wait_us / 1_000_000) as libc::time_t,
        tv_nsec: ((wait_us % 1_000_000) * 1000) as libc::c_long,
    };
    // SAFETY: one pollfd and the timespec live across the call; no signal mask is given. Whatever goes wrong (a signal) counts as
    // readable: the caller looks again.
    unsafe { libc::ppoll(&mut poll, 1, &wait, std::ptr::null()) != 0 }
}

/// A non-blocking monotonic timerfd.
pub(super) fn timerfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) })
}

/// Lets a timerfd expire once, `delay_us` from now (at least one microsecond: zero would disarm it).
pub(super) fn set_timer(timer: BorrowedFd<'_>, delay_us: u64) -> io::Result<()> {
    let delay_us = delay_us.max(1);
    let spec = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec {
            tv_sec: (delay_us / 1_000_000) as libc::time_t,
            tv_nsec: ((delay_us % 1_000_000) * 1000) as libc::c_long,
        },
    };
    // SAFETY: `spec` is a complete itimerspec that lives across the call; the old value is not asked for.
    check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &spec, std::ptr::null_mut()) }).map(drop)
}

/// A new epoll instance.
pub(super) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

/// Watches `target` for `events`; `data` comes back with each of them.
pub(super) fn epoll_add(epoll: BorrowedFd<'_>, target: RawFd, events: i32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: data,
    };
    // SAFETY: `event` lives across the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, target, &mut event) }).map(drop)
}

/// Stops watching `target`.
pub(super) fn epoll_remove(epoll: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: EPOLL_CTL_DEL ignores the event pointer.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, target, std::ptr::null_mut()) }).map(drop)
}

/// Fetches what is ready, without waiting. Returns how many of `events` were filled.
pub(super) fn epoll_poll(epoll: BorrowedFd<'_>, events: &mut [libc::epoll_event]) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `events`.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, 0) };
    check(count).map(|count| count as usize)
}

/// Accepts one connection and says who it is. The descriptor is non-blocking.
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, IpAddr)> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = length_of::<libc::sockaddr_storage>();
    // SAFETY: address and length point to storage of the stated size that lives across the call.
    let fd = owned(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            storage.as_mut_ptr().cast(),
            &mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: the storage was zeroed, so every byte of it is initialised whatever the kernel wrote.
    let storage = unsafe { storage.assume_init() };
    let bytes: &[u8; mem::size_of::<libc::sockaddr_storage>()] =
        // SAFETY: plain bytes of an initialised (zeroed) C struct without padding requirements on reads as u8.
        unsafe { &*(&raw const storage).cast() };
    peer_ip(bytes)
        .map(|peer| (fd, peer))
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

/// The IP address in a kernel `sockaddr_in` or `sockaddr_in6`; IPv4 in IPv6 is unwrapped so that limits count it once.
pub(super) fn peer_ip(sockaddr: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(sockaddr.get(..2)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = sockaddr.get(4..8)?.try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = sockaddr.get(8..24)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

/// Reads what is there.
pub(super) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `buffer`.
    check_len(unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
}

/// Sends as much of `pieces` as the socket takes now; at most [`PIECES_MAX`] pieces are tried.
pub(super) fn send(socket: RawFd, pieces: &[Bytes]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    if let [only] = pieces {
        // SAFETY: the pointer and the length describe `only`.
        return check_len(unsafe { libc::send(socket, only.as_ptr().cast(), only.len(), flags) });
    }
    let mut vectors: SmallVec<[libc::iovec; 8]> = io_vectors(pieces);
    let message = message(&mut vectors);
    // SAFETY: `message` points to `vectors`, which point into `pieces`; all live across the call and are only read.
    check_len(unsafe { libc::sendmsg(socket, &message, flags) })
}

/// A message header that points to `vectors`. Whoever hands it to the kernel keeps them and what they point to in place.
pub(super) fn message(vectors: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len() as _;
    message
}

/// The first [`PIECES_MAX`] pieces as the kernel wants them.
pub(super) fn io_vectors<const N: usize>(pieces: &[Bytes]) -> SmallVec<[libc::iovec; N]>
where
    [libc::iovec; N]: smallvec::Array<Item = libc::iovec>,
{
    let vector = |piece: &Bytes| libc::iovec {
        iov_base: piece.as_ptr().cast_mut().cast(),
        iov_len: piece.len(),
    };
    pieces.iter().take(PIECES_MAX).map(vector).collect()
}

/// A TCP socket, not yet bound.
pub(super) fn tcp_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no pointers are passed.
    owned(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) })
}

/// Sets an integer socket option.
pub(super) fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option value is an int that lives across the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length_of::<libc::c_int>(),
        )
    })
    .map(drop)
}

/// Binds a socket.
pub(super) fn bind(socket: BorrowedFd<'_>, address: &SocketAddr) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: address and length describe `raw`, which lives across the call.
            unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const raw).cast(),
                    length_of::<libc::sockaddr_in>(),
                )
            }
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: address and length describe `raw`, which lives across the call.
            unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const raw).cast(),
                    length_of::<libc::sockaddr_in6>(),
                )
            }
        }
    };
    check(result).map(drop)
}

/// Lets a bound socket listen.
pub(super) fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// Takes over a listening socket that this process was started with. Says what is wrong with it.
pub(super) fn take_listener(descriptor: RawFd) -> Result<OwnedFd, String> {
    let (mut listening, mut length) = (0, length_of::<libc::c_int>());
    // SAFETY: the value and its length live across the call.
    let asked = unsafe {
        libc::getsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut listening).cast(),
            &raw mut length,
        )
    };
    check(asked).map_err(|error| format!("descriptor {descriptor} of the service manager: {error}"))?;
    if listening != 1 {
        return Err(format!(
            "descriptor {descriptor} of the service manager does not listen"
        ));
    }
    // SAFETY: no pointers are passed. The kernel knew the descriptor a moment ago.
    let prepared = unsafe {
        libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC)
            | libc::fcntl(descriptor, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK)
    };
    check(prepared).map_err(|error| format!("descriptor {descriptor} of the service manager: {error}"))?;
    // SAFETY: the descriptor is open, and the service manager's convention makes it ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Microseconds of CLOCK_MONOTONIC, the clock that service managers compare with.
pub fn monotonic_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives across the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// Keeps the kernel from backing the heap with huge pages. The allocator asks for them, and a connection at rest is a few
/// hundred scattered bytes: with huge pages the resident size grows in steps of 2 MiB, most of them empty.
pub fn refuse_huge_pages() -> io::Result<()> {
    // SAFETY: this prctl takes plain numbers and changes only how later page faults are served.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) }).map(drop)
}

/// The soft limit of a resource (`RLIMIT_*`).
pub(super) fn soft_limit(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` lives across the call.
    check(unsafe { libc::getrlimit(resource, &mut limit) })?;
    Ok(limit.rlim_cur)
}

/// Raises the soft limit of a resource to the hard one, which needs no privilege. Returns the limit then in force.
pub(super) fn raise_limit(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` lives across the call.
    check(unsafe { libc::getrlimit(resource, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(resource, &limit) })?;
    soft_limit(resource)
}

/// The processors this process may run on, in order.
pub(super) fn allowed_processors() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the size and the pointer describe `set`.
    check(unsafe { libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &mut set) })?;
    // SAFETY: the index stays below CPU_SETSIZE.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}
