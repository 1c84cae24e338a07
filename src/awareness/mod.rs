//! Presence of one document (docs/protocol.md §13): who is there, with which state, and who answers for it.
//!
//! Entries are keyed by client id. An entry belongs to the connection that wrote it last. When that connection vanishes
//! without a close frame the entry becomes an orphan, which a reconnecting client adopts and which expires otherwise;
//! an entry of a live connection never expires. Clocks sent out only grow, whatever clocks the owners start from.

use crate::ids::SessionRef;
use crate::limits::{
    AWARENESS_BYTES_PER_DOCUMENT_MAX, AWARENESS_ENTRIES_PER_CONNECTION_MAX, AWARENESS_ENTRIES_PER_DOCUMENT_MAX,
};
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is told to the audience: a client's new state, or that it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The client id.
    pub client_id: Arc<str>,
    /// Its state as JSON; `None` when it left.
    pub state: Option<Bytes>,
    /// The clock to send.
    pub clock: u64,
}

/// Why an update was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The owner's clock did not advance, or there is nothing to remove. Peers are not told.
    #[error("stale")]
    Stale,
    /// The document or the connection has as many entries as it may have.
    #[error("too many presence entries")]
    Limit,
}

#[derive(Debug)]
enum Owner {
    Connection(SessionRef),
    /// Vanished; expires at this monotonic time.
    Orphan {
        until_us: u64,
    },
    /// Another node answers for it; expires at this monotonic time unless that node says it again.
    Elsewhere {
        node: u64,
        until_us: u64,
    },
}

impl Owner {
    fn expires_us(&self) -> Option<u64> {
        match self {
            Owner::Connection(_) => None,
            Owner::Orphan { until_us } | Owner::Elsewhere { until_us, .. } => Some(*until_us),
        }
    }
}

/// What another node says of a client.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Which node, as a number.
    pub node: u64,
    /// Whom.
    pub client_id: &'a str,
    /// Its state as JSON; `None`: it left.
    pub state: Option<&'a Bytes>,
    /// Its clock as clients are sent it.
    pub clock: u64,
    /// It was said before: no news of that client.
    pub repeated: bool,
}

/// What is to be done about a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    /// Nothing.
    Known,
    /// The local audience is told.
    Changed(Change),
    /// It is about a client that is connected here, and older: the other nodes are told what is right.
    Corrected(Change),
}

/// Greatest clock sent out: JavaScript's greatest exact integer. Peers cannot push the sum of clock and offset beyond.
const CLOCK_MAX: u64 = (1 << 53) - 1;

#[derive(Debug)]
struct Entry {
    state: Bytes,
    /// The owner's last clock.
    clock: u64,
    /// What is added to the owner's clock before it is sent out.
    offset: u64,
    owner: Owner,
}

impl Entry {
    fn sent(&self) -> u64 {
        sent_clock(self.clock, self.offset)
    }

    fn is_of(&self, asked: u64) -> bool {
        matches!(self.owner, Owner::Elsewhere { node, .. } if node == asked)
    }
}

fn change_of(client_id: &Arc<str>, entry: &Entry) -> Change {
    Change {
        client_id: client_id.clone(),
        state: Some(entry.state.clone()),
        clock: entry.sent(),
    }
}

fn sent_clock(clock: u64, offset: u64) -> u64 {
    clock.saturating_add(offset).min(CLOCK_MAX)
}

/// The presence entries of one document.
#[derive(Debug, Default)]
pub struct Presence {
    /// In the order of their ids, so that whoever asks is told in the same order every time. In boxes, because a node of the tree
    /// has room for eleven, and most documents have one or two.
    entries: BTreeMap<Arc<str>, Box<Entry>>,
    owned: HashMap<SessionRef, u32>,
    /// Entries that expire: orphans, and those of other nodes.
    orphans: usize,
    /// How many of these are of other nodes.
    elsewhere: usize,
    /// Of all states and ids together.
    bytes: u32,
}

