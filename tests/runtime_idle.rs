//! An idle server uses no processor time: five hundred connections at rest, less than 1 % of one core over two seconds,
//! measured over the whole process, for both socket layers. Alone in its file, because other tests would be measured too.

mod runtime_support;

use runtime_support::{Echo, Seen};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use synckit_server::runtime::{self, RuntimeConfig, SocketLayer};

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives across the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn five_hundred_idle_connections_cost_no_processor_time() {
    for sockets in [SocketLayer::OrdinaryDescriptors, SocketLayer::DirectDescriptors] {
        let seen = Arc::new(Seen::default());
        let config = RuntimeConfig {
            shards: 2,
            listen: "127.0.0.1:0".parse().unwrap(),
            sockets,
            ring_sockets_max: 0,
            drain_us_max: 9_000_000,
        };
        let running = runtime::start(config, move |shard| Echo::new(shard, 2, Arc::clone(&seen))).unwrap();
        let connect = |_| {
            let mut stream = TcpStream::connect(running.local_addr()).unwrap();
            stream.write_all(b"E").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream
        };
        let streams: Vec<TcpStream> = (0..500).map(connect).collect();
        thread::sleep(Duration::from_millis(200));
        let before = processor_time();
        thread::sleep(Duration::from_secs(2));
        let used = processor_time() - before;
        println!("{sockets:?}: {used:?} of processor time in 2 s");
        assert!(
            used < Duration::from_millis(20),
            "{sockets:?}: {used:?} of processor time in 2 s"
        );
        drop(streams);
        running.shut_down();
        running.join().unwrap();
    }
}
