//! Slow consumers (docs/protocol.md §21, design: state-based documents make skipping exact).
//!
//! While more than [`OUTBOX_SOFT_BYTES`] wait for a connection, changes are not queued for it: its document is marked as
//! lagging from the first stamp that was skipped. When the outbox has drained, the home is asked once for everything
//! newer, in its current form. Whatever the home says about the document before it answers is contained in the answer,
//! and whatever it says later comes later, so nothing is lost and nothing is old. That holds for what was asked: when
//! something older than the stamp asked for, or a text that was not asked for, is skipped while the question is on its
//! way, the answer is not enough and the question is put again.

use super::Shard;
use super::mail::{AwarenessChange, CaughtUp, FieldsFanOut, Mail};
use crate::ids::Slot;
use crate::limits::OUTBOX_SOFT_BYTES;
use crate::mutation::Mutation;
use crate::session::Lag;
use crate::session::outbox::Origin;
use std::sync::Arc;

impl Shard {
    /// Whether field changes are skipped for this session.
    pub(super) fn lags(&mut self, slot: Slot, audience: u32, fan_out: &FieldsFanOut) -> bool {
        let oldest = fan_out
            .fields
            .iter()
            .map(|field| field.stamp)
            .min()
            .unwrap_or(fan_out.clock);
        self.lag(slot, audience, oldest.saturating_sub(1)).is_some()
    }

    /// Whether a text state is skipped for this session.
    pub(super) fn lags_on_text(&mut self, slot: Slot, audience: u32, clock: u64) -> bool {
        let lag = self.lag(slot, audience, clock);
        let lags = lag.is_some();
        if let Some(lag) = lag {
            lag.text = true;
        }
        lags
    }

    /// Whether a presence change is kept back for this session; the newest per client is.
    pub(super) fn lags_on_awareness(&mut self, slot: Slot, audience: u32, change: &Arc<AwarenessChange>) -> bool {
        let Some(lag) = self.lag(slot, audience, u64::MAX) else {
            return false;
        };
        match lag.awareness.iter_mut().find(|kept| kept.client_id == change.client_id) {
            Some(kept) => *kept = change.clone(),
            None => lag.awareness.push(change.clone()),
        }
        true
    }

    /// The lag of a session on a document, begun now if too much waits. `since`: everything newer is being skipped.
    fn lag(&mut self, slot: Slot, audience: u32, since: u64) -> Option<&mut Lag> {
        let session = self.sessions.at_mut(slot)?;
        let known = session
            .extra
            .as_ref()
            .and_then(|extra| extra.lagging.iter().position(|lag| lag.audience == audience));
        if known.is_none() && session.queued_bytes() <= OUTBOX_SOFT_BYTES {
            return None;
        }
        self.metrics.coalesced += 1;
        let lagging = &mut session.extra().lagging;
        let at = known.unwrap_or_else(|| {
            lagging.push(Lag {
                audience,
                since,
                text: false,
                awareness: Vec::new(),
                asked: None,
            });
            lagging.len() - 1
        });
        let lag = &mut lagging[at];
        lag.since = lag.since.min(since);
        Some(lag)
    }

    /// The outbox has drained: asks the homes for what was skipped.
    pub(super) fn ask_catch_up(&mut self, slot: Slot) {
        let Some(session) = self.sessions.reference(slot) else {
            return;
        };
        let Some(entry) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(extra) = entry.extra.as_mut() else { return };
        let mut questions = Vec::new();
        for lag in extra.lagging.iter_mut().filter(|lag| lag.asked.is_none()) {
            lag.asked = Some((lag.since, lag.text));
            questions.push((lag.audience, lag.since, lag.text));
        }
        for (audience, since, text) in questions {
            let (document, home) = {
                let audience = self.audiences.at(audience);
                (audience.document.clone(), audience.home)
            };
            self.post(
                home,
                Mail::CatchUp {
                    document,
                    session,
                    since,
                    text,
                },
            );
        }
    }

    /// Everything that was skipped, as it is now.
    pub(super) fn caught_up(&mut self, caught_up: CaughtUp) {
        let CaughtUp {
            session,
            fields,
            incomplete,
            more_from,
            text,
        } = caught_up;
        let Some(slot) = self.sessions.find(session) else {
            return;
        };
        let Some(audience) = self.audiences.find(&fields.document) else {
            return;
        };
        let Some(entry) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(extra) = entry.extra.as_mut() else { return };
        let Some(at) = extra.lagging.iter().position(|lag| lag.audience == audience) else {
            return;
        };
        if !incomplete && !extra.lagging[at].is_covered() {
            extra.lagging[at].asked = None;
            if self.is_drained_for_catch_up(slot) {
                self.ask_catch_up(slot);
            }
            return;
        }
        if let Some(since) = more_from.filter(|_| !Mutation::SkipCatchUp.is_on()) {
            let lag = &mut extra.lagging[at];
            (lag.since, lag.asked) = (since, None);
            self.send_own_variant(slot, &fields);
            // Nothing may have been queued, and then nothing will be reported as sent.
            if self.is_drained_for_catch_up(slot) {
                self.ask_catch_up(slot);
            }
            return;
        }
        let lag = extra.lagging.swap_remove(at);
        entry.trim();
        if incomplete {
            return self.close_slow(slot);
        }
        if Mutation::SkipCatchUp.is_on() {
            return;
        }
        self.send_own_variant(slot, &fields);
        if let Some(body) = &text {
            self.send_text(slot, &fields.document, body, fields.clock);
        } else if lag.text {
            tracing::debug!(document = &*fields.document, "the text a slow consumer missed is gone");
        }
        let Some(style) = self.sessions.at(slot).map(|session| session.style) else {
            return;
        };
        for change in &lag.awareness {
            let frame = self.encode_awareness(style, &fields.document, change);
            if let Some(outbox) = self.outbox(slot) {
                outbox.push_shared(frame, Origin::Bounded);
            }
        }
    }

    /// A session no longer hears a document: nothing is owed any more.
    pub(super) fn forget_lag(&mut self, slot: Slot, audience: u32) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        if let Some(extra) = session.extra.as_mut() {
            extra.lagging.retain(|lag| lag.audience != audience);
        }
        session.trim();
    }
}
