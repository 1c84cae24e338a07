//! What the coordinator and its worker processes say to each other: one JSON object per line, orders on the worker's
//! standard input, reports on its standard output.

use crate::dialect::{Dialect, Encoding};
use crate::result::RecordedLatency;
use crate::target::{Sources, Target};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything a worker must know before it opens connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The server.
    pub target: Target,
    /// Whose clients are imitated.
    pub dialect: Dialect,
    /// How they encode.
    pub encoding: Encoding,
    /// How they authenticate.
    pub credentials: Credentials,
    /// Where they come from.
    pub sources: Sources,
    /// Steps the server answers; others are said and not waited for, or left out.
    pub abilities: Abilities,
    /// The worker's connections, in order.
    pub groups: Vec<Group>,
    /// Handshakes under way at one time.
    pub handshakes_max: u32,
    /// A step unanswered for so long fails the connection.
    pub step_timeout_ms: u32,
    /// Time between application pings of each connection; 0 = none.
    pub ping_interval_ms: u64,
    /// Connections that end are opened again.
    pub reconnect: bool,
}

/// How connections authenticate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credentials {
    /// Not at all.
    None,
    /// All with this token.
    Token(String),
    /// Each with a token of its own, signed with this HS256 secret.
    Secret(String),
}

/// What a server was found to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// `auth` brings `auth_success`.
    pub auth: bool,
    /// `subscribe` brings `sync_response`.
    pub subscribe: bool,
    /// `awareness_subscribe` brings `awareness_state`.
    pub awareness: bool,
    /// A writer receives its own changes.
    pub echo: bool,
    /// A change brings `ack`.
    pub ack: bool,
    /// A change reaches the other subscribers.
    pub broadcast: bool,
    /// A text state brings `ack`.
    pub text: bool,
}

impl Default for Abilities {
    fn default() -> Self {
        Self {
            auth: true,
            subscribe: true,
            awareness: true,
            echo: true,
            ack: true,
            broadcast: true,
            text: true,
        }
    }
}

/// Connections of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Number of its first connection among all connections of the group, over all workers.
    pub first: u32,
    /// Connections of this worker.
    pub count: u32,
    /// Added to the numbers when client ids, users and source addresses are made, so that groups differ.
    pub identity_base: u32,
    /// Documents are called by this prefix and a number.
    pub prefix: String,
    /// Connection `i` uses document `i % documents`.
    pub documents: u32,
    /// Whether they subscribe.
    pub subscribe: bool,
    /// Whether they subscribe to presence.
    pub awareness: bool,
    /// Writers of each document whose sequences are followed here, and fields of each; 0 = not followed.
    pub followed_writers: u32,
    /// Fields of each followed writer.
    pub fields: u32,
}

/// What a group does once its connections stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Activity {
    /// Each connection keeps so many changes unacknowledged.
    Closed {
        /// Changes under way per connection.
        in_flight: u32,
    },
    /// Changes at a fixed rate of the whole group, whatever the server does; timed from when they were due.
    Paced {
        /// Changes per second of this worker's part of the group.
        per_second: f64,
    },
    /// Text states at a fixed rate; each is the connection's document with one more word.
    Text {
        /// States per second of this worker's part of the group.
        per_second: f64,
    },
    /// Presence updates at a fixed rate.
    Presence {
        /// Updates per second of this worker's part of the group.
        per_second: f64,
    },
}

/// What changes look like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Writing {
    /// Bytes of a message's JSON, at least.
    pub payload_bytes: u32,
    /// Fields of each writer, written in turn.
    pub fields: u32,
    /// Changes per connection after which it stops; 0 = no end.
    pub messages_max: u32,
    /// Documents each connection writes in turn, beginning with its own.
    pub documents_each: u32,
    /// How far their numbers are apart.
    pub documents_apart: u32,
}

/// From the coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Always the first.
    Plan(Box<Plan>),
    /// Have so many connections: open more, or close the last ones.
    Open {
        /// Connections wanted.
        target: u32,
        /// New ones per second; 0 = as fast as the handshake limit allows.
        per_second: f64,
        /// End surplus connections by a reset instead of a close frame.
        abort: bool,
    },
    /// A group begins to write.
    Act {
        /// Number of the group.
        group: usize,
        /// What it does.
        activity: Activity,
        /// What changes look like.
        writing: Writing,
        /// Added to connection numbers to give writer numbers within documents.
        started_ns: u64,
    },
    /// Nothing more is written.
    Rest,
    /// Latencies and the greatest lag recorded so far are forgotten (the end of a warm-up).
    Forget,
    /// Report everything, latencies included.
    Count,
    /// Tell the last sequence of every writer.
    Last,
    /// Compare what arrived with what was written.
    Audit(Vec<Written>),
    /// Connections that end are opened again, or no longer.
    Reconnect(bool),
    /// The end.
    Exit,
}

