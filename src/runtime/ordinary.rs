//! Sockets as ordinary descriptors behind a private epoll: works on every kernel that glommio works on.
//!
//! Every descriptor of the shard is in one edge-triggered epoll set: the listeners, the doorbell, the timer and each
//! connection, added once with all events. The set's own descriptor is what the executor awaits. A connection counts
//! against the process's descriptor limit; when that is reached accepting pauses for [`BACKOFF_US`].

use super::sockets::{BATCH, CHUNK_BYTES, Event, Handle, Key, Nap, Readiness, Received, Sending, Sockets, Transit};
use super::sys;
use crate::ids::ShardId;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// How long accepting rests after descriptors or memory ran out.
pub(super) const BACKOFF_US: u64 = 100_000;
/// Connections accepted per harvest at most, so that a storm of them does not starve those that are there.
const ACCEPTS_MAX: usize = 64;
const EVENTS_MAX: usize = 512;

const LISTENER: u64 = 1 << 63;
const BELL: u64 = 1 << 62;
const TIMER: u64 = 1 << 61;

/// The ordinary-descriptor layer of one shard.
pub(super) struct Ordinary {
    epoll: OwnedFd,
    timer: OwnedFd,
    listener: Option<OwnedFd>,
    accept_ready: bool,
    accept_again_us: Option<u64>,
    accept_backoffs: u64,
    /// Moves whose sockets are ready to go; reported by the next harvest, as in the direct layer.
    departed: Vec<(u32, OwnedFd)>,
    buffer: Vec<libc::epoll_event>,
}

impl Ordinary {
    pub fn new(listener: OwnedFd, bell: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = sys::epoll()?;
        let timer = sys::timerfd()?;
        let edge = libc::EPOLLIN | libc::EPOLLET;
        sys::epoll_add(epoll.as_fd(), listener.as_raw_fd(), edge, LISTENER)?;
        sys::epoll_add(epoll.as_fd(), bell.as_raw_fd(), edge, BELL)?;
        sys::epoll_add(epoll.as_fd(), timer.as_raw_fd(), edge, TIMER)?;
        Ok(Self {
            epoll,
            timer,
            listener: Some(listener),
            accept_ready: true,
            accept_again_us: None,
            accept_backoffs: 0,
            departed: Vec::new(),
            buffer: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX],
        })
    }

    fn accept(&mut self, now_us: u64, events: &mut Vec<Event>) {
        let Some(listener) = &self.listener else { return };
        if self.accept_again_us.is_some_and(|again| now_us < again) {
            return;
        }
        self.accept_again_us = None;
        for _ in 0..ACCEPTS_MAX {
            match sys::accept(listener.as_fd()) {
                Ok((socket, peer)) => {
                    let handle = Handle::ordinary(socket.into_raw_fd());
                    events.push(Event::Accepted { handle, peer });
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        self.accept_ready = false;
                        return;
                    }
                    // The connection failed before it was accepted: take the next.
                    Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::EPERM | libc::ENETDOWN) => {}
                    Some(libc::EHOSTDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENONET) => {}
                    // EMFILE, ENFILE, ENOBUFS, ENOMEM, and whatever else would fail again at once.
                    _ => {
                        self.accept_backoffs += 1;
                        self.accept_again_us = Some(now_us + BACKOFF_US);
                        return;
                    }
                },
            }
        }
    }
}

fn raw(handle: Handle) -> RawFd {
    handle.descriptor()
}

/// Takes the descriptor back from a handle, to close it or to send it on.
fn reclaim(handle: Handle) -> OwnedFd {
    // SAFETY: a handle of this layer is an owned descriptor, put in by `into_raw_fd`; the engine gives each one up exactly once
    // (a socket is in at most one of table, departure and parcel).
    unsafe { OwnedFd::from_raw_fd(raw(handle)) }
}

