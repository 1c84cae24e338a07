//! The thread that publishes.
//!
//! What waits in the queue is made into commands and written as fast as the socket takes them; answers are counted as they
//! come. There is no waiting for an answer before the next command, and none for company before the first.

use super::connection::Connection;
use super::health::Role;
use super::server_presence::{ANNOUNCE_PERIOD, offline, online};
use super::{BusSettings, Shared, interrupt, resp};
use crate::cluster::{BusDeliver, BusEvent, BusRequest};
use crate::ids::ShardId;
use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Commands on their way; beyond it, envelopes wait in the queue.
const UNANSWERED_MAX: usize = 16_384;

/// A command of which it matters how many receive it.
enum Counted {
    Announcement,
    Question { shard: ShardId, document: Arc<str> },
}

pub(super) struct Publisher {
    settings: BusSettings,
    shared: Arc<Shared>,
    queue: Receiver<BusRequest>,
    deliver: BusDeliver,
    connection: Connection,
    /// Lengths of the envelopes on their way, in order; `None`: something nobody misses.
    sent: VecDeque<Option<u32>>,
    /// Commands answered on this connection.
    answered: u64,
    /// Those whose answer matters, in order, by the number of the command.
    counted: VecDeque<(u64, Counted)>,
    /// How many nodes the last announcement reached; 0: none left on this connection.
    announced: u64,
    /// Answers up to one whose time is taken, and when its command was made. One at a time: a sample costs next to nothing.
    timed: Option<(usize, Instant)>,
    announce_at: Instant,
    /// The farewell has been said.
    farewell: bool,
    /// The connection was not there when it should have been said; it is tried once more.
    last_attempt: bool,
}

impl Publisher {
    pub fn new(
        settings: BusSettings,
        shared: Arc<Shared>,
        queue: Receiver<BusRequest>,
        poll: mio::Poll,
        deliver: BusDeliver,
    ) -> Publisher {
        Publisher {
            connection: Connection::new(settings.clone(), shared.clone(), poll, "publisher"),
            settings,
            shared,
            queue,
            deliver,
            sent: VecDeque::new(),
            answered: 0,
            counted: VecDeque::new(),
            announced: 0,
            timed: None,
            announce_at: Instant::now(),
            farewell: false,
            last_attempt: false,
        }
    }

    pub fn run(mut self) {
        loop {
            let now = Instant::now();
            // A node that ends does not wait out its pause: the others should hear its farewell.
            if self.connection.connect(now, self.shared.is_stopping()) {
                self.shared.health.works(Role::Publisher);
                // Whoever answers an announcement must be heard: while the node does not listen yet, it waits for that.
                let listens = self.shared.health.can_receive();
                self.announce_at = if listens { now } else { now + ANNOUNCE_PERIOD };
                interrupt(&self.deliver, self.settings.shards);
            }
            if let Err(error) = self.turn(now) {
                self.lose(&error);
            }
            if self.shared.is_stopping() {
                if self.is_done() {
                    return;
                }
                if !self.connection.is_connected() {
                    self.last_attempt = true;
                    continue;
                }
            }
            let (queue, full) = (&self.queue, !self.may_send());
            self.connection
                .sleep(&self.shared.publisher_bell, None, || full || queue.is_empty());
        }
    }

    fn is_done(&self) -> bool {
        match self.connection.is_connected() {
            true => self.queue.is_empty() && self.farewell && self.sent.is_empty(),
            false => self.last_attempt,
        }
    }

    fn may_send(&self) -> bool {
        self.connection.is_connected() && self.connection.has_room() && self.sent.len() < UNANSWERED_MAX
    }

    fn turn(&mut self, now: Instant) -> io::Result<()> {
        if !self.connection.is_connected() {
            return Ok(());
        }
        self.announce(now);
        self.take(now);
        self.connection.send()?;
        while self.connection.receive(now)? {
            self.answers()?;
            if self.sent.is_empty() {
                break;
            }
        }
        self.connection.look_after(now)
    }

    /// Says that this node is there, or goes.
    fn announce(&mut self, now: Instant) {
        let node = &self.settings.node;
        let text = if self.shared.is_stopping() {
            if self.farewell || !self.queue.is_empty() {
                return;
            }
            self.farewell = true;
            offline(node)
        } else if now >= self.announce_at || self.shared.announce.swap(false, Ordering::SeqCst) {
            self.announce_at = now + ANNOUNCE_PERIOD;
            online(node)
        } else {
            return;
        };
        let channel: [&[u8]; 2] = [self.settings.prefix.as_bytes(), b"presence"];
        resp::publish(&mut self.connection.out, &channel, text.as_bytes());
        self.connection.asked(1, now);
        self.sent.push_back(None);
    }

