//! Bytes arrive complete, in order and at the right connection, whatever the socket layer and the number of shards:
//! echo of random sizes, slow readers, resets, churn, pauses, sockets that move between shards mid-stream, mail, shutdown.
//! Real sockets on the loopback; every scenario runs for 1, 2 and 5 shards over both layers and ends with nothing left open.

mod runtime_support;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use runtime_support::{Echo, Seen, pattern};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};
use synckit_server::ids::ShardId;
use synckit_server::runtime::{self, Running, RuntimeConfig, SocketLayer, StartError};

const LAYERS: [SocketLayer; 2] = [SocketLayer::OrdinaryDescriptors, SocketLayer::DirectDescriptors];

struct Server {
    running: Running<u64>,
    seen: Arc<Seen>,
    address: SocketAddr,
    name: String,
}

fn server(shards: u16, sockets: SocketLayer) -> Server {
    server_with_rings(shards, sockets, 0)
}

fn server_with_rings(shards: u16, sockets: SocketLayer, ring_sockets_max: u32) -> Server {
    let seen = Arc::new(Seen::default());
    let config = RuntimeConfig {
        shards,
        listen: "127.0.0.1:0".parse().unwrap(),
        sockets,
        ring_sockets_max,
        drain_us_max: 9_000_000,
    };
    let handlers = Arc::clone(&seen);
    let running = runtime::start(config, move |shard| Echo::new(shard, shards, Arc::clone(&handlers))).unwrap();
    assert_eq!(running.sockets(), sockets);
    Server {
        address: running.local_addr(),
        running,
        seen,
        name: format!("{shards} shards, {sockets:?}"),
    }
}

impl Server {
    fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    fn open(&self) -> u64 {
        self.running
            .stats()
            .iter()
            .map(|stats| stats.connections.load(Relaxed))
            .sum()
    }

    /// Waits until no connection is left, then stops the server.
    fn finish(self) {
        let patience = Instant::now() + Duration::from_secs(5);
        while self.open() > 0 {
            assert!(
                Instant::now() < patience,
                "{}: {} connections left",
                self.name,
                self.open()
            );
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            self.seen.foreign_peers.load(Relaxed),
            0,
            "{}: a peer that is not the loopback",
            self.name
        );
        let failed: u64 = self
            .running
            .stats()
            .iter()
            .map(|stats| stats.moves_failed.load(Relaxed))
            .sum();
        assert_eq!(failed, 0, "{}: moves failed", self.name);
        let started = Instant::now();
        self.running.shut_down();
        self.running.join().unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{}: took {:?} to stop",
            self.name,
            started.elapsed()
        );
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Runs a scenario on every layer and number of shards.
fn everywhere(scenario: impl Fn(&Server)) {
    for sockets in LAYERS {
        for shards in [1, 2, 5] {
            let server = server(shards, sockets);
            scenario(&server);
            server.finish();
        }
    }
}

/// Runs `work` on so many client threads.
fn clients(count: usize, work: impl Fn(usize) + Send + Sync) {
    thread::scope(|scope| {
        for index in 0..count {
            let work = &work;
            thread::Builder::new()
                .stack_size(256 * 1024)
                .spawn_scoped(scope, move || work(index))
                .unwrap();
        }
    });
}

fn message(mode: u8, len: usize) -> Vec<u8> {
    let mut bytes = pattern(len.max(1));
    bytes[0] = mode;
    bytes
}

/// Sends `bytes` in random pieces and expects them back.
fn echo(stream: &mut TcpStream, bytes: &[u8], random: &mut StdRng, name: &str) {
    let mut back = stream.try_clone().unwrap();
    thread::scope(|scope| {
        let reader = thread::Builder::new().stack_size(256 * 1024);
        let reader = reader.spawn_scoped(scope, || {
            let mut received = vec![0; bytes.len()];
            let outcome = back.read_exact(&mut received);
            (outcome, received)
        });
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = random.random_range(1..=rest.len().min(100_000));
            stream.write_all(&rest[..len]).unwrap();
            rest = &rest[len..];
        }
        let (outcome, received) = reader.unwrap().join().unwrap();
        outcome.unwrap_or_else(|error| panic!("{name}: {} bytes did not come back: {error}", bytes.len()));
        assert!(received == bytes, "{name}: {} bytes came back changed", bytes.len());
    });
}