impl Sockets for Ordinary {
    fn harvest(&mut self, now_us: u64, events: &mut Vec<Event>) {
        for (ticket, socket) in self.departed.drain(..) {
            events.push(Event::Departed {
                ticket,
                transit: Some(Transit::Descriptor(socket)),
            });
        }
        // Only EINTR can happen on a valid set; the next harvest asks again.
        let count = sys::epoll_poll(self.epoll.as_fd(), &mut self.buffer).unwrap_or(0);
        for event in &self.buffer[..count] {
            let (data, bits) = (event.u64, event.events as i32);
            match data {
                LISTENER => self.accept_ready = true,
                BELL | TIMER => {}
                _ => events.push(Event::Ready {
                    key: Key::from_u60(data),
                    readiness: readiness(bits),
                    watched: true,
                }),
            }
        }
        if self.accept_ready {
            self.accept(now_us, events);
        }
    }

    fn watch(&mut self, handle: Handle, key: Key) -> io::Result<()> {
        let bits = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        sys::epoll_add(self.epoll.as_fd(), raw(handle), bits, key.to_u60())
    }

    fn close(&mut self, handle: Handle, _key: Option<Key>) {
        // Closing the only descriptor of a socket also takes it out of the set.
        drop(reclaim(handle));
    }

    fn receive(&mut self, handles: &[Handle], scratch: &mut [u8], outcomes: &mut Vec<Received>) {
        debug_assert!(handles.len() <= BATCH);
        for (handle, chunk) in handles.iter().zip(scratch.chunks_mut(CHUNK_BYTES)) {
            let outcome = match sys::receive(raw(*handle), chunk) {
                Ok(0) => Received::Eof,
                Ok(len) => Received::Bytes {
                    len,
                    more: len == CHUNK_BYTES,
                },
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Received::WouldBlock,
                    _ => Received::Error,
                },
            };
            outcomes.push(outcome);
        }
    }

    fn send(&mut self, batch: &mut [Sending]) {
        for sending in batch {
            sending.result = sys::send(raw(sending.handle), &sending.pieces);
        }
    }

    fn depart(&mut self, handle: Handle, _key: Key, _to: ShardId, ticket: u32) {
        // The socket stays open, so it must be taken out of the set by hand; a failure would mean it was not in it.
        let _ = sys::epoll_remove(self.epoll.as_fd(), raw(handle));
        self.departed.push((ticket, reclaim(handle)));
    }

    fn arrive(&mut self, transit: Transit) -> Handle {
        match transit {
            Transit::Descriptor(socket) => Handle::ordinary(socket.into_raw_fd()),
            Transit::Installed(_) => unreachable!("all shards of a process use the same layer"),
        }
    }

    fn stop_listening(&mut self) {
        self.listener = None;
        self.accept_ready = false;
        self.accept_again_us = None;
    }

    fn nap(&mut self, wait_us: u64) -> Nap {
        Nap::ended(sys::wait_readable(self.epoll.as_fd(), wait_us))
    }

    fn before_sleep(&mut self) {}

    fn after_sleep(&mut self) {}

    fn finish(&mut self) {}

    fn pending(&mut self) -> bool {
        // What is ready in the epoll set makes its descriptor readable, so it need not be asked for here.
        !self.departed.is_empty() || (self.accept_ready && self.accept_again_us.is_none())
    }

    fn retry_at_us(&self) -> Option<u64> {
        self.accept_again_us
    }

    fn wake_source(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn wake_in(&mut self, delay_us: u64) {
        // Fails only for an invalid descriptor or time, and both are ours.
        let _ = sys::set_timer(self.timer.as_fd(), delay_us);
    }

    fn in_transit(&self) -> usize {
        self.departed.len()
    }

    fn accept_backoffs(&self) -> u64 {
        self.accept_backoffs
    }
}

/// What epoll or poll bits mean; both use the same values.
pub(super) fn readiness(bits: i32) -> Readiness {
    Readiness {
        readable: bits & libc::EPOLLIN != 0,
        writable: bits & libc::EPOLLOUT != 0,
        hangup: bits & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0,
    }
}
