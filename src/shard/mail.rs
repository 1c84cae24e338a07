//! What shards send each other.
//!
//! A document lives on one shard, its home; the sessions that use it live where their sockets are. Requests go from a
//! session's shard to the home, answers and fan-outs come back. Order between two shards is kept, so everything a home
//! says about one document reaches a session in the order in which it was said. A shard's mail to itself takes the same
//! path through a local queue: there is one way to handle each kind.

use crate::auth::LoginResult;
use crate::awareness::Change;
use crate::cluster::BusEvent;
use crate::document::FlushedField;
use crate::http::Question;
use crate::ids::{SessionRef, ShardId};
use crate::merging::MergeAnswer;
use crate::protocol::Fault;
use crate::saved::Answer;
use crate::session::Session;
use crate::shard::Metrics;
use crate::shard::answers::Findings;
use crate::shard::context::AddressKey;
use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// The id of a document, shared by everything that names it.
pub type DocumentId = Arc<str>;

/// A presence change on its way to those who hear about it.
pub type AwarenessChange = Change;

/// The id of a request as the peer wrote it (JSON); `None`: the server makes one up for the answer.
pub type RequestId = Option<Box<str>>;

/// One letter.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields' names say what they are")]
pub enum Mail {
    /// To the home: `subscribe` or `sync_request`.
    Subscribe(Box<Subscribe>),
    /// To the home: `unsubscribe`.
    Unsubscribe(Box<Unsubscribe>),
    /// To the home: `delta` or `delta_batch`, the part for one document.
    Write(Box<Write>),
    /// To the home: `awareness_subscribe`.
    AwarenessSubscribe(Box<AwarenessSubscribe>),
    /// To the home: `awareness_update`.
    AwarenessUpdate(Box<AwarenessUpdate>),
    /// To the home: the session no longer listens, because its connection ended (`clean`: with a close frame) or lost the
    /// right to read.
    Left {
        document: DocumentId,
        session: SessionRef,
        clean: bool,
    },
    /// To the home: a slow consumer drained and wants what it missed.
    CatchUp {
        document: DocumentId,
        session: SessionRef,
        since: u64,
        text: bool,
    },
    /// To the home: the client id of a subscribed session became known (protocol §9.4, the `delta` without `field`).
    Introduce { document: DocumentId, session: SessionRef },

    /// To the session: answer to [`Mail::Subscribe`].
    Synced(Box<Synced>),
    /// To the session: answer to [`Mail::Unsubscribe`].
    Unsubscribed(Box<Unsubscribe>),
    /// To the session: answer to [`Mail::Write`].
    Wrote(Wrote),
    /// To the session: its write made it a listener; [`Mail::Wrote`] follows when the write is stored.
    Joined { document: DocumentId, session: SessionRef },
    /// To the session: answer to [`Mail::AwarenessSubscribe`] and [`Mail::AwarenessUpdate`].
    AwarenessAnswered(Box<AwarenessAnswered>),
    /// To the session: the request could not be taken.
    Refused(Box<RefusedRequest>),
    /// To the session: answer to [`Mail::Introduce`].
    Introduced {
        document: DocumentId,
        session: SessionRef,
        clock: u64,
    },
    /// To the session: answer to [`Mail::CatchUp`].
    CaughtUp(Box<CaughtUp>),

    /// To listeners: field changes.
    Fields(Arc<FieldsFanOut>),
    /// To listeners: a merged text state.
    Text(Arc<TextFanOut>),
    /// To listeners: operations that are relayed as they are.
    Relay(Arc<RelayFanOut>),
    /// To listeners: a presence change.
    Awareness(Arc<AwarenessFanOut>),

