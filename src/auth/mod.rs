//! Who a connection is and what it may do (docs/protocol.md §7, §8).
//!
//! Everything here is a decision on values: time comes in as Unix seconds, nothing reads a clock, a file or a socket.
//! The one slow piece, checking a password, is packed into [`LoginWork`] for a thread that may block.
//!
//! Invariants:
//! - A key is only ever used with the algorithm that its own type fixes; the token never chooses (§7.7).
//! - A token that is refused says why only to the log at debug level; the peer sees one text for all causes.
//! - Secrets, tokens, keys and passwords never appear in `Debug` output or in errors.
//! - Memory is bounded: tokens by [`TOKEN_BYTES_MAX`], remembered refresh tokens by the ledger's capacity.

mod api_keys;
mod document_id;
mod gate;
mod identity;
mod issuer;
mod ledger;
mod login;
mod permissions;
mod public_keys;
mod users;
mod verifier;

pub use document_id::{DOCUMENT_ID_CHARS_MAX, DocumentIdError, allowed_by, check_document_id};
pub use gate::{AuthOutcome, Authenticator, Close, Credentials, GOC_FAILURES_MAX, Refusal, UpgradeOutcome};
pub use identity::{Identity, Proof};
pub use issuer::{Issuer, Subject, TokenPair};
pub use ledger::{Redemption, RefreshLedger};
pub use login::{LoginResult, LoginWork};
pub use permissions::Permissions;
pub use public_keys::{PublicKey, PublicKeyError, public_keys};
pub use users::{Account, Users, UsersError};
pub use verifier::{LEEWAY_S, RefreshClaims, TOKEN_BYTES_MAX, TokenError, Verifier};

#[cfg(test)]
mod attacks;
