//! What nodes send each other, byte for byte (docs/protocol.md §19.2).
//!
//! An envelope is a JSON object. Those about a document say which node sent them, in which epoch of the document there, and
//! at which place in that node's sequence of changes; so whoever listens knows what it has missed. A message that is too
//! large for one envelope travels in parts.
//!
//! The decoder takes nothing for granted: whoever can reach the bus can publish anything. It never panics, takes memory
//! in proportion to its input only, and refuses what it does not understand whole.

use crate::document::counters::{RecentOperations, SavedCounters, Total};
use crate::document::sets::{SavedElement, is_canonical};
use crate::document::{CLOCK_KEPT_MAX, SavedRecord, is_tombstone, json_key};
use crate::json::{Raw, validate};
use crate::limits::{AWARENESS_STATE_BYTES_MAX, CLIENT_ID_BYTES_MAX, ENVELOPE_BYTES_MAX, NODE_ID_BYTES_MAX, PARTS_MAX};
use crate::saved::{SavedDocument, SavedText};
use crate::text::TextState;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// An envelope that was understood.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Who sent it.
    pub node: Box<str>,
    /// Grows whenever the node forgets how far it had counted.
    pub epoch: u64,
    /// For a change: its number, from 1. For everything else about a document: the number of the last change before it.
    pub sequence: u64,
    /// Its length as it came.
    pub bytes: usize,
    /// What it says.
    pub body: Body,
}

/// What an envelope says.
#[derive(Clone, Debug)]
pub enum Body {
    /// Fields that were written.
    Fields {
        /// `L` of the document there.
        clock: u64,
        /// They, and deletions.
        records: Vec<SavedRecord>,
    },
    /// The merged text.
    Text {
        /// `L` of the document there.
        clock: u64,
        /// It.
        text: SavedText,
    },
    /// Set, counter, formatting and legacy text operations.
    Operations(Box<Operations>),
    /// Presence of the sender's clients.
    Presence {
        /// They.
        entries: Vec<PresenceEntry>,
        /// All that the node answers for, said again: who is not named has left, and nothing in it is news.
        whole: bool,
    },
    /// The sender wants to know what others know of the document.
    Want {
        /// Only this node is asked; else everybody.
        of: Option<Box<str>>,
        /// What the sender has; who has the same need not answer.
        digest: u64,
    },
    /// Everything the sender knows.
    State(Box<State>),
    /// A piece of a message.
    Part(Part),
    /// The sender is there, or leaves.
    Node {
        /// It leaves.
        leaves: bool,
    },
    /// Digests of documents.
    Digests(Vec<DigestRow>),
}

impl Body {
    /// Whether it is counted in the sender's sequence.
    pub fn is_change(&self) -> bool {
        match self {
            Body::Fields { .. } | Body::Text { .. } | Body::Operations(_) => true,
            Body::Presence { whole, .. } => !whole,
            _ => false,
        }
    }
}

/// Operations that were accepted together.
#[derive(Clone, Debug, Default)]
pub struct Operations {
    /// `L` of the document there.
    pub clock: u64,
    /// Elements to be relayed, comma separated.
    pub relayed: String,
    /// The same, legacy text operations.
    pub relayed_text: String,
    /// What became of the set's values.
    pub set: Vec<SavedElement>,
    /// What became of the sender's counter account.
    pub count: Option<Count>,
}

/// An account of a counter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    /// Its name.
    pub account: Box<str>,
    /// What it holds after the operations.
    pub total: Total,
    /// The elements, comma separated, as they came.
    pub elements: String,
    /// The operations.
    pub counted: Vec<CountedOperation>,
}

/// One counter operation that can be recognised when it comes again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CountedOperation {
    /// Of client id, message id and place.
    pub fingerprint: u128,
    /// What it added.
    pub total: Total,
}

/// Everything a node knows of a document.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What a row would hold.
    pub document: SavedDocument,
    /// Counter operations that the sender accepted lately.
    pub counted: Vec<CountedOperation>,
    /// Digest of `document`.
    pub digest: u64,
}

/// Presence of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceEntry {
    /// The client.
    pub client_id: Box<str>,
    /// Its state as JSON; `None`: it left.
    pub state: Option<Bytes>,
    /// As it is sent to clients.
    pub clock: u64,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Tells the pieces of one message from those of others by the same node.
    pub message: u64,
    /// Its place, from 0.
    pub at: u32,
    /// How many there are.
    pub of: u32,
    /// It.
    pub data: String,
}

