//! The yardstick: what the kernel alone costs.
//!
//! One thread, one epoll, nonblocking `recv` and `send`. On `/echo` received bytes are sent back as they are, without
//! looking at them. On `/fanout` every frame is sent to all connections of that path, its sender last, by one `send`
//! each of the same bytes. There is no protocol, no state per connection but a buffer behind a full socket, and nothing
//! that a server of documents could leave out too.

use crate::frame;
use crate::sockets::{self, Poll};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

/// The key of the listener among descriptors.
const LISTENER_KEY: u64 = u64::MAX;
const READ_BYTES: usize = 64 * 1024;
const EVENTS_MAX: usize = 512;
/// A connection that lets more than this wait is dropped.
const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Upgrading,
    Echo,
    Fanout,
}

struct Connection {
    mode: Mode,
    /// Part of an upgrade request or of a frame to fan out.
    inbound: Vec<u8>,
    /// What the socket did not take.
    outbound: Vec<u8>,
}

/// The server.
struct Bare {
    poll: Poll,
    connections: HashMap<RawFd, Connection>,
    /// Connections of `/fanout`.
    audience: Vec<RawFd>,
    buffer: Vec<u8>,
}

/// Serves until the process is killed. Prints `listening on 127.0.0.1:PORT`.
///
/// # Errors
/// The port is taken; the kernel refuses epoll.
pub fn run(port: u16) -> Result<()> {
    sockets::raise_descriptor_limit();
    let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("cannot listen on port {port}"))?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let mut server = Bare {
        poll: Poll::new(EVENTS_MAX)?,
        connections: HashMap::new(),
        audience: Vec::new(),
        buffer: vec![0; READ_BYTES],
    };
    server.poll.add_input(listener.as_raw_fd(), LISTENER_KEY)?;
    loop {
        let count = server.poll.wait(None)?;
        for index in 0..count {
            let ready = server.poll.ready(index);
            if ready.key == LISTENER_KEY {
                server.accept(listener.as_raw_fd());
                continue;
            }
            let fd = ready.key as RawFd;
            if ready.writable {
                server.flush(fd);
            }
            if ready.readable {
                server.read(fd, ready.ending);
            }
        }
    }
}

impl Bare {
    fn accept(&mut self, listener: RawFd) {
        while let Ok(fd) = sockets::accept(listener) {
            if self.poll.add(fd, fd as u64).is_err() {
                sockets::close(fd);
                continue;
            }
            self.connections.insert(
                fd,
                Connection {
                    mode: Mode::Upgrading,
                    inbound: Vec::new(),
                    outbound: Vec::new(),
                },
            );
        }
    }

    fn close(&mut self, fd: RawFd) {
        if self.connections.remove(&fd).is_some() {
            self.audience.retain(|other| *other != fd);
            sockets::close(fd);
        }
    }

    fn read(&mut self, fd: RawFd, ending: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(connection) = self.connections.get(&fd) {
            let mode = connection.mode;
            let count = match sockets::receive(fd, &mut buffer) {
                Ok(Some(0)) | Err(_) => {
                    self.close(fd);
                    break;
                }
                Ok(None) => break,
                Ok(Some(count)) => count,
            };
            match mode {
                Mode::Echo => self.send(fd, &buffer[..count]),
                Mode::Upgrading => self.upgrade(fd, &buffer[..count]),
                Mode::Fanout => self.fan_out(fd, &buffer[..count]),
            }
            if count < buffer.len() && !ending {
                break;
            }
        }
        self.buffer = buffer;
    }

    fn upgrade(&mut self, fd: RawFd, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&fd) else {
            return;
        };
        connection.inbound.extend_from_slice(bytes);
        let Some(end) = memchr::memmem::find(&connection.inbound, b"\r\n\r\n") else {
            return;
        };
        connection.mode = if connection.inbound.starts_with(b"GET /fanout") {
            Mode::Fanout
        } else {
            Mode::Echo
        };
        let rest = connection.inbound.split_off(end + 4);
        connection.inbound.clear();
        if connection.mode == Mode::Fanout {
            self.audience.push(fd);
        }
        // The key of every client of this tool is the example of RFC 6455 section 1.3, so its answer is known.
        self.send(
            fd,
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        if !rest.is_empty() {
            self.send(fd, &rest);
        }
    }

    fn fan_out(&mut self, from: RawFd, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&from) else {
            return;
        };
        let mut inbound = std::mem::take(&mut connection.inbound);
        inbound.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(received) = frame::parse(&mut inbound, used) {
            used = received.payload.end;
            // Only data: pings of clients and their goodbyes concern nobody else.
            if matches!(received.opcode, 1 | 2) {
                let frame = unmasked(received.opcode, &inbound[received.payload]);
                let audience = std::mem::take(&mut self.audience);
                for fd in audience.iter().filter(|fd| **fd != from) {
                    self.send(*fd, &frame);
                }
                self.audience = audience;
                self.send(from, &frame);
            }
        }
        inbound.drain(..used);
        if let Some(connection) = self.connections.get_mut(&from) {
            connection.inbound = inbound;
        }
    }

    #[inline]
    fn send(&mut self, fd: RawFd, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&fd) else {
            return;
        };
        let sent = if connection.outbound.is_empty() {
            sockets::send(fd, bytes)
        } else {
            Ok(None)
        };
        let sent = match sent {
            Ok(sent) => sent.unwrap_or(0),
            // Its end shows at the next read.
            Err(_) => return,
        };
        if sent < bytes.len() && connection.outbound.len() < PENDING_BYTES_MAX {
            connection.outbound.extend_from_slice(&bytes[sent..]);
        }
    }

    fn flush(&mut self, fd: RawFd) {
        let Some(connection) = self.connections.get_mut(&fd) else {
            return;
        };
        while !connection.outbound.is_empty() {
            match sockets::send(fd, &connection.outbound) {
                Ok(Some(count)) => drop(connection.outbound.drain(..count)),
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// The frame as a server sends it.
fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => out.push(length as u8),
        length @ 126..65_536 => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_to_fan_out_are_parsed_back_as_they_were() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let payload = vec![b'p'; length];
            let mut out = unmasked(2, &payload);
            let frame = frame::parse(&mut out, 0).expect("complete");
            assert_eq!(
                (frame.opcode, frame.payload.len(), frame.payload.end),
                (2, length, out.len())
            );
        }
    }
}
