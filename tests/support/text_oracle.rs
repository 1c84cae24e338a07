//! Rules M1 to M5 and R3 of docs/text-state.md written down as they stand: maps, sets and loops over single characters.

use crate::text_client::{Block, Blocks, Id};
use std::collections::{BTreeMap, BTreeSet};

pub struct Outcome {
    pub blocks: Blocks,
    pub changed: bool,
    pub echo: bool,
    pub collisions: usize,
}

pub fn merge(a: &Blocks, b: &Blocks) -> Outcome {
    let mut limits: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (id, block) in a.iter().chain(b) {
        limits.entry(&id.1).or_default().extend([block.first(id.0), id.0 + 1]);
        if let Some((value, client)) = &block.left {
            limits.entry(client).or_default().insert(value + 1);
        }
        if let Some((value, client)) = &block.right {
            limits.entry(client).or_default().insert(*value);
        }
    }
    let (mut blocks, mut collisions) = (Blocks::new(), 0);
    for (client, limits) in limits {
        let limits: Vec<u64> = limits.into_iter().collect();
        for pair in limits.windows(2) {
            let (from_a, from_b) = (piece(a, client, pair[0], pair[1]), piece(b, client, pair[0], pair[1]));
            let piece = match (from_a, from_b) {
                (Some(one), Some(other)) => {
                    let equal = (&one.text, &one.left, &one.right) == (&other.text, &other.left, &other.right);
                    collisions += usize::from(!equal);
                    Block {
                        deleted: one.deleted || (equal && other.deleted),
                        ..one
                    }
                }
                (one, other) => match one.or(other) {
                    Some(piece) => piece,
                    None => continue,
                },
            };
            blocks.insert((pair[1] - 1, client.to_string()), piece);
        }
    }
    let changed = blocks != *a;
    let echo = blocks != *b
        || a.keys().any(|id| splits_around_others(a, &blocks, id))
        || b.iter()
            .any(|(id, block)| !a.contains_key(id) && is_inside_one_insert(block, &blocks))
        || (changed
            && b.values()
                .any(|block| block.text.iter().any(|c| !c.is_ascii() || c.contains('\r'))));
    Outcome {
        blocks,
        changed,
        echo,
        collisions,
    }
}

fn piece(blocks: &Blocks, client: &str, start: u64, end: u64) -> Option<Block> {
    let (id, block) = holder(blocks, &(start, client.to_string()))?;
    assert!(end <= id.0 + 1, "the end of a block is a limit");
    let first = block.first(id.0);
    let text = block.text[(start - first) as usize..(end - first) as usize].to_vec();
    let (left, right) = (block.left.clone(), block.right.clone());
    Some(Block {
        text,
        left,
        right,
        deleted: block.deleted,
    })
}

fn holder<'b>(blocks: &'b Blocks, character: &Id) -> Option<(&'b Id, &'b Block)> {
    let (value, client) = character;
    blocks
        .iter()
        .find(|(id, block)| id.1 == *client && block.first(id.0) <= *value && *value <= id.0)
}

/// R3b for one stored block.
fn splits_around_others(stored: &Blocks, merged: &Blocks, id: &Id) -> bool {
    let first = (stored[id].first(id.0), id.1.clone());
    let Some((first_piece, _)) = holder(merged, &first) else {
        return false;
    };
    first_piece != id && merged.range(first_piece..=id).any(|(between, _)| between.1 != id.1)
}

/// R3c for one new block.
fn is_inside_one_insert(block: &Block, merged: &Blocks) -> bool {
    let (Some(left), Some(right)) = (&block.left, &block.right) else {
        return false;
    };
    if left.1 != right.1 || left.0 + 1 != right.0 {
        return false;
    }
    match (holder(merged, left), holder(merged, right)) {
        (Some((_, one)), Some((_, other))) => one.left == other.left && one.right == other.right,
        _ => false,
    }
}
