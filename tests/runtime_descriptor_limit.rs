//! Running out of descriptors neither spins nor breaks the server: with ordinary descriptors accepting rests and goes on
//! once some are free; direct descriptors do not count against the limit. Alone in its file, because it lowers the limit
//! of the whole process.

mod runtime_support;

use runtime_support::{Echo, Seen};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;
use synckit_server::runtime::{self, RuntimeConfig, SocketLayer};

const LIMIT: u64 = 250;

#[test]
fn accepting_rests_without_descriptors_and_goes_on_when_some_are_free() {
    let limit = libc::rlimit {
        rlim_cur: LIMIT,
        rlim_max: LIMIT,
    };
    // SAFETY: `limit` lives across the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    for sockets in [SocketLayer::OrdinaryDescriptors, SocketLayer::DirectDescriptors] {
        let seen = Arc::new(Seen::default());
        let config = RuntimeConfig {
            shards: 1,
            listen: "127.0.0.1:0".parse().unwrap(),
            sockets,
            ring_sockets_max: 0,
            drain_us_max: 9_000_000,
        };
        let running = runtime::start(config, move |shard| Echo::new(shard, 1, Arc::clone(&seen))).unwrap();
        let mut streams = Vec::new();
        while let Ok(stream) = TcpStream::connect(running.local_addr()) {
            streams.push(stream);
            // Clients and server take turns in using the limit up.
            thread::sleep(Duration::from_micros(200));
        }
        let backoffs = || running.stats()[0].accept_backoffs.load(Relaxed);
        thread::sleep(Duration::from_millis(500));
        if sockets == SocketLayer::OrdinaryDescriptors {
            assert!(
                (1..=20).contains(&backoffs()),
                "{} back-offs in half a second",
                backoffs()
            );
        } else {
            assert_eq!(backoffs(), 0);
        }
        streams.drain(..streams.len() / 2);
        for stream in &mut streams {
            stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            stream.write_all(b"E").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        drop(streams);
        running.shut_down();
        running.join().unwrap();
    }
}
