//! Threads that read documents, and keep and read snapshots.

use super::backend::Row;
use super::thread::{Failure, Worker};
use super::{Reply, Search};
use crate::ids::ShardId;
use crate::saved::{Answer, Load, Loaded, SavedDocument, SnapshotAnswer, decode};
use crossbeam_channel::Receiver;
use hashbrown::HashMap;
use std::sync::atomic::Ordering;

/// Documents read with one query.
const BATCH_MAX: usize = 32;

pub(super) fn run(mut worker: Worker, queue: &Receiver<Search>, reply: &Reply) {
    let mut stopped = false;
    while !stopped && let Some(first) = worker.next(queue) {
        let (mut batch, mut snapshots) = (Vec::new(), None);
        for search in std::iter::once(first).chain(queue.try_iter()) {
            match search {
                Search::Load(load) => batch.push(load),
                Search::Snapshot(request) => snapshots = Some(request),
                Search::Stop => stopped = true,
            }
            if stopped || snapshots.is_some() || batch.len() >= BATCH_MAX {
                break;
            }
        }
        let answers = match batch.is_empty() {
            true => Vec::new(),
            false => load(&mut worker, &batch),
        };
        let mut by_shard: HashMap<ShardId, Vec<Answer>> = HashMap::new();
        for (load, found) in batch.into_iter().zip(answers) {
            let Some(found) = found else { continue };
            let document = load.document;
            by_shard
                .entry(load.shard)
                .or_default()
                .push(Answer::Loaded(Loaded { document, found }));
        }
        for (shard, answers) in by_shard {
            reply(shard, answers);
        }
        if let Some(request) = snapshots {
            let found = match worker.run(|backend| backend.snapshots(&request.ask)) {
                Ok(rows) => Ok(rows),
                Err(Failure::Refused(reason)) => Err(reason),
                Err(Failure::GivenUp) => continue,
            };
            let serial = request.serial;
            reply(request.shard, vec![Answer::Snapshot(SnapshotAnswer { serial, found })]);
        }
    }
}

/// What was found of one document: see [`Loaded::found`].
type Found = Result<Option<(i64, SavedDocument)>, String>;

/// One answer for each; `None` only when the process ends.
fn load(worker: &mut Worker, batch: &[Load]) -> Vec<Option<Found>> {
    let ids: Vec<&str> = batch.iter().map(|load| &*load.document).collect();
    match worker.run(|backend| backend.load(&ids)) {
        Ok(rows) => {
            let counts = &worker.health().counts;
            counts.documents_loaded.fetch_add(rows.len() as u64, Ordering::Relaxed);
            let mut rows: HashMap<String, Row> = rows.into_iter().map(|row| (row.id.clone(), row)).collect();
            ids.iter().map(|id| Some(read(rows.remove(*id)))).collect()
        }
        Err(Failure::GivenUp) => batch.iter().map(|_| None).collect(),
        Err(Failure::Refused(text)) if batch.len() == 1 => vec![Some(Err(text))],
        // Whatever it is that the database cannot read, the others are read without it.
        Err(Failure::Refused(_)) => batch
            .iter()
            .flat_map(|one| load(worker, std::slice::from_ref(one)))
            .collect(),
    }
}

fn read(row: Option<Row>) -> Found {
    let Some(row) = row else { return Ok(None) };
    match decode(&row.state, row.facts) {
        Ok(document) => Ok(Some((row.version, document))),
        Err(error) => {
            tracing::error!("document {}: {error}. It is refused until the row is repaired", row.id);
            Err(error.to_string())
        }
    }
}
