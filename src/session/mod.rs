//! What the server keeps for one connection (docs/protocol.md §3).
//!
//! A [`Session`] is an entry in its shard's slab, not a task. At rest it owns no buffer and no timer; what it may own is
//! listed at the struct. Everything that exists only now and then (a message that is partly received, messages that
//! wait, bytes that wait to be sent) is boxed and absent at rest.

pub mod chunks;
pub mod deferred;
pub mod long;
pub mod outbox;
pub mod rate;
pub mod received;
pub mod spares;
pub mod subscriptions;

use crate::auth::Identity;
use crate::http::{Body, Framing, Head};
use crate::protocol::Style;
use crate::shard::context::AddressKey;
use crate::websocket::Partial;
use chunks::ChunkSets;
use deferred::Deferred;
use long::Long;
use outbox::Outbox;
use rate::TokenBucket;
use std::net::IpAddr;
use std::sync::Arc;
use subscriptions::Subscriptions;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// HTTP requests; the upgrade may still come.
    Http,
    /// WebSocket messages.
    Open,
    /// A close frame is queued or sent; only the peer's close frame is waited for.
    Closing,
    /// The last HTTP response is being sent; then the socket is closed.
    Lingering,
}

/// What is known about the peer's dialect and progress; one byte each would waste the slab.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags(u32);

#[allow(missing_docs, reason = "each is explained in protocol §3 or at its use")]
impl Flags {
    /// The reply encoding has been fixed by a first message.
    pub const ENCODING_KNOWN: Flags = Flags(1);
    /// The naming (`documentId` or `docId`) has been fixed.
    pub const NAMING_KNOWN: Flags = Flags(1 << 1);
    /// Whether payloads describe themselves has been fixed.
    pub const DESCRIBED_KNOWN: Flags = Flags(1 << 2);
    /// An SDK connection (protocol §3).
    pub const SDK: Flags = Flags(1 << 3);
    /// Identity is valid.
    pub const AUTHENTICATED: Flags = Flags(1 << 4);
    /// The first document decided the connection's shard.
    pub const HOMED: Flags = Flags(1 << 5);
    /// The runtime was told to read nothing.
    pub const PAUSED: Flags = Flags(1 << 6);
    /// In the shard's list of slots with something to write.
    pub const WRITE_LISTED: Flags = Flags(1 << 7);
    /// A check for a stalled socket is scheduled.
    pub const STALL_WATCHED: Flags = Flags(1 << 8);
    /// Counted against its address.
    pub const ADDRESS_COUNTED: Flags = Flags(1 << 9);
    /// Marked as left over by a reconnect; closed when its silence is long enough.
    pub const SUPERSEDED: Flags = Flags(1 << 10);
    /// The close frame of the peer was seen.
    pub const PEER_CLOSED: Flags = Flags(1 << 11);
    /// Close the socket as soon as the outbox is empty.
    pub const CLOSE_WHEN_SENT: Flags = Flags(1 << 12);
    /// Whatever the peer still sends is thrown away: it broke the protocol, and only gets time to read why.
    pub const DEAF: Flags = Flags(1 << 14);
    /// The client id is one it writes as, learnt from a stamped write or its presence; not only the name it gave in
    /// `auth` or `connect`.
    pub const WRITER: Flags = Flags(1 << 13);
    /// Over the bound of its outbox; closed at the end of the turn.
    pub const TOO_SLOW: Flags = Flags(1 << 17);

    /// A check for idle chunk sets is scheduled.
    pub const CHUNKS_WATCHED: Flags = Flags(1 << 15);
    /// Asked for a sign of life since the last one.
    pub const PINGED: Flags = Flags(1 << 19);
    /// A check whether its token has expired is scheduled.
    pub const TOKEN_WATCHED: Flags = Flags(1 << 18);
    /// A check whether it is left over by a reconnect is scheduled.
    pub const SUPERSEDED_WATCHED: Flags = Flags(1 << 16);

