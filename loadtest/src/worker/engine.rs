//! The connections of one worker: one thread, one edge-triggered epoll, one table.
//!
//! Nothing here waits. [`Engine::turn`] handles what epoll reported and what is due, and says through
//! [`Engine::next_due_ns`] when it wants to be called again at the latest.

use super::connection::{BufferTable, Connection, Step};
use super::follow::Followed;
use super::writers::Acting;
use crate::control::{Audit, Counted, Credentials, Plan, Tally, Written};
use crate::dialect::Speaker;
use crate::result::{RecordedLatency, new_histogram};
use crate::sockets::{self, Poll, Ready};
use crate::token::Mint;
use crate::{dialect, frame};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, VecDeque};

/// Bytes read from a socket at once.
const READ_BYTES: usize = 64 * 1024;
/// A read buffer that had to grow beyond this for a large frame is given back.
const READ_BYTES_KEPT: usize = 1024 * 1024;
/// Descriptors handled per wait.
const EVENTS_MAX: usize = 512;
/// The key of the worker's standard input.
const INPUT_KEY: u64 = u64::MAX;
/// Time between looks at handshakes that take too long, nanoseconds.
const PATROL_NS: u64 = 500_000_000;
/// Pause before a connection that ended is opened again, nanoseconds.
const REOPEN_NS: u64 = 100_000_000;
/// The shortest pause between rounds of application pings, nanoseconds: many are sent after one wait.
const HEARTBEAT_TICK_NS: u64 = 10_000_000;
/// How often a paced opening is looked at, nanoseconds.
const OPENING_TICK_NS: u64 = 2_000_000;

