//! The direct layer where real shards cannot be made to do it on demand.

use super::*;
use crate::ids::Slot;
use crate::runtime::mesh::Mesh;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Places in a shard's table.
const FILES: u32 = 512;

fn shard(number: u16, mesh: &Arc<Mesh<(), ()>>) -> (Direct, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mesh = Arc::clone(mesh) as Arc<dyn ReceivingRings>;
    (
        Direct::new(ShardId(number), listener.into(), true, mesh, FILES).unwrap(),
        address,
    )
}

/// Harvests as at `now_us` until an event comes, at most for `patience`.
fn event(direct: &mut Direct, now_us: u64, patience: Duration) -> Option<Event> {
    let deadline = Instant::now() + patience;
    let mut events = Vec::new();
    while events.is_empty() && Instant::now() < deadline {
        direct.harvest(now_us, &mut events);
        std::thread::sleep(Duration::from_millis(1));
    }
    events.pop()
}

#[test]
fn a_socket_waits_for_a_shard_that_is_still_starting() {
    if let Err(reason) = check() {
        eprintln!("direct descriptors do not work here: {reason}");
        return;
    }
    let mesh = Arc::new(Mesh::new(2).unwrap());
    let (mut first, address) = shard(0, &mesh);
    let _client = TcpStream::connect(address).unwrap();
    let mut now_us = 1;
    let Some(Event::Accepted { handle, .. }) = event(&mut first, now_us, Duration::from_secs(10)) else {
        panic!("the connection is accepted");
    };
    let key = Key {
        slot: Slot(0),
        generation: 0,
    };
    first.depart(handle, key, ShardId(1), 0);
    for _ in 0..5 {
        now_us += MOVE_US_MAX;
        let early = event(&mut first, now_us, Duration::from_millis(5));
        assert!(early.is_none(), "gave up although the shard was only starting");
        assert!(
            first.retry_at_us().is_some_and(|at| at > now_us),
            "it is tried again, at a pace"
        );
    }
    let (_second, _) = shard(1, &mesh);
    match event(&mut first, now_us + MOVE_US_MAX, Duration::from_secs(10)) {
        Some(Event::Departed {
            ticket: 0,
            transit: Some(Transit::Installed(_)),
        }) => {}
        _ => panic!("the socket leaves as soon as the shard takes it"),
    }
}

#[test]
fn when_many_leave_at_once_they_are_closed_so_many_per_turn() {
    const CLIENTS: usize = 3 * CLOSES_PER_TURN_MAX;
    if let Err(reason) = check() {
        eprintln!("direct descriptors do not work here: {reason}");
        return;
    }
    let mesh = Arc::new(Mesh::new(1).unwrap());
    let (mut direct, address) = shard(0, &mesh);
    let mut clients = Vec::new();
    let mut sockets = Vec::new();
    for number in 0..CLIENTS {
        let client = TcpStream::connect(address).unwrap();
        client.set_nonblocking(true).unwrap();
        clients.push(client);
        let Some(Event::Accepted { handle, .. }) = event(&mut direct, 1, Duration::from_secs(10)) else {
            panic!("connection {number} is accepted");
        };
        let key = Key {
            slot: Slot(number as u32),
            generation: 0,
        };
        direct.watch(handle, key).unwrap();
        sockets.push((handle, key));
    }
    for (handle, key) in sockets {
        direct.close(handle, Some(key));
    }
    let mut closed = 0;
    for turn in 1..=CLIENTS / CLOSES_PER_TURN_MAX {
        assert!(direct.pending(), "the shard must not sleep over them");
        assert_eq!(direct.in_transit(), CLIENTS - closed);
        direct.harvest(1, &mut Vec::new());
        // A close takes effect in the turn that follows it; the one in between closes nothing more.
        let rest = direct.closing.drain(..).collect::<Vec<_>>();
        let deadline = Instant::now() + Duration::from_secs(10);
        while closed < turn * CLOSES_PER_TURN_MAX && Instant::now() < deadline {
            direct.harvest(1, &mut Vec::new());
            clients.retain_mut(|client| !matches!(client.read(&mut [0]), Ok(0)));
            closed = CLIENTS - clients.len();
        }
        assert_eq!(closed, turn * CLOSES_PER_TURN_MAX, "in turn {turn}");
        direct.closing.extend(rest);
    }
    assert_eq!(direct.in_transit(), 0);
}
