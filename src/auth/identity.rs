//! The outcome of authentication, shared by every place that acts for a connection.

use super::permissions::Permissions;

/// Who somebody is. Immutable and shared (`Arc`), so a connection owns one pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user; never empty.
    pub user_id: String,
    /// As the token or account says.
    pub email: Option<String>,
    /// What is allowed.
    pub permissions: Permissions,
    /// Unix seconds after which it must not be used any more; `None` = it does not expire.
    pub expires_at_unix_s: Option<u64>,
    /// How it was shown.
    pub proof: Proof,
}

/// What an identity rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: authentication is off.
    Anonymous,
    /// A valid token.
    Token,
    /// A token that anybody can get from the demo login.
    DemoToken,
    /// A configured API key.
    ApiKey,
}
