//! A shard: the state machine that runs on one core (docs/life-of-a-message.md).
//!
//! It owns the documents whose hash falls to it (the `home` side) and the sessions whose sockets live on its core (all
//! other modules). The two sides talk by [`mail`] only, also when both are this shard; see there for why order holds.
//!
//! Invariants:
//! - A session is in an audience exactly when the document's home counts it as a listener, or mail between the two is on
//!   its way.
//! - A session that is gone is never written to: every letter names sessions by [`SessionRef`], which is never reused.
//! - Nothing here blocks, reads a clock, or allocates in proportion to what a peer merely announces.

pub mod answers;
mod audiences;
mod authentication;
mod bus_metrics;
mod by_document;
mod census;
mod cluster;
mod connection;
pub mod context;
mod dashboard;
mod deadlines;
mod deflated;
mod fanout;
mod home;
mod home_cluster;
mod home_exchange;
mod home_joining;
mod home_loading;
mod home_presence;
mod home_publishing;
mod home_rereading;
mod home_storing;
mod home_writes;
mod http;
mod inbound;
mod lagging;
mod library;
mod long_messages;
mod long_writes;
pub mod mail;
mod metrics;
mod node_metrics;
mod noted_sessions;
mod replies;
mod requests;
mod sending;
mod sessions;
mod slab;
mod snapshots;
mod stored_snapshots;
mod storehouse;
mod superseded;
mod text_merging;
mod upkeep;
mod users;
mod writes;

pub use census::Census;
pub use context::Context;
pub use metrics::Metrics;
pub use storehouse::{StorageFacts, StorageLink};

use crate::clock::Now;
use crate::handler::{Effect, End, Flow, Handler, Outgoing};
use crate::ids::{SessionRef, ShardId, Slot};
use crate::limits::{OUTBOX_SHARD_BYTES_MAX, OUTBOX_SHARE_BYTES};
use crate::protocol::Encoder;
use crate::session::spares::Spares;
use crate::session::{Flags, Stage};
use crate::websocket::Inflater;
use audiences::Audiences;
use cluster::Cluster;
use deadlines::{Deadlines, Due};
use hashbrown::HashMap;
use library::Library;
use mail::{Mail, MovedSession};
use sessions::Sessions;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use storehouse::Storehouse;
use users::Users;

/// Room for slots to write that a shard keeps from turn to turn.
const WRITABLE_KEPT: usize = 16 * 1024;

/// What a shard asks of its runtime.
pub type ShardEffect = Effect<Mail, Box<MovedSession>>;

/// See the module documentation.
pub struct Shard {
    id: ShardId,
    context: Arc<Context>,
    now: Now,
    sessions: Sessions,
    audiences: Audiences,
    library: Library,
    /// Only with a database or among several nodes.
    storehouse: Option<Box<Storehouse>>,
    /// Only among several nodes.
    cluster: Option<Box<Cluster>>,
    deadlines: Deadlines,
    /// Mail to this shard itself.
    local: VecDeque<Mail>,
    effects: Vec<ShardEffect>,
    /// Slots whose requests have been answered, to be read again.
    resumable: Vec<Slot>,
    /// Connections with a message that takes several turns, each once.
    long: VecDeque<SessionRef>,
    /// Writes to documents here that take several turns, the first of them under way.
    long_writes: VecDeque<long_writes::LongWrite>,
    /// Writes whose next element is a large text state; the first is being merged elsewhere.
    text_writes: VecDeque<long_writes::LongWrite>,
    /// How often the first of them has been merged in vain.
    merge_tries: u8,
    /// Slots that got something to send since the last turn.
    writable: Vec<Slot>,
    /// Sessions that more was to be sent to than may wait; closed at the end of the turn.
    slow: Vec<SessionRef>,
    encoder: Encoder,
    /// Large parts of messages as they were compressed in this turn, for all their receivers.
    deflated: deflated::Parts,
    /// From the first compressed connection on.
    inflater: Option<Box<Inflater>>,
    /// Emptied outboxes, kept for the next connections that need one.
    spares: Spares,
    /// [`Due::Spares`] is scheduled.
    spares_watched: bool,
    /// Bytes that outboxes own, see [`crate::limits::OUTBOX_SHARD_BYTES_MAX`].
    outbox_bytes: usize,
    /// Numbers the messages made here.
    serial: u64,
    /// Numbers the fan-outs, see [`crate::session::Session::skip`].
    fanouts: u32,
    /// Numbers split writes and questions.
    tickets: u64,
    questions: HashMap<u64, http::PendingQuestion>,
    /// Local sessions by the client id they write as.
    clients: HashMap<Box<str>, SmallVec<[SessionRef; 1]>>,
    users: Users,
    /// WebSocket connections here.
    websockets: u64,
    sweep: upkeep::Sweep,
    metrics: Metrics,
    peer_errors: sending::PeerErrors,
    draining: bool,
    drain: upkeep::Drain,
}

