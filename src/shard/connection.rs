//! A connection from accept to end: its bytes become HTTP requests and WebSocket messages (docs/life-of-a-message.md).

use super::context::AddressKey;
use super::mail::{Mail, MovedSession};
use super::sending::Details;
use super::{Due, Shard};
use crate::auth::Identity;
use crate::handler::{Effect, Flow};
use crate::ids::{ShardId, Slot};
use crate::limits::{
    HTTP_REQUEST_US, OUTSTANDING_MAX, OUTSTANDING_UNIT_BYTES, PARTIAL_BYTES_TOTAL_MAX,
    UNAUTHENTICATED_MESSAGE_BYTES_MAX,
};
use crate::protocol::{Fault, Style};
use crate::session::outbox::Origin;
use crate::session::rate::TokenBucket;
use crate::session::received::Received;
use crate::session::subscriptions::Subscriptions;
use crate::session::{Extra, Flags, HttpState, Interest, Session, Stage};
use crate::websocket::{self, Decoder, Event, Partial, Violation};
use std::net::IpAddr;
use std::sync::Arc;

/// What to do after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look at the next one.
    Continue,
    /// The message belongs to another shard and so does the connection from now on; it has not been handled.
    Move(ShardId),
}

impl Shard {
    /// A new socket.
    pub(super) fn connected(&mut self, peer: IpAddr) -> Option<Slot> {
        let session = Session {
            generation: 0,
            stage: Stage::Http,
            unreadable: 0,
            auth_failures: 0,
            style: Style::default(),
            flags: Flags::default(),
            pending_subscriptions: 0,
            outstanding: 0,
            seen_ms: self.now.mono_ms() as u32,
            message_ms: self.now.mono_ms() as u32,
            skip: 0,
            rate: TokenBucket::full(self.context.config.limits.messages_per_minute_max, self.now.mono_ms()),
            address: AddressKey::of(peer),
            identity: self.context.authenticator.anonymous().clone(),
            client: None,
            subscriptions: Subscriptions::default(),
            outbox: None,
            partial: None,
            extra: Some(Box::new(Extra {
                http: Some(HttpState::new(peer, self.now.mono_us)),
                ..Extra::default()
            })),
        };
        let slot = self.sessions.insert(session)?;
        self.metrics.accepted += 1;
        let reference = self.sessions.reference(slot)?;
        self.deadlines
            .at(self.now.mono_us + HTTP_REQUEST_US, Due::Http(reference));
        Some(slot)
    }

    /// A connection whose first document lives here arrives with everything that was read and not handled.
    pub(super) fn adopt(&mut self, moved: MovedSession) -> Option<(Slot, Flow)> {
        let mut session = moved.session;
        let unread = session
            .extra
            .as_mut()
            .map(|extra| std::mem::take(&mut extra.unread))
            .unwrap_or_default();
        if let Some(extra) = &mut session.extra {
            // The deadline stayed behind.
            extra.deferred.wake_scheduled = false;
        }
        session.flags.clear(Flags::PAUSED);
        session.flags.clear(Flags::WRITE_LISTED);
        session.flags.clear(Flags::STALL_WATCHED);
        session.flags.clear(Flags::SUPERSEDED_WATCHED);
        session.flags.clear(Flags::CHUNKS_WATCHED);
        session.flags.clear(Flags::TOKEN_WATCHED);
        session.flags.clear(Flags::TOO_SLOW);
        let (authenticated, closing) = (session.flags.has(Flags::AUTHENTICATED), session.stage == Stage::Closing);
        let has_output = session.outbox.is_some();
        let slot = self.sessions.insert(session)?;
        let reference = self.sessions.reference(slot)?;
        self.metrics.adopted += 1;
        self.websockets += 1;
        if authenticated {
            let identity = self.identity(slot);
            self.users.came(&identity);
        }
        if has_output {
            self.outbox_unbounded(slot);
        }
        if closing {
            self.deadlines.at(self.now.mono_us, Due::CloseGrace(reference));
        } else if authenticated {
            self.watch_token(slot);
        } else {
            self.watch_authentication(slot);
        }
        self.chunks_due(reference);
        if self.draining {
            self.close_drained_later();
        }
        self.register_client(slot);
        self.note_session(slot);
        let next = self.run_deferred(slot);
        assert_eq!(next, Next::Continue, "a connection moves once");
        let mut unread = unread;
        self.bytes_received(slot, &mut unread);
        let paused = self.sessions.at(slot)?.flags.has(Flags::PAUSED);
        Some((slot, if paused { Flow::Pause } else { Flow::Continue }))
    }