impl Presence {
    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether this node answers for any entry.
    pub fn has_own(&self) -> bool {
        self.entries.len() > self.elsewhere
    }

    /// The entries this node answers for.
    pub fn answered_for(&self) -> impl Iterator<Item = Change> {
        let own = self.entries.iter();
        let own = own.filter(|(_, entry)| !matches!(entry.owner, Owner::Elsewhere { .. }));
        own.map(|(client_id, entry)| change_of(client_id, entry))
    }

    /// The entries another node answers for, as it said.
    pub fn of_node(&self, node: u64) -> impl Iterator<Item = Change> {
        let theirs = self.entries.iter();
        let theirs = theirs.filter(move |(_, entry)| entry.is_of(node));
        theirs.map(|(client_id, entry)| change_of(client_id, entry))
    }

    /// Another node still answers for its entries.
    pub fn refresh(&mut self, node: u64, until_us: u64) {
        for entry in self.entries.values_mut().filter(|entry| entry.is_of(node)) {
            entry.owner = Owner::Elsewhere { node, until_us };
        }
    }

    /// Another node says what it knows of a client.
    pub fn report(&mut self, report: Report<'_>, until_us: u64) -> Reported {
        let Report { node, clock, .. } = report;
        let Some((client_id, entry)) = self.entries.get_key_value(report.client_id) else {
            return self.report_new(report, until_us);
        };
        let client_id = client_id.clone();
        let known = match entry.owner {
            Owner::Elsewhere { node: holder, .. } => (entry.sent(), holder),
            _ => (entry.sent(), u64::MAX),
        };
        let is_connected = matches!(entry.owner, Owner::Connection(_));
        if is_connected && report.repeated {
            // The client is here; what is repeated elsewhere is from before it came.
            if report.state.is_none() {
                return Reported::Known;
            }
            let entry = self.entries.get_mut(&client_id).expect("looked up above");
            if entry.sent() <= clock {
                entry.offset = sent_clock(clock, 1).saturating_sub(entry.clock);
            }
            return Reported::Corrected(change_of(&client_id, entry));
        }
        if (clock, node) == known {
            self.refresh(node, until_us);
            return Reported::Known;
        }
        if (clock, node) < known {
            return Reported::Known;
        }
        let Some(state) = report.state else {
            return Reported::Changed(self.remove(&client_id, clock));
        };
        let entry = self.entries.get_mut(&client_id).expect("looked up above");
        let same = entry.state == *state && entry.sent() == clock;
        // Another node has let it in, so its bound is not asked again.
        self.bytes = self.bytes - entry.state.len() as u32 + state.len() as u32;
        entry.state = state.clone();
        entry.clock = clock;
        entry.offset = 0;
        let owner = std::mem::replace(&mut entry.owner, Owner::Elsewhere { node, until_us });
        let change = change_of(&client_id, entry);
        self.released(owner);
        self.orphans += 1;
        self.elsewhere += 1;
        if same {
            Reported::Known
        } else {
            Reported::Changed(change)
        }
    }

    fn report_new(&mut self, report: Report<'_>, until_us: u64) -> Reported {
        let has_room = |state: &&Bytes| {
            let grown = self.bytes as usize + report.client_id.len() + state.len();
            self.entries.len() < AWARENESS_ENTRIES_PER_DOCUMENT_MAX && grown <= AWARENESS_BYTES_PER_DOCUMENT_MAX
        };
        let Some(state) = report.state.filter(has_room) else {
            return Reported::Known;
        };
        self.bytes += (report.client_id.len() + state.len()) as u32;
        let client_id: Arc<str> = report.client_id.into();
        let owner = Owner::Elsewhere {
            node: report.node,
            until_us,
        };
        let entry = Entry {
            state: state.clone(),
            clock: report.clock,
            offset: 0,
            owner,
        };
        let change = change_of(&client_id, &entry);
        self.entries.insert(client_id, Box::new(entry));
        self.orphans += 1;
        self.elsewhere += 1;
        Reported::Changed(change)
    }