fn reset(stream: TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the option value is a complete linger struct that lives across the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            len,
        )
    };
    assert_eq!(result, 0);
    drop(stream);
}

#[test]
fn two_hundred_connections_get_their_own_bytes_back() {
    everywhere(|server| {
        clients(200, |index| {
            let mut random = StdRng::seed_from_u64(index as u64);
            let mut stream = server.connect();
            for _ in 0..3 {
                let exponent = random.random_range(0..=if index % 20 == 0 { 20 } else { 15 });
                let len = random.random_range(1..=1usize << exponent);
                let mut bytes = message(b'E', len);
                for byte in &mut bytes[1..] {
                    *byte = byte.wrapping_add(index as u8);
                }
                echo(&mut stream, &bytes, &mut random, &server.name);
            }
        });
        assert_eq!(server.seen.accepted.load(Relaxed), 200);
        let used = server
            .seen
            .per_shard
            .iter()
            .filter(|count| count.load(Relaxed) > 0)
            .count();
        assert_eq!(
            used,
            server.running.stats().len(),
            "{}: a shard got no connection",
            server.name
        );
    });
}

#[test]
fn a_slow_reader_gets_all_of_a_large_message() {
    everywhere(|server| {
        clients(3, |_| {
            let len = 6 << 20;
            let mut stream = server.connect();
            stream.write_all(b"B").unwrap();
            stream.write_all(&(len as u32).to_be_bytes()).unwrap();
            // Long enough for the kernel's buffers to fill.
            thread::sleep(Duration::from_millis(50));
            let mut received = vec![0; len];
            for chunk in received.chunks_mut(700_000) {
                stream.read_exact(chunk).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
            assert!(received == pattern(len), "{}: the bytes differ", server.name);
        });
    });
}

#[test]
fn resets_end_connections_and_leave_the_others_alone() {
    everywhere(|server| {
        let mut witness = server.connect();
        let mut random = StdRng::seed_from_u64(1);
        clients(40, |index| {
            let mut stream = server.connect();
            match index % 4 {
                0 => {}
                1 => stream.write_all(b"E and never read").unwrap(),
                2 => stream.write_all(b"B\x00\x80\x00\x00").unwrap(),
                _ => {
                    stream.write_all(b"X").unwrap();
                    let mut byte = [0];
                    assert!(
                        matches!(stream.read(&mut byte), Ok(0) | Err(_)),
                        "{}: not closed",
                        server.name
                    );
                }
            }
            if index % 8 < 4 {
                thread::sleep(Duration::from_millis(10));
            }
            reset(stream);
        });
        echo(&mut witness, &message(b'E', 100_000), &mut random, &server.name);
    });
}

#[test]
fn thousands_of_short_connections_come_and_go() {
    everywhere(|server| {
        clients(10, |client| {
            for round in 0..500usize {
                let mut stream = server.connect();
                let text = format!("E{client}-{round}");
                stream.write_all(text.as_bytes()).unwrap();
                let mut back = vec![0; text.len()];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, text.as_bytes(), "{}: a slot's former socket spoke", server.name);
                match round % 3 {
                    0 => reset(stream),
                    1 => stream.shutdown(Shutdown::Write).unwrap(),
                    _ => {}
                }
            }
        });
        assert_eq!(server.seen.accepted.load(Relaxed), 5000);
    });
}

#[test]
fn a_paused_connection_is_not_read_and_loses_nothing() {
    everywhere(|server| {
        clients(10, |index| {
            let mut random = StdRng::seed_from_u64(index as u64);
            echo(
                &mut server.connect(),
                &message(b'P', 150_000),
                &mut random,
                &server.name,
            );
        });
        assert!(
            server.seen.pauses.load(Relaxed) > 20,
            "{}: it never paused",
            server.name
        );
    });
}

