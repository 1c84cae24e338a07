//! Text documents: parsing, merging and ordering the complete states that clients send.
//!
//! A state names every character ever inserted by `(client_id, Lamport value)` and never forgets one. Merging is a
//! refinement: blocks are cut where text was typed inside them, a tombstone wins over a live character, nothing is ever
//! joined, dropped or renamed. Hence [`merge()`] is commutative, associative and idempotent byte for byte, except for
//! characters that two replicas made under one name (a client id used twice), where the stored copy wins.
//!
//! Invariants worth naming:
//! * A [`TextState`] is canonical: blocks in ID order, every known left origin is the last and every known right origin
//!   the first character of a block, no empty blocks, `client_id` is `"server"`.
//! * An [`Incoming`] went through every check of [`Incoming::parse`]; in particular each origin is older than its block,
//!   so that the document order has no cycles.
//! * Nothing here recurses on data, and memory is proportional to the input.
//!
//! Limits: [`TextLimits`] bounds what is parsed. Cuts can at most double the blocks of one state, and merging adds the
//! blocks of two, so the caller checks a changed result with [`TextState::check`] before storing it: a stored state
//! above the limits would make every later (complete) state of its clients be refused.

mod ancestry;
mod blocks;
mod builder;
mod canonical;
mod echo;
mod graphemes;
mod json;
mod lenient;
mod merge;
mod order;

pub use merge::{Echo, Merged, merge};

use blocks::Blocks;
use builder::Builder;
use std::sync::Arc;
use thiserror::Error;

/// Bounds on one text state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLimits {
    /// Bytes of the state as JSON. Values above 1 GiB act as 1 GiB.
    pub state_bytes_max: usize,
    /// Entries of `blocks`, empty and duplicate ones included.
    pub blocks_max: usize,
    /// Bytes of one client id, wherever it stands.
    pub client_id_bytes_max: usize,
}

impl TextLimits {
    /// What a state may have that this server (or a peer of it) wrote itself.
    const STORED: TextLimits = TextLimits {
        state_bytes_max: usize::MAX,
        blocks_max: usize::MAX,
        client_id_bytes_max: usize::MAX,
    };
}

impl Default for TextLimits {
    fn default() -> TextLimits {
        TextLimits {
            state_bytes_max: 16 << 20,
            blocks_max: 100_000,
            client_id_bytes_max: 256,
        }
    }
}

/// Why a state is refused. Always the fault of whoever wrote it; the stored state stays as it was and the connection
/// stays open. The message contains nothing of the state and can go to the peer as `details.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TextError {
    /// More bytes than [`TextLimits::state_bytes_max`].
    #[error("text state exceeds {max} bytes")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// More blocks than [`TextLimits::blocks_max`].
    #[error("text state has more than {max} blocks")]
    TooManyBlocks {
        /// The limit.
        max: usize,
    },
    /// A client id longer than [`TextLimits::client_id_bytes_max`].
    #[error("text state has a client_id of more than {max} bytes")]
    ClientIdTooLong {
        /// The limit.
        max: usize,
    },
    /// Not JSON, or a string that is not Unicode (a lone surrogate escape).
    #[error("text state is not valid JSON")]
    NotJson,
    /// A value of the wrong type; numbers other than plain integers in 0 ... 2^53-1 included.
    #[error("text state has a value of the wrong type")]
    WrongType,
    /// A member that must be there is not.
    #[error("text state lacks `{0}`")]
    Missing(&'static str),
    /// An element of `blocks` that is not a pair.
    #[error("text state has a block entry that is not a pair")]
    NotAPair,
    /// An ID whose `offset` is not 0.
    #[error("text state has an offset other than 0")]
    OffsetNotZero,
    /// A block with more characters than values up to its clock.
    #[error("text state has a block with more characters than its clock allows")]
    MoreCharactersThanValues,
    /// An origin that is not older than the block it belongs to.
    #[error("text state has an origin that is not older than its block")]
    OriginNotOlder,
    /// Two blocks of one client claim the same value.
    #[error("text state has overlapping blocks of one client")]
    Overlap,
    /// A clock that no honest replica can have reached.
    #[error("text state has a clock far ahead of its characters")]
    ClockAhead,
    /// Merging it failed, which is nobody's fault but the server's.
    #[error("text state could not be merged")]
    Failed,
}

