//! Connections left over by reconnects (docs/protocol.md §1, "reconnect doubling").
//!
//! After an outage one SDK client comes back with many sockets of which it uses the newest; the others stay subscribed
//! for ever. When a client id appears on a connection, older connections with the same client id, user and address are
//! marked; a marked one that says nothing for a while is closed and no longer counts against its address, one that speaks
//! is unmarked.

use super::mail::{ClientSeen, Mail};
use super::{Due, Shard};
use crate::ids::{SessionRef, ShardId, Slot};
use crate::limits::SUPERSEDED_IDLE_US;
use crate::session::{Flags, Session, Stage};
use std::sync::Arc;

impl Shard {
    /// The client id of a local session became known: other connections of that client may be left over.
    pub(super) fn register_client(&mut self, slot: Slot) {
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at(slot) else { return };
        let Some(client) = session.client.clone() else { return };
        let seen = Arc::new(ClientSeen {
            client_id: client.id.clone(),
            user_id: session.identity.user_id.clone(),
            address: session.address,
            session: reference,
        });
        self.client_seen(&seen);
        let own = self.id;
        for shard in (0..self.context.shards).map(ShardId).filter(|shard| *shard != own) {
            self.post(shard, Mail::ClientSeen(seen.clone()));
        }
        self.clients.entry(client.id.clone()).or_default().push(reference);
    }

    /// A session ends or moves away.
    pub(super) fn unregister_client(&mut self, slot: Slot) {
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(client) = self.sessions.at(slot).and_then(|session| session.client.clone()) else {
            return;
        };
        let Some(known) = self.clients.get_mut(&*client.id) else {
            return;
        };
        known.retain(|other| *other != reference);
        if known.is_empty() {
            self.clients.remove(&*client.id);
        }
    }

    /// Marks the local connections that a newer one of the same client replaces.
    pub(super) fn client_seen(&mut self, seen: &ClientSeen) {
        let Some(known) = self.clients.get(&*seen.client_id) else {
            return;
        };
        for reference in known.clone() {
            let Some(slot) = self.sessions.find(reference).filter(|_| reference != seen.session) else {
                continue;
            };
            let Some(session) = self.sessions.at_mut(slot) else {
                continue;
            };
            if session.address == seen.address && session.identity.user_id == seen.user_id {
                session.flags.set(Flags::SUPERSEDED);
                if !session.flags.has(Flags::SUPERSEDED_WATCHED) {
                    self.superseded_due(reference);
                }
            }
        }
    }

    /// Looks at a marked connection: closes it if it has been silent long enough, forgets the mark if it spoke.
    pub(super) fn superseded_due(&mut self, reference: SessionRef) {
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        let now_ms = self.now.mono_ms() as u32;
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.flags.clear(Flags::SUPERSEDED_WATCHED);
        if session.stage != Stage::Open || !session.flags.has(Flags::SUPERSEDED) {
            return;
        }
        let silent_us = message_silence_us(session, now_ms);
        if silent_us >= SUPERSEDED_IDLE_US {
            self.metrics.superseded += 1;
            return self.close(slot, 1000, "Superseded");
        }
        session.flags.set(Flags::SUPERSEDED_WATCHED);
        self.deadlines.at(
            self.now.mono_us + SUPERSEDED_IDLE_US - silent_us,
            Due::Superseded(reference),
        );
    }

    /// A message arrived: whoever speaks is in use.
    pub(super) fn is_in_use(&mut self, slot: Slot) {
        if let Some(session) = self.sessions.at_mut(slot) {
            session.flags.clear(Flags::SUPERSEDED);
        }
    }
}

fn message_silence_us(session: &Session, now_ms: u32) -> u64 {
    u64::from(now_ms.wrapping_sub(session.message_ms)) * 1000
}
