//! Mail between the shards, and from other threads to a shard.
//!
//! Each shard has one [`Mailbox`]. A doorbell (eventfd) is rung only when the shard sleeps, and only by the sender that
//! finds it asleep.
//!
//! Invariants: letters from one sender arrive in the order sent, moves included; a letter appended before a shard falls
//! asleep is seen before it sleeps. Mailboxes are counted, not bounded ([`ShardStats::mailbox_depth`]): what may pile up in
//! them is limited by the handlers' own budgets, because a bounded mesh in which shards write to each other can deadlock.

use super::mailbox::Mailbox;
use super::sockets::Transit;
use super::stats::ShardStats;
use super::sys;
use crate::handler::Outgoing;
use crate::ids::ShardId;
use crate::limits::MAILBOX_LETTERS_MAX;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What lies in a mailbox.
#[derive(Debug)]
pub(super) enum Letter<M, S> {
    Mail { from: ShardId, mail: M },
    Parcel(Box<Parcel<S>>),
}

/// A session with its socket.
#[derive(Debug)]
pub(super) struct Parcel<S> {
    /// `None` when the socket could not be handed over: the session arrives to be ended properly.
    pub transit: Option<Transit>,
    pub session: S,
    /// What the former shard's handler had given out and the kernel not yet taken.
    pub unsent: Outgoing,
}

/// Everything the shards share.
pub(super) struct Mesh<M, S> {
    stations: Vec<Station<M, S>>,
    stats: Arc<[ShardStats]>,
    stopping: AtomicBool,
}

/// What others reach a shard by.
struct Station<M, S> {
    mailbox: Mailbox<Letter<M, S>>,
    bell: OwnedFd,
    /// Where sockets for this shard go in the direct layer: number and descriptor of the ring now filling, plus one.
    receiving_ring: AtomicU64,
    /// Whether the shard has nothing left to do since the stop was asked for.
    drained: AtomicBool,
}

impl<M, S> Mesh<M, S> {
    pub fn new(shards: u16) -> io::Result<Self> {
        let station = |_| {
            Ok(Station {
                mailbox: Mailbox::new(),
                bell: sys::eventfd()?,
                receiving_ring: AtomicU64::new(0),
                drained: AtomicBool::new(false),
            })
        };
        let stations = (0..shards).map(station).collect::<io::Result<Vec<_>>>()?;
        let stats = (0..shards).map(|_| ShardStats::default()).collect();
        Ok(Self {
            stations,
            stats,
            stopping: AtomicBool::new(false),
        })
    }

    pub fn shards(&self) -> u16 {
        self.stations.len() as u16
    }

    pub fn stats(&self) -> &Arc<[ShardStats]> {
        &self.stats
    }

    /// Whether some mailbox is so full that nothing more may be read from sockets until it has drained: whatever is read may
    /// become mail.
    pub fn is_crowded(&self) -> bool {
        let crowded = |stats: &ShardStats| stats.mailbox_depth.load(Ordering::Relaxed) > MAILBOX_LETTERS_MAX;
        self.stats.iter().any(crowded)
    }

    pub fn bell(&self, shard: ShardId) -> BorrowedFd<'_> {
        self.stations[shard.index()].bell.as_fd()
    }

    /// Appends a batch, in order, and wakes the shard if it sleeps. `letters` is empty afterwards.
    pub fn post(&self, to: ShardId, letters: impl ExactSizeIterator<Item = Letter<M, S>>) {
        let station = &self.stations[to.index()];
        if station.mailbox.post(self.depth(to), letters) {
            sys::ring_bell(station.bell.as_fd());
        }
    }

    /// Moves everything from the shard's mailbox to `letters`, which must be empty.
    pub fn collect(&self, shard: ShardId, letters: &mut VecDeque<Letter<M, S>>) {
        let mailbox = &self.stations[shard.index()].mailbox;
        mailbox.collect(self.depth(shard), letters);
    }

    /// Declares the shard asleep. `false` when there is mail after all: the shard must not sleep then.
    pub fn fall_asleep(&self, shard: ShardId) -> bool {
        self.stations[shard.index()].mailbox.fall_asleep(self.depth(shard))
    }

    /// Declares the shard awake, so that nobody rings in vain.
    pub fn wake_up(&self, shard: ShardId) {
        self.stations[shard.index()].mailbox.wake_up();
    }

    fn depth(&self, shard: ShardId) -> &AtomicU64 {
        &self.stats[shard.index()].mailbox_depth
    }

    /// Asks all shards to stop. Async-signal-safe.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.ring_all();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Says whether this shard is done; the last one to be done wakes the others. Returns whether all are.
    pub fn report_drained(&self, shard: ShardId, drained: bool) -> bool {
        let before = self.stations[shard.index()].drained.swap(drained, Ordering::SeqCst);
        let all = drained
            && self
                .stations
                .iter()
                .all(|station| station.drained.load(Ordering::SeqCst));
        if all && !before {
            self.ring_all();
        }
        all
    }

    fn ring_all(&self) {
        for station in &self.stations {
            sys::ring_bell(station.bell.as_fd());
        }
    }
}

