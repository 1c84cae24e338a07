//! Sockets as direct descriptors on private rings: the layer for very many connections. Needs Linux 6.7.
//!
//! A direct descriptor lives in a ring's file table only. It does not count against the process's descriptor limit; the
//! limit bounds each table, so when one fills another ring is added. An idle connection is one place in a table and one
//! multishot poll. Per batch of sockets, reading and sending take one system call.
//!
//! A connection is accepted straight into the table, which tells nothing of its peer. One `GETSOCKOPT(SO_PEERNAME)`
//! request per connection asks for it, up to 32 in one system call.
//!
//! Invariants:
//! - User data of polls carry slot and generation, so completions of a former socket find no taker.
//! - A socket is closed by ending its poll and emptying its place, in this order on one ring, so many per turn. The kernel
//!   frees it when the poll is gone; the place may be taken again at once.
//! - A moving socket is put into the receiver's table first and closed here when that has succeeded.

mod ring;
#[cfg(test)]
mod tests;
mod trial;

pub(super) use trial::check;

use super::mesh::ReceivingRings;
use super::ordinary::{BACKOFF_US, readiness};
use super::sockets::{BATCH, CHUNK_BYTES, Event, Handle, Key, Nap, Readiness, Received, Sending, Sockets, Transit};
use super::sys;
use crate::ids::ShardId;
use ring::{Completion, PeerName, Ring, Standing};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Places in one ring's table at most, whatever the descriptor limit allows: the kernel finds a poll by walking one of 256 chains.
const FILES_MAX: u32 = 1 << Handle::FILE_BITS;
/// Places kept free in a filling ring. A multishot accept empties the whole backlog in one go, and what finds no place is
/// reset by the kernel, so the backlog must fit in; sockets moved here but not counted yet come on top.
const FILES_SPARE: u32 = 4096 + 512;
/// How long a move is tried again before the session is told that its socket is lost, and the pause between trials.
const MOVE_US_MAX: u64 = 1_000_000;
const MOVE_RETRY_US: u64 = 500;

/// New connections taken in per turn.
const NEWCOMERS_PER_TURN_MAX: usize = 64;
/// Sockets closed per turn: the kernel takes some 20 µs for each.
const CLOSES_PER_TURN_MAX: usize = 64;

const WATCH: u64 = 0;
const ACCEPT: u64 = 1 << 60;
const TIMER: u64 = 2 << 60;
const IGNORED: u64 = 3 << 60;
const MOVE: u64 = 4 << 60;
const BELL: u64 = 5 << 60;
const KIND: u64 = 7 << 60;

/// The direct-descriptor layer of one shard.
pub(super) struct Direct {
    shard: ShardId,
    mesh: Arc<dyn ReceivingRings>,
    timer: OwnedFd,
    /// The first ring tells when the doorbell rings.
    bell_watched: bool,
    rings: Vec<Table>,
    files_per_ring: u32,
    /// The ring that accepts connections and receives sockets.
    filling: usize,
    listener: Option<OwnedFd>,
    /// Length of the listener's kind of address.
    name_len: usize,
    /// The ring whose accept is armed.
    accepting: Option<usize>,
    accept_again_us: Option<u64>,
    accept_backoffs: u64,
    newcomers: Vec<Handle>,
    /// Sockets to be closed, with the keys of their watches.
    closing: VecDeque<(Handle, Option<Key>)>,
    moves: Vec<Option<Move>>,
    moving: usize,
    /// Moves whose receiver had no place, and when they are tried again.
    stuck: Vec<u32>,
    stuck_until_us: u64,
    completions: Vec<Completion>,
}

/// A ring and how full its table is.
struct Table {
    ring: Ring,
    used: u32,
}

#[derive(Clone, Copy)]
struct Move {
    handle: Handle,
    to: ShardId,
    ring: u16,
    /// When it failed first.
    failed_us: Option<u64>,
}

/// Places per table under the descriptor limit in force; `files_max` 0 means no further bound.
pub(super) fn files_per_ring(files_max: u32) -> io::Result<u32> {
    let limit = u32::try_from(sys::soft_limit(libc::RLIMIT_NOFILE)?).unwrap_or(u32::MAX);
    let files = limit.min(FILES_MAX);
    Ok(if files_max == 0 { files } else { files.min(files_max) })
}

