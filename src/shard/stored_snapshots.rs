//! Snapshots of the HTTP API in the database (docs/protocol.md §16.4): questions go to storage, and the response leaves when
//! it has answered. The shard itself neither encodes nor waits.
//!
//! Invariants:
//! - At most [`PENDING_MAX`] questions are at storage, each perhaps with a whole document; more are refused.
//! - Every question is answered once: by storage, or after [`PATIENCE_US`] by a refusal that says to try again.

use super::answers::{Findings, uuid_v4};
use super::mail::Mail;
use super::storehouse::PATIENCE_US;
use super::{Due, Shard};
use crate::http::{Question, Response, SnapshotFacts, answers};
use crate::ids::ShardId;
use crate::saved::{NewSnapshot, Request, SnapshotAnswer, SnapshotAsk, SnapshotRequest, SnapshotRow, decode_snapshot};
use hashbrown::HashMap;
use std::sync::Arc;

/// Questions of one shard that storage may have at one time.
const PENDING_MAX: usize = 32;
/// How often questions are looked at that wait for storage.
const TICK_US: u64 = 250_000;

/// What waits for storage.
#[derive(Default)]
pub(super) struct StoredSnapshots {
    serial: u64,
    pending: HashMap<u64, Pending>,
    tick_scheduled: bool,
}

struct Pending {
    /// Who asked; `None` once a refusal has been sent.
    asker: Option<(u64, ShardId)>,
    question: Arc<Question>,
    since_us: u64,
    /// Not sent yet: the document has no row so far.
    unsent: Option<SnapshotAsk>,
    /// The question is answered in two steps, and this is the second.
    removing: bool,
}

impl Shard {
    /// Takes a question about snapshots to storage. `false`: it is no such question, or there is no storage.
    pub(super) fn ask_storage(&mut self, ticket: u64, from: ShardId, question: &Arc<Question>) -> bool {
        if self.context.storage.is_none() || !question.is_about_snapshots() {
            return false;
        }
        let ask = match &**question {
            Question::SnapshotCreate { document } => match self.new_snapshot(document) {
                Some(ask) => ask,
                None => {
                    self.answer_snapshot((ticket, from), answers::snapshot_created(None));
                    return true;
                }
            },
            Question::SnapshotLatest { document } => SnapshotAsk::Latest(document.as_str().into()),
            Question::SnapshotList { document, limit } => SnapshotAsk::List {
                document: document.as_str().into(),
                limit: *limit,
            },
            Question::SnapshotRead { id, .. } | Question::SnapshotDelete { id, .. } => SnapshotAsk::Find(id.clone()),
            _ => return false,
        };
        let now_us = self.now.mono_us;
        let is_down = |shard: &Shard| {
            let link = shard.context.storage.as_ref();
            link.is_none_or(|link| (link.troubled_ms)() * 1000 > PATIENCE_US)
        };
        let crowded = |shard: &Shard| {
            let house = shard.storehouse.as_deref();
            house.is_some_and(|house| house.snapshots.pending.len() >= PENDING_MAX)
        };
        if is_down(self) || crowded(self) {
            self.answer_snapshot((ticket, from), answers::snapshot_unavailable(question));
            return true;
        }
        self.send_snapshot_ask(
            Pending {
                asker: Some((ticket, from)),
                question: question.clone(),
                since_us: now_us,
                unsent: None,
                removing: false,
            },
            ask,
        );
        true
    }

    fn new_snapshot(&mut self, document: &str) -> Option<SnapshotAsk> {
        let now = self.now;
        let shelf = self.library.shelf(document).filter(|shelf| shelf.has_content())?;
        Some(SnapshotAsk::Add(Box::new(NewSnapshot {
            id: uuid_v4(),
            document: shelf.id.clone(),
            content: shelf.saved(now),
        })))
    }

    fn send_snapshot_ask(&mut self, mut pending: Pending, ask: SnapshotAsk) {
        let now_us = self.now.mono_us;
        let has_row = match &ask {
            SnapshotAsk::Add(snapshot) => {
                let durable = self
                    .library
                    .shelf(&snapshot.document)
                    .and_then(|it| it.durable.as_ref());
                durable.is_none_or(|durable| durable.version > 0)
            }
            _ => true,
        };
        let shard = self.id;
        let Some(house) = self.storehouse.as_deref_mut() else {
            return;
        };
        house.snapshots.serial += 1;
        let serial = house.snapshots.serial;
        if has_row {
            let request = Box::new(SnapshotRequest { shard, serial, ask });
            let sent = self
                .context
                .storage
                .as_ref()
                .map(|link| (link.submit)(Request::Snapshot(request)));
            if !matches!(sent, Some(Ok(()))) {
                return self.refuse_snapshot(pending);
            }
        } else {
            pending.unsent = Some(ask);
        }
        house.snapshots.pending.insert(serial, pending);
        if !std::mem::replace(&mut house.snapshots.tick_scheduled, true) {
            self.deadlines.at(now_us + TICK_US, Due::Snapshots);
        }
    }

