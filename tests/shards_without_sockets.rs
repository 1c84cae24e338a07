//! Real shards with everything around them simulated (no socket, thread or clock): all kinds of clients write, stall,
//! vanish and come back on several documents over 1, 2 and 5 shards, and then everybody must agree.
//!
//! Every third seed has a simulated database, slow, pausing, with a short queue and other servers writing its rows; and
//! in a test of its own the shards vanish at any moment and new ones must have everything that was acknowledged.
//!
//! What is checked is listed at `agree` and `part`. A failure names seed and shard count; `SIM_SEED=n` runs that seed
//! alone, `SIM_SEEDS=n` that many from 0.

#[path = "support/frame.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod frame;
#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/mutations.rs"]
mod mutations;
#[path = "support/sdk_model.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod sdk_model;
#[path = "support/shard_troubles.rs"]
mod shard_troubles;
#[path = "support/sim_peer.rs"]
mod sim_peer;
#[path = "support/simulated_storage.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod simulated_storage;
#[path = "support/text_client.rs"]
mod text_client;
#[path = "support/trace.rs"]
mod trace;

use mesh::World;
use serde_json::Value;
use sim_peer::{Kind, Peer, Stand, assert_text_holds, is_tombstone, same_fields};
use simulated_storage::{SimulatedStorage, Table};
use std::collections::{BTreeMap, BTreeSet};

/// Seeds of an ordinary run; each is played with every number of shards.
const SEEDS: u64 = 300;
/// The same for crashes.
const CRASH_SEEDS: u64 = 100;
const SHARDS: [u16; 3] = [1, 2, 5];
/// `PRESENCE` sees no write, so it must be forgotten at the end.
const DOCUMENTS: [&str; 4] = ["red", "green", "blue", PRESENCE];
const PRESENCE: &str = "presence";
const PRESENCE_TIMEOUT_MS: u64 = 3_000;
/// A connection that ended without a word is noticed by its silence, or by what it does not take.
const NOTICED_US_MAX: u64 = 95_000_000;
/// For so long a server does not try again to store a document that the database has refused.
const REFUSED_US: u64 = 11_000_000;
/// Budget of all documents in memory, where they have rows that they can be loaded from again.
const DOCUMENT_MEMORY_BYTES: usize = 1 << 20;
/// Longest message the clients cause, with room for its wrapping: one message may exceed the bound of an outbox.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// What happened at all, so that a run in which nothing happens is not taken for a success.
#[derive(Debug, Default)]
struct Seen {
    writes: usize,
    slow_consumers: usize,
    coalesced: u64,
    drained: usize,
    relayed: usize,
    commits: usize,
    loads: usize,
    conflicts: usize,
    texts_merged_elsewhere: usize,
    /// Connections that were cut without the server being told.
    half_open: usize,
    clock_steps: usize,
    /// Documents and rows that the database refused.
    refused: usize,
    /// When it was away for long, and answers that said so.
    outages: usize,
    refusals: usize,
    /// Texts and deletions among what was acknowledged.
    texts: usize,
    deletions: usize,
    waited_us_max: u64,
}

impl Seen {
    fn add(&mut self, run: &Run) {
        let writes = || run.peers.iter().flat_map(|peer| &peer.acknowledged);
        self.writes += writes().count();
        self.texts += writes().filter(|write| !write.characters.is_empty()).count();
        let deleted = writes()
            .flat_map(|write| &write.unique)
            .filter(|(_, value)| is_tombstone(value));
        self.deletions += deleted.count();
        self.half_open += run.half_open;
        self.outages += run.outages;
        self.refusals += run.peers.iter().map(|peer| peer.refusals).sum::<usize>();
        self.clock_steps += run.clock_steps;
        let waited = run
            .peers
            .iter()
            .filter(|peer| !peer.is_throttled)
            .map(|peer| peer.waited_us_max);
        self.waited_us_max = self.waited_us_max.max(waited.max().unwrap_or_default());
    }
}

struct Run {
    world: World,
    peers: Vec<Peer>,
    queue_bytes: usize,
    /// Its database, if it has one, does so while clients act.
    storage_fails: bool,
    half_open: usize,
    clock_steps: usize,
    outages: usize,
    /// Until when the server may not have noticed that a client is gone, or does not try the database again.
    unnoticed_until_us: u64,
}