    /// To every other shard: a client id appeared on a connection (protocol §1, reconnect doubling).
    ClientSeen(Arc<ClientSeen>),
    /// To a shard: a question of the HTTP API.
    Ask {
        ticket: u64,
        from: ShardId,
        question: Arc<Question>,
    },
    /// From a shard: its part of the answer.
    Answered { ticket: u64, findings: Box<Findings> },
    /// From outside: say how you are.
    Measure(SyncSender<(ShardId, Box<Metrics>)>),
    /// From storage: answers to what this shard asked.
    Storage(Vec<Answer>),
    /// From a thread that merges: the answer to the request under way.
    TextMerged(Box<MergeAnswer>),
    /// From the bus between the nodes.
    Bus(Vec<BusEvent>),
    /// From a blocking thread: the HTTP response to a login.
    LoggedIn {
        session: SessionRef,
        login: Box<LoginResult>,
    },
}

const _: () = assert!(size_of::<Mail>() <= 48, "every letter is copied several times");

/// `subscribe` or `sync_request`.
#[derive(Debug)]
pub struct Subscribe {
    pub document: DocumentId,
    pub session: SessionRef,
    pub id: RequestId,
    /// `subscribe` rather than `sync_request`.
    pub is_subscribe: bool,
    /// Greatest value of the clock the client sent that may count.
    pub clock_max: u64,
    /// The SDK gets tombstones, set membership and presence along.
    pub sdk: bool,
    /// Address key, for the limits of new documents.
    pub address: AddressKey,
}

/// Answer to [`Subscribe`]: a snapshot of the document.
#[derive(Debug)]
pub struct Synced {
    pub request: Box<Subscribe>,
    /// Live fields as one JSON object.
    pub state: Bytes,
    /// The text, if the document has one.
    pub text: Option<TextBody>,
    /// The document's clock at the snapshot.
    pub clock: u64,
    /// Names of deleted fields as JSON strings, newest first.
    pub tombstones: Vec<Arc<str>>,
    /// Set elements as JSON objects.
    pub set_elements: Vec<Bytes>,
    /// Presence entries.
    pub presence: Vec<Change>,
}

/// A merged text state on the wire.
#[derive(Clone, Debug)]
pub struct TextBody {
    /// The state as a JSON string: JSON in a JSON string.
    pub state: Bytes,
    /// `textClock`.
    pub timestamp: u64,
}

/// `unsubscribe`.
#[derive(Debug)]
pub struct Unsubscribe {
    pub document: DocumentId,
    pub session: SessionRef,
    pub id: RequestId,
    pub message_id: RequestId,
}

/// A part of the message a [`Write`] keeps.
pub type Span = Range<u32>;

/// One element of a write, as places in the message's text.
#[derive(Debug)]
pub enum WriteOp {
    /// A map of plain writes; all or none. Places of the names (without quotes) and values.
    Fields(SmallVec<[(Span, Option<Span>); 2]>),
    /// A single field write that may be stamped.
    Field {
        name: Span,
        value: Option<Span>,
        client: Option<Span>,
        clock: Option<Span>,
        timestamp: Option<f64>,
    },
    /// A text state (JSON string).
    Text { state: Span, timestamp: Option<f64> },
    /// A set operation; the whole element.
    Set { element: Span },
    /// A counter operation; the whole element and its place in the batch.
    Counter { element: Span, index: u32 },
    /// A formatting operation; the whole element.
    RichText { element: Span },
    /// A legacy positional text operation; the whole element.
    LegacyText { element: Span },
}

/// The part of a `delta` or `delta_batch` that concerns one document.
#[derive(Debug)]
pub struct Write {
    pub document: DocumentId,
    pub session: SessionRef,
    /// The message's JSON text; every [`Span`] points into it.
    pub text: ByteString,
    pub ops: SmallVec<[WriteOp; 1]>,
    /// Subscribe the session if it is not.
    pub subscribe: bool,
    /// A `delta_batch` rather than a `delta`.
    pub is_batch: bool,
    /// The request's id in `text`.
    pub id: Option<Span>,
    /// The message id to acknowledge in `text`.
    pub message_id: Option<Span>,
    /// Elements of the whole batch, for `count`.
    pub count: u32,
    /// Set when the batch has elements for several documents.
    pub ticket: Option<u64>,
    /// The client id of the connection before this write, for presence adoption.
    pub client: Option<Box<str>>,
    /// Address key, for the limits of new documents.
    pub address: AddressKey,
    /// When it was read, in monotonic microseconds.
    pub read_us: u64,
}

