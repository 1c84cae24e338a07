//! The part of a server around one [`Document`] that the last-write-wins simulation needs: sessions, what they are known
//! as, the flush window, slow consumers, and the choice of messages.

use crate::sdk_model::{Clock, Element};
use std::collections::{BTreeMap, BTreeSet};
use synckit_server::document::{
    ClockView, Document, FlushedField, Limits, SentClock, TOMBSTONE_JSON, Verdict, Write, name_of_key,
};
use synckit_server::ids::{SessionRef, ShardId, Slot};

const FLUSH_WINDOW_MS: u64 = 4;

/// How clocks are chosen; all but the first are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Specified,
    /// What the reference server does: one vector clock, raised by everything, sent to everybody.
    MergedVectorClock,
    /// Clients are never told their own entry.
    WithoutClientEntry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    Sdk,
    Raw,
    DocId,
}

#[derive(Clone, Debug)]
pub enum Request {
    Subscribe,
    Awareness { client_id: String },
    Batch { client_id: String, elements: Vec<Element> },
    Plain { field: String, value: String },
}

#[derive(Clone, Debug)]
pub enum Message {
    Sync {
        state: BTreeMap<String, String>,
        clock: Clock,
    },
    Delta {
        field: String,
        value: String,
        clock: Clock,
    },
    OwnEntry {
        clock: Clock,
    },
}

impl Message {
    pub fn clocks(&self) -> [&Clock; 1] {
        match self {
            Self::Sync { clock, .. } | Self::Delta { clock, .. } | Self::OwnEntry { clock } => [clock],
        }
    }
}

pub struct Outgoing {
    pub session: SessionRef,
    pub client: usize,
    pub message: Message,
}

struct Session {
    client: usize,
    naming: Naming,
    known_as: Option<String>,
    subscribed: bool,
    stalled: bool,
    /// Everything up to this stamp has been sent.
    told: u64,
}

pub struct Server {
    rule: Rule,
    document: Document,
    limits: Limits,
    sessions: BTreeMap<SessionRef, Session>,
    last_flush_ms: Option<u64>,
    flush_planned: bool,
    stamps: BTreeMap<String, u64>,
    merged: Clock,
}

impl Server {
    pub fn new(now_unix_ms: u64, rule: Rule) -> Self {
        Self {
            rule,
            document: Document::new("doc", now_unix_ms),
            limits: Limits::default(),
            sessions: BTreeMap::new(),
            last_flush_ms: None,
            flush_planned: false,
            stamps: BTreeMap::new(),
            merged: Clock::new(),
        }
    }