impl Run {
    fn new(seed: u64, shards: u16) -> Self {
        let queue_bytes = [65_536, 300_000, 1_000_000, 8_000_000][(seed % 4) as usize];
        let per_minute = if seed % 5 == 4 { 60 } else { 1_000_000 };
        Self::over(seed, shards, queue_bytes, per_minute, seed % 3 == 2)
    }

    fn over(seed: u64, shards: u16, queue_bytes: usize, per_minute: u32, durable: bool) -> Self {
        let storage_fails = seed % 2 == 1;
        let storage = durable.then(|| SimulatedStorage::over(Table::new()));
        let variables = variables(queue_bytes, per_minute);
        let mut world = World::with_storage(seed, shards, &variables, storage);
        let kinds = [Kind::Json, Kind::Binary, Kind::Sdk, Kind::Goc];
        let count = 4 + world.dice.below(6);
        let peers = (0..count)
            .map(|number| {
                let mut peer = Peer::new(number, kinds[number % 4], seed);
                peer.is_throttled = per_minute < 1_000_000;
                peer.may_be_refused = durable;
                peer.storage_goes_away = durable && storage_fails;
                peer
            })
            .collect();
        Self {
            world,
            peers,
            queue_bytes,
            storage_fails,
            half_open: 0,
            clock_steps: 0,
            outages: 0,
            unnoticed_until_us: 0,
        }
    }

    fn step(&mut self) -> bool {
        self.world.step();
        self.take_in()
    }

    fn take_in(&mut self) -> bool {
        let mut any = false;
        for peer in &mut self.peers {
            any |= peer.take_in(&mut self.world);
        }
        for shard in self.world.shards() {
            let census = shard.census();
            let most = census.outbox_bytes_max;
            assert!(
                most <= self.queue_bytes + MESSAGE_BYTES_MAX,
                "{most} bytes wait for one connection"
            );
            assert_eq!(
                census.document_bytes, census.document_bytes_counted,
                "the shard's account of its documents' memory is wrong"
            );
        }
        any
    }

    /// Lets time pass until nothing happens any more within the time given.
    fn settle(&mut self, quiet_us: u64) {
        let mut until = self.world.now.mono_us + quiet_us;
        for _ in 0..200_000 {
            if self.step()
                || self
                    .peers
                    .iter()
                    .any(|peer| peer.is_online() && !peer.is_owed_nothing())
            {
                until = until.max(self.world.now.mono_us + 100_000);
            }
            if !self.world.is_idle() {
                continue;
            }
            let now_us = self.world.now.mono_us;
            if now_us >= until {
                return;
            }
            let next_us = self.world.next_us().unwrap_or(until).min(until);
            self.world.pass(next_us.saturating_sub(now_us));
        }
        let owed: Vec<String> = self
            .peers
            .iter()
            .map(|peer| format!("{}: {}", peer.id, peer.owed()))
            .collect();
        panic!("never quiet; answers owed {owed:#?}");
    }

    fn act(&mut self) {
        let at = self.world.dice.below(self.peers.len());
        let dice = &mut self.world.dice;
        let document = DOCUMENTS[dice.below(DOCUMENTS.len())];
        let written = document != PRESENCE;
        let what = dice.below(100);
        let bytes = if dice.percent(6) {
            self.queue_bytes.min(1_000_000) / 100 + dice.below(self.queue_bytes.min(1_000_000) / 40)
        } else {
            dice.below(40)
        };
        let world = &mut self.world;
        let peer = &mut self.peers[at];
        if !trace::act(|| {
            format!(
                "{:>10} us: {} ({:?}), {document}: {what} of 100, {bytes} bytes",
                world.now.mono_us, peer.id, peer.kind
            )
        }) {
            return;
        }
        if !peer.is_online() {
            if peer.socket.is_none() {
                peer.connect(world, true);
            }
            return;
        }
        match what {
            0..=3 if written => peer.write_own(world, document),
            4..=5 if written => peer.delete_unique(world, document),
            0..=29 if written => peer.write_unique(world, document, bytes),
            30..=49 if written => peer.write_shared(world, document),
            50..=57 if written => peer.edit_text(world, document),
            58..=60 if written => peer.change_set(world, document, bytes / 2),
            0..=60 => peer.subscribe(world, document),
            61..=70 => peer.subscribe(world, document),
            71..=78 => peer.tell_presence(world, document),
            79..=83 => peer.watch_presence(world, document),
            84..=86 => peer.ping(world),
            87..=88 => peer.unsubscribe(world, document),
            89..=94 => {
                if let Some(socket) = peer.socket {
                    let us = [1_000, 50_000, 400_000, 2_000_000][world.dice.below(4)];
                    world.sockets[socket].stalled_until_us = world.now.mono_us + us;
                }
            }
            95..=96 => {
                let in_order = world.dice.percent(50);
                peer.vanish(world, in_order);
            }
            97 => peer.leave(world),
            98 => {
                peer.lose_touch(world);
                self.half_open += 1;
                self.unnoticed_until_us = world.now.mono_us + NOTICED_US_MAX;
            }
            _ => self.step_clock(),
        }
    }

