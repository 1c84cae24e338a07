//! Histories of several nodes that chance alone rarely brings about.

use super::mesh::World;
use super::sim_peer::{Kind, Peer, same_fields};
use super::trace;
use super::{DIGEST_INTERVAL_MS, Run, SWEEP_US, Seen};

/// Queues are full, each for some seconds, while the nodes tell each other what the others had to refuse.
pub fn queues_are_full_for_a_while(seed: u64, seen: &mut Seen) {
    let mut run = Run::new(seed * 3 + 1);
    let nodes = run.worlds.len();
    for (node, peer) in &mut run.peers {
        peer.connect(&mut run.worlds[*node], false);
        peer.subscribe(&mut run.worlds[*node], "red");
    }
    run.settle(2_500_000);
    for _ in 0..12 {
        let (node, now_us) = (run.dice.below(nodes), run.now_us());
        let us = [300_000, 2_000_000, 6_000_000][run.dice.below(3)];
        run.bus.refuse(node, now_us + us);
        for _ in 0..run.dice.below(4) {
            let at = run.dice.below(run.peers.len());
            let (node, peer) = &mut run.peers[at];
            match run.dice.below(3) {
                0 => peer.edit_text(&mut run.worlds[*node], "red"),
                _ => peer.write_unique(&mut run.worlds[*node], "red", 10),
            }
        }
        let us = [10_000, 600_000, 2_500_000][run.dice.below(3)];
        run.settle(us);
    }
    run.settle(6_000_000 + 8 * DIGEST_INTERVAL_MS * 1000);
    let lates: Vec<Peer> = (0..nodes).map(|node| run.late_joiner(node, "red")).collect();
    for (node, late) in lates.iter().enumerate() {
        let (copy, first) = (&late.copies["red"], &lates[0].copies["red"]);
        same_fields(&format!("node {node}"), &copy.fields, &first.fields);
        assert_eq!(copy.text.blocks, first.text.blocks, "text at nodes {node} and 0");
    }
    open_while_full(&mut run);
    seen.refused += run.bus.refused();
}

/// A document that others have had for long is opened where the queue is full: nobody can be asked about it.
fn open_while_full(run: &mut Run) {
    let nodes = run.worlds.len();
    let author = run.peers.iter().position(|(_, peer)| peer.kind == Kind::Json);
    let (home, author) = &mut run.peers[author.expect("clients of all four kinds")];
    let home = *home;
    author.subscribe(&mut run.worlds[home], "green");
    for _ in 0..5 {
        author.write_unique(&mut run.worlds[home], "green", 10);
    }
    // Nobody announces it any more.
    run.settle(10 * DIGEST_INTERVAL_MS * 1000);
    let there = (home + 1 + run.dice.below(nodes - 1)) % nodes;
    let full_us = 1_000_000 + run.dice.below(4_000_000) as u64;
    let mut reader = Peer::new(80, Kind::Binary, 1);
    reader.connect(&mut run.worlds[there], false);
    reader.subscribe(&mut run.worlds[there], "green");
    run.peers.push((there, reader));
    // Sometimes the node cannot even join it in time, sometimes it cannot ask.
    let can_join = run.dice.percent(50);
    for _ in 0..1_000 {
        if !can_join || run.bus.has_joined(there, "green") {
            break;
        }
        run.step();
    }
    run.bus.refuse(there, run.now_us() + full_us);
    run.settle(full_us + 6 * DIGEST_INTERVAL_MS * 1000);
    let truth = run.late_joiner(home, "green");
    let (_, reader) = run.peers.last().expect("just pushed");
    same_fields(
        "who came while the queue was full",
        &reader.copies["green"].fields,
        &truth.copies["green"].fields,
    );
}

