//! Telling storage which connections there are (docs/protocol.md §18.4), if the operator wants to see them in the database.
//!
//! Nothing is kept for it: a note says all there is to say of a connection, and the sweep repeats it once a minute.

use super::Shard;
use crate::ids::Slot;
use crate::saved::SessionNote;
use crate::session::{Flags, Stage};

/// How often a connection is noted while it is there.
const NOTE_US: u64 = 60_000_000;

impl Shard {
    /// Says that an authenticated WebSocket is there, and whose it is.
    pub(super) fn note_session(&self, slot: Slot) {
        let Some(note) = self.context.storage.as_ref().and_then(|link| link.note.as_ref()) else {
            return;
        };
        let (Some(reference), Some(session)) = (self.sessions.reference(slot), self.sessions.at(slot)) else {
            return;
        };
        if session.stage == Stage::Open && session.flags.has(Flags::AUTHENTICATED) {
            note(SessionNote::Here {
                session: reference,
                user: session.identity.user_id.clone(),
                client: session.client.as_ref().map(|client| client.id.clone()),
            });
        }
    }

    /// The same from the sweep, which passes a connection more often than it is to be noted.
    pub(super) fn note_session_in_turn(&self, slot: Slot) {
        let rounds = NOTE_US.div_ceil(self.sweep_period_us());
        if (self.sweep_rounds() + slot.index() as u64).is_multiple_of(rounds) {
            self.note_session(slot);
        }
    }

    /// Says that a connection is about to leave this shard's slab. Must be called while it is still there.
    pub(super) fn note_session_end(&self, slot: Slot) {
        let Some(note) = self.context.storage.as_ref().and_then(|link| link.note.as_ref()) else {
            return;
        };
        let Some(session) = self.sessions.at(slot) else { return };
        if let Some(reference) = self.sessions.reference(slot)
            && session.flags.has(Flags::AUTHENTICATED)
        {
            note(SessionNote::Gone(reference));
        }
    }
}
