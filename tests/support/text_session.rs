//! A seeded session: model clients, queues with arbitrary delays, and the server's merge with its relay rules R1 to R6.

#![allow(dead_code, reason = "each test file uses its part")]

use crate::text_client::{Client, parse};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use synckit_server::text::{Echo, Incoming, TextLimits, TextState, merge};

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub enum Mix {
    /// One key per edit, now and then a deleted character.
    Typing,
    /// Longer inserts anywhere.
    Pastes,
    /// Inserts and deleted ranges.
    Ranges,
    /// Everything, characters of several code points included.
    NonAscii,
}

pub const ASCII_MIXES: [Mix; 3] = [Mix::Typing, Mix::Pastes, Mix::Ranges];

/// A client with its connection.
pub struct Peer {
    pub client: Client,
    dirty: bool,
    online: bool,
    /// R4: the server owes this connection a state.
    owed: bool,
    up: VecDeque<String>,
    down: VecDeque<String>,
}

pub struct Session {
    pub seed: u64,
    pub rng: StdRng,
    pub peers: Vec<Peer>,
    pub stored: Option<TextState>,
    /// Every state a client sent, in the order of arrival.
    pub sent: Vec<String>,
    mix: Mix,
    joined: usize,
}

impl Session {
    pub fn new(seed: u64, mix: Mix, peers: usize) -> Session {
        let rng = StdRng::seed_from_u64(seed);
        let mut session = Session {
            seed,
            rng,
            peers: Vec::new(),
            stored: None,
            sent: Vec::new(),
            mix,
            joined: 0,
        };
        for _ in 0..peers {
            session.join();
        }
        session
    }

    /// A new client subscribes and gets the current state (R6).
    pub fn join(&mut self) {
        let client = self.fresh_client();
        let peer = Peer {
            client,
            dirty: false,
            online: true,
            owed: true,
            up: VecDeque::new(),
            down: VecDeque::new(),
        };
        self.peers.push(peer);
    }

    fn fresh_client(&mut self) -> Client {
        self.joined += 1;
        // Ids whose order is not the order of joining.
        Client::new(&format!(
            "client-{}{}",
            ["m", "B", "z", "a"][self.joined % 4],
            self.joined
        ))
    }

    /// One random thing happens.
    pub fn step(&mut self) {
        let at = self.rng.random_range(0..self.peers.len());
        match self.rng.random_range(0..100) {
            0..35 => self.edit(at),
            35..55 => self.flush(at),
            55..75 => self.take_up(at),
            75..85 => self.pump(at),
            85..96 => self.take_down(at),
            96..99 => self.peers[at].online = !self.peers[at].online,
            _ => self.reload(at),
        }
    }

    pub fn edit(&mut self, at: usize) {
        let shown = self.peers[at].client.visible.len();
        let position = self.rng.random_range(0..=shown);
        let deletes = match self.mix {
            Mix::Typing => shown > 0 && self.rng.random_bool(0.15),
            Mix::Pastes => false,
            Mix::Ranges | Mix::NonAscii => shown > 0 && self.rng.random_bool(0.4),
        };
        if deletes {
            let count_max = if matches!(self.mix, Mix::Typing) { 1 } else { 8 };
            let count = self.rng.random_range(1..=count_max);
            self.peers[at].client.delete(position.min(shown - 1), count);
        } else {
            let len = if matches!(self.mix, Mix::Typing) {
                1
            } else {
                self.rng.random_range(1..=9)
            };
            let text: String = (0..len).map(|_| self.character()).collect();
            self.peers[at].client.insert(position, &text);
        }
        self.peers[at].dirty = true;
    }

    fn character(&mut self) -> &'static str {
        const ASCII: [&str; 8] = ["a", "b", "c", "x", " ", "\"", "\\", "\n"];
        const OTHER: [&str; 6] = ["é", "漢", "👩‍👩‍👧", "\r\n", "e\u{301}", "\u{1}"];
        if matches!(self.mix, Mix::NonAscii) && self.rng.random_bool(0.4) {
            OTHER[self.rng.random_range(0..OTHER.len())]
        } else {
            ASCII[self.rng.random_range(0..ASCII.len())]
        }
    }

    /// The client's batch window ends: its complete state goes out.
    pub fn flush(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if std::mem::take(&mut peer.dirty) {
            peer.up.push_back(peer.client.state());
        }
    }

    /// The server gets the oldest state on the way from a client.
    pub fn take_up(&mut self, at: usize) {
        if self.peers[at].online
            && let Some(state) = self.peers[at].up.pop_front()
        {
            self.receive(at, state);
        }
    }

    fn receive(&mut self, from: usize, state: String) {
        let highest = self.stored.as_ref().map_or(0, TextState::highest_clock);
        let incoming = Incoming::parse(&state, &TextLimits::default(), highest)
            .unwrap_or_else(|error| panic!("seed {}: honest state refused: {error}: {state}", self.seed));
        let merged = merge(self.stored.as_ref(), &incoming);
        for (at, peer) in self.peers.iter_mut().enumerate() {
            peer.owed |= if at == from {
                merged.echo != Echo::None
            } else {
                merged.changed
            };
        }
        self.stored = Some(merged.state);
        self.sent.push(state);
        if merged.echo == Echo::AtOnce {
            self.pump(from);
        }
    }

    /// The server sends a connection what it is owed.
    pub fn pump(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if peer.online
            && peer.owed
            && let Some(stored) = &self.stored
        {
            peer.owed = false;
            peer.down.push_back(stored.to_json());
        }
    }

    pub fn take_down(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if peer.online
            && let Some(state) = peer.down.pop_front()
        {
            peer.client.receive(&state);
        }
    }

    /// A page is reloaded: what was not sent is lost, and a new replica begins.
    fn reload(&mut self, at: usize) {
        let client = self.fresh_client();
        let peer = &mut self.peers[at];
        *peer = Peer {
            client,
            dirty: false,
            online: true,
            owed: true,
            up: std::mem::take(&mut peer.up),
            down: VecDeque::new(),
        };
    }

    /// Everybody goes online and everything on its way arrives.
    pub fn settle(&mut self) {
        loop {
            for at in 0..self.peers.len() {
                self.peers[at].online = true;
                self.flush(at);
                while !self.peers[at].up.is_empty() {
                    self.take_up(at);
                }
            }
            for at in 0..self.peers.len() {
                self.pump(at);
                while !self.peers[at].down.is_empty() {
                    self.take_down(at);
                }
            }
            let quiet = |peer: &Peer| !peer.dirty && peer.up.is_empty() && peer.down.is_empty();
            if self.peers.iter().all(quiet) {
                break;
            }
        }
    }

    /// Server, all clients and a late joiner have the same blocks and show the same text.
    pub fn check_equal(&self, when: &str) {
        let Some(stored) = &self.stored else { return };
        let (blocks, text) = (parse(&stored.to_json()).0, stored.visible_text());
        let mut late = Client::new("late");
        late.receive(&stored.to_json());
        for client in self.peers.iter().map(|peer| &peer.client).chain([&late]) {
            let (seed, mix, id) = (self.seed, self.mix, &client.id);
            assert_eq!(client.blocks, blocks, "blocks of {id}, seed {seed}, {mix:?}, {when}");
            assert_eq!(client.shown(), text, "text of {id}, seed {seed}, {mix:?}, {when}");
        }
    }
}
