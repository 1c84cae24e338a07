//! Well-behaved clients beside an attack: how long they wait meanwhile, and what the server's memory does.

use super::{Client, Dialect, Server, percentile};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bound on the median wait, which even a busy machine keeps. `HOSTILE_P99_MS=20` checks the promise itself, on a quiet one.
const MEDIAN_MS_MAX: f64 = 200.0;
/// Pause between two changes.
const PACE: Duration = Duration::from_millis(4);
/// What is under way, connections that end for instance, may take so long to be over.
const SETTLING: Duration = Duration::from_secs(10);

/// A writer and a reader of one document, and the server's memory from before.
pub struct Watch {
    stop: Arc<AtomicBool>,
    running: JoinHandle<Vec<f64>>,
    rss_kib: u64,
}

impl Watch {
    /// Starts to watch. Other threads may attack meanwhile.
    pub fn over(server: &Server) -> Watch {
        Self::between(
            Client::connect(server, Dialect::Json),
            Client::connect(server, Dialect::Binary),
            server,
        )
    }

    /// The same with clients that have authenticated, or come from somewhere else.
    pub fn between(mut writer: Client, mut reader: Client, server: &Server) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        reader.subscribe("calm");
        writer.write_acked("calm", json!({"n": -1}));
        reader.take_field("calm", "n");
        let rss_kib = server.rss_kib();
        let stopped = stop.clone();
        let running = std::thread::spawn(move || {
            let (mut waits, mut number) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                writer.write("calm", json!({ "n": number }));
                while reader.take_field("calm", "n")["value"] != number {}
                waits.push(began.elapsed().as_secs_f64() * 1000.0);
                number += 1;
                writer.take("ack");
                while writer.next_within(Duration::from_micros(1)).is_some() {}
                std::thread::sleep(PACE);
            }
            waits
        });
        Watch { stop, running, rss_kib }
    }

    /// Memory above that before the attack.
    pub fn grown_kib(&self, server: &Server) -> u64 {
        server.rss_kib().saturating_sub(self.rss_kib)
    }

    /// The attack is over: prints what was seen, and checks that the server does not go on holding more than `kib_max`
    /// above what it held before, and that nobody had to wait.
    pub fn finish(self, server: &mut Server, attack: &str, kib_max: u64) {
        let at_once = self.grown_kib(server);
        let deadline = Instant::now() + SETTLING;
        let mut held = at_once;
        while held > kib_max && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            held = self.grown_kib(server);
        }
        self.stop.store(true, Ordering::Relaxed);
        let mut waits = self.running.join().expect("the well-behaved clients were served");
        let (median, p99) = (percentile(&mut waits, 50.0), percentile(&mut waits, 99.0));
        println!(
            "{attack}: memory +{at_once} KiB, then +{held}; {} changes of others: median {median:.2} ms, p99 {p99:.2} ms, max {:.2} ms",
            waits.len(),
            waits.last().expect("some")
        );
        assert!(
            held <= kib_max,
            "{attack}: the server holds {held} KiB more, allowed are {kib_max}"
        );
        assert!(median <= MEDIAN_MS_MAX, "{attack} delays others by {median:.1} ms");
        if let Some(bound) = std::env::var("HOSTILE_P99_MS")
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
        {
            assert!(
                p99 <= bound,
                "{attack}: p99 of others is {p99:.1} ms, allowed are {bound} ms"
            );
        }
        server.assert_alive();
    }
}
