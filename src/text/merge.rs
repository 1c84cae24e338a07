//! The server's merge (rules M1 to M5): cut both sides at all limits, OR the tombstones, stored text first.
//!
//! Most merges differ in a few blocks only, so blocks equal on both sides are set aside first. What makes that right:
//! * A stored state is already cut by its own origins, so only incoming blocks can cut a stored one.
//! * Blocks of one side never overlap, so the ends of a block found on both sides fall inside no other block, and no
//!   end falls inside it; only an origin of an incoming block that is not stored can cut it.
//! * An incoming block that is not stored can be cut by anything, so all origins are held against the (few) of them.
//!
//! What remains on either side is cut and swept client by client. Cost: linear in the blocks, O(d log d) in those that
//! differ.

use super::blocks::{self, Block, Blocks, Client};
use super::echo::{self, Split};
use super::{Incoming, TextState, graphemes};
use std::borrow::Cow;
use std::sync::Arc;

/// Whether the author of an incoming state must get the merged one back (rule R3). The need stays until a state is
/// actually sent to that connection (R4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// The author has and shows exactly the merged state.
    None,
    /// With the next coalesced relay.
    Coalesced,
    /// Now: the author typed inside one of its unsplit blocks, and until the cut arrives its next edits may hit the
    /// wrong characters (R5).
    AtOnce,
}

/// What a merge gives.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The merged state. Its clock may differ from the stored one's even if `changed` is false.
    pub state: TextState,
    /// The blocks differ from the stored ones: store the state and relay it to everybody else (R2).
    pub changed: bool,
    /// What the author needs.
    pub echo: Echo,
    /// Pieces that both sides name alike but that differ; the stored ones were kept (M3).
    pub collisions: usize,
}

/// Merges an incoming state into the stored one.
pub fn merge(stored: Option<&TextState>, incoming: &Incoming) -> Merged {
    let nothing = TextState::default();
    let stored = stored.unwrap_or(&nothing);
    let (a, b) = (&stored.blocks, &incoming.blocks);
    let clock = stored
        .clock
        .max(incoming.clock)
        .max(a.highest_clock())
        .max(b.highest_clock());
    let union = Union::of(&a.clients, &b.clients);
    let a = Side {
        list: translated(&a.list, &union.map_a),
        text: &a.text,
    };
    let b = Side {
        list: translated(&b.list, &union.map_b),
        text: &b.text,
    };
    let comparison = Comparison::of(&a, &b);

    if comparison.only_a.is_empty() && comparison.only_b.is_empty() {
        let list = if comparison.newly_deleted {
            a.list
                .iter()
                .zip(b.list.iter())
                .map(|(a, b)| Block {
                    deleted: a.deleted | b.deleted,
                    ..*a
                })
                .collect()
        } else {
            Arc::clone(&stored.blocks.list)
        };
        let blocks = Blocks {
            list,
            ..stored.blocks.clone()
        };
        let changed = comparison.newly_deleted;
        let needed = comparison.undeleted_in_b || (changed && incoming.exotic);
        let echo = if needed { Echo::Coalesced } else { Echo::None };
        return Merged {
            state: TextState { blocks, clock },
            changed,
            echo,
            collisions: 0,
        };
    }
    merge_different(&a, &b, comparison, union.clients, clock, incoming.exotic)
}

fn merge_different(
    a: &Side,
    b: &Side,
    mut comparison: Comparison,
    clients: Arc<[Box<str>]>,
    clock: u64,
    exotic: bool,
) -> Merged {
    let mut limits = limits(a, b, &comparison, clients.len());
    comparison.set_cut_apart(a, &mut limits, clients.len());
    let part_a = by_client(&a.list, &comparison.only_a);
    let part_b = by_client(&b.list, &comparison.only_b);
    let mut swept = sweep(Part::new(&part_a, a.text), Part::new(&part_b, b.text), &limits);

    let changed = comparison.newly_deleted || !same_shape(&swept.pieces, &part_a);
    let differs_from_b = comparison.undeleted_in_b || swept.collisions > 0 || !same_shape(&swept.pieces, &part_b);
    swept.pieces.sort_unstable_by_key(|piece| piece.block.id());
    let (text, mut list) = assemble(a, b, &comparison.common, &swept.pieces);

    let fresh: Vec<&Block> = comparison
        .fresh
        .iter()
        .map(|&number| &b.list[number as usize])
        .collect();
    let echo = if swept.cut_by_author {
        Echo::AtOnce
    } else if differs_from_b
        || (changed && exotic)
        || echo::stands_between(&list, &swept.splits)
        || echo::inside_one_insert(&list, clients.len(), &fresh)
    {
        Echo::Coalesced
    } else {
        Echo::None
    };
    // Only the loser of a collision leaves nothing behind, so only then can a client id have become void.
    let clients = if swept.collisions > 0 {
        blocks::prune(clients.to_vec(), &mut list).into()
    } else {
        clients
    };
    let blocks = Blocks::new(clients, text, list);
    Merged {
        state: TextState { blocks, clock },
        changed,
        echo,
        collisions: swept.collisions,
    }
}

