//! Putting messages into the outboxes of local sessions, within their bounds (docs/protocol.md §21).

use super::{Due, Shard};
use crate::ids::{SessionRef, Slot};
use crate::json::{Raw, write_string, write_u64};
use crate::limits::{CLOSE_GRACE_US, OUTBOX_SOFT_BYTES, STALLED_SOCKET_US};
use crate::protocol::{Encoder, Fault, Kind, MessageId, Style};
use crate::session::outbox::{Origin, Outbox};
use crate::session::{Flags, Stage};
use crate::websocket;
use bytes::Bytes;

/// A message that is larger than this becomes a chunk of its own.
const OWN_CHUNK_BYTES: usize = 16 * 1024;

/// How often outboxes that are kept for reuse are looked at.
const SPARES_TRIM_US: u64 = 1_000_000;

/// What an error says beside its text.
#[derive(Debug, Default)]
pub(super) struct Details<'a> {
    pub document: Option<&'a str>,
    pub reason: Option<&'a str>,
    pub limit: Option<(&'a str, u64)>,
    pub type_code: Option<u8>,
    pub retryable: bool,
}

/// Shortest time between two log lines about peers' faults, per shard.
const PEER_ERROR_SAMPLE_US: u64 = 10_000_000;

/// Faults of peers that the log has not been told of.
#[derive(Debug, Default)]
pub(super) struct PeerErrors {
    quiet_until_us: u64,
    unsaid: u64,
}

impl Shard {
    /// The outbox of a session that may be written to; listed for writing at the end of the turn. `None`: the session is
    /// gone or closing, or over its bound and will be closed for that at the end of the turn: not at once, because whoever
    /// asks may be walking over the listeners, from which a closed session is taken out.
    pub(super) fn outbox(&mut self, slot: Slot) -> Option<&mut Outbox> {
        let queue_bytes_max = self.context.send_queue_bytes_max();
        let session = self.sessions.at_mut(slot)?;
        if session.stage == Stage::Closing {
            return None;
        }
        let unasked = session.outbox.as_ref().map_or(0, |outbox| outbox.unasked_bytes());
        if unasked > queue_bytes_max {
            if !session.flags.set(Flags::TOO_SLOW) {
                self.slow.push(SessionRef::new(self.id, slot, session.generation));
            }
            return None;
        }
        self.outbox_unbounded(slot)
    }

    /// The same without looking at bounds or stage, for the last words to a connection.
    pub(super) fn outbox_unbounded(&mut self, slot: Slot) -> Option<&mut Outbox> {
        let now_us = self.now.mono_us;
        let session = self.sessions.at_mut(slot)?;
        if !session.flags.set(Flags::WRITE_LISTED) {
            self.writable.push(slot);
        }
        Some(session.outbox.get_or_insert_with(|| self.spares.take(now_us)))
    }

    /// Sends one message.
    pub(super) fn send(
        &mut self,
        slot: Slot,
        kind: Kind,
        id: Option<Raw<'_>>,
        write: impl FnOnce(&mut Encoder, Style),
    ) {
        let Some(style) = self.sessions.at(slot).map(|session| session.style) else {
            return;
        };
        let (unix_ms, id) = self.envelope(id);
        let mut encoder = std::mem::take(&mut self.encoder);
        encoder.begin(style, kind, unix_ms, id);
        write(&mut encoder, style);
        if let Some(outbox) = self.outbox(slot) {
            if encoder.body_bytes() > OWN_CHUNK_BYTES {
                // Only answers get so large.
                let mut frame = Vec::new();
                encoder.finish(style, kind, unix_ms, &mut frame);
                outbox.push(frame.into(), Origin::Bounded, true);
            } else {
                outbox.append(|tail| encoder.finish(style, kind, unix_ms, tail));
            }
            self.metrics.sent(kind);
        }
        self.encoder = encoder;
    }

