//! Several nodes behave as one, whatever the bus between them does: real shards of two to four nodes with simulated clock,
//! mesh, sockets, bus and, in half of the runs, one simulated database for all. The bus delays, loses, repeats and reorders
//! envelopes, refuses them while its queue is full, and goes away for some nodes; nodes crash and start again; clients of all
//! four kinds write, count, come back at other nodes. When the faults have stopped and digests went round, everybody must
//! agree: clients of every node, late joiners at every node, counters, presence, and the database with what was
//! acknowledged.
//!
//! A failure names its seed; `SIM_SEED=n` runs that seed alone, `SIM_SEEDS=n` that many from 0.

#[path = "support/frame.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod frame;
#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/mutations.rs"]
mod mutations;
#[path = "support/node_histories.rs"]
mod node_histories;
#[path = "support/sdk_model.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod sdk_model;
#[path = "support/sim_peer.rs"]
mod sim_peer;
#[path = "support/simulated_bus.rs"]
mod simulated_bus;
#[path = "support/simulated_storage.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod simulated_storage;
#[path = "support/text_client.rs"]
mod text_client;
#[path = "support/trace.rs"]
mod trace;

use mesh::{Dice, World};
use serde_json::Value;
use sim_peer::{Kind, Peer, Stand, assert_text_holds, same_fields};
use simulated_bus::{Faults, SimulatedBus};
use simulated_storage::{SimulatedStorage, Table};
use std::collections::{BTreeMap, BTreeSet};

/// Seeds of an ordinary run.
const SEEDS: u64 = 200;
const DOCUMENTS: [&str; 3] = ["red", "green", "blue"];
const PRESENCE_TIMEOUT_MS: u64 = 6_000;
const DIGEST_INTERVAL_MS: u64 = 1_000;
/// The bound of an outbox, and the longest message here.
const OUTBOX_BYTES_MAX: usize = (8 << 20) + (1 << 20);
/// A connection that ended without a word is noticed by its silence, or by what it does not take.
const NOTICED_US_MAX: u64 = 95_000_000;
/// Every document is announced once in this time.
const SWEEP_US: u64 = 60_000_000;

/// What happened at all, so that a run in which nothing happens is not taken for a success.
#[derive(Debug, Default)]
struct Seen {
    writes: usize,
    delivered: usize,
    lost: usize,
    repeated: usize,
    crashes: usize,
    interruptions: usize,
    refused: usize,
    formatted: usize,
    counts: usize,
    taken_back: usize,
    /// Connections that were cut without the server being told.
    half_open: usize,
    clock_steps: usize,
    walled: usize,
    texts: usize,
}

struct Run {
    dice: Dice,
    worlds: Vec<World>,
    /// Which node each client is at.
    peers: Vec<(usize, Peer)>,
    bus: SimulatedBus,
    /// The rows of the one database.
    table: Option<Table>,
    shards: u16,
    lives: u64,
    crashes: bool,
    /// Queues are full for a while.
    refuses: bool,
    /// Wall clocks are wrong and are set, nodes cannot hear each other, and connections end without a word. Not in all
    /// runs, so that seeds that once found mistakes are the runs they were.
    is_harsh: bool,
    digest_interval_ms: u64,
    /// Until when a node may not have noticed that a client is gone.
    unnoticed_until_us: u64,
    half_open: usize,
    /// What was counted by acknowledged operations, and by all.
    counts: usize,
    counted: BTreeMap<&'static str, f64>,
}