/// What a node says of a document it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestRow {
    /// Its id.
    pub document: Arc<str>,
    /// Its digest; `None` while it changes.
    pub digest: Option<u64>,
    /// The sender's epoch of it.
    pub epoch: u64,
    /// The number of the sender's last change of it.
    pub sequence: u64,
    /// Digest of the presence entries the sender answers for; `None`: it says nothing of them.
    pub presence: Option<u64>,
}

/// Why an envelope is not taken. Whoever sent it is at fault, or is no node of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Longer than any node sends.
    #[error("too large")]
    TooLarge,
    /// Not JSON.
    #[error("not JSON")]
    NotJson,
    /// Of some other software.
    #[error("not an envelope of this kind of node")]
    Foreign,
    /// A kind of a later version.
    #[error("of an unknown kind")]
    UnknownKind,
    /// A member that must be there is not, or is of another type.
    #[error("`{0}` is missing or wrong")]
    Malformed(&'static str),
}

/// Reads what arrived.
pub fn decode(bytes: &[u8]) -> Result<Envelope, Refused> {
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(Refused::TooLarge);
    }
    decode_whole(bytes)
}

/// Reads a message that was put together from parts.
pub fn decode_whole(bytes: &[u8]) -> Result<Envelope, Refused> {
    let object = validate(bytes).map_err(|_| Refused::NotJson)?;
    let members = Members(object);
    let number = |name| members.get(name).and_then(|raw| raw.integer());
    if number("v") != Some(1) {
        return Err(Refused::Foreign);
    }
    let node = members.get("node").and_then(|node| node.string());
    let node = node
        .filter(|node| (1..=NODE_ID_BYTES_MAX).contains(&node.len()))
        .ok_or(Refused::Foreign)?;
    let kind = members
        .get("kind")
        .and_then(|kind| kind.string())
        .ok_or(Refused::Foreign)?;
    let body = match &*kind {
        "fields" => Body::Fields {
            clock: members.clock()?,
            records: records(&members)?,
        },
        "text" => Body::Text {
            clock: members.clock()?,
            text: text(members.0)?,
        },
        "op" => Body::Operations(Box::new(operations(&members)?)),
        "aware" => Body::Presence {
            entries: members.list("entries", presence_entry)?,
            whole: members.get("whole").is_some_and(|whole| whole.text() == "true"),
        },
        "want" => Body::Want {
            of: members.get("of").and_then(|of| of.string()).map(|of| of.into()),
            digest: members
                .get("digest")
                .and_then(hex64)
                .ok_or(Refused::Malformed("digest"))?,
        },
        "state" => Body::State(Box::new(state(&members)?)),
        "part" => Body::Part(part(&members)?),
        "node" => Body::Node {
            leaves: members.get("leaves").is_some_and(|leaves| leaves.text() == "true"),
        },
        "digests" => Body::Digests(members.list("documents", digest_row)?),
        _ => return Err(Refused::UnknownKind),
    };
    Ok(Envelope {
        node: node.into(),
        epoch: number("epoch").unwrap_or(0),
        sequence: number("seq").unwrap_or(0),
        bytes: bytes.len(),
        body,
    })
}

struct Members<'a>(Raw<'a>);

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<Raw<'a>> {
        self.0.member(name)
    }

    fn clock(&self) -> Result<u64, Refused> {
        let clock = self.get("L").and_then(|clock| clock.integer());
        clock
            .filter(|clock| *clock <= CLOCK_KEPT_MAX)
            .ok_or(Refused::Malformed("L"))
    }

    /// The elements of an array; none if it is absent, an error if any of them is wrong.
    fn list<T>(&self, name: &'static str, read: fn(Raw<'a>) -> Option<T>) -> Result<Vec<T>, Refused> {
        let Some(array) = self.get(name) else {
            return Ok(Vec::new());
        };
        let elements = array.elements().ok_or(Refused::Malformed(name))?;
        elements
            .map(|element| read(element).ok_or(Refused::Malformed(name)))
            .collect()
    }

    /// The text between the brackets of an array; nothing if it is absent.
    fn inner(&self, name: &'static str) -> Result<String, Refused> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(array) if array.is_array() => {
                let mut inner = String::new();
                for element in array.elements().into_iter().flatten() {
                    if !element.is_object() {
                        return Err(Refused::Malformed(name));
                    }
                    if !inner.is_empty() {
                        inner.push(',');
                    }
                    inner.push_str(element.text());
                }
                Ok(inner)
            }
            Some(_) => Err(Refused::Malformed(name)),
        }
    }
}

