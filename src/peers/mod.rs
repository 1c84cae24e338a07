//! Several nodes as one: what nodes say to each other (docs/architecture.md, several nodes).
//!
//! The bus between nodes is fast and may lose, repeat and reorder what it carries; nothing is true because it came over the
//! bus. So what travels is mergeable: records with their order, whole texts, sums. Whoever relies on it notices gaps
//! ([`Heard`]) and differences ([`Digest`]) and asks for everything.

mod digest;
mod encode;
mod envelope;
mod heard;

pub use digest::Digest;
pub use encode::Encoder;
pub use envelope::{
    Body, Count, CountedOperation, DigestRow, Envelope, Operations, Part, PresenceEntry, Refused, State, decode,
    decode_whole,
};
pub use heard::{Heard, News};
