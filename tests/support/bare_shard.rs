//! One shard that is fed by hand, with as little around it as possible: for counting instructions and allocations, and
//! for timing. It does what the runtime's engine does for a shard (read, turn, write) and nothing else, so that what is
//! measured is the shard's own work.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use synckit_server::auth::Authenticator;
use synckit_server::clock::Now;
use synckit_server::cluster::BusLink;
use synckit_server::config::{Config, Flags};
use synckit_server::handler::{Effect, Handler};
use synckit_server::http::Api;
use synckit_server::ids::{ShardId, Slot};
use synckit_server::merging::{self, MergeQueue};
use synckit_server::shard::context::{Context, Parts};
use synckit_server::shard::mail::Mail;
use synckit_server::shard::{Shard, ShardEffect, StorageLink};

pub const UNIX_MS: u64 = 1_760_000_000_000;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Longer than the flush window, so that every turn flushes.
pub const QUIET_US: u64 = 10_000;

/// What the shards of a server with these environment variables share: no logins, no storage.
pub fn context(variables: &[(&str, &str)], shards: u16) -> Arc<Context> {
    context_over(None, variables, shards)
}

/// The same with a database.
pub fn context_over(storage: Option<StorageLink>, variables: &[(&str, &str)], shards: u16) -> Arc<Context> {
    context_among(None, storage, variables, shards)
}

/// The same among other nodes.
pub fn context_among(
    bus: Option<BusLink>,
    storage: Option<StorageLink>,
    variables: &[(&str, &str)],
    shards: u16,
) -> Arc<Context> {
    with_merges(bus, storage, variables, shards).0
}

/// The same, with the queue of large text states, which somebody has to merge.
fn with_merges(
    bus: Option<BusLink>,
    storage: Option<StorageLink>,
    variables: &[(&str, &str)],
    shards: u16,
) -> (Arc<Context>, MergeQueue) {
    let look_up = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let config = Config::from_env(look_up, &Flags::default()).expect("a valid configuration");
    let authenticator = Arc::new(Authenticator::new(&config.auth, Vec::new()));
    let (merging, merges) = merging::queue(shards);
    let parts = Parts {
        api: Arc::new(Api::new(&config, authenticator.clone(), None)),
        authenticator,
        started_unix_ms: UNIX_MS,
        storage,
        bus,
        run_blocking: Box::new(|_, _| panic!("nobody logs in here")),
        merging,
    };
    (Arc::new(Context::new(config, shards, parts)), merges)
}

