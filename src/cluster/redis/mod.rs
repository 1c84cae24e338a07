//! The bus over Redis pub/sub: one thread that publishes, one that receives, each with a connection of its own.
//!
//! Channels: `<prefix>v1:doc:<id>` for what concerns a document, `<prefix>v1:nodes` for what concerns every node,
//! `<prefix>presence` and `<prefix>broadcast` as other servers of the family use them (docs/protocol.md §19).
//!
//! Both threads are event loops over a non-blocking socket: a lone envelope leaves at once, and what queued up meanwhile
//! leaves in one write. Redis answers in order, so a counter tells which command an answer belongs to.
//!
//! Invariants:
//! - A shard never waits: [`BusSubmit`](crate::cluster::BusSubmit) appends to a bounded queue or gives the request back.
//! - Nothing is lost silently. What was taken and may not have arrived (connection lost, command refused) is followed by
//!   [`BusEvent::Interrupted`] for every shard, as soon as connections work again.
//! - [`BusEvent::Joined`] is said only when Redis confirmed a subscription that was sent after the last `Leave`.
//! - Redis may be away at the start and at any time. Threads connect again by themselves, with growing, random pauses.
//! - What arrives is read only while shards keep up. A Redis that loses patience with us cuts the connection, and that is
//!   an interruption like any other.
//!
//! Memory: a joined document costs one entry of 24 bytes in a hash table (27 to 57 bytes with the table's room); its name
//! is shared with the shard.

mod address;
mod bell;
mod connection;
mod health;
mod probe;
mod publisher;
mod resp;
mod server_presence;
mod subscriber;
mod wire;

pub use address::{RedisAddress, RedisUrlError};
pub use health::Health;

use super::{BusDeliver, BusEvent, BusLink, BusRequest};
use crate::ids::ShardId;
use bell::Bell;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use publisher::Publisher;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use subscriber::Subscriber;

/// Longest envelope the bus takes, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = 8 << 20;

/// Envelopes that may wait to be sent, and their bytes.
const ENVELOPES_WAITING_MAX: usize = 65_536;
const BYTES_WAITING_MAX: usize = 64 << 20;
/// Requests to join or leave that may wait.
const JOINS_WAITING_MAX: usize = 65_536;

/// What the bus must know to run.
#[derive(Clone)]
pub struct BusSettings {
    /// Where Redis is.
    pub address: Arc<RedisAddress>,
    /// What the names of all channels begin with.
    pub prefix: Arc<str>,
    /// This node.
    pub node: Arc<str>,
    /// Shards that get events.
    pub shards: u16,
}

/// Whether the shards have so much to do that nothing more should arrive.
pub type Crowded = Arc<dyn Fn() -> bool + Send + Sync>;

/// The bus before its threads run.
pub struct RedisBus {
    settings: BusSettings,
    shared: Arc<Shared>,
    envelopes: Receiver<BusRequest>,
    joins: Receiver<BusRequest>,
    publisher: mio::Poll,
    subscriber: mio::Poll,
}

/// What shards and both threads share.
struct Shared {
    envelopes: Sender<BusRequest>,
    joins: Sender<BusRequest>,
    publisher_bell: Bell,
    subscriber_bell: Bell,
    queue_bytes: AtomicUsize,
    stopping: AtomicBool,
    /// The node should say that it is there, because it listens now or because somebody new does.
    announce: AtomicBool,
    health: Health,
}

/// The bus at work.
pub struct Running {
    shared: Arc<Shared>,
    publisher: JoinHandle<()>,
}

impl RedisBus {
    /// Makes the queues.
    pub fn new(settings: BusSettings) -> io::Result<RedisBus> {
        let (envelopes, envelopes_out) = bounded(ENVELOPES_WAITING_MAX);
        let (joins, joins_out) = bounded(JOINS_WAITING_MAX);
        let (publisher, subscriber) = (mio::Poll::new()?, mio::Poll::new()?);
        let shared = Shared {
            envelopes,
            joins,
            publisher_bell: Bell::new(&publisher)?,
            subscriber_bell: Bell::new(&subscriber)?,
            queue_bytes: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            announce: AtomicBool::new(false),
            health: Health::new(settings.address.place()),
        };
        Ok(RedisBus {
            settings,
            shared: Arc::new(shared),
            envelopes: envelopes_out,
            joins: joins_out,
            publisher,
            subscriber,
        })
    }

    /// What shards need of it.
    pub fn link(&self, epoch: u64) -> BusLink {
        let shared = || Arc::clone(&self.shared);
        let (submitting, asked, connected) = (shared(), shared(), shared());
        BusLink {
            node: self.settings.node.clone(),
            epoch,
            submit: Box::new(move |request| submitting.submit(request)),
            health: Box::new(move || {
                let (envelopes, bytes) = (&asked.envelopes, &asked.queue_bytes);
                asked
                    .health
                    .report(envelopes.len() as u64, bytes.load(Ordering::Relaxed) as u64)
            }),
            is_connected: Box::new(move || connected.health.is_connected()),
        }
    }

    /// Starts the threads.
    pub fn start(self, deliver: BusDeliver, crowded: Crowded) -> io::Result<Running> {
        let (settings, shared) = (self.settings, self.shared);
        let publisher = Publisher::new(
            settings.clone(),
            shared.clone(),
            self.envelopes,
            self.publisher,
            deliver.clone(),
        );
        let subscriber = Subscriber::new(settings, shared.clone(), self.joins, self.subscriber, deliver, crowded);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("bus-subscriber").spawn(move || subscriber.run())?;
        Ok(Running {
            shared,
            publisher: thread("bus-publisher").spawn(move || publisher.run())?,
        })
    }
}

impl Running {
    /// Sends what was taken, says farewell to the other nodes and ends, at most until `deadline`. Returns whether everything
    /// taken was sent.
    pub fn finish(self, deadline: Instant) -> bool {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.publisher_bell.ring_always();
        self.shared.subscriber_bell.ring_always();
        while !self.publisher.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The subscriber has nothing left to do; a thread in the middle of connecting ends with the process.
        self.publisher.is_finished() && self.shared.envelopes.is_empty()
    }
}

impl Shared {
    fn submit(&self, request: BusRequest) -> Result<(), BusRequest> {
        let bytes = match &request {
            BusRequest::Join { .. } | BusRequest::Leave { .. } => {
                self.joins.try_send(request).map_err(TrySendError::into_inner)?;
                self.subscriber_bell.ring();
                return Ok(());
            }
            BusRequest::Publish { envelope, .. }
            | BusRequest::Ask { envelope, .. }
            | BusRequest::Announce { envelope } => envelope.len(),
        };
        let waiting = self.queue_bytes.load(Ordering::Relaxed);
        if bytes > ENVELOPE_BYTES_MAX || waiting > BYTES_WAITING_MAX || !self.health.can_publish() {
            self.health.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(request);
        }
        self.queue_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(full) = self.envelopes.try_send(request) {
            self.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.health.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(full.into_inner());
        }
        self.publisher_bell.ring();
        Ok(())
    }

    fn announce_now(&self) {
        self.announce.store(true, Ordering::SeqCst);
        self.publisher_bell.ring_always();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// Tells every shard that something may be missing.
fn interrupt(deliver: &BusDeliver, shards: u16) {
    (0..shards).for_each(|shard| deliver(ShardId(shard), vec![BusEvent::Interrupted]));
}