/// Node 0 forgets a document that the other nodes keep, and its first changes after that are operations that no state holds.
pub fn a_node_begins_anew(seed: u64, seen: &mut Seen) {
    let mut run = Run::new(seed * 3 + 1);
    // From its next start on, node 0 has a name it keeps.
    run.bus.keeps_names = true;
    run.crash(0);
    let nodes = run.worlds.len();
    run.peers.clear();
    run.peers.push((0, Peer::new(0, Kind::Json, seed)));
    for number in 1..nodes {
        let kind = [Kind::Json, Kind::Binary, Kind::Sdk][number % 3];
        run.peers.push((number, Peer::new(number, kind, seed)));
    }
    for (node, peer) in &mut run.peers {
        peer.connect(&mut run.worlds[*node], false);
        peer.subscribe(&mut run.worlds[*node], "red");
    }
    run.settle(2_500_000);
    let mut said = Vec::new();
    for life in 0..3 {
        for _ in 0..1 + run.dice.below(8) {
            let (node, author) = &mut run.peers[0];
            said.push(author.format(&mut run.worlds[*node], "red"));
            for _ in 0..run.dice.below(6) {
                run.step();
            }
        }
        run.settle(2_000_000);
        for (_, peer) in &run.peers[1..] {
            // Envelopes may overtake each other.
            let (mut heard, mut said) = (peer.copies["red"].formatted.clone(), said.clone());
            heard.sort_unstable();
            said.sort_unstable();
            assert_eq!(heard, said, "what {} heard until life {life}", peer.id);
        }
        begin_anew(&mut run);
    }
    seen.formatted += said.len();
}

/// Makes node 0 forget the document and its author come back.
fn begin_anew(run: &mut Run) {
    // Where documents are stored, an idle one leaves the memory after five minutes.
    let unloads = run.table.is_some() && run.dice.percent(30);
    if unloads {
        run.peers[0].1.vanish(&mut run.worlds[0], true);
        run.settle(330_000_000);
        let held = |world: &World| world.shards().flat_map(|shard| shard.census().documents).count();
        assert_eq!(held(&run.worlds[0]), 0, "node 0 keeps an idle document");
    } else {
        run.crash(0);
    }
    let (node, author) = &mut run.peers[0];
    author.connect(&mut run.worlds[*node], false);
    author.subscribe(&mut run.worlds[*node], "red");
    run.settle(100_000);
}

/// A node ends and begins again; who asks it at once must be told what the others hold.
pub fn a_newcomer_asks(seed: u64, seen: &mut Seen) {
    let mut run = Run::with_digests_every(600_000, seed * 6 + 1);
    run.peers.truncate(1);
    run.peers[0].0 = 0;
    run.peers[0].1.connect(&mut run.worlds[0], false);
    run.peers[0].1.subscribe(&mut run.worlds[0], "red");
    run.settle(100_000);
    for _ in 0..10 {
        run.peers[0].1.write_unique(&mut run.worlds[0], "red", 10);
    }
    run.settle(10_000_000);
    run.crash(1);
    // Even the very first answer is what the others hold.
    let late = run.late_joiner(1, "red");
    let at_once = late.copies["red"]
        .fields
        .keys()
        .filter(|name| !name.starts_with("other"));
    assert_eq!(at_once.count(), 10, "shown by a node that has just started");
    run.peers.push((1, Peer::new(8, Kind::Json, seed)));
    run.peers[1].1.connect(&mut run.worlds[1], false);
    run.peers[1].1.subscribe(&mut run.worlds[1], "red");
    run.settle(3_000_000);
    let first = run.late_joiner(0, "red");
    let first = &first.copies["red"].fields;
    let ours = first.keys().filter(|name| !name.starts_with("other")).count();
    assert_eq!(ours, 10);
    same_fields("who came at once", &run.peers[1].1.copies["red"].fields, first);
    seen.writes += late.copies["red"].fields.len();
}

/// The bus loses changes for a while, and digests are as good as off.
pub fn changes_are_lost_without_digests(seed: u64, seen: &mut Seen) {
    let mut run = Run::with_digests_every(600_000, seed * 3 + 1);
    for (node, peer) in &mut run.peers {
        peer.connect(&mut run.worlds[*node], false);
        peer.subscribe(&mut run.worlds[*node], "red");
    }
    run.settle(2_500_000);
    run.bus.faults.lost = 40;
    for round in 0..40 {
        if round == 30 {
            run.bus.faults.lost = 0;
        }
        for (node, peer) in &mut run.peers {
            peer.write_unique(&mut run.worlds[*node], "red", 10);
        }
        run.step();
        run.settle(30_000);
    }
    run.settle(10_000_000);
    seen.lost += run.bus.lost;
    let first = run.late_joiner(0, "red");
    // Others wrote into the row as well; nodes find that out when they store, or by digests, which are as good as off.
    let ours = |peer: &Peer| {
        let mut fields = peer.copies["red"].fields.clone();
        fields.retain(|name, _| !name.starts_with("other"));
        fields
    };
    let fields = ours(&first);
    assert_eq!(fields.len(), 40 * run.peers.len(), "fields at node 0");
    for (_, peer) in run.peers.iter().filter(|(_, peer)| peer.kind != Kind::Sdk) {
        same_fields(&peer.id, &ours(peer), &fields);
    }
}

