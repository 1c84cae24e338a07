//! What a shard among several nodes keeps: who the others are, how far each document was heard of, and what is to be asked
//! or told (docs/architecture.md, several nodes). A server of one node has none of it.
//!
//! Invariants:
//! - Every document of the library has a [`Shared`], and has been joined or has its join in the backlog.
//! - A place is in `active` exactly when its [`Shared::listed`] is set.

use super::mail::DocumentId;
use crate::cluster::BusRequest;
use crate::peers::{Count, CountedOperation, Encoder, Heard, Operations};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// How often periodic work is looked at.
pub(super) const NODES_TICK_US: u64 = 250_000;
/// How often a node says that it is there.
pub(super) const ALIVE_US: u64 = 2_000_000;
/// So long after a node began, or came back to the bus, it may not have heard yet of nodes that are there.
pub(super) const NEWCOMER_US: u64 = ALIVE_US + 2 * NODES_TICK_US;
/// A node that has been silent for so long is not waited for.
pub(super) const PEER_SILENT_US: u64 = 7_000_000;
/// A node that has been silent for so long is forgotten.
pub(super) const PEER_FORGOTTEN_US: u64 = 600_000_000;
/// How often a node says again for which presence entries it answers.
pub(super) const PRESENCE_AGAIN_US: u64 = 10_000_000;
/// How long a missing envelope may still be on its way.
pub(super) const GAP_PATIENCE_US: u64 = 150_000;
/// A document that has not changed for so long has a digest worth comparing.
pub(super) const QUIET_US: u64 = 300_000;
/// How often in a row a document is announced after a change.
pub(super) const ANNOUNCED_TIMES: u8 = 3;
/// Shortest time between two questions about a document, and between two full answers.
pub(super) const EXCHANGE_US: u64 = 250_000;
/// Answers of several nodes are spread over this time, so that one may do for all.
pub(super) const JITTER_US: u64 = 100_000;
/// How long a document that is being loaded waits to be joined,
pub(super) const JOIN_PATIENCE_US: u64 = 1_000_000;
/// and, without a database, for other nodes to say what they know (docs/protocol.md §19.2).
pub(super) const PEERS_PATIENCE_US: u64 = 300_000;
/// Changes by other nodes are stored here as well if their own node has not done so for this long.
pub(super) const STORE_FOR_OTHERS_US: u64 = 2_000_000;
/// Documents named in one announcement.
pub(super) const ROWS_MAX: usize = 200;
/// Every document is announced once in this time although nothing happened to it, so that what nothing else finds is found,
pub(super) const SWEEP_ROUND_US: u64 = 60_000_000;
/// or less often where that would be more than so many per tick: 100 in a second.
pub(super) const SWEEP_STEP: usize = 25;
/// The same after an interruption, until all have been announced once: 10,000 in a second.
pub(super) const SWEEP_STEP_HURRIED: usize = 2_500;
/// Rows that are read again per tick so that what nothing else finds is found: 8 in a second,
pub(super) const REREAD_STEP: usize = 2;
/// and after a node was lost: 200 in a second.
pub(super) const REREAD_STEP_HURRIED: usize = 50;
/// Requests to join or leave that are tried again per tick.
pub(super) const BACKLOG_STEP: usize = 1_024;
/// Documents kept in mind that nobody could be asked about; beyond it they wait for a digest.
pub(super) const UNASKED_MAX: usize = 65_536;
/// A message whose parts do not come is given up after this time.
pub(super) const ASSEMBLY_US: u64 = 10_000_000;
/// Messages in parts that are put together at one time; beyond it a repair makes up for them.
pub(super) const ASSEMBLIES_MAX: usize = 1_024;
/// Counter operations per document that other nodes can be told of again.
pub(super) const COUNTED_KEPT: usize = 1_024;

