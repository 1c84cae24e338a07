//! What the runtime costs without a protocol: echo over both socket layers, and memory per idle connection.
//!
//! `cargo run --release --example runtime_echo`. One shard on the first processor, one client thread on the last; figures
//! of a shared machine vary, so compare the layers with each other.

#[path = "../tests/runtime_support/mod.rs"]
mod runtime_support;

use runtime_support::{Echo, Seen};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use synckit_server::clock::Now;
use synckit_server::handler::{Effect, End, Flow, Handler, Outgoing};
use synckit_server::ids::{ShardId, Slot};
use synckit_server::runtime::{self, RuntimeConfig, SocketLayer};

const MESSAGE_BYTES: usize = 128;
const LAYERS: [SocketLayer; 2] = [SocketLayer::OrdinaryDescriptors, SocketLayer::DirectDescriptors];

fn main() {
    pin_to_last_processor();
    for sockets in LAYERS {
        let seen = Arc::new(Seen::default());
        let running = runtime::start(config(sockets), move |shard| Echo::new(shard, 1, Arc::clone(&seen))).unwrap();
        let address = running.local_addr();
        println!("{sockets:?}");
        latency(address);
        for (connections, depth) in [(4, 1), (64, 1), (64, 16)] {
            throughput(address, connections, depth);
        }
        running.shut_down();
        running.join().unwrap();
    }
    for sockets in LAYERS {
        memory(sockets);
    }
}

fn config(sockets: SocketLayer) -> RuntimeConfig {
    RuntimeConfig {
        shards: 1,
        listen: "127.0.0.1:0".parse().unwrap(),
        sockets,
        ring_sockets_max: 0,
        drain_us_max: 9_000_000,
    }
}

fn pin_to_last_processor() {
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `last` is far below CPU_SETSIZE.
    unsafe { libc::CPU_SET(last, &mut set) };
    // SAFETY: size and pointer describe `set`. Only this thread is pinned; shards pin themselves.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
}

fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"E").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

fn latency(address: SocketAddr) {
    let mut stream = connect(address);
    let mut buffer = [7; MESSAGE_BYTES];
    for (name, pause) in [
        ("back to back", Duration::ZERO),
        ("one per 2 ms", Duration::from_millis(2)),
    ] {
        let rounds = if pause.is_zero() { 20_000 } else { 500 };
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..rounds {
            std::thread::sleep(pause);
            let start = Instant::now();
            stream.write_all(&buffer).unwrap();
            stream.read_exact(&mut buffer).unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        println!(
            "  round trip, {name}: p50 {:?}, p99 {:?}, p99.9 {:?}",
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
}

fn throughput(address: SocketAddr, connections: usize, depth: usize) {
    let mut streams: Vec<TcpStream> = (0..connections).map(|_| connect(address)).collect();
    let mut buffer = vec![7; MESSAGE_BYTES * depth];
    let mut best = 0.0f64;
    for _ in 0..5 {
        let start = Instant::now();
        let mut messages = 0;
        while start.elapsed() < Duration::from_millis(600) {
            for stream in &mut streams {
                stream.write_all(&buffer).unwrap();
            }
            for stream in &mut streams {
                stream.read_exact(&mut buffer).unwrap();
            }
            messages += connections * depth;
        }
        best = best.max(messages as f64 / start.elapsed().as_secs_f64());
    }
    println!("  echo {connections} x {depth} in flight: {best:.0} messages/s (best of 5)");
}

/// Keeps nothing per connection, so that what is measured is the runtime's.
struct Idle {
    slots: u32,
}

impl Handler for Idle {
    type Mail = ();
    type Moved = ();

    fn accepted(&mut self, _now: Now, _peer: IpAddr) -> Option<Slot> {
        self.slots += 1;
        Some(Slot(self.slots - 1))
    }
    fn adopted(&mut self, _now: Now, _session: ()) -> Option<(Slot, Flow)> {
        None
    }
    fn received(&mut self, _now: Now, _slot: Slot, _bytes: &mut [u8]) -> Flow {
        Flow::Continue
    }
    fn ended(&mut self, _now: Now, _slot: Slot, _end: End) {}
    fn take_outgoing(&mut self, _slot: Slot, _bytes_max: usize) -> Outgoing {
        Outgoing::new()
    }
    fn sent(&mut self, _now: Now, _slot: Slot, _bytes: usize, _done: bool) {}
    fn mail(&mut self, _now: Now, _from: ShardId, _mail: ()) {}
    fn turn(&mut self, _now: Now, _effects: &mut Vec<Effect<(), ()>>) {}
    fn deadline_us(&self) -> Option<u64> {
        None
    }
    fn shut_down(&mut self, _now: Now) {}
    fn is_drained(&self) -> bool {
        true
    }
}

fn memory(sockets: SocketLayer) {
    const WARM: usize = 1024;
    // Client and server share one descriptor limit; only direct descriptors stay out of it.
    let count = if sockets == SocketLayer::DirectDescriptors {
        17 * 1024
    } else {
        8 * 1024
    };
    let running = runtime::start(config(sockets), |_| Idle { slots: 0 }).unwrap();
    let mut streams = Vec::with_capacity(WARM + count);
    let open = |streams: &mut Vec<TcpStream>, count| {
        for index in 0..count {
            if index % 500 == 499 {
                std::thread::sleep(Duration::from_millis(5));
            }
            streams.push(TcpStream::connect(running.local_addr()).unwrap());
        }
        std::thread::sleep(Duration::from_millis(300));
        resident_bytes()
    };
    let before = open(&mut streams, WARM);
    let after = open(&mut streams, count);
    let each = (after.saturating_sub(before)) as f64 / count as f64;
    println!("{sockets:?}: {each:.1} bytes of RSS per idle connection ({count} connections)");
    running.shut_down();
    running.join().unwrap();
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = status.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}
