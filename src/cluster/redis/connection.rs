//! What both threads do with their connection: connect again after pauses, buffer, notice silence.

use super::resp;
use super::wire::{WIRE, Wire};
use super::{BusSettings, Shared};
use mio::{Events, Poll};
use rand::Rng;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// First and longest pause before connecting again; each is shortened by up to a half at random, so that the nodes of a
/// cluster do not come all at once.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that lasted this long was a good one: after its loss the pauses start anew.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// After this much silence Redis is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(2);
/// After this much silence although it was asked something, the connection is lost.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// And this much longer for each document joined: Redis frees the connection of a node that was lost with all of its
/// subscriptions in one go, and the others, which have joined as many, must not be lost for that.
const ANSWER_MAX_PER_DOCUMENT: Duration = Duration::from_micros(20);
/// Bytes taken from the socket in one go.
const READ_BYTES: usize = 256 << 10;
/// Bytes that may wait for the socket before no more commands are made.
const OUT_BYTES_MAX: usize = 256 << 10;
/// Longest sleep; timers of the threads are coarser than this.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// A thread's connection, or the lack of one.
pub(super) struct Connection {
    settings: BusSettings,
    shared: Arc<Shared>,
    poll: Poll,
    events: Events,
    /// What `CLIENT LIST` shows.
    name: String,
    wire: Option<Wire>,
    readable: bool,
    writable: bool,
    /// Commands that wait for the socket; those before `out_done` have left.
    pub out: Vec<u8>,
    out_done: usize,
    /// What arrived; what lies before `input_done` has been handled.
    input: Vec<u8>,
    input_done: usize,
    input_end: usize,
    /// When the connection was made.
    since: Instant,
    /// When Redis last said something, or was first asked after it had answered everything.
    progress: Instant,
    /// Commands that wait for their answer.
    pub unanswered: usize,
    pings: usize,
    pause: Duration,
    connect_at: Instant,
}

