//! Deliberate breakages, to check that the checks notice them: one at a time, chosen by a test for its whole process.
//!
//! A release build has none of them: [`Mutation::is_on`] is constant there, whatever was chosen. Elsewhere it costs a
//! relaxed load. No variable or flag of the server reaches [`choose`]; only code that links this crate can call it.

use std::sync::atomic::{AtomicU8, Ordering};

/// A promise broken on purpose, at one place of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// What a connection wrote and nobody was told of yet is forgotten when it leaves.
    DropDirtyOnLeave = 1,
    /// A write is acknowledged before it is stored.
    AckBeforeCommit,
    /// A write is never acknowledged once it had to wait for storage.
    LoseWithheldAcks,
    /// A write that comes while the document is being stored does not make it unsaved.
    ForgetUnsavedMark,
    /// What another server wrote into the row is not taken over.
    IgnoreMergedRow,
    /// Whoever lost a write is not told the winner.
    ForgetTheWinner,
    /// Clocks merge by maximum, and an accepted write does not count.
    MergeClocksByMaximum,
    /// Deletions are not told.
    LoseTombstones,
    /// Changes go to the first shard that has listeners only.
    ForgetOtherShards,
    /// A reader that stumbled is told that it is up to date, and nothing else.
    SkipCatchUp,
    /// The author of a text is never told what the merge made of it.
    ForgetTextEcho,
    /// An incoming text replaces the stored one.
    OverwriteText,
    /// A listener that left is kept.
    KeepListeners,
    /// A vanished user stays present.
    KeepPresence,
}

use Mutation::{
    AckBeforeCommit, DropDirtyOnLeave, ForgetOtherShards, ForgetTextEcho, ForgetTheWinner, ForgetUnsavedMark,
    IgnoreMergedRow, KeepListeners, KeepPresence, LoseTombstones, LoseWithheldAcks, MergeClocksByMaximum,
    OverwriteText, SkipCatchUp,
};

/// All of them.
pub const ALL: [Mutation; 14] = [
    DropDirtyOnLeave,
    AckBeforeCommit,
    LoseWithheldAcks,
    ForgetUnsavedMark,
    IgnoreMergedRow,
    ForgetTheWinner,
    MergeClocksByMaximum,
    LoseTombstones,
    ForgetOtherShards,
    SkipCatchUp,
    ForgetTextEcho,
    OverwriteText,
    KeepListeners,
    KeepPresence,
];

static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// Breaks the whole process from now on; `None` mends it.
pub fn choose(mutation: Option<Mutation>) {
    CHOSEN.store(mutation.map_or(0, |mutation| mutation as u8), Ordering::Relaxed);
}

impl Mutation {
    /// Whether this breakage was chosen; never in a release build.
    #[inline(always)]
    pub fn is_on(self) -> bool {
        cfg!(debug_assertions) && CHOSEN.load(Ordering::Relaxed) == self as u8
    }
}
