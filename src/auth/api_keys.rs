//! API keys: configured strings that authenticate without a token (docs/protocol.md §7.3).

use super::identity::{Identity, Proof};
use super::permissions::Permissions;
use crate::config::{ApiKey, Role};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// The user id of everybody who shows an API key.
const API_KEY_USER: &str = "api-key-user";

/// The configured keys, as digests: comparing digests takes the same time whatever the lengths, and a core dump does
/// not hold the keys themselves.
pub(super) struct ApiKeys {
    keys: Vec<([u8; 32], Arc<Identity>)>,
}

impl ApiKeys {
    pub(super) fn new(keys: &[ApiKey]) -> Self {
        let identity = |role: Role| {
            let permissions = Permissions::of_role(role);
            Arc::new(Identity::new(API_KEY_USER.into(), permissions, Proof::ApiKey, None))
        };
        Self {
            keys: keys
                .iter()
                .map(|entry| (digest(&entry.key), identity(entry.role)))
                .collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The identity behind `key`. Always compares with every configured key.
    pub(super) fn find(&self, key: &str) -> Option<&Arc<Identity>> {
        let shown = digest(key);
        self.keys.iter().fold(None, |found, (digest, identity)| {
            if bool::from(digest.ct_eq(&shown)) {
                found.or(Some(identity))
            } else {
                found
            }
        })
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}