impl Connection {
    pub fn new(settings: BusSettings, shared: Arc<Shared>, poll: Poll, role: &str) -> Connection {
        let now = Instant::now();
        Connection {
            name: format!("synckit-{}-{role}", settings.node),
            settings,
            shared,
            poll,
            events: Events::with_capacity(8),
            wire: None,
            readable: false,
            writable: false,
            out: Vec::new(),
            out_done: 0,
            input: vec![0; READ_BYTES],
            input_done: 0,
            input_end: 0,
            since: now,
            progress: now,
            unanswered: 0,
            pings: 0,
            pause: PAUSE_MIN,
            connect_at: now,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.wire.is_some()
    }

    /// Connects if it is time to, or `at_once`. `true`: just now.
    pub fn connect(&mut self, now: Instant, at_once: bool) -> bool {
        if self.wire.is_some() || (now < self.connect_at && !at_once) {
            return false;
        }
        let made = Wire::connect(&self.settings.address, &self.name).and_then(|mut wire| {
            wire.register(self.poll.registry())?;
            Ok(wire)
        });
        match made {
            Ok(wire) => {
                self.wire = Some(wire);
                (self.readable, self.writable) = (true, true);
                (self.since, self.progress) = (Instant::now(), Instant::now());
                true
            }
            Err(error) => {
                self.shared.health.connect_failed(&error.to_string());
                self.wait_longer();
                false
            }
        }
    }

    /// Gives the connection up. Everything unsent and unanswered is gone.
    pub fn lose(&mut self) {
        self.wire = None;
        self.out.clear();
        (self.out_done, self.input_done, self.input_end) = (0, 0, 0);
        (self.unanswered, self.pings) = (0, 0);
        if self.since.elapsed() > GOOD_AFTER {
            self.pause = PAUSE_MIN;
        }
        self.wait_longer();
    }

    fn wait_longer(&mut self) {
        let part = rand::rng().random_range(0.5..1.0);
        self.connect_at = Instant::now() + self.pause.mul_f64(part);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Whether there is room for more commands.
    pub fn has_room(&self) -> bool {
        self.out.len() - self.out_done < OUT_BYTES_MAX
    }

    /// Commands were appended to `out`.
    pub fn asked(&mut self, commands: usize, now: Instant) {
        if self.unanswered == 0 {
            self.progress = now;
        }
        self.unanswered += commands;
    }

    /// Everything said so far counts as heard: used while nothing is read on purpose.
    pub fn excuse(&mut self, now: Instant) {
        self.progress = now;
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn send(&mut self) -> io::Result<()> {
        let Some(wire) = self.wire.as_mut() else { return Ok(()) };
        while self.writable && (self.out_done < self.out.len() || wire.holds_bytes()) {
            match wire.write(&self.out[self.out_done..]) {
                Ok(count) => self.out_done += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.out_done == self.out.len() {
            self.out.clear();
            self.out_done = 0;
            // One large envelope must not keep its room for ever.
            self.out.shrink_to(OUT_BYTES_MAX * 2);
        }
        Ok(())
    }

    /// Takes what arrived from the socket. `false`: nothing did.
    pub fn receive(&mut self, now: Instant) -> io::Result<bool> {
        let Some(wire) = self.wire.as_mut() else {
            return Ok(false);
        };
        if !self.readable {
            return Ok(false);
        }
        self.input.copy_within(self.input_done..self.input_end, 0);
        (self.input_done, self.input_end) = (0, self.input_end - self.input_done);
        if self.input_end == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        } else if self.input_end == 0 && self.input.len() > READ_BYTES {
            self.input.truncate(READ_BYTES);
            self.input.shrink_to(READ_BYTES);
        }
        match wire.read(&mut self.input[self.input_end..]) {
            Ok(count) => {
                self.input_end += count;
                self.progress = now;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(io::Error::new(
                ErrorKind::ConnectionReset,
                "Redis closed the connection",
            )),
            Err(error) => Err(error),
        }
    }

    /// The next complete reply that is not the answer to a ping of our own; its bytes count as handled. The answers that
    /// are to be counted are up to the caller.
    pub fn next_reply(&mut self) -> io::Result<Option<resp::Reply<'_>>> {
        let pong = |bytes: &[u8]| {
            resp::PONGS
                .iter()
                .find(|pong| bytes.starts_with(pong))
                .map(|pong| pong.len())
        };
        while let Some(length) = pong(&self.input[self.input_done..self.input_end]) {
            self.input_done += length;
            self.pings = self.pings.saturating_sub(1);
        }
        match resp::parse(&self.input[self.input_done..self.input_end]) {
            Ok(None) => Ok(None),
            Ok(Some((reply, length))) => {
                self.input_done += length;
                Ok(Some(reply))
            }
            Err(resp::Malformed) => Err(io::Error::other("what arrives is not what Redis sends")),
        }
    }

    /// Asks for a sign of life after silence, and gives up after too much of it.
    pub fn look_after(&mut self, now: Instant) -> io::Result<()> {
        if self.wire.is_none() {
            return Ok(());
        }
        let silence = now.saturating_duration_since(self.progress);
        let documents = self.shared.health.counts.documents.load(Ordering::Relaxed);
        let patience = ANSWER_MAX + ANSWER_MAX_PER_DOCUMENT * u32::try_from(documents).unwrap_or(u32::MAX);
        if self.unanswered + self.pings > 0 && silence > patience {
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("no answer for {} ms", silence.as_millis()),
            ));
        }
        if self.unanswered + self.pings == 0 && silence > PING_AFTER {
            resp::ping(&mut self.out);
            self.pings += 1;
            self.progress = now;
        }
        Ok(())
    }

    /// Waits until the socket or the bell has something, or for `longest`. `idle` is asked last, after the bell is armed.
    pub fn sleep(&mut self, bell: &super::bell::Bell, longest: Option<Duration>, idle: impl Fn() -> bool) {
        let busy = self.wire.is_some() && (self.readable || (self.writable && self.out_done < self.out.len()));
        bell.will_sleep();
        let until_connect = match self.wire {
            Some(_) => SLEEP_MAX,
            None => self.connect_at.saturating_duration_since(Instant::now()).min(SLEEP_MAX),
        };
        let wait = match longest {
            Some(longest) => longest.min(until_connect),
            None if busy || !idle() => Duration::ZERO,
            None => until_connect,
        };
        // A failing poll is no reason to spin.
        if let Err(error) = self.poll.poll(&mut self.events, Some(wait))
            && error.kind() != ErrorKind::Interrupted
        {
            tracing::error!("a thread of the bus cannot wait: {error}");
            std::thread::sleep(SLEEP_MAX);
        }
        bell.is_awake();
        for event in self.events.iter().filter(|event| event.token() == WIRE) {
            self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        }
    }
}
