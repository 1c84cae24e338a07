//! Threads that write documents: group commit, and merging with what other servers wrote.

use super::backend::RowWrite;
use super::thread::{Failure, Worker};
use super::{Reply, Work};
use crate::histogram::Durations;
use crate::ids::ShardId;
use crate::saved::{Answer, Store, StoreFailure, Stored, StoredRow, decode, encode};
use crossbeam_channel::Receiver;
use hashbrown::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Documents of one transaction.
const BATCH_DOCUMENTS_MAX: usize = 500;
/// Their bytes, roughly; one larger document is a transaction of its own.
const BATCH_BYTES_MAX: usize = 4 << 20;

pub(super) fn run(mut worker: Worker, queue: &Receiver<Work>, node: &str, reply: &Reply) {
    let mut stopped = false;
    while !stopped && let Some(work) = worker.next(queue) {
        let (mut batch, mut bytes, mut clear) = (Vec::new(), 0, None);
        for work in std::iter::once(work).chain(queue.try_iter()) {
            match work {
                Work::Store(store) => {
                    bytes += store.content.row_bytes();
                    batch.push(Item::new(store, node));
                }
                Work::Clear(shard) => clear = Some(shard),
                Work::Stop => stopped = true,
            }
            if stopped || clear.is_some() || bytes >= BATCH_BYTES_MAX || batch.len() >= BATCH_DOCUMENTS_MAX {
                break;
            }
        }
        // In one order everywhere, so that writers who meet wait for each other in turn.
        batch.sort_by(|a, b| a.store.document.cmp(&b.store.document));
        store(&mut worker, batch, node, reply);
        if let Some(shard) = clear {
            // Refusals have nobody to be told: the tables stay as they are, and the log says why.
            if let Err(Failure::Refused(text)) = worker.run(|backend| backend.clear()) {
                tracing::error!("the tables cannot be cleared: {text}");
            }
            reply(shard, vec![Answer::Cleared]);
        }
    }
    worker.settle(true);
}

/// A document on its way into the database.
struct Item {
    store: Box<Store>,
    state: String,
    /// The content is a merged one, which the shard does not know yet.
    merged: bool,
}

impl Item {
    fn new(store: Box<Store>, node: &str) -> Item {
        Item {
            state: encode(&store.document, node, &store.content),
            store,
            merged: false,
        }
    }

    fn row(&self) -> RowWrite<'_> {
        RowWrite {
            id: &self.store.document,
            version: self.store.version,
            state: &self.state,
            clock: i64::try_from(self.store.content.clock).unwrap_or(i64::MAX),
            audit: &self.store.audit,
        }
    }
}

/// Answers that leave when the batch is done.
#[derive(Default)]
struct Answers(HashMap<ShardId, Vec<Answer>>);

impl Answers {
    fn push(&mut self, store: Store, version: Option<i64>, merged: bool, reason: String) {
        let outcome = match version {
            Some(version) => Ok(StoredRow {
                version,
                merged: merged.then_some(store.content),
            }),
            None => Err(StoreFailure { reason }),
        };
        let stored = Stored {
            document: store.document,
            serial: store.serial,
            outcome,
        };
        self.0.entry(store.shard).or_default().push(Answer::Stored(stored));
    }

    fn send(self, reply: &Reply) {
        for (shard, answers) in self.0 {
            reply(shard, answers);
        }
    }
}

/// Writes a batch. Answers leave with each commit; what conflicts is merged and written again.
fn store(worker: &mut Worker, mut batch: Vec<Item>, node: &str, reply: &Reply) {
    while !batch.is_empty() {
        let mut answers = Answers::default();
        let started = Instant::now();
        let rows: Vec<RowWrite<'_>> = batch.iter().map(Item::row).collect();
        match worker.run(|backend| backend.store(&rows)) {
            Ok(versions) => {
                count_commit(worker, started, &versions);
                let mut conflicts = Vec::new();
                for (item, version) in batch.into_iter().zip(versions) {
                    match version {
                        Some(_) => answers.push(*item.store, version, item.merged, String::new()),
                        None => conflicts.push(item),
                    }
                }
                answers.send(reply);
                batch = merge_conflicts(worker, conflicts, node, reply);
            }
            Err(Failure::GivenUp) => return,
            Err(Failure::Refused(reason)) if batch.len() == 1 => {
                worker.health().counts.refused.fetch_add(1, Ordering::Relaxed);
                for item in batch.drain(..) {
                    tracing::error!("document {}: the database refuses it: {reason}", item.store.document);
                    answers.push(*item.store, None, false, reason.clone());
                }
                answers.send(reply);
            }
            Err(Failure::Refused(_)) => {
                // One of them is not taken. The halves are written by themselves, down to that one.
                let rest = batch.split_off(batch.len() / 2);
                store(worker, batch, node, reply);
                batch = rest;
            }
        }
    }
}

fn count_commit(worker: &Worker, started: Instant, versions: &[Option<i64>]) {
    let counts = &worker.health().counts;
    let stored = versions.iter().flatten().count() as u64;
    counts.commits.fetch_add(1, Ordering::Relaxed);
    counts.documents_stored.fetch_add(stored, Ordering::Relaxed);
    counts
        .conflicts
        .fetch_add(versions.len() as u64 - stored, Ordering::Relaxed);
    let took_us = started.elapsed().as_micros() as u64;
    counts.store_us.fetch_add(took_us, Ordering::Relaxed);
    counts.store_buckets[Durations::bucket(took_us)].fetch_add(1, Ordering::Relaxed);
}

/// Merges documents with their rows as they are now. What cannot be read is answered; the rest is to be written.
fn merge_conflicts(worker: &mut Worker, conflicts: Vec<Item>, node: &str, reply: &Reply) -> Vec<Item> {
    if conflicts.is_empty() {
        return conflicts;
    }
    let ids: Vec<Arc<str>> = conflicts.iter().map(|item| item.store.document.clone()).collect();
    let (mut rows, mut again, mut answers) = (HashMap::new(), Vec::new(), Answers::default());
    let mut unreadable = None;
    for ids in ids.chunks(BATCH_DOCUMENTS_MAX) {
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        match worker.run(|backend| backend.load(&ids)) {
            Ok(read) => rows.extend(read.into_iter().map(|row| (row.id.clone(), row))),
            Err(Failure::GivenUp) => return Vec::new(),
            Err(Failure::Refused(text)) => unreadable = Some(text),
        }
    }
    for mut item in conflicts {
        let Some(row) = rows.remove(&*item.store.document) else {
            if let Some(text) = &unreadable {
                answers.push(*item.store, None, false, text.clone());
                continue;
            }
            // The row was deleted: it is made anew from what is here.
            item.store.version = 0;
            again.push(item);
            continue;
        };
        match decode(&row.state, row.facts) {
            Ok(mut stored) => {
                stored.merge(std::mem::take(&mut item.store.content));
                item.store.content = stored;
                item.store.version = row.version;
                item.state = encode(&item.store.document, node, &item.store.content);
                item.merged = true;
                again.push(item);
            }
            Err(error) => {
                tracing::error!("document {}: {error}. It is not overwritten", item.store.document);
                answers.push(*item.store, None, false, error.to_string());
            }
        }
    }
    answers.send(reply);
    again
}
