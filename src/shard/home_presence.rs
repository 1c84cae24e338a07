//! The home side of presence (docs/protocol.md §13).

use super::context::AddressKey;
use super::mail::{AwarenessAnswered, AwarenessFanOut, AwarenessSubscribe, AwarenessUpdate, Mail};
use super::{Due, Shard};
use crate::awareness::{Change, Rejected};
use crate::ids::SessionRef;
use crate::limits::AWARENESS_SWEEP_US;
use crate::mutation::Mutation;
use bytes::Bytes;
use std::sync::Arc;

impl Shard {
    /// `awareness_subscribe`: the session hears about presence, and gets who is there.
    pub(super) fn home_awareness_subscribe(&mut self, request: AwarenessSubscribe) {
        let AwarenessSubscribe { document, session, id } = request;
        let place = match self.place_of(&document, AddressKey::UNCOUNTED) {
            Ok(place) => place,
            Err(refusal) => return self.home_refuse(document, session, id, refusal, 0),
        };
        let Some(shelf) = self.library.at(place) else { return };
        shelf.listen(session);
        let states = Some(
            shelf
                .presence
                .as_ref()
                .map(|presence| presence.all())
                .unwrap_or_default(),
        );
        let answer = AwarenessAnswered {
            document,
            session,
            id,
            states,
            refused: false,
            state_bytes: 0,
        };
        self.post(session.shard(), Mail::AwarenessAnswered(Box::new(answer)));
    }

    /// `awareness_update`: subscribes implicitly, and tells the others.
    pub(super) fn home_awareness_update(&mut self, update: AwarenessUpdate) {
        let AwarenessUpdate {
            document,
            session,
            id,
            client_id,
            clock,
            state,
        } = update;
        let state_bytes = state.as_ref().map_or(0, Bytes::len);
        let place = match self.place_of(&document, AddressKey::UNCOUNTED) {
            Ok(place) => place,
            Err(refusal) => return self.home_refuse(document, session, id, refusal, state_bytes),
        };
        let Some(shelf) = self.library.at(place) else { return };
        shelf.listen(session);
        let result = shelf
            .presence
            .get_or_insert_default()
            .update(session, &client_id, clock, state);
        let refused = result == Err(Rejected::Limit);
        if let Ok(change) = result {
            self.publish_presence(place, &change);
            self.tell_presence(place, change, Some(session));
        }
        let answer = AwarenessAnswered {
            document,
            session,
            id,
            states: None,
            refused,
            state_bytes,
        };
        self.post(session.shard(), Mail::AwarenessAnswered(Box::new(answer)));
    }

    /// Presence of a session that listens no more: its clients leave at once, or become orphans.
    pub(super) fn presence_left(&mut self, place: u32, session: SessionRef, clean: bool) {
        if Mutation::KeepPresence.is_on() {
            return;
        }
        let orphan_us = self.context.config.sync.awareness_timeout_ms.saturating_mul(1000);
        let now_us = self.now.mono_us;
        let Some(presence) = self.library.at(place).and_then(|shelf| shelf.presence.as_mut()) else {
            return;
        };
        let changes = presence.closed(session, clean, now_us, orphan_us);
        let expires = presence.has_orphans();
        for change in changes {
            self.publish_presence(place, &change);
            self.tell_presence(place, change, Some(session));
        }
        if expires {
            self.watch_presence_of(place);
        }
    }

    /// Entries of a document expire if nothing happens.
    pub(super) fn watch_presence_of(&mut self, place: u32) {
        if !self.library.orphaned.contains(&place) {
            self.library.orphaned.push(place);
        }
        self.schedule_presence_sweep();
    }

    fn schedule_presence_sweep(&mut self) {
        if !std::mem::replace(&mut self.library.presence_scheduled, true) {
            self.deadlines.at(self.now.mono_us + AWARENESS_SWEEP_US, Due::Presence);
        }
    }

    /// Expires orphans.
    pub(super) fn presence_due(&mut self) {
        self.library.presence_scheduled = false;
        let now_us = self.now.mono_us;
        for place in std::mem::take(&mut self.library.orphaned) {
            let Some(presence) = self.library.at(place).and_then(|shelf| shelf.presence.as_mut()) else {
                continue;
            };
            let changes = presence.expire(now_us);
            if presence.has_orphans() {
                self.library.orphaned.push(place);
            }
            for (change, own) in changes {
                if own {
                    self.publish_presence(place, &change);
                }
                self.tell_presence(place, change, None);
            }
            self.dispose(place);
        }
        if !self.library.orphaned.is_empty() {
            self.schedule_presence_sweep();
        }
    }

    pub(super) fn tell_presence(&mut self, place: u32, change: Change, except: Option<SessionRef>) {
        let Some(shelf) = self.library.at(place) else { return };
        let fan_out = AwarenessFanOut {
            document: shelf.id.clone(),
            change: Arc::new(change),
            except,
        };
        let (fan_out, shards) = (Arc::new(fan_out), shelf.shards.clone());
        for (shard, _) in shards {
            self.post(shard, Mail::Awareness(fan_out.clone()));
        }
    }
}
