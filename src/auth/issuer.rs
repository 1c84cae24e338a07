//! Makes tokens (docs/protocol.md §7.5, §16.2).

use super::permissions::Permissions;
use crate::config::AuthConfig;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// Whom a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The user.
    pub user_id: String,
    /// The user's e-mail.
    pub email: Option<String>,
    /// What the token allows.
    pub permissions: Permissions,
    /// Whether it comes from the demo login, where anybody gets one.
    pub demo: bool,
}

/// An access token and the refresh token that follows it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// For requests and connections.
    pub access: String,
    /// For one `POST /auth/refresh`.
    pub refresh: String,
}

/// Signs tokens with the configured secret.
pub struct Issuer {
    key: EncodingKey,
    issuer: Option<String>,
    audience: Option<String>,
    access_token_s: u64,
    refresh_token_s: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Claims<'a> {
    user_id: &'a str,
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    permissions: &'a Permissions,
    token_use: &'static str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    demo: bool,
}

impl Issuer {
    /// Signs with the secret of `config`.
    pub fn new(config: &AuthConfig) -> Self {
        Self {
            key: EncodingKey::from_secret(&config.jwt_secret.bytes),
            issuer: config.jwt_issuer.clone(),
            audience: config.jwt_audience.clone(),
            access_token_s: config.access_token_s,
            refresh_token_s: config.refresh_token_s,
        }
    }

    /// An access token and a refresh token. `family` names the login that a refreshed pair descends from; a new login
    /// passes `None` and starts one.
    pub fn pair(&self, subject: &Subject, family: Option<&str>, now_unix_s: u64) -> TokenPair {
        let new_family;
        let family = match family {
            Some(family) => family,
            None => {
                new_family = random_id();
                &new_family
            }
        };
        let refresh = Claims {
            token_use: "refresh",
            exp: now_unix_s.saturating_add(self.refresh_token_s),
            jti: Some(random_id()),
            family: Some(family),
            ..self.access_claims(subject, now_unix_s)
        };
        TokenPair {
            access: self.access(subject, now_unix_s),
            refresh: self.sign(&refresh),
        }
    }

    /// An access token.
    pub fn access(&self, subject: &Subject, now_unix_s: u64) -> String {
        self.sign(&self.access_claims(subject, now_unix_s))
    }

    /// The token that main prints when the secret was made up at start: admin, for trying things out.
    pub fn development_token(&self, now_unix_s: u64) -> String {
        let permissions = Permissions::of_role(crate::config::Role::Admin);
        self.access(
            &Subject {
                user_id: "developer".to_owned(),
                email: None,
                permissions,
                demo: false,
            },
            now_unix_s,
        )
    }

    fn access_claims<'a>(&'a self, subject: &'a Subject, now_unix_s: u64) -> Claims<'a> {
        Claims {
            user_id: &subject.user_id,
            sub: &subject.user_id,
            email: subject.email.as_deref(),
            permissions: &subject.permissions,
            token_use: "access",
            iat: now_unix_s,
            exp: now_unix_s.saturating_add(self.access_token_s),
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
            jti: None,
            family: None,
            demo: subject.demo,
        }
    }

    fn sign(&self, claims: &Claims<'_>) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.key)
            .expect("strings and numbers always serialise, and an HMAC key signs anything")
    }
}

/// 128 random bits in hexadecimal.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