impl Shard {
    /// An empty shard.
    pub fn new(id: ShardId, context: Arc<Context>) -> Shard {
        let mut deadlines = Deadlines::default();
        if context.bus.is_some() {
            deadlines.at(0, Due::Nodes);
        }
        let is_loading = context.storage.is_some() || context.bus.is_some();
        let cluster = context
            .bus
            .as_ref()
            .map(|bus| Box::new(Cluster::new(&bus.node, bus.epoch)));
        Shard {
            id,
            now: Now::default(),
            sessions: Sessions::new(id),
            audiences: Audiences::default(),
            library: Library::new(&context.config, context.storage.is_some()),
            storehouse: is_loading.then(Box::default),
            cluster,
            deadlines,
            local: VecDeque::new(),
            effects: Vec::new(),
            resumable: Vec::new(),
            long: VecDeque::new(),
            long_writes: VecDeque::new(),
            text_writes: VecDeque::new(),
            merge_tries: 0,
            writable: Vec::new(),
            slow: Vec::new(),
            encoder: Encoder::default(),
            deflated: deflated::Parts::default(),
            inflater: None,
            spares: Spares::default(),
            spares_watched: false,
            outbox_bytes: 0,
            serial: 0,
            fanouts: 0,
            tickets: 0,
            questions: HashMap::new(),
            clients: HashMap::new(),
            users: Users::default(),
            websockets: 0,
            sweep: upkeep::Sweep::default(),
            metrics: Metrics::default(),
            peer_errors: sending::PeerErrors::default(),
            draining: false,
            drain: upkeep::Drain::default(),
            context,
        }
    }

    /// The shard that owns a document: FNV-1a over the id's bytes, finished with SplitMix64's mixer, modulo the number
    /// of shards. Fixed for ever: nodes and tools may compute it.
    pub fn home_of(document: &str, shards: u16) -> ShardId {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in document.as_bytes() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ShardId(((hash ^ (hash >> 31)) % u64::from(shards)) as u16)
    }

    fn home(&self, document: &str) -> ShardId {
        Shard::home_of(document, self.context.shards)
    }

    /// Sends mail, to another shard at the end of the turn or to this one at once.
    fn post(&mut self, to: ShardId, mail: Mail) {
        if to == self.id {
            self.local.push_back(mail);
        } else {
            self.effects.push(Effect::Mail { to, mail });
        }
    }

    /// Handles this shard's mail to itself until none is left. Called after every step that may have posted some, so
    /// that messages of one connection are handled strictly one after the other.
    fn deliver_local(&mut self) {
        while let Some(mail) = self.local.pop_front() {
            self.open(mail);
        }
    }

    /// Opens a letter, now or when its document has been loaded.
    fn open(&mut self, mail: Mail) {
        if self.storehouse.is_none() {
            return self.open_now(mail);
        }
        if let Some(mail) = self.await_document(mail) {
            self.open_now(mail);
        }
    }

