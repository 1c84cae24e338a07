//! HTTP on a connection: requests, the upgrade to WebSocket, and answers that need other shards (docs/protocol.md §1, §16).

use super::answers::{Findings, respond};
use super::context::{AddressKey, is_counted};
use super::mail::Mail;
use super::{Due, Shard};
use crate::auth::LoginResult;
use crate::handler::Effect;
use crate::http::{Answer, Body, CONTINUE, Framing, Head, Question, Response, Upgrade, route};
use crate::ids::{SessionRef, ShardId, Slot};
use crate::limits::CLOSE_GRACE_US;
use crate::session::{Flags, HttpState, Stage};
use crate::websocket::handshake::switching_protocols;
use std::sync::Arc;

/// A question that has not been answered by all shards.
pub(super) struct PendingQuestion {
    pub session: SessionRef,
    question: Arc<Question>,
    framing: Framing,
    remaining: usize,
    findings: Vec<Findings>,
}

impl Shard {
    /// Bytes of a connection that speaks HTTP.
    pub(super) fn http_bytes(&mut self, slot: Slot, bytes: &[u8]) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(http) = session.extra().http.as_mut() else {
            return;
        };
        http.buffer.extend_from_slice(bytes);
        if !http.awaits_answer {
            self.http_requests(slot);
        }
    }

    /// Handles all complete requests in the buffer.
    fn http_requests(&mut self, slot: Slot) {
        while self.stage(slot) == Some(Stage::Http) {
            let Some(session) = self.sessions.at_mut(slot) else {
                return;
            };
            let Some(http) = session.extra().http.as_mut() else {
                return;
            };
            if http.awaits_answer {
                return;
            }
            match http.next_request() {
                Ok(Some((head, body))) => self.http_request(slot, &head, &body),
                Ok(None) => {
                    if std::mem::take(&mut http.owes_continue)
                        && let Some(outbox) = self.outbox_unbounded(slot)
                    {
                        outbox.append(|tail| tail.extend_from_slice(CONTINUE));
                    }
                    return;
                }
                Err(error) => {
                    let framing = self.context.api.closing_framing();
                    self.http_refuse(slot, &error.response().closing(), &framing);
                }
            }
        }
    }

    fn http_request(&mut self, slot: Slot, head: &Head, body: &[u8]) {
        self.metrics.http_requests += 1;
        let now_us = self.now.mono_us;
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(http) = session.extra().http.as_mut() else {
            return;
        };
        http.since_us = now_us;
        let peer = http.peer;
        let framing = self.context.api.framing(head);
        match route(head, body, peer, &self.context.api, self.now) {
            Answer::Respond(response) => self.http_respond(slot, &response, &framing),
            Answer::Upgrade(upgrade) => self.upgrade(slot, peer, &upgrade),
            Answer::Ask(question) => self.ask(slot, question, framing),
            Answer::Blocking(work) => {
                let Some(session) = self.sessions.reference(slot) else {
                    return;
                };
                self.await_answer(slot, Some(framing));
                (self.context.run_blocking)(work, session);
            }
        }
    }

    fn http_respond(&mut self, slot: Slot, response: &Response, framing: &Framing) {
        let bytes = response.encode(framing);
        if let Some(outbox) = self.outbox_unbounded(slot) {
            outbox.append(|tail| tail.extend_from_slice(&bytes));
        }
        if response.closes(framing) {
            let Some(session) = self.sessions.at_mut(slot) else {
                return;
            };
            session.stage = Stage::Lingering;
            session.flags.set(Flags::CLOSE_WHEN_SENT);
        }
    }

    /// Answers a request that was not read to its end. The socket stays open for a moment: closing it with unread bytes
    /// would reset it before the peer has read the answer.
    fn http_refuse(&mut self, slot: Slot, response: &Response, framing: &Framing) {
        self.http_respond(slot, response, framing);
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.flags.clear(Flags::CLOSE_WHEN_SENT);
        session.flags.set(Flags::DEAF);
        self.deadlines
            .at(self.now.mono_us + CLOSE_GRACE_US, Due::CloseGrace(reference));
    }

    /// The response to the request in work is found elsewhere; further requests wait.
    fn await_answer(&mut self, slot: Slot, framing: Option<Framing>) {
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        if let Some(http) = session.extra().http.as_mut() {
            http.awaits_answer = true;
            http.framing = framing;
        }
        session.flags.set(Flags::PAUSED);
    }

    fn answer_found(&mut self, slot: Slot, response: &Response, framing: &Framing) {
        self.http_respond(slot, response, framing);
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.flags.clear(Flags::PAUSED);
        if let Some(http) = session.extra().http.as_mut() {
            http.awaits_answer = false;
            http.since_us = self.now.mono_us;
        }
        self.effects.push(Effect::Resume(slot));
        self.http_requests(slot);
    }

    /// Asks the shards that a question concerns.
    fn ask(&mut self, slot: Slot, question: Question, framing: Framing) {
        let Some(session) = self.sessions.reference(slot) else {
            return;
        };
        self.await_answer(slot, None);
        self.tickets += 1;
        let ticket = self.tickets;
        let document = match &question {
            Question::SnapshotCreate { document }
            | Question::SnapshotLatest { document }
            | Question::SnapshotList { document, .. } => Some(document),
            _ => None,
        };
        let asked: Vec<ShardId> = match document {
            Some(document) => vec![self.home(document)],
            // The database knows which document it is of.
            None if self.storehouse.is_some() && question.is_about_snapshots() => vec![self.id],
            None => (0..self.context.shards).map(ShardId).collect(),
        };
        let question = Arc::new(question);
        let pending = PendingQuestion {
            session,
            question: question.clone(),
            framing,
            remaining: asked.len(),
            findings: Vec::new(),
        };
        self.questions.insert(ticket, pending);
        for shard in asked {
            self.post(
                shard,
                Mail::Ask {
                    ticket,
                    from: self.id,
                    question: question.clone(),
                },
            );
        }
    }

    /// A question for this shard.
    pub(super) fn asked(&mut self, ticket: u64, from: ShardId, question: &Arc<Question>) {
        if self.ask_storage(ticket, from, question) {
            return;
        }
        let findings = Box::new(self.find_out(question));
        if matches!(**question, Question::Clear) && self.clear_tables(ticket, from) {
            return;
        }
        self.post(from, Mail::Answered { ticket, findings });
    }

    /// One shard's part of an answer; the last one completes it.
    pub(super) fn answered(&mut self, ticket: u64, findings: Findings) {
        let Some(pending) = self.questions.get_mut(&ticket) else {
            return;
        };
        pending.findings.push(findings);
        pending.remaining -= 1;
        if pending.remaining > 0 {
            return;
        }
        let Some(pending) = self.questions.remove(&ticket) else {
            return;
        };
        let response = respond(&pending.question, pending.findings, self.now.unix_ms, &self.context);
        if let Some(slot) = self.sessions.find(pending.session) {
            self.answer_found(slot, &response, &pending.framing);
        }
    }

    /// A password was checked.
    pub(super) fn logged_in(&mut self, session: SessionRef, login: LoginResult) {
        let Some(slot) = self.sessions.find(session) else {
            return;
        };
        let Some(entry) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(framing) = entry.extra().http.as_mut().and_then(|http| http.framing.take()) else {
            return;
        };
        let response = self.context.api.login_finished(login, self.now);
        self.answer_found(slot, &response, &framing);
    }

    /// The connection becomes a WebSocket. Refusals are told in close frames, which browsers can read (protocol §1).
    fn upgrade(&mut self, slot: Slot, peer: std::net::IpAddr, upgrade: &Upgrade) {
        self.metrics.upgrades += 1;
        self.websockets += 1;
        self.context.websockets_opened();
        let key = AddressKey::of(upgrade.address);
        let proxies = &self.context.config.http.trusted_proxies;
        let counted = is_counted(peer, upgrade.address, proxies);
        let full = self.context.websockets() > self.context.connections_max();
        let per_address = self.context.config.limits.connections_per_address_max;
        let response = switching_protocols(&upgrade.key, upgrade.deflate);
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let rest = session.extra().http.take().map(|http| http.buffer).unwrap_or_default();
        session.trim();
        session.stage = Stage::Open;
        session.address = key;
        if let Some(deflate) = upgrade.deflate {
            session.style = session.style.with_deflate(deflate);
        }
        if let Some(outbox) = self.outbox_unbounded(slot) {
            outbox.push_handshake(response);
        }
        if self.draining {
            return self.close(slot, 1001, "Server shutdown");
        }
        if full {
            return self.close(slot, 1008, "Server at maximum capacity");
        }
        if counted {
            if !self.context.addresses.take(key, per_address) {
                return self.close(slot, 1008, "Too many connections from your IP");
            }
            if let Some(session) = self.sessions.at_mut(slot) {
                session.flags.set(Flags::ADDRESS_COUNTED);
            }
        }
        self.authenticate_upgrade(slot, upgrade.token.as_deref());
        self.begin_websocket(slot, upgrade.doc.as_deref(), rest);
    }

    /// Moves a connection whose request named its document, else reads on.
    fn begin_websocket(&mut self, slot: Slot, document: Option<&str>, mut rest: Vec<u8>) {
        let document = document.filter(|id| self.context.authenticator.check_document(id).is_ok());
        let home = document.map(|document| self.home(document));
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        if home.is_some() {
            session.flags.set(Flags::HOMED);
        }
        if let Some(home) = home.filter(|home| *home != self.id) {
            if !rest.is_empty() {
                session.extra().unread = rest;
            }
            return self.move_connection(slot, home);
        }
        self.bytes_received(slot, &mut rest);
    }
}

impl HttpState {
    /// The next complete request, taken out of the buffer.
    fn next_request(&mut self) -> Result<Option<(Head, Vec<u8>)>, crate::http::HttpError> {
        if self.request.is_none() {
            let Some(head) = Head::parse(&self.buffer)? else {
                return Ok(None);
            };
            self.buffer.drain(..head.head_bytes);
            self.owes_continue = head.expects_continue;
            let body = Body::new(head.body);
            self.request = Some(Box::new((head, body)));
        }
        let Some(request) = self.request.as_mut() else {
            return Ok(None);
        };
        let progress = request.1.push(&self.buffer)?;
        self.buffer.drain(..progress.consumed);
        if !progress.complete {
            return Ok(None);
        }
        self.owes_continue = false;
        let (head, body) = *self.request.take().expect("looked at above");
        let body = body.bytes().to_vec();
        Ok(Some((head, body)))
    }
}