    /// Whether all of `other` is set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets `other`; returns whether it was set before.
    pub fn set(&mut self, other: Flags) -> bool {
        let before = self.has(other);
        self.0 |= other.0;
        before
    }

    /// Clears `other`.
    pub fn clear(&mut self, other: Flags) {
        self.0 &= !other.0;
    }
}

/// One document a session hears about.
#[derive(Clone, Copy, Debug)]
pub struct Subscription {
    /// The shard's list of local listeners of that document.
    pub audience: u32,
    /// The session's place in that list.
    pub position: u32,
    /// What it hears about.
    pub interest: Interest,
}

impl Subscription {
    /// Whether it is more than presence.
    pub fn hears_document(&self) -> bool {
        self.interest.has(Interest::DOCUMENT)
    }
}

/// What of a document a connection subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Interest(pub u8);

impl Interest {
    /// Fields, text and operations.
    pub const DOCUMENT: Interest = Interest(1);
    /// Presence, by `awareness_subscribe` or an own `awareness_update`.
    pub const AWARENESS: Interest = Interest(2);

    /// Whether all of `other` is included.
    pub fn has(self, other: Interest) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both interests.
    #[must_use]
    pub fn with(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }
}

/// The client id a connection writes as, kept with its JSON form.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientId {
    /// The id.
    pub id: Box<str>,
    /// The id as a JSON string, quotes included.
    pub key: Box<str>,
}

impl ClientId {
    /// Prepares an id for use in clocks.
    pub fn new(id: &str) -> ClientId {
        let mut key = Vec::with_capacity(id.len() + 2);
        crate::json::write_string(&mut key, id);
        let key = String::from_utf8(key).expect("a JSON string of UTF-8 text is UTF-8");
        ClientId {
            id: id.into(),
            key: key.into(),
        }
    }
}

/// One connection. At rest it owns: this entry, a shared identity, its first subscription inline (more on the heap),
/// and, once it has written, its client id.
#[derive(Debug)]
pub struct Session {
    /// How often the slot had been given out before.
    pub generation: u32,
    /// Where it is in its life.
    pub stage: Stage,
    /// Unreadable messages in a row.
    pub unreadable: u8,
    /// Failed authentications.
    pub auth_failures: u8,
    /// How messages to it are written.
    pub style: Style,
    /// See [`Flags`].
    pub flags: Flags,
    /// Subscriptions that are on their way to another shard.
    pub pending_subscriptions: u16,
    /// Requests that homes have not answered, by weight ([`crate::limits::OUTSTANDING_MAX`]).
    pub outstanding: u16,
    /// Last byte from the peer, in milliseconds of monotonic time (wraps after 49 days; only differences are used).
    pub seen_ms: u32,
    /// Last application message, likewise.
    pub message_ms: u32,
    /// Marks the flush in which this session got its own variant (see the fan-out).
    pub skip: u32,
    /// The message rate.
    pub rate: TokenBucket,
    /// Key of its address in the address table.
    pub address: AddressKey,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Its client id, once it gave one; [`Session::writer`] tells whether it writes under it.
    pub client: Option<Arc<ClientId>>,
    /// What it hears about.
    pub subscriptions: Subscriptions,
    /// What waits to be sent.
    pub outbox: Option<Box<Outbox>>,
    /// A frame or message that is partly received.
    pub partial: Option<Box<Partial>>,
    /// What exists only now and then.
    pub extra: Option<Box<Extra>>,
}

const _: () = assert!(size_of::<Session>() <= 104, "a connection at rest got more expensive");
const _: () = assert!(size_of::<Subscription>() <= 12);

/// Parts of a session that are rare; the box goes as soon as all of them are empty.
#[derive(Debug, Default)]
pub struct Extra {
    /// Before the upgrade: the HTTP side.
    pub http: Option<HttpState>,
    /// Messages that wait for authentication, for tokens of the rate limit, or to be read after a move.
    pub deferred: Deferred,
    /// Chunked messages being collected.
    pub chunks: ChunkSets,
    /// Documents whose changes collapsed to "dirty" for this slow consumer.
    pub lagging: Vec<Lag>,
    /// Batches with elements for several documents that are not answered by all of them yet.
    pub split_writes: Vec<SplitWrite>,
    /// A message that takes several turns; everything behind it waits.
    pub long: Option<Box<Long>>,
    /// Raw bytes that were read but not looked at (paused or moving).
    pub unread: Vec<u8>,
}

