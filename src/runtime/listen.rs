//! The listening sockets: one per shard on the same address, so that the kernel spreads new connections.
//!
//! `SO_REUSEPORT` lets every process of the same user join a port, so a second server started by mistake would silently
//! take half of the connections. Therefore the first socket is bound and listening without it, which fails when anybody
//! else listens there, and is opened for its siblings only then.

use super::error::StartError;
use super::sys;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Connections that may wait to be accepted, per shard; the kernel caps it at `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// How long a port that is taken is tried again, and the pause between trials.
const PORT_PATIENCE: Duration = Duration::from_secs(1);
const PORT_PAUSE: Duration = Duration::from_millis(20);

/// Seconds of silence after which the kernel probes a connection, between probes, and probes until it is given up.
const KEEPALIVE: [(i32, i32); 3] = [
    (libc::TCP_KEEPIDLE, 120),
    (libc::TCP_KEEPINTVL, 30),
    (libc::TCP_KEEPCNT, 4),
];

/// Opens `count` listeners on `address`. Returns them with the address in force (port 0 is resolved).
pub(super) fn open(address: SocketAddr, count: u16, backlog: i32) -> Result<(Vec<OwnedFd>, SocketAddr), StartError> {
    let failed = |source| StartError::from_listen(address, source);
    let first = TcpListener::from(open_first_patiently(&address, backlog).map_err(failed)?);
    let resolved = first.local_addr().map_err(failed)?;
    let mut listeners = vec![OwnedFd::from(first)];
    for _ in 1..count {
        listeners.push(open_sibling(&resolved, backlog).map_err(failed)?);
    }
    Ok((listeners, resolved))
}

/// Makes listeners that somebody else opened ours: the same options and backlog, one handle for each shard.
pub(super) fn adopt(
    inherited: Vec<OwnedFd>,
    count: u16,
    backlog: i32,
) -> Result<(Vec<OwnedFd>, SocketAddr), StartError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let failed = |source| StartError::from_listen(unknown, source);
    let mut address = None;
    let mut adopted = Vec::new();
    for socket in inherited {
        let listener = TcpListener::from(socket);
        let own = listener.local_addr().map_err(failed)?;
        if *address.get_or_insert(own) != own {
            return Err(StartError::Configuration(
                "the sockets of the service manager must all have the same address",
            ));
        }
        let socket = OwnedFd::from(listener);
        let prepare = || -> io::Result<()> {
            set_inherited_options(&socket)?;
            // Calling it again only changes the backlog.
            sys::listen(socket.as_fd(), backlog)
        };
        prepare().map_err(failed)?;
        adopted.push(socket);
    }
    let address = address.ok_or(StartError::Configuration("no socket was handed over"))?;
    let share = |index: usize| adopted[index % adopted.len()].try_clone().map_err(failed);
    let listeners = (0..usize::from(count)).map(share).collect::<Result<Vec<_>, _>>()?;
    Ok((listeners, address))
}

/// The kernel frees what io_uring held of a server that ended only a moment after its process is gone, and a restart should
/// not fail because of that.
fn open_first_patiently(address: &SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let end = Instant::now() + PORT_PATIENCE;
    loop {
        match open_first(address, backlog) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(PORT_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn open_first(address: &SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let socket = prepared(address)?;
    sys::bind(socket.as_fd(), address)?;
    sys::listen(socket.as_fd(), backlog)?;
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    Ok(socket)
}

fn open_sibling(address: &SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let socket = prepared(address)?;
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    sys::bind(socket.as_fd(), address)?;
    sys::listen(socket.as_fd(), backlog)?;
    Ok(socket)
}

/// A socket with the options that accepted connections inherit.
fn prepared(address: &SocketAddr) -> io::Result<OwnedFd> {
    let socket = sys::tcp_socket(address)?;
    // Without it a restart would have to wait for the former process's connections to leave TIME_WAIT.
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_inherited_options(&socket)?;
    if address.is_ipv6() {
        // `[::]` is meant to serve IPv4 too, whatever net.ipv6.bindv6only says.
        sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    Ok(socket)
}

/// Options that accepted connections take over from their listener.
fn set_inherited_options(socket: &OwnedFd) -> io::Result<()> {
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    KEEPALIVE
        .iter()
        .try_for_each(|(option, value)| sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, *option, *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_given_up_a_moment_later_is_taken() {
        let former = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = former.local_addr().unwrap();
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(former);
        });
        assert_eq!(open(address, 2, BACKLOG).unwrap().1, address);
        leaving.join().unwrap();
        let began = Instant::now();
        let kept = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = open(kept.local_addr().unwrap(), 1, BACKLOG);
        assert!(matches!(taken, Err(StartError::PortTaken { .. })), "{taken:?}");
        assert!(began.elapsed() >= PORT_PATIENCE);
    }
}