    /// What another node no longer answers for is gone.
    pub fn left_elsewhere(&mut self, node: u64, kept: impl Fn(&str) -> bool) -> Vec<Change> {
        let gone = self.entries.iter().filter(|(id, entry)| entry.is_of(node) && !kept(id));
        let gone: Vec<_> = gone
            .map(|(id, entry)| (id.clone(), sent_clock(entry.sent(), 1)))
            .collect();
        gone.into_iter().map(|(id, clock)| self.remove(&id, clock)).collect()
    }

    /// Whether any entry waits for its client to come back.
    pub fn has_orphans(&self) -> bool {
        self.orphans > 0
    }

    /// All entries, as changes a newcomer can apply.
    pub fn all(&self) -> Vec<Change> {
        let entries = self.entries.iter();
        entries.map(|(client_id, entry)| change_of(client_id, entry)).collect()
    }

    /// A client's update through `session`. `clock` absent: the last one plus 1. `state` absent: the client leaves.
    pub fn update(
        &mut self,
        session: SessionRef,
        client_id: &str,
        clock: Option<u64>,
        state: Option<Bytes>,
    ) -> Result<Change, Rejected> {
        let Some(entry) = self.entries.get(client_id) else {
            return self.insert(session, client_id, clock, state.ok_or(Rejected::Stale)?);
        };
        let clock = clock.unwrap_or(entry.clock + 1);
        let owns = matches!(entry.owner, Owner::Connection(owner) if owner == session);
        if owns && clock <= entry.clock {
            return Err(Rejected::Stale);
        }
        let Some(state) = state else {
            let sent = if owns {
                sent_clock(clock, entry.offset)
            } else {
                sent_clock(entry.sent(), 1)
            };
            return Ok(self.remove(client_id, sent));
        };
        let grown = self.bytes as usize + state.len() - entry.state.len();
        if grown > AWARENESS_BYTES_PER_DOCUMENT_MAX && state.len() > entry.state.len() {
            return Err(Rejected::Limit);
        }
        if !owns {
            self.take_over(session, client_id, clock)?;
        }
        self.bytes = grown as u32;
        let (client_id, entry) = self.entries.get_key_value(client_id).expect("looked up above");
        let change = Change {
            client_id: client_id.clone(),
            state: Some(state.clone()),
            clock: sent_clock(clock, entry.offset),
        };
        let entry = self.entries.get_mut(&change.client_id).expect("looked up above");
        entry.state = state;
        entry.clock = clock;
        Ok(change)
    }

    fn insert(
        &mut self,
        session: SessionRef,
        client_id: &str,
        clock: Option<u64>,
        state: Bytes,
    ) -> Result<Change, Rejected> {
        let grown = self.bytes as usize + client_id.len() + state.len();
        if self.entries.len() >= AWARENESS_ENTRIES_PER_DOCUMENT_MAX || grown > AWARENESS_BYTES_PER_DOCUMENT_MAX {
            return Err(Rejected::Limit);
        }
        self.own(session)?;
        self.bytes = grown as u32;
        let client_id: Arc<str> = client_id.into();
        let clock = clock.unwrap_or(1);
        let entry = Entry {
            state: state.clone(),
            clock,
            offset: 0,
            owner: Owner::Connection(session),
        };
        self.entries.insert(client_id.clone(), Box::new(entry));
        Ok(Change {
            client_id,
            state: Some(state),
            clock,
        })
    }

    /// A connection presents a client id of which only an orphan is left: the entry is its own from now on. Gives what
    /// other nodes are to be told if one of them had it.
    pub fn adopt(&mut self, session: SessionRef, client_id: &str) -> Option<Change> {
        let entry = self.entries.get(client_id)?;
        let is_elsewhere = matches!(entry.owner, Owner::Elsewhere { .. });
        if matches!(entry.owner, Owner::Connection(_)) || self.own(session).is_err() {
            return None;
        }
        let (client_id, _) = self.entries.get_key_value(client_id).expect("looked up above");
        let client_id = client_id.clone();
        let entry = self.entries.get_mut(&client_id).expect("looked up above");
        if is_elsewhere {
            entry.offset = entry.offset.saturating_add(1);
        }
        let owner = std::mem::replace(&mut entry.owner, Owner::Connection(session));
        let change = is_elsewhere.then(|| change_of(&client_id, entry));
        self.released(owner);
        change
    }

