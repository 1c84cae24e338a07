//! What befalls a simulated server and its clients on purpose, because chance alone rarely brings it about.

use super::sim_peer::Kind;
use super::{DOCUMENTS, Run};

impl Run {
    /// The wall clock of the server is set, by at most so much in all that nothing is kept for less than it must be.
    pub fn step_clock(&mut self) {
        const HOUR_MS: i64 = 3_600_000;
        let ms = [0, -1, 900, -5_000, 600_000, -HOUR_MS, 11 * HOUR_MS, -11 * HOUR_MS][self.world.dice.below(8)];
        self.world.set_clock_error(ms);
        self.clock_steps += 1;
    }

    /// The database is away for longer than a write waits: what waits for it is refused, and what comes then at once; clients
    /// go on nevertheless.
    pub fn outage(&mut self) {
        let us = [6_000_000, 20_000_000][self.world.dice.below(2)];
        let known = self.world.dice.percent(50);
        let (now_us, Some(storage)) = (self.world.now.mono_us, &mut self.world.storage) else {
            return;
        };
        storage.go_away(now_us, us, known);
        self.outages += 1;
        while self.world.now.mono_us < now_us + us {
            for _ in 0..4 {
                self.act();
                self.step();
            }
            // The shards try what a full queue did not take all the time; it is enough that they do so now and then.
            for _ in 0..5 {
                self.step();
                let us = [1_000, 20_000, 90_000][self.world.dice.below(3)];
                self.world.pass(us);
            }
        }
    }

    /// Stalls one reader while the others send more than its outbox takes, then lets it read on in time.
    pub fn flood(&mut self) {
        let at = self.world.dice.below(self.peers.len());
        let Some(socket) = self.peers[at].socket else { return };
        self.world.sockets[socket].stalled_until_us = self.world.now.mono_us + 20_000_000;
        // Enough for the soft bound, or the hard one where that is smaller; a document alone must stay below it.
        let large = (self.queue_bytes / 40).min(30_000);
        // Always the same element: the set stays small while relays pile up to the hard bound.
        let element = (self.queue_bytes / 12).min(60_000);
        for _ in 0..40 {
            let writer = self.world.dice.below(self.peers.len());
            let document = DOCUMENTS[self.world.dice.below(3)];
            let bytes = large / 2 + self.world.dice.below(large / 2);
            if writer != at {
                self.peers[writer].write_unique(&mut self.world, document, bytes);
            }
            for _ in 0..3 {
                let busy = self.world.dice.below(self.peers.len());
                match self.world.dice.below(5) {
                    0 => self.peers[busy].edit_text(&mut self.world, document),
                    1 => self.peers[busy].tell_presence(&mut self.world, document),
                    2 => self.peers[busy].change_set(&mut self.world, document, element),
                    _ => self.peers[busy].write_shared(&mut self.world, document),
                }
                self.step();
            }
        }
        self.world.sockets[socket].stalled_until_us = 0;
        // What was skipped is asked for while news goes on arriving.
        for _ in 0..60 {
            self.act();
            self.step();
        }
    }

    /// Two or three clients type into one text at the same places, and have the same text as soon as nothing more happens.
    pub fn type_together(&mut self) {
        const DOCUMENT: &str = DOCUMENTS[0];
        let typists: Vec<usize> = (0..self.peers.len())
            .filter(|at| self.peers[*at].kind != Kind::Goc)
            .take(3)
            .collect();
        for &at in &typists {
            if self.peers[at].socket.is_none() {
                self.peers[at].connect(&mut self.world, false);
            }
        }
        self.settle(10_000);
        for &at in &typists {
            self.peers[at].subscribe(&mut self.world, DOCUMENT);
        }
        self.settle(10_000);
        for _ in 0..12 {
            for _ in 0..1 + self.world.dice.below(4) {
                let at = typists[self.world.dice.below(typists.len())];
                self.peers[at].type_word(&mut self.world, DOCUMENT);
                for _ in 0..self.world.dice.below(3) {
                    self.step();
                }
            }
            self.settle(500_000);
            self.typists_agree(&typists, DOCUMENT);
        }
        // What they type while one of them is away, it learns although it only speaks.
        self.peers[typists[0]].vanish(&mut self.world, false);
        self.settle(10_000);
        for &at in &typists[1..] {
            self.peers[at].type_word(&mut self.world, DOCUMENT);
        }
        self.settle(500_000);
        self.peers[typists[0]].connect(&mut self.world, false);
        self.settle(10_000);
        self.peers[typists[0]].speak_first(&mut self.world, DOCUMENT);
        self.settle(500_000);
        self.typists_agree(&typists, DOCUMENT);
        // Its fields nobody owes to a client that never asked.
        self.peers[typists[0]].subscribe(&mut self.world, DOCUMENT);
        self.settle(10_000);
    }

    fn typists_agree(&self, typists: &[usize], document: &str) {
        let text = |at: usize| &self.peers[at].copies[document].text;
        for pair in typists.windows(2) {
            let (one, other) = (text(pair[0]), text(pair[1]));
            assert_eq!(one.blocks, other.blocks, "blocks after typing together");
            assert_eq!(one.shown(), other.shown(), "what is shown after typing together");
        }
    }

    /// A client with a slow clock, which has counted far ahead, writes what another has just written: it must be told that it
    /// lost.
    pub fn collide(&mut self) {
        let of = |kinds: &[Kind]| self.peers.iter().position(|peer| kinds.contains(&peer.kind));
        let (Some(slow), Some(other)) = (of(&[Kind::Sdk]), of(&[Kind::Json, Kind::Binary])) else {
            return;
        };
        self.peers[slow].slow_down();
        for document in &DOCUMENTS[..3] {
            self.peers[other].write_contested(&mut self.world, document, 4);
            self.world.step();
            self.world.step();
            for number in 0..5 {
                self.peers[slow].write_contested(&mut self.world, document, number);
            }
        }
        self.settle(500_000);
        for peer in &self.peers {
            assert!(
                peer.is_online(),
                "{} was refused although nothing fails any more",
                peer.id
            );
        }
    }
}
