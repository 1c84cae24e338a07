//! TLS between sockets and shards, for those who have no proxy in front (docs/tls.md).
//!
//! [`Layer`] is a [`Handler`](crate::handler::Handler) around another one: the runtime hands it what sockets receive, and
//! it hands the decrypted bytes on. So neither the runtime nor the shard knows of TLS, and a server without certificates
//! runs without this room: a plain connection pays nothing for it.
//!
//! rustls does the protocol (TLS 1.2 and 1.3, ring's cryptography) through its unbuffered interface, which keeps no
//! buffers of its own: at rest a connection owns its keys and nothing else.
//!
//! - `connection`: one connection's records in and out.
//! - `layer`: what runs on a core.
//! - `client`: the other direction, from this server to its backends.
//! - `certificates`: files, their checks, and their reload.

mod certificates;
pub mod client;
mod connection;
mod layer;

pub use certificates::{Certificates, TlsError};
pub use layer::Layer;