    /// The connection is gone. After a close frame its clients have left; otherwise they get `orphan_us` to come back.
    pub fn closed(&mut self, session: SessionRef, clean: bool, now_us: u64, orphan_us: u64) -> Vec<Change> {
        if self.owned.remove(&session).is_none() {
            return Vec::new();
        }
        let owned = |entry: &Entry| matches!(entry.owner, Owner::Connection(owner) if owner == session);
        if clean {
            let leaving = self.entries.iter().filter(|(_, entry)| owned(entry));
            let leaving: Vec<_> = leaving
                .map(|(id, entry)| (id.clone(), sent_clock(entry.sent(), 1)))
                .collect();
            return leaving.into_iter().map(|(id, clock)| self.remove(&id, clock)).collect();
        }
        for entry in self.entries.values_mut().filter(|entry| owned(entry)) {
            entry.owner = Owner::Orphan {
                until_us: now_us + orphan_us,
            };
            self.orphans += 1;
        }
        Vec::new()
    }

    /// Removes the entries whose time is up; with each, whether this node answered for it.
    pub fn expire(&mut self, now_us: u64) -> Vec<(Change, bool)> {
        if self.orphans == 0 {
            return Vec::new();
        }
        let due = |entry: &Entry| entry.owner.expires_us().is_some_and(|until_us| until_us <= now_us);
        let expired = self.entries.iter().filter(|(_, entry)| due(entry));
        let is_own = |entry: &Entry| !matches!(entry.owner, Owner::Elsewhere { .. });
        let expired: Vec<_> = expired
            .map(|(id, entry)| (id.clone(), sent_clock(entry.sent(), 1), is_own(entry)))
            .collect();
        let expired = expired.into_iter();
        expired.map(|(id, clock, own)| (self.remove(&id, clock), own)).collect()
    }

    /// Counts one more entry for a session, within its limit.
    fn own(&mut self, session: SessionRef) -> Result<(), Rejected> {
        let owned = self.owned.entry(session).or_insert(0);
        if *owned as usize >= AWARENESS_ENTRIES_PER_CONNECTION_MAX {
            return Err(Rejected::Limit);
        }
        *owned += 1;
        Ok(())
    }

    /// Somebody no longer answers for an entry.
    fn released(&mut self, owner: Owner) {
        match owner {
            Owner::Connection(session) => self.disown(session),
            Owner::Orphan { .. } => self.orphans -= 1,
            Owner::Elsewhere { .. } => {
                self.orphans -= 1;
                self.elsewhere -= 1;
            }
        }
    }

    fn disown(&mut self, session: SessionRef) {
        if let Some(owned) = self.owned.get_mut(&session) {
            *owned -= 1;
            if *owned == 0 {
                self.owned.remove(&session);
            }
        }
    }

    /// Makes `session` the owner; its clocks are lifted above what was sent last.
    fn take_over(&mut self, session: SessionRef, client_id: &str, clock: u64) -> Result<(), Rejected> {
        self.own(session)?;
        let entry = self.entries.get_mut(client_id).expect("the caller looked it up");
        entry.offset = sent_clock(entry.sent(), 1).saturating_sub(clock);
        let owner = std::mem::replace(&mut entry.owner, Owner::Connection(session));
        self.released(owner);
        Ok(())
    }

