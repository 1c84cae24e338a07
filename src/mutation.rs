//! Deliberate breakages, to check that the checks notice them: one at a time, chosen by a test for its whole process.
//!
//! A release build has none of them: [`Mutation::is_on`] is constant there, whatever was chosen. Elsewhere it costs a
//! relaxed load. No variable or flag of the server reaches [`choose`]; only code that links this crate can call it.

use std::sync::atomic::{AtomicU8, Ordering};

/// Declares the enumeration and the list of all its values from one list.
macro_rules! mutations {
    ($($(#[$what:meta])* $name:ident,)*) => {
        /// A promise broken on purpose, at one place of the code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Mutation {
            $($(#[$what])* $name,)*
        }

        /// All of them.
        pub const ALL: &[Mutation] = &[$(Mutation::$name),*];
    };
}

mutations! {
    /// What a connection wrote and nobody was told of yet is forgotten when it leaves.
    DropDirtyOnLeave,
    /// A write is acknowledged before it is stored.
    AckBeforeCommit,
    /// A write is never acknowledged once it had to wait for storage.
    LoseWithheldAcks,
    /// Writes that were stored together are acknowledged the last one first.
    AckLastFirst,
    /// A write that comes while the document is being stored does not make it unsaved.
    ForgetUnsavedMark,
    /// Documents are stored without their text.
    StoreWithoutText,
    /// What another server wrote into the row is not taken over.
    IgnoreMergedRow,
    /// Whoever wrote a field is not told of it.
    ForgetEcho,
    /// An own echo comes with the stamp of the field, so that it replaces what its author has typed since.
    EchoWithStamp,
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
    /// Whoever gives no sign of life is kept.
    KeepSilentConnections,
    /// A vanished user stays present.
    KeepPresence,
    /// Another node's change that did not arrive is not missed.
    SkipGapRepair,
    /// A change of another node that comes again is taken for a new one.
    CountRepetitions,
    /// An operation that a client sends again is counted again.
    CountTwice,
    /// Nodes do not compare what they hold.
    ForgetDigests,
    /// A document that another node made anew counts as the one it had before.
    IgnoreEpochChange,
    /// What another node knew better keeps the stamp it had there.
    TakeOverStamps,
    /// Other nodes are not told what was written.
    ForgetOtherNodes,
    /// What the bus did not take is forgotten.
    ForgetRefusedEnvelopes,
    /// Presence that only a node which is gone knew of stays.
    KeepPresenceOfDeadNodes,
}

const NONE: u8 = u8::MAX;

static CHOSEN: AtomicU8 = AtomicU8::new(NONE);

/// Breaks the whole process from now on; `None` mends it.
pub fn choose(mutation: Option<Mutation>) {
    CHOSEN.store(mutation.map_or(NONE, |mutation| mutation as u8), Ordering::Relaxed);
}

impl Mutation {
    /// Whether this breakage was chosen; never in a release build.
    #[inline(always)]
    pub fn is_on(self) -> bool {
        cfg!(debug_assertions) && CHOSEN.load(Ordering::Relaxed) == self as u8
    }
}
