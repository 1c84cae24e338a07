//! The kernel calls of the load tester: nonblocking sockets, epoll, clocks and the descriptor limit.
//!
//! Everything unsafe of the crate's engine is here. Sockets are plain descriptors, because a worker holds up to 19,000
//! of them and stores four bytes for each; whoever opens one closes it.

use socket2::SockAddr;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

/// `IP_BIND_ADDRESS_NO_PORT` of linux/in.h: choose the port at connect, so that a port may serve several sources.
const IP_BIND_ADDRESS_NO_PORT: libc::c_int = 24;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    checked(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) }).map(drop)
}

/// Opens a nonblocking TCP socket and starts connecting it. Completion shows as writability.
///
/// # Errors
/// What the kernel says at once: no descriptor or port left, no route, an address that is not this machine's.
pub fn connect(source: Option<IpAddr>, target: &SocketAddr) -> io::Result<RawFd> {
    let family = if target.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointers.
    let fd = checked(unsafe { libc::socket(family, kind, 0) })?;
    let connected = connect_socket(fd, source, target);
    if connected.is_err() {
        close(fd);
    }
    connected.map(|()| fd)
}

fn connect_socket(fd: RawFd, source: Option<IpAddr>, target: &SocketAddr) -> io::Result<()> {
    option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if let Some(source) = source {
        option(fd, libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)?;
        let address = SockAddr::from(SocketAddr::new(source, 0));
        // SAFETY: pointer and length describe `address`.
        checked(unsafe { libc::bind(fd, address.as_ptr().cast(), address.len()) })?;
    }
    let address = SockAddr::from(*target);
    // SAFETY: pointer and length describe `address`.
    match checked(unsafe { libc::connect(fd, address.as_ptr().cast(), address.len()) }) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result.map(drop),
    }
}

/// Makes a listener's or accepted socket's settings those of the bare server: nonblocking, no delay.
///
/// # Errors
/// What the kernel says.
pub fn accept(listener: RawFd) -> io::Result<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers say that the peer's address is not wanted.
    let fd = checked(unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) })?;
    option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    Ok(fd)
}

/// The error a socket ended with, if any.
pub fn failure(fd: RawFd) -> Option<io::Error> {
    let mut code: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointers describe two locals that outlive the call.
    let asked = checked(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut code).cast(),
            &raw mut length,
        )
    });
    match asked {
        Err(error) => Some(error),
        Ok(_) if code != 0 => Some(io::Error::from_raw_os_error(code)),
        Ok(_) => None,
    }
}

/// Sends what the socket takes now; `None` when it takes nothing.
///
/// # Errors
/// The connection is broken.
#[inline]
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `bytes`.
    transferred(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Receives what is there; `Some(0)` at the end of the stream, `None` when nothing has arrived.
///
/// # Errors
/// The connection is broken.
#[inline]
pub fn receive(fd: RawFd, into: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: pointer and length describe `into`, which is exclusively borrowed.
    transferred(unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) })
}

fn transferred(result: isize) -> io::Result<Option<usize>> {
    if let Ok(count) = usize::try_from(result) {
        return Ok(Some(count));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(None),
        io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}

/// Closes the descriptor; the kernel says goodbye properly.
pub fn close(fd: RawFd) {
    // SAFETY: takes no pointers; the caller owns the descriptor and forgets it.
    unsafe { libc::close(fd) };
}

/// Closes the descriptor with a reset, which leaves no TIME_WAIT behind.
pub fn abort(fd: RawFd) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: pointer and length describe `linger`. A failure only means an ordinary close.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
    close(fd);
}

/// What epoll reported for one descriptor.
#[derive(Clone, Copy)]
pub struct Ready {
    /// The number given at [`Poll::add`].
    pub key: u64,
    /// Bytes, the end of the stream, or an error can be read.
    pub readable: bool,
    /// The socket takes bytes again, or is connected.
    pub writable: bool,
    /// The peer has ended the stream, or it broke: read on until the end shows.
    pub ending: bool,
}

/// An epoll instance and the events of one wait.
pub struct Poll {
    fd: RawFd,
    events: Vec<libc::epoll_event>,
}

impl Poll {
    /// An instance that reports at most `events_max` descriptors per wait.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new(events_max: usize) -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let empty = libc::epoll_event { events: 0, u64: 0 };
        Ok(Self {
            fd,
            events: vec![empty; events_max],
        })
    }

    /// Watches a socket, edge-triggered, for reading and writing.
    ///
    /// # Errors
    /// Kernel memory or the limit `fs.epoll.max_user_watches` is used up.
    pub fn add(&self, fd: RawFd, key: u64) -> io::Result<()> {
        self.watch(
            fd,
            key,
            libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        )
    }

    /// Watches a pipe or listener, level-triggered, for reading.
    ///
    /// # Errors
    /// As [`Poll::add`]; also for descriptors that cannot be watched, such as files.
    pub fn add_input(&self, fd: RawFd, key: u64) -> io::Result<()> {
        self.watch(fd, key, libc::EPOLLIN)
    }

    fn watch(&self, fd: RawFd, key: u64, events: libc::c_int) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: key,
        };
        // SAFETY: `event` outlives the call.
        checked(unsafe { libc::epoll_ctl(self.fd, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Waits at most `timeout_ns` (for ever without one) and gives the number of reports, see [`Poll::ready`].
    ///
    /// # Errors
    /// Never in practice; an interruption counts as nothing ready.
    pub fn wait(&mut self, timeout_ns: Option<u64>) -> io::Result<usize> {
        let timeout = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        });
        let timeout_pointer = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let room = self.events.len() as libc::c_int;
        // SAFETY: the event buffer holds `room` entries; the time-out outlives the call; no signal mask.
        let count = unsafe {
            libc::epoll_pwait2(
                self.fd,
                self.events.as_mut_ptr(),
                room,
                timeout_pointer,
                std::ptr::null(),
            )
        };
        match checked(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result.map(|count| count as usize),
        }
    }

    /// Report number `index` of the last wait.
    pub fn ready(&self, index: usize) -> Ready {
        let event = self.events[index];
        let has = |flags: libc::c_int| event.events & flags as u32 != 0;
        Ready {
            key: event.u64,
            readable: has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
            writable: has(libc::EPOLLOUT),
            ending: has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        close(self.fd);
    }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert!(failed == 0, "the kernel has no such clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds of the monotonic clock, equal for all processes of the machine.
#[inline]
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    clock_ns(libc::CLOCK_REALTIME) / 1_000_000
}

/// Processor time this process has used, in nanoseconds.
pub fn process_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Raises the soft descriptor limit to the hard one and gives it.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a local that outlives the call.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert!(failed == 0, "the kernel does not tell the descriptor limit");
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above. Raising to the hard limit is always allowed.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    limit.rlim_max
}

/// Makes this process end when its parent does, so that no worker outlives a killed coordinator.
pub fn end_with_parent() {
    // SAFETY: takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Has waits with a time-out end when they should, not up to 50 µs later as usual to save power.
pub fn wake_on_time() {
    let slack_ns: libc::c_ulong = 1;
    // SAFETY: takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns) };
}

/// Sends a signal to a process.
///
/// # Errors
/// No such process, or no permission.
pub fn signal(pid: u32, number: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: takes no pointers.
    checked(unsafe { libc::kill(pid, number) }).map(drop)
}