/// The part of the mesh that the direct layer needs; it knows nothing of mail.
pub(super) trait ReceivingRings: Send + Sync {
    /// Publishes the ring that takes sockets for `shard`.
    fn publish(&self, shard: ShardId, ring: u16, descriptor: i32);
    /// Number and descriptor of that ring.
    fn receiving_ring(&self, shard: ShardId) -> Option<(u16, i32)>;
    /// The shard's doorbell.
    fn bell(&self, shard: ShardId) -> BorrowedFd<'_>;
}

impl<M: Send, S: Send> ReceivingRings for Mesh<M, S> {
    fn publish(&self, shard: ShardId, ring: u16, descriptor: i32) {
        let packed = (u64::from(ring) << 32 | u64::from(descriptor as u32)) + 1;
        self.stations[shard.index()]
            .receiving_ring
            .store(packed, Ordering::Release);
    }

    fn bell(&self, shard: ShardId) -> BorrowedFd<'_> {
        Mesh::bell(self, shard)
    }

    fn receiving_ring(&self, shard: ShardId) -> Option<(u16, i32)> {
        let packed = self.stations[shard.index()]
            .receiving_ring
            .load(Ordering::Acquire)
            .checked_sub(1)?;
        Some(((packed >> 32) as u16, packed as u32 as i32))
    }
}

/// Posts mail to shards from threads that are none. Cheap to clone.
pub struct Mailer<M> {
    office: Arc<dyn PostOffice<M>>,
}

impl<M> Clone for Mailer<M> {
    fn clone(&self) -> Self {
        Self {
            office: Arc::clone(&self.office),
        }
    }
}

impl<M> std::fmt::Debug for Mailer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailer")
    }
}

impl<M: Send + 'static> Mailer<M> {
    pub(super) fn new<S: Send + 'static>(mesh: Arc<Mesh<M, S>>) -> Self {
        Self { office: mesh }
    }

    /// Delivers `mail` to the handler of shard `to`, from [`ShardId::EXTERNAL`]. Order per sending thread is kept.
    /// After the shards have ended it goes nowhere. Panics when there is no such shard.
    pub fn send(&self, to: ShardId, mail: M) {
        self.office.deliver(to, mail);
    }
}

trait PostOffice<M>: Send + Sync {
    fn deliver(&self, to: ShardId, mail: M);
}

impl<M: Send, S: Send> PostOffice<M> for Mesh<M, S> {
    fn deliver(&self, to: ShardId, mail: M) {
        self.post(
            to,
            std::iter::once(Letter::Mail {
                from: ShardId::EXTERNAL,
                mail,
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(from: u16, mail: u32) -> Letter<u32, ()> {
        Letter::Mail {
            from: ShardId(from),
            mail,
        }
    }

    fn rung(mesh: &Mesh<u32, ()>, shard: ShardId) -> bool {
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&mesh.bell(shard)),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one complete pollfd that lives across the call.
        let ready = unsafe { libc::poll(&mut poll, 1, 0) };
        sys::quiet_bell(mesh.bell(shard));
        ready == 1
    }

    #[test]
    fn the_bell_rings_once_and_only_for_a_sleeper() {
        let mesh: Mesh<u32, ()> = Mesh::new(2).unwrap();
        let shard = ShardId(1);
        mesh.post(shard, vec![mail(0, 1)].into_iter());
        assert!(!rung(&mesh, shard), "an awake shard was rung");
        assert!(!mesh.fall_asleep(shard), "it fell asleep over a letter");
        let mut letters = VecDeque::new();
        mesh.collect(shard, &mut letters);
        letters.clear();
        assert!(mesh.fall_asleep(shard));
        mesh.post(shard, vec![mail(0, 2)].into_iter());
        assert!(rung(&mesh, shard));
        mesh.post(shard, vec![mail(0, 3), mail(0, 4)].into_iter());
        assert!(!rung(&mesh, shard), "rung twice for one sleep");
        mesh.collect(shard, &mut letters);
        let order: Vec<_> = letters
            .iter()
            .map(|letter| matches!(letter, Letter::Mail { mail, .. } if *mail > 1))
            .collect();
        assert_eq!(order, [true, true, true]);
        assert_eq!(mesh.stats()[1].mailbox_depth.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_receiving_ring_is_published_with_number_and_descriptor() {
        let mesh: Mesh<u32, ()> = Mesh::new(1).unwrap();
        assert_eq!(mesh.receiving_ring(ShardId(0)), None);
        mesh.publish(ShardId(0), 0, 0);
        assert_eq!(mesh.receiving_ring(ShardId(0)), Some((0, 0)));
        mesh.publish(ShardId(0), 53, 1234);
        assert_eq!(mesh.receiving_ring(ShardId(0)), Some((53, 1234)));
    }
}
