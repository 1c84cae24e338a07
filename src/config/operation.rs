//! Settings of how the process starts, ends and tells about itself.

use super::reader::Reader;
use super::values::{self, Expected};
use tracing_subscriber::EnvFilter;

/// See the module documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationConfig {
    /// Window over which the closing of connections is spread at the end, in milliseconds.
    pub drain_ms: u64,
    /// Log levels, a filter of `tracing`.
    pub log: String,
}

/// An hour: a million connections at under 300 a second.
const DRAIN_MS_MAX: u64 = 3_600_000;

pub(super) fn operation<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> OperationConfig {
    let filter = |text: &str| match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Expected(
            "a level (error, warn, info, debug, trace, off) or a comma list of module=level".to_owned(),
        )),
    };
    OperationConfig {
        drain_ms: reader.value(
            &["SYNCKIT_DRAIN_MS"],
            2_000,
            |text| values::number(text, 0, DRAIN_MS_MAX),
            |ms| format!("{ms} ms"),
        ),
        log: reader.value(&["SYNCKIT_LOG", "RUST_LOG"], "info".to_owned(), filter, String::clone),
    }
}