/// A merged state in canonical form: what is stored and relayed. Cloning shares everything.
#[derive(Clone, Debug, Default)]
pub struct TextState {
    blocks: Blocks,
    clock: u64,
}

impl TextState {
    /// Reads a state this server or a peer stored. The checks of [`Incoming::parse`] apply without its limits, and the
    /// result is normalised, so a state written by other software is taken as well.
    pub fn from_json(json: &str) -> Result<TextState, TextError> {
        let incoming = Incoming::parse(json, &TextLimits::STORED, u64::MAX)?;
        Ok(merge(None, &incoming).state)
    }

    /// The canonical compact form.
    pub fn to_json(&self) -> String {
        json::write(&self.blocks, self.clock)
    }

    /// The exact length of [`TextState::to_json`], without building it.
    pub fn json_bytes(&self) -> usize {
        json::bytes(&self.blocks, self.clock)
    }

    /// The text a reader sees: live characters in document order.
    pub fn visible_text(&self) -> String {
        order::visible_text(&self.blocks)
    }

    /// Whether this is the very same state: not merely an equal one.
    pub fn is_same(&self, other: &TextState) -> bool {
        Arc::ptr_eq(&self.blocks.list, &other.blocks.list)
            && Arc::ptr_eq(&self.blocks.text, &other.blocks.text)
            && self.clock == other.clock
    }

    /// The highest value of any character. It leaves `clock.value` out on purpose: that number is only what a replica
    /// claims, and trusting it here would open the way for poisoned clocks.
    pub fn highest_clock(&self) -> u64 {
        self.blocks.highest_clock()
    }

    /// Heap bytes this state keeps alive.
    pub fn memory_bytes(&self) -> usize {
        self.blocks.memory_bytes()
    }

    /// How many blocks there are, tombstones included.
    pub fn block_count(&self) -> usize {
        self.blocks.list.len()
    }

    /// Whether a merged state may be stored: the limits for incoming states, because every client will send all of it
    /// back. Cuts count.
    pub fn check(&self, limits: &TextLimits) -> Result<(), TextError> {
        if self.block_count() > limits.blocks_max {
            return Err(TextError::TooManyBlocks { max: limits.blocks_max });
        }
        if self.json_bytes() > limits.state_bytes_max {
            return Err(TextError::TooLarge {
                max: limits.state_bytes_max,
            });
        }
        Ok(())
    }
}

/// A client's state, parsed and valid, but not cut: its blocks are those of the client.
#[derive(Clone, Debug)]
pub struct Incoming {
    blocks: Blocks,
    clock: u64,
    /// Some text has a character outside ASCII or a carriage return (rule R3d).
    exotic: bool,
}

impl Incoming {
    /// Parses and validates a state. `highest_stored_clock` is [`TextState::highest_clock`] of the stored state, 0
    /// without one; clocks far beyond it and beyond the characters of this state are refused.
    pub fn parse(json: &str, limits: &TextLimits, highest_stored_clock: u64) -> Result<Incoming, TextError> {
        if json.len() > limits.state_bytes_max.min(builder::STATE_BYTES_CEILING) {
            return Err(TextError::TooLarge {
                max: limits.state_bytes_max.min(builder::STATE_BYTES_CEILING),
            });
        }
        let mut builder = Builder::new(limits);
        if !canonical::read(json, &mut builder) {
            builder = Builder::new(limits);
            lenient::read(json, &mut builder)?;
        }
        builder.finish(highest_stored_clock)
    }

    /// The text a fresh client shows that loads this very state, before any cut.
    pub fn visible_text(&self) -> String {
        order::visible_text(&self.blocks)
    }
}

/// A merged state taken as an incoming one, for states exchanged between servers.
impl From<&TextState> for Incoming {
    fn from(state: &TextState) -> Incoming {
        let exotic = graphemes::is_exotic(&state.blocks.text);
        Incoming {
            blocks: state.blocks.clone(),
            clock: state.clock,
            exotic,
        }
    }
}
