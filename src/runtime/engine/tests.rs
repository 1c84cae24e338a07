//! The engine over a scripted socket layer: what sockets cannot be made to do on demand.

use super::*;
use crate::runtime::sockets::Nap;
use bytes::Bytes;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// Reports what it is told to and records what it is asked.
#[derive(Default)]
struct Scripted {
    events: Vec<Event>,
    receives: VecDeque<(Received, &'static [u8])>,
    sends: VecDeque<io::Result<usize>>,
    sent: Vec<u8>,
    watched: Vec<Key>,
    closed: Vec<Handle>,
    departed: Vec<u32>,
}

impl Sockets for Scripted {
    fn harvest(&mut self, _now_us: u64, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }
    fn watch(&mut self, _handle: Handle, key: Key) -> io::Result<()> {
        self.watched.push(key);
        Ok(())
    }
    fn close(&mut self, handle: Handle, _key: Option<Key>) {
        self.closed.push(handle);
    }
    fn receive(&mut self, handles: &[Handle], scratch: &mut [u8], outcomes: &mut Vec<Received>) {
        for chunk in scratch.chunks_mut(CHUNK_BYTES).take(handles.len()) {
            let (outcome, bytes) = self.receives.pop_front().expect("an unexpected read");
            chunk[..bytes.len()].copy_from_slice(bytes);
            outcomes.push(outcome);
        }
    }
    fn send(&mut self, batch: &mut [Sending]) {
        for sending in batch {
            sending.result = self.sends.pop_front().expect("an unexpected send");
            let taken = *sending.result.as_ref().unwrap_or(&0);
            self.sent.extend(sending.pieces.concat().iter().take(taken));
        }
    }
    fn depart(&mut self, _handle: Handle, _key: Key, _to: ShardId, ticket: u32) {
        self.departed.push(ticket);
    }
    fn arrive(&mut self, transit: Transit) -> Handle {
        match transit {
            Transit::Installed(handle) => handle,
            Transit::Descriptor(_) => unreachable!("scripts use installed sockets"),
        }
    }
    fn stop_listening(&mut self) {}
    fn nap(&mut self, _wait_us: u64) -> Nap {
        Nap::Impossible
    }
    fn before_sleep(&mut self) {}
    fn after_sleep(&mut self) {}
    fn pending(&mut self) -> bool {
        false
    }
    fn retry_at_us(&self) -> Option<u64> {
        None
    }
    fn wake_source(&self) -> BorrowedFd<'_> {
        unreachable!("the engine never sleeps")
    }
    fn wake_in(&mut self, _delay_us: u64) {}
    fn in_transit(&self) -> usize {
        0
    }
    fn finish(&mut self) {}
    fn accept_backoffs(&self) -> u64 {
        0
    }
}

/// Gives out slot 0 only, and writes down what it is told.
#[derive(Default)]
struct Recorder {
    log: Vec<String>,
    outgoing: VecDeque<&'static [u8]>,
    pause: bool,
}

impl Handler for Recorder {
    type Mail = u32;
    type Moved = &'static str;

    fn accepted(&mut self, _now: Now, _peer: IpAddr) -> Option<Slot> {
        self.log.push("accepted".into());
        Some(Slot(0))
    }
    fn adopted(&mut self, _now: Now, session: &'static str) -> Option<(Slot, Flow)> {
        self.log.push(format!("adopted {session}"));
        Some((Slot(0), Flow::Continue))
    }
    fn received(&mut self, _now: Now, _slot: Slot, bytes: &mut [u8]) -> Flow {
        self.log.push(format!("received {}", String::from_utf8_lossy(bytes)));
        if self.pause { Flow::Pause } else { Flow::Continue }
    }
    fn ended(&mut self, _now: Now, _slot: Slot, end: End) {
        self.log.push(format!("ended {end:?}"));
    }
    fn take_outgoing(&mut self, _slot: Slot, _bytes_max: usize) -> Outgoing {
        self.outgoing.pop_front().map(Bytes::from_static).into_iter().collect()
    }
    fn sent(&mut self, _now: Now, _slot: Slot, bytes: usize, done: bool) {
        self.log.push(format!("sent {bytes} {done}"));
    }
    fn mail(&mut self, _now: Now, from: ShardId, mail: u32) {
        self.log.push(format!("mail {mail} from {}", from.0));
    }
    fn turn(&mut self, _now: Now, _effects: &mut Vec<Effect<u32, &'static str>>) {}
    fn deadline_us(&self) -> Option<u64> {
        None
    }
    fn shut_down(&mut self, _now: Now) {}
    fn is_drained(&self) -> bool {
        true
    }
}

struct Bench {
    engine: Engine<Recorder, Scripted>,
    handler: Recorder,
    mesh: Mesh<u32, &'static str>,
    stats: ShardStats,
}

const NOW: Now = Now { mono_us: 1, unix_ms: 1 };
const READABLE_NOW: Readiness = Readiness {
    readable: true,
    writable: false,
    hangup: false,
};
const WRITABLE_NOW: Readiness = Readiness {
    readable: false,
    writable: true,
    hangup: false,
};

impl Bench {
    fn new() -> Self {
        let engine = Engine::new(ShardId(0), 2, Scripted::default());
        Self {
            engine,
            handler: Recorder::default(),
            mesh: Mesh::new(2).unwrap(),
            stats: ShardStats::default(),
        }
    }

