//! Who a connection is (docs/protocol.md §7).

use super::connection::Next;
use super::mail::Mail;
use super::{Due, Shard};
use crate::auth::{AuthOutcome, Credentials, Identity, Refusal, UpgradeOutcome};
use crate::ids::{SessionRef, Slot};
use crate::json::Raw;
use crate::limits::{CLIENT_ID_BYTES_MAX, TOKEN_EXPIRY_GRACE_S};
use crate::protocol::{Kind, Message};
use crate::session::Flags;
use std::sync::Arc;

impl Shard {
    /// `auth`.
    pub(super) fn auth_message(&mut self, slot: Slot, message: &Message<'_>) -> Next {
        let fields = &message.fields;
        let id = fields.request_id();
        let token = fields.token.and_then(Raw::string);
        let api_key = fields.api_key.and_then(Raw::string);
        let user_id = fields.user_id.and_then(Raw::string);
        let identity = self.identity(slot);
        let authenticated = self
            .sessions
            .at(slot)
            .is_some_and(|session| session.flags.has(Flags::AUTHENTICATED));
        let outcome = self.context.authenticator.authenticate(
            Credentials {
                token: token.as_deref(),
                api_key: api_key.as_deref(),
                user_id: user_id.as_deref(),
                goc_style: message.described || fields.client_id.is_some() || fields.user_id.is_some(),
                current: Some(&identity).filter(|_| authenticated),
            },
            self.now.unix_ms / 1000,
        );
        let user_id = match outcome {
            AuthOutcome::Accepted(identity) => {
                let user_id = identity.user_id.to_string();
                self.become_identity(slot, identity);
                user_id
            }
            AuthOutcome::Unchanged { user_id } => user_id,
            AuthOutcome::Refused(refusal) => {
                self.refuse_auth(slot, id, refusal);
                return Next::Continue;
            }
        };
        self.connect_message(slot, message);
        self.send_auth_success(slot, id, &user_id);
        self.run_deferred(slot)
    }

    /// `connect`, and the `clientId` of an `auth`: remembered for presence of Go-style clients.
    pub(super) fn connect_message(&mut self, slot: Slot, message: &Message<'_>) {
        if let Some(client) = message
            .fields
            .client_id
            .and_then(|id| id.string_within(CLIENT_ID_BYTES_MAX))
        {
            self.learn_client(slot, &client, false);
        }
    }

    fn send_auth_success(&mut self, slot: Slot, id: Option<Raw<'_>>, user_id: &str) {
        let identity = self.identity(slot);
        let permissions = serde_json::to_vec(&identity.permissions).unwrap_or_else(|_| b"{}".to_vec());
        self.send(slot, Kind::AuthSuccess, id, |encoder, _| {
            encoder.repeat_id("requestId");
            encoder.string("userId", user_id);
            encoder.raw("permissions", &permissions);
        });
    }

    /// `auth_error`, and the close that follows it.
    fn refuse_auth(&mut self, slot: Slot, id: Option<Raw<'_>>, refusal: Refusal) {
        self.metrics.refused(refusal.code);
        self.sample_peer_error(refusal.code, refusal.error);
        self.send_auth_error(slot, id, refusal.error, refusal.code);
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        session.auth_failures = session.auth_failures.saturating_add(1);
        if let Some(reason) = refusal.close.reason(session.auth_failures) {
            self.close(slot, 1008, reason);
        }
    }

    fn send_auth_error(&mut self, slot: Slot, id: Option<Raw<'_>>, error: &str, code: &str) {
        self.send(slot, Kind::AuthError, id, |encoder, _| {
            encoder.repeat_id("requestId");
            encoder.string("error", error);
            encoder.string("code", code);
        });
    }

    /// Decides about the token of an upgrade request; called once the connection speaks WebSocket (protocol §7.6).
    pub(super) fn authenticate_upgrade(&mut self, slot: Slot, token: Option<&str>) {
        match self
            .context
            .authenticator
            .authenticate_upgrade(token, self.now.unix_ms / 1000)
        {
            UpgradeOutcome::Authenticated(identity) => self.become_identity(slot, identity),
            UpgradeOutcome::Pending => self.watch_authentication(slot),
            UpgradeOutcome::Refused(refusal) => self.refuse_auth(slot, None, refusal),
        }
    }