/// The client tables of both sides as one. A map is `None` when nothing is renumbered.
struct Union {
    clients: Arc<[Box<str>]>,
    map_a: Option<Vec<Client>>,
    map_b: Option<Vec<Client>>,
}

impl Union {
    fn of(a: &Arc<[Box<str>]>, b: &Arc<[Box<str>]>) -> Union {
        if a == b {
            return Union {
                clients: Arc::clone(a),
                map_a: None,
                map_b: None,
            };
        }
        let mut clients: Vec<Box<str>> = a.iter().chain(b.iter()).cloned().collect();
        clients.sort();
        clients.dedup();
        let map = |table: &[Box<str>]| {
            let rank = |id: &str| clients.partition_point(|other| **other < *id) as Client;
            let ranks: Vec<Client> = table.iter().map(|id| rank(id)).collect();
            (ranks.iter().enumerate().any(|(number, &rank)| number != rank as usize)).then_some(ranks)
        };
        let (map_a, map_b) = (map(a), map(b));
        let clients = if clients.len() == a.len() {
            Arc::clone(a)
        } else {
            clients.into()
        };
        Union { clients, map_a, map_b }
    }
}

/// Ranks keep their order, hence the list its own.
fn translated<'l>(list: &'l [Block], map: &Option<Vec<Client>>) -> Cow<'l, [Block]> {
    match map {
        None => Cow::Borrowed(list),
        Some(map) => Cow::Owned(list.iter().map(|block| block.renumbered(map)).collect()),
    }
}

/// One of the two states, in the common numbering of clients.
struct Side<'s> {
    list: Cow<'s, [Block]>,
    text: &'s str,
}

/// A block that both sides have, but for the tombstone.
struct Common {
    a: u32,
    b: u32,
    deleted: bool,
}

/// Which blocks both sides have.
#[derive(Default)]
struct Comparison {
    common: Vec<Common>,
    only_a: Vec<u32>,
    only_b: Vec<u32>,
    /// The blocks of B whose ID is not stored.
    fresh: Vec<u32>,
    /// B deleted a common block.
    newly_deleted: bool,
    /// B shows a common block that is stored as deleted.
    undeleted_in_b: bool,
}

impl Comparison {
    fn of(a: &Side, b: &Side) -> Comparison {
        let mut found = Comparison::default();
        found.common.reserve(a.list.len().min(b.list.len()));
        let (mut at_a, mut at_b) = (0, 0);
        while let (Some(one), Some(other)) = (a.list.get(at_a), b.list.get(at_b)) {
            let (number_a, number_b) = (at_a as u32, at_b as u32);
            let order = one.id().cmp(&other.id());
            at_a += usize::from(order.is_le());
            at_b += usize::from(order.is_ge());
            if order.is_lt() {
                found.only_a.push(number_a);
            } else if order.is_gt() {
                found.only_b.push(number_b);
                found.fresh.push(number_b);
            } else if one.len == other.len && one.same_origins(other) && one.text(a.text) == other.text(b.text) {
                found.newly_deleted |= other.deleted & !one.deleted;
                found.undeleted_in_b |= one.deleted & !other.deleted;
                found.common.push(Common {
                    a: number_a,
                    b: number_b,
                    deleted: one.deleted | other.deleted,
                });
            } else {
                found.only_a.push(number_a);
                found.only_b.push(number_b);
            }
        }
        found.only_a.extend(at_a as u32..a.list.len() as u32);
        found.only_b.extend(at_b as u32..b.list.len() as u32);
        found.fresh.extend(at_b as u32..b.list.len() as u32);
        found
    }

