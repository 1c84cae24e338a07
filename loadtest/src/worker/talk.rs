//! What connections say and hear: the steps up to readiness, then changes, acknowledgements and deliveries.

use super::connection::Step;
use super::engine::Engine;
use super::follow::Arrival;
use super::writers::Acting;
use crate::control::{Activity, Writing};
use crate::dialect::{self, Delta, Dialect};
use crate::sockets;
use crate::stamp::Stamp;
use synckit_server::protocol::Kind;

/// Changes of one group that are written in one turn.
const DUE_MAX: usize = 1_000;

impl Engine {
    /// The WebSocket stands: on with authentication.
    pub(super) fn upgraded(&mut self, slot: u32) {
        let dialect = self.speaker.dialect();
        let token = self.token(slot);
        if dialect != Dialect::Bare && (token.is_some() || dialect.always_authenticates()) {
            let client = self.identity(slot);
            self.connections[slot as usize].step = Step::Authenticating;
            self.speaker.auth(&mut self.out, token.as_deref(), client);
            if self.plan.abilities.auth {
                return;
            }
        }
        self.authenticated(slot);
    }

    fn group_wants(&self, slot: u32) -> (bool, bool) {
        let group = &self.plan.groups[usize::from(self.connections[slot as usize].group)];
        let speaks = self.speaker.dialect() != Dialect::Bare;
        (
            speaks && group.subscribe,
            speaks && group.awareness && self.plan.abilities.awareness,
        )
    }

    fn authenticated(&mut self, slot: u32) {
        if !self.group_wants(slot).0 {
            return self.subscribed(slot);
        }
        self.connections[slot as usize].step = Step::Subscribing;
        let document = self.document_name(slot);
        self.speaker.subscribe(&mut self.out, &document);
        if !self.plan.abilities.subscribe {
            self.subscribed(slot);
        }
    }

    fn subscribed(&mut self, slot: u32) {
        if !self.group_wants(slot).1 {
            return self.ready(slot);
        }
        self.connections[slot as usize].step = Step::AwarenessSubscribing;
        let document = self.document_name(slot);
        self.speaker.awareness_subscribe(&mut self.out, &document);
    }

    /// One message from the server, `frame_bytes` long with its frame header.
    pub(super) fn message(&mut self, slot: u32, payload: &[u8], frame_bytes: usize) {
        if self.speaker.dialect() == Dialect::Bare {
            return self.bare_message(slot, payload, frame_bytes);
        }
        let Some((kind, json)) = super::engine::read_message(payload) else {
            *self.tally.errors.entry("unknown message".to_owned()).or_default() += 1;
            return;
        };
        let step = self.connections[slot as usize].step;
        match (kind, step) {
            (Kind::Ack, _) => {
                if let Some(sequence) = dialect::acknowledged(json) {
                    self.acknowledged(slot, sequence);
                }
            }
            (Kind::Delta, _) => self.delivered(slot, json, frame_bytes),
            (Kind::DeltaBatch | Kind::AwarenessUpdate, _) => {
                self.tally.other_received += 1;
                if kind == Kind::DeltaBatch {
                    self.delivered(slot, json, frame_bytes);
                }
            }
            (Kind::AuthSuccess, Step::Authenticating) => self.authenticated(slot),
            (Kind::SyncResponse, _) => {
                self.contained(slot, json);
                if step == Step::Subscribing {
                    self.subscribed(slot);
                }
            }
            (Kind::AwarenessState, Step::AwarenessSubscribing) => self.ready(slot),
            (Kind::AwarenessState, _) => self.tally.other_received += 1,
            (Kind::Pong, _) => self.tally.pongs += 1,
            (Kind::Ping, _) => self.speaker.ping(&mut self.out),
            (Kind::Error | Kind::AuthError, _) => {
                let name = dialect::error_name(json);
                if step != Step::Ready {
                    return self.lose(slot, &name);
                }
                *self.tally.errors.entry(name).or_default() += 1;
            }
            _ => {}
        }
    }

    fn bare_message(&mut self, slot: u32, payload: &[u8], frame_bytes: usize) {
        if let Some((stamp, _)) = Stamp::find(payload) {
            let group = &self.groups[usize::from(self.connections[slot as usize].group)];
            if group.acting.is_some() && stamp.writer == self.writer_number(slot) {
                self.acknowledged(slot, stamp.sequence);
            }
        }
        self.delivered(slot, payload, frame_bytes);
    }

    fn acknowledged(&mut self, slot: u32, sequence: u32) {
        let group = &mut self.groups[usize::from(self.connections[slot as usize].group)];
        let Some(acting) = &mut group.acting else { return };
        let writer = &mut acting.writers[(slot - group.from) as usize];
        if let Some(due_ns) = writer.acknowledge(sequence) {
            self.tally.acked += 1;
            let elapsed = sockets::monotonic_ns().saturating_sub(due_ns);
            self.latencies.record("ack", elapsed);
            self.top_up(slot);
        }
    }