/// How much a writer wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Prefix of the document's name.
    pub prefix: String,
    /// Its number.
    pub document: u32,
    /// The writer among those of the document.
    pub writer: u32,
    /// Its changes: their sequences are 1 to this.
    pub last: u32,
}

/// From a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// Sent several times a second.
    Tally(Box<Tally>),
    /// Answers [`Order::Count`].
    Counted(Box<Counted>),
    /// Answers [`Order::Last`].
    Last(Vec<Written>),
    /// Answers [`Order::Audit`].
    Audited(Audit),
    /// The worker cannot go on.
    Failed(String),
}

/// Counts since the worker began, and what is so now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// When it was taken, nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Processor time of the worker.
    pub cpu_ns: u64,
    /// Time the worker was ready to run and had to wait for a core.
    pub waited_ns: u64,
    /// Connections ready now.
    pub ready: u32,
    /// Handshakes under way.
    pub opening: u32,
    /// Connections that became ready.
    pub established: u64,
    /// When the last of them did, nanoseconds of the monotonic clock.
    pub established_ns: u64,
    /// Attempts that failed, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Ready connections that ended unasked, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Changes sent.
    pub sent: u64,
    /// Changes acknowledged.
    pub acked: u64,
    /// Text states and presence updates sent.
    pub other_sent: u64,
    /// Followed changes received.
    pub delivered: u64,
    /// Presence and text messages received.
    pub other_received: u64,
    /// Bytes given to the kernel.
    pub bytes_sent: u64,
    /// Bytes taken from the kernel.
    pub bytes_received: u64,
    /// Bytes of the messages that held followed changes, frame headers included.
    pub delivered_bytes: u64,
    /// WebSocket pings answered.
    pub pings_answered: u64,
    /// Application pings sent.
    pub pings_sent: u64,
    /// Application pongs received.
    pub pongs: u64,
    /// Error messages, by code.
    pub errors: BTreeMap<String, u64>,
    /// Changes that were due and could not be sent because the socket was full.
    pub blocked: u64,
}

impl Tally {
    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Tally) {
        self.at_ns = self.at_ns.max(other.at_ns);
        self.established_ns = self.established_ns.max(other.established_ns);
        self.ready += other.ready;
        self.opening += other.opening;
        for (mine, theirs) in [
            (&mut self.cpu_ns, other.cpu_ns),
            (&mut self.waited_ns, other.waited_ns),
            (&mut self.established, other.established),
            (&mut self.sent, other.sent),
            (&mut self.acked, other.acked),
            (&mut self.other_sent, other.other_sent),
            (&mut self.delivered, other.delivered),
            (&mut self.other_received, other.other_received),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.bytes_received, other.bytes_received),
            (&mut self.delivered_bytes, other.delivered_bytes),
            (&mut self.pings_answered, other.pings_answered),
            (&mut self.pings_sent, other.pings_sent),
            (&mut self.pongs, other.pongs),
            (&mut self.blocked, other.blocked),
        ] {
            *mine += theirs;
        }
        for (mine, theirs) in [
            (&mut self.failed, &other.failed),
            (&mut self.dropped, &other.dropped),
            (&mut self.errors, &other.errors),
        ] {
            for (name, count) in theirs {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
    }
}

/// A tally with the latencies since the last [`Order::Forget`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// The counts.
    pub tally: Tally,
    /// By what was timed.
    pub latencies: BTreeMap<String, RecordedLatency>,
}

/// What followed connections missed and got twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Changes × connections that should have seen them.
    pub expected: u64,
    /// Those that arrived.
    pub arrived: u64,
    /// Those that did not, while a newer value of the same field did.
    pub coalesced: u64,
    /// Those that did not, and nothing newer of the same field either.
    pub lost: u64,
    /// Changes that arrived again.
    pub duplicated: u64,
    /// Changes that arrived after a newer one of the same field.
    pub out_of_order: u64,
}

impl Audit {
    /// Adds another worker's findings.
    pub fn add(&mut self, other: &Audit) {
        self.expected += other.expected;
        self.arrived += other.arrived;
        self.coalesced += other.coalesced;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
    }
}