#[test]
fn a_socket_moves_between_shards_mid_stream_without_losing_a_byte() {
    everywhere(|server| {
        clients(20, |index| {
            let mut random = StdRng::seed_from_u64(index as u64);
            let mut stream = server.connect();
            echo(&mut stream, &message(b'M', 1_000_000), &mut random, &server.name);
            // Lock step after the flood: a lost wake-up on the last shard would show here.
            for _ in 0..20 {
                echo(&mut stream, &pattern(1000), &mut random, &server.name);
            }
        });
        let moves = server.seen.adopted.load(Relaxed);
        let expected = if server.running.stats().len() > 1 { 20 * 10 } else { 0 };
        assert!(moves >= expected, "{}: only {moves} moves", server.name);
    });
}

#[test]
fn a_slow_reader_may_move_with_bytes_still_unsent() {
    for sockets in LAYERS {
        let server = server(2, sockets);
        clients(4, |_| {
            let mut stream = server.connect();
            let bytes = message(b'M', 3_500_000);
            let mut writer = stream.try_clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&bytes).unwrap());
                thread::sleep(Duration::from_millis(300));
                let mut received = vec![0; bytes.len()];
                stream.read_exact(&mut received).unwrap();
                assert!(received == bytes, "{}: the bytes differ", server.name);
            });
        });
        assert!(server.seen.adopted.load(Relaxed) > 50);
        server.finish();
    }
}

#[test]
fn small_rings_fill_and_more_are_added() {
    for shards in [1, 2] {
        // Half of the places are kept free for a full backlog, so 256 connections fill a ring.
        let server = server_with_rings(shards, SocketLayer::DirectDescriptors, 512);
        for round in 0..2 {
            let connect = |index| {
                if index % 50 == 49 {
                    // A table's size bounds the backlog; let the shards keep up.
                    thread::sleep(Duration::from_millis(1));
                }
                server.connect()
            };
            let mut streams: Vec<TcpStream> = (0..800).map(connect).collect();
            for (index, stream) in streams.iter_mut().enumerate().skip(round).step_by(4) {
                let mut random = StdRng::seed_from_u64(index as u64);
                let mode = if index % 3 == 0 { b'M' } else { b'E' };
                echo(stream, &message(mode, 60_000), &mut random, &server.name);
            }
        }
        assert_eq!(server.seen.accepted.load(Relaxed), 1600);
        server.finish();
    }
}

#[test]
fn mail_arrives_once_and_in_order() {
    everywhere(|server| {
        let shards = server.running.stats().len();
        let mailer = server.running.mailer();
        for number in 0..5000 {
            mailer.send(ShardId(0), number);
            if number % 100 == 0 {
                thread::sleep(Duration::from_micros(300));
            }
        }
        let patience = Instant::now() + Duration::from_secs(5);
        while server.seen.mail.lock().unwrap().len() < 5000 * shards {
            assert!(Instant::now() < patience, "{}: mail is missing", server.name);
            thread::sleep(Duration::from_millis(2));
        }
        let mail = server.seen.mail.lock().unwrap();
        for shard in 0..shards as u16 {
            let numbers: Vec<u64> = mail
                .iter()
                .filter(|letter| letter.0 == shard)
                .map(|letter| letter.2)
                .collect();
            assert!(
                numbers.iter().copied().eq(0..5000),
                "{}: shard {shard} got mail out of order",
                server.name
            );
        }
    });
}