    fn open_now(&mut self, mail: Mail) {
        match mail {
            Mail::Subscribe(request) => self.home_subscribe(request),
            Mail::Unsubscribe(request) => self.home_unsubscribe(request),
            Mail::Write(write) => self.home_write(write),
            Mail::AwarenessSubscribe(request) => self.home_awareness_subscribe(*request),
            Mail::AwarenessUpdate(update) => self.home_awareness_update(*update),
            Mail::Left {
                document,
                session,
                clean,
            } => self.home_left(&document, session, clean),
            Mail::CatchUp {
                document,
                session,
                since,
                text,
            } => self.home_catch_up(&document, session, since, text),
            Mail::Introduce { document, session } => self.home_introduce(document, session),
            Mail::Synced(synced) => self.synced(*synced),
            Mail::Unsubscribed(request) => self.unsubscribed(&request),
            Mail::Joined { document, session } => self.joined(&document, session),
            Mail::Wrote(wrote) => self.wrote(wrote),
            Mail::AwarenessAnswered(answer) => self.awareness_answered(*answer),
            Mail::Refused(refused) => self.refused(&refused),
            Mail::Introduced {
                document,
                session,
                clock,
            } => self.introduced(&document, session, clock),
            Mail::CaughtUp(caught_up) => self.caught_up(*caught_up),
            Mail::Fields(fan_out) => self.fan_out_fields(&fan_out),
            Mail::Text(fan_out) => self.fan_out_text(&fan_out),
            Mail::Relay(fan_out) => self.fan_out_relay(&fan_out),
            Mail::Awareness(fan_out) => self.fan_out_awareness(&fan_out),
            Mail::ClientSeen(seen) => self.client_seen(&seen),
            Mail::Ask { ticket, from, question } => self.asked(ticket, from, &question),
            Mail::Answered { ticket, findings } => self.answered(ticket, *findings),
            Mail::Measure(report) => {
                // Whoever asked may have stopped waiting.
                let _ = report.try_send((self.id, Box::new(self.measured())));
            }
            Mail::TextMerged(answer) => self.text_merged(*answer),
            Mail::Storage(answers) => self.storage_answered(answers),
            Mail::Bus(events) => self.bus_events(events),
            Mail::LoggedIn { session, login } => self.logged_in(session, *login),
        }
    }

    fn run_deadline(&mut self, due: Due) {
        match due {
            Due::Authentication(session) => self.authentication_due(session),
            Due::CloseGrace(session) => self.close_grace_over(session),
            Due::Http(session) => self.http_request_due(session),
            Due::Rate(session) => self.rate_due(session),
            Due::Stall(session) => self.stall_due(session),
            Due::Token(session) => self.token_due(session),
            Due::Superseded(session) => self.superseded_due(session),
            Due::Chunks(session) => self.chunks_due(session),
            Due::Flush(place) => self.flush_due(place),
            Due::TextRelay(place) => self.text_relay_due(place),
            Due::Presence => self.presence_due(),
            Due::Housekeeping => self.housekeeping_due(),
            Due::Spares => self.spares_due(),
            Due::Drained => self.drained_due(),
            Due::Loading => self.loading_due(),
            Due::Storing => self.storing_due(),
            Due::Patience(place) => self.patience_due(place),
            Due::Unload => self.unload_due(),
            Due::Snapshots => self.snapshots_due(),
            Due::Nodes => self.nodes_due(),
            Due::Exchange(place) => self.exchange_due(place),
            Due::Peers => self.peers_due(),
        }
    }
}

impl Handler for Shard {
    type Mail = Mail;
    type Moved = Box<MovedSession>;

    fn accepted(&mut self, now: Now, peer: IpAddr) -> Option<Slot> {
        self.now = now;
        if self.draining && !self.is_accepting() {
            return None;
        }
        self.connected(peer)
    }

    fn adopted(&mut self, now: Now, moved: Box<MovedSession>) -> Option<(Slot, Flow)> {
        self.now = now;
        let adopted = self.adopt(*moved);
        self.deliver_local();
        adopted
    }

    fn received(&mut self, now: Now, slot: Slot, bytes: &mut [u8]) -> Flow {
        self.now = now;
        self.bytes_received(slot, bytes);
        self.deliver_local();
        let paused = self
            .sessions
            .at(slot)
            .is_some_and(|session| session.flags.has(Flags::PAUSED));
        if paused { Flow::Pause } else { Flow::Continue }
    }