    /// Refuses what has waited too long; sends what waited for its document to have a row.
    pub(super) fn snapshots_due(&mut self) {
        let now_us = self.now.mono_us;
        let Some(house) = self.storehouse.as_deref_mut() else {
            return;
        };
        let snapshots = &mut house.snapshots;
        snapshots.tick_scheduled = false;
        let is_late = |pending: &Pending| pending.asker.is_some() && pending.since_us + PATIENCE_US <= now_us;
        let late: Vec<Pending> = snapshots
            .pending
            .values_mut()
            .filter(|pending| is_late(pending))
            .map(Pending::taken)
            .collect();
        // Storage still has the others, and their documents; they count until it has answered.
        snapshots
            .pending
            .retain(|_, pending| pending.asker.is_some() || pending.unsent.take().is_none());
        let unsent: Vec<u64> = snapshots
            .pending
            .iter()
            .filter(|(_, pending)| pending.unsent.is_some())
            .map(|(serial, _)| *serial)
            .collect();
        if !snapshots.pending.is_empty() {
            snapshots.tick_scheduled = true;
            self.deadlines.at(now_us + TICK_US, Due::Snapshots);
        }
        for pending in late {
            self.refuse_snapshot(pending);
        }
        for serial in unsent {
            let house = self.storehouse.as_deref_mut();
            if let Some(mut pending) = house.and_then(|house| house.snapshots.pending.remove(&serial))
                && let Some(ask) = pending.unsent.take()
            {
                self.send_snapshot_ask(pending, ask);
            }
        }
    }

    fn refuse_snapshot(&mut self, mut pending: Pending) {
        if let Some(asker) = pending.asker.take() {
            self.answer_snapshot(asker, answers::snapshot_unavailable(&pending.question));
        }
    }

    /// Storage has answered.
    pub(super) fn snapshot_answered(&mut self, answer: SnapshotAnswer) {
        let house = self.storehouse.as_deref_mut();
        let Some(mut pending) = house.and_then(|house| house.snapshots.pending.remove(&answer.serial)) else {
            return;
        };
        let Some(asker) = pending.asker.take() else { return };
        let rows = match answer.found {
            Ok(rows) => rows,
            Err(reason) => {
                tracing::error!("snapshots: the database refuses: {reason}");
                return self.answer_snapshot(asker, answers::snapshot_failed(&pending.question));
            }
        };
        let mut found = rows.into_iter().map(facts);
        let response = match &*pending.question {
            Question::SnapshotCreate { .. } => answers::snapshot_created(found.next().as_ref()),
            Question::SnapshotLatest { .. } => answers::snapshot_latest(found.next().as_ref()),
            Question::SnapshotList { document, .. } => {
                let newest: Vec<SnapshotFacts> = found.collect();
                answers::snapshot_list(document, &newest)
            }
            Question::SnapshotRead { identity, .. } => answers::snapshot_read(found.next().as_ref(), identity),
            Question::SnapshotDelete { .. } if pending.removing => match found.next() {
                Some(_) => answers::snapshot_deleted(),
                None => answers::snapshot_missing(),
            },
            Question::SnapshotDelete { id, identity } => {
                let document = found.next().map(|snapshot| snapshot.document);
                match answers::check_snapshot_delete(document.as_deref(), identity) {
                    Err(refused) => refused,
                    Ok(()) => {
                        let ask = SnapshotAsk::Remove(id.clone());
                        (pending.asker, pending.removing) = (Some(asker), true);
                        return self.send_snapshot_ask(pending, ask);
                    }
                }
            }
            _ => answers::snapshot_missing(),
        };
        self.answer_snapshot(asker, response);
    }

    fn answer_snapshot(&mut self, (ticket, from): (u64, ShardId), response: Response) {
        let findings = Box::new(Findings::Response(Some(response)));
        self.post(from, Mail::Answered { ticket, findings });
    }
}

impl Pending {
    /// The same with its asker, who is forgotten here.
    fn taken(&mut self) -> Pending {
        Pending {
            asker: self.asker.take(),
            question: self.question.clone(),
            since_us: self.since_us,
            unsent: None,
            removing: self.removing,
        }
    }
}

/// A row for the HTTP API. A state that cannot be read (another program wrote it) is given as an empty object.
fn facts(row: SnapshotRow) -> SnapshotFacts {
    let state = match row.state.is_empty() {
        true => Vec::new(),
        false => decode_snapshot(&row.state).unwrap_or_else(|| {
            tracing::error!(
                "snapshot {}: its state is not a JSON object that this server can read",
                row.id
            );
            b"{}".to_vec()
        }),
    };
    SnapshotFacts {
        id: row.id,
        document: row.document,
        version: serde_json::from_str(&row.version).unwrap_or_default(),
        size_bytes: row.size_bytes,
        created_at_unix_ms: row.created_at_ms,
        state: state.into(),
    }
}