#[test]
fn shutting_down_closes_connections_and_ends_every_shard() {
    for sockets in LAYERS {
        for shards in [1, 2, 5] {
            let server = server(shards, sockets);
            let mut streams: Vec<_> = (0..50).map(|_| server.connect()).collect();
            for stream in &mut streams {
                stream.write_all(b"E").unwrap();
                stream.read_exact(&mut [0]).unwrap();
            }
            let stopper = server.running.stopper();
            let address = server.address;
            let joined = thread::spawn(move || server.running.join());
            let started = Instant::now();
            stopper.shut_down();
            joined.join().unwrap().unwrap();
            assert!(
                started.elapsed() < Duration::from_secs(2),
                "took {:?}",
                started.elapsed()
            );
            for stream in &mut streams {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
            assert_eq!(
                TcpStream::connect(address).unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
        }
    }
}

#[test]
fn both_address_families_are_served_and_the_peer_is_known() {
    for sockets in LAYERS {
        let seen = Arc::new(Seen::default());
        let handlers = Arc::clone(&seen);
        let config = RuntimeConfig {
            shards: 2,
            listen: "[::]:0".parse().unwrap(),
            sockets,
            ring_sockets_max: 0,
            drain_us_max: 9_000_000,
        };
        let running = runtime::start(config, move |shard| Echo::new(shard, 2, Arc::clone(&handlers))).unwrap();
        for host in ["127.0.0.1", "::1"] {
            let mut stream = connect(SocketAddr::new(host.parse().unwrap(), running.local_addr().port()));
            stream.write_all(b"E").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        // An IPv4 peer must not appear as ::ffff:127.0.0.1, which is no loopback address.
        assert_eq!(seen.foreign_peers.load(Relaxed), 0);
        assert_eq!(seen.accepted.load(Relaxed), 2);
        running.shut_down();
        running.join().unwrap();
    }
}

#[test]
fn a_shard_that_panics_takes_the_others_along_and_is_named() {
    for sockets in LAYERS {
        let server = server(2, sockets);
        let mut witness = server.connect();
        server.connect().write_all(b"K").unwrap();
        let started = Instant::now();
        let error = server.running.join().unwrap_err().to_string();
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "took {:?}",
            started.elapsed()
        );
        assert!(
            error.starts_with("shard ") && error.contains("ended abnormally"),
            "{error}"
        );
        assert!(matches!(witness.read(&mut [0]), Ok(0) | Err(_)));
    }
}

fn start_error(listen: SocketAddr) -> StartError {
    let config = RuntimeConfig {
        shards: 2,
        listen,
        sockets: SocketLayer::Auto,
        ring_sockets_max: 0,
        drain_us_max: 9_000_000,
    };
    runtime::start(config, |shard| Echo::new(shard, 2, Arc::default())).unwrap_err()
}

#[test]
fn a_taken_port_is_refused_with_the_remedy_even_when_it_could_be_shared() {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = start_error(plain.local_addr().unwrap());
    assert!(matches!(error, StartError::PortTaken { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&plain.local_addr().unwrap().to_string()) && text.contains("ss -ltnp"),
        "{text}"
    );

    // Another server of ours listens with SO_REUSEPORT, which would let a second one in silently.
    let first = server(2, SocketLayer::OrdinaryDescriptors);
    assert!(matches!(start_error(first.address), StartError::PortTaken { .. }));
    first.finish();
}

#[test]
fn a_port_with_connections_in_time_wait_can_be_taken_again() {
    let first = server(1, SocketLayer::OrdinaryDescriptors);
    let address = first.address;
    let mut stream = connect(address);
    stream.write_all(b"X").unwrap();
    let _ = stream.read(&mut [0]);
    drop(stream);
    first.finish();
    let config = RuntimeConfig {
        shards: 1,
        listen: address,
        sockets: SocketLayer::OrdinaryDescriptors,
        ring_sockets_max: 0,
        drain_us_max: 9_000_000,
    };
    let second = runtime::start(config, |shard| Echo::new(shard, 1, Arc::default())).unwrap();
    second.shut_down();
    second.join().unwrap();
}

#[test]
fn a_foreign_address_is_refused_with_the_remedy() {
    let error = start_error("192.0.2.1:0".parse().unwrap());
    assert!(matches!(error, StartError::AddressNotAvailable { .. }), "{error:?}");
}
