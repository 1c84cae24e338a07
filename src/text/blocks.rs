//! How a state lies in memory: client ids interned and sorted, texts in one buffer, blocks of 64 bytes.
//!
//! Because the client table is sorted bytewise, comparing two client numbers compares the ids, and the ID order of blocks
//! is the order of `(last, client)`.

use std::sync::Arc;

/// A client id as its rank in the sorted table of its state.
pub(super) type Client = u32;

const NO_CLIENT: Client = Client::MAX;

/// One character, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    clock: u64,
    client: Client,
}

impl Origin {
    pub(super) const NONE: Origin = Origin {
        clock: 0,
        client: NO_CLIENT,
    };

    pub(super) fn new(client: Client, clock: u64) -> Origin {
        debug_assert!(client != NO_CLIENT);
        Origin { clock, client }
    }

    pub(super) fn known(self) -> Option<(Client, u64)> {
        (self.client != NO_CLIENT).then_some((self.client, self.clock))
    }

    fn renumbered(self, map: &[Client]) -> Origin {
        match self.known() {
            Some((client, clock)) => Origin::new(map[client as usize], clock),
            None => self,
        }
    }
}

/// One insert or a piece of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// The value of the last character; with `client` the identity of the block.
    pub last: u64,
    /// Where the text starts in the buffer.
    pub start: usize,
    pub left: Origin,
    pub right: Origin,
    pub client: Client,
    /// Characters (extended grapheme clusters).
    pub len: u32,
    /// Bytes of text. Equal to `len` exactly when every character is a single byte.
    pub bytes: u32,
    pub deleted: bool,
}

const _: () = assert!(size_of::<Block>() <= 64);

impl Block {
    /// The value of the first character. Only for blocks with text, whose `last >= len` was checked.
    pub(super) fn first(&self) -> u64 {
        self.last + 1 - u64::from(self.len)
    }

    /// Sorts as section "State layout" of the text rules demands (the offset is always 0).
    pub(super) fn id(&self) -> (u64, Client) {
        (self.last, self.client)
    }

    pub(super) fn text<'t>(&self, buffer: &'t str) -> &'t str {
        &buffer[self.start..self.start + self.bytes as usize]
    }

    pub(super) fn same_origins(&self, other: &Block) -> bool {
        self.left == other.left && self.right == other.right
    }

    pub(super) fn renumbered(&self, map: &[Client]) -> Block {
        Block {
            client: map[self.client as usize],
            left: self.left.renumbered(map),
            right: self.right.renumbered(map),
            ..*self
        }
    }
}

/// The blocks of a state in ID order, with what they refer to. Immutable and shared.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    /// Every client id that a block or an origin names, sorted bytewise.
    pub clients: Arc<[Box<str>]>,
    pub text: Arc<str>,
    pub list: Arc<[Block]>,
}

impl Blocks {
    pub(super) fn new(clients: Arc<[Box<str>]>, text: String, list: Vec<Block>) -> Blocks {
        debug_assert!(clients.is_sorted() && list.is_sorted_by_key(Block::id));
        Blocks {
            clients,
            text: text.into(),
            list: list.into(),
        }
    }

    pub(super) fn highest_clock(&self) -> u64 {
        self.list.last().map_or(0, |block| block.last)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // An `Arc` header is two words; an id costs its pointer pair and about one word of allocator overhead.
        let headers = 3 * 2 * size_of::<usize>();
        let clients: usize = self
            .clients
            .iter()
            .map(|id| size_of::<Box<str>>() + size_of::<usize>() + id.len())
            .sum();
        headers + clients + self.text.len() + size_of_val(&*self.list)
    }
}

/// Drops client ids that no block names any more. Without this, ids that came with dropped blocks would pile up.
pub(super) fn prune(clients: Vec<Box<str>>, list: &mut [Block]) -> Vec<Box<str>> {
    let mut used = vec![false; clients.len()];
    for block in list.iter() {
        used[block.client as usize] = true;
        for (client, _) in [block.left, block.right].into_iter().filter_map(Origin::known) {
            used[client as usize] = true;
        }
    }
    if used.iter().all(|&used| used) {
        return clients;
    }
    let mut kept = Vec::new();
    let mut map = vec![0; clients.len()];
    for (number, id) in clients.into_iter().enumerate().filter(|&(number, _)| used[number]) {
        map[number] = kept.len() as Client;
        kept.push(id);
    }
    for block in list.iter_mut() {
        *block = block.renumbered(&map);
    }
    kept
}

/// Finds the block that holds a character.
pub(super) struct Finder<'b> {
    list: &'b [Block],
    /// `order[starts[c]..starts[c + 1]]` are the blocks of client `c`, ascending.
    starts: Vec<u32>,
    order: Vec<u32>,
}

impl<'b> Finder<'b> {
    pub(super) fn new(list: &'b [Block], clients: usize) -> Finder<'b> {
        let mut starts = vec![0_u32; clients + 1];
        for block in list {
            starts[block.client as usize + 1] += 1;
        }
        for client in 0..clients {
            starts[client + 1] += starts[client];
        }
        let mut next = starts.clone();
        let mut order = vec![0_u32; list.len()];
        for (number, block) in list.iter().enumerate() {
            let slot = &mut next[block.client as usize];
            order[*slot as usize] = number as u32;
            *slot += 1;
        }
        Finder { list, starts, order }
    }

    /// The number of the block that holds the character, if any does.
    pub(super) fn find(&self, origin: Origin) -> Option<usize> {
        let (client, clock) = origin.known()?;
        let range = self.starts[client as usize] as usize..self.starts[client as usize + 1] as usize;
        let own = &self.order[range];
        let at = own.partition_point(|&number| self.list[number as usize].last < clock);
        let number = *own.get(at)? as usize;
        (self.list[number].first() <= clock).then_some(number)
    }
}