    /// The connection is this identity from now on; what it may no longer read it no longer hears.
    fn become_identity(&mut self, slot: Slot, identity: Arc<Identity>) {
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let before = std::mem::replace(&mut session.identity, identity.clone());
        let authenticated_before = session.flags.set(Flags::AUTHENTICATED);
        if authenticated_before {
            self.users.gone(&before);
        }
        self.users.came(&identity);
        let mut at = 0;
        while let Some(held) = self
            .sessions
            .at(slot)
            .and_then(|session| session.subscriptions.get(at).copied())
        {
            if identity
                .permissions
                .can_read(&self.audiences.at(held.audience).document)
            {
                at += 1;
                continue;
            }
            self.forget_lag(slot, held.audience);
            if let Some(document) = self.audiences.leave(&mut self.sessions, slot, at) {
                let home = self.home(&document);
                self.post(
                    home,
                    Mail::Left {
                        document,
                        session: reference,
                        clean: true,
                    },
                );
            }
        }
        // Whatever was scheduled for a former token comes too late if this one ends sooner.
        if let Some(session) = self.sessions.at_mut(slot) {
            session.flags.clear(Flags::TOKEN_WATCHED);
        }
        self.watch_token(slot);
        self.note_session(slot);
    }

    /// Schedules the end of the time without authentication.
    pub(super) fn watch_authentication(&mut self, slot: Slot) {
        let timeout_us = self.context.config.auth.auth_timeout_ms.saturating_mul(1000);
        if let Some(reference) = self.sessions.reference(slot) {
            self.deadlines.at(
                self.now.mono_us.saturating_add(timeout_us),
                Due::Authentication(reference),
            );
        }
    }

    /// The time without authentication is over.
    pub(super) fn authentication_due(&mut self, reference: SessionRef) {
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        if self
            .sessions
            .at(slot)
            .is_some_and(|session| session.flags.has(Flags::AUTHENTICATED))
        {
            return;
        }
        self.refuse_deferred(slot);
        self.close(slot, 1008, "Authentication required");
    }

    /// Schedules the end of a connection whose token expires before the sweep has come round to it again. All others own
    /// no deadline: the sweep calls this for every connection it passes.
    pub(super) fn watch_token(&mut self, slot: Slot) {
        let sweep_round_us = self.sweep_period_us();
        let Some(reference) = self.sessions.reference(slot) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(expires) = session.identity.expires_at_unix_s() else {
            return;
        };
        if session.flags.has(Flags::TOKEN_WATCHED) || !self.context.config.auth.close_on_token_expiry {
            return;
        }
        let over_ms = expires.saturating_add(TOKEN_EXPIRY_GRACE_S).saturating_mul(1000);
        let wait_us = over_ms.saturating_sub(self.now.unix_ms).saturating_mul(1000);
        // Twice, because a busy shard may take longer for a round.
        if wait_us <= sweep_round_us.saturating_mul(2).max(TOKEN_WATCH_US_MIN) {
            session.flags.set(Flags::TOKEN_WATCHED);
            self.deadlines
                .at(self.now.mono_us.saturating_add(wait_us), Due::Token(reference));
        }
    }

    /// A token may have expired; it may also have been replaced.
    pub(super) fn token_due(&mut self, reference: SessionRef) {
        let Some(slot) = self.sessions.find(reference) else {
            return;
        };
        let Some(session) = self.sessions.at_mut(slot) else {
            return;
        };
        let Some(expires) = session.identity.expires_at_unix_s() else {
            return;
        };
        if expires.saturating_add(TOKEN_EXPIRY_GRACE_S).saturating_mul(1000) > self.now.unix_ms {
            session.flags.clear(Flags::TOKEN_WATCHED);
            return self.watch_token(slot);
        }
        self.send_auth_error(slot, None, "Token expired", "INVALID_TOKEN");
        self.close(slot, 1008, "Token expired");
    }
}

/// Shortest time ahead of a token's end at which its deadline is set.
const TOKEN_WATCH_US_MIN: u64 = 5_000_000;