/// See the module documentation.
pub(super) struct Cluster {
    pub encoder: Encoder,
    /// The account of this process in counters.
    pub account: Box<str>,
    /// The epoch given to a document last.
    pub last_epoch: u64,
    /// Other nodes by their numbers.
    pub nodes: HashMap<u64, Peer>,
    /// The end of [`NEWCOMER_US`]; `None` before the first turn.
    pub newcomer_until_us: Option<u64>,
    /// Documents that changed lately.
    pub active: Vec<u32>,
    /// Documents with presence entries that this node answers for.
    pub present: Vec<u32>,
    /// Requests the queue had no room for, in order.
    pub backlog: VecDeque<BusRequest>,
    /// Documents that came while nobody could be asked about them.
    pub unasked: Vec<u32>,
    pub assemblies: HashMap<(DocumentId, u64), Assembly>,
    pub assembled_bytes: usize,
    pub sweep_next: usize,
    /// Documents due to be swept, times [`SWEEP_ROUND_US`].
    pub sweep_due: u64,
    /// Places still to be swept in a hurry.
    pub hurried: usize,
    pub reread_next: usize,
    /// Rows due to be read again, times [`SWEEP_ROUND_US`].
    pub reread_due: u64,
    /// Rows still to be read again in a hurry.
    pub reread_hurried: usize,
    /// A node was lost since this was asked last.
    lost_node: bool,
    pub alive_us: u64,
    pub digests_us: u64,
    pub presence_us: u64,
    /// Counts the answers, for their spreading.
    pub jitter: u64,
    pub peers_scheduled: bool,
}

/// Another node.
pub(super) struct Peer {
    pub name: Box<str>,
    pub heard_us: u64,
    /// Which life of it, as far as it said.
    life: u64,
    /// It has been silent for [`PEER_SILENT_US`], and that was noticed.
    is_lost: bool,
}

/// A message that comes in parts.
pub(super) struct Assembly {
    pub message: u64,
    pub parts: Vec<Option<String>>,
    pub missing: u32,
    pub bytes: usize,
    pub since_us: u64,
}

/// What a shelf keeps for other nodes.
pub(super) struct Shared {
    /// Tells this sequence from that of an earlier stay in memory.
    pub epoch: u64,
    /// Number of the last change sent.
    pub sequence: u64,
    pub heard: SmallVec<[Heard; 1]>,
    /// When the document changed last, here or elsewhere.
    pub changed_us: u64,
    /// Digest of the content; `None`: it changed since.
    pub digest: Option<u64>,
    /// How often it is still to be announced.
    pub announce: u8,
    /// In the list of active documents.
    pub listed: bool,
    /// Its row is being read again.
    pub rereading: bool,
    /// It came before the bus had joined it, so that nothing others have said could be heard.
    pub unjoined: bool,
    /// In the list of documents with own presence, and how often their absence is still to be said.
    pub present: u8,
    /// When others are to be asked, and whom; 0: not.
    pub ask_us: u64,
    pub ask: u64,
    /// Even if nothing is missing by then.
    pub ask_forced: bool,
    /// Questions that brought no answer.
    pub questions: u8,
    pub asked_us: u64,
    /// When everything is to be told; 0: not.
    pub tell_us: u64,
    pub told_us: u64,
    /// When changes of other nodes are to be stored; 0: there are none.
    pub store_us: u64,
    /// Earliest scheduled look at the above.
    pub scheduled_us: u64,
    /// Counter operations accepted here lately.
    pub counted: VecDeque<CountedOperation>,
}

const _: () = assert!(
    size_of::<Shared>() <= 208,
    "a document at rest on a node among others grew"
);

/// What one write brings other nodes beside fields and text.
#[derive(Default)]
pub(super) struct Outbound {
    pub operations: Operations,
    pub count: Option<Count>,
}

