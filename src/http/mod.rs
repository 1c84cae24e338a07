//! The HTTP side of the port: parsing requests, deciding what to do, building answers (docs/protocol.md §1, §16, §17.2).
//!
//! Life of a request: bytes → [`Head::parse`] → [`Body`] until complete → [`route`] → [`Answer`]. Most answers are ready
//! responses. What only shards know comes back as a [`Question`]; the caller collects facts and lets [`answers`] turn
//! them into a [`Response`]. A password check comes back as work for a thread that may block, an upgrade as an
//! [`Upgrade`]. [`Response::encode`] adds what every response carries, according to the request's [`Framing`].
//!
//! Invariants:
//! - Pure: bytes and time in, values out.
//! - Anything two HTTP implementations could read differently is refused (request smuggling): bare line feeds, several or
//!   malformed lengths, length together with chunks, folded lines, spaces before a colon.
//! - Bounded: [`HEAD_BYTES_MAX`], [`HEADERS_MAX`], [`BODY_BYTES_MAX`]; every table of addresses has a capacity.
//! - The query string is never logged or echoed; its `Debug` form is hidden, for it may hold a token.

mod address;
pub mod answers;
mod api;
mod body;
mod budget;
mod facts;
mod iso8601;
mod login;
mod pages;
mod percent;
mod request;
mod response;
mod routes;
mod upgrade;

pub use address::{AddressGroup, client_address};
pub use api::Api;
pub use body::{BODY_BYTES_MAX, Body, Progress};
pub use budget::Budgets;
pub use facts::{
    AckFacts, BackendState, BroadcastFacts, DeltaFacts, DocumentFacts, HealthFacts, LatencyFacts, MetricsFacts,
    RoomFacts, SendFacts, SendTimingFacts, SnapshotFacts,
};
pub use iso8601::iso8601_utc;
pub use percent::Query;
pub use request::{BodyLength, HEAD_BYTES_MAX, HEADERS_MAX, Head, HttpError, Method};
pub use response::{CONTINUE, Framing, Response};
pub use routes::{Answer, Question, route};
pub use upgrade::{Upgrade, upgrade_key};

#[cfg(test)]
mod routes_tests;
