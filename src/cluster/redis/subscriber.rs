//! The thread that receives.
//!
//! It keeps the list of joined documents, subscribes and unsubscribes in batches, and hands what arrives to the shards,
//! all of one read in one delivery per shard.

use super::connection::Connection;
use super::health::Role;
use super::server_presence::Peers;
use super::{BusSettings, Crowded, Shared, interrupt, resp};
use crate::cluster::{BusDeliver, BusEvent, BusRequest};
use crate::ids::ShardId;
use bytes::Bytes;
use crossbeam_channel::Receiver;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Channels in one command.
const CHANNELS_PER_COMMAND: usize = 512;
/// Subscriptions that may wait for their confirmation: Redis keeps confirmations for us, and closes connections for which
/// it keeps too much.
const UNCONFIRMED_MAX: usize = 8192;
/// How long to wait while the shards have too much to do.
const CROWDED_PAUSE: Duration = Duration::from_millis(1);

/// A joined document.
struct Entry {
    shard: ShardId,
    phase: Phase,
    /// Number of the last subscription to it that was sent, modulo 2^32.
    number: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its subscription has not been sent.
    Waiting,
    /// It has not been confirmed.
    Sent,
    Joined,
}

const _: () = assert!(
    size_of::<(Arc<str>, Entry)>() <= 24,
    "there is one for every loaded document"
);

/// What has to be told Redis, in this order.
enum Wish {
    Subscribe(Arc<str>),
    Unsubscribe(Arc<str>),
}

pub(super) struct Subscriber {
    settings: BusSettings,
    shared: Arc<Shared>,
    queue: Receiver<BusRequest>,
    deliver: BusDeliver,
    crowded: Crowded,
    connection: Connection,
    /// `<prefix>v1:doc:`.
    document_prefix: Vec<u8>,
    /// What the envelopes of this node begin with.
    own_prefix: Vec<u8>,
    documents: HashMap<Arc<str>, Entry>,
    joining: u64,
    wishes: VecDeque<Wish>,
    /// Subscriptions to documents sent and confirmed over this connection, modulo 2^32.
    sent: u32,
    confirmed: u32,
    /// Channels that are no document's and not confirmed yet.
    fixed_missing: usize,
    peers: Peers,
    /// What arrived, by shard.
    mail: Vec<Vec<BusEvent>>,
}

impl Subscriber {
    pub fn new(
        settings: BusSettings,
        shared: Arc<Shared>,
        queue: Receiver<BusRequest>,
        poll: mio::Poll,
        deliver: BusDeliver,
        crowded: Crowded,
    ) -> Subscriber {
        Subscriber {
            connection: Connection::new(settings.clone(), shared.clone(), poll, "subscriber"),
            document_prefix: format!("{}v1:doc:", settings.prefix).into_bytes(),
            own_prefix: format!("{{\"v\":1,\"node\":\"{}\",", settings.node).into_bytes(),
            mail: (0..settings.shards).map(|_| Vec::new()).collect(),
            settings,
            shared,
            queue,
            deliver,
            crowded,
            documents: HashMap::new(),
            joining: 0,
            wishes: VecDeque::new(),
            sent: 0,
            confirmed: 0,
            fixed_missing: 0,
            peers: Peers::default(),
        }
    }

    pub fn run(mut self) {
        while !self.shared.is_stopping() {
            let now = Instant::now();
            if self.connection.connect(now, false) {
                self.begin(now);
            }
            self.requests();
            let crowded = (self.crowded)();
            if let Err(error) = self.turn(now, crowded) {
                self.lose(&error);
            }
            self.gauges(now);
            let (queue, may_ask) = (&self.queue, !self.wishes.is_empty() && self.may_ask());
            let longest = crowded.then_some(CROWDED_PAUSE);
            self.connection
                .sleep(&self.shared.subscriber_bell, longest, || !may_ask && queue.is_empty());
        }
    }

    /// The first thing over a new connection: the channels that are no document's.
    fn begin(&mut self, now: Instant) {
        (self.sent, self.confirmed, self.fixed_missing) = (0, 0, FIXED.len());
        let prefix = self.settings.prefix.as_bytes();
        resp::begin(&mut self.connection.out, FIXED.len() + 1);
        resp::argument(&mut self.connection.out, &[b"SUBSCRIBE"]);
        for name in FIXED {
            resp::argument(&mut self.connection.out, &[prefix, name]);
        }
        self.connection.asked(FIXED.len(), now);
    }

