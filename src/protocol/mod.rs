//! The SyncKit wire format (docs/protocol.md §2–6): bytes to messages and back, without any state of a connection.
//!
//! - [`kind`]: message types, their codes and names.
//! - [`envelope`]: one WebSocket message to one [`Message`], both encodings.
//! - [`encode`]: one server message to the bytes of one WebSocket frame.
//! - [`fault`]: every error a peer can be told, with its code and text.

pub mod encode;
pub mod envelope;
pub mod fault;
pub mod kind;

pub use encode::{Encoder, MessageId, Style};
pub use envelope::{Fields, KIND_BYTES_MAX, LongParse, Message, Refused, parse};
pub use fault::Fault;
pub use kind::Kind;

/// How a connection's messages are written (protocol §2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 13-byte header and JSON payload in a binary frame.
    Binary,
    /// JSON in a text frame.
    Json,
}
