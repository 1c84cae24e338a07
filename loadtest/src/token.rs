//! Tokens of the connections: each its own, signed by the tool with the server's secret.

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// How long a token is valid, in seconds: longer than any run.
const LIFE_S: u64 = 24 * 3600;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Claims<'a> {
    user_id: &'a str,
    sub: &'a str,
    permissions: Permissions,
    token_use: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Permissions {
    can_read: [&'static str; 1],
    can_write: [&'static str; 1],
    is_admin: bool,
}

/// Signs tokens with HS256.
pub struct Mint {
    key: EncodingKey,
    header: Header,
}

impl Mint {
    /// Signs with this secret.
    ///
    /// # Errors
    /// The secret is shorter than servers of the family accept.
    pub fn new(secret: &str) -> Result<Self> {
        ensure!(
            secret.len() >= 32,
            "--jwt-secret: at least 32 bytes are needed, as in the server's JWT_SECRET"
        );
        Ok(Self {
            key: EncodingKey::from_secret(secret.as_bytes()),
            header: Header::new(Algorithm::HS256),
        })
    }

    /// A token that may read and write everything, for a user named after the number.
    ///
    /// # Errors
    /// Never in practice.
    pub fn token(&self, user: u32, unix_ms: u64) -> Result<String> {
        let name = format!("load-{user}");
        self.sign(&name, false, unix_ms)
    }

    /// An administrator's token, for `/metrics`.
    ///
    /// # Errors
    /// Never in practice.
    pub fn admin(&self, unix_ms: u64) -> Result<String> {
        self.sign("loadtest", true, unix_ms)
    }

    fn sign(&self, user: &str, is_admin: bool, unix_ms: u64) -> Result<String> {
        let now_s = unix_ms / 1000;
        let claims = Claims {
            user_id: user,
            sub: user,
            permissions: Permissions {
                can_read: ["*"],
                can_write: ["*"],
                is_admin,
            },
            token_use: "access",
            iat: now_s,
            exp: now_s + LIFE_S,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key).context("a token cannot be signed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_secrets_are_refused() {
        assert!(Mint::new("short").is_err());
    }

    #[test]
    fn every_user_has_a_token_of_its_own() {
        let mint = Mint::new("0123456789012345678901234567890123456789").expect("long enough");
        let (first, second) = (mint.token(1, 1_000_000), mint.token(2, 1_000_000));
        let (first, second) = (first.expect("signed"), second.expect("signed"));
        assert_eq!(first.split('.').count(), 3);
        assert_ne!(first, second);
    }
}