impl Write {
    /// The text at a place.
    pub fn at(&self, span: &Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }
}

/// Answer to [`Write`].
#[derive(Debug)]
pub struct Wrote {
    pub write: Box<Write>,
    /// What was refused and why; usually nothing, so it has no room of its own.
    pub refusals: Vec<Refusal>,
    /// Whether at least one element was taken.
    pub accepted: bool,
    /// The session is a listener now and was none before.
    pub joined: bool,
    /// It was refused because it is not known to be stored: a batch that it is a part of must not be acknowledged.
    pub unstored: bool,
}

/// One refused element.
#[derive(Debug)]
pub struct Refusal {
    pub fault: Fault,
    /// `details.reason`.
    pub reason: Option<String>,
    /// `details.limit` and `details.max`.
    pub limit: Option<(&'static str, u64)>,
}

/// `awareness_subscribe`.
#[derive(Debug)]
pub struct AwarenessSubscribe {
    pub document: DocumentId,
    pub session: SessionRef,
    pub id: RequestId,
}

/// `awareness_update`.
#[derive(Debug)]
pub struct AwarenessUpdate {
    pub document: DocumentId,
    pub session: SessionRef,
    pub id: RequestId,
    pub client_id: Box<str>,
    pub clock: Option<u64>,
    /// JSON; `None`: the client leaves.
    pub state: Option<Bytes>,
}

/// Answer to both: the session listens to presence now.
#[derive(Debug)]
pub struct AwarenessAnswered {
    pub document: DocumentId,
    pub session: SessionRef,
    pub id: RequestId,
    /// The entries, if they were asked for.
    pub states: Option<Vec<Change>>,
    /// The update hit a limit.
    pub refused: bool,
    /// Bytes of the state that the update brought.
    pub state_bytes: usize,
}

/// A request the home could not take.
#[derive(Debug)]
pub struct RefusedRequest {
    pub document: DocumentId,
    pub session: SessionRef,
    pub id: RequestId,
    pub refusal: Refusal,
    /// What the request weighed, in bytes.
    pub weight_bytes: usize,
}

/// Field changes of one flush.
#[derive(Debug)]
pub struct FieldsFanOut {
    pub document: DocumentId,
    pub fields: Vec<FlushedField>,
    /// The document's greatest stamp at the flush.
    pub clock: u64,
}

/// Answer to [`Mail::CatchUp`].
#[derive(Debug)]
pub struct CaughtUp {
    pub session: SessionRef,
    pub fields: FieldsFanOut,
    /// Deletions of that time have been forgotten: only a fresh connection can be brought up to date.
    pub incomplete: bool,
    /// There may be more, newer than this stamp: to be asked for when this has left.
    pub more_from: Option<u64>,
    pub text: Option<TextBody>,
}

/// A merged text state for listeners.
#[derive(Debug)]
pub struct TextFanOut {
    pub document: DocumentId,
    pub body: TextBody,
    pub clock: u64,
    /// Sessions that have this very state.
    pub except: SmallVec<[SessionRef; 2]>,
    /// Only for this session (an echo).
    pub only: Option<SessionRef>,
}

/// Operations relayed in server order.
#[derive(Debug)]
pub struct RelayFanOut {
    pub document: DocumentId,
    /// The elements, comma separated, ready to stand in an array.
    pub elements: Bytes,
    /// All elements are text operations.
    pub is_text: bool,
    /// The author, where it must not get its own operations back.
    pub except: Option<SessionRef>,
}

/// A presence change for listeners.
#[derive(Debug)]
pub struct AwarenessFanOut {
    pub document: DocumentId,
    pub change: Arc<Change>,
    /// The connection that sent it.
    pub except: Option<SessionRef>,
}

/// A client id appeared on a connection.
#[derive(Debug)]
pub struct ClientSeen {
    pub client_id: Box<str>,
    pub user_id: Box<str>,
    pub address: AddressKey,
    pub session: SessionRef,
}

/// Everything that travels with a socket.
#[derive(Debug)]
pub struct MovedSession {
    pub session: Session,
}