fn spare(files: u32) -> u32 {
    FILES_SPARE.min(files / 2)
}

/// The longest backlog that tables of this size can take in one go.
pub(super) fn backlog(files: u32) -> i32 {
    (spare(files) - spare(files) / 8) as i32
}

impl Direct {
    pub fn new(
        shard: ShardId,
        listener: OwnedFd,
        ipv4: bool,
        mesh: Arc<dyn ReceivingRings>,
        files_per_ring: u32,
    ) -> io::Result<Self> {
        let mut direct = Self {
            shard,
            mesh,
            timer: sys::timerfd()?,
            bell_watched: false,
            rings: Vec::new(),
            files_per_ring,
            filling: 0,
            listener: Some(listener),
            name_len: if ipv4 {
                mem::size_of::<libc::sockaddr_in>()
            } else {
                mem::size_of::<libc::sockaddr_in6>()
            },
            accepting: None,
            accept_again_us: None,
            accept_backoffs: 0,
            newcomers: Vec::new(),
            closing: VecDeque::new(),
            moves: Vec::new(),
            moving: 0,
            stuck: Vec::new(),
            stuck_until_us: 0,
            completions: Vec::new(),
        };
        direct.add_ring()?;
        let descriptor = direct.timer.as_raw_fd();
        direct.rings[0]
            .ring
            .push(Standing::WatchDescriptor { descriptor }, TIMER);
        direct.accept_on_filling();
        Ok(direct)
    }

    fn add_ring(&mut self) -> io::Result<()> {
        let ring = Ring::new(self.files_per_ring, self.mesh.bell(self.shard))?;
        self.rings.push(Table { ring, used: 0 });
        self.fill(self.rings.len() - 1);
        Ok(())
    }

    fn fill(&mut self, index: usize) {
        self.filling = index;
        self.mesh
            .publish(self.shard, index as u16, self.rings[index].ring.descriptor());
    }

    /// Goes on to a ring with room, or to a new one, when the filling one is nearly full.
    fn make_room(&mut self, now_us: u64) {
        let used_max = self.files_per_ring - spare(self.files_per_ring);
        if self.rings[self.filling].used < used_max {
            return;
        }
        // Half empty, so that a little churn on full tables does not bring the next change at once.
        match self.rings.iter().position(|table| table.used < used_max / 2) {
            Some(index) => self.fill(index),
            None if self.add_ring().is_ok() => {}
            None => return self.back_off(now_us),
        }
        if let Some(index) = self.accepting {
            self.rings[index]
                .ring
                .push(Standing::Cancel { user_data: ACCEPT }, IGNORED);
        }
    }

    fn back_off(&mut self, now_us: u64) {
        if self.accept_again_us.is_none() {
            self.accept_backoffs += 1;
            self.accept_again_us = Some(now_us + BACKOFF_US);
        }
    }

    fn accept_on_filling(&mut self) {
        if let (Some(listener), None, None) = (&self.listener, self.accepting, self.accept_again_us) {
            let listener = listener.as_raw_fd();
            self.rings[self.filling]
                .ring
                .push(Standing::Accept { listener }, ACCEPT);
            self.accepting = Some(self.filling);
        }
    }

    fn completed(&mut self, index: usize, completion: Completion, now_us: u64, events: &mut Vec<Event>) {
        match completion.user_data & KIND {
            WATCH => {
                // Ended by us: the socket is gone or on its way.
                if completion.result == -libc::ECANCELED {
                    return;
                }
                let key = Key::from_u60(completion.user_data);
                let readiness = match completion.result {
                    bits if bits >= 0 => readiness(bits),
                    // Reading will tell what is wrong.
                    _ => Readiness {
                        readable: true,
                        writable: true,
                        hangup: true,
                    },
                };
                events.push(Event::Ready {
                    key,
                    readiness,
                    watched: completion.more(),
                });
            }
            ACCEPT => self.accepted(index, completion, now_us),
            TIMER if !completion.more() => {
                let descriptor = self.timer.as_raw_fd();
                self.rings[index]
                    .ring
                    .push(Standing::WatchDescriptor { descriptor }, TIMER);
            }
            BELL => {
                self.bell_watched = false;
                sys::quiet_bell(self.mesh.bell(self.shard));
            }
            MOVE => self.moved(completion.user_data as u32, completion.result, now_us, events),
            _ => {}
        }
    }