    fn play(&mut self) {
        if let Some(storage) = &mut self.world.storage {
            storage.fails = self.storage_fails;
        }
        let floods = self.world.dice.below(3);
        let acts = 150 + self.world.dice.below(250);
        for round in 0..=floods {
            for _ in 0..acts / (floods + 1) {
                self.act();
                for _ in 0..self.world.dice.below(4) {
                    self.step();
                }
            }
            if round < floods {
                self.flood();
            }
            if self.storage_fails && self.world.dice.percent(30) {
                self.outage();
            }
        }
    }

    /// One reader takes nothing for longer than the server waits while something is written for it: it must be gone by
    /// then, and comes back later.
    fn forsake(&mut self) {
        self.gather();
        let until_us = self.world.now.mono_us + 45_000_000;
        self.peers[0].may_be_dropped = true;
        let socket = self.peers[0].socket.expect("everybody is connected");
        self.world.sockets[socket].stalled_until_us = until_us;
        for document in &DOCUMENTS[..3] {
            self.peers[1].write_unique(&mut self.world, document, 100);
        }
        self.settle(35_000_000);
        assert!(self.world.sockets[socket].closed, "a stalled socket is still open");
        self.peers[0].may_be_dropped = false;
    }

    /// Everybody reads, and the database takes everything.
    fn end_faults(&mut self) {
        for peer in &self.peers {
            if let Some(socket) = peer.socket {
                self.world.sockets[socket].stalled_until_us = 0;
            }
        }
        if let Some(storage) = self.world.storage.as_mut().filter(|storage| storage.fails) {
            storage.mend();
            let refused_us = [REFUSED_US, 2 * REFUSED_US][self.world.dice.below(2)];
            self.unnoticed_until_us = self.unnoticed_until_us.max(self.world.now.mono_us + refused_us);
        }
    }

    /// Everybody is connected and has subscribed to everything.
    fn gather(&mut self) {
        self.end_faults();
        // One document at a time: an outbox is meant for one `sync_response`, and here some are larger than its bound.
        for _ in 0..40 {
            self.settle(1_000);
            let mut all_in = true;
            for peer in &mut self.peers {
                if peer.socket.is_none() {
                    peer.connect(&mut self.world, false);
                }
                if !peer.is_online() {
                    all_in = false;
                    continue;
                }
                let outside =
                    |document: &&&str| !peer.copies.get(**document).is_some_and(|copy| copy.stand == Stand::In);
                if let Some(document) = DOCUMENTS.iter().find(outside) {
                    peer.subscribe(&mut self.world, document);
                    all_in = false;
                    continue;
                }
                for document in DOCUMENTS {
                    if !peer.copies[document].watches_presence {
                        peer.watch_presence(&mut self.world, document);
                    }
                }
            }
            if all_in {
                break;
            }
        }
        let noticed_us = self.unnoticed_until_us.saturating_sub(self.world.now.mono_us);
        self.settle(noticed_us + PRESENCE_TIMEOUT_MS * 1000 + 1_500_000);
        let sessions: usize = self.world.shards().map(|shard| shard.census().sessions).sum();
        assert_eq!(sessions, self.peers.len(), "connections that nobody has any more");
        for peer in &self.peers {
            let socket = peer.socket.map(|socket| self.world.describe(socket));
            assert!(
                peer.is_online(),
                "{} is offline: {:?}, {socket:?}",
                peer.id,
                peer.closes
            );
            assert!(peer.is_owed_nothing(), "{} is owed {}", peer.id, peer.owed());
        }
    }

