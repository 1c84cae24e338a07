//! A database for simulated shards: a table, a queue, and bad days. It is slow, it pauses, its queue is short, and what
//! has been committed may not have been answered when the shards vanish.

use super::mesh::Dice;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use synckit_server::document::SavedRecord;
use synckit_server::ids::ShardId;
use synckit_server::saved::{Answer, Loaded, Request, RowFacts, StoreFailure, Stored, StoredRow, decode, encode};
use synckit_server::shard::{StorageFacts, StorageLink};

/// Requests that may wait.
const QUEUE_MAX: usize = 12;

/// Rows by id: version and state.
pub type Table = BTreeMap<String, (i64, String)>;

pub struct SimulatedStorage {
    pub table: Table,
    queue: Arc<Mutex<VecDeque<Request>>>,
    /// Answers of committed work, with the time they leave.
    answers: VecDeque<(u64, ShardId, Answer)>,
    paused_until_us: u64,
    away_until_us: u64,
    /// Its connections fail while it is away, instead of being silent: since when, in microseconds.
    known_trouble_us: Option<u64>,
    /// What the shards are told of it, in milliseconds.
    troubled_ms: Arc<AtomicU64>,
    /// It does not only keep shards waiting: it refuses single documents and rows.
    pub fails: bool,
    /// The next document is refused.
    pub refuses_next: bool,
    /// Documents and rows that were refused.
    pub refused: usize,
    pub commits: usize,
    pub conflicts: usize,
    pub loads: usize,
    /// What other servers wrote into rows: document, field, value. Each field once.
    pub written_by_others: Vec<(String, String, String)>,
}

impl SimulatedStorage {
    pub fn over(table: Table) -> Self {
        Self {
            table,
            queue: Arc::default(),
            answers: VecDeque::new(),
            paused_until_us: 0,
            away_until_us: 0,
            known_trouble_us: None,
            troubled_ms: Arc::default(),
            fails: false,
            refuses_next: false,
            refused: 0,
            commits: 0,
            conflicts: 0,
            loads: 0,
            written_by_others: Vec::new(),
        }
    }

    pub fn link(&self) -> StorageLink {
        let (queue, troubled_ms) = (self.queue.clone(), self.troubled_ms.clone());
        StorageLink {
            note: None,
            submit: Box::new(move |request| {
                let mut queue = queue.lock().unwrap();
                if queue.len() >= QUEUE_MAX {
                    return Err(request);
                }
                queue.push_back(request);
                Ok(())
            }),
            health: Box::new(|| StorageFacts {
                available: true,
                ..StorageFacts::default()
            }),
            troubled_ms: Box::new(move || troubled_ms.load(Ordering::Relaxed)),
        }
    }

    /// When something happens by itself.
    pub fn next_us(&self) -> Option<u64> {
        let waiting = !self.queue.lock().unwrap().is_empty();
        let answers = self.answers.iter().map(|answer| answer.0).min();
        let works_us = self.paused_until_us.max(self.away_until_us);
        waiting.then_some(works_us).into_iter().chain(answers).min()
    }

    /// It goes away for longer than writes wait; `known`: and the server notices, instead of waiting for it.
    pub fn go_away(&mut self, now_us: u64, us: u64, known: bool) {
        self.away_until_us = now_us + us;
        self.known_trouble_us = known.then_some(now_us);
    }

    /// All is well from now on.
    pub fn mend(&mut self) {
        self.fails = false;
        self.away_until_us = 0;
    }

    pub fn is_idle(&self) -> bool {
        self.queue.lock().unwrap().is_empty() && self.answers.is_empty()
    }

