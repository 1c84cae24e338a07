//! One WebSocket message: what is looked at, and in which order (docs/protocol.md §4).

use super::connection::Next;
use super::sending::Details;
use super::{Due, Shard};
use crate::config::RateLimitMode;
use crate::ids::{SessionRef, Slot};
use crate::limits::{
    ANSWER_BACKLOG_BYTES, DEFERRED_THROTTLED_BYTES_MAX, DEFERRED_THROTTLED_MESSAGES_MAX,
    DEFERRED_UNAUTHENTICATED_BYTES_MAX, DEFERRED_UNAUTHENTICATED_MESSAGES_MAX, LONG_MESSAGE_BYTES, THROTTLED_FULL_US,
    THROTTLED_PAUSE_US, THROTTLED_REFUSALS_MAX,
};
use crate::protocol::{Encoding, Fault, Kind, Message, Refused, Style, parse};
use crate::session::received::{OwnedMessage, Received};
use crate::session::{Flags, Stage};
use crate::websocket::Payload;

impl Shard {
    /// A message as it arrived.
    pub(super) fn message(&mut self, slot: Slot, payload: Payload<'_>, is_text: bool) -> Next {
        let is_long = payload.len() > LONG_MESSAGE_BYTES;
        let kept;
        let received = match is_long {
            false => Received::lent(&payload, is_text),
            true => {
                kept = OwnedMessage {
                    bytes: payload.into_bytes(),
                    is_text,
                    paid: false,
                };
                kept.lend()
            }
        };
        if self.is_behind_others(slot) {
            return self.message_behind_others(slot, received);
        }
        if is_long && self.begin_long(slot, received, None) {
            return Next::Continue;
        }
        self.handle(slot, received)
    }

    /// Whether messages wait, so that a new one must wait behind them.
    fn is_behind_others(&self, slot: Slot) -> bool {
        let extra = self.sessions.at(slot).and_then(|session| session.extra.as_ref());
        extra.is_some_and(|extra| !extra.deferred.is_empty() || extra.long.is_some())
    }

    /// A message while others wait. Those that need no turn are handled at once, `auth` before authentication among
    /// them.
    fn message_behind_others(&mut self, slot: Slot, received: Received<'_>) -> Next {
        let authenticated = self
            .sessions
            .at(slot)
            .is_some_and(|session| session.flags.has(Flags::AUTHENTICATED));
        if authenticated && received.bytes().len() > LONG_MESSAGE_BYTES {
            return self.wait_behind(slot, received);
        }
        match parse(received.bytes(), received.is_text) {
            Ok(message) if is_free(message.kind) || (!authenticated && message.kind == Kind::Auth) => {
                self.handle(slot, received)
            }
            _ if authenticated => self.wait_behind(slot, received),
            _ => self.defer_unauthenticated(slot, received),
        }
    }

    /// Steps 1–7 of the order.
    pub(super) fn handle(&mut self, slot: Slot, received: Received<'_>) -> Next {
        let (bytes, bytes_max) = (received.bytes(), self.bytes_max());
        if bytes.len() > bytes_max {
            self.refuse(slot, None, &Fault::too_large(bytes.len(), bytes_max));
            return Next::Continue;
        }
        self.handle_parsed(slot, parse(bytes, received.is_text), received)
    }

    /// A longer message is refused whatever stands in it.
    pub(super) fn bytes_max(&self) -> usize {
        let limits = &self.context.config.limits;
        to_usize(limits.message_bytes_max.max(limits.batch_bytes_max))
    }