fn variables(digest_interval_ms: u64) -> [(&'static str, String); 5] {
    [
        ("SYNCKIT_AUTH_REQUIRED", "false".to_owned()),
        ("REDIS_URL", "redis://simulated".to_owned()),
        ("SYNCKIT_DIGEST_INTERVAL", digest_interval_ms.to_string()),
        ("AWARENESS_TIMEOUT_MS", PRESENCE_TIMEOUT_MS.to_string()),
        ("SYNCKIT_MAX_MESSAGES_PER_MINUTE", "1000000".to_owned()),
    ]
}

impl Run {
    fn new(seed: u64) -> Self {
        Self::with_digests_every(DIGEST_INTERVAL_MS, seed)
    }

    fn with_digests_every(digest_interval_ms: u64, seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let nodes = 2 + dice.below(3);
        let shards = [1, 2][dice.below(2)];
        let mut run = Self {
            bus: SimulatedBus::new(nodes, shards),
            worlds: Vec::new(),
            peers: Vec::new(),
            table: seed.is_multiple_of(2).then(Table::new),
            shards,
            lives: 0,
            crashes: seed.is_multiple_of(3),
            refuses: seed % 4 == 3,
            is_harsh: seed % 5 == 1,
            digest_interval_ms,
            unnoticed_until_us: 0,
            half_open: 0,
            counts: 0,
            counted: BTreeMap::new(),
            dice,
        };
        for node in 0..nodes {
            let world = run.start(node);
            run.worlds.push(world);
        }
        let kinds = [Kind::Json, Kind::Binary, Kind::Sdk, Kind::Goc];
        let count = 4 + run.dice.below(4);
        for number in 0..count {
            let node = run.dice.below(nodes);
            run.peers.push((node, Peer::new(number, kinds[number % 4], seed)));
        }
        run
    }

    fn start(&mut self, node: usize) -> World {
        self.lives += 1;
        let storage = self.table.as_ref().map(|_| SimulatedStorage::over(Table::new()));
        let link = self.bus.link(node, self.lives);
        let seed = self.dice.roll();
        let mut world = World::among_nodes(
            seed,
            self.shards,
            &variables(self.digest_interval_ms),
            storage,
            Some(link),
        );
        if let Some(other) = self.worlds.first() {
            world.pass(other.now.mono_us - world.now.mono_us);
        }
        // Wall clocks of nodes differ, and one that starts again keeps its own.
        let clock_error_ms = match self.worlds.get(node) {
            Some(before) => before.clock_error_ms(),
            None => self.clock_error_ms(),
        };
        world.set_clock_error(clock_error_ms);
        world
    }

    /// How far a wall clock is off: by at most so much that nothing is kept for less than it must be.
    fn clock_error_ms(&mut self) -> i64 {
        const HOUR_MS: i64 = 3_600_000;
        match self.is_harsh {
            true => [0, -3, 700, -5_000, 600_000, -HOUR_MS, 11 * HOUR_MS, -11 * HOUR_MS][self.dice.below(8)],
            false => 0,
        }
    }

    fn now_us(&self) -> u64 {
        self.worlds[0].now.mono_us
    }

    fn pass(&mut self, us: u64) {
        self.worlds.iter_mut().for_each(|world| world.pass(us));
    }

    /// A little time passes and everybody takes a turn. Returns whether a client got anything.
    fn step(&mut self) -> bool {
        let us = [20, 300, 2_000][self.dice.below(3)];
        self.pass(us);
        let now_us = self.now_us();
        for world in &mut self.worlds {
            // All nodes have one database.
            if let (Some(table), Some(storage)) = (&mut self.table, &mut world.storage) {
                std::mem::swap(table, &mut storage.table);
            }
            world.take_turns();
            if let (Some(table), Some(storage)) = (&mut self.table, &mut world.storage) {
                std::mem::swap(table, &mut storage.table);
            }
        }
        self.bus.step(now_us, &mut self.dice, &mut self.worlds);
        let mut any = false;
        for (node, peer) in &mut self.peers {
            any |= peer.take_in(&mut self.worlds[*node]);
        }
        for shard in self.worlds.iter().flat_map(World::shards) {
            let most = shard.census().outbox_bytes_max;
            assert!(most <= OUTBOX_BYTES_MAX, "{most} bytes wait for one connection");
        }
        any
    }

    /// Lets time pass until nothing has happened to the clients for so long.
    fn settle(&mut self, quiet_us: u64) {
        let mut until = self.now_us() + quiet_us;
        for _ in 0..200_000 {
            let owed = self
                .peers
                .iter()
                .any(|(_, peer)| peer.is_online() && !peer.is_owed_nothing());
            if self.step() || owed {
                until = until.max(self.now_us() + 200_000);
            }
            if !self.worlds.iter().all(World::is_idle) {
                continue;
            }
            let now_us = self.now_us();
            if now_us >= until {
                return;
            }
            let next = self
                .worlds
                .iter()
                .filter_map(World::next_us)
                .chain(self.bus.next_us())
                .min();
            let next_us = next.unwrap_or(until).min(until);
            self.pass(next_us.saturating_sub(now_us));
        }
        let owed: Vec<String> = self
            .peers
            .iter()
            .map(|(_, peer)| format!("{}: {}", peer.id, peer.owed()))
            .collect();
        panic!("never quiet; answers owed {owed:#?}");
    }

    fn act(&mut self) {
        let at = self.dice.below(self.peers.len());
        let document = DOCUMENTS[self.dice.below(DOCUMENTS.len())];
        let what = self.dice.below(100);
        let nodes = self.worlds.len();
        let (now_us, (node, peer)) = (self.now_us(), &self.peers[at]);
        if !trace::act(|| {
            format!(
                "{now_us:>10} us: {} ({:?}) at node {node}, {document}: {what} of 100",
                peer.id, peer.kind
            )
        }) {
            return;
        }
        if !self.peers[at].1.is_online() {
            if self.peers[at].1.socket.is_none() {
                let node = self.dice.below(nodes);
                self.peers[at].0 = node;
                self.peers[at].1.connect(&mut self.worlds[node], true);
            }
            return;
        }
        let (node, peer) = &mut self.peers[at];
        let world = &mut self.worlds[*node];
        match what {
            0..=24 => peer.write_unique(world, document, 20),
            25..=44 => peer.write_shared(world, document),
            45..=54 => peer.edit_text(world, document),
            55..=60 => {
                let counted = peer.count(world, document);
                self.counts += usize::from(counted != 0.0);
                *self.counted.entry(document).or_default() += counted;
            }
            61..=64 => peer.change_set(world, document, 1 + what % 4),
            65..=72 => peer.subscribe(world, document),
            73..=82 => peer.tell_presence(world, document),
            83..=87 => peer.watch_presence(world, document),
            88..=89 => peer.unsubscribe(world, document),
            90..=93 => {
                let in_order = self.dice.percent(50);
                peer.vanish(world, in_order);
            }
            94 => peer.leave(world),
            95 if self.is_harsh => {
                peer.lose_touch(world);
                self.half_open += 1;
                self.unnoticed_until_us = world.now.mono_us + NOTICED_US_MAX;
            }
            96..=97 if self.is_harsh => peer.write_own(world, document),
            _ => {}
        }
    }

    /// Something breaks, or stops being broken.
    fn trouble(&mut self, seen: &mut Seen) {
        let now_us = self.now_us();
        match self.dice.below(60) {
            0 => {
                self.bus.faults = Faults {
                    lost: [0, 5, 30][self.dice.below(3)],
                    repeated: [0, 5, 30][self.dice.below(3)],
                    late: [0, 5, 30][self.dice.below(3)],
                }
            }
            1 => {
                let node = self.dice.below(self.worlds.len());
                let us = [10_000, 500_000, 3_000_000][self.dice.below(3)];
                self.bus.interrupt(node, now_us + us);
                seen.interruptions += 1;
            }
            2 if self.crashes => {
                let node = self.dice.below(self.worlds.len());
                self.crash(node);
                seen.crashes += 1;
            }
            3 if self.refuses => {
                let node = self.dice.below(self.worlds.len());
                let us = [10_000, 500_000, 5_000_000][self.dice.below(3)];
                self.bus.refuse(node, now_us + us);
            }
            4 if self.is_harsh => {
                let (from, to) = (self.dice.below(self.worlds.len()), self.dice.below(self.worlds.len()));
                let us = [50_000, 1_000_000, 8_000_000][self.dice.below(3)];
                self.bus.part(from, to, now_us + us);
                if self.dice.percent(50) {
                    self.bus.part(to, from, now_us + us);
                }
            }
            5 if self.is_harsh => {
                let (node, ms) = (self.dice.below(self.worlds.len()), self.clock_error_ms());
                self.worlds[node].set_clock_error(ms);
                seen.clock_steps += 1;
            }
            _ => {}
        }
    }

    /// A node is gone with everything it knew, and another one starts in its place.
    fn crash(&mut self, node: usize) {
        for (at, peer) in &mut self.peers {
            if *at == node {
                peer.vanish(&mut self.worlds[node], false);
            }
        }
        let mut world = self.start(node);
        world.pass(self.worlds[node].now.mono_us - world.now.mono_us);
        self.worlds[node] = world;
    }

    fn play(&mut self, seen: &mut Seen) {
        for _ in 0..150 + self.dice.below(200) {
            self.act();
            self.trouble(seen);
            for _ in 0..self.dice.below(4) {
                self.step();
            }
            if self.dice.percent(3) {
                let us = [50_000, 400_000, 1_500_000][self.dice.below(3)];
                self.settle(us);
            }
        }
    }

    /// Faults stop, everybody is connected and has subscribed to everything, and digests go round.
    fn gather(&mut self) {
        self.bus.mend();
        let nodes = self.worlds.len();
        for _ in 0..40 {
            self.settle(1_000);
            let mut all_in = true;
            for at in 0..self.peers.len() {
                if self.peers[at].1.socket.is_none() {
                    let node = self.dice.below(nodes);
                    self.peers[at].0 = node;
                    self.peers[at].1.connect(&mut self.worlds[node], false);
                }
                let (node, peer) = &mut self.peers[at];
                let world = &mut self.worlds[*node];
                let outside =
                    |document: &&&str| !peer.copies.get(**document).is_some_and(|copy| copy.stand == Stand::In);
                if !peer.is_online() {
                    all_in = false;
                } else if let Some(document) = DOCUMENTS.iter().find(outside) {
                    peer.subscribe(world, document);
                    all_in = false;
                } else {
                    for document in DOCUMENTS {
                        if !peer.copies[document].watches_presence {
                            peer.watch_presence(world, document);
                        }
                    }
                }
            }
            if all_in {
                break;
            }
        }
        let noticed_us = self.unnoticed_until_us.saturating_sub(self.now_us());
        self.settle(noticed_us);
        // Where a third of everything is lost, all three announcements of a change may be; then the sweep finds it.
        self.settle(SWEEP_US + (4 * DIGEST_INTERVAL_MS + 2 * PRESENCE_TIMEOUT_MS) * 1000);
        if self.is_harsh {
            self.ask_again();
        }
        for (_, peer) in &self.peers {
            assert!(
                peer.is_online() && peer.is_owed_nothing(),
                "{} is owed {}",
                peer.id,
                peer.owed()
            );
        }
    }

    /// An SDK client that came to a node whose clock is behind, before that node had heard of what the client knew, may
    /// still show an old value of a field. It shows the right one as soon as it asks.
    fn ask_again(&mut self) {
        for document in DOCUMENTS {
            for (node, peer) in &mut self.peers {
                if peer.kind == Kind::Sdk {
                    peer.ask_again(&mut self.worlds[*node], document);
                }
            }
            self.settle(100_000);
        }
    }

    /// All clients, and late joiners at all nodes, have the same.
    fn agree(&mut self) {
        for document in DOCUMENTS {
            let lates: Vec<Peer> = (0..self.worlds.len())
                .map(|node| self.late_joiner(node, document))
                .collect();
            for (node, late) in lates.iter().enumerate() {
                let same = |what: &str, one: String, other: String| {
                    assert_eq!(one, other, "{what} of {document} at nodes {node} and 0");
                };
                let (copy, first) = (&late.copies[document], &lates[0].copies[document]);
                same_fields(&format!("node {node}, {document}"), &copy.fields, &first.fields);
                same(
                    "text",
                    format!("{:?}", copy.text.blocks),
                    format!("{:?}", first.text.blocks),
                );
                same(
                    "presence",
                    format!("{:?}", copy.presence),
                    format!("{:?}", first.presence),
                );
            }
            self.agree_on(document, &lates[0]);
        }
        self.agree_on_counters();
    }

    fn late_joiner(&mut self, node: usize, document: &str) -> Peer {
        let mut late = Peer::new(90 + node, Kind::Binary, 1);
        late.connect(&mut self.worlds[node], false);
        late.subscribe(&mut self.worlds[node], document);
        self.peers.push((node, late));
        self.settle(100_000);
        let (_, late) = self.peers.last_mut().expect("just pushed");
        late.watch_presence(&mut self.worlds[node], document);
        self.settle(100_000);
        let (_, mut late) = self.peers.pop().expect("just pushed");
        assert!(late.is_owed_nothing(), "the late joiner is owed {}", late.owed());
        late.vanish(&mut self.worlds[node], false);
        late
    }

    fn agree_on(&self, document: &str, late: &Peer) {
        let truth = &late.copies[document];
        let mut names: BTreeSet<String> = truth.fields.keys().cloned().collect();
        names.extend((0..5).map(|shared| format!("s{shared}")));
        let peers = || self.peers.iter().map(|(_, peer)| peer);
        // Without a database what only a crashed node knew is gone.
        let kept = self.table.is_some() || !self.crashes;
        let written = peers().flat_map(|peer| &peer.acknowledged);
        for write in written.filter(|write| kept && write.document == document) {
            for (field, value) in &write.unique {
                let found = truth.fields.get(field);
                assert_eq!(
                    found,
                    Some(value),
                    "the acknowledged write of {field} in {document} is missing"
                );
                names.insert(field.clone());
            }
            assert_text_holds(write, &truth.text.blocks);
        }
        let names: Vec<String> = names.into_iter().collect();
        for peer in peers() {
            let copy = &peer.copies[document];
            let who = format!("{} ({:?}), {document}", peer.id, peer.kind);
            // A change is told before it is stored, so a crash may leave clients with what no server knows; only the field
            // copies of RAW clients are replaced when they come back.
            let keeps = !matches!(peer.kind, Kind::Json | Kind::Binary);
            if !self.crashes || !keeps {
                same_fields(&who, &peer.shown(document, &names), &truth.fields);
            }
            if peer.kind == Kind::Goc {
                continue;
            }
            if !self.crashes {
                assert_eq!(copy.text.blocks, truth.text.blocks, "text of {who}");
                assert_eq!(copy.text.shown(), truth.text.shown(), "text of {who}");
            }
            let others = |presence: &BTreeMap<String, Value>| {
                let mut others = presence.clone();
                others.remove(&peer.id);
                others
            };
            assert_eq!(others(&copy.presence), others(&truth.presence), "presence of {who}");
        }
    }

    /// The database holds what the nodes held: all of them end, and new ones show the same.
    fn agree_with_the_database(&mut self) {
        if self.table.is_none() {
            return;
        }
        let before: Vec<Peer> = DOCUMENTS.iter().map(|document| self.late_joiner(0, document)).collect();
        for node in 0..self.worlds.len() {
            self.crash(node);
        }
        self.peers.clear();
        for (document, before) in DOCUMENTS.iter().zip(before) {
            let after = self.late_joiner(0, document);
            let (after, before) = (&after.copies[*document], &before.copies[*document]);
            same_fields(&format!("{document} after a restart"), &after.fields, &before.fields);
            assert_eq!(
                after.text.blocks, before.text.blocks,
                "text of {document} after a restart"
            );
        }
    }

    /// Every node that has a counter has the same, and it is what was counted where nothing was lost.
    fn agree_on_counters(&self) {
        let mut known: BTreeMap<String, f64> = BTreeMap::new();
        for shard in self.worlds.iter().flat_map(World::shards) {
            for (document, value) in shard.census().counters {
                let first = *known.entry(document.to_string()).or_insert(value);
                assert_eq!(first, value, "counter of {document}");
            }
        }
    }
}

/// Seeds of `all_nodes_agree_after_any_history` that found mistakes. 3942, 5994: what a node had stored, but nobody heard
/// before it died, reached the others only when they stored something themselves.
const SEEDS_WITH_HISTORY: [u64; 2] = [3942, 5994];

/// Seeds of `counters_count_every_operation_once` that found mistakes, whatever is played otherwise. 144: a question that
/// had to wait because earlier ones brought no answer held up the one about a digest that differed.
const COUNTER_SEEDS: [u64; 1] = [144];
/// 1718: the answer of one node called off the question about what another had said, so that a gap stayed until the digests.
const GAP_SEEDS: [u64; 1] = [1718];

/// Compares field by field: a difference is named without printing whole documents.
fn simulate(seed: u64, seen: &mut Seen) {
    let mut run = Run::new(seed);
    // The simulated database may pause longer than a server waits for it.
    run.peers.iter_mut().for_each(|(_, peer)| peer.may_be_refused = true);
    run.play(seen);
    run.gather();
    run.agree();
    seen.writes += run.peers.iter().map(|(_, peer)| peer.acknowledged.len()).sum::<usize>();
    seen.counts += run.counts;
    seen.delivered += run.bus.delivered;
    seen.lost += run.bus.lost;
    seen.repeated += run.bus.repeated;
    seen.refused += run.bus.refused();
    seen.walled += run.bus.walled;
    seen.half_open += run.half_open;
    let writes = run.peers.iter().flat_map(|(_, peer)| &peer.acknowledged);
    seen.texts += writes.filter(|write| !write.characters.is_empty()).count();
    run.agree_with_the_database();
}

/// One of so many of the seeds of an ordinary run, or the one that was asked for.
fn seeds_by(divisor: u64) -> std::ops::Range<u64> {
    match trace::number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..trace::number("SIM_SEEDS").unwrap_or(SEEDS) / divisor,
    }
}

