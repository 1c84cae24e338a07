//! A message of one connection that takes more than one turn (docs/architecture.md, "The hot path"). While it lasts
//! nothing else of the connection is looked at, so order is kept; others have their turns in between.

use crate::protocol::LongParse;
use crate::shard::mail::{DocumentId, RequestId};

/// Where such a message is.
#[derive(Debug)]
pub enum Long {
    /// Its JSON is being checked.
    Reading(Reading),
    /// Its elements leave for their homes.
    Writing(Writing),
}

impl Long {
    /// What it holds of the message.
    pub fn bytes(&self) -> usize {
        match self {
            Long::Reading(reading) => reading.bytes.len(),
            Long::Writing(writing) => writing.deltas.len(),
        }
    }
}

/// A message whose JSON is being checked.
#[derive(Debug)]
pub struct Reading {
    /// Its bytes.
    pub bytes: Box<[u8]>,
    /// It came as text.
    pub is_text: bool,
    /// It has been counted for the rate limit.
    pub paid: bool,
    /// It came in chunks: then it must be a batch, or the request with this id is refused.
    pub chunked: Option<RequestId>,
    /// How far it has been read.
    pub parse: LongParse,
}

/// A write whose elements leave for their homes.
#[derive(Debug)]
pub struct Writing {
    /// The document it is for.
    pub document: DocumentId,
    /// The JSON array of its elements, whose text was validated; empty if there is nothing more to send.
    pub deltas: Box<str>,
    /// How far it has been read.
    pub position: usize,
    /// The request's id and the id to acknowledge, as JSON.
    pub id: RequestId,
    /// See `id`.
    pub message_id: RequestId,
    /// A `delta_batch` rather than a `delta`.
    pub is_batch: bool,
    /// Elements so far.
    pub count: u32,
    /// Elements refused so far because of the document they name.
    pub refused: usize,
    /// Something has been sent for the message's own document.
    pub began: bool,
    /// Its [`super::SplitWrite`].
    pub ticket: u64,
    /// What has been sent must be answered before anything else is done, because its home takes several turns for it.
    pub waits: bool,
}