    pub fn shown(&self, field: &str) -> Option<String> {
        self.document
            .value(field)
            .map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    pub fn accepted(&mut self, client: usize, generation: u32, naming: Naming) -> SessionRef {
        let session = SessionRef::new(ShardId((client % 3) as u16), Slot(client as u32), generation);
        let state = Session {
            client,
            naming,
            known_as: None,
            subscribed: false,
            stalled: false,
            told: 0,
        };
        self.sessions.insert(session, state);
        session
    }

    pub fn ended(&mut self, session: SessionRef) {
        self.sessions.remove(&session);
        self.document.left(session);
    }

    pub fn request(
        &mut self,
        now_unix_ms: u64,
        session: SessionRef,
        request: Request,
        accepted: &mut BTreeSet<String>,
    ) -> Vec<Outgoing> {
        match request {
            Request::Subscribe => self.subscribe(now_unix_ms, session),
            Request::Awareness { client_id } => self.learn(session, &client_id),
            Request::Plain { field, value } => {
                self.auto_subscribe(session);
                let write = Write::Plain {
                    name: &field,
                    value: value.as_bytes(),
                };
                assert_eq!(self.document.write(now_unix_ms, session, write), Verdict::Won);
                self.merge(&BTreeMap::new());
                accepted.insert(field);
                Vec::new()
            }
            Request::Batch { client_id, elements } => {
                self.auto_subscribe(session);
                let outgoing = self.learn(session, &client_id);
                for element in elements {
                    self.write(now_unix_ms, session, &client_id, &element);
                    accepted.insert(element.field);
                }
                outgoing
            }
        }
    }

    fn write(&mut self, now_unix_ms: u64, session: SessionRef, client_id: &str, element: &Element) {
        let entries: Vec<_> = element
            .clock
            .iter()
            .map(|(name, &value)| (name.as_str(), value))
            .collect();
        let write = Write::Stamped {
            name: &element.field,
            value: Some(element.value.as_bytes()),
            timestamp_ms: Some(element.timestamp_ms),
            clock: ClockView::new(&entries),
            client_id,
        };
        assert_eq!(self.document.check(&self.limits, &[write]), Ok(()));
        let _ = self.document.write(now_unix_ms, session, write);
        self.merge(&element.clock);
    }

    fn merge(&mut self, clock: &Clock) {
        for (name, &value) in clock {
            let own = self.merged.entry(name.clone()).or_default();
            *own = value.max(*own);
        }
        *self.merged.entry("server".into()).or_default() += 1;
    }

    fn subscribe(&mut self, now_unix_ms: u64, session: SessionRef) -> Vec<Outgoing> {
        let synced = self.document.synced(now_unix_ms, session);
        let state = self.sessions.get_mut(&session).unwrap();
        state.subscribed = true;
        state.told = synced;
        let known_as = state.known_as.clone().filter(|_| self.rule != Rule::WithoutClientEntry);
        let mut clock = Clock::from([("server".to_owned(), synced)]);
        clock.extend(known_as.map(|client_id| (client_id, synced)));
        // Tombstones carry the client's entry too: an empty state does not deliver it, and then the next edit of a deleted
        // field would stay hidden from its author.
        let tombstone_clock = clock.clone();
        if self.rule == Rule::MergedVectorClock {
            clock = self.merged.clone();
            clock.entry("server".into()).or_insert(1);
        }
        let fields: BTreeMap<String, Box<serde_json::value::RawValue>> =
            serde_json::from_slice(&self.document.state_json()).expect("the state is JSON");
        let fields = fields
            .into_iter()
            .map(|(name, value)| (name, value.get().to_owned()))
            .collect();
        let (client, naming) = (state.client, state.naming);
        let mut messages = vec![Message::Sync { state: fields, clock }];
        if naming == Naming::Sdk {
            messages.extend(self.document.tombstones_newest(500).map(|key| Message::Delta {
                field: name_of_key(key).into_owned(),
                value: String::from_utf8(TOMBSTONE_JSON.to_vec()).unwrap(),
                clock: tombstone_clock.clone(),
            }));
        }
        messages
            .into_iter()
            .map(|message| Outgoing {
                session,
                client,
                message,
            })
            .collect()
    }

    fn auto_subscribe(&mut self, session: SessionRef) {
        let told = self.document.clock();
        let state = self.sessions.get_mut(&session).unwrap();
        if !std::mem::replace(&mut state.subscribed, true) {
            state.told = told;
        }
    }

    /// The server learns who the connection is, and tells it its own entry so that its next edit wins locally.
    fn learn(&mut self, session: SessionRef, client_id: &str) -> Vec<Outgoing> {
        let state = self.sessions.get_mut(&session).unwrap();
        if state.known_as.replace(client_id.to_owned()).is_some() {
            return Vec::new();
        }
        let mut clock = Clock::from([(client_id.to_owned(), self.document.clock())]);
        if self.rule != Rule::Specified {
            clock = Clock::from([(client_id.to_owned(), 0)]);
        }
        vec![Outgoing {
            session,
            client: state.client,
            message: Message::OwnEntry { clock },
        }]
    }

    /// When the next flush is due, if one must be planned now.
    pub fn plan_flush(&mut self, now_ms: u64) -> Option<u64> {
        if !self.document.dirty() || std::mem::replace(&mut self.flush_planned, true) {
            return None;
        }
        Some(
            self.last_flush_ms
                .map_or(now_ms, |last_ms| now_ms.max(last_ms + FLUSH_WINDOW_MS)),
        )
    }

    pub fn flush(&mut self, now_ms: u64, violations: &mut Vec<String>) -> Vec<Outgoing> {
        self.flush_planned = false;
        self.last_flush_ms = Some(now_ms);
        let fields = self.document.flush(&self.limits);
        for field in &fields {
            let before = self.stamps.insert(field.key.to_string(), field.stamp).unwrap_or(0);
            if field.stamp <= before || field.stamp > self.document.clock() {
                violations.push(format!("(d) {}: stamp {} after {before}", field.key, field.stamp));
            }
        }
        if !fields.is_sorted_by_key(|field| field.stamp) {
            violations.push("(d) a flush is out of order".to_owned());
        }
        let clock = self.document.clock();
        let mut outgoing = Vec::new();
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        for session in sessions {
            if self.sessions[&session].subscribed && !self.sessions[&session].stalled {
                outgoing.extend(self.messages(session, &fields));
                self.sessions.get_mut(&session).unwrap().told = clock;
            }
        }
        outgoing
    }

    /// A slow consumer gets nothing until it has drained, and then what it missed.
    pub fn stall(&mut self, session: SessionRef, stalled: bool) -> Vec<Outgoing> {
        let Some(state) = self.sessions.get_mut(&session) else {
            return Vec::new();
        };
        let was_stalled = std::mem::replace(&mut state.stalled, stalled);
        if stalled || !was_stalled || !state.subscribed {
            return Vec::new();
        }
        let missed = self
            .document
            .since(state.told, session)
            .expect("no tombstone was dropped");
        state.told = self.document.clock();
        self.messages(session, &missed)
    }

    fn messages(&self, session: SessionRef, fields: &[FlushedField]) -> Vec<Outgoing> {
        let state = &self.sessions[&session];
        let echoes = state.naming != Naming::DocId;
        let wanted = |field: &&FlushedField| {
            field.reaches(session) && (echoes || !field.is_by(session) || field.is_forced_for(session))
        };
        let message = |field: &FlushedField| Message::Delta {
            field: name_of_key(&field.key).into_owned(),
            value: String::from_utf8(field.value_json().to_vec()).unwrap(),
            clock: self.clock(field.clock_for(session, state.known_as.as_deref())),
        };
        let outgoing = |field| Outgoing {
            session,
            client: state.client,
            message: message(field),
        };
        fields.iter().filter(wanted).map(outgoing).collect()
    }

    fn clock(&self, sent: SentClock<'_>) -> Clock {
        match (self.rule, sent) {
            (Rule::MergedVectorClock, _) => self.merged.clone(),
            (Rule::WithoutClientEntry, SentClock::Raised { stamp, .. }) | (_, SentClock::Server { stamp }) => {
                Clock::from([("server".to_owned(), stamp)])
            }
            (_, SentClock::Raised { client, stamp }) => {
                Clock::from([("server".to_owned(), stamp), (client.to_owned(), stamp)])
            }
            (_, SentClock::OwnEcho { client, own }) => Clock::from([(client.to_owned(), own)]),
        }
    }
}