    /// The other channels are there: from now on the bus works, and every document is joined again.
    fn works(&mut self) {
        self.shared.health.works(Role::Subscriber);
        self.shared.announce_now();
        interrupt(&self.deliver, self.settings.shards);
        self.wishes.clear();
        for (document, entry) in &mut self.documents {
            entry.phase = Phase::Waiting;
            self.wishes.push_back(Wish::Subscribe(document.clone()));
        }
        self.joining = self.documents.len() as u64;
    }

    fn turn(&mut self, now: Instant, crowded: bool) -> io::Result<()> {
        if !self.connection.is_connected() {
            return Ok(());
        }
        self.ask(now);
        self.connection.send()?;
        if crowded {
            self.connection.excuse(now);
        } else if self.connection.receive(now)? {
            let outcome = self.replies(now);
            self.hand_out();
            outcome?;
        }
        self.connection.look_after(now)
    }

    /// Takes what shards want.
    fn requests(&mut self) {
        // Bounded, so that what arrives has its turn.
        for request in self.queue.try_iter().take(UNCONFIRMED_MAX) {
            let online = self.connection.is_connected() && self.fixed_missing == 0;
            match request {
                BusRequest::Join { shard, document } => {
                    let entry = Entry {
                        shard,
                        phase: Phase::Waiting,
                        number: 0,
                    };
                    let before = self.documents.insert(document.clone(), entry);
                    if before.is_none_or(|before| before.phase == Phase::Joined) {
                        self.joining += 1;
                    }
                    if online {
                        self.wishes.push_back(Wish::Subscribe(document));
                    }
                }
                BusRequest::Leave { document } => {
                    let Some(before) = self.documents.remove(&document) else {
                        continue;
                    };
                    self.joining -= u64::from(before.phase != Phase::Joined);
                    if online {
                        self.wishes.push_back(Wish::Unsubscribe(document));
                    }
                }
                BusRequest::Publish { .. } | BusRequest::Ask { .. } | BusRequest::Announce { .. } => {}
            }
        }
    }

    fn may_ask(&self) -> bool {
        self.connection.is_connected()
            && self.fixed_missing == 0
            && self.connection.has_room()
            && self.connection.unanswered < UNCONFIRMED_MAX
    }

    /// Makes commands of wishes: runs of the same kind become one.
    fn ask(&mut self, now: Instant) {
        let mut names: Vec<Arc<str>> = Vec::new();
        while self.may_ask() && !self.wishes.is_empty() {
            let subscribe = matches!(self.wishes.front(), Some(Wish::Subscribe(_)));
            while names.len() < CHANNELS_PER_COMMAND {
                match self.wishes.front() {
                    Some(Wish::Subscribe(_)) if subscribe => {}
                    Some(Wish::Unsubscribe(_)) if !subscribe => {}
                    _ => break,
                }
                let Some(Wish::Subscribe(name) | Wish::Unsubscribe(name)) = self.wishes.pop_front() else {
                    break;
                };
                if !subscribe {
                    names.push(name);
                } else if let Some(entry) = self.documents.get_mut(&name) {
                    // Left documents are not subscribed to; one that was joined again has a later wish, which counts.
                    self.sent = self.sent.wrapping_add(1);
                    (entry.phase, entry.number) = (Phase::Sent, self.sent);
                    names.push(name);
                }
            }
            if names.is_empty() {
                continue;
            }
            let out = &mut self.connection.out;
            resp::begin(out, names.len() + 1);
            resp::argument(out, &[if subscribe { b"SUBSCRIBE" } else { b"UNSUBSCRIBE" }]);
            for name in &names {
                resp::argument(out, &[&self.document_prefix, name.as_bytes()]);
            }
            self.connection.asked(names.len(), now);
            names.clear();
        }
        if self.wishes.is_empty() && self.wishes.capacity() > UNCONFIRMED_MAX {
            self.wishes = VecDeque::new();
        }
    }

