//! CPU time of processes.
//!
//! `/proc/PID/stat` counts in clock ticks (10 ms); the scheduler's own sum in `/proc/PID/task/*/schedstat` is in
//! nanoseconds. The total is taken from the scheduler where it can be, and split by the proportion of the ticks. Threads
//! that end between two readings take their nanoseconds with them, so a total below the ticks is replaced by these.
//!
//! Work the kernel does for the server in interrupts (and on loopback that is most of TCP's receive path) is charged to
//! whichever thread was running, as by every tool that reads these files.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

use super::read;

/// CPU time used by a process up to an instant.
#[derive(Clone, Copy, Debug)]
pub struct CpuReading {
    at: Instant,
    user_us: f64,
    system_us: f64,
    /// The scheduler's count over the threads alive, if the kernel keeps it.
    run_us: Option<f64>,
    tick_us: f64,
}

/// CPU time used between two readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuSpent {
    pub seconds: f64,
    pub total_us: f64,
    pub user_us: f64,
    pub system_us: f64,
}

impl CpuSpent {
    /// Cores kept busy on average.
    pub fn share(&self) -> f64 {
        if self.seconds > 0.0 {
            self.total_us / 1e6 / self.seconds
        } else {
            0.0
        }
    }
}

impl CpuReading {
    /// What was spent since an earlier reading of the same process.
    pub fn since(&self, before: &Self) -> CpuSpent {
        let user_us = (self.user_us - before.user_us).max(0.0);
        let system_us = (self.system_us - before.system_us).max(0.0);
        let ticked_us = user_us + system_us;
        let run_us = self.run_us.zip(before.run_us).map(|(after, before)| after - before);
        // Each of the two tick counts may lag by one tick; more than that below them, and a thread has ended.
        let total_us = run_us
            .filter(|run| *run >= ticked_us - 2.0 * self.tick_us)
            .unwrap_or(ticked_us);
        let scale = if ticked_us > 0.0 { total_us / ticked_us } else { 0.0 };
        CpuSpent {
            seconds: self.at.duration_since(before.at).as_secs_f64(),
            total_us,
            user_us: user_us * scale,
            system_us: system_us * scale,
        }
    }
}

/// Reads the CPU time of a process.
pub fn cpu(pid: u32) -> Result<CpuReading> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let (user, system) = stat_ticks(&stat).with_context(|| format!("/proc/{pid}/stat has no CPU times"))?;
    let tick_us = tick_us();
    Ok(CpuReading {
        at: Instant::now(),
        user_us: user as f64 * tick_us,
        system_us: system as f64 * tick_us,
        run_us: scheduled_ns(pid).map(|ns| ns as f64 / 1000.0),
        tick_us,
    })
}

/// Reads the CPU time of this process.
pub fn own_cpu() -> Result<CpuReading> {
    cpu(std::process::id())
}

/// utime and stime. The command name in parentheses may itself hold spaces and parentheses.
fn stat_ticks(stat: &str) -> Option<(u64, u64)> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn scheduled_ns(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut total = 0;
    for task in tasks.flatten() {
        // A thread may end between the listing and the reading.
        if let Ok(text) = fs::read_to_string(task.path().join("schedstat")) {
            total += text.split_whitespace().next()?.parse::<u64>().ok()?;
        }
    }
    (total > 0).then_some(total)
}

fn tick_us() -> f64 {
    // SAFETY: sysconf takes an integer and touches no memory of ours.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    1e6 / ticks_per_second.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_command_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 7 9 0 0 20 0 3 0 100";
        assert_eq!(stat_ticks(stat), Some((7, 9)));
        assert_eq!(stat_ticks("42"), None);
    }

    #[test]
    fn a_busy_thread_is_charged_about_its_running_time() {
        let before = own_cpu().expect("own CPU time");
        let start = Instant::now();
        let mut sum = 0u64;
        while start.elapsed() < Duration::from_millis(200) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(sum > 0);
        let spent = own_cpu().expect("own CPU time").since(&before);
        // Other tests run in this process and other processes on this machine: only a floor far below 200 ms is sure.
        assert!(spent.total_us > 5_000.0, "{spent:?}");
        assert!(spent.share() > 0.0);
        assert!((spent.user_us + spent.system_us - spent.total_us).abs() < 1.0 || spent.user_us == 0.0);
    }

    fn reading(at: Instant, user_us: f64, system_us: f64, run_us: Option<f64>) -> CpuReading {
        CpuReading {
            at,
            user_us,
            system_us,
            run_us,
            tick_us: 10_000.0,
        }
    }

    #[test]
    fn nanoseconds_win_over_ticks_unless_a_thread_has_ended() {
        let start = Instant::now();
        let before = reading(start, 0.0, 0.0, Some(1_000.0));
        let later = start + Duration::from_secs(2);
        let precise = reading(later, 60_000.0, 20_000.0, Some(85_000.0)).since(&before);
        assert_eq!(
            (precise.total_us, precise.user_us, precise.system_us),
            (84_000.0, 63_000.0, 21_000.0)
        );
        assert_eq!(precise.share(), 0.042);
        let thread_gone = reading(later, 60_000.0, 20_000.0, Some(5_000.0)).since(&before);
        assert_eq!(thread_gone.total_us, 80_000.0);
        let ticks_only = reading(later, 60_000.0, 20_000.0, None).since(&before);
        assert_eq!(ticks_only.total_us, 80_000.0);
    }
}