    fn accepted(&mut self, index: usize, completion: Completion, now_us: u64) {
        if completion.result >= 0 {
            self.rings[index].used += 1;
            let handle = Handle::direct(index as u16, completion.result as u32);
            self.newcomers.push(handle);
        }
        if completion.more() {
            return;
        }
        self.accepting = None;
        match -completion.result {
            // Ended by us, by a full completion queue, or with a connection that failed before it was accepted.
            error if error <= 0 => {}
            libc::ECANCELED | libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::EPERM | libc::EAGAIN => {}
            // The table or the system is full, or something is wrong that would be so again at once. A full table
            // is left by `make_room` before this; it happens when sockets moved here faster than they were counted.
            _ => self.back_off(now_us),
        }
    }

    fn moved(&mut self, ticket: u32, result: i32, now_us: u64, events: &mut Vec<Event>) {
        let Some(moving) = self.moves[ticket as usize].as_mut() else {
            return;
        };
        let transit = if result >= 0 {
            Some(Transit::Installed(Handle::direct(moving.ring, result as u32)))
        } else if now_us - *moving.failed_us.get_or_insert(now_us) < MOVE_US_MAX {
            // Most likely the table there has just filled, and another is published as soon as that is noticed.
            self.stuck.push(ticket);
            self.stuck_until_us = now_us + MOVE_RETRY_US;
            return;
        } else {
            None
        };
        let handle = moving.handle;
        self.moves[ticket as usize] = None;
        self.moving -= 1;
        self.close(handle, None);
        events.push(Event::Departed { ticket, transit });
    }

    fn retry_moves(&mut self, now_us: u64) {
        if !self.stuck.is_empty() && now_us >= self.stuck_until_us {
            self.stuck_until_us = now_us + MOVE_RETRY_US;
            for ticket in mem::take(&mut self.stuck) {
                self.send_to(ticket);
            }
        }
    }

    fn send_to(&mut self, ticket: u32) {
        let Some(moving) = self.moves[ticket as usize].as_mut() else {
            return;
        };
        let Some((ring, descriptor)) = self.mesh.receiving_ring(moving.to) else {
            // That shard is only starting. How long it takes is no fault of the socket's, and if it fails the process ends.
            self.stuck.push(ticket);
            return;
        };
        moving.ring = ring;
        let handle = moving.handle;
        let request = Standing::SendTo {
            ring: descriptor,
            file: handle.file(),
        };
        self.table(handle).ring.push(request, MOVE | u64::from(ticket));
    }

    /// Asks who the new connections are and reports them, so many per turn: each of them means an upgrade, a token and
    /// subscriptions in the next turns, for which those that are there already must not wait.
    fn introduce(&mut self, events: &mut Vec<Event>) {
        let now_known = if self.listener.is_some() {
            self.newcomers.len().min(NEWCOMERS_PER_TURN_MAX)
        } else {
            self.newcomers.len()
        };
        let newcomers: SmallVec<[Handle; NEWCOMERS_PER_TURN_MAX]> = self.newcomers.drain(..now_known).collect();
        if self.listener.is_none() {
            newcomers.iter().for_each(|handle| self.close(*handle, None));
            return;
        }
        for batch in newcomers
            .chunk_by(|a, b| a.ring() == b.ring())
            .flat_map(|same_ring| same_ring.chunks(BATCH))
        {
            let mut names: SmallVec<[PeerName; BATCH]> = smallvec::smallvec![PeerName::default(); batch.len()];
            let mut requests: SmallVec<[(u32, &mut PeerName); BATCH]> =
                batch.iter().map(|handle| handle.file()).zip(&mut names).collect();
            let len = self.name_len;
            let completions = self.rings[usize::from(batch[0].ring())]
                .ring
                .peer_names(&mut requests, len);
            let known: SmallVec<[bool; BATCH]> = completions.iter().map(|completion| completion.result >= 0).collect();
            drop(requests);
            for ((handle, name), known) in batch.iter().zip(&names).zip(known) {
                match sys::peer_ip(name).filter(|_| known) {
                    Some(peer) => events.push(Event::Accepted { handle: *handle, peer }),
                    // It was reset before anybody could ask.
                    None => self.close(*handle, None),
                }
            }
        }
    }