/// Latencies, each made when first recorded.
#[derive(Default)]
pub(super) struct Latencies(BTreeMap<&'static str, Histogram<u64>>);

impl Latencies {
    pub(super) fn record(&mut self, name: &'static str, ns: u64) {
        self.0
            .entry(name)
            .or_insert_with(new_histogram)
            .saturating_record(ns.max(1));
    }
}

/// A group's state beside its plan.
pub(super) struct GroupState {
    /// Place of its first connection in the table.
    pub(super) from: u32,
    pub(super) acting: Option<Acting>,
    pub(super) followed: Option<Followed>,
}

/// How connections are being opened.
#[derive(Default)]
struct Opening {
    target: u32,
    /// First place never tried.
    cursor: u32,
    per_second: f64,
    started_ns: u64,
    started_at: u32,
    under_way: u32,
    /// Connections that ended and are to be opened again, from when on.
    again: VecDeque<(u64, u32)>,
}

/// All connections of a worker.
pub struct Engine {
    pub(super) plan: Plan,
    poll: Poll,
    mint: Option<Mint>,
    pub(super) connections: Vec<Connection>,
    buffers: BufferTable,
    pub(super) groups: Vec<GroupState>,
    pub(super) speaker: Speaker,
    /// What is being said to the connection at hand.
    pub(super) out: Vec<u8>,
    read: Vec<u8>,
    pub(super) tally: Tally,
    pub(super) latencies: Latencies,
    opening: Opening,
    reconnect: bool,
    started_ns: u64,
    /// Read once per turn; precise enough for everything but latencies.
    pub(super) now_ns: u64,
    patrolled_ns: u64,
    heartbeat: Heartbeat,
}

/// Application pings go round the table.
struct Heartbeat {
    cursor: u32,
    last_ns: u64,
}

impl Engine {
    /// A worker without connections. Its orders arrive on `input`, see [`Engine::turn`].
    ///
    /// # Errors
    /// No descriptor for epoll, or an unusable secret.
    pub fn new(plan: Plan, input: std::os::fd::RawFd) -> Result<Self> {
        let poll = Poll::new(EVENTS_MAX)?;
        poll.add_input(input, INPUT_KEY)?;
        let mint = match &plan.credentials {
            Credentials::Secret(secret) => Some(Mint::new(secret)?),
            _ => None,
        };
        let mut connections = Vec::with_capacity(plan.groups.iter().map(|group| group.count as usize).sum());
        let mut groups = Vec::new();
        for (index, group) in plan.groups.iter().enumerate() {
            let from = connections.len() as u32;
            connections.resize(
                connections.len() + group.count as usize,
                Connection::closed(index as u16),
            );
            let followed = (group.followed_writers > 0)
                .then(|| Followed::new(group.count, group.followed_writers, group.fields.max(1)));
            groups.push(GroupState {
                from,
                acting: None,
                followed,
            });
        }
        let now_ns = sockets::monotonic_ns();
        Ok(Self {
            speaker: Speaker::new(plan.dialect, plan.encoding, std::process::id()),
            reconnect: plan.reconnect,
            plan,
            poll,
            mint,
            connections,
            buffers: BufferTable::default(),
            groups,
            out: Vec::new(),
            read: Vec::new(),
            tally: Tally::default(),
            latencies: Latencies::default(),
            opening: Opening::default(),
            started_ns: now_ns,
            now_ns,
            patrolled_ns: now_ns,
            heartbeat: Heartbeat {
                cursor: 0,
                last_ns: now_ns,
            },
        })
    }

    /// Waits until something happens or `until_ns`, and handles it. True when orders can be read.
    ///
    /// # Errors
    /// epoll itself failed.
    pub fn turn(&mut self, until_ns: u64) -> Result<bool> {
        let due = self.next_due_ns().map_or(until_ns, |due| due.min(until_ns));
        let timeout = due.saturating_sub(sockets::monotonic_ns());
        let count = self.poll.wait(Some(timeout))?;
        self.now_ns = sockets::monotonic_ns();
        self.speaker.unix_ms = sockets::unix_ms();
        let mut has_orders = false;
        for index in 0..count {
            let ready = self.poll.ready(index);
            if ready.key == INPUT_KEY {
                has_orders = true;
            } else {
                self.handle(ready);
            }
        }
        self.run_due();
        Ok(has_orders)
    }

    /// When something is to be done although nothing arrives.
    fn next_due_ns(&self) -> Option<u64> {
        let writing = self
            .groups
            .iter()
            .filter_map(|group| group.acting.as_ref()?.next_due_ns());
        let opening = (self.may_open() || !self.opening.again.is_empty()).then_some(self.now_ns + OPENING_TICK_NS);
        let patrol = (self.opening.under_way > 0).then_some(self.patrolled_ns + PATROL_NS);
        let heartbeat = self.next_heartbeat_ns();
        writing.chain(opening).chain(patrol).chain(heartbeat).min()
    }

    /// When at least one application ping is due.
    fn next_heartbeat_ns(&self) -> Option<u64> {
        let interval_ns = self.plan.ping_interval_ms * 1_000_000;
        let spacing = interval_ns.checked_div(u64::from(self.opening.cursor))?;
        (interval_ns > 0).then_some(self.heartbeat.last_ns + spacing.max(HEARTBEAT_TICK_NS))
    }

    fn run_due(&mut self) {
        self.write_due();
        self.reopen();
        self.open_more();
        if self.now_ns >= self.patrolled_ns + PATROL_NS {
            self.patrolled_ns = self.now_ns;
            self.patrol();
        }
        self.send_heartbeats();
    }

    /// Has so many connections from now on; see [`crate::control::Order::Open`].
    pub fn open(&mut self, target: u32, per_second: f64, abort: bool) {
        let target = target.min(self.connections.len() as u32);
        for slot in (target..self.opening.cursor).rev() {
            self.end(slot, abort);
        }
        self.opening.again.retain(|(_, slot)| *slot < target);
        self.opening.cursor = self.opening.cursor.min(target);
        self.opening.target = target;
        self.opening.per_second = per_second;
        self.opening.started_ns = sockets::monotonic_ns();
        self.opening.started_at = self.opening.cursor;
        self.open_more();
    }

    /// Whether connections that end are opened again.
    pub fn set_reconnect(&mut self, reconnect: bool) {
        self.reconnect = reconnect;
        if !reconnect {
            self.opening.again.clear();
        }
    }

    /// Ends a connection on purpose.
    fn end(&mut self, slot: u32, abort: bool) {
        let connection = self.connections[slot as usize];
        if connection.step == Step::Closed {
            return;
        }
        if !abort && connection.step == Step::Ready {
            self.out.clear();
            self.speaker.close_frame(&mut self.out);
            // The peer may be gone already; then there is nobody to say goodbye to.
            let _ = sockets::send(connection.fd, &self.out);
            self.out.clear();
        }
        self.release(slot, abort);
    }

    /// Frees the socket and everything the connection owns.
    fn release(&mut self, slot: u32, abort: bool) {
        let connection = &mut self.connections[slot as usize];
        if connection.is_opening() {
            self.opening.under_way -= 1;
        } else if connection.step == Step::Ready {
            self.tally.ready -= 1;
        }
        if abort {
            sockets::abort(connection.fd);
        } else {
            sockets::close(connection.fd);
        }
        connection.fd = -1;
        connection.step = Step::Closed;
        self.buffers.tidy(connection, true);
        let group = &mut self.groups[usize::from(connection.group)];
        let place = slot - group.from;
        if let Some(acting) = &mut group.acting {
            acting.writers[place as usize].forget_under_way();
        }
    }

    /// A connection ended unasked.
    pub(super) fn lose(&mut self, slot: u32, reason: &str) {
        let step = self.connections[slot as usize].step;
        match step {
            Step::Closed => return,
            Step::Ready => *self.tally.dropped.entry(reason.to_owned()).or_default() += 1,
            step => {
                let name = format!("{}: {reason}", step.name());
                *self.tally.failed.entry(name).or_default() += 1;
            }
        }
        self.release(slot, false);
        self.out.clear();
        if self.reconnect {
            self.opening.again.push_back((self.now_ns + REOPEN_NS, slot));
        }
    }

    fn may_open(&self) -> bool {
        self.opening.cursor < self.opening.target && self.opening.under_way < self.plan.handshakes_max
    }

    fn open_more(&mut self) {
        let allowed = match self.opening.per_second {
            0.0 => u32::MAX,
            rate => {
                let elapsed_ns = self.now_ns.saturating_sub(self.opening.started_ns);
                let due = (elapsed_ns as f64 / 1e9 * rate) as u32;
                self.opening.started_at.saturating_add(due)
            }
        };
        while self.may_open() && self.opening.cursor < allowed {
            let slot = self.opening.cursor;
            self.opening.cursor += 1;
            self.connect(slot);
        }
    }

    fn reopen(&mut self) {
        while self.opening.under_way < self.plan.handshakes_max {
            match self.opening.again.front() {
                Some((from_ns, _)) if *from_ns <= self.now_ns => {
                    let (_, slot) = self.opening.again.pop_front().expect("looked at just now");
                    self.connect(slot);
                }
                _ => return,
            }
        }
    }

    fn connect(&mut self, slot: u32) {
        let source = self.plan.sources.of(self.identity(slot));
        let opened_at = (sockets::monotonic_ns() - self.started_ns) / 100_000;
        self.opening.under_way += 1;
        let connection = &mut self.connections[slot as usize];
        connection.step = Step::Connecting;
        connection.opened_at = opened_at as u32;
        let opened = sockets::connect(source, &self.plan.target.address).and_then(|fd| {
            connection.fd = fd;
            self.poll.add(fd, u64::from(slot))
        });
        if let Err(error) = opened {
            self.lose(slot, &reason(&error));
        }
    }

    /// The number from which client id, user and source address of a connection are made.
    pub(super) fn identity(&self, slot: u32) -> u32 {
        let index = usize::from(self.connections[slot as usize].group);
        let group = &self.plan.groups[index];
        group.identity_base + group.first + (slot - self.groups[index].from)
    }

    /// Number of the connection's document.
    pub(super) fn document(&self, slot: u32) -> u32 {
        let index = usize::from(self.connections[slot as usize].group);
        let group = &self.plan.groups[index];
        (group.first + slot - self.groups[index].from) % group.documents.max(1)
    }

    /// Number of the connection among the writers of its document.
    pub(super) fn writer_number(&self, slot: u32) -> u32 {
        let index = usize::from(self.connections[slot as usize].group);
        let group = &self.plan.groups[index];
        (group.first + slot - self.groups[index].from) / group.documents.max(1)
    }

    /// Name of the connection's document.
    pub(super) fn document_name(&self, slot: u32) -> String {
        let index = usize::from(self.connections[slot as usize].group);
        format!("{}{}", self.plan.groups[index].prefix, self.document(slot))
    }

    /// Gives up on handshakes that take too long.
    fn patrol(&mut self) {
        if self.opening.under_way == 0 {
            return;
        }
        let now = ((self.now_ns - self.started_ns) / 100_000) as u32;
        let patience = self.plan.step_timeout_ms.saturating_mul(10);
        for slot in 0..self.connections.len() as u32 {
            let connection = self.connections[slot as usize];
            if connection.is_opening() && now.saturating_sub(connection.opened_at) > patience {
                self.lose(slot, "no answer in time");
            }
        }
    }

    fn send_heartbeats(&mut self) {
        let interval_ns = self.plan.ping_interval_ms * 1_000_000;
        let elapsed = self.now_ns.saturating_sub(self.heartbeat.last_ns);
        let count = self.opening.cursor;
        if interval_ns == 0 || count == 0 {
            self.heartbeat.last_ns = self.now_ns;
            return;
        }
        let due = (u128::from(elapsed) * u128::from(count) / u128::from(interval_ns)) as u64;
        if due == 0 {
            return;
        }
        // Only the time of whole pings is used up; the rest counts for the next ones.
        self.heartbeat.last_ns += due * interval_ns / u64::from(count);
        for _ in 0..due.min(u64::from(count)) {
            self.heartbeat.cursor = (self.heartbeat.cursor + 1) % count;
            let slot = self.heartbeat.cursor;
            if self.connections[slot as usize].step == Step::Ready {
                self.speaker.ping(&mut self.out);
                self.tally.pings_sent += 1;
                self.flush(slot);
            }
        }
    }

    fn handle(&mut self, ready: Ready) {
        let slot = ready.key as u32;
        if ready.writable {
            match self.connections[slot as usize].step {
                Step::Closed => return,
                Step::Connecting => self.connected(slot),
                _ => self.flush(slot),
            }
        }
        if ready.readable && self.connections[slot as usize].step != Step::Closed {
            self.receive(slot, ready.ending);
        }
    }

    fn connected(&mut self, slot: u32) {
        let fd = self.connections[slot as usize].fd;
        if let Some(error) = sockets::failure(fd) {
            return self.lose(slot, &reason(&error));
        }
        self.connections[slot as usize].step = Step::Upgrading;
        let target = &self.plan.target;
        for part in [
            "GET ",
            &target.path,
            " HTTP/1.1\r\nHost: ",
            &target.host,
            "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ] {
            self.out.extend_from_slice(part.as_bytes());
        }
        self.flush(slot);
    }

    /// Sends what waits for the connection and what has just been written for it.
    pub(super) fn flush(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.step == Step::Closed {
            return self.out.clear();
        }
        if let Some(buffers) = self
            .buffers
            .existing(connection)
            .filter(|buffers| !buffers.outbound.is_empty())
        {
            buffers.outbound.append(&mut self.out);
            std::mem::swap(&mut buffers.outbound, &mut self.out);
        }
        if self.out.is_empty() {
            return;
        }
        let mut sent = 0;
        let failure = loop {
            match sockets::send(connection.fd, &self.out[sent..]) {
                Ok(Some(count)) => sent += count,
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
            if sent == self.out.len() {
                break None;
            }
        };
        self.tally.bytes_sent += sent as u64;
        if let Some(error) = failure {
            return self.lose(slot, &reason(&error));
        }
        if sent < self.out.len() {
            self.tally.blocked += 1;
            self.buffers
                .of(connection)
                .outbound
                .extend_from_slice(&self.out[sent..]);
        } else {
            self.buffers.tidy(connection, false);
        }
        self.out.clear();
    }

    fn receive(&mut self, slot: u32, ending: bool) {
        let mut buffer = std::mem::take(&mut self.read);
        loop {
            let connection = &mut self.connections[slot as usize];
            let fd = connection.fd;
            let kept = self
                .buffers
                .existing(connection)
                .map(|buffers| std::mem::take(&mut buffers.inbound));
            let kept = kept.unwrap_or_default();
            if buffer.len() < kept.len() + READ_BYTES {
                buffer.resize(kept.len() + READ_BYTES, 0);
            }
            buffer[..kept.len()].copy_from_slice(&kept);
            let received = sockets::receive(fd, &mut buffer[kept.len()..]);
            let count = match received {
                Ok(Some(0)) => {
                    self.lose(slot, "ended by the server");
                    break;
                }
                Ok(count) => count.unwrap_or(0),
                Err(error) => {
                    self.lose(slot, &reason(&error));
                    break;
                }
            };
            self.tally.bytes_received += count as u64;
            let room = buffer.len() - kept.len();
            let filled = kept.len() + count;
            let used = self.understand(slot, &mut buffer[..filled]);
            self.flush(slot);
            let connection = &mut self.connections[slot as usize];
            if connection.step == Step::Closed {
                break;
            }
            if used < filled {
                self.buffers.of(connection).inbound = buffer[used..filled].to_vec();
            } else {
                self.buffers.tidy(connection, false);
            }
            // A read that did not fill the buffer has emptied the socket, unless the end is still to come.
            if count < room && !(ending && count > 0) {
                break;
            }
        }
        if buffer.len() > READ_BYTES_KEPT {
            buffer = Vec::new();
        }
        self.read = buffer;
    }

    /// Handles all complete frames of `bytes`; gives how many bytes they were.
    fn understand(&mut self, slot: u32, bytes: &mut [u8]) -> usize {
        let mut used = 0;
        if self.connections[slot as usize].step == Step::Upgrading {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                return 0;
            };
            used = end + 4;
            if !bytes.starts_with(b"HTTP/1.1 101") {
                let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
                let answer = format!("answered {}", String::from_utf8_lossy(line));
                self.lose(slot, &answer);
                return used;
            }
            self.upgraded(slot);
        }
        while let Some(received) = frame::parse(bytes, used) {
            let frame_bytes = received.payload.end - used;
            used = received.payload.end;
            let payload = &bytes[received.payload];
            match received.opcode {
                1 | 2 => self.message(slot, payload, frame_bytes),
                8 => {
                    let reason = close_reason(payload);
                    self.lose(slot, &reason);
                }
                9 => {
                    self.tally.pings_answered += 1;
                    self.speaker.pong_frame(&mut self.out, payload);
                }
                _ => {}
            }
            if self.connections[slot as usize].step == Step::Closed {
                break;
            }
        }
        used
    }

    /// The token of a connection, if it has one.
    pub(super) fn token(&self, slot: u32) -> Option<String> {
        match &self.plan.credentials {
            Credentials::None => None,
            Credentials::Token(token) => Some(token.clone()),
            Credentials::Secret(_) => {
                let mint = self.mint.as_ref()?;
                mint.token(self.identity(slot), self.speaker.unix_ms).ok()
            }
        }
    }

    /// Everything asked for was answered.
    pub(super) fn ready(&mut self, slot: u32) {
        self.opening.under_way -= 1;
        self.tally.ready += 1;
        self.tally.established += 1;
        let connection = &mut self.connections[slot as usize];
        connection.step = Step::Ready;
        let opened_ns = self.started_ns + u64::from(connection.opened_at) * 100_000;
        self.tally.established_ns = sockets::monotonic_ns();
        let elapsed = self.tally.established_ns.saturating_sub(opened_ns);
        self.latencies.record("connect", elapsed);
        self.top_up(slot);
    }

    /// The counts as they are now.
    pub fn tally(&mut self) -> Tally {
        self.tally.at_ns = sockets::monotonic_ns();
        self.tally.cpu_ns = sockets::process_cpu_ns();
        self.tally.waited_ns = waited_ns().unwrap_or(0);
        self.tally.opening = self.opening.under_way;
        self.tally.clone()
    }

    /// Counts and latencies.
    pub fn counted(&mut self) -> Counted {
        let latencies = self.latencies.0.iter();
        Counted {
            latencies: latencies
                .map(|(name, histogram)| ((*name).to_owned(), RecordedLatency::from_histogram(histogram)))
                .collect(),
            tally: self.tally(),
        }
    }

    /// Forgets latencies.
    pub fn forget(&mut self) {
        self.latencies = Latencies::default();
    }

    /// How much every writer wrote.
    pub fn last(&self) -> Vec<Written> {
        let mut all = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            let Some(acting) = &group.acting else { continue };
            for (place, writer) in acting
                .writers
                .iter()
                .enumerate()
                .filter(|(_, writer)| writer.sequence > 0)
            {
                let slot = group.from + place as u32;
                all.push(Written {
                    prefix: self.plan.groups[index].prefix.clone(),
                    document: self.document(slot),
                    writer: self.writer_number(slot),
                    last: writer.sequence,
                });
            }
        }
        all
    }

    /// Compares what arrived at the connections that still stand with what was written.
    pub fn audit(&self, written: &[Written]) -> Audit {
        let mut by_document: BTreeMap<(&str, u32), Vec<&Written>> = BTreeMap::new();
        for one in written {
            by_document.entry((&one.prefix, one.document)).or_default().push(one);
        }
        let mut audit = Audit::default();
        for (index, group) in self.groups.iter().enumerate() {
            let Some(followed) = &group.followed else { continue };
            let prefix = self.plan.groups[index].prefix.as_str();
            for place in 0..self.plan.groups[index].count {
                let slot = group.from + place;
                if self.connections[slot as usize].step != Step::Ready {
                    continue;
                }
                let own = group.acting.is_some().then(|| self.writer_number(slot));
                for one in by_document.get(&(prefix, self.document(slot))).into_iter().flatten() {
                    if self.plan.abilities.echo || own != Some(one.writer) {
                        followed.audit(place, one, &mut audit);
                    }
                }
                audit.arrived += followed.arrived(place);
            }
            let (duplicated, out_of_order) = followed.disorder();
            audit.duplicated += duplicated;
            audit.out_of_order += out_of_order;
        }
        audit.coalesced = audit.expected.saturating_sub(audit.arrived + audit.lost);
        audit
    }
}

/// Time this process was ready to run and had to wait for a core (`/proc/self/schedstat`, second number).
fn waited_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "no descriptor left in this worker: raise ulimit -n or --workers".to_owned(),
        Some(libc::EADDRNOTAVAIL) => "no port or address left: add --source-address".to_owned(),
        Some(libc::ECONNREFUSED) => "connection refused".to_owned(),
        Some(libc::ECONNRESET) => "connection reset".to_owned(),
        Some(libc::EPIPE) => "broken pipe".to_owned(),
        _ => error.to_string(),
    }
}

fn close_reason(payload: &[u8]) -> String {
    match payload.split_first_chunk::<2>() {
        Some((code, text)) => {
            let code = u16::from_be_bytes(*code);
            format!("closed {code} {}", String::from_utf8_lossy(text))
                .trim_end()
                .to_owned()
        }
        None => "closed without a code".to_owned(),
    }
}

/// The kind of a server message and its JSON, or nothing that a server of the family says.
pub(super) fn read_message(payload: &[u8]) -> Option<(synckit_server::protocol::Kind, &[u8])> {
    dialect::read(payload)
}
