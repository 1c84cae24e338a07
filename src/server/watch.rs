//! Watches the shards from outside: signs of life for the service manager's watchdog, and its status line.
//!
//! A shard counts every loop turn with work and every time it goes to sleep, and it sleeps at most half a second. So a
//! shard whose counts stand still between two looks is stuck, and the watchdog is not fed on its behalf.

use super::process::Sampled;
use crate::notify::Notifier;
use crate::runtime::ShardStats;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A shard may sleep for 500 ms without being stuck.
const LOOK_MIN: Duration = Duration::from_millis(750);
/// How often the status line is renewed.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Which shards moved since the last look.
#[derive(Debug, Default)]
pub(super) struct Progress {
    counts: Vec<u64>,
}

impl Progress {
    /// The shards that have not moved since the last call; none at the first.
    pub fn stuck(&mut self, counts: Vec<u64>) -> Vec<usize> {
        let stood_still = |(index, count): (usize, &u64)| (self.counts.get(index) == Some(count)).then_some(index);
        let stuck = counts.iter().enumerate().filter_map(stood_still).collect();
        self.counts = counts;
        stuck
    }
}

/// Starts the thread that watches. It ends with the process, or when `ended` is set.
pub(super) fn start(
    stats: Arc<[ShardStats]>,
    notifier: Arc<Notifier>,
    process: Arc<Sampled>,
    ended: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let watchdog = notifier.watchdog();
    let period = watchdog.map_or(LOOK_MAX, |limit| (limit / 2).clamp(LOOK_MIN, LOOK_MAX));
    if let Some(limit) = watchdog.filter(|limit| *limit < LOOK_MIN * 2) {
        tracing::warn!("WatchdogSec is {limit:?}, too short to tell a stuck shard from an idle one; use 5 s or more");
    }
    let watch = move || {
        let mut progress = Progress::default();
        let mut was_stuck = false;
        while !ended.load(Ordering::Relaxed) {
            let stuck = progress.stuck(stats.iter().map(ShardStats::progress).collect());
            if stuck.is_empty() {
                notifier.alive();
            } else if !was_stuck {
                tracing::error!("shards {stuck:?} have not moved for {period:?}: the watchdog is not fed");
            }
            was_stuck = !stuck.is_empty();
            process.sample();
            let connections: u64 = stats
                .iter()
                .map(|shard| shard.connections.load(Ordering::Relaxed))
                .sum();
            if was_stuck {
                notifier.status(&format!("stuck: shards {stuck:?}; {connections} connections"));
            } else {
                notifier.status(&format!("serving: {connections} connections on {} shards", stats.len()));
            }
            std::thread::sleep(period);
        }
    };
    std::thread::Builder::new().name("watch".into()).spawn(watch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::Progress;

    #[test]
    fn a_shard_is_stuck_when_its_count_stands_still() {
        let mut progress = Progress::default();
        assert!(progress.stuck(vec![7, 7]).is_empty(), "nothing to compare with yet");
        assert!(progress.stuck(vec![8, 9]).is_empty());
        assert_eq!(progress.stuck(vec![9, 9]), [1]);
        assert_eq!(progress.stuck(vec![9, 9]), [0, 1]);
        assert!(progress.stuck(vec![10, 10]).is_empty());
    }
}