    /// Closes the oldest `count` of the sockets to be closed. When thousands of clients leave at once, the others must not
    /// wait for all of them.
    fn close_some(&mut self, count: usize) {
        for (handle, key) in self.closing.drain(..count.min(self.closing.len())) {
            let table = &mut self.rings[usize::from(handle.ring())];
            if let Some(key) = key {
                let user_data = WATCH | key.to_u60();
                table.ring.push(Standing::Cancel { user_data }, IGNORED);
            }
            table.ring.push(Standing::Close { file: handle.file() }, IGNORED);
            table.used = table.used.saturating_sub(1);
        }
        if self.closing.is_empty() {
            // A burst must not pin its memory for good.
            self.closing.shrink_to(4 * CLOSES_PER_TURN_MAX);
        }
    }

    fn table(&mut self, handle: Handle) -> &mut Table {
        &mut self.rings[usize::from(handle.ring())]
    }
}

/// Groups a batch by ring: (ring, positions in the batch).
fn by_ring(rings: impl Iterator<Item = u16>) -> SmallVec<[(usize, SmallVec<[usize; BATCH]>); 1]> {
    let mut groups: SmallVec<[(usize, SmallVec<[usize; BATCH]>); 1]> = SmallVec::new();
    for (position, ring) in rings.enumerate() {
        let ring = usize::from(ring);
        match groups.iter_mut().find(|group| group.0 == ring) {
            Some(group) => group.1.push(position),
            None => groups.push((ring, smallvec::smallvec![position])),
        }
    }
    groups
}

fn received(completion: Completion, chunk_bytes: usize) -> Received {
    match completion.result {
        0 => Received::Eof,
        bytes if bytes > 0 => {
            let len = bytes as usize;
            Received::Bytes {
                len,
                more: len == chunk_bytes || completion.socket_nonempty(),
            }
        }
        error if error == -libc::EAGAIN || error == -libc::EINTR => Received::WouldBlock,
        _ => Received::Error,
    }
}

impl Sockets for Direct {
    fn harvest(&mut self, now_us: u64, events: &mut Vec<Event>) {
        self.close_some(CLOSES_PER_TURN_MAX);
        let mut completions = mem::take(&mut self.completions);
        for index in 0..self.rings.len() {
            if self.rings[index].ring.has_news() {
                self.rings[index].ring.turn(&mut completions);
                for completion in completions.drain(..) {
                    self.completed(index, completion, now_us, events);
                }
            }
        }
        self.completions = completions;
        if !self.newcomers.is_empty() {
            self.introduce(events);
        }
        if self.accept_again_us.is_some_and(|again| now_us >= again) {
            self.accept_again_us = None;
        }
        self.retry_moves(now_us);
        self.make_room(now_us);
        self.accept_on_filling();
    }

    fn watch(&mut self, handle: Handle, key: Key) -> io::Result<()> {
        self.table(handle)
            .ring
            .push(Standing::Watch { file: handle.file() }, WATCH | key.to_u60());
        Ok(())
    }

    fn close(&mut self, handle: Handle, key: Option<Key>) {
        self.closing.push_back((handle, key));
    }

    fn receive(&mut self, handles: &[Handle], scratch: &mut [u8], outcomes: &mut Vec<Received>) {
        let start = outcomes.len();
        outcomes.resize(start + handles.len(), Received::WouldBlock);
        let mut chunks: SmallVec<[Option<&mut [u8]>; BATCH]> = scratch.chunks_mut(CHUNK_BYTES).map(Some).collect();
        for (ring, positions) in by_ring(handles.iter().map(|handle| handle.ring())) {
            let mut requests: SmallVec<[(u32, &mut [u8]); BATCH]> = positions
                .iter()
                .filter_map(|&position| Some((handles[position].file(), chunks.get_mut(position)?.take()?)))
                .collect();
            let completions = self.rings[ring].ring.receive(&mut requests);
            for (position, completion) in positions.iter().zip(completions) {
                outcomes[start + position] = received(*completion, CHUNK_BYTES);
            }
        }
    }