    /// After quiescence: fields, text and presence of all clients are those of a late joiner; no acknowledged write is
    /// missing; nobody who is gone is shown; no shard still owes anything.
    fn agree(&mut self) {
        let number = self.peers.len();
        for document in DOCUMENTS {
            let mut late = Peer::new(number, Kind::Binary, 1);
            late.connect(&mut self.world, false);
            self.peers.push(late);
            self.peers[number].subscribe(&mut self.world, document);
            self.settle(100_000);
            self.peers[number].watch_presence(&mut self.world, document);
            self.settle(100_000);
            let mut late = self.peers.pop().expect("just pushed");
            assert!(late.is_owed_nothing(), "the late joiner is owed {}", late.owed());
            self.agree_on(document, &late);
            late.vanish(&mut self.world, false);
        }
        for shard in self.world.shards() {
            let census = shard.census();
            assert_eq!((census.pending_subscriptions, census.lagging), (0, 0), "{census:?}");
        }
    }

    fn agree_on(&self, document: &str, late: &Peer) {
        let truth = &late.copies[document];
        let mut names: BTreeSet<String> = truth.fields.keys().cloned().collect();
        names.extend((0..5).map(|shared| format!("s{shared}")));
        let written = || {
            self.peers
                .iter()
                .flat_map(|peer| &peer.acknowledged)
                .filter(|write| write.document == document)
        };
        let others = self.world.storage.iter().flat_map(|storage| &storage.written_by_others);
        for (_, field, value) in others.filter(|other| other.0 == document) {
            let shown = truth.fields.get(field).map(Value::to_string);
            assert_eq!(
                shown.as_ref(),
                Some(value),
                "what another server wrote as {field} is missing"
            );
        }
        for (field, value) in written().flat_map(|write| &write.unique) {
            assert_eq!(
                truth.fields.get(field),
                Some(value).filter(|value| !is_tombstone(value)),
                "the acknowledged write of {field} is missing"
            );
            names.insert(field.clone());
        }
        written().for_each(|write| assert_text_holds(write, &truth.text.blocks));
        let names: Vec<String> = names.into_iter().collect();
        let owners: BTreeSet<&str> = self.peers.iter().map(|peer| peer.id.as_str()).collect();
        for (client, state) in &truth.presence {
            assert!(
                owners.contains(client.as_str()),
                "{client} is gone and still shown as {state} in {document}"
            );
        }
        for peer in &self.peers {
            let (copy, who) = (
                &peer.copies[document],
                format!("{} ({:?}), {document}", peer.id, peer.kind),
            );
            same_fields(&who, &peer.shown(document, &names), &truth.fields);
            if peer.kind != Kind::Goc {
                assert_eq!(copy.text.blocks, truth.text.blocks, "text of {who}");
                assert_eq!(copy.text.shown(), truth.text.shown(), "text of {who}");
                let others = |presence: &BTreeMap<String, Value>| {
                    let mut others = presence.clone();
                    others.remove(&peer.id);
                    others
                };
                assert_eq!(others(&copy.presence), others(&truth.presence), "presence of {who}");
            }
            if let Some(own) = copy.own_presence.as_ref().filter(|_| !copy.presence_is_contested) {
                assert_eq!(
                    truth.presence.get(&peer.id).unwrap_or(&Value::Null),
                    own,
                    "own presence of {who}"
                );
            }
        }
    }

    /// Everybody leaves, one way or another: nothing of them stays, and documents without content are forgotten.
    fn part(&mut self) {
        for peer in &mut self.peers {
            match self.world.dice.below(3) {
                0 => peer.leave(&mut self.world),
                kind => peer.vanish(&mut self.world, kind == 1),
            }
        }
        self.settle(PRESENCE_TIMEOUT_MS * 1000 + 3_000_000);
        for shard in self.world.shards() {
            let census = shard.census();
            assert_eq!(
                (census.sessions, census.subscriptions, census.listeners),
                (0, 0, 0),
                "{census:?}"
            );
            assert_eq!((census.clients, census.outbox_bytes), (0, 0), "{census:?}");
            assert!(
                self.storage_fails || census.document_bytes <= DOCUMENT_MEMORY_BYTES,
                "more documents stay than there is a budget for: {census:?}"
            );
            assert!(
                census.documents.iter().all(|document| &**document != PRESENCE),
                "{census:?}"
            );
        }
    }