    /// Makes commands of what waits.
    fn take(&mut self, now: Instant) {
        let before = self.sent.len();
        while self.may_send()
            && let Ok(request) = self.queue.try_recv()
        {
            let prefix = self.settings.prefix.as_bytes();
            let number = self.answered + self.sent.len() as u64 + 1;
            let envelope = match &request {
                BusRequest::Publish { document, envelope } | BusRequest::Ask { document, envelope, .. } => {
                    let channel: [&[u8]; 3] = [prefix, b"v1:doc:", document.as_bytes()];
                    resp::publish(&mut self.connection.out, &channel, envelope);
                    if let &BusRequest::Ask { shard, .. } = &request {
                        let document = document.clone();
                        self.counted.push_back((number, Counted::Question { shard, document }));
                    }
                    envelope
                }
                BusRequest::Announce { envelope } => {
                    let channel: [&[u8]; 2] = [prefix, b"v1:nodes"];
                    resp::publish(&mut self.connection.out, &channel, envelope);
                    self.counted.push_back((number, Counted::Announcement));
                    envelope
                }
                BusRequest::Join { .. } | BusRequest::Leave { .. } => continue,
            };
            self.shared.queue_bytes.fetch_sub(envelope.len(), Ordering::Relaxed);
            // Bounded by ENVELOPE_BYTES_MAX.
            self.sent.push_back(Some(envelope.len() as u32));
        }
        let commands = self.sent.len() - before;
        if commands > 0 {
            self.timed.get_or_insert((self.sent.len(), now));
            // As if they had been asked one by one: the first of them starts the clock.
            self.connection.asked(commands, now);
        }
    }

    fn answers(&mut self) -> io::Result<()> {
        let (mut envelopes, mut bytes) = (0, 0);
        let outcome = loop {
            let refused = match self.connection.next_reply() {
                Ok(None) => break Ok(()),
                Ok(Some(resp::Reply::Integer(receivers))) => {
                    self.reached(receivers);
                    None
                }
                Ok(Some(resp::Reply::Error(text))) => Some(String::from_utf8_lossy(text).into_owned()),
                Ok(Some(other)) => break Err(io::Error::other(format!("an unexpected answer: {other:?}"))),
                Err(error) => break Err(error),
            };
            self.connection.unanswered = self.connection.unanswered.saturating_sub(1);
            self.answered += 1;
            self.time_answer();
            match (self.sent.pop_front(), refused) {
                (Some(Some(length)), None) => {
                    envelopes += 1;
                    bytes += u64::from(length);
                }
                (Some(None), None) => {}
                (Some(None), Some(text)) => {
                    tracing::warn!("Redis does not let this node announce itself: {text}");
                }
                (Some(Some(_)), Some(text)) => {
                    self.shared.health.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    break Err(io::Error::other(format!("Redis refuses envelopes: {text}")));
                }
                (None, _) => break Err(io::Error::other("an answer to no question")),
            }
        };
        let counts = &self.shared.health.counts;
        counts.published.fetch_add(envelopes, Ordering::Relaxed);
        counts.published_bytes.fetch_add(bytes, Ordering::Relaxed);
        outcome
    }

    /// The next command to be answered went to so many receivers.
    fn reached(&mut self, receivers: i64) {
        let number = self.answered + 1;
        if self.counted.front().is_none_or(|(counted, _)| *counted != number) {
            return;
        }
        let receivers = u64::try_from(receivers).unwrap_or(0);
        match self.counted.pop_front() {
            Some((_, Counted::Announcement)) => self.announced = receivers,
            Some((_, Counted::Question { shard, document })) => {
                let event = BusEvent::Reached {
                    document,
                    nodes: receivers,
                    announced: self.announced,
                };
                (self.deliver)(shard, vec![event]);
            }
            None => {}
        }
    }

    /// One answer came.
    fn time_answer(&mut self) {
        let Some((left, asked)) = &mut self.timed else {
            return;
        };
        *left -= 1;
        if *left == 0 {
            let counts = &self.shared.health.counts;
            counts.timed.fetch_add(1, Ordering::Relaxed);
            counts
                .timed_us
                .fetch_add(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
            self.timed = None;
        }
    }

    /// Everything on its way and everything that waits is gone; shards hear of it when the next connection works.
    fn lose(&mut self, error: &io::Error) {
        self.shared.health.lost(Role::Publisher, &error.to_string());
        self.connection.lose();
        self.farewell = false;
        self.timed = None;
        self.counted.clear();
        self.announced = 0;
        let mut dropped = self.sent.drain(..).flatten().count();
        for request in self.queue.try_iter() {
            if let BusRequest::Publish { envelope, .. }
            | BusRequest::Ask { envelope, .. }
            | BusRequest::Announce { envelope } = request
            {
                self.shared.queue_bytes.fetch_sub(envelope.len(), Ordering::Relaxed);
                dropped += 1;
            }
        }
        self.shared
            .health
            .counts
            .dropped
            .fetch_add(dropped as u64, Ordering::Relaxed);
    }
}
