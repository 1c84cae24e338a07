use super::sqlite::Sqlite;
use super::*;
use crate::document::{SavedRecord, json_key};
use crate::saved::{Loaded, RowFacts, SavedDocument, SnapshotAsk, SnapshotRow, Stored, decode};
use crossbeam_channel::unbounded;
use hashbrown::HashMap;
use std::sync::Mutex;

/// A table in memory that fails as it is told to.
#[derive(Default)]
struct Table {
    rows: Mutex<HashMap<String, (i64, String)>>,
    /// What the next stores do instead of their work.
    script: Mutex<Vec<Script>>,
    stores: Mutex<Vec<usize>>,
}

#[derive(Clone, Copy, Debug)]
enum Script {
    Lost,
    LostAfterCommit,
    Again,
}

struct Connection(Arc<Table>);

const POISON: &str = "poison";

impl Backend for Connection {
    fn load(&mut self, ids: &[&str]) -> Result<Vec<Row>, Trouble> {
        let rows = self.0.rows.lock().unwrap();
        let row = |id: &&str| {
            let (version, state) = rows.get(*id)?.clone();
            Some(Row {
                id: (*id).to_owned(),
                version,
                state,
                facts: RowFacts::default(),
            })
        };
        Ok(ids.iter().filter_map(row).collect())
    }

