//! Several shards in one thread, with everything around them simulated: clock, mesh, sockets. All chance comes from one
//! seed, so a run can be repeated exactly.
//!
//! Effects are carried out as the runtime's engine does: a slot is free once `Close` or `Move` was handed out, what was
//! taken for sending travels along with a moved socket and is not reported as sent there, and a shard is given a turn
//! only when something happened to it or its deadline has come, so a forgotten wake-up shows as a hang.

#![allow(dead_code, reason = "each test file uses its part")]

use super::simulated_storage::SimulatedStorage;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use synckit_server::auth::Authenticator;
use synckit_server::clock::Now;
use synckit_server::cluster::{BusEvent, BusLink};
use synckit_server::config::{Config, Flags};
use synckit_server::handler::{Effect, End, Flow, Handler};
use synckit_server::http::Api;
use synckit_server::ids::{ShardId, Slot};
use synckit_server::merging::{self, MergeQueue, MergeRequest};
use synckit_server::shard::context::{Context, Parts};
use synckit_server::shard::{Shard, ShardEffect};

const UNIX_MS: u64 = 1_760_000_000_000;
const READ_BYTES_MAX: usize = 16 << 10;
const SEND_BYTES_MAX: usize = 256 << 10;

/// SplitMix64.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 … `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end.max(1) as u64) as usize
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

type Mail = <Shard as Handler>::Mail;
type Moved = <Shard as Handler>::Moved;

enum Letter {
    Mail(Mail),
    Parcel { socket: usize, session: Moved },
}

/// Letters from one shard to another.
#[derive(Default)]
struct Pair {
    letters: VecDeque<(u64, Letter)>,
    last_due_us: u64,
}

/// How a client ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientEnd {
    /// In order, behind everything it sent.
    Eof,
    /// At once; what was on its way is lost.
    Reset,
}

/// A connection between a client and whichever shard holds it.
pub struct Socket {
    to_server: VecDeque<u8>,
    /// Delivered, not yet looked at by the client.
    pub to_client: Vec<u8>,
    end: Option<ClientEnd>,
    /// The server closed it.
    pub closed: bool,
    /// The client reads nothing until then.
    pub stalled_until_us: u64,
    /// The client is gone and nobody was told: bytes that the server's kernel still takes for it.
    vanishing: Option<usize>,
    place: Option<(usize, Slot)>,
    accept_at: Option<usize>,
    paused: bool,
    wants_write: bool,
    unsent: VecDeque<Bytes>,
    inherited: bool,
}

struct Node {
    shard: Shard,
    entries: Vec<Option<usize>>,
    awake: bool,
}

/// Everything but the clients.
pub struct World {
    pub now: Now,
    pub dice: Dice,
    pub sockets: Vec<Socket>,
    nodes: Vec<Node>,
    pairs: Vec<Vec<Pair>>,
    effects: Vec<ShardEffect>,
    pub storage: Option<SimulatedStorage>,
    merges: MergeQueue,
    /// Text states that are being merged, with the time at which that will be done.
    merging: Vec<(u64, MergeRequest)>,
    /// How many have been merged that way.
    pub merged: usize,
    /// Mail between shards takes up to this long.
    delay_us_max: usize,
    /// How far the wall clock of this server is off.
    clock_error_ms: i64,
    /// Fields whose writes were acknowledged, by document, in the order of the acknowledgements.
    pub acknowledged: BTreeMap<String, Vec<String>>,
    /// Fields of those that somebody wanted deleted.
    pub deleted: BTreeSet<String>,
    /// Of all that was delivered and when: equal for equal runs, and hardly for others.
    pub fingerprint: u64,
}

/// Bytes at the beginning of a piece that its fingerprint looks at.
const FINGERPRINT_BYTES: usize = 200;

fn config(variables: &[(&str, String)]) -> Config {
    let look_up = |name: &str| {
        variables
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value.clone())
    };
    Config::from_env(look_up, &Flags::default()).expect("a valid configuration")
}

impl World {
    pub fn new(seed: u64, shards: u16, variables: &[(&str, String)]) -> Self {
        Self::with_storage(seed, shards, variables, None)
    }

    pub fn with_storage(
        seed: u64,
        shards: u16,
        variables: &[(&str, String)],
        storage: Option<SimulatedStorage>,
    ) -> Self {
        Self::among_nodes(seed, shards, variables, storage, None)
    }