    /// Bytes from a socket.
    pub(super) fn bytes_received(&mut self, slot: Slot, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        self.metrics.bytes_in += bytes.len() as u64;
        let now_ms = self.now.mono_ms() as u32;
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.seen_ms = now_ms;
        session.flags.clear(Flags::PINGED);
        match session.stage {
            _ if session.flags.has(Flags::DEAF) => {}
            Stage::Http => self.http_bytes(slot, bytes),
            Stage::Open | Stage::Closing => self.websocket_bytes(slot, bytes),
            Stage::Lingering => {}
        }
    }

    /// Decodes WebSocket frames and handles every message they complete. The decoder's state is taken out of the
    /// session meanwhile, so that handling a message may do anything to the session, ending it included.
    pub(super) fn websocket_bytes(&mut self, slot: Slot, bytes: &mut [u8]) {
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        if session.flags.has(Flags::PAUSED) {
            session.extra().unread.extend_from_slice(bytes);
            return;
        }
        let deflates = session.style.has(Style::DEFLATE);
        let mut partial = session.partial.take();
        let before = partial_bytes(&partial);
        let bytes_max = self.message_bytes_max(slot);
        // Taken out of the shard meanwhile, as the decoder's state is out of the session.
        let mut inflater = match deflates {
            true => Some(self.inflater.take().unwrap_or_default()),
            false => None,
        };
        let mut decoder = Decoder::new(&mut partial, bytes, bytes_max);
        if let Some(inflater) = &mut inflater {
            decoder = decoder.inflating(inflater);
        }
        let outcome = loop {
            match decoder.next() {
                Ok(None) => break Outcome::Used,
                Err(violation) => break Outcome::Violated(violation),
                Ok(Some(event)) => {
                    if let Next::Move(to) = self.event(slot, event) {
                        break Outcome::Moves(to);
                    }
                }
            }
            self.deliver_local();
            match self.sessions.find(reference).and_then(|slot| self.sessions.at(slot)) {
                None => break Outcome::Gone,
                Some(session) if session.flags.has(Flags::PAUSED) => break Outcome::Paused,
                Some(_) => {}
            }
        };
        let rest = match outcome {
            Outcome::Paused | Outcome::Moves(_) => decoder.rest().to_vec(),
            Outcome::Used | Outcome::Gone | Outcome::Violated(_) => Vec::new(),
        };
        if inflater.is_some() {
            self.inflater = inflater;
        }
        self.context.partial_bytes_changed(
            before,
            if outcome.keeps_partial() {
                partial_bytes(&partial)
            } else {
                0
            },
        );
        match outcome {
            Outcome::Gone => {}
            Outcome::Violated(violation) => self.violated(slot, violation),
            Outcome::Used | Outcome::Paused | Outcome::Moves(_) => self.keep_unfinished(slot, partial, rest),
        }
        if let Outcome::Moves(to) = outcome {
            self.move_connection(slot, to);
        }
    }