impl Extra {
    /// Whether the box may go.
    pub fn is_empty(&self) -> bool {
        self.http.is_none()
            && self.deferred.is_idle()
            && self.chunks.is_empty()
            && self.lagging.is_empty()
            && self.split_writes.is_empty()
            && self.long.is_none()
            && self.unread.is_empty()
    }
}

/// A connection that speaks HTTP.
#[derive(Debug)]
pub struct HttpState {
    /// The other end of the socket.
    pub peer: IpAddr,
    /// Bytes not yet part of a request.
    pub buffer: Vec<u8>,
    /// A request whose body is still arriving.
    pub request: Option<Box<(Head, Body)>>,
    /// The client waits for `100 Continue`.
    pub owes_continue: bool,
    /// The response to a request is being found elsewhere.
    pub awaits_answer: bool,
    /// Since when the next complete request is waited for ([`crate::clock::Now::mono_us`]).
    pub since_us: u64,
    /// How that response is to be framed, when the question does not hold it.
    pub framing: Option<Framing>,
}

impl HttpState {
    /// Nothing has arrived.
    pub fn new(peer: IpAddr, now_us: u64) -> HttpState {
        HttpState {
            peer,
            buffer: Vec::new(),
            request: None,
            owes_continue: false,
            awaits_answer: false,
            since_us: now_us,
            framing: None,
        }
    }
}

/// A document that a slow consumer is behind on.
#[derive(Debug)]
pub struct Lag {
    /// Which one, by its audience.
    pub audience: u32,
    /// Everything with a greater stamp is missing at the connection.
    pub since: u64,
    /// A text state was skipped.
    pub text: bool,
    /// The newest presence update per client that was skipped: client id and the update.
    pub awareness: Vec<Arc<crate::shard::mail::AwarenessChange>>,
    /// What the catch-up was asked for: `since` and `text` at that time.
    pub asked: Option<(u64, bool)>,
}

impl Lag {
    /// Whether the answer to what was asked makes up for everything that was skipped.
    pub fn is_covered(&self) -> bool {
        self.asked
            .is_some_and(|(since, text)| since <= self.since && text >= self.text)
    }
}

/// A batch whose elements went to several documents, or left in several turns.
#[derive(Debug)]
pub struct SplitWrite {
    /// Number given by the session's shard.
    pub ticket: u64,
    /// Parts that homes have not answered, and one more while others may follow.
    pub remaining: usize,
    /// Whether any element was taken.
    pub accepted: bool,
    /// Whether a part is not known to be stored; then there is no acknowledgement.
    pub unstored: bool,
    /// The acknowledgement to send at the end.
    pub ack: Vec<u8>,
}

impl Session {
    /// The boxed part, made on demand.
    pub fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_with(Box::default)
    }

    /// Frees the boxed part if nothing is left in it.
    pub fn trim(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| extra.is_empty()) {
            self.extra = None;
        }
    }

    /// Bytes that wait to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.queued_bytes())
    }

    /// The subscription to a document, by its audience.
    pub fn subscription(&self, audience: u32) -> Option<&Subscription> {
        self.subscriptions
            .iter()
            .find(|subscription| subscription.audience == audience)
    }

    /// The client id it writes as, once known (protocol §9.4).
    pub fn writer(&self) -> Option<&Arc<ClientId>> {
        self.client.as_ref().filter(|_| self.flags.has(Flags::WRITER))
    }

    /// Milliseconds since the last byte of the peer.
    pub fn silent_ms(&self, now_ms: u64) -> u32 {
        (now_ms as u32).wrapping_sub(self.seen_ms)
    }
}