fn play_all(seeds: std::ops::Range<u64>, play: fn(u64, &mut Seen)) -> Seen {
    mutations::choose_from_environment();
    let (mut seen, explained) = (Seen::default(), !mutations::is_chosen());
    for seed in seeds {
        trace::play(&format!("seed {seed}: SIM_SEED={seed}"), explained, &mut seen, |seen| {
            play(seed, seen)
        });
    }
    eprintln!("{seen:?}");
    seen
}

#[test]
fn all_nodes_agree_after_any_history() {
    let seeds = seeds_by(1);
    let whole = trace::number("SIM_SEED").is_none() && seeds.end >= SEEDS;
    let seen = play_all(seeds, simulate);
    if whole {
        let all = seen.writes > 1000 && seen.delivered > 10_000 && seen.lost > 100 && seen.repeated > 100;
        let all = all && seen.crashes > 10 && seen.interruptions > 10 && seen.refused > 100 && seen.counts > 100;
        let all = all && seen.half_open > 20 && seen.clock_steps > 20 && seen.walled > 100 && seen.texts > 100;
        assert!(all, "the simulation does not reach what it is for: {seen:?}");
    }
    for seed in SEEDS_WITH_HISTORY {
        play_all(seed..seed + 1, simulate);
    }
}

/// What a seed did once it does again, to the byte and the microsecond.
#[test]
fn a_seed_is_the_same_run_every_time() {
    let fingerprint = |seed: u64| {
        trace::begin(usize::MAX);
        let mut run = Run::new(seed);
        run.peers.iter_mut().for_each(|(_, peer)| peer.may_be_refused = true);
        run.play(&mut Seen::default());
        run.gather();
        run.worlds
            .iter()
            .fold(0, |all: u64, world| all.rotate_left(7) ^ world.fingerprint)
    };
    let mut seen = BTreeSet::new();
    for seed in 0..6 {
        let first = fingerprint(seed);
        assert_eq!(first, fingerprint(seed), "seed {seed}");
        seen.insert(first);
    }
    assert_eq!(seen.len(), 6, "different seeds are different runs");
}