    /// Stores what the decoder could not finish.
    fn keep_unfinished(&mut self, slot: Slot, partial: Option<Box<Partial>>, rest: Vec<u8>) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.partial = partial;
        if !rest.is_empty() {
            // Whatever is unread already came later than what is put back now.
            session.extra().unread.splice(0..0, rest);
        }
        if session.partial.is_some() && self.context.partial_bytes() > PARTIAL_BYTES_TOTAL_MAX {
            self.close(slot, 1009, "Message too large");
        }
    }

    /// Reads again after a pause, first what was put aside.
    pub(super) fn resume(&mut self, slot: Slot) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        if !session.flags.has(Flags::PAUSED) || session.outstanding >= OUTSTANDING_MAX {
            return;
        }
        if session.extra.as_ref().is_some_and(|extra| extra.long.is_some()) {
            return self.continue_long(slot);
        }
        session.flags.clear(Flags::PAUSED);
        let mut unread = session
            .extra
            .as_mut()
            .map(|extra| std::mem::take(&mut extra.unread))
            .unwrap_or_default();
        self.effects.push(Effect::Resume(slot));
        self.bytes_received(slot, &mut unread);
    }

    /// A request of the session leaves for a home. Too many at once, and the session is not read until some are answered.
    pub(super) fn request_left(&mut self, slot: Slot, bytes: usize) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.outstanding = session.outstanding.saturating_add(request_weight(bytes));
        if session.outstanding >= OUTSTANDING_MAX {
            self.pause(slot);
        }
    }

    /// A home has answered.
    pub(super) fn request_answered(&mut self, slot: Slot, bytes: usize) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let before = session.outstanding;
        session.outstanding = before.saturating_sub(request_weight(bytes));
        if before >= OUTSTANDING_MAX && session.outstanding < OUTSTANDING_MAX {
            self.resumable.push(slot);
        }
    }

    /// Reads again from connections whose requests have been answered.
    pub(super) fn resume_answered(&mut self) {
        while let Some(slot) = self.resumable.pop() {
            self.resume(slot);
            self.deliver_local();
        }
    }

    /// Stops reading from a connection.
    pub(super) fn pause(&mut self, slot: Slot) {
        if let Some(session) = self.sessions.at_mut(slot) {
            session.flags.set(Flags::PAUSED);
        }
    }

    fn event(&mut self, slot: Slot, event: Event<'_>) -> Next {
        let closing = self.stage(slot) != Some(Stage::Open);
        match event {
            Event::Close(reason) => self.peer_closed(slot, reason.map(|reason| reason.code)),
            _ if closing => {}
            Event::Text(payload) => return self.message(slot, payload, true),
            Event::Binary(payload) => return self.message(slot, payload, false),
            Event::Ping(payload) => {
                let frame = websocket::pong_frame(payload);
                if let Some(outbox) = self.outbox(slot) {
                    outbox.push_urgent(frame);
                }
            }
            Event::Pong(_) => {}
        }
        Next::Continue
    }

    /// The peer closes or confirms our close. Its close frame means that its clients have left (protocol §13.2).
    fn peer_closed(&mut self, slot: Slot, code: Option<u16>) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.flags.set(Flags::PEER_CLOSED);
        if session.stage == Stage::Open {
            self.stop_listening(slot, true);
            if let Some(outbox) = self.outbox_unbounded(slot) {
                let frame = code.map_or_else(websocket::empty_close_frame, |code| websocket::close_frame(code, ""));
                outbox.push(frame, Origin::Owned, true);
            }
            self.metrics.closed(code.unwrap_or(1005));
            self.begin_closing(slot);
        }
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.flags.set(Flags::CLOSE_WHEN_SENT);
        if session.outbox.is_none() {
            self.drop_connection(slot);
        }
    }

    fn violated(&mut self, slot: Slot, violation: Violation) {
        self.metrics.refused("WEBSOCKET");
        self.sample_peer_error("WEBSOCKET", violation.reason());
        if self.stage(slot) == Some(Stage::Open) {
            // The socket stays open for a moment: closing it with unread bytes would reset it before the peer has read why.
            self.close(slot, violation.close_code(), violation.reason());
            if let Some(session) = self.sessions.at_mut(slot) {
                session.flags.set(Flags::DEAF);
            }
        } else {
            self.drop_connection(slot);
        }
    }

    fn message_bytes_max(&self, slot: Slot) -> usize {
        let authenticated = self
            .sessions
            .at(slot)
            .is_some_and(|session| session.flags.has(Flags::AUTHENTICATED));
        let hard = usize::try_from(self.context.config.limits.frame_bytes_max).unwrap_or(usize::MAX);
        if authenticated {
            hard
        } else {
            hard.min(UNAUTHENTICATED_MESSAGE_BYTES_MAX)
        }
    }

    /// Hands a connection to the shard of its first document. It listens to nothing yet, so no mail is on its way.
    pub(super) fn move_connection(&mut self, slot: Slot, to: ShardId) {
        let Some(session) = self.sessions.at(slot) else { return };
        assert!(
            session.subscriptions.is_empty() && session.pending_subscriptions == 0,
            "it has no documents yet"
        );
        self.unregister_client(slot);
        self.note_session_end(slot);
        let Some(mut session) = self.sessions.remove(slot) else {
            return;
        };
        self.metrics.moved += 1;
        self.websocket_gone(&session);
        if let Some(outbox) = session.outbox.as_mut() {
            outbox.depart();
        }
        session.outbox = session.outbox.filter(|outbox| !outbox.is_empty());
        self.effects.push(Effect::Move {
            slot,
            to,
            session: Box::new(MovedSession { session }),
        });
    }

    /// Ends all subscriptions of a session. `clean`: it said goodbye.
    pub(super) fn stop_listening(&mut self, slot: Slot, clean: bool) {
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        while let Some(document) = self.audiences.leave(&mut self.sessions, slot, 0) {
            let home = self.home(&document);
            self.post(
                home,
                Mail::Left {
                    document,
                    session: reference,
                    clean,
                },
            );
        }
    }

    /// Closes the socket and forgets the session.
    pub(super) fn drop_connection(&mut self, slot: Slot) {
        let clean = self
            .sessions
            .at(slot)
            .is_some_and(|session| session.flags.has(Flags::PEER_CLOSED));
        self.forget(slot, clean);
        self.effects.push(Effect::Close(slot));
    }

    /// Frees everything a session has; its socket is gone or going.
    pub(super) fn forget(&mut self, slot: Slot, clean: bool) {
        self.stop_listening(slot, clean);
        self.uncount_address(slot);
        self.unregister_client(slot);
        self.note_session_end(slot);
        if let Some(session) = self.sessions.remove(slot) {
            let long = session.extra.as_ref().and_then(|extra| extra.long.as_ref());
            let long_bytes = long.map_or(0, |long| long.bytes());
            self.context
                .partial_bytes_changed(partial_bytes(&session.partial) + long_bytes, 0);
            self.metrics.ended += 1;
            if self.websocket_gone(&session) {
                self.context.websockets_closed();
            }
        }
    }

    /// Takes a session out of the shard's own counts; returns whether it was a WebSocket.
    fn websocket_gone(&mut self, session: &Session) -> bool {
        self.outbox_bytes -= session.outbox.as_ref().map_or(0, |outbox| outbox.counted);
        let websocket = matches!(session.stage, Stage::Open | Stage::Closing);
        self.websockets -= u64::from(websocket);
        if session.flags.has(Flags::AUTHENTICATED) {
            self.users.gone(&session.identity);
        }
        websocket
    }

    /// Takes a connection out of the count of its address; once only.
    pub(super) fn uncount_address(&mut self, slot: Slot) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        if session.flags.has(Flags::ADDRESS_COUNTED) {
            session.flags.clear(Flags::ADDRESS_COUNTED);
            self.context.addresses.release(session.address);
        }
    }

    /// Puts a message aside and asks for the move to `to`.
    pub(super) fn defer_for_move(&mut self, slot: Slot, received: Received<'_>, to: ShardId) -> Next {
        if let Some(session) = self.sessions.at_mut(slot) {
            session.extra().deferred.push_front(received.paid().keep());
        }
        Next::Move(to)
    }

    /// The session's identity, for checks.
    pub(super) fn identity(&self, slot: Slot) -> Arc<Identity> {
        let session = self.sessions.at(slot);
        session.map_or_else(
            || self.context.authenticator.anonymous().clone(),
            |session| session.identity.clone(),
        )
    }

    /// Adds a local session to a document's audience.
    pub(super) fn listen(&mut self, slot: Slot, document: &super::mail::DocumentId, interest: Interest) {
        let home = self.home(document);
        self.audiences.join(&mut self.sessions, slot, document, home, interest);
    }

    /// Answers an unreadable message; too many in a row end the connection.
    pub(super) fn count_unreadable(&mut self, slot: Slot) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.unreadable += 1;
        if session.unreadable >= crate::limits::UNREADABLE_MESSAGES_MAX {
            self.close(slot, 1008, "Too many invalid messages");
        }
    }

    /// Refuses with the plain form of a fault.
    pub(super) fn refuse(&mut self, slot: Slot, id: Option<crate::json::Raw<'_>>, fault: &Fault) {
        self.send_fault(slot, id, fault, &Details::default());
    }
}

/// What a request counts among the outstanding ones.
fn request_weight(bytes: usize) -> u16 {
    1 + u16::try_from(bytes / OUTSTANDING_UNIT_BYTES).unwrap_or(u16::MAX / 2)
}

/// How decoding one read ended.
enum Outcome {
    /// Everything was used.
    Used,
    /// The session ended.
    Gone,
    /// The session reads no more for now.
    Paused,
    /// The connection goes to another shard.
    Moves(ShardId),
    /// The peer broke the WebSocket protocol.
    Violated(Violation),
}

impl Outcome {
    fn keeps_partial(&self) -> bool {
        matches!(self, Outcome::Used | Outcome::Paused | Outcome::Moves(_))
    }
}

fn partial_bytes(partial: &Option<Box<Partial>>) -> usize {
    partial.as_ref().map_or(0, |partial| partial.bytes())
}