    /// A connection in slot 0; returns its key.
    fn connected(file: u32) -> (Self, Key) {
        let mut bench = Self::new();
        bench.accept(file);
        let key = bench.engine.sockets.watched[0];
        (bench, key)
    }

    fn accept(&mut self, file: u32) {
        let peer = IpAddr::from([127, 0, 0, 1]);
        self.report(Event::Accepted {
            handle: Handle::direct(0, file),
            peer,
        });
    }

    fn ready(&mut self, key: Key, readiness: Readiness) {
        self.report(Event::Ready {
            key,
            readiness,
            watched: true,
        });
    }

    fn report(&mut self, event: Event) {
        self.engine.sockets.events.push(event);
        self.engine.harvest(&mut self.handler, NOW, &self.stats);
    }

    fn effects(&mut self, effects: Vec<Effect<u32, &'static str>>) {
        self.engine.carry_out(&mut self.handler, &mut { effects }, &self.stats);
    }

    fn read(&mut self) {
        while self.engine.read_all(&mut self.handler, NOW, &self.stats) {}
    }

    fn write(&mut self) {
        while self.engine.write_all(&mut self.handler, NOW, &self.stats) {}
    }

    fn log(&mut self) -> Vec<String> {
        mem::take(&mut self.handler.log)
    }

    fn posted_to(&mut self, shard: u16) -> Vec<String> {
        self.engine.post_all(&self.mesh);
        let mut letters = VecDeque::new();
        self.mesh.collect(ShardId(shard), &mut letters);
        let name = |letter: Letter<u32, &'static str>| match letter {
            Letter::Mail { mail, .. } => mail.to_string(),
            Letter::Parcel(parcel) => format!("{} {:?}", parcel.session, parcel.unsent.concat()),
        };
        letters.into_iter().map(name).collect()
    }
}

#[test]
fn events_of_a_former_socket_do_not_reach_the_next_one_in_its_slot() {
    let (mut bench, former) = Bench::connected(7);
    // It was reported readable, queued for reading, and closed before that.
    bench.ready(former, READABLE_NOW);
    bench.effects(vec![Effect::Write(Slot(0)), Effect::Close(Slot(0))]);
    bench.accept(8);
    bench.log();
    bench.handler.outgoing.push_back(b"not for the former");
    bench.ready(
        former,
        Readiness {
            readable: true,
            writable: true,
            hangup: true,
        },
    );
    bench.read();
    bench.write();
    assert!(bench.log().is_empty());
    assert_eq!(bench.engine.sockets.closed, [Handle::direct(0, 7)]);
    assert_ne!(bench.engine.sockets.watched[1], former);
}

#[test]
fn a_watch_that_the_kernel_ended_is_made_again_unless_the_socket_is_gone() {
    let (mut bench, key) = Bench::connected(7);
    let lapsed = |key| Event::Ready {
        key,
        readiness: Readiness::default(),
        watched: false,
    };
    bench.report(lapsed(key));
    assert_eq!(bench.engine.sockets.watched, [key, key]);
    bench.effects(vec![Effect::Close(Slot(0))]);
    bench.report(lapsed(key));
    assert_eq!(bench.engine.sockets.watched.len(), 2);
}

#[test]
fn what_arrives_while_paused_is_read_after_resuming() {
    let (mut bench, key) = Bench::connected(7);
    bench.log();
    bench.handler.pause = true;
    bench
        .engine
        .sockets
        .receives
        .push_back((Received::Bytes { len: 1, more: true }, b"a"));
    bench.ready(key, READABLE_NOW);
    bench.read();
    bench.ready(key, READABLE_NOW);
    bench.read();
    assert_eq!(bench.log(), ["received a"]);
    bench
        .engine
        .sockets
        .receives
        .push_back((Received::Bytes { len: 1, more: false }, b"b"));
    bench.effects(vec![Effect::Resume(Slot(0))]);
    bench.read();
    assert_eq!(bench.log(), ["received b"]);
}