    /// Moves common blocks with a limit inside to the ones that are swept, and adds their ends to the limits.
    fn set_cut_apart(&mut self, a: &Side, limits: &mut Vec<Limit>, clients: usize) {
        let mut next = vec![usize::MAX; clients];
        for (at, limit) in limits.iter().enumerate().rev() {
            next[limit.client as usize] = at;
        }
        // Both the common blocks and the limits of one client ascend, so one cursor per client suffices.
        let mut is_cut = |block: &Block| {
            let cursor = &mut next[block.client as usize];
            let own = |at: usize| limits.get(at).filter(|limit| limit.client == block.client);
            while own(*cursor).is_some_and(|limit| limit.value <= block.first()) {
                *cursor += 1;
            }
            own(*cursor).is_some_and(|limit| limit.value <= block.last)
        };
        let (only_a, only_b) = (&mut self.only_a, &mut self.only_b);
        let mut ends = Vec::new();
        self.common.retain(|common| {
            let block = &a.list[common.a as usize];
            let cut = is_cut(block);
            if cut {
                only_a.push(common.a);
                only_b.push(common.b);
                ends.extend(end_limits(block));
            }
            !cut
        });
        if !ends.is_empty() {
            limits.append(&mut ends);
            sort_limits(limits);
        }
    }
}

/// A value of a client at which a character begins that does not continue the block before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Limit {
    client: Client,
    value: u64,
    /// An origin of a block of the incoming state asks for it.
    by_author: bool,
}

fn end_limits(block: &Block) -> [Limit; 2] {
    [block.first(), block.last + 1].map(|value| Limit {
        client: block.client,
        value,
        by_author: false,
    })
}

/// The limits that an origin pair asks for (M1).
fn origin_limits(block: &Block, by_author: bool) -> impl Iterator<Item = Limit> {
    let left = block.left.known().map(|(client, clock)| Limit {
        client,
        value: clock + 1,
        by_author,
    });
    let right = block.right.known().map(|(client, clock)| Limit {
        client,
        value: clock,
        by_author,
    });
    left.into_iter().chain(right)
}

/// All limits that can matter to the blocks that differ, and those that new blocks put into common ones. Ascending.
fn limits(a: &Side, b: &Side, comparison: &Comparison, clients: usize) -> Vec<Limit> {
    let only_a = || comparison.only_a.iter().map(|&number| &a.list[number as usize]);
    let only_b = || comparison.only_b.iter().map(|&number| &b.list[number as usize]);
    let mut limits = Vec::with_capacity(4 * (comparison.only_a.len() + comparison.only_b.len()));
    for block in only_a().chain(only_b()) {
        let (client, by_author) = (block.client, false);
        limits.push(Limit {
            client,
            value: block.first(),
            by_author,
        });
        limits.push(Limit {
            client,
            value: block.last + 1,
            by_author,
        });
    }
    let mut spans = vec![(u64::MAX, 0); clients];
    for block in only_b() {
        limits.extend(origin_limits(block, true));
        let span = &mut spans[block.client as usize];
        *span = (span.0.min(block.first()), span.1.max(block.last));
    }
    let in_span = |limit: &Limit| {
        let (first, last) = spans[limit.client as usize];
        first < limit.value && limit.value <= last
    };
    for common in &comparison.common {
        limits.extend(origin_limits(&a.list[common.a as usize], true).filter(in_span));
    }
    for block in only_a() {
        limits.extend(origin_limits(block, false).filter(in_span));
    }
    sort_limits(&mut limits);
    limits
}

fn sort_limits(limits: &mut Vec<Limit>) {
    limits.sort_unstable();
    limits.dedup_by(|next, kept| {
        let same = (next.client, next.value) == (kept.client, kept.value);
        kept.by_author |= same & next.by_author;
        same
    });
}

/// The chosen blocks, client by client and ascending within each.
fn by_client(list: &[Block], numbers: &[u32]) -> Vec<Block> {
    let mut blocks: Vec<Block> = numbers.iter().map(|&number| list[number as usize]).collect();
    blocks.sort_by_key(|block| (block.client, block.last));
    blocks
}

#[derive(Clone, Copy)]
struct Piece {
    block: Block,
    /// The text lies in the buffer of the incoming state.
    from_b: bool,
}

/// Whether cutting and merging left one side as it was. Text and origins need no look: where they differ between the
/// sides, a collision was counted, and B knows by that.
fn same_shape(pieces: &[Piece], part: &[Block]) -> bool {
    let same = |(piece, block): (&Piece, &Block)| {
        let piece = &piece.block;
        (piece.id(), piece.len, piece.deleted) == (block.id(), block.len, block.deleted)
    };
    pieces.len() == part.len() && pieces.iter().zip(part).all(same)
}

/// The blocks of one side that are swept, and how far the sweep has come.
struct Part<'p> {
    list: &'p [Block],
    text: &'p str,
    at: usize,
    /// Characters and bytes of the current block that were emitted.
    taken: (u64, usize),
}