    /// [`Shard::handle`] from where the message has been read on.
    pub(super) fn handle_parsed(
        &mut self,
        slot: Slot,
        parsed: Result<Message<'_>, Refused<'_>>,
        received: Received<'_>,
    ) -> Next {
        let limits = &self.context.config.limits;
        let (soft_max, batch_max) = (to_usize(limits.message_bytes_max), to_usize(limits.batch_bytes_max));
        // By reference: a message is some four hundred bytes.
        let message = match &parsed {
            Ok(message) => message,
            Err(refused) => {
                self.learn_encoding(slot, refused.encoding, false);
                self.metrics.unreadable += u64::from(refused.unreadable);
                let details = Details {
                    type_code: refused.type_code,
                    ..Details::default()
                };
                self.send_fault(slot, refused.id, &refused.fault, &details);
                if refused.unreadable {
                    self.count_unreadable(slot);
                }
                return Next::Continue;
            }
        };
        self.learn(slot, message);
        let size_max = if message.kind == Kind::DeltaBatch {
            batch_max
        } else {
            soft_max
        };
        let bytes = received.bytes().len();
        if bytes > size_max {
            self.refuse(slot, message.fields.request_id(), &Fault::too_large(bytes, size_max));
            return Next::Continue;
        }
        let authenticated = self
            .sessions
            .at(slot)
            .is_some_and(|session| session.flags.has(Flags::AUTHENTICATED));
        if !authenticated && !needs_no_authentication(message.kind) {
            return self.defer_unauthenticated(slot, received);
        }
        if authenticated && !received.paid && !is_free(message.kind) {
            if self.is_backlogged(slot) {
                return self.wait_behind(slot, received);
            }
            if !self.take_token(slot) {
                return self.throttle(slot, received);
            }
        }
        self.dispatch(slot, message, received)
    }

    fn dispatch(&mut self, slot: Slot, message: &Message<'_>, received: Received<'_>) -> Next {
        self.metrics.received(message.kind);
        match message.kind {
            Kind::Ping => self.send_pong(slot, message.fields.request_id()),
            Kind::Pong | Kind::Ack => {}
            Kind::Auth => return self.auth_message(slot, message),
            Kind::Connect => self.connect_message(slot, message),
            Kind::Disconnect => self.close(slot, 1000, ""),
            Kind::SnapshotRequest | Kind::SnapshotUpload => {
                self.refuse(
                    slot,
                    message.fields.request_id(),
                    &Fault::unknown_type(message.kind.name()),
                );
            }
            Kind::DeltaBatchChunk => return self.chunk_message(slot, message),
            _ => return self.document_message(slot, message, received),
        }
        Next::Continue
    }

    /// What a message tells about its sender's dialect (protocol §2.5, §3).
    fn learn(&mut self, slot: Slot, message: &Message<'_>) {
        self.is_in_use(slot);
        self.learn_encoding(slot, message.encoding, message.kind == Kind::Auth);
        let now_ms = self.now.mono_ms() as u32;
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.unreadable = 0;
        session.message_ms = now_ms;
        let fields = &message.fields;
        if message.encoding == Encoding::Binary && !session.flags.set(Flags::DESCRIBED_KNOWN) && message.described {
            session.style = session.style.with(Style::DESCRIBED);
        }
        if message.go_batch {
            session.style = session.style.with(Style::GO_BATCH).with(Style::DOC_ID);
            session.flags.set(Flags::NAMING_KNOWN);
        }
        if fields.document().is_some() && !session.flags.set(Flags::NAMING_KNOWN) {
            let go = fields.document_id.is_none() || fields.changes.is_some();
            if go {
                session.style = session.style.with(Style::DOC_ID);
            }
        }
        let sends_clock = fields
            .vector_clock
            .is_some_and(|clock| clock.is_object() && !clock.is_empty());
        if message.encoding == Encoding::Json && sends_clock {
            session.style = session.style.with(Style::VECTOR_CLOCK);
        }
        let quiet = matches!(message.kind, Kind::Ping | Kind::Pong | Kind::Auth | Kind::Ack);
        let is_sdk = message.kind == Kind::AwarenessSubscribe && !session.style.has(Style::DOC_ID)
            || message.encoding == Encoding::Binary
                && fields.id.is_none()
                && !quiet
                && !session.style.has(Style::DOC_ID);
        if is_sdk {
            session.flags.set(Flags::SDK);
        }
    }

