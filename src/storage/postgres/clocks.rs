//! Clocks of documents on their way to `vector_clocks`.
//!
//! This server reads a document's clock from its state. The table is for others: servers that take the rows over, people
//! who look. A new document gets its row with its first commit; afterwards the row follows within [`PERIOD`], with one update
//! for all commits of the document meanwhile, instead of one in each of them.

use hashbrown::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far the table may be behind.
const PERIOD: Duration = Duration::from_secs(1);
/// Rows of one statement: while a writer is busy with it, documents wait.
const ROWS_MAX: usize = 100;

/// Clocks that are to be written, of all connections together.
#[derive(Clone, Default)]
pub struct Clocks(Arc<Mutex<Owed>>);

#[derive(Default)]
struct Owed {
    clocks: HashMap<Arc<str>, i64>,
    /// When all of them are due.
    due: Option<Instant>,
}

impl Clocks {
    /// Has clocks of documents written, `now` being the time.
    pub(super) fn owe<'a>(&self, clocks: impl Iterator<Item = (&'a str, i64)>, now: Instant) {
        let mut owed = self.lock();
        for (document, clock) in clocks {
            match owed.clocks.get_mut(document) {
                Some(known) => *known = clock.max(*known),
                None => drop(owed.clocks.insert(document.into(), clock)),
            }
            owed.due.get_or_insert(now + PERIOD);
        }
    }

    /// Takes documents if they are due, or any, in the order of their ids. They are this caller's to write.
    pub(super) fn take(&self, any: bool, now: Instant) -> Vec<(Arc<str>, i64)> {
        let mut owed = self.lock();
        if !any && owed.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut taken: Vec<_> = owed.clocks.extract_if(|_, _| true).take(ROWS_MAX).collect();
        if owed.clocks.is_empty() {
            *owed = Owed::default();
        }
        taken.sort();
        taken
    }

    /// When there is something to take.
    pub(super) fn due(&self) -> Option<Instant> {
        self.lock().due
    }

    pub(super) fn clear(&self) {
        *self.lock() = Owed::default();
    }

    fn lock(&self) -> MutexGuard<'_, Owed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_due_once_a_period_with_its_greatest_clock() {
        let (clocks, start) = (Clocks::default(), Instant::now());
        clocks.owe([("b", 5)].into_iter(), start);
        clocks.owe([("a", 1), ("b", 7)].into_iter(), start + PERIOD / 2);
        clocks.owe([("b", 6)].into_iter(), start + PERIOD / 2);
        assert_eq!(clocks.due(), Some(start + PERIOD));
        assert_eq!(clocks.take(false, start + PERIOD / 2), []);
        assert_eq!(clocks.take(false, start + PERIOD), [("a".into(), 1), ("b".into(), 7)]);
        assert_eq!(clocks.due(), None);
        clocks.owe([("b", 8)].into_iter(), start + PERIOD);
        assert_eq!(clocks.due(), Some(start + PERIOD * 2));
        assert_eq!(clocks.take(true, start), [("b".into(), 8)]);
        assert_eq!((clocks.due(), clocks.take(true, start)), (None, vec![]));
    }

    #[test]
    fn no_statement_takes_more_than_its_share() {
        let (clocks, now) = (Clocks::default(), Instant::now());
        let documents: Vec<String> = (0..ROWS_MAX + 1).map(|n| n.to_string()).collect();
        clocks.owe(documents.iter().map(|document| (&**document, 1)), now);
        assert_eq!(clocks.take(false, now + PERIOD).len(), ROWS_MAX);
        assert_eq!(clocks.due(), Some(now + PERIOD));
        assert_eq!(clocks.take(false, now + PERIOD).len(), 1);
        assert_eq!(clocks.due(), None);
    }
}
