//! What deployed clients do with field deltas, as far as docs/protocol.md §0 and §9.4 describe it.
//!
//! [`SdkReplica`] is the SDK's own last-write-wins; [`PlainReplica`] the plain copy of RAW and docId clients.

use std::collections::BTreeMap;

pub type Clock = BTreeMap<String, u64>;

/// A local edit on its way to the server, as one element of a batch.
#[derive(Clone, Debug)]
pub struct Element {
    pub field: String,
    pub value: String,
    pub clock: Clock,
    pub timestamp_ms: f64,
}

struct Held {
    value: String,
    clock: u64,
    client_id: String,
}

/// One document object of the SDK.
pub struct SdkReplica {
    pub client_id: String,
    vector_clock: Clock,
    fields: BTreeMap<String, Held>,
}

impl SdkReplica {
    /// `earlier`: what a server has told this client in an earlier life.
    pub fn new(client_id: String, earlier: Option<u64>) -> Self {
        let entries = |value| [("server".to_owned(), value), (client_id.clone(), value)];
        let vector_clock = earlier.map_or_else(Clock::new, |value| entries(value).into());
        Self {
            client_id,
            vector_clock,
            fields: BTreeMap::new(),
        }
    }

    pub fn shown(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(|held| held.value.as_str())
    }

    /// The user edits a field. The copy changes under the same rule as for remote values, so an edit can stay hidden.
    pub fn edit(&mut self, field: &str, value: &str, timestamp_ms: f64) -> Element {
        let own = self.vector_clock.entry(self.client_id.clone()).or_default();
        *own += 1;
        let counter = *own;
        let client_id = self.client_id.clone();
        self.put(field, value, counter, &client_id);
        Element {
            field: field.into(),
            value: value.into(),
            clock: self.vector_clock.clone(),
            timestamp_ms,
        }
    }

    /// A `delta` with a field, or one member of a `sync_response`'s state. Both come from client id `server`.
    pub fn receive(&mut self, field: &str, value: &str, clock: &Clock) {
        self.merge_clock(clock);
        let greatest = *clock.values().max().expect("the SDK throws on an empty clock");
        self.put(field, value, greatest, "server");
    }

    /// A `delta` without field: only the clock counts.
    pub fn merge_clock(&mut self, clock: &Clock) {
        for (name, &value) in clock {
            let own = self.vector_clock.entry(name.clone()).or_default();
            *own = value.max(*own);
        }
    }

    fn put(&mut self, field: &str, value: &str, clock: u64, client_id: &str) {
        let wins = self
            .fields
            .get(field)
            .is_none_or(|held| (clock, client_id, value) > (held.clock, held.client_id.as_str(), held.value.as_str()));
        if wins {
            self.fields.insert(
                field.into(),
                Held {
                    value: value.into(),
                    clock,
                    client_id: client_id.into(),
                },
            );
        }
    }
}

/// The copy of a client without clocks: whatever arrives last is shown.
#[derive(Default)]
pub struct PlainReplica {
    fields: BTreeMap<String, String>,
}

impl PlainReplica {
    pub fn shown(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    pub fn put(&mut self, field: &str, value: &str) {
        self.fields.insert(field.into(), value.into());
    }

    pub fn replace(&mut self, state: &BTreeMap<String, String>) {
        self.fields = state.clone();
    }
}