    /// One node of several, which hear of each other over `bus`.
    pub fn among_nodes(
        seed: u64,
        shards: u16,
        variables: &[(&str, String)],
        storage: Option<SimulatedStorage>,
        bus: Option<BusLink>,
    ) -> Self {
        let config = config(variables);
        let authenticator = Arc::new(Authenticator::new(&config.auth, Vec::new()));
        let (mut merging, merges) = merging::queue(shards);
        // Small states take the way of large ones as well, in some runs all of them.
        merging.bytes_min = [0, 600, merging.bytes_min][(seed % 3) as usize];
        let parts = Parts {
            api: Arc::new(Api::new(&config, authenticator.clone(), None)),
            authenticator,
            started_unix_ms: UNIX_MS,
            run_blocking: Box::new(|_, _| panic!("nobody logs in here")),
            merging,
            storage: storage.as_ref().map(SimulatedStorage::link),
            bus,
        };
        let context = Arc::new(Context::new(config, shards, parts));
        let node = |id| Node {
            shard: Shard::new(ShardId(id), context.clone()),
            entries: Vec::new(),
            awake: false,
        };
        let mut dice = Dice::new(seed);
        Self {
            now: Now {
                mono_us: 1_000_000,
                unix_ms: UNIX_MS,
            },
            delay_us_max: [1, 300, 5_000, 40_000][dice.below(4)],
            dice,
            sockets: Vec::new(),
            nodes: (0..shards).map(node).collect(),
            pairs: (0..shards)
                .map(|_| (0..shards).map(|_| Pair::default()).collect())
                .collect(),
            effects: Vec::new(),
            storage,
            merges,
            merging: Vec::new(),
            merged: 0,
            clock_error_ms: 0,
            acknowledged: BTreeMap::new(),
            deleted: BTreeSet::new(),
            fingerprint: 0,
        }
    }

    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.nodes.iter().map(|node| &node.shard)
    }

    // ---- the clients' side of sockets ----

    pub fn connect(&mut self) -> usize {
        let at = self.dice.below(self.nodes.len());
        self.sockets.push(Socket {
            to_server: VecDeque::new(),
            to_client: Vec::new(),
            end: None,
            closed: false,
            stalled_until_us: 0,
            vanishing: None,
            place: None,
            accept_at: Some(at),
            paused: false,
            wants_write: false,
            unsent: VecDeque::new(),
            inherited: false,
        });
        self.sockets.len() - 1
    }

    pub fn send(&mut self, socket: usize, bytes: &[u8]) {
        let socket = &mut self.sockets[socket];
        if socket.end.is_none() && !socket.closed && socket.vanishing.is_none() {
            socket.to_server.extend(bytes);
        }
    }

    /// Where a connection stands, for a failure's text.
    pub fn describe(&self, socket: usize) -> String {
        let entry = &self.sockets[socket];
        format!(
            "{} bytes to the server, end {:?}, closed {}, at {:?}, paused {}, wants to write {}, {} pieces unsent",
            entry.to_server.len(),
            entry.end,
            entry.closed,
            entry.place,
            entry.paused,
            entry.wants_write,
            entry.unsent.len()
        )
    }

    pub fn finish(&mut self, socket: usize) {
        self.sockets[socket].end.get_or_insert(ClientEnd::Eof);
    }

    pub fn reset(&mut self, socket: usize) {
        self.sockets[socket].end = Some(ClientEnd::Reset);
        self.sockets[socket].to_server.clear();
    }

    /// The client is gone without a word, as when a cable is cut: what is sent there is taken for a while and never arrives.
    pub fn lose(&mut self, socket: usize) {
        let room = [0, 3_000, 200_000, usize::MAX][self.dice.below(4)];
        let socket = &mut self.sockets[socket];
        socket.vanishing = Some(room);
        socket.to_server.clear();
        socket.stalled_until_us = if room == 0 { u64::MAX } else { 0 };
    }

    // ---- time ----

    /// The operator stops the server: nobody is accepted any more.
    pub fn shut_down(&mut self) {
        let now = self.now;
        for socket in &mut self.sockets {
            socket.closed |= socket.accept_at.take().is_some();
        }
        for node in &mut self.nodes {
            node.shard.shut_down(now);
            node.awake = true;
        }
    }

    /// Nothing is left to do for any shard, and no letter is under way.
    pub fn is_drained(&self) -> bool {
        self.shards().all(Shard::is_drained)
            && self.storage.as_ref().is_none_or(SimulatedStorage::is_idle)
            && self.is_merging_nothing()
            && self.pairs.iter().flatten().all(|pair| pair.letters.is_empty())
    }

    /// Nothing moves unless time passes.
    pub fn is_idle(&self) -> bool {
        let now_us = self.now.mono_us;
        let quiet = |socket: &Socket| match socket.place {
            None => socket.accept_at.is_none(),
            Some(_) => {
                (socket.to_server.is_empty() && socket.end.is_none()
                    || socket.paused && socket.end != Some(ClientEnd::Reset))
                    && (!socket.wants_write || socket.stalled_until_us > now_us)
            }
        };
        self.pairs.iter().flatten().all(|pair| pair.letters.is_empty())
            && self.nodes.iter().all(|node| !node.awake)
            && self.storage.as_ref().is_none_or(SimulatedStorage::is_idle)
            && self.is_merging_nothing()
            && self.sockets.iter().all(quiet)
    }

    /// The next time at which something happens by itself.
    pub fn next_us(&self) -> Option<u64> {
        let deadlines = self.shards().filter_map(Shard::deadline_us);
        let stalls = self
            .sockets
            .iter()
            .filter(|socket| socket.wants_write && socket.place.is_some());
        let storage = self.storage.as_ref().and_then(SimulatedStorage::next_us);
        let stalls = stalls.map(|socket| socket.stalled_until_us);
        let merges = self.merging.iter().map(|(due_us, _)| *due_us);
        deadlines.chain(stalls).chain(storage).chain(merges).min()
    }

    pub fn pass(&mut self, us: u64) {
        self.now.mono_us += us;
        self.now.unix_ms = self.true_unix_ms().saturating_add_signed(self.clock_error_ms);
    }

    /// What a wall clock that is right shows.
    pub fn true_unix_ms(&self) -> u64 {
        UNIX_MS + self.now.mono_us / 1000
    }

    /// The server's wall clock steps, forwards or back.
    pub fn set_clock_error(&mut self, ms: i64) {
        self.clock_error_ms = ms;
        self.pass(0);
    }

    pub fn clock_error_ms(&self) -> i64 {
        self.clock_error_ms
    }

    /// A little time passes and most shards take a turn, in any order.
    pub fn step(&mut self) {
        let us = [0, 20, 300, 2_000][self.dice.below(4)];
        self.pass(us);
        self.take_turns();
    }

    /// Most shards take a turn, in any order.
    pub fn take_turns(&mut self) {
        self.answer_from_storage();
        self.merge_texts();
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        self.dice.shuffle(&mut order);
        for at in order {
            if self.dice.percent(80) {
                self.turn(at);
            }
        }
    }

    /// What a shard is told by the bus.
    pub fn tell(&mut self, shard: ShardId, events: Vec<BusEvent>) {
        let node = &mut self.nodes[shard.index()];
        node.awake = true;
        node.shard.mail(self.now, ShardId::EXTERNAL, Mail::Bus(events));
    }

    fn answer_from_storage(&mut self) {
        let Some(storage) = &mut self.storage else { return };
        for (shard, answers) in storage.step(self.now.mono_us, &mut self.dice) {
            let node = &mut self.nodes[shard.index()];
            node.awake = true;
            node.shard.mail(self.now, ShardId::EXTERNAL, Mail::Storage(answers));
        }
    }

    fn is_merging_nothing(&self) -> bool {
        self.merging.is_empty() && self.merges.waiting() == 0
    }

    fn merge_texts(&mut self) {
        let now_us = self.now.mono_us;
        while let Some(request) = self.merges.take() {
            let due_us = now_us + [0, 700, 20_000, 150_000][self.dice.below(4)];
            self.merging.push((due_us, request));
        }
        let due = self.merging.extract_if(.., |(due_us, _)| *due_us <= now_us);
        for (_, request) in due.collect::<Vec<_>>() {
            self.merged += 1;
            let node = &mut self.nodes[request.shard.index()];
            node.awake = true;
            let answer = Mail::TextMerged(Box::new(request.run()));
            node.shard.mail(self.now, ShardId::EXTERNAL, answer);
        }
    }

    fn turn(&mut self, at: usize) {
        self.accept(at);
        self.read(at);
        self.read_mail(at);
        let due = self.nodes[at]
            .shard
            .deadline_us()
            .is_some_and(|due| due <= self.now.mono_us);
        if std::mem::take(&mut self.nodes[at].awake) || due {
            let mut effects = std::mem::take(&mut self.effects);
            self.nodes[at].shard.turn(self.now, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(at, effect);
            }
            self.effects = effects;
        }
        self.write(at);
    }

    fn held_by(&mut self, at: usize) -> Vec<(usize, Slot)> {
        let place = |(socket, entry): (usize, &Socket)| match entry.place {
            Some((shard, slot)) if shard == at => Some((socket, slot)),
            _ => None,
        };
        let mut held: Vec<_> = self.sockets.iter().enumerate().filter_map(place).collect();
        self.dice.shuffle(&mut held);
        held
    }

    fn accept(&mut self, at: usize) {
        for socket in 0..self.sockets.len() {
            if self.sockets[socket].accept_at != Some(at) {
                continue;
            }
            self.sockets[socket].accept_at = None;
            let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, (socket % 200) as u8));
            self.nodes[at].awake = true;
            match self.nodes[at].shard.accepted(self.now, peer) {
                Some(slot) => self.settle(at, slot, socket, Flow::Continue),
                None => self.sockets[socket].closed = true,
            }
        }
    }

    fn settle(&mut self, at: usize, slot: Slot, socket: usize, flow: Flow) {
        let entries = &mut self.nodes[at].entries;
        if entries.len() <= slot.index() {
            entries.resize(slot.index() + 1, None);
        }
        assert!(
            entries[slot.index()].is_none(),
            "a slot that still has a socket was given out"
        );
        entries[slot.index()] = Some(socket);
        let socket = &mut self.sockets[socket];
        socket.place = Some((at, slot));
        socket.paused = flow == Flow::Pause;
        socket.inherited = !socket.unsent.is_empty();
        socket.wants_write = socket.inherited;
    }

    fn vacate(&mut self, at: usize, slot: Slot) -> Option<usize> {
        let socket = self.nodes[at].entries.get_mut(slot.index())?.take()?;
        self.sockets[socket].place = None;
        Some(socket)
    }

    fn read(&mut self, at: usize) {
        for (socket, slot) in self.held_by(at) {
            let entry = &mut self.sockets[socket];
            if entry.place != Some((at, slot)) {
                continue;
            }
            if entry.end == Some(ClientEnd::Reset) {
                self.end(at, slot, End::Error);
            } else if !entry.paused && !entry.to_server.is_empty() {
                let most = entry.to_server.len().min(READ_BYTES_MAX);
                let len = if self.dice.percent(25) {
                    1 + self.dice.below(most)
                } else {
                    most
                };
                let mut bytes: Vec<u8> = entry.to_server.drain(..len).collect();
                let node = &mut self.nodes[at];
                node.awake = true;
                if node.shard.received(self.now, slot, &mut bytes) == Flow::Pause {
                    entry.paused = true;
                }
            } else if !entry.paused && entry.end == Some(ClientEnd::Eof) {
                self.end(at, slot, End::Eof);
            }
        }
    }

    fn end(&mut self, at: usize, slot: Slot, end: End) {
        if let Some(socket) = self.vacate(at, slot) {
            self.sockets[socket].closed = true;
            self.nodes[at].awake = true;
            self.nodes[at].shard.ended(self.now, slot, end);
        }
    }

    fn read_mail(&mut self, at: usize) {
        let mut senders: Vec<usize> = (0..self.nodes.len()).collect();
        self.dice.shuffle(&mut senders);
        for from in senders {
            while self.pairs[from][at]
                .letters
                .front()
                .is_some_and(|letter| letter.0 <= self.now.mono_us)
            {
                let Some((_, letter)) = self.pairs[from][at].letters.pop_front() else {
                    break;
                };
                self.nodes[at].awake = true;
                match letter {
                    Letter::Mail(mail) => self.nodes[at].shard.mail(self.now, ShardId(from as u16), mail),
                    Letter::Parcel { socket, session } => self.adopt(at, socket, session),
                }
            }
        }
    }

    fn adopt(&mut self, at: usize, socket: usize, session: Moved) {
        let lost = self.sockets[socket].end == Some(ClientEnd::Reset);
        match self.nodes[at].shard.adopted(self.now, session) {
            Some((slot, _)) if lost => {
                self.sockets[socket].closed = true;
                self.nodes[at].shard.ended(self.now, slot, End::Error);
            }
            Some((slot, flow)) => self.settle(at, slot, socket, flow),
            None => self.sockets[socket].closed = true,
        }
    }

    fn carry_out(&mut self, at: usize, effect: ShardEffect) {
        let held = |nodes: &Vec<Node>, slot: Slot| nodes[at].entries.get(slot.index()).copied().flatten();
        match effect {
            Effect::Write(slot) => {
                if let Some(socket) = held(&self.nodes, slot) {
                    self.sockets[socket].wants_write = true;
                }
            }
            Effect::Close(slot) => {
                if let Some(socket) = self.vacate(at, slot) {
                    self.sockets[socket].closed = true;
                }
            }
            Effect::Resume(slot) => {
                if let Some(socket) = held(&self.nodes, slot) {
                    self.sockets[socket].paused = false;
                }
            }
            Effect::Move { slot, to, session } => {
                assert_ne!(to.index(), at, "a move to where it is");
                let socket = self.vacate(at, slot).expect("sockets end before the turn, not in it");
                self.post(at, to, Letter::Parcel { socket, session });
            }
            Effect::Mail { to, mail } => {
                assert_ne!(to.index(), at, "mail to itself");
                self.post(at, to, Letter::Mail(mail));
            }
        }
    }

    fn post(&mut self, from: usize, to: ShardId, letter: Letter) {
        let due_us = self.now.mono_us + self.dice.below(self.delay_us_max) as u64;
        let pair = &mut self.pairs[from][to.index()];
        pair.last_due_us = pair.last_due_us.max(due_us);
        pair.letters.push_back((pair.last_due_us, letter));
    }

    fn write(&mut self, at: usize) {
        for (socket, slot) in self.held_by(at) {
            let entry = &mut self.sockets[socket];
            if !entry.wants_write || entry.place != Some((at, slot)) {
                continue;
            }
            if entry.unsent.is_empty() {
                let most = if self.dice.percent(20) {
                    1 + self.dice.below(2_000)
                } else {
                    SEND_BYTES_MAX
                };
                entry.unsent.extend(self.nodes[at].shard.take_outgoing(slot, most));
                if entry.unsent.is_empty() {
                    entry.wants_write = false;
                    continue;
                }
            }
            let waiting: usize = entry.unsent.iter().map(Bytes::len).sum();
            let room = match self.dice.below(4) {
                _ if entry.stalled_until_us > self.now.mono_us => 0,
                0 => self.dice.below(waiting + 1),
                _ => waiting,
            };
            let room = room.min(entry.vanishing.unwrap_or(usize::MAX));
            let mut left = room;
            while left > 0 {
                let piece = entry.unsent.front_mut().expect("counted above");
                let part = piece.split_to(left.min(piece.len()));
                left -= part.len();
                let seen = &part[..part.len().min(FINGERPRINT_BYTES)];
                let facts = [socket as u64, self.now.mono_us, part.len() as u64];
                for fact in facts.into_iter().chain(seen.iter().map(|byte| u64::from(*byte))) {
                    self.fingerprint = (self.fingerprint ^ fact).wrapping_mul(0x100_0000_01b3).rotate_left(5);
                }
                if entry.vanishing.is_none() {
                    entry.to_client.extend_from_slice(&part);
                }
                if piece.is_empty() {
                    entry.unsent.pop_front();
                }
            }
            entry.unsent.retain(|piece| !piece.is_empty());
            if let Some(taken) = &mut entry.vanishing {
                *taken -= room;
                if *taken == 0 {
                    entry.stalled_until_us = u64::MAX;
                }
            }
            let done = entry.unsent.is_empty();
            let told = !entry.inherited && (room > 0 || done);
            entry.inherited &= !done;
            if told {
                self.nodes[at].awake = true;
                self.nodes[at].shard.sent(self.now, slot, room, done);
            }
        }
    }
}
