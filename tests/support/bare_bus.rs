//! The bus of a node without its shards: for tests and figures of the bus alone.

// Every test binary uses its own part of this module.
#![allow(dead_code)]

use bytes::Bytes;
use crossbeam_channel::{Receiver, unbounded};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use synckit_server::cluster::redis::{BusSettings, RedisAddress, RedisBus, Running};
use synckit_server::cluster::{BusEvent, BusLink, BusRequest};
use synckit_server::ids::ShardId;

/// A node's silence before it gives a connection up is seconds long, and the machine may be busy.
pub const PATIENT: Duration = Duration::from_secs(30);
/// Shards of each node.
pub const SHARDS: u16 = 2;

/// A node: its bus and what its shards would get.
pub struct Node {
    name: String,
    pub link: BusLink,
    pub events: Receiver<(ShardId, BusEvent)>,
    pub crowded: Arc<AtomicBool>,
    pub running: Option<Running>,
}

impl Node {
    pub fn start(name: &str, url: &str) -> Self {
        let settings = BusSettings {
            address: Arc::new(RedisAddress::parse(url).expect("a URL")),
            prefix: "test:".into(),
            node: name.into(),
            shards: SHARDS,
        };
        let bus = RedisBus::new(settings).expect("queues");
        let link = bus.link(1);
        let (sender, events) = unbounded();
        let crowded = Arc::new(AtomicBool::new(false));
        let asked = crowded.clone();
        let deliver = Arc::new(move |shard, batch: Vec<BusEvent>| {
            batch.into_iter().for_each(|event| drop(sender.send((shard, event))));
        });
        let running = bus.start(deliver, Arc::new(move || asked.load(Ordering::SeqCst)));
        Self {
            name: name.to_owned(),
            link,
            events,
            crowded,
            running: Some(running.expect("threads")),
        }
    }

    /// Starts and waits until it works.
    pub fn connected(name: &str, url: &str) -> Self {
        let node = Self::start(name, url);
        node.wait("to be connected", |node| (node.link.is_connected)());
        node
    }

    pub fn wait(&self, what: &str, fits: impl Fn(&Node) -> bool) {
        let deadline = Instant::now() + PATIENT;
        while !fits(self) {
            assert!(
                Instant::now() < deadline,
                "{} never came {what}: {:?}",
                self.name,
                (self.link.health)()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn join(&self, shard: u16, document: &str) {
        let join = BusRequest::Join {
            shard: ShardId(shard),
            document: document.into(),
        };
        (self.link.submit)(join).expect("room for a join");
    }

    pub fn joined(&self, shard: u16, document: &str) {
        self.join(shard, document);
        self.next("Joined", |at, event| {
            at == ShardId(shard) && matches!(event, BusEvent::Joined { document: which } if **which == *document)
        });
    }

    pub fn leave(&self, document: &str) {
        let document = document.into();
        (self.link.submit)(BusRequest::Leave { document }).expect("room for a leave");
    }

    pub fn envelope(&self, text: &str) -> Bytes {
        format!("{{\"v\":1,\"node\":\"{}\",\"x\":\"{text}\"}}", self.name).into()
    }

    pub fn try_publish(&self, document: &str, text: &str) -> bool {
        let (document, envelope) = (document.into(), self.envelope(text));
        (self.link.submit)(BusRequest::Publish { document, envelope }).is_ok()
    }

    pub fn publish(&self, document: &str, text: &str) {
        assert!(
            self.try_publish(document, text),
            "given back: {:?}",
            (self.link.health)()
        );
    }

    /// Waits for an event that fits; drops the others.
    pub fn next(&self, what: &str, fits: impl Fn(ShardId, &BusEvent) -> bool) -> BusEvent {
        let deadline = Instant::now() + PATIENT;
        loop {
            let event = self.events.recv_deadline(deadline);
            let (shard, event) = event.unwrap_or_else(|_| panic!("{} never got {what}", self.name));
            if fits(shard, &event) {
                return event;
            }
        }
    }

    pub fn receives(&self, document: &str, from: &Node, text: &str) {
        let expected = from.envelope(text);
        self.next(&format!("{text} about {document}"), |_, event| {
            matches!(event, BusEvent::Received { document: which, envelope }
                if **which == *document && *envelope == expected)
        });
    }

    pub fn interrupted(&self) {
        let mut shards = HashSet::new();
        while shards.len() < usize::from(SHARDS) {
            let deadline = Instant::now() + PATIENT;
            let event = self.events.recv_deadline(deadline);
            let (shard, event) = event.unwrap_or_else(|_| panic!("{} was never interrupted", self.name));
            if matches!(event, BusEvent::Interrupted) {
                shards.insert(shard);
            }
        }
    }

    pub fn forget_events(&self) {
        self.events.try_iter().for_each(drop);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.finish(Instant::now() + Duration::from_secs(1));
        }
    }
}

/// Publishes until one arrives: after a loss the first ones may be given back or lost.
pub fn until_it_arrives(from: &Node, to: &Node, document: &str) {
    let deadline = Instant::now() + PATIENT;
    for number in 0.. {
        let text = format!("again {number}");
        let expected = from.envelope(&text);
        from.try_publish(document, &text);
        let until = Instant::now() + Duration::from_millis(100);
        while let Ok((_, event)) = to.events.recv_deadline(until) {
            if matches!(&event, BusEvent::Received { envelope, .. } if *envelope == expected) {
                return;
            }
        }
        assert!(
            Instant::now() < deadline,
            "nothing arrives any more: {:?}",
            (to.link.health)()
        );
    }
}
