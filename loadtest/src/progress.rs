//! What a run shows while it lasts: one live line on a terminal, a plain line every few seconds elsewhere, or nothing.
//!
//! Progress goes to standard error, so that a summary or JSON on standard output can be piped on.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::figures::{binary_bytes, grouped, significant};

/// Pause between plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Redraws of the live line per second.
const REDRAWS_PER_SECOND: u8 = 5;

/// The state of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    pub phase: String,
    pub connections: u64,
    pub connections_wanted: u64,
    /// Of whatever the phase does: connections made, messages acknowledged or delivered.
    pub per_second: f64,
    /// What is counted per second, for instance `acks`.
    pub rate_unit: &'static str,
    pub errors: u64,
    /// The server's user memory per connection so far.
    pub bytes_per_connection: Option<f64>,
    /// Seconds until the phase ends, where that is known.
    pub remaining_seconds: Option<f64>,
}

/// Where progress is shown.
pub struct Progress {
    output: Output,
}

enum Output {
    Quiet,
    Live(ProgressBar),
    Lines {
        to: Box<dyn Write + Send>,
        last: Option<(Instant, String)>,
    },
}

impl Progress {
    /// A live line if standard error is a terminal, plain lines if it is not, nothing if `quiet`.
    pub fn start(quiet: bool) -> Self {
        let output = if quiet {
            Output::Quiet
        } else if io::stderr().is_terminal() {
            Output::Live(live_line())
        } else {
            Output::Lines {
                to: Box::new(io::stderr()),
                last: None,
            }
        };
        Self { output }
    }

    /// Shows the state at `now`. Cheap to call often: it draws only as often as a person can read.
    pub fn show(&mut self, now: Instant, moment: &Moment) {
        match &mut self.output {
            Output::Quiet => {}
            Output::Live(bar) => {
                bar.set_length(moment.connections_wanted.max(1));
                bar.set_position(moment.connections);
                bar.set_prefix(moment.phase.clone());
                bar.set_message(details(moment));
            }
            Output::Lines { to, last } => {
                let is_due = last
                    .as_ref()
                    .is_none_or(|(at, phase)| now.duration_since(*at) >= LINE_INTERVAL || *phase != moment.phase);
                if is_due {
                    // A run is not ended because nobody reads its progress.
                    let _ = writeln!(to, "{}", line(moment));
                    *last = Some((now, moment.phase.clone()));
                }
            }
        }
    }

    /// A remark that stays on the screen, above the live line.
    pub fn note(&mut self, text: &str) {
        match &mut self.output {
            Output::Quiet => {}
            Output::Live(bar) => bar.println(text),
            Output::Lines { to, .. } => {
                let _ = writeln!(to, "{text}");
            }
        }
    }

    /// Clears the live line.
    pub fn finish(self) {
        if let Output::Live(bar) = self.output {
            bar.finish_and_clear();
        }
    }
}

fn live_line() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix:<12} [{bar:24}] {pos}/{len} connections · {msg}")
        .expect("a constant template")
        .progress_chars("━╸ ");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND));
    bar.set_style(style);
    bar
}

fn line(moment: &Moment) -> String {
    format!(
        "{}: {} of {} connections · {}",
        moment.phase,
        grouped(moment.connections),
        grouped(moment.connections_wanted),
        details(moment)
    )
}

fn details(moment: &Moment) -> String {
    let mut parts = vec![format!("{} {}/s", significant(moment.per_second), moment.rate_unit)];
    if moment.errors > 0 {
        parts.push(format!("{} errors", grouped(moment.errors)));
    }
    if let Some(bytes) = moment.bytes_per_connection {
        parts.push(format!("{} per connection", binary_bytes(bytes)));
    }
    if let Some(seconds) = moment.remaining_seconds {
        parts.push(format!("{seconds:.0} s left"));
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().expect("not poisoned").clone();
            String::from_utf8(bytes)
                .expect("text")
                .lines()
                .map(str::to_owned)
                .collect()
        }
    }

    fn moment(phase: &str, connections: u64) -> Moment {
        Moment {
            phase: phase.to_owned(),
            connections,
            connections_wanted: 100_000,
            per_second: 15_321.7,
            rate_unit: "connections",
            ..Moment::default()
        }
    }

    #[test]
    fn plain_lines_come_every_few_seconds_and_at_each_new_phase() {
        let written = Written::default();
        let mut progress = Progress {
            output: Output::Lines {
                to: Box::new(written.clone()),
                last: None,
            },
        };
        let start = Instant::now();
        for (ms, phase) in [
            (0, "connect"),
            (1_000, "connect"),
            (4_900, "connect"),
            (5_100, "connect"),
            (5_200, "hold"),
        ] {
            progress.show(start + Duration::from_millis(ms), &moment(phase, ms));
        }
        let lines = written.lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("connect: 5,100 of 100,000 connections"));
        assert!(lines[2].starts_with("hold: "));
    }

    #[test]
    fn a_line_holds_rate_errors_memory_and_time_left() {
        let full = Moment {
            errors: 1_234,
            bytes_per_connection: Some(312.4),
            remaining_seconds: Some(59.6),
            ..moment("connect", 20_000)
        };
        assert_eq!(
            line(&full),
            "connect: 20,000 of 100,000 connections · 15,300 connections/s · 1,234 errors · 312 B per connection · \
             60 s left"
        );
        assert!(!line(&moment("connect", 1)).contains("errors"));
    }

    #[test]
    fn quiet_writes_nothing_and_notes_stay() {
        let mut quiet = Progress::start(true);
        quiet.show(Instant::now(), &moment("connect", 1));
        quiet.note("unseen");
        assert!(matches!(quiet.output, Output::Quiet));
        let written = Written::default();
        let mut lines = Progress {
            output: Output::Lines {
                to: Box::new(written.clone()),
                last: None,
            },
        };
        lines.note("server reset 3 connections");
        lines.finish();
        assert_eq!(written.lines(), ["server reset 3 connections"]);
    }
}