    /// Counts every change found in a message.
    fn delivered(&mut self, slot: u32, bytes: &[u8], frame_bytes: usize) {
        let index = usize::from(self.connections[slot as usize].group);
        let own = self.groups[index].acting.is_some().then(|| self.writer_number(slot));
        let group = &mut self.groups[index];
        let Some(followed) = &mut group.followed else { return };
        let place = slot - group.from;
        let mut rest = bytes;
        let mut previous = None;
        let mut found = false;
        while let Some((stamp, next)) = Stamp::find(rest) {
            rest = &rest[next..];
            // C# style messages carry each value twice.
            if previous.replace(stamp) == Some(stamp) {
                continue;
            }
            let arrival = followed.delivered(place, &stamp);
            if arrival == Arrival::Foreign {
                continue;
            }
            found = true;
            self.tally.delivered += 1;
            let name = if own == Some(stamp.writer) { "echo" } else { "delivery" };
            let elapsed = sockets::monotonic_ns().saturating_sub(stamp.due_ns);
            self.latencies.record(name, elapsed);
        }
        if found {
            self.tally.delivered_bytes += frame_bytes as u64;
        }
    }

    fn contained(&mut self, slot: u32, json: &[u8]) {
        let group = &mut self.groups[usize::from(self.connections[slot as usize].group)];
        let Some(followed) = &mut group.followed else { return };
        let mut rest = json;
        while let Some((stamp, next)) = Stamp::find(rest) {
            followed.contained(slot - group.from, &stamp);
            rest = &rest[next..];
        }
    }

    /// A group begins to write.
    pub fn act(&mut self, group: usize, activity: Activity, writing: Writing, started_ns: u64) {
        let count = self.plan.groups[group].count;
        if count == 0 {
            return;
        }
        self.groups[group].acting = Some(Acting::new(activity, writing, count, started_ns));
        let from = self.groups[group].from;
        for slot in from..from + count {
            if self.connections[slot as usize].step == Step::Ready {
                self.top_up(slot);
                self.flush(slot);
            }
        }
    }

    /// Nothing more is written.
    pub fn rest(&mut self) {
        for acting in self.groups.iter_mut().filter_map(|group| group.acting.as_mut()) {
            acting.resting = true;
        }
    }

    /// Writes as many changes as a closed loop has room for; the caller flushes.
    pub(super) fn top_up(&mut self, slot: u32) {
        let index = usize::from(self.connections[slot as usize].group);
        let place = slot - self.groups[index].from;
        let room = self.groups[index]
            .acting
            .as_ref()
            .map_or(0, |acting| acting.room(place));
        for _ in 0..room {
            let now_ns = sockets::monotonic_ns();
            self.change(slot, now_ns);
        }
    }

    /// What has become due, at most [`DUE_MAX`] of each group: behind a schedule that cannot be kept, arrivals and orders are
    /// handled all the same, and the lag tells the rest.
    pub(super) fn write_due(&mut self) {
        for index in 0..self.groups.len() {
            for _ in 0..DUE_MAX {
                let acting = self.groups[index].acting.as_mut();
                let Some((place, due_ns)) = acting.and_then(|acting| acting.take_due(self.now_ns)) else {
                    break;
                };
                let slot = self.groups[index].from + place;
                if self.connections[slot as usize].step != Step::Ready {
                    continue;
                }
                let lag = sockets::monotonic_ns().saturating_sub(due_ns);
                self.latencies.record("lag", lag);
                match self.groups[index].acting.as_ref().map(|acting| acting.activity.clone()) {
                    Some(Activity::Text { .. }) => self.type_text(slot),
                    Some(Activity::Presence { .. }) => self.move_cursor(slot),
                    _ => self.change(slot, due_ns),
                }
                self.flush(slot);
            }
        }
    }

    fn change(&mut self, slot: u32, due_ns: u64) {
        let index = usize::from(self.connections[slot as usize].group);
        let (writer_number, client) = (self.writer_number(slot), self.identity(slot));
        let group = &mut self.groups[index];
        let Some(acting) = &mut group.acting else { return };
        let sequence = acting.writers[(slot - group.from) as usize].write(due_ns);
        let (group, writing) = (&self.plan.groups[index], acting.writing);
        let steps = sequence % writing.documents_each.max(1) * writing.documents_apart;
        let number = (self.document(slot) + steps) % group.documents.max(1);
        let document = format!("{}{number}", group.prefix);
        let delta = Delta {
            document: &document,
            field: sequence % writing.fields.max(1),
            stamp: Stamp {
                writer: writer_number,
                sequence,
                due_ns,
            },
            payload_bytes: writing.payload_bytes as usize,
            client,
        };
        self.speaker.delta(&mut self.out, &delta);
        self.tally.sent += 1;
    }

    fn type_text(&mut self, slot: u32) {
        let client = self.identity(slot);
        let document = self.document_name(slot);
        let group = &mut self.groups[usize::from(self.connections[slot as usize].group)];
        let Some(acting) = &mut group.acting else { return };
        let writer = &mut acting.writers[(slot - group.from) as usize];
        let mut state = Vec::new();
        writer.text.type_word(&format!("c-{client}"), &mut state);
        let document = match writer.text.epoch {
            0 => document,
            epoch => format!("{document}-{epoch}"),
        };
        // Acknowledgements of texts are not matched: their ids are beyond those of changes.
        self.tally.other_sent += 1;
        let id = 0x8000_0000 | self.tally.other_sent as u32;
        self.speaker.text_state(&mut self.out, &document, client, id, &state);
    }

    fn move_cursor(&mut self, slot: u32) {
        let client = self.identity(slot);
        let document = self.document_name(slot);
        self.tally.other_sent += 1;
        let clock = self.tally.other_sent as u32;
        self.speaker.awareness_update(&mut self.out, &document, client, clock);
    }
}