    fn remove(&mut self, client_id: &str, clock: u64) -> Change {
        let (client_id, entry) = self.entries.remove_entry(client_id).expect("the caller looked it up");
        self.bytes -= (client_id.len() + entry.state.len()) as u32;
        self.released(entry.owner);
        Change {
            client_id,
            state: None,
            clock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ShardId, Slot};

    fn session(slot: u32) -> SessionRef {
        SessionRef::new(ShardId(0), Slot(slot), 0)
    }

    fn state(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn the_owner_must_advance_and_a_newcomer_takes_over() {
        let mut presence = Presence::default();
        assert_eq!(presence.update(session(1), "a", Some(5), state("{}")).unwrap().clock, 5);
        assert_eq!(
            presence.update(session(1), "a", Some(5), state("{}")),
            Err(Rejected::Stale)
        );
        assert_eq!(presence.update(session(1), "a", None, state("{}")).unwrap().clock, 6);
        let taken = presence.update(session(2), "a", Some(1), state("{}")).unwrap();
        assert_eq!(taken.clock, 7, "the clock sent out keeps growing");
        assert_eq!(presence.update(session(2), "a", Some(2), state("{}")).unwrap().clock, 8);
        assert!(
            presence.closed(session(1), true, 0, 10).is_empty(),
            "the old owner answers for nothing"
        );
        assert_eq!(presence.len(), 1);
    }

    #[test]
    fn leaving_is_announced_once() {
        let mut presence = Presence::default();
        presence.update(session(1), "a", Some(1), state("{}")).unwrap();
        let gone = presence.update(session(1), "a", Some(2), None).unwrap();
        assert_eq!((gone.state, gone.clock), (None, 2));
        assert_eq!(presence.update(session(1), "a", Some(3), None), Err(Rejected::Stale));
        presence.update(session(1), "a", Some(4), state("{}")).unwrap();
        assert_eq!(presence.closed(session(1), true, 0, 10)[0].clock, 5);
        assert!(presence.is_empty());
    }

    #[test]
    fn orphans_wait_are_adopted_or_expire() {
        let mut presence = Presence::default();
        presence.update(session(1), "a", Some(1), state("{}")).unwrap();
        presence.update(session(1), "b", Some(1), state("{}")).unwrap();
        assert!(presence.closed(session(1), false, 100, 30).is_empty());
        presence.adopt(session(2), "a");
        assert!(presence.expire(129).is_empty());
        let expired = presence.expire(130);
        assert_eq!(expired.len(), 1);
        assert_eq!(&*expired[0].0.client_id, "b");
        assert!(!presence.has_orphans());
        assert_eq!(presence.closed(session(2), true, 200, 30).len(), 1);
    }

    #[test]
    fn entries_of_one_connection_are_bounded() {
        let mut presence = Presence::default();
        for client in 0..AWARENESS_ENTRIES_PER_CONNECTION_MAX {
            presence
                .update(session(1), &client.to_string(), None, state("{}"))
                .unwrap();
        }
        assert_eq!(
            presence.update(session(1), "more", None, state("{}")),
            Err(Rejected::Limit)
        );
        presence.update(session(1), "0", None, None).unwrap();
        assert!(presence.update(session(1), "more", None, state("{}")).is_ok());
    }

    #[test]
    fn all_states_together_have_a_limit() {
        let mut presence = Presence::default();
        let large = Bytes::from(vec![b'x'; 1 << 20]);
        let places = AWARENESS_BYTES_PER_DOCUMENT_MAX >> 20;
        let name = |number: usize| format!("c{number}");
        for number in 0..places - 1 {
            presence
                .update(session(1), &name(number), Some(1), Some(large.clone()))
                .unwrap();
        }
        presence.update(session(1), "last", Some(1), state("{}")).unwrap();
        assert_eq!(
            presence.update(session(1), "more", Some(1), Some(large.clone())),
            Err(Rejected::Limit)
        );
        assert_eq!(
            presence.update(session(1), "last", Some(2), Some(large.clone())),
            Err(Rejected::Limit)
        );
        presence.update(session(1), "last", Some(3), state("{}")).unwrap();
        presence.update(session(1), "c0", Some(2), state("{}")).unwrap();
        presence.update(session(1), "last", Some(4), Some(large)).unwrap();
        presence.closed(session(1), true, 0, 10);
        assert_eq!(presence.bytes, 0);
    }
}
