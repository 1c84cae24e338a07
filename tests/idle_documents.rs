//! Stored documents that nobody has used for five minutes leave memory, and no earlier; those with listeners or with changes
//! that are not stored stay (docs/protocol.md §18.4). One real shard with a simulated clock and a table in memory.

#[path = "support/bare_shard.rs"]
mod bare_shard;

use bare_shard::{BareShard, delta, text_frame};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use synckit_server::handler::{End, Handler};
use synckit_server::ids::{ShardId, Slot};
use synckit_server::saved::{Answer, Loaded, Request, Stored, StoredRow};
use synckit_server::shard::mail::Mail;
use synckit_server::shard::{StorageFacts, StorageLink};

type Queue = Arc<Mutex<VecDeque<Request>>>;

fn link(queue: &Queue) -> StorageLink {
    let queue = queue.clone();
    StorageLink {
        note: None,
        submit: Box::new(move |request| {
            queue.lock().unwrap().push_back(request);
            Ok(())
        }),
        health: Box::new(|| StorageFacts {
            available: true,
            ..StorageFacts::default()
        }),
        troubled_ms: Box::new(|| 0),
    }
}

struct Storing {
    shard: BareShard,
    queue: Queue,
    loads: Vec<String>,
    /// Whether stores are answered.
    commits: bool,
}

impl Storing {
    fn new() -> Self {
        let queue = Queue::default();
        Self {
            shard: BareShard::stored(link(&queue)),
            queue,
            loads: Vec::new(),
            commits: true,
        }
    }

    /// Turns until nothing is asked of storage.
    fn settle(&mut self) {
        loop {
            // What one turn changes, the next one stores.
            self.shard.turn();
            self.shard.turn();
            let requests: Vec<Request> = self.queue.lock().unwrap().drain(..).collect();
            let answers: Vec<Answer> = requests
                .into_iter()
                .filter_map(|request| self.answer(request))
                .collect();
            if answers.is_empty() {
                return;
            }
            let now = self.shard.now;
            self.shard.shard.mail(now, ShardId(0), Mail::Storage(answers));
        }
    }

    fn answer(&mut self, request: Request) -> Option<Answer> {
        match request {
            Request::Load(load) => {
                self.loads.push(load.document.to_string());
                let (document, found) = (load.document, Ok(None));
                Some(Answer::Loaded(Loaded { document, found }))
            }
            Request::Store(store) if self.commits => Some(Answer::Stored(Stored {
                document: store.document,
                serial: store.serial,
                outcome: Ok(StoredRow {
                    version: store.version + 1,
                    merged: None,
                }),
            })),
            _ => None,
        }
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.shard.pass(1_000_000);
            self.settle();
        }
    }

    /// Whether the document was in memory: it is asked for, and nothing is loaded.
    fn is_in_memory(&mut self, document: &str) -> bool {
        let before = self.loads.len();
        let slot = self.shard.connect();
        let question = format!(r#"{{"type":"sync_request","id":"s","documentId":"{document}"}}"#);
        self.shard.receive(slot, &text_frame(&question));
        self.settle();
        // Asking made it a listener.
        self.leave(slot);
        self.loads.len() == before
    }

    /// The connection ends.
    fn leave(&mut self, slot: Slot) {
        let now = self.shard.now;
        self.shard.shard.ended(now, slot, End::Error);
        self.settle();
    }
}

#[test]
fn idle_documents_leave_after_five_minutes_and_others_stay() {
    let mut server = Storing::new();
    let writer = server.shard.connect();
    for document in ["idle", "unsaved"] {
        server.commits = document == "idle";
        server.shard.receive(writer, &text_frame(&delta(document, 1)));
        server.settle();
    }
    let listener = server.shard.subscribe("heard");
    server.settle();
    // Writing made the author a listener.
    server.leave(writer);
    assert_eq!(server.loads, ["idle", "unsaved", "heard"]);

    server.pass(Duration::from_secs(280));
    assert!(server.is_in_memory("idle"), "gone before its time");
    // That was a use: five minutes begin anew.
    server.pass(Duration::from_secs(280));
    assert!(server.is_in_memory("idle"), "a use does not count");
    server.pass(Duration::from_secs(310));
    assert!(server.is_in_memory("unsaved"), "a change was thrown away");
    assert!(server.is_in_memory("heard"), "its listener is still there");
    assert!(!server.is_in_memory("idle"), "kept although nobody uses it");
    let _ = listener;
}
