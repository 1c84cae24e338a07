//! The decisions of docs/protocol.md §7.2, §7.3 and §7.6: what an `auth` message or an upgrade request leads to.

use super::api_keys::ApiKeys;
use super::document_id::{DocumentIdError, allowed_by, check_document_id};
use super::identity::{Identity, Proof};
use super::issuer::Issuer;
use super::permissions::Permissions;
use super::public_keys::PublicKey;
use super::verifier::Verifier;
use crate::config::{AuthConfig, DocumentPolicy};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// How many failed `auth` messages a GOC connection may send before it is closed.
pub const GOC_FAILURES_MAX: u8 = 3;
/// Longest user id that is echoed while authentication is off, in characters.
const ECHOED_USER_ID_CHARS_MAX: usize = 256;

/// What an `auth` message holds. Empty strings count as absent.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// A JWT.
    pub token: Option<&'a str>,
    /// An API key.
    pub api_key: Option<&'a str>,
    /// Who the client says it is; believed by nobody.
    pub user_id: Option<&'a str>,
    /// Self-describing payload, or a `clientId` or `userId` in it: such clients try again on the same connection.
    pub goc_style: bool,
    /// The identity that the connection proved before, by token in the upgrade request or an earlier `auth`.
    pub current: Option<&'a Arc<Identity>>,
}

/// What to do about an `auth` message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthOutcome {
    /// The connection is this identity from now on. Answer `auth_success` with its `user_id` and permissions, and drop
    /// subscriptions it may not read.
    Accepted(Arc<Identity>),
    /// Nothing was shown and nothing was needed: keep the current identity (anonymous if none) and answer `auth_success`
    /// with this `userId` and the current permissions.
    Unchanged {
        /// What the client gets to see as its own id.
        user_id: String,
    },
    /// Answer `auth_error`, then close as told.
    Refused(Refusal),
}

/// A refused authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The text of `auth_error`.
    pub error: &'static str,
    /// Its code.
    pub code: &'static str,
    /// What becomes of the connection.
    pub close: Close,
}

/// Whether a refusal ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Close 1008 with this reason once the answer is sent.
    Now(&'static str),
    /// Close 1008 with this reason only after [`GOC_FAILURES_MAX`] refusals on this connection, which the session counts.
    AfterFailures(&'static str),
}

impl Close {
    /// The close reason, if a connection with that many refusals (this one included) must be closed.
    pub fn reason(self, failures: u8) -> Option<&'static str> {
        match self {
            Self::Now(reason) => Some(reason),
            Self::AfterFailures(reason) => (failures >= GOC_FAILURES_MAX).then_some(reason),
        }
    }
}

/// What the upgrade request says about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeOutcome {
    /// Authenticated from the first byte, by a token or because authentication is off.
    Authenticated(Arc<Identity>),
    /// Must still send `auth`, within the configured time.
    Pending,
    /// Upgrade, send `auth_error`, close.
    Refused(Refusal),
}

/// Decides who connections and requests are. Shared by all shards.
pub struct Authenticator {
    required: bool,
    policy: DocumentPolicy,
    /// Replaced as a whole when the operator changes secrets; read once for each credential that is checked.
    keys: RwLock<Keys>,
    anonymous: Arc<Identity>,
}

#[derive(Clone)]
struct Keys {
    verifier: Arc<Verifier>,
    issuer: Arc<Issuer>,
    api_keys: Arc<ApiKeys>,
}