impl Cluster {
    /// `node` and `epoch` name this process.
    pub fn new(node: &str, epoch: u64) -> Cluster {
        Cluster {
            encoder: Encoder::new(node),
            account: format!("node:{node}:{epoch}").into(),
            last_epoch: epoch,
            nodes: HashMap::new(),
            newcomer_until_us: None,
            active: Vec::new(),
            present: Vec::new(),
            backlog: VecDeque::new(),
            unasked: Vec::new(),
            assemblies: HashMap::new(),
            assembled_bytes: 0,
            sweep_next: 0,
            sweep_due: 0,
            hurried: 0,
            reread_next: 0,
            reread_due: 0,
            reread_hurried: 0,
            lost_node: false,
            alive_us: 0,
            digests_us: 0,
            presence_us: 0,
            jitter: 0,
            peers_scheduled: false,
        }
    }

    /// A document has come.
    pub fn share(&mut self, now_us: u64) -> Box<Shared> {
        self.last_epoch += 1;
        Box::new(Shared {
            epoch: self.last_epoch,
            sequence: 0,
            heard: SmallVec::new(),
            changed_us: now_us,
            digest: None,
            announce: 0,
            listed: false,
            rereading: false,
            unjoined: false,
            present: 0,
            ask_us: 0,
            ask: 0,
            ask_forced: false,
            questions: 0,
            asked_us: 0,
            tell_us: 0,
            told_us: 0,
            store_us: 0,
            scheduled_us: u64::MAX,
            counted: VecDeque::new(),
        })
    }

    /// The number of a node, which was heard just now.
    pub fn heard_of(&mut self, name: &str, now_us: u64) -> u64 {
        let number = node_number(name);
        let peer = self.nodes.entry(number).or_insert_with(|| Peer {
            name: name.into(),
            heard_us: now_us,
            life: 0,
            is_lost: false,
        });
        (peer.heard_us, peer.is_lost) = (now_us, false);
        number
    }

    /// A node says which life of it this is. One that begins another without a farewell was lost in between.
    pub fn lives(&mut self, number: u64, life: u64) {
        if let Some(peer) = self.nodes.get_mut(&number) {
            self.lost_node |= peer.life != 0 && peer.life != life;
            peer.life = life;
        }
    }

    /// Whether a node was lost since this was asked last.
    pub fn has_lost_node(&mut self, now_us: u64) -> bool {
        for peer in self.nodes.values_mut() {
            if !peer.is_lost && peer.heard_us + PEER_SILENT_US <= now_us {
                peer.is_lost = true;
                self.lost_node = true;
            }
        }
        std::mem::take(&mut self.lost_node)
    }

    /// Whether there may be nodes that have not been heard yet.
    pub fn is_newcomer(&self, now_us: u64) -> bool {
        self.newcomer_until_us.is_none_or(|until_us| now_us < until_us)
    }

    /// Whether anybody is known who could answer.
    pub fn has_peers(&self, now_us: u64) -> bool {
        self.peers(now_us) > 0
    }

    /// How many.
    pub fn peers(&self, now_us: u64) -> u64 {
        let heard = |peer: &&Peer| peer.heard_us + PEER_SILENT_US > now_us;
        self.nodes.values().filter(heard).count() as u64
    }

    /// A time within [`JITTER_US`] that differs from node to node.
    pub fn spread_us(&mut self) -> u64 {
        self.jitter = self
            .jitter
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(self.last_epoch | 1);
        (self.jitter >> 33) % JITTER_US
    }
}

impl Shared {
    /// What was heard of a node; something new if nothing was. Nodes that are not known any more then make room, else every
    /// restart of a node would cost every document something for ever.
    pub fn heard(&mut self, node: u64, epoch: u64, known: &HashMap<u64, Peer>) -> &mut Heard {
        let at = self.heard.iter().position(|heard| heard.node == node);
        let at = at.unwrap_or_else(|| {
            self.heard.retain(|heard| known.contains_key(&heard.node));
            self.heard.push(Heard::new(node, epoch));
            self.heard.len() - 1
        });
        &mut self.heard[at]
    }

    /// Whether anything is under way that unloading would break off.
    pub fn is_busy(&self) -> bool {
        self.store_us > 0 || self.ask_us > 0 || self.rereading
    }
}

/// A node's name as a number (FNV-1a). Two nodes with one number would be taken for one, and repaired for ever.
pub(super) fn node_number(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