    fn ended(&mut self, now: Now, slot: Slot, end: End) {
        self.now = now;
        let clean = self
            .sessions
            .at(slot)
            .is_some_and(|session| session.flags.has(Flags::PEER_CLOSED));
        tracing::debug!(shard = self.id.0, slot = slot.0, ?end, clean, "connection ended");
        self.forget(slot, clean);
        self.deliver_local();
    }

    fn take_outgoing(&mut self, slot: Slot, bytes_max: usize) -> Outgoing {
        let Some(session) = self.sessions.at_mut(slot) else {
            return Outgoing::new();
        };
        match session.outbox.as_mut() {
            Some(outbox) if outbox.has_waiting() => outbox.take(bytes_max),
            _ => Outgoing::new(),
        }
    }

    fn sent(&mut self, now: Now, slot: Slot, bytes: usize, _done: bool) {
        self.now = now;
        self.bytes_sent(slot, bytes);
        self.deliver_local();
    }

    fn mail(&mut self, now: Now, _from: ShardId, mail: Mail) {
        self.now = now;
        self.open(mail);
        self.deliver_local();
    }

    fn turn(&mut self, now: Now, effects: &mut Vec<ShardEffect>) {
        self.now = now;
        self.store_listed();
        while let Some(due) = self.deadlines.pop(now.mono_us) {
            self.run_deadline(due);
            self.deliver_local();
        }
        self.resume_answered();
        self.run_long();
        self.run_sweep();
        self.flush_changed();
        self.deliver_local();
        self.close_all_slow();
        self.list_writes();
        self.deliver_local();
        self.ripen_listed();
        effects.append(&mut self.effects);
        self.deflated.clear();
        self.sessions.release_freed();
    }

    fn deadline_us(&self) -> Option<u64> {
        let due = !self.effects.is_empty()
            || !self.writable.is_empty()
            || !self.resumable.is_empty()
            || !self.slow.is_empty()
            || !self.local.is_empty()
            || !self.long.is_empty()
            || !self.long_writes.is_empty();
        if due || self.library.has_changed() || self.has_ripe() {
            return Some(self.now.mono_us);
        }
        [self.deadlines.next_us(), self.sweep_due_us()]
            .into_iter()
            .flatten()
            .min()
    }

    fn shut_down(&mut self, now: Now) {
        self.now = now;
        self.drain();
        self.deliver_local();
    }

    fn is_accepting(&self) -> bool {
        self.drain.is_accepting(self.draining)
    }

    fn is_drained(&self) -> bool {
        self.draining
            && self.sessions.is_empty()
            && self.long_writes.is_empty()
            && self.text_writes.is_empty()
            && !self.has_unsaved()
    }
}

impl Shard {
    /// Tells the runtime which slots have something to send.
    fn list_writes(&mut self) {
        let mut writable = std::mem::take(&mut self.writable);
        let mut at = 0;
        while let Some(slot) = writable.get(at).copied() {
            at += 1;
            self.count_outbox(slot);
            let Some(session) = self.sessions.at_mut(slot) else {
                continue;
            };
            session.flags.clear(Flags::WRITE_LISTED);
            if session.outbox.as_ref().is_some_and(|outbox| outbox.has_waiting()) {
                self.effects.push(Effect::Write(slot));
            }
            // Closing a slow consumer writes once more.
            writable.append(&mut self.writable);
        }
        writable.clear();
        writable.shrink_to(WRITABLE_KEPT);
        self.writable = writable;
    }

    /// Brings the shard's count of outbox bytes up to date, and closes the connection if it is among those that cost
    /// more than their share when there is not enough.
    fn count_outbox(&mut self, slot: Slot) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(outbox) = session.outbox.as_mut() else { return };
        let owned = outbox.owned_bytes();
        self.outbox_bytes = self.outbox_bytes + owned - std::mem::replace(&mut outbox.counted, owned);
        if self.outbox_bytes > OUTBOX_SHARD_BYTES_MAX && owned > OUTBOX_SHARE_BYTES && session.stage == Stage::Open {
            self.close_slow(slot);
        }
    }

    /// A made-up message id.
    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn stage(&self, slot: Slot) -> Option<Stage> {
        self.sessions.at(slot).map(|session| session.stage)
    }
}