fn hex64(raw: Raw<'_>) -> Option<u64> {
    let text = raw.string()?;
    (text.len() == 16)
        .then(|| u64::from_str_radix(&text, 16).ok())
        .flatten()
}

fn hex128(raw: Raw<'_>) -> Option<u128> {
    let text = raw.string()?;
    (text.len() == 32)
        .then(|| u128::from_str_radix(&text, 16).ok())
        .flatten()
}

fn records(members: &Members<'_>) -> Result<Vec<SavedRecord>, Refused> {
    members.list("records", record)
}

fn record(raw: Raw<'_>) -> Option<SavedRecord> {
    let (mut name, mut value, mut json, mut deleted_at_ms) = (None, None, None, None);
    let (mut timestamp_ms, mut lam, mut writer, mut own) = (None, None, None, 0);
    for (key, raw) in raw.members()? {
        match key.escaped() {
            "f" => name = Some(raw.string()?),
            "val" => value = Some(Cow::Borrowed(raw.text())),
            "json" => json = Some(raw.string()?),
            "del" => deleted_at_ms = Some(raw.integer()?),
            "ts" => timestamp_ms = Some(raw.integer()?),
            "lam" => lam = Some(raw.integer().filter(|lam| *lam <= CLOCK_KEPT_MAX)?),
            "writer" if !raw.is_null() => writer = Some(raw.string()?),
            "own" => own = raw.integer()?,
            _ => {}
        }
    }
    if let Some(json) = json {
        // A value that is nested too deep to stand in an envelope as it is.
        validate(json.as_bytes()).ok()?;
        value = Some(Cow::Owned(json.into_owned()));
    }
    let value = value.filter(|_| deleted_at_ms.is_none());
    if value.is_none() && deleted_at_ms.is_none() {
        return None;
    }
    let value = value.filter(|value| !is_tombstone(value.as_bytes()));
    Some(SavedRecord {
        key: json_key(&name?),
        timestamp_ms: timestamp_ms?,
        lam: lam?,
        writer: writer.map(|writer| Arc::from(&*writer)),
        own,
        deleted_at_ms: match value {
            Some(_) => 0,
            None => deleted_at_ms.or(timestamp_ms)?,
        },
        value: value.map(|value| Arc::from(value.as_bytes())),
    })
}

fn text(object: Raw<'_>) -> Result<SavedText, Refused> {
    let state = object.member("state").and_then(|state| state.string());
    let state = state.ok_or(Refused::Malformed("state"))?;
    let timestamp = object.member("timestamp").and_then(|timestamp| timestamp.integer());
    Ok(SavedText {
        state: TextState::from_json(&state).map_err(|_| Refused::Malformed("state"))?,
        timestamp: timestamp.ok_or(Refused::Malformed("timestamp"))?,
    })
}

fn operations(members: &Members<'_>) -> Result<Operations, Refused> {
    let count = match members.get("count") {
        None => None,
        Some(object) => Some(count(&Members(object))?),
    };
    Ok(Operations {
        clock: members.clock()?,
        relayed: members.inner("ops")?,
        relayed_text: members.inner("textOps")?,
        set: members.list("set", element)?,
        count,
    })
}

fn count(members: &Members<'_>) -> Result<Count, Refused> {
    let account = members.get("account").and_then(|account| account.string());
    let account = account.filter(|account| account.len() <= CLIENT_ID_BYTES_MAX);
    Ok(Count {
        account: account.ok_or(Refused::Malformed("account"))?.into(),
        total: members
            .get("total")
            .and_then(total)
            .ok_or(Refused::Malformed("total"))?,
        elements: members.inner("ops")?,
        counted: members.list("counted", counted)?,
    })
}

fn total(raw: Raw<'_>) -> Option<Total> {
    let mut sums = raw.elements()?.map(|sum| sum.number());
    Some(Total {
        increments: sums.next()??,
        decrements: sums.next()??,
    })
}