    fn store(&mut self, rows: &[RowWrite<'_>]) -> Result<Vec<Option<i64>>, Trouble> {
        let script = self.0.script.lock().unwrap().pop();
        match script {
            Some(Script::Lost) => return Err(Trouble::Away("lost".into())),
            Some(Script::Again) => return Err(Trouble::Again("deadlock".into())),
            Some(Script::LostAfterCommit) | None => {}
        }
        if rows.iter().any(|row| row.state.contains(POISON)) {
            return Err(Trouble::Refused("poison".into()));
        }
        self.0.stores.lock().unwrap().push(rows.len());
        let mut table = self.0.rows.lock().unwrap();
        let mut outcome = Vec::new();
        for row in rows {
            let current = table.get(row.id).map_or(0, |(version, _)| *version);
            outcome.push((current == row.version).then(|| {
                table.insert(row.id.to_owned(), (current + 1, row.state.to_owned()));
                current + 1
            }));
        }
        match script {
            Some(Script::LostAfterCommit) => Err(Trouble::Away("lost".into())),
            _ => Ok(outcome),
        }
    }

    fn snapshots(&mut self, _: &SnapshotAsk) -> Result<Vec<SnapshotRow>, Trouble> {
        Ok(Vec::new())
    }

    fn note_sessions(&mut self, _: &[SessionRow], _: &[String]) -> Result<(), Trouble> {
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Trouble> {
        self.0.rows.lock().unwrap().clear();
        Ok(())
    }

    fn clean_up(&mut self) -> Result<u64, Trouble> {
        Ok(0)
    }

    fn ping(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
}

struct Running {
    storage: Storage,
    submit: Submit,
    answers: Receiver<Answer>,
}

fn start(connect: Connect, queued: Vec<Request>) -> Running {
    let queues = Queues::default();
    let submit = queues.submit();
    for request in queued {
        submit(request).unwrap();
    }
    let (sender, answers) = unbounded();
    let reply: Reply = Arc::new(move |_, batch| batch.into_iter().for_each(|answer| sender.send(answer).unwrap()));
    let threads = Threads {
        writers: 1,
        loaders: 1,
        kept: 0,
    };
    let storage = Storage::start(
        queues,
        connect,
        None,
        threads,
        "node",
        Arc::new(Health::default()),
        reply,
    )
    .unwrap();
    Running {
        storage,
        submit,
        answers,
    }
}

fn over(table: &Arc<Table>) -> Connect {
    let table = table.clone();
    Box::new(move || Ok(Box::new(Connection(table.clone()))))
}

fn document(value: &str, timestamp_ms: u64) -> SavedDocument {
    named("f", value, timestamp_ms)
}

fn named(name: &str, value: &str, timestamp_ms: u64) -> SavedDocument {
    SavedDocument {
        clock: 1,
        records: vec![SavedRecord {
            key: json_key(name),
            value: Some(Arc::from(value.as_bytes())),
            timestamp_ms,
            lam: 1,
            writer: None,
            own: 0,
            deleted_at_ms: 0,
        }],
        ..SavedDocument::default()
    }
}

fn write(id: &str, version: i64, content: SavedDocument) -> Request {
    Request::Store(Box::new(Store {
        document: id.into(),
        shard: ShardId(0),
        serial: 0,
        version,
        content,
        audit: Vec::new(),
    }))
}

impl Running {
    fn stored(&self) -> Stored {
        match self.answers.recv_timeout(Duration::from_secs(10)).unwrap() {
            Answer::Stored(stored) => stored,
            other => panic!("{other:?}"),
        }
    }

    fn loaded(&self, id: &str) -> Loaded {
        let load = Load {
            document: id.into(),
            shard: ShardId(0),
        };
        (self.submit)(Request::Load(load)).unwrap();
        match self.answers.recv_timeout(Duration::from_secs(10)).unwrap() {
            Answer::Loaded(loaded) => loaded,
            other => panic!("{other:?}"),
        }
    }

    fn finish(self) -> bool {
        self.storage.finish(Instant::now() + Duration::from_secs(10))
    }
}

fn names(content: &SavedDocument) -> Vec<String> {
    let mut names: Vec<_> = content.records.iter().map(|record| record.key.to_string()).collect();
    names.sort();
    names
}

#[test]
fn what_is_queued_together_is_one_transaction() {
    let table = Arc::new(Table::default());
    let queued = (0..40)
        .map(|at| write(&format!("d{at}"), 0, document("1", 1)))
        .collect();
    let running = start(over(&table), queued);
    for _ in 0..40 {
        assert_eq!(running.stored().outcome.unwrap().version, 1);
    }
    assert_eq!(*table.stores.lock().unwrap(), [40]);
    assert!(running.finish());
}

#[test]
fn a_poison_document_is_refused_and_its_neighbours_are_stored() {
    let table = Arc::new(Table::default());
    let value = |at| {
        if at == 13 {
            format!("\"{POISON}\"")
        } else {
            "1".to_owned()
        }
    };
    let queued = (0..40)
        .map(|at| write(&format!("d{at}"), 0, document(&value(at), 1)))
        .collect();
    let running = start(over(&table), queued);
    let refused: Vec<_> = (0..40)
        .map(|_| running.stored())
        .filter(|stored| stored.outcome.is_err())
        .map(|stored| stored.document)
        .collect();
    assert_eq!(refused, [Arc::from("d13")]);
    assert_eq!(table.rows.lock().unwrap().len(), 39);
    assert!(running.finish());
}

#[test]
fn a_row_that_somebody_else_wrote_is_merged_and_not_overwritten() {
    let table = Arc::new(Table::default());
    let running = start(over(&table), vec![write("d", 0, named("a", "1", 5))]);
    assert_eq!(running.stored().outcome.unwrap().version, 1);
    // This server believes there is no row, as a second one does that has not seen it.
    (running.submit)(write("d", 0, named("b", "2", 6))).unwrap();
    let merged = running.stored().outcome.unwrap();
    assert_eq!(merged.version, 2);
    assert_eq!(names(&merged.merged.unwrap()), ["\"a\"", "\"b\""]);
    let (version, found) = running.loaded("d").found.unwrap().unwrap();
    assert_eq!(
        (version, names(&found)),
        (2, vec!["\"a\"".to_owned(), "\"b\"".to_owned()])
    );
    // A version from the future of a row that was deleted.
    table.rows.lock().unwrap().clear();
    (running.submit)(write("d", 2, document("3", 7))).unwrap();
    assert_eq!(running.stored().outcome.unwrap().version, 1);
    assert!(running.finish());
}

#[test]
fn trouble_is_tried_again_and_a_lost_commit_does_no_harm() {
    let table = Arc::new(Table::default());
    *table.script.lock().unwrap() = vec![Script::LostAfterCommit, Script::Again, Script::Lost, Script::Lost];
    let running = start(over(&table), vec![write("d", 0, document("1", 5))]);
    let stored = running.stored().outcome.unwrap();
    let (version, state) = table.rows.lock().unwrap().get("d").unwrap().clone();
    assert_eq!(stored.version, version);
    assert_eq!(
        decode(&state, RowFacts::default()).unwrap().records,
        document("1", 5).records
    );
    assert!(running.finish());
}

#[test]
fn a_row_that_cannot_be_read_is_neither_served_nor_overwritten() {
    let table = Arc::new(Table::default());
    table.rows.lock().unwrap().insert("d".into(), (7, "[]".into()));
    let running = start(over(&table), vec![write("d", 0, document("1", 5))]);
    assert!(running.stored().outcome.is_err());
    assert!(running.loaded("d").found.is_err());
    assert_eq!(table.rows.lock().unwrap()["d"], (7, "[]".to_owned()));
    assert!(running.loaded("none").found.unwrap().is_none());
    assert!(running.finish());
}

#[test]
fn a_database_that_never_comes_back_does_not_hold_up_the_end() {
    let table = Arc::new(Table::default());
    *table.script.lock().unwrap() = vec![Script::Lost; 10_000];
    let running = start(over(&table), vec![write("d", 0, document("1", 5))]);
    let started = Instant::now();
    assert!(!running.storage.finish(started + Duration::from_millis(300)));
    assert!(started.elapsed() < Duration::from_secs(5));
}

fn sqlite_file() -> (std::path::PathBuf, Connect) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("synckit-sqlite-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("documents.sqlite");
    let connect: Connect = {
        let file = file.clone();
        Box::new(move || Ok(Box::new(Sqlite::open(&file)?)))
    };
    (folder, connect)
}

#[test]
fn sqlite_keeps_documents_over_a_restart_and_merges_what_conflicts() {
    let (folder, connect) = sqlite_file();
    let running = start(
        connect,
        vec![write("d", 0, named("a", "1", 5)), write("e", 0, document("2", 5))],
    );
    assert_eq!(running.stored().outcome.unwrap().version, 1);
    assert_eq!(running.stored().outcome.unwrap().version, 1);
    (running.submit)(write("d", 0, named("b", "2", 6))).unwrap();
    assert_eq!(running.stored().outcome.unwrap().version, 2);
    (running.submit)(write("d", 2, named("c", "3", 7))).unwrap();
    assert_eq!(running.stored().outcome.unwrap().version, 3);
    assert!(running.finish());
    let file = folder.join("documents.sqlite");
    let again = start(Box::new(move || Ok(Box::new(Sqlite::open(&file)?))), Vec::new());
    let (version, found) = again.loaded("d").found.unwrap().unwrap();
    assert_eq!(
        (version, names(&found)),
        (3, vec!["\"c\"".to_owned()]),
        "a write of the known version replaces the row"
    );
    let mut sqlite = Sqlite::open(&folder.join("documents.sqlite")).unwrap();
    assert_eq!(sqlite.clean_up(), Ok(0));
    (again.submit)(Request::Clear(ShardId(0))).unwrap();
    assert!(matches!(
        again.answers.recv_timeout(Duration::from_secs(10)),
        Ok(Answer::Cleared)
    ));
    (again.submit)(write("x", 0, document("1", 1))).unwrap();
    assert_eq!(again.stored().outcome.unwrap().version, 1);
    assert!(again.loaded("e").found.unwrap().is_none());
    assert!(again.finish());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn servers_that_open_one_sqlite_file_together_make_its_tables_once() {
    let (folder, _) = sqlite_file();
    let file = folder.join("documents.sqlite");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let file = file.clone();
            std::thread::spawn(move || {
                (0..200).find_map(|_| match Sqlite::open(&file) {
                    Ok(mut sqlite) => Some(sqlite.ping()),
                    Err(Trouble::Again(_)) => None,
                    Err(trouble) => Some(Err(trouble)),
                })
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Some(Ok(())));
    }
    std::fs::remove_dir_all(folder).unwrap();
}