/// A text frame as a client sends it.
pub fn text_frame(text: &str) -> Vec<u8> {
    let len = text.len();
    let mut frame = vec![0x81];
    match u16::try_from(len) {
        Ok(short) if short < 126 => frame.push(0x80 | short as u8),
        Ok(medium) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(text.bytes().enumerate().map(|(at, byte)| byte ^ MASK[at % 4]));
    frame
}

/// A `delta` of about 150 bytes, as the load tester sends it.
pub fn delta(document: &str, number: usize) -> String {
    let field = number % 8;
    let head = format!(
        r#"{{"type":"delta","id":"m{number:07}","timestamp":1700000000000,"documentId":"{document}","field":"f{field}","value":"{number:07}"#
    );
    let padding = "x".repeat(148usize.saturating_sub(head.len()));
    format!(r#"{head}{padding}"}}"#)
}

/// Without authentication and limits.
const OPEN: [(&str, &str); 3] = [
    ("SYNCKIT_AUTH_REQUIRED", "false"),
    ("SYNCKIT_MAX_MESSAGES_PER_MINUTE", "0"),
    ("SYNCKIT_MAX_CONNECTIONS_PER_IP", "0"),
];

/// See the module's documentation.
pub struct BareShard {
    pub shard: Shard,
    pub context: Arc<Context>,
    pub now: Now,
    id: ShardId,
    effects: Vec<ShardEffect>,
    /// Letters to other shards.
    pub mail: Vec<(ShardId, <Shard as Handler>::Mail)>,
    scratch: Vec<u8>,
    /// Large text states of all shards of the server.
    merges: MergeQueue,
    /// Bytes that left, all connections together.
    pub sent_bytes: u64,
    /// Sends that left.
    pub sends: u64,
}

impl BareShard {
    /// A shard of a server without authentication and rate limits.
    pub fn new() -> BareShard {
        BareShard::several(1).pop().expect("one shard")
    }

    /// The shards of one server; their mail is left in [`BareShard::mail`] for the caller to deliver.
    pub fn several(shards: u16) -> Vec<BareShard> {
        BareShard::all_of(with_merges(None, None, &OPEN, shards), shards)
    }

    /// One shard with a database; what it says of its health and where requests go is the link's.
    /// Its clients may be silent for as long as they like.
    pub fn stored(link: StorageLink) -> BareShard {
        Self::stored_with(link, &[("WS_HEARTBEAT_TIMEOUT", "0")])
    }

    /// The same with these environment variables.
    pub fn stored_with(link: StorageLink, variables: &[(&str, &str)]) -> BareShard {
        let stored = [("DATABASE_URL", "sqlite:unused")];
        let variables = OPEN.into_iter().chain(stored).chain(variables.iter().copied());
        let variables: Vec<(&str, &str)> = variables.collect();
        let context = with_merges(None, Some(link), &variables, 1);
        BareShard::all_of(context, 1).pop().expect("one shard")
    }

    fn all_of((context, merges): (Arc<Context>, MergeQueue), shards: u16) -> Vec<BareShard> {
        let shard = |id| BareShard {
            shard: Shard::new(ShardId(id), context.clone()),
            context: context.clone(),
            merges: merges.clone(),
            now: Now {
                mono_us: 3_600_000_000,
                unix_ms: UNIX_MS,
            },
            id: ShardId(id),
            effects: Vec::new(),
            mail: Vec::new(),
            scratch: Vec::new(),
            sent_bytes: 0,
            sends: 0,
        };
        (0..shards).map(shard).collect()
    }

    /// A connection that has been upgraded to a WebSocket.
    pub fn connect(&mut self) -> Slot {
        let slot = self
            .shard
            .accepted(self.now, IpAddr::V4(Ipv4Addr::LOCALHOST))
            .expect("there is room for a connection");
        let upgrade = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        self.receive(slot, upgrade.as_bytes());
        self.turn();
        slot
    }

    /// A connection that has subscribed to a document.
    pub fn subscribe(&mut self, document: &str) -> Slot {
        let slot = self.connect();
        let subscribe = format!(r#"{{"type":"subscribe","id":"s","documentId":"{document}"}}"#);
        self.receive(slot, &text_frame(&subscribe));
        self.turn();
        slot
    }

    /// Bytes arrive.
    pub fn receive(&mut self, slot: Slot, bytes: &[u8]) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(bytes);
        let _ = self.shard.received(self.now, slot, &mut scratch);
        self.scratch = scratch;
    }

    /// One turn: the shard decides, and whatever it has to say leaves at once and whole.
    pub fn turn(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.shard.turn(self.now, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Write(slot) => self.write(slot),
                Effect::Mail { to, mail } => self.mail.push((to, mail)),
                Effect::Close(_) | Effect::Resume(_) => {}
                Effect::Move { to, .. } => panic!("{:?} moved a connection to {to:?}", self.id),
            }
        }
        self.effects = effects;
    }

    /// Merges a large text state as the server's threads do, if one waits; returns whether one did. For a server of one
    /// shard.
    pub fn merge(&mut self) -> bool {
        let Some(request) = self.merges.take() else {
            return false;
        };
        let answer = Mail::TextMerged(Box::new(request.run()));
        self.shard.mail(self.now, ShardId::EXTERNAL, answer);
        true
    }

    /// Time passes.
    pub fn pass(&mut self, us: u64) {
        self.now.mono_us += us;
        self.now.unix_ms = UNIX_MS + (self.now.mono_us - 3_600_000_000) / 1000;
    }

    fn write(&mut self, slot: Slot) {
        loop {
            let pieces = self.shard.take_outgoing(slot, 256 * 1024);
            if pieces.is_empty() {
                return;
            }
            let bytes = pieces.iter().map(|piece| piece.len()).sum();
            drop(pieces);
            self.sends += 1;
            self.sent_bytes += bytes as u64;
            self.shard.sent(self.now, slot, bytes, true);
        }
    }
}