    /// The server stops under load: everybody gets 1001 and all is over within 10 s.
    fn stop(&mut self) {
        for _ in 0..20 {
            self.act();
            self.step();
        }
        let connected: Vec<bool> = self
            .peers
            .iter()
            .map(|peer| peer.is_online() && peer.is_owed_nothing())
            .collect();
        self.end_faults();
        self.world.shut_down();
        let until = self.world.now.mono_us + 10_000_000;
        while !self.world.is_drained() {
            assert!(self.world.now.mono_us < until, "not drained within 10 s");
            self.step();
            if self.world.is_idle() {
                let now_us = self.world.now.mono_us;
                let next_us = self.world.next_us().unwrap_or(now_us + 10_000).min(now_us + 100_000);
                self.world.pass(next_us.saturating_sub(now_us));
            }
        }
        self.take_in();
        for (peer, connected) in self.peers.iter().zip(connected) {
            assert!(
                !connected || peer.closes.last() == Some(&1001),
                "{}: {:?}",
                peer.id,
                peer.closes
            );
        }
    }
}

/// Compares field by field: a difference is named without printing documents of hundreds of kilobytes.
fn variables(queue_bytes: usize, per_minute: u32) -> [(&'static str, String); 5] {
    [
        ("SYNCKIT_AUTH_REQUIRED", "false".to_owned()),
        ("SYNCKIT_SEND_QUEUE_BYTES", queue_bytes.to_string()),
        ("SYNCKIT_MAX_MESSAGES_PER_MINUTE", per_minute.to_string()),
        ("AWARENESS_TIMEOUT_MS", PRESENCE_TIMEOUT_MS.to_string()),
        ("SYNCKIT_DOC_MEMORY", DOCUMENT_MEMORY_BYTES.to_string()),
    ]
}

/// The shards are gone, with everything they knew. New ones over the same table must show what was acknowledged.
fn nothing_acknowledged_is_missing(seed: u64, shards: u16, peers: &[Peer], table: Table) {
    let storage = Some(SimulatedStorage::over(table));
    let world = World::with_storage(seed, shards, &variables(8_000_000, 1_000_000), storage);
    let mut run = Run {
        world,
        peers: vec![Peer::new(90, Kind::Binary, 1)],
        queue_bytes: 8_000_000,
        storage_fails: false,
        half_open: 0,
        clock_steps: 0,
        outages: 0,
        unnoticed_until_us: 0,
    };
    run.peers[0].connect(&mut run.world, false);
    for document in DOCUMENTS {
        run.peers[0].subscribe(&mut run.world, document);
        run.settle(100_000);
    }
    for write in peers.iter().flat_map(|peer| &peer.acknowledged) {
        let copy = &run.peers[0].copies[write.document.as_str()];
        for (field, value) in &write.unique {
            assert_eq!(
                copy.fields.get(field),
                Some(value).filter(|value| !is_tombstone(value)),
                "{field} of {} was acknowledged",
                write.document
            );
        }
        assert_text_holds(write, &copy.text.blocks);
    }
}

fn crash(seed: u64, shards: u16, seen: &mut Seen) {
    let mut run = Run::over(seed, shards, 8_000_000, 1_000_000, true);
    run.play();
    seen.add(&run);
    let Run { world, peers, .. } = run;
    let storage = world.storage.expect("it has one");
    seen.commits += storage.commits;
    seen.refused += storage.refused;
    nothing_acknowledged_is_missing(seed, shards, &peers, storage.table);
}

fn simulate(seed: u64, shards: u16, seen: &mut Seen) {
    let mut run = Run::new(seed, shards);
    if seed % 4 == 1 {
        run.type_together();
    }
    run.play();
    if seed % 7 == 3 {
        run.forsake();
    }
    run.gather();
    run.collide();
    run.agree();
    seen.add(&run);
    seen.texts_merged_elsewhere += run.world.merged;
    seen.relayed += run
        .peers
        .iter()
        .flat_map(|peer| peer.copies.values())
        .map(|copy| copy.relayed)
        .sum::<usize>();
    if seed.is_multiple_of(2) {
        run.part();
    } else {
        run.stop();
        seen.drained += 1;
    }
    let closes = run.peers.iter().flat_map(|peer| &peer.closes);
    seen.slow_consumers += closes.filter(|code| **code == 1013).count();
    seen.coalesced += run.world.shards().map(|shard| shard.census().coalesced).sum::<u64>();
    if let Some(storage) = run.world.storage.take() {
        seen.commits += storage.commits;
        seen.loads += storage.loads;
        seen.conflicts += storage.conflicts;
        seen.refused += storage.refused;
        nothing_acknowledged_is_missing(seed, shards, &run.peers, storage.table);
    }
}

/// Plays seeds with every number of shards. Returns what was seen, and whether it was an ordinary run.
fn play_all(usual: u64, play: fn(u64, u16, &mut Seen)) -> (Seen, bool) {
    let seeds = match trace::number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..trace::number("SIM_SEEDS").unwrap_or(usual),
    };
    mutations::choose_from_environment();
    let whole = trace::number("SIM_SEED").is_none() && seeds.end >= usual;
    let (mut seen, explained) = (Seen::default(), !mutations::is_chosen());
    for seed in seeds {
        for shards in SHARDS {
            let name = format!("seed {seed} and {shards} shards: SIM_SEED={seed}");
            trace::play(&name, explained, &mut seen, |seen| play(seed, shards, seen));
        }
    }
    eprintln!("{seen:?}");
    (seen, whole)
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_any_moment() {
    let (seen, whole) = play_all(CRASH_SEEDS, crash);
    assert!(
        !whole || seen.writes > 1000 && seen.commits > 1000,
        "too little happened: {seen:?}"
    );
}

#[test]
fn everybody_agrees_after_any_history() {
    let (seen, whole) = play_all(SEEDS, simulate);
    if whole {
        let all =
            seen.writes > 1000 && seen.slow_consumers > 0 && seen.coalesced > 0 && seen.drained > 0 && seen.relayed > 0;
        let all = all && seen.commits > 1000 && seen.loads > 100 && seen.conflicts > 0;
        let all = all && seen.texts_merged_elsewhere > 1000 && seen.half_open > 100 && seen.clock_steps > 100;
        let all = all
            && seen.refused > 20
            && seen.outages > 20
            && seen.refusals > 100
            && seen.texts > 1000
            && seen.deletions > 100;
        assert!(all, "the simulation does not reach what it is for: {seen:?}");
    }
}

/// What a seed did once it does again, to the byte and the microsecond; otherwise no failure could be looked at twice.
#[test]
fn a_seed_is_the_same_run_every_time() {
    let fingerprint = |seed: u64, shards: u16| {
        trace::begin(usize::MAX);
        let mut run = Run::new(seed, shards);
        run.play();
        run.gather();
        run.world.fingerprint
    };
    let mut seen = BTreeSet::new();
    for seed in 0..6 {
        for shards in SHARDS {
            let first = fingerprint(seed, shards);
            assert_eq!(first, fingerprint(seed, shards), "seed {seed} over {shards} shards");
            seen.insert(first);
        }
    }
    assert_eq!(seen.len(), 18, "different seeds are different runs");
}

/// A document that the database refused for its content is not tried again by itself. However long that is ago: the next
/// write is taken, and stored with all that came before it.
#[test]
fn a_document_that_was_refused_is_stored_when_it_is_written_again() {
    fn play(seed: u64, shards: u16, seen: &mut Seen) {
        let mut run = Run::over(seed, shards, 8_000_000, 1_000_000, true);
        run.peers.truncate(1);
        for life in 0..2 {
            run.peers[0].connect(&mut run.world, false);
            run.peers[0].subscribe(&mut run.world, DOCUMENTS[0]);
            run.settle(100_000);
            run.world.storage.as_mut().expect("it has one").refuses_next = life == 0;
            run.peers[0].write_unique(&mut run.world, DOCUMENTS[0], 10);
            run.settle(100_000);
            assert_eq!(run.peers[0].is_online(), life == 1, "only the first write is refused");
            run.settle([12_000_000, 40_000_000][(seed % 2) as usize]);
        }
        assert_eq!(run.peers[0].acknowledged.len(), 1);
        seen.add(&run);
        let storage = run.world.storage.take().expect("it has one");
        nothing_acknowledged_is_missing(seed, shards, &run.peers, storage.table);
    }
    play_all(10, play);
}

#[test]
fn every_deliberate_breakage_is_noticed() {
    mutations::every_one_is_noticed(
        false,
        20,
        &[
            "everybody_agrees_after_any_history",
            "what_was_acknowledged_survives_a_crash_at_any_moment",
        ],
    );
}
