//! Which of another node's changes of a document have arrived.

use crate::mutation::Mutation;

/// Numbers behind the first missing one that are told apart; whatever comes later than that counts as missing.
const WINDOW: u64 = 64;

/// What was heard of one node about one document.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// Which node.
    pub node: u64,
    epoch: u64,
    /// The first number that has not arrived.
    next: u64,
    /// Which of the numbers from `next` on have.
    ahead: u64,
    /// The greatest number known to have been sent.
    known: u64,
}

/// What a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The change has not been seen.
    Fresh,
    /// It has.
    Repeated,
}

impl Heard {
    /// Nothing was heard of the node yet.
    pub fn new(node: u64, epoch: u64) -> Heard {
        Heard {
            node,
            epoch,
            next: 1,
            ahead: 0,
            known: 0,
        }
    }

    /// A change arrived.
    pub fn change(&mut self, epoch: u64, sequence: u64) -> News {
        if epoch < self.epoch {
            return News::Repeated;
        }
        if epoch > self.epoch && !Mutation::IgnoreEpochChange.is_on() {
            *self = Heard::new(self.node, epoch);
        }
        self.known = self.known.max(sequence);
        if Mutation::CountRepetitions.is_on() {
            self.next = self.next.max(sequence + 1);
            return News::Fresh;
        }
        if sequence < self.next {
            return News::Repeated;
        }
        let at = sequence - self.next;
        if at >= WINDOW {
            // What lies between is missing; it comes with a repair, and what is still on its way counts as new then.
            return News::Fresh;
        }
        if self.ahead & 1 << at != 0 {
            return News::Repeated;
        }
        self.ahead |= 1 << at;
        let run = self.ahead.trailing_ones();
        self.ahead = self.ahead.checked_shr(run).unwrap_or(0);
        self.next += u64::from(run);
        News::Fresh
    }

    /// The node says how many changes it has made.
    pub fn expect(&mut self, epoch: u64, sequence: u64) {
        if epoch > self.epoch {
            *self = Heard::new(self.node, epoch);
        }
        if epoch == self.epoch {
            self.known = self.known.max(sequence);
        }
    }

    /// Everything up to that number is contained in what was merged.
    pub fn settle(&mut self, epoch: u64, sequence: u64) {
        self.expect(epoch, sequence);
        if epoch != self.epoch || sequence < self.next {
            return;
        }
        let passed = sequence + 1 - self.next;
        self.ahead = if passed < WINDOW { self.ahead >> passed } else { 0 };
        self.next = sequence + 1;
        let run = self.ahead.trailing_ones();
        self.ahead = self.ahead.checked_shr(run).unwrap_or(0);
        self.next += u64::from(run);
    }

    /// What is missing is taken for lost.
    pub fn give_up(&mut self) {
        self.settle(self.epoch, self.known);
    }

    /// Whether something was sent that has not arrived.
    pub fn has_gap(&self) -> bool {
        self.known >= self.next && !Mutation::SkipGapRepair.is_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn gaps_and_repetitions_are_those_of_a_plain_set(numbers in prop::collection::vec(1..40u64, 0..80), settled in 0..40u64) {
            let (mut heard, mut seen) = (Heard::new(1, 7), BTreeSet::new());
            for (at, number) in numbers.iter().enumerate() {
                if at == 20 {
                    heard.settle(7, settled);
                    seen.extend(1..=settled);
                }
                let news = heard.change(7, *number);
                prop_assert_eq!(news == News::Fresh, seen.insert(*number));
                let greatest = *seen.last().unwrap();
                prop_assert_eq!(heard.has_gap(), seen.len() as u64 != greatest);
            }
        }
    }

    #[test]
    fn an_older_life_of_the_node_says_nothing_new() {
        let mut heard = Heard::new(1, 7);
        assert_eq!(heard.change(7, 1), News::Fresh);
        assert_eq!(heard.change(8, 1), News::Fresh);
        assert_eq!(heard.change(7, 2), News::Repeated);
        assert!(!heard.has_gap());
        heard.expect(8, 3);
        assert!(heard.has_gap());
        heard.settle(8, 3);
        assert!(!heard.has_gap());
        assert_eq!(heard.change(8, 900), News::Fresh);
        assert!(heard.has_gap());
    }
}