    fn learn_encoding(&mut self, slot: Slot, encoding: Encoding, is_auth: bool) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        if !session.flags.set(Flags::ENCODING_KNOWN) || is_auth {
            session.style = match encoding {
                Encoding::Json => session.style.with(Style::JSON),
                Encoding::Binary => session.style.without(Style::JSON),
            };
        }
    }

    /// Keeps a message until the connection has authenticated, or refuses it.
    fn defer_unauthenticated(&mut self, slot: Slot, received: Received<'_>) -> Next {
        let bytes = received.bytes();
        let Some(session) = self.sessions.at_mut(slot) else {
            return Next::Continue;
        };
        let deferred = &mut session.extra().deferred;
        let fits = deferred.len() < DEFERRED_UNAUTHENTICATED_MESSAGES_MAX
            && deferred.fits(bytes.len(), usize::MAX, DEFERRED_UNAUTHENTICATED_BYTES_MAX);
        if fits {
            deferred.push(received.keep());
            return Next::Continue;
        }
        self.refuse_deferred(slot);
        if let Ok(message) = parse(bytes, received.is_text) {
            self.refuse(slot, message.fields.request_id(), &Fault::NOT_AUTHENTICATED);
        }
        Next::Continue
    }

    /// Answers everything that waited for authentication with `Not authenticated`.
    pub(super) fn refuse_deferred(&mut self, slot: Slot) {
        loop {
            let Some(session) = self.sessions.at_mut(slot) else {
                return;
            };
            let Some(message) = session.extra.as_mut().and_then(|extra| extra.deferred.pop()) else {
                break;
            };
            if let Ok(message) = parse(&message.bytes, message.is_text) {
                self.refuse(slot, message.fields.request_id(), &Fault::NOT_AUTHENTICATED);
            }
        }
        if let Some(session) = self.sessions.at_mut(slot) {
            session.trim();
        }
    }

    fn take_token(&mut self, slot: Slot) -> bool {
        let per_minute = self.context.config.limits.messages_per_minute_max;
        let now_ms = self.now.mono_ms();
        let Some(session) = self.sessions.at_mut(slot) else {
            return false;
        };
        let taken = session.rate.take(per_minute, now_ms);
        if let Some(extra) = session.extra.as_mut().filter(|_| taken) {
            extra.deferred.refusals = 0;
        }
        taken
    }

    /// A message over the rate limit: it waits for its token; when too much waits, reading stops for a while; when that
    /// lasts, messages are refused (protocol §17.4).
    fn throttle(&mut self, slot: Slot, received: Received<'_>) -> Next {
        self.metrics.throttled += 1;
        if self.context.config.limits.rate_limit_mode == RateLimitMode::Reject {
            self.reject_over_rate(slot, received);
            return Next::Continue;
        }
        self.wait_behind(slot, received)
    }

    /// Whether answers wait for the connection to read, so that it gets no further ones for now.
    fn is_backlogged(&self, slot: Slot) -> bool {
        self.sessions
            .at(slot)
            .is_some_and(|session| session.queued_bytes() > ANSWER_BACKLOG_BYTES)
    }

    /// The connection has read: its waiting requests go on.
    pub(super) fn continue_deferred(&mut self, slot: Slot) {
        if self.is_backlogged(slot) || !self.is_behind_others(slot) {
            return;
        }
        if let Next::Move(to) = self.run_deferred(slot) {
            return self.move_connection(slot, to);
        }
        let waiting = self.sessions.at(slot).and_then(|session| session.extra.as_ref());
        if waiting.is_none_or(|extra| extra.deferred.bytes() <= DEFERRED_THROTTLED_BYTES_MAX) {
            self.resume(slot);
        }
    }

    /// Puts a message behind those that wait, and stops reading when too much does.
    fn wait_behind(&mut self, slot: Slot, received: Received<'_>) -> Next {
        let now_us = self.now.mono_us;
        let Some(session) = self.sessions.at_mut(slot) else {
            return Next::Continue;
        };
        let deferred = &mut session.extra().deferred;
        let fits = deferred.fits(
            received.bytes().len(),
            DEFERRED_THROTTLED_MESSAGES_MAX,
            DEFERRED_THROTTLED_BYTES_MAX,
        );
        let given_up = deferred
            .full_since_us
            .is_some_and(|since| now_us - since >= THROTTLED_FULL_US);
        if !fits && given_up {
            self.reject_over_rate(slot, received);
            return Next::Continue;
        }
        // A message that does not fit was read already: it is kept all the same, and nothing more is read.
        deferred.push(received.keep());
        if fits {
            deferred.refusals = 0;
        } else {
            deferred.full_since_us.get_or_insert(now_us);
            self.pause(slot);
        }
        self.schedule_rate_wake(slot);
        Next::Continue
    }

    fn schedule_rate_wake(&mut self, slot: Slot) {
        let per_minute = self.context.config.limits.messages_per_minute_max;
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let wait_us = (session.rate.wait_ms(per_minute) * 1000).min(THROTTLED_PAUSE_US);
        let deferred = &mut session.extra().deferred;
        if !std::mem::replace(&mut deferred.wake_scheduled, true) {
            self.deadlines.at(self.now.mono_us + wait_us, Due::Rate(reference));
        }
    }

    /// Tokens may be there: handles what waited, and reads again.
    pub(super) fn rate_due(&mut self, reference: SessionRef) {
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.extra().deferred.wake_scheduled = false;
        if let Next::Move(to) = self.run_deferred(slot) {
            return self.move_connection(slot, to);
        }
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let deferred = &mut session.extra().deferred;
        let waiting = deferred.len();
        if deferred.fits(0, DEFERRED_THROTTLED_MESSAGES_MAX, DEFERRED_THROTTLED_BYTES_MAX) {
            deferred.full_since_us = None;
        }
        let overfull = deferred.bytes() > DEFERRED_THROTTLED_BYTES_MAX;
        if waiting > 0 {
            self.schedule_rate_wake(slot);
        }
        // One message may exceed the bound, because it was read before its size was known; a second one may not.
        if !overfull {
            self.resume(slot);
        }
        if let Some(session) = self.sessions.at_mut(slot) {
            session.trim();
        }
    }

    /// Handles waiting messages in order, as far as tokens reach.
    pub(super) fn run_deferred(&mut self, slot: Slot) -> Next {
        loop {
            let Some(session) = self.sessions.at_mut(slot) else {
                return Next::Continue;
            };
            let is_busy = session.extra.as_ref().is_some_and(|extra| extra.long.is_some());
            if session.stage != Stage::Open || !session.flags.has(Flags::AUTHENTICATED) || is_busy {
                return Next::Continue;
            }
            let Some(message) = session.extra.as_mut().and_then(|extra| extra.deferred.pop()) else {
                session.trim();
                return Next::Continue;
            };
            if self.is_backlogged(slot) {
                if let Some(session) = self.sessions.at_mut(slot) {
                    session.extra().deferred.push_front(message);
                }
                return Next::Continue;
            }
            let is_long = message.bytes.len() > LONG_MESSAGE_BYTES;
            let free = message.paid
                || !is_long && parse(&message.bytes, message.is_text).is_ok_and(|parsed| is_free(parsed.kind));
            if !free && !self.take_token(slot) {
                if let Some(session) = self.sessions.at_mut(slot) {
                    session.extra().deferred.push_front(message);
                }
                self.schedule_rate_wake(slot);
                return Next::Continue;
            }
            let received = message.lend().paid();
            if is_long && self.begin_long(slot, received, None) {
                return Next::Continue;
            }
            let next = self.handle(slot, received);
            if next != Next::Continue {
                return next;
            }
            self.deliver_local();
        }
    }

    fn reject_over_rate(&mut self, slot: Slot, received: Received<'_>) {
        let bytes = received.bytes();
        // Whoever is too fast is not worth the time it takes to read a long message.
        let message = (bytes.len() <= LONG_MESSAGE_BYTES).then(|| parse(bytes, received.is_text));
        let id = message
            .and_then(Result::ok)
            .and_then(|message| message.fields.request_id());
        self.refuse(slot, id, &Fault::RATE_LIMITED);
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let deferred = &mut session.extra().deferred;
        deferred.refusals += 1;
        if deferred.refusals >= THROTTLED_REFUSALS_MAX {
            self.close(slot, 1008, "Rate limit exceeded");
        }
    }
}

/// Kinds that neither cost a token nor wait behind others.
fn is_free(kind: Kind) -> bool {
    matches!(kind, Kind::Ping | Kind::Pong | Kind::Ack)
}

/// Kinds that are handled before authentication.
fn needs_no_authentication(kind: Kind) -> bool {
    is_free(kind) || matches!(kind, Kind::Auth | Kind::Connect | Kind::Disconnect)
}

pub(super) fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