/// Counter operations at all nodes while the bus loses and repeats.
pub fn everybody_counts(seed: u64, seen: &mut Seen) {
    let mut run = Run::new(seed * 3 + 1);
    for (node, peer) in &mut run.peers {
        if peer.kind != Kind::Goc {
            peer.connect(&mut run.worlds[*node], false);
            peer.subscribe(&mut run.worlds[*node], "red");
        }
    }
    run.settle(2_500_000);
    for _ in 0..120 {
        let at = run.dice.below(run.peers.len());
        if !trace::act(|| format!("{:>10} us: {} counts", run.now_us(), run.peers[at].1.id)) {
            continue;
        }
        let (node, peer) = &mut run.peers[at];
        let counted = peer.count(&mut run.worlds[*node], "red");
        run.counts += usize::from(counted != 0.0);
        *run.counted.entry("red").or_default() += counted;
        run.trouble(seen);
        for _ in 0..run.dice.below(6) {
            run.step();
        }
    }
    run.bus.mend();
    run.settle(6 * DIGEST_INTERVAL_MS * 1000);
    let sum = run.counted["red"];
    for (_, peer) in run.peers.iter().filter(|(_, peer)| peer.kind != Kind::Goc) {
        assert_eq!(
            peer.copies["red"].counted, sum,
            "what {} ({:?}) was told",
            peer.id, peer.kind
        );
    }
    for shard in run.worlds.iter().flat_map(World::shards) {
        for (document, value) in shard.census().counters {
            assert_eq!(value, sum, "the counter of {document}");
        }
    }
    seen.counts += run.counts;
}

/// Batches that two clients say at two nodes under one name.
pub fn batches_are_said_twice(seed: u64, seen: &mut Seen) {
    let mut run = Run::new(seed * 3 + 1);
    let nodes = run.worlds.len();
    // The last two say everything twice; those before them listen, one at each node.
    run.peers.clear();
    for number in 0..nodes + 2 {
        let kind = [Kind::Json, Kind::Binary, Kind::Sdk][number % 3];
        let node = if number < nodes { number } else { number - nodes };
        run.peers.push((node, Peer::new(number, kind, seed)));
    }
    for (node, peer) in &mut run.peers {
        peer.connect(&mut run.worlds[*node], false);
        peer.subscribe(&mut run.worlds[*node], "red");
    }
    run.settle(2_500_000);
    let mut sum = 0.0;
    for round in 0..30 {
        if !trace::act(|| format!("{:>10} us: batch {round} is said twice", run.now_us())) {
            continue;
        }
        let amount = (1 + run.dice.below(9)) as f64;
        let first = nodes + run.dice.below(2);
        let message_id = format!("twice-{round}");
        for at in [first, 2 * nodes + 1 - first] {
            let (node, peer) = &mut run.peers[at];
            peer.count_as(&mut run.worlds[*node], "red", ("author", &message_id), amount);
            run.trouble(seen);
            for _ in 0..run.dice.below(8) {
                run.step();
            }
        }
        sum += amount;
        seen.counts += 1;
    }
    run.bus.mend();
    // Whoever lost all that a node said of a batch, while equal accounts came from a third one, hears of it with the
    // round over all documents.
    run.settle(SWEEP_US + 20 * DIGEST_INTERVAL_MS * 1000);
    let held: Vec<_> = run
        .worlds
        .iter()
        .flat_map(World::shards)
        .map(|shard| shard.census().counters)
        .collect();
    for (_, peer) in &run.peers[..nodes] {
        let copy = &peer.copies["red"];
        assert_eq!(
            copy.counted, sum,
            "what {} ({:?}) was told; held {held:?}",
            peer.id, peer.kind
        );
        seen.taken_back += copy.decrements;
    }
    for shard in run.worlds.iter().flat_map(World::shards) {
        for (document, value) in shard.census().counters {
            assert_eq!(value, sum, "the counter of {document}");
        }
    }
}