#[test]
fn a_hangup_is_read_to_the_end_although_nothing_announces_it_again() {
    let (mut bench, key) = Bench::connected(7);
    bench.log();
    let script = [
        (Received::Bytes { len: 2, more: false }, &b"xy"[..]),
        (Received::Eof, b""),
    ];
    bench.engine.sockets.receives.extend(script);
    bench.ready(
        key,
        Readiness {
            readable: true,
            writable: true,
            hangup: true,
        },
    );
    bench.read();
    assert_eq!(bench.log(), ["received xy", "ended Eof"]);
    assert_eq!(bench.engine.sockets.closed.len(), 1);
}

#[test]
fn a_send_taken_in_parts_keeps_order_and_is_reported_as_it_goes() {
    let (mut bench, key) = Bench::connected(7);
    bench.log();
    bench.handler.outgoing.extend([&b"hello"[..], b"world"]);
    bench
        .engine
        .sockets
        .sends
        .extend([Ok(2), Err(io::Error::from(io::ErrorKind::WouldBlock))]);
    bench.effects(vec![Effect::Write(Slot(0))]);
    bench.write();
    // Blocked: another wish to write does nothing until the socket is writable.
    bench.effects(vec![Effect::Write(Slot(0))]);
    bench.write();
    bench.engine.sockets.sends.extend([Ok(3), Ok(5)]);
    bench.ready(key, WRITABLE_NOW);
    bench.write();
    assert_eq!(bench.engine.sockets.sent, b"helloworld");
    assert_eq!(bench.log(), ["sent 2 false", "sent 3 true", "sent 5 true"]);
}

#[test]
fn mail_sent_after_a_move_waits_for_the_socket_and_unsent_bytes_go_along() {
    let (mut bench, _) = Bench::connected(7);
    bench.handler.outgoing.push_back(b"abc");
    bench
        .engine
        .sockets
        .sends
        .extend([Ok(1), Err(io::Error::from(io::ErrorKind::WouldBlock))]);
    bench.effects(vec![Effect::Write(Slot(0))]);
    bench.write();
    let to = ShardId(1);
    let mail = |mail| Effect::Mail { to, mail };
    bench.effects(vec![
        mail(1),
        Effect::Move {
            slot: Slot(0),
            to,
            session: "session",
        },
        mail(2),
    ]);
    assert_eq!(bench.posted_to(1), ["1"]);
    assert_eq!(bench.engine.departing(), 1);
    let transit = Some(Transit::Installed(Handle::direct(0, 3)));
    bench.report(Event::Departed {
        ticket: bench.engine.sockets.departed[0],
        transit,
    });
    assert_eq!(bench.posted_to(1), ["session [98, 99]", "2"]);
    assert_eq!(bench.engine.departing(), 0);
}

#[test]
fn an_adopted_socket_sends_what_it_inherited_first_and_silently() {
    let mut bench = Bench::new();
    let transit = Some(Transit::Installed(Handle::direct(0, 3)));
    let unsent = [Bytes::from_static(b"old")].into_iter().collect();
    let parcel = Letter::Parcel(Box::new(Parcel {
        transit,
        session: "session",
        unsent,
    }));
    bench.mesh.post(ShardId(0), std::iter::once(parcel));
    bench
        .engine
        .read_mail(&bench.mesh, &mut bench.handler, NOW, &bench.stats);
    bench.handler.outgoing.push_back(b"new");
    bench.engine.sockets.sends.extend([Ok(3), Ok(3)]);
    bench.write();
    assert_eq!(bench.engine.sockets.sent, b"oldnew");
    assert_eq!(bench.log(), ["adopted session", "sent 3 true"]);
}

#[test]
fn a_session_whose_socket_was_lost_on_the_way_is_ended() {
    let mut bench = Bench::new();
    let parcel = Letter::Parcel(Box::new(Parcel {
        transit: None,
        session: "session",
        unsent: Outgoing::new(),
    }));
    bench.mesh.post(ShardId(0), std::iter::once(parcel));
    bench
        .engine
        .read_mail(&bench.mesh, &mut bench.handler, NOW, &bench.stats);
    assert_eq!(bench.log(), ["adopted session", "ended Error"]);
}