impl<'p> Part<'p> {
    fn new(list: &'p [Block], text: &'p str) -> Part<'p> {
        Part {
            list,
            text,
            at: 0,
            taken: (0, 0),
        }
    }

    /// The piece with the values `start..end`, if a block of this side covers them, and that block. Calls come in ascending order, and both ends of each block are among the starts and ends.
    fn piece(&mut self, client: Client, start: u64, end: u64) -> Option<Taken> {
        while self
            .list
            .get(self.at)
            .is_some_and(|block| (block.client, block.last) < (client, start))
        {
            self.at += 1;
            self.taken = (0, 0);
        }
        let whole = self
            .list
            .get(self.at)
            .filter(|block| block.client == client && block.first() <= start)?;
        debug_assert!(whole.first() + self.taken.0 == start && end <= whole.last + 1);
        let len = end - start;
        let rest = &whole.text(self.text)[self.taken.1..];
        let bytes = if end > whole.last {
            rest.len()
        } else if whole.bytes == whole.len {
            len as usize
        } else {
            graphemes::prefix_bytes(rest, len as usize)
        };
        let block = Block {
            last: end - 1,
            start: whole.start + self.taken.1,
            len: len as u32,
            bytes: bytes as u32,
            ..*whole
        };
        self.taken = (self.taken.0 + len, self.taken.1 + bytes);
        Some(Taken { block, whole: *whole })
    }
}

/// A piece and the block it was cut from.
struct Taken {
    block: Block,
    whole: Block,
}

#[derive(Default)]
struct Swept {
    /// By client, ascending.
    pieces: Vec<Piece>,
    collisions: usize,
    /// Stored blocks that are in pieces now.
    splits: Vec<Split>,
    /// A block of B was cut where an origin of B points.
    cut_by_author: bool,
}

/// Emits one piece between each two neighbouring limits that some block covers (M2, M3).
fn sweep(mut a: Part, mut b: Part, limits: &[Limit]) -> Swept {
    let mut swept = Swept::default();
    swept.pieces.reserve(a.list.len().max(b.list.len()));
    for pair in limits.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        if start.client != end.client {
            continue;
        }
        let from_a = a.piece(start.client, start.value, end.value);
        let from_b = b.piece(start.client, start.value, end.value);
        if let Some(Taken { block, whole }) = &from_a
            && start.value == whole.first()
            && block.last < whole.last
        {
            swept.splits.push(Split {
                client: start.client,
                first_piece: block.last,
                last_piece: whole.last,
            });
        }
        if let Some(Taken { whole, .. }) = &from_b {
            swept.cut_by_author |= start.by_author && start.value > whole.first();
        }
        let piece = match (from_a, from_b) {
            (Some(one), Some(other)) => {
                let (one, other) = (one.block, other.block);
                let equal = one.same_origins(&other) && one.text(a.text) == other.text(b.text);
                swept.collisions += usize::from(!equal);
                Piece {
                    block: Block {
                        deleted: one.deleted | (equal & other.deleted),
                        ..one
                    },
                    from_b: false,
                }
            }
            (Some(one), None) => Piece {
                block: one.block,
                from_b: false,
            },
            (None, Some(other)) => Piece {
                block: other.block,
                from_b: true,
            },
            (None, None) => continue,
        };
        swept.pieces.push(piece);
    }
    swept
}

/// Puts common blocks and pieces together in ID order. No stored character ever vanishes, so the stored text stays at
/// the front of the new buffer and blocks keep their place in it.
fn assemble(a: &Side, b: &Side, common: &[Common], pieces: &[Piece]) -> (String, Vec<Block>) {
    let added: usize = pieces
        .iter()
        .filter(|piece| piece.from_b)
        .map(|piece| piece.block.bytes as usize)
        .sum();
    let mut text = String::with_capacity(a.text.len() + added);
    text.push_str(a.text);
    let mut list = Vec::with_capacity(common.len() + pieces.len());
    let mut common = common
        .iter()
        .map(|common| Block {
            deleted: common.deleted,
            ..a.list[common.a as usize]
        })
        .peekable();
    for piece in pieces {
        while let Some(block) = common.next_if(|block| block.id() < piece.block.id()) {
            list.push(block);
        }
        let mut block = piece.block;
        if piece.from_b {
            block.start = text.len();
            text.push_str(piece.block.text(b.text));
        }
        list.push(block);
    }
    list.extend(common);
    (text, list)
}