    /// Sends one message with large shared parts in the middle: `head` writes everything before them, each part comes with
    /// what stands right before it, `tail` writes all members behind them.
    pub(super) fn send_around(
        &mut self,
        slot: Slot,
        kind: Kind,
        id: Option<Raw<'_>>,
        head: impl FnOnce(&mut Encoder, Style),
        parts: &[(&'static [u8], &Bytes)],
        tail: impl FnOnce(&mut Encoder, Style),
    ) {
        let Some(style) = self.sessions.at(slot).map(|session| session.style) else {
            return;
        };
        let (unix_ms, id) = self.envelope(id);
        let mut encoder = std::mem::take(&mut self.encoder);
        encoder.begin(style, kind, unix_ms, id);
        head(&mut encoder, style);
        let rest = Encoder::tail(|encoder| tail(encoder, style));
        let mut deflated = std::mem::take(&mut self.deflated);
        if let Some(outbox) = self.outbox(slot) {
            let is_queued = style.has(Style::DEFLATE)
                && deflated.push_around(&mut encoder, (style, kind, unix_ms), parts, &rest, outbox);
            if !is_queued {
                let parts_bytes: usize = parts.iter().map(|(before, part)| before.len() + part.len()).sum();
                let mut front = Vec::with_capacity(256);
                encoder.finish_head(style, kind, unix_ms, parts_bytes + rest.len(), &mut front);
                push_around(outbox, front, parts, rest);
            }
            self.metrics.sent(kind);
        }
        self.deflated = deflated;
        self.encoder = encoder;
    }

    /// Time stamp and id of an answer; the id is made up when the request had none.
    pub(super) fn envelope<'a>(&mut self, id: Option<Raw<'a>>) -> (u64, MessageId<'a>) {
        let unix_ms = self.now.unix_ms;
        let id = match id {
            Some(raw) => MessageId::Request(raw),
            None => MessageId::Made {
                unix_ms,
                shard: self.id.0,
                serial: self.next_serial(),
            },
        };
        (unix_ms, id)
    }

    /// Tells a peer that something was refused.
    pub(super) fn send_fault(&mut self, slot: Slot, id: Option<Raw<'_>>, fault: &Fault, details: &Details<'_>) {
        self.metrics.refused(fault.code);
        self.sample_peer_error(fault.code, &fault.text);
        self.send(slot, Kind::Error, id, |encoder, style| {
            if let Some(id) = id {
                MessageId::Request(id).write(encoder.member("requestId"));
            }
            encoder.string("error", &fault.text);
            encoder.string("code", fault.code);
            if let Some(document) = details.document.filter(|_| style.has(Style::DOC_ID)) {
                encoder.string("docId", document);
            }
            write_details(encoder.member("details"), fault.code, details);
        });
    }

    /// Tells the log of one peer's fault now and then, and how many there were meanwhile. Peers can provoke them at will, so
    /// no more than one line leaves in [`PEER_ERROR_SAMPLE_US`].
    pub(super) fn sample_peer_error(&mut self, code: &'static str, text: &str) {
        self.peer_errors.unsaid += 1;
        if self.now.mono_us < self.peer_errors.quiet_until_us {
            return;
        }
        tracing::info!(
            shard = self.id.0,
            code,
            errors = self.peer_errors.unsaid,
            "peers make mistakes, one of them: {text}"
        );
        self.peer_errors = PeerErrors {
            quiet_until_us: self.now.mono_us + PEER_ERROR_SAMPLE_US,
            unsaid: 0,
        };
    }

    /// Sends a `pong` ahead of whatever waits in the outbox.
    pub(super) fn send_pong(&mut self, slot: Slot, id: Option<Raw<'_>>) {
        let Some(style) = self.sessions.at(slot).map(|session| session.style) else {
            return;
        };
        let (unix_ms, id) = self.envelope(id);
        let mut frame = Vec::with_capacity(96);
        self.encoder.begin(style, Kind::Pong, unix_ms, id);
        self.encoder.finish(style, Kind::Pong, unix_ms, &mut frame);
        if let Some(outbox) = self.outbox(slot) {
            outbox.push_urgent(Bytes::from(frame));
            self.metrics.sent(Kind::Pong);
        }
    }

    /// The kernel took bytes: frees an empty outbox, resumes what waited for room.
    pub(super) fn bytes_sent(&mut self, slot: Slot, bytes: usize) {
        let now_us = self.now.mono_us;
        self.metrics.bytes_out += bytes as u64;
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(outbox) = session.outbox.as_mut() else { return };
        outbox.sent(now_us, bytes);
        if outbox.is_empty() {
            self.outbox_bytes -= outbox.counted;
            if let Some(emptied) = session.outbox.take() {
                self.spares.put(emptied);
                if !std::mem::replace(&mut self.spares_watched, true) {
                    self.deadlines.at(now_us + SPARES_TRIM_US, Due::Spares);
                }
            }
            if session.flags.has(Flags::CLOSE_WHEN_SENT) {
                self.drop_connection(slot);
                return;
            }
        } else if outbox.has_waiting() && !session.flags.set(Flags::WRITE_LISTED) {
            self.writable.push(slot);
        }
        if self.is_drained_for_catch_up(slot) {
            self.ask_catch_up(slot);
        }
        self.continue_deferred(slot);
    }

    /// Frees the outboxes that nobody needed lately.
    pub(super) fn spares_due(&mut self) {
        self.spares_watched = self.spares.trim();
        if self.spares_watched {
            self.deadlines.at(self.now.mono_us + SPARES_TRIM_US, Due::Spares);
        }
    }

    /// Whether so little waits that what was skipped can be made up for.
    pub(super) fn is_drained_for_catch_up(&self, slot: Slot) -> bool {
        let session = self.sessions.at(slot);
        session.is_some_and(|session| {
            session.queued_bytes() < OUTBOX_SOFT_BYTES / 4
                && session.extra.as_ref().is_some_and(|extra| !extra.lagging.is_empty())
        })
    }

    /// Starts the closing handshake: everything queued leaves first, then the close frame. The session stops listening
    /// at once.
    pub(super) fn close(&mut self, slot: Slot, code: u16, reason: &str) {
        let Some(session) = self.sessions.at(slot) else { return };
        match session.stage {
            Stage::Open => {}
            Stage::Closing => return,
            Stage::Http | Stage::Lingering => return self.drop_connection(slot),
        }
        tracing::debug!(shard = self.id.0, slot = slot.0, code, reason, "closing");
        self.stop_listening(slot, code == 1000);
        if let Some(outbox) = self.outbox_unbounded(slot) {
            outbox.push(websocket::close_frame(code, reason), Origin::Owned, true);
        }
        self.metrics.closed(code);
        self.begin_closing(slot);
    }

    /// Closes a connection that does not read fast enough: what has not begun to leave is dropped.
    pub(super) fn close_slow(&mut self, slot: Slot) {
        match self.stage(slot) {
            Some(Stage::Open) => {}
            Some(Stage::Closing) => return,
            _ => return self.drop_connection(slot),
        }
        let dropped = self.outbox_unbounded(slot).map_or(0, Outbox::abandon);
        tracing::debug!(shard = self.id.0, slot = slot.0, dropped, "slow consumer");
        self.metrics.slow_consumers += 1;
        self.sample_peer_error("SLOW_CONSUMER", "closed because it read too slowly");
        self.close(slot, 1013, "Slow consumer, resync");
    }

    /// Closes the connections that went over their bound in this turn. Their leaving is news for others, who may go over
    /// theirs with it.
    pub(super) fn close_all_slow(&mut self) {
        while let Some(reference) = self.slow.pop() {
            if let Some(slot) = self.sessions.find(reference)
                && self.stage(slot) != Some(Stage::Closing)
            {
                self.close_slow(slot);
                self.deliver_local();
            }
        }
    }

    /// Enters the closing stage: no further message is handled, and the peer has a bounded time to answer.
    pub(super) fn begin_closing(&mut self, slot: Slot) {
        self.uncount_address(slot);
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.stage = Stage::Closing;
        session.outstanding = 0;
        // Bytes that were put aside are still looked at, for the peer's close frame; without them the rest of the stream
        // would make no sense.
        let unread = session.extra.take().map(|extra| extra.unread).unwrap_or_default();
        if session.flags.has(Flags::PAUSED) {
            if !unread.is_empty() {
                session.extra().unread = unread;
            }
            self.resumable.push(slot);
        }
        self.deadlines
            .at(self.now.mono_us + CLOSE_GRACE_US, Due::CloseGrace(reference));
    }

    /// Schedules a look at a connection whose outbox the sweep found in use. Nearly all outboxes are empty before the turn
    /// is over, so none gets a deadline when it comes to life; a round of the sweep takes no longer than a stall may.
    pub(super) fn watch_stall(&mut self, slot: Slot) {
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(outbox) = session.outbox.as_ref() else { return };
        let due_us = outbox.progress_us + STALLED_SOCKET_US;
        if !session.flags.set(Flags::STALL_WATCHED) {
            self.deadlines.at(due_us, Due::Stall(reference));
        }
    }

    /// The socket has accepted nothing for long: last words, then the end.
    pub(super) fn stall_due(&mut self, reference: SessionRef) {
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        let now_us = self.now.mono_us;
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(outbox) = session.outbox.as_ref() else {
            session.flags.clear(Flags::STALL_WATCHED);
            return;
        };
        let due_us = outbox.progress_us + STALLED_SOCKET_US;
        if due_us > now_us {
            self.deadlines.at(due_us, Due::Stall(reference));
            return;
        }
        session.flags.clear(Flags::STALL_WATCHED);
        self.close_slow(slot);
    }

    /// The peer had its time to answer the close frame; more of it while what was queued before still leaves.
    pub(super) fn close_grace_over(&mut self, reference: SessionRef) {
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        let outbox = self.sessions.at(slot).and_then(|session| session.outbox.as_ref());
        match outbox.map(|outbox| outbox.progress_us + CLOSE_GRACE_US) {
            Some(due_us) if due_us > self.now.mono_us => self.deadlines.at(due_us, Due::CloseGrace(reference)),
            _ => self.drop_connection(slot),
        }
    }
}

/// Pushes a frame made of a head, shared parts and a tail. Small parts are copied: one buffer is cheaper to send than
/// many.
fn push_around(outbox: &mut Outbox, head: Vec<u8>, parts: &[(&'static [u8], &Bytes)], tail: Vec<u8>) {
    let mut piece = head;
    for (before, part) in parts {
        piece.extend_from_slice(before);
        if part.len() <= COPIED_PART_BYTES_MAX {
            piece.extend_from_slice(part);
        } else {
            outbox.push(std::mem::take(&mut piece).into(), Origin::Owned, false);
            outbox.push((*part).clone(), Origin::Bounded, false);
        }
    }
    piece.extend_from_slice(&tail);
    outbox.push_last(piece);
}

/// A larger shared part stays a piece of its own.
const COPIED_PART_BYTES_MAX: usize = 2048;

fn write_details(out: &mut Vec<u8>, code: &str, details: &Details<'_>) {
    out.extend_from_slice(b"{\"code\":");
    write_string(out, code);
    let mut member = |name: &str, write: &dyn Fn(&mut Vec<u8>)| {
        out.push(b',');
        write_string(out, name);
        out.push(b':');
        write(out);
    };
    if let Some(document) = details.document {
        member("documentId", &|out| write_string(out, document));
    }
    if let Some(reason) = details.reason {
        member("reason", &|out| write_string(out, reason));
    }
    if let Some((limit, max)) = details.limit {
        member("limit", &|out| write_string(out, limit));
        member("max", &|out| write_u64(out, max));
    }
    if let Some(type_code) = details.type_code {
        member("typeCode", &|out| write_u64(out, u64::from(type_code)));
    }
    if details.retryable {
        member("retryable", &|out| out.extend_from_slice(b"true"));
    }
    out.push(b'}');
}