/// `[fingerprint, [increments, decrements]]`
fn counted(raw: Raw<'_>) -> Option<CountedOperation> {
    let mut items = raw.elements()?;
    Some(CountedOperation {
        fingerprint: hex128(items.next()?)?,
        total: total(items.next()?)?,
    })
}

/// `[canonical JSON of the value, lam, when it was removed or null]`
fn element(raw: Raw<'_>) -> Option<SavedElement> {
    let mut items = raw.elements()?;
    let value = items.next()?.string().filter(|value| is_canonical(value))?;
    let lam = items.next()?.integer().filter(|lam| *lam <= CLOCK_KEPT_MAX)?;
    let removed = items.next()?;
    Some(SavedElement {
        value: Arc::from(&*value),
        lam,
        removed_at_ms: match removed.is_null() {
            true => None,
            false => Some(removed.integer()?),
        },
    })
}

fn presence_entry(raw: Raw<'_>) -> Option<PresenceEntry> {
    let client_id = raw.member("clientId")?.string()?;
    let state = raw.member("state")?;
    let known = (1..=CLIENT_ID_BYTES_MAX).contains(&client_id.len()) && state.text().len() <= AWARENESS_STATE_BYTES_MAX;
    let is_state = state.is_object() || state.is_null();
    (known && is_state).then_some(PresenceEntry {
        client_id: client_id.into(),
        state: state
            .is_object()
            .then(|| Bytes::copy_from_slice(state.text().as_bytes())),
        clock: raw.member("clock")?.integer()?,
    })
}

fn state(members: &Members<'_>) -> Result<State, Refused> {
    let counters = match members.get("counters") {
        None => None,
        Some(object) => Some(counters(&Members(object))?),
    };
    let text = match members.get("text") {
        None => None,
        Some(object) => Some(text(object)?),
    };
    let document = SavedDocument {
        clock: members.clock()?,
        records: records(members)?,
        text,
        set: members.list("set", element)?,
        counters,
    };
    Ok(State {
        document,
        counted: members.list("counted", counted)?,
        digest: members
            .get("digest")
            .and_then(hex64)
            .ok_or(Refused::Malformed("digest"))?,
    })
}

fn counters(members: &Members<'_>) -> Result<SavedCounters, Refused> {
    // `[account, [increments, decrements]]`
    let account = |raw: Raw<'_>| {
        let mut items = raw.elements()?;
        let account = items
            .next()?
            .string()
            .filter(|account| account.len() <= CLIENT_ID_BYTES_MAX)?;
        Some((Box::from(&*account), total(items.next()?)?))
    };
    let mut totals: Vec<(Box<str>, Total)> = members.list("accounts", account)?;
    totals.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let others = members.get("others").and_then(total);
    Ok(SavedCounters {
        totals,
        others: others.ok_or(Refused::Malformed("others"))?,
        recent: RecentOperations::default(),
    })
}

fn part(members: &Members<'_>) -> Result<Part, Refused> {
    let number = |name: &'static str| {
        members
            .get(name)
            .and_then(|raw| raw.integer())
            .ok_or(Refused::Malformed(name))
    };
    let (message, at, of) = (number("message")?, number("at")?, number("of")?);
    if of > u64::from(PARTS_MAX) || at >= of {
        return Err(Refused::Malformed("of"));
    }
    let data = members.get("data").and_then(|data| data.string());
    Ok(Part {
        message,
        at: at as u32,
        of: of as u32,
        data: data.ok_or(Refused::Malformed("data"))?.into_owned(),
    })
}

/// `[document, digest, epoch, sequence, presence digest or null]`
fn digest_row(raw: Raw<'_>) -> Option<DigestRow> {
    let mut items = raw.elements()?;
    let document = Arc::from(&*items.next()?.string()?);
    let digest = items.next()?;
    let (epoch, sequence) = (items.next()?.integer()?, items.next()?.integer()?);
    let presence = items.next()?;
    // An outer `None` is an error, an inner one says that the sender says nothing.
    let optional = |raw: Raw<'_>| match raw.is_null() {
        true => Some(None),
        false => hex64(raw).map(Some),
    };
    Some(DigestRow {
        document,
        digest: optional(digest)?,
        epoch,
        sequence,
        presence: optional(presence)?,
    })
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