    /// Does some of the work, in any order where order is not promised, and gives the answers that are due.
    pub fn step(&mut self, now_us: u64, dice: &mut Dice) -> Vec<(ShardId, Vec<Answer>)> {
        if dice.below(400) == 0 {
            self.paused_until_us = now_us + [5_000, 200_000, 3_000_000][dice.below(3)];
        }
        let is_away = now_us < self.away_until_us;
        self.known_trouble_us = self.known_trouble_us.filter(|_| is_away);
        let troubled_ms = self.known_trouble_us.map_or(0, |since_us| (now_us - since_us) / 1000);
        self.troubled_ms.store(troubled_ms, Ordering::Relaxed);
        if !is_away && now_us >= self.paused_until_us && dice.percent(40) {
            let most = 1 + dice.below(QUEUE_MAX);
            for _ in 0..most {
                let mut queue = self.queue.lock().unwrap();
                let at = dice.below(queue.len());
                let Some(request) = queue.remove(at) else { break };
                drop(queue);
                let (shard, answer) = self.commit(request, dice);
                let due_us = now_us + [0, 500, 20_000][dice.below(3)];
                self.answers.push_back((due_us, shard, answer));
            }
        }
        let mut due = Vec::new();
        while self.answers.front().is_some_and(|answer| answer.0 <= now_us) {
            due.extend(self.answers.pop_front().map(|(_, shard, answer)| (shard, vec![answer])));
        }
        due
    }

    fn commit(&mut self, request: Request, dice: &mut Dice) -> (ShardId, Answer) {
        match request {
            Request::Load(load) => {
                self.loads += 1;
                if self.fails && dice.below(60) == 0 {
                    self.refused += 1;
                    let found = Err("a row that cannot be read today".to_owned());
                    let document = load.document;
                    return (load.shard, Answer::Loaded(Loaded { document, found }));
                }
                let found = self.table.get(&*load.document).map(|(version, state)| {
                    let document = decode(state, RowFacts::default()).expect("a row written here");
                    (*version, document)
                });
                let document = load.document;
                (
                    load.shard,
                    Answer::Loaded(Loaded {
                        document,
                        found: Ok(found),
                    }),
                )
            }
            Request::Store(store) => {
                if std::mem::take(&mut self.refuses_next) || self.fails && dice.below(100) == 0 {
                    self.refused += 1;
                    let stored = Stored {
                        document: store.document,
                        serial: store.serial,
                        outcome: Err(StoreFailure {
                            reason: "refused for its content".to_owned(),
                        }),
                    };
                    return (store.shard, Answer::Stored(stored));
                }
                self.commits += 1;
                let id = store.document.to_string();
                if dice.percent(5) {
                    self.touch(&id);
                }
                let row = self.table.get(&id);
                let mut content = store.content;
                let mut merged = false;
                if let Some((version, state)) = row.filter(|row| row.0 != store.version) {
                    assert!(*version > store.version, "a version from the future");
                    let mut stored = decode(state, RowFacts::default()).expect("a row written here");
                    stored.merge(content);
                    content = stored;
                    merged = true;
                    self.conflicts += 1;
                }
                let version = row.map_or(0, |row| row.0) + 1;
                self.table
                    .insert(id.clone(), (version, encode(&id, "simulated", &content)));
                let outcome = Ok(StoredRow {
                    version,
                    merged: merged.then_some(content),
                });
                let stored = Stored {
                    document: store.document,
                    serial: store.serial,
                    outcome,
                };
                (store.shard, Answer::Stored(stored))
            }
            Request::Snapshot(_) => unreachable!("the simulation asks for no snapshots"),
            Request::Clear(shard) => {
                self.table.clear();
                (shard, Answer::Cleared)
            }
        }
    }

    /// Another server writes a field of its own into the row.
    fn touch(&mut self, id: &str) {
        let number = self.written_by_others.len();
        let Some(row) = self.table.get_mut(id) else { return };
        let mut document = decode(&row.1, RowFacts::default()).expect("a row written here");
        let (field, value) = (format!("other{number}"), format!("\"{number}\""));
        row.0 += 1;
        // Another process of this kind may have been here.
        if document
            .records
            .iter()
            .any(|record| record.key.trim_matches('"') == field)
        {
            return;
        }
        document.clock += 1;
        document.records.push(SavedRecord {
            key: format!("\"{field}\"").into(),
            value: Some(value.as_bytes().into()),
            timestamp_ms: document.clock,
            lam: document.clock,
            writer: None,
            own: 0,
            deleted_at_ms: 0,
        });
        row.1 = encode(id, "another", &document);
        self.written_by_others.push((id.to_owned(), field, value));
    }
}