/// Whoever asks a node that has just started, and knows nobody yet, soon gets what the others hold.
#[test]
fn a_node_that_has_just_started_learns_what_the_others_hold() {
    play_all(seeds_by(10), node_histories::a_newcomer_asks);
}

/// A lost change is noticed by the next one that arrives, long before any digest.
#[test]
fn a_gap_is_repaired_without_digests() {
    let seen = play_all(seeds_by(10), node_histories::changes_are_lost_without_digests);
    assert!(seen.lost > 20, "nothing was lost: {seen:?}");
    for seed in GAP_SEEDS {
        play_all(seed..seed + 1, node_histories::changes_are_lost_without_digests);
    }
}

/// A counter is exact: every client that was there all the time has been told every operation once, however often
/// envelopes were lost and came again.
#[test]
fn counters_count_every_operation_once() {
    play_all(seeds_by(4), node_histories::everybody_counts);
    for seed in COUNTER_SEEDS {
        play_all(seed..seed + 1, node_histories::everybody_counts);
    }
}

/// A batch that a client says at two nodes, because it never heard the first one's answer, counts once, whatever the bus
/// does between them: one of the nodes takes it back, and everybody is told.
#[test]
fn a_batch_said_at_two_nodes_counts_once() {
    let whole = trace::number("SIM_SEED").is_none();
    let seen = play_all(seeds_by(10), node_histories::batches_are_said_twice);
    assert!(!whole || seen.taken_back > 20, "no node took anything back: {seen:?}");
}