    fn send(&mut self, batch: &mut [Sending]) {
        for (ring, positions) in by_ring(batch.iter().map(|sending| sending.handle.ring())) {
            let requests: SmallVec<[_; BATCH]> = positions
                .iter()
                .map(|&at| (batch[at].handle.file(), batch[at].pieces.as_slice()))
                .collect();
            let completions = self.rings[ring].ring.send(&requests);
            let results: SmallVec<[i32; BATCH]> = completions.iter().map(|completion| completion.result).collect();
            drop(requests);
            for (position, result) in positions.into_iter().zip(results) {
                batch[position].result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
            }
        }
    }

    fn depart(&mut self, handle: Handle, key: Key, to: ShardId, ticket: u32) {
        self.table(handle).ring.push(
            Standing::Cancel {
                user_data: WATCH | key.to_u60(),
            },
            IGNORED,
        );
        self.moving += 1;
        if self.moves.len() <= ticket as usize {
            self.moves.resize(ticket as usize + 1, None);
        }
        self.moves[ticket as usize] = Some(Move {
            handle,
            to,
            ring: 0,
            failed_us: None,
        });
        self.send_to(ticket);
    }

    fn arrive(&mut self, transit: Transit) -> Handle {
        match transit {
            Transit::Installed(handle) => {
                self.table(handle).used += 1;
                handle
            }
            Transit::Descriptor(_) => unreachable!("all shards of a process use the same layer"),
        }
    }

    fn stop_listening(&mut self) {
        if let Some(index) = self.accepting {
            self.rings[index]
                .ring
                .push(Standing::Cancel { user_data: ACCEPT }, IGNORED);
        }
        self.listener = None;
        self.accept_again_us = None;
    }

    fn nap(&mut self, wait_us: u64) -> Nap {
        // One system call instead of three, but it waits for one ring only.
        let [table] = self.rings.as_mut_slice() else {
            return Nap::Impossible;
        };
        if !self.bell_watched {
            self.bell_watched = true;
            let descriptor = self.mesh.bell(self.shard).as_raw_fd();
            table.ring.push(Standing::WatchOnce { descriptor }, BELL);
        }
        Nap::ended(table.ring.wait(wait_us))
    }

    fn before_sleep(&mut self) {
        sys::quiet_bell(self.mesh.bell(self.shard));
        for table in &mut self.rings {
            table.ring.use_bell(true);
        }
        // The kernel reports work and then looks whether the bell is wanted; we want it and then look for work.
        fence(Ordering::SeqCst);
    }

    fn after_sleep(&mut self) {
        for table in &mut self.rings {
            table.ring.use_bell(false);
        }
    }

    fn pending(&mut self) -> bool {
        !self.newcomers.is_empty()
            || !self.closing.is_empty()
            || self.rings.iter_mut().any(|table| table.ring.has_news())
    }

    fn retry_at_us(&self) -> Option<u64> {
        let stuck = (!self.stuck.is_empty()).then_some(self.stuck_until_us);
        self.accept_again_us.into_iter().chain(stuck).min()
    }

    fn wake_source(&self) -> BorrowedFd<'_> {
        self.mesh.bell(self.shard)
    }

    fn wake_in(&mut self, delay_us: u64) {
        // Fails only for an invalid descriptor or time, and both are ours.
        let _ = sys::set_timer(self.timer.as_fd(), delay_us);
    }

    fn in_transit(&self) -> usize {
        self.moving + self.closing.len()
    }

    fn accept_backoffs(&self) -> u64 {
        self.accept_backoffs
    }

    fn finish(&mut self) {
        self.close_some(usize::MAX);
        let mut dropped = Vec::new();
        for table in &mut self.rings {
            // Once to submit the closes, and again for the deferred work that ends the polls and frees the sockets.
            while table.ring.has_news() {
                table.ring.turn(&mut dropped);
                dropped.clear();
            }
        }
    }
}
