//! The direct layer where real shards cannot be made to do it on demand.

use super::*;
use crate::ids::Slot;
use crate::runtime::mesh::Mesh;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

fn shard(number: u16, mesh: &Arc<Mesh<(), ()>>) -> (Direct, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mesh = Arc::clone(mesh) as Arc<dyn ReceivingRings>;
    (
        Direct::new(ShardId(number), listener.into(), true, mesh, 64).unwrap(),
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