impl Keys {
    fn new(config: &AuthConfig, public_keys: Vec<PublicKey>) -> Keys {
        Keys {
            verifier: Arc::new(Verifier::new(config, public_keys)),
            issuer: Arc::new(Issuer::new(config)),
            api_keys: Arc::new(ApiKeys::new(&config.api_keys)),
        }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Ready to decide. `public_keys` come from the configured key file.
    pub fn new(config: &AuthConfig, public_keys: Vec<PublicKey>) -> Self {
        let anonymous = Identity::new("anonymous".into(), Permissions::anonymous(), Proof::Anonymous, None);
        Self {
            required: config.required,
            policy: config.document_policy,
            keys: RwLock::new(Keys::new(config, public_keys)),
            anonymous: Arc::new(anonymous),
        }
    }

    /// Whether connections must authenticate.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// The identity of everybody while authentication is off. One for all, so that a connection at rest owns nothing; where
    /// users must be told apart, the session appends its connection id to the user id.
    pub fn anonymous(&self) -> &Arc<Identity> {
        &self.anonymous
    }

    /// Other secrets and keys from now on. Connections that have authenticated stay what they are.
    pub fn replace_keys(&self, config: &AuthConfig, public_keys: Vec<PublicKey>) {
        let keys = Keys::new(config, public_keys);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Checks tokens.
    pub fn verifier(&self) -> Arc<Verifier> {
        self.keys().verifier
    }

    /// Makes tokens.
    pub fn issuer(&self) -> Arc<Issuer> {
        self.keys().issuer
    }

    /// The keys in force. Replacing them is one assignment, so a panic elsewhere leaves them whole.
    fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The checks of §5.2 that depend on the id alone: form and policy.
    pub fn check_document(&self, id: &str) -> Result<(), DocumentIdError> {
        check_document_id(id)?;
        allowed_by(self.policy, id)
    }

    /// Decides about an `auth` message (§7.2, §7.3).
    pub fn authenticate(&self, credentials: Credentials<'_>, now_unix_s: u64) -> AuthOutcome {
        let keys = self.keys();
        let token = credentials.token.filter(|token| !token.is_empty());
        // With authentication off and no key configured there is nothing to check a key against; refusing it would
        // lock out clients that other servers of the family let in.
        let api_key = credentials
            .api_key
            .filter(|key| !key.is_empty() && (self.required || !keys.api_keys.is_empty()));

        if let Some(identity) = token.and_then(|token| keys.verifier.access(token, now_unix_s).ok()) {
            return AuthOutcome::Accepted(Arc::new(identity));
        }
        if let Some(identity) = api_key.and_then(|key| keys.api_keys.find(key)) {
            return AuthOutcome::Accepted(Arc::clone(identity));
        }
        if token.is_some() || api_key.is_some() {
            return AuthOutcome::Refused(invalid(credentials.goc_style));
        }
        match credentials
            .current
            .filter(|current| current.proof() != Proof::Anonymous)
        {
            Some(current) => AuthOutcome::Unchanged {
                user_id: current.user_id.to_string(),
            },
            None if !self.required => AuthOutcome::Unchanged {
                user_id: echoed(credentials.user_id),
            },
            None => AuthOutcome::Refused(missing(credentials.goc_style)),
        }
    }

    /// Decides about the token of an upgrade request (§7.6).
    pub fn authenticate_upgrade(&self, token: Option<&str>, now_unix_s: u64) -> UpgradeOutcome {
        match token.filter(|token| !token.is_empty()) {
            Some(token) => match self.verifier().access(token, now_unix_s) {
                Ok(identity) => UpgradeOutcome::Authenticated(Arc::new(identity)),
                Err(_) => UpgradeOutcome::Refused(invalid(false)),
            },
            None if self.required => UpgradeOutcome::Pending,
            None => UpgradeOutcome::Authenticated(Arc::clone(&self.anonymous)),
        }
    }
}

fn echoed(user_id: Option<&str>) -> String {
    let usable = |id: &&str| !id.is_empty() && id.chars().count() <= ECHOED_USER_ID_CHARS_MAX;
    user_id.filter(usable).unwrap_or("anonymous").to_owned()
}

fn invalid(goc_style: bool) -> Refusal {
    const CLOSE: &str = "Authentication failed";
    if goc_style {
        Refusal {
            error: "Invalid or expired token",
            code: "INVALID_TOKEN",
            close: Close::AfterFailures(CLOSE),
        }
    } else {
        Refusal {
            error: CLOSE,
            code: "INVALID_TOKEN",
            close: Close::Now(CLOSE),
        }
    }
}

fn missing(goc_style: bool) -> Refusal {
    const TEXT: &str = "Authentication required";
    let close = if goc_style {
        Close::AfterFailures(TEXT)
    } else {
        Close::Now(TEXT)
    };
    Refusal {
        error: TEXT,
        code: "AUTH_REQUIRED",
        close,
    }
}
