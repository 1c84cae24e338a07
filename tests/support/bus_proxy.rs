//! A proxy between a node and its Redis that understands enough RESP to lose, repeat and reorder the messages of
//! subscriptions, and nothing else; and that cuts connections.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to messages, as shares from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// They never arrive.
    pub drop: f64,
    /// They arrive twice.
    pub duplicate: f64,
    /// They arrive after the one behind them.
    pub reorder: f64,
    /// Every read of the node waits this long.
    pub delay: Duration,
}

/// See the module documentation. It ends when the value goes away.
pub struct BusProxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: u16,
    faults: Mutex<Faults>,
    dice: Mutex<StdRng>,
    connections: Mutex<Vec<TcpStream>>,
    dropped: AtomicU64,
    passed: AtomicU64,
    ended: AtomicBool,
}

impl BusProxy {
    /// Listens for one node and passes on to the Redis at `upstream`.
    pub fn start(upstream: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            upstream,
            faults: Mutex::default(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            connections: Mutex::default(),
            dropped: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for node in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(redis) = TcpStream::connect(("127.0.0.1", accepting.upstream)) else {
                    continue;
                };
                accepting.join(node, redis);
            }
        });
        Self { port, shared }
    }

    /// For `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From now on this happens.
    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock().expect("nobody panicked") = faults;
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        let mut connections = self.shared.connections.lock().expect("nobody panicked");
        for connection in connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Messages that did not arrive, and that did.
    pub fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.shared.dropped), count(&self.shared.passed))
    }
}

impl Drop for BusProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn join(self: &Arc<Self>, node: TcpStream, redis: TcpStream) {
        for stream in [&node, &redis] {
            stream.set_nodelay(true).expect("no delay");
            let kept = stream.try_clone().expect("a second handle");
            self.connections.lock().expect("nobody panicked").push(kept);
        }
        let (mut from_node, mut to_redis) = (
            node.try_clone().expect("a handle"),
            redis.try_clone().expect("a handle"),
        );
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_node, &mut to_redis);
            let _ = to_redis.shutdown(Shutdown::Both);
        });
        let shared = self.clone();
        std::thread::spawn(move || {
            shared.pass(redis, &node);
            let _ = node.shutdown(Shutdown::Both);
        });
    }

    fn pass(&self, mut redis: TcpStream, mut node: &TcpStream) {
        let (mut buffer, mut piece, mut held) = (Vec::new(), vec![0; 64 << 10], Vec::new());
        loop {
            let Ok(count @ 1..) = redis.read(&mut piece) else {
                return;
            };
            buffer.extend_from_slice(&piece[..count]);
            let (mut out, mut at) = (Vec::new(), 0);
            while let Some(end) = frame_end(&buffer, at) {
                self.fate(&buffer[at..end], &mut held, &mut out);
                at = end;
            }
            buffer.drain(..at);
            let delay = self.faults.lock().expect("nobody panicked").delay;
            if !delay.is_zero() {
                std::thread::sleep(delay);
            }
            if node.write_all(&out).is_err() {
                return;
            }
        }
    }

    /// What becomes of one reply.
    fn fate(&self, frame: &[u8], held: &mut Vec<u8>, out: &mut Vec<u8>) {
        let faults = *self.faults.lock().expect("nobody panicked");
        if !frame.starts_with(b"*3\r\n$7\r\nmessage\r\n") {
            out.extend_from_slice(frame);
            return;
        }
        let roll: f64 = self.dice.lock().expect("nobody panicked").random();
        if roll < faults.drop {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.passed.fetch_add(1, Ordering::Relaxed);
        let roll = roll - faults.drop;
        if roll < faults.reorder && held.is_empty() {
            held.extend_from_slice(frame);
            return;
        }
        out.extend_from_slice(frame);
        if roll >= faults.reorder && roll - faults.reorder < faults.duplicate {
            out.extend_from_slice(frame);
        }
        out.append(held);
    }
}

/// Where the reply that begins at `at` ends, if it is complete.
fn frame_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let line = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || std::str::from_utf8(&rest[1..line]).ok()?.parse::<i64>().ok();
    let next = at + line + 2;
    match rest[0] {
        b'*' => (0..number()?.max(0)).try_fold(next, |at, _| frame_end(bytes, at)),
        b'$' => match number()? {
            -1 => Some(next),
            length => Some(next + length as usize + 2).filter(|end| *end <= bytes.len()),
        },
        _ => Some(next),
    }
}
