//! Structured logs on standard output: for people on a terminal, as JSON lines otherwise.

use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

/// Changes the levels while the process runs.
#[derive(Clone)]
pub struct Levels {
    handle: Handle<EnvFilter, Registry>,
}

impl Levels {
    /// Other levels from now on.
    ///
    /// # Errors
    /// What is wrong with the filter.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.handle.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging at the levels of `filter`, which has been checked. What peers can trigger at will is at `debug` or below.
pub fn start(filter: &str) -> Levels {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stdout);
    if std::io::stdout().is_terminal() {
        registry.with(lines.with_target(false)).init();
    } else {
        let json = lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        registry.with(json).init();
    }
    Levels { handle }
}