    /// Handles every complete reply.
    fn replies(&mut self, now: Instant) -> io::Result<()> {
        let (mut envelopes, mut bytes) = (0, 0);
        let outcome = loop {
            match self.connection.next_reply() {
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
                Ok(Some(resp::Reply::Message { channel, payload })) => {
                    if payload.starts_with(&self.own_prefix) {
                        continue;
                    }
                    if let Some(name) = channel.strip_prefix(self.document_prefix.as_slice()) {
                        let known = std::str::from_utf8(name)
                            .ok()
                            .and_then(|name| self.documents.get_key_value(name));
                        // It may have been left a moment ago.
                        let Some((document, entry)) = known else { continue };
                        self.mail[entry.shard.index()].push(BusEvent::Received {
                            document: document.clone(),
                            envelope: Bytes::copy_from_slice(payload),
                        });
                    } else if channel.ends_with(NODES) {
                        let envelope = Bytes::copy_from_slice(payload);
                        for mail in &mut self.mail {
                            mail.push(BusEvent::Announced {
                                envelope: envelope.clone(),
                            });
                        }
                    } else if channel.ends_with(PRESENCE) {
                        if self.peers.heard(payload, &self.settings.node, now) {
                            self.shared.announce_now();
                        }
                        continue;
                    } else {
                        // `broadcast`: events of other servers, none of which concerns us.
                        continue;
                    }
                    envelopes += 1;
                    bytes += payload.len() as u64;
                }
                Ok(Some(resp::Reply::Subscribed { channel })) => {
                    let name = channel.strip_prefix(self.document_prefix.as_slice());
                    let document = name.map(|name| {
                        let name = std::str::from_utf8(name).ok()?;
                        self.documents.get_key_value(name).map(|(document, _)| document.clone())
                    });
                    self.confirm(document);
                }
                Ok(Some(resp::Reply::Unsubscribed)) => {
                    self.connection.unanswered = self.connection.unanswered.saturating_sub(1);
                }
                Ok(Some(resp::Reply::Error(text))) => {
                    let text = String::from_utf8_lossy(text).into_owned();
                    break Err(io::Error::other(format!("Redis refuses subscriptions: {text}")));
                }
                Ok(Some(resp::Reply::Integer(_) | resp::Reply::Other)) => {}
            }
        };
        let counts = &self.shared.health.counts;
        counts.received.fetch_add(envelopes, Ordering::Relaxed);
        counts.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        outcome
    }

    /// A subscription is in force: to a document, which may have been left meanwhile, or to another channel.
    fn confirm(&mut self, document: Option<Option<Arc<str>>>) {
        self.connection.unanswered = self.connection.unanswered.saturating_sub(1);
        let Some(document) = document else {
            self.fixed_missing = self.fixed_missing.saturating_sub(1);
            if self.fixed_missing == 0 {
                self.works();
            }
            return;
        };
        self.confirmed = self.confirmed.wrapping_add(1);
        let Some(document) = document else { return };
        let Some(entry) = self.documents.get_mut(&document) else {
            return;
        };
        if entry.phase == Phase::Sent && entry.number == self.confirmed {
            entry.phase = Phase::Joined;
            self.joining -= 1;
            self.mail[entry.shard.index()].push(BusEvent::Joined { document });
        }
    }

    fn hand_out(&mut self) {
        for (shard, mail) in self.mail.iter_mut().enumerate().filter(|(_, mail)| !mail.is_empty()) {
            (self.deliver)(ShardId(shard as u16), std::mem::take(mail));
        }
    }

    fn lose(&mut self, error: &io::Error) {
        self.shared.health.lost(Role::Subscriber, &error.to_string());
        self.connection.lose();
        // When the next connection works, all documents are wished for again.
        self.wishes = VecDeque::new();
        self.documents
            .values_mut()
            .for_each(|entry| entry.phase = Phase::Waiting);
        self.joining = self.documents.len() as u64;
    }

    fn gauges(&mut self, now: Instant) {
        let counts = &self.shared.health.counts;
        counts.documents.store(self.documents.len() as u64, Ordering::Relaxed);
        counts.joining.store(self.joining, Ordering::Relaxed);
        counts.peers.store(self.peers.count(now) as u64, Ordering::Relaxed);
    }
}

/// Channels that are no document's, after the prefix.
const FIXED: [&[u8]; 3] = [NODES, PRESENCE, b"broadcast"];
const NODES: &[u8] = b"v1:nodes";
const PRESENCE: &[u8] = b"presence";