/// What a node's full queue did not take, changes, questions and answers alike, is made up for with the next digests after
/// it takes something again, and not only by the round over all documents.
#[test]
fn what_a_full_queue_refuses_is_made_up_for_soon() {
    let whole = trace::number("SIM_SEED").is_none();
    let seen = play_all(seeds_by(4), node_histories::queues_are_full_for_a_while);
    assert!(!whole || seen.refused > 100, "nothing was refused: {seen:?}");
}

/// A node that lost count of a document, because it unloaded it or started again under the name it had, begins anew, and
/// the others do not take its first changes for old ones: what no state holds reaches everybody once.
#[test]
fn a_document_made_anew_is_heard_from_its_first_change() {
    let whole = trace::number("SIM_SEED").is_none();
    let seen = play_all(seeds_by(10), node_histories::a_node_begins_anew);
    assert!(!whole || seen.formatted > 20, "nothing was formatted: {seen:?}");
}

/// The check of the checks among nodes.
#[test]
fn every_deliberate_breakage_is_noticed() {
    mutations::every_one_is_noticed(
        true,
        60,
        &[
            "a_gap_is_repaired_without_digests",
            "counters_count_every_operation_once",
            "what_a_full_queue_refuses_is_made_up_for_soon",
            "a_document_made_anew_is_heard_from_its_first_change",
            "all_nodes_agree_after_any_history",
        ],
    );
}
