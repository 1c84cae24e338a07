//! The two reasons for an echo that repair only the author's display (rules R3b and R3c).
//!
//! A client keeps the visible text as a string of its own, beside the blocks. In these cases the string is not what the
//! blocks mean, although the blocks are right; any merge rebuilds it.

use super::blocks::{Block, Client, Finder};

/// A stored block that is in pieces now, by the last values of its first and last piece.
pub(super) struct Split {
    pub client: Client,
    pub first_piece: u64,
    pub last_piece: u64,
}

/// R3b: whether in ID order a block of another client stands between the first and the last piece of a split block.
pub(super) fn stands_between(list: &[Block], splits: &[Split]) -> bool {
    if splits.is_empty() {
        return false;
    }
    // Where the run of blocks of one client begins to which each block belongs: splits may nest, so looking through
    // the blocks between two pieces for each of them could be quadratic.
    let mut runs = Vec::with_capacity(list.len());
    for (at, block) in list.iter().enumerate() {
        let continues = at > 0 && list[at - 1].client == block.client;
        runs.push(if continues { runs[at - 1] } else { at });
    }
    let place = |last: u64, client: Client| list.partition_point(|block| block.id() < (last, client));
    splits
        .iter()
        .any(|split| runs[place(split.last_piece, split.client)] > place(split.first_piece, split.client))
}

/// R3c: whether a block that was not stored went between two neighbouring characters of one insert.
pub(super) fn inside_one_insert(list: &[Block], clients: usize, fresh: &[&Block]) -> bool {
    let neighbours = |block: &&&Block| match (block.left.known(), block.right.known()) {
        (Some((left, at)), Some((right, next))) => left == right && at + 1 == next,
        _ => false,
    };
    let mut candidates = fresh.iter().filter(neighbours).peekable();
    if candidates.peek().is_none() {
        return false;
    }
    let finder = Finder::new(list, clients);
    candidates.any(|block| match (finder.find(block.left), finder.find(block.right)) {
        (Some(left), Some(right)) => list[left].same_origins(&list[right]),
        _ => false,
    })
}
