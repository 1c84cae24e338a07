//! Collects the blocks of an incoming state from either reader and checks what section 3 of the text rules demands.

use super::blocks::{self, Block, Blocks, Client, Origin};
use super::{Incoming, TextError, TextLimits, graphemes};
use std::collections::HashMap;

/// No state above this is taken, whatever the configured limit, so that the bytes of a block fit 32 bits.
pub(super) const STATE_BYTES_CEILING: usize = 1 << 30;

/// The largest integer that is exact in a client's number type.
pub(super) const INTEGER_MAX: u64 = (1 << 53) - 1;

/// How far a clock may run ahead of what its characters explain. A replica spends one value per character, so honest
/// clocks never need the slack; a poisoned one would push all later clocks out of the exact integers.
const CLOCK_SLACK: u64 = 1_000_000;

/// An entry of `blocks` without its text, which was written to [`Builder::text`] from `start` on.
pub(super) struct Entry {
    pub client: Client,
    pub clock: u64,
    pub left: Origin,
    pub right: Origin,
    pub deleted: bool,
    pub start: usize,
}

/// What a reader has found so far.
pub(super) struct Builder<'l> {
    limits: &'l TextLimits,
    clients: HashMap<Box<str>, Client>,
    blocks: Vec<Block>,
    /// The texts of all entries, one after the other.
    pub text: String,
    /// `clock.value`, once seen.
    pub clock: Option<u64>,
    /// Whether the `client_id` of the state was seen.
    pub has_client_id: bool,
}

impl<'l> Builder<'l> {
    pub(super) fn new(limits: &'l TextLimits) -> Builder<'l> {
        Builder {
            limits,
            clients: HashMap::new(),
            blocks: Vec::new(),
            text: String::new(),
            clock: None,
            has_client_id: false,
        }
    }

    /// Forgets the blocks: the member `blocks` came twice and the last one counts.
    pub(super) fn forget_blocks(&mut self) {
        self.clients.clear();
        self.blocks.clear();
        self.text.clear();
    }

    pub(super) fn check_client_id(&self, id: &str) -> Result<(), TextError> {
        if id.len() > self.limits.client_id_bytes_max {
            return Err(TextError::ClientIdTooLong {
                max: self.limits.client_id_bytes_max,
            });
        }
        Ok(())
    }

    /// The number of a client id. Numbers follow the order of appearance until [`Builder::finish`].
    pub(super) fn client(&mut self, id: &str) -> Result<Client, TextError> {
        if let Some(&client) = self.clients.get(id) {
            return Ok(client);
        }
        self.check_client_id(id)?;
        let client = self.clients.len() as Client;
        self.clients.insert(id.into(), client);
        Ok(client)
    }

    /// Whether another entry is within the limits.
    pub(super) fn check_room(&self) -> Result<(), TextError> {
        if self.blocks.len() >= self.limits.blocks_max {
            return Err(TextError::TooManyBlocks {
                max: self.limits.blocks_max,
            });
        }
        Ok(())
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let text = &self.text[entry.start..];
        self.blocks.push(Block {
            last: entry.clock,
            start: entry.start,
            left: entry.left,
            right: entry.right,
            client: entry.client,
            len: graphemes::count(text) as u32,
            bytes: text.len() as u32,
            deleted: entry.deleted,
        });
    }

    /// Sorts, drops what does not count and checks the rest.
    pub(super) fn finish(mut self, highest_stored_clock: u64) -> Result<Incoming, TextError> {
        let clock = self.clock.ok_or(TextError::Missing("clock"))?;
        if !self.has_client_id {
            return Err(TextError::Missing("client_id"));
        }
        let mut clients = self.sort_clients();
        if !self.blocks.is_sorted_by(|one, next| one.id() < next.id()) {
            self.blocks.sort_by_key(Block::id);
            keep_last_of_equal_ids(&mut self.blocks);
        }
        self.blocks.retain(|block| block.len > 0);
        check(&self.blocks, clients.len(), highest_stored_clock)?;
        clients = blocks::prune(clients, &mut self.blocks);
        let exotic = self
            .blocks
            .iter()
            .any(|block| graphemes::is_exotic(block.text(&self.text)));
        Ok(Incoming {
            blocks: Blocks::new(clients.into(), self.text, self.blocks),
            clock,
            exotic,
        })
    }

    /// Replaces numbers by ranks, so that numbers compare as ids do.
    fn sort_clients(&mut self) -> Vec<Box<str>> {
        let mut clients: Vec<(Box<str>, Client)> = self.clients.drain().collect();
        clients.sort_unstable();
        let mut ranks = vec![0; clients.len()];
        for (rank, (_, number)) in clients.iter().enumerate() {
            ranks[*number as usize] = rank as Client;
        }
        for block in &mut self.blocks {
            *block = block.renumbered(&ranks);
        }
        clients.into_iter().map(|(id, _)| id).collect()
    }
}

/// The list is sorted stably, so among equal IDs the last one stands last.
fn keep_last_of_equal_ids(list: &mut Vec<Block>) {
    list.dedup_by(|next, kept| {
        let same = next.id() == kept.id();
        if same {
            *kept = *next;
        }
        same
    });
}

/// The checks on blocks with text, in ID order.
fn check(list: &[Block], clients: usize, highest_stored_clock: u64) -> Result<(), TextError> {
    let mut ends = vec![0; clients];
    let mut characters = 0_u64;
    for block in list {
        characters += u64::from(block.len);
        if block.last < u64::from(block.len) {
            return Err(TextError::MoreCharactersThanValues);
        }
        let first = block.first();
        if [block.left, block.right]
            .into_iter()
            .filter_map(Origin::known)
            .any(|(_, clock)| clock >= first)
        {
            return Err(TextError::OriginNotOlder);
        }
        // Blocks come with ascending `last`, so an overlap is one with the block of the client before.
        if first <= std::mem::replace(&mut ends[block.client as usize], block.last) {
            return Err(TextError::Overlap);
        }
    }
    let highest = list.last().map_or(0, |block| block.last);
    if highest
        > highest_stored_clock
            .saturating_add(characters)
            .saturating_add(CLOCK_SLACK)
    {
        return Err(TextError::ClockAhead);
    }
    Ok(())
}
