//! Merging of large text states beside the shards (docs/architecture.md §6): reading, merging and encoding one takes tens of
//! milliseconds, and a shard may spend a few on a turn.
//!
//! - A merge is a function of what is stored and what came; nothing here decides anything. The home looks at the result
//!   and takes it only if what is stored is still the same.
//! - A shard has at most one request under way, so a queue with room for one per shard is never full.

use crate::ids::ShardId;
use crate::json::write_string;
use crate::limits::TEXT_STEP_BYTES;
use crate::mutation::Mutation;
use crate::runtime::Mailer;
use crate::shard::mail::{Mail, Span};
use crate::text::{Incoming, Merged, TextError, TextLimits, TextState, merge};
use bytes::Bytes;
use bytestring::ByteString;
use crossbeam_channel::{Receiver, bounded};
use std::borrow::Cow;
use std::panic::catch_unwind;

/// A state that is to be merged.
#[derive(Debug)]
pub enum Came {
    /// As it stands in a message.
    Json {
        /// The message.
        text: ByteString,
        /// Where the JSON string stands in it.
        state: Span,
    },
    /// As it was read for an earlier merge, whose result came too late.
    Read(Box<Incoming>),
}

/// What is asked for.
#[derive(Debug)]
pub struct MergeRequest {
    /// Who is to be answered.
    pub shard: ShardId,
    /// What is stored.
    pub stored: Option<TextState>,
    /// What came.
    pub came: Came,
    /// Bounds of both the state that came and the merged one.
    pub limits: TextLimits,
}

/// The result of a merge.
#[derive(Debug)]
pub struct MergeAnswer {
    /// What it is based on.
    pub stored: Option<TextState>,
    /// The result, or why the state is refused.
    pub outcome: Result<Done, TextError>,
}

/// A merge that succeeded.
#[derive(Debug)]
pub struct Done {
    /// What the merge gave.
    pub merged: Merged,
    /// The merged state as messages carry it.
    pub encoded: Bytes,
    /// The state that came, in case that something else is stored by now.
    pub incoming: Box<Incoming>,
}

impl MergeRequest {
    /// Does the work.
    pub fn run(self) -> MergeAnswer {
        let MergeRequest {
            stored, came, limits, ..
        } = self;
        let done = || {
            let incoming = match came {
                Came::Json { text, state } => {
                    let quoted = &text[state.start as usize..state.end as usize];
                    Box::new(read(quoted, stored.as_ref(), &limits)?)
                }
                Came::Read(incoming) => incoming,
            };
            let merged = merge_read(stored.as_ref(), &incoming, &limits)?;
            let encoded = encoded(&merged.state);
            Ok(Done {
                merged,
                encoded,
                incoming,
            })
        };
        MergeAnswer {
            outcome: done(),
            stored,
        }
    }
}

/// Reads a state from the JSON string that a message carries.
pub fn read(quoted: &str, stored: Option<&TextState>, limits: &TextLimits) -> Result<Incoming, TextError> {
    // Lone surrogates must be refused, not replaced: serde_json is strict where our own reader is lenient.
    let json: Cow<'_, str> = match quoted.contains('\\') {
        true => Cow::Owned(serde_json::from_str(quoted).map_err(|_| TextError::NotJson)?),
        false => Cow::Borrowed(&quoted[1..quoted.len() - 1]),
    };
    Incoming::parse(&json, limits, stored.map_or(0, TextState::highest_clock))
}

/// Merges a state that has been read; the result is within the limits.
pub fn merge_read(stored: Option<&TextState>, incoming: &Incoming, limits: &TextLimits) -> Result<Merged, TextError> {
    let merged = merge(stored.filter(|_| !Mutation::OverwriteText.is_on()), incoming);
    merged.state.check(limits)?;
    Ok(merged)
}

/// A state as messages carry it: JSON inside a JSON string.
pub fn encoded(state: &TextState) -> Bytes {
    let json = state.to_json();
    let mut quoted = Vec::with_capacity(json.len() + json.len() / 4 + 2);
    write_string(&mut quoted, &json);
    Bytes::from(quoted)
}

/// The way to the threads that merge.
pub struct MergeLink {
    /// Takes a request.
    pub submit: Box<dyn Fn(MergeRequest) + Send + Sync>,
    /// Bytes of a JSON string from which on a state goes this way.
    pub bytes_min: usize,
}

/// Where requests wait.
#[derive(Clone)]
pub struct MergeQueue(Receiver<MergeRequest>);

impl MergeQueue {
    /// The next request, if one waits.
    pub fn take(&self) -> Option<MergeRequest> {
        self.0.try_recv().ok()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.len()
    }
}

/// A queue for the requests of that many shards, and the way to it.
pub fn queue(shards: u16) -> (MergeLink, MergeQueue) {
    let (requests, waiting) = bounded(usize::from(shards).max(1));
    let submit = move |request| {
        // There is room for one of each shard, and whoever takes them outlives the shards.
        let _ = requests.try_send(request);
    };
    let link = MergeLink {
        submit: Box::new(submit),
        bytes_min: TEXT_STEP_BYTES,
    };
    (link, MergeQueue(waiting))
}

/// Starts the threads, one for every two shards. They end when the shards do.
pub fn start(queue: &MergeQueue, shards: u16, mailer: &Mailer<Mail>) -> std::io::Result<()> {
    for _ in 0..(shards / 2).max(1) {
        let (queue, mailer) = (queue.clone(), mailer.clone());
        let work = move || {
            for request in queue.0 {
                let shard = request.shard;
                // Whatever goes wrong with one text, its shard waits for the answer.
                let answer = catch_unwind(|| request.run()).unwrap_or(MergeAnswer {
                    stored: None,
                    outcome: Err(TextError::Failed),
                });
                mailer.send(shard, Mail::TextMerged(Box::new(answer)));
            }
        };
        std::thread::Builder::new().name("text-merger".into()).spawn(work)?;
    }
    Ok(())
}
