//! Checks tokens (docs/protocol.md §7.5, §7.7).
//!
//! jsonwebtoken parses the header and checks the signature, nothing else. Its own handling of `exp` reads the system
//! clock, so all claims are read and checked here, against the time that is handed in.

use super::identity::{Identity, Proof};
use super::permissions::{KnownPermissions, Permissions};
use super::public_keys::PublicKey;
use crate::config::AuthConfig;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

/// Longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 8192;
/// Clock difference between issuer and server that is forgiven, in seconds.
pub const LEEWAY_S: u64 = 5;
/// Longest user id, in characters.
const USER_ID_CHARS_MAX: usize = 256;
/// 9999-12-31: later expiries are cut to it, so that sums and dates stay in range.
const EXPIRY_UNIX_S_MAX: f64 = 253_402_300_799.0;

/// Why a token is refused. Always the peer's fault; what the peer sees does not depend on the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("token too long")]
    TooLong,
    /// Not a JWT with a JSON object inside.
    #[error("malformed token")]
    Malformed,
    /// No configured key uses the token's algorithm.
    #[error("algorithm not accepted")]
    Algorithm,
    /// No key of that algorithm signed it.
    #[error("wrong signature")]
    Signature,
    /// `exp` is missing or no number.
    #[error("token without expiry")]
    NoExpiry,
    /// `exp` has passed.
    #[error("token expired")]
    Expired,
    /// `nbf` has not come, or is no number.
    #[error("token not valid yet")]
    NotYetValid,
    /// `iss` is not the configured one.
    #[error("wrong issuer")]
    Issuer,
    /// `aud` does not name the configured one.
    #[error("wrong audience")]
    Audience,
    /// An access token where a refresh token is needed, or the reverse.
    #[error("token is for another use")]
    Use,
    /// Neither `userId` nor `sub` is a usable string.
    #[error("token without user")]
    NoUser,
}

/// What a refresh token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshClaims {
    /// The user.
    pub user_id: String,
    /// The user's e-mail.
    pub email: Option<String>,
    /// What the new access token will allow.
    pub permissions: Permissions,
    /// Whether it came from the demo login.
    pub demo: bool,
    /// The token's own id, if it has one.
    pub jti: Option<String>,
    /// The login it descends from, if it says so.
    pub family: Option<String>,
    /// Unix seconds.
    pub expires_at_unix_s: u64,
}

/// Checks tokens against the configured keys.
pub struct Verifier {
    keys: Vec<Key>,
    issuer: Option<String>,
    audience: Option<String>,
    prefixes: bool,
    permissions: KnownPermissions,
}

struct Key {
    key: DecodingKey,
    algorithm: Algorithm,
}

struct Checked {
    claims: Map<String, Value>,
    expires_at_unix_s: u64,
}

impl Verifier {
    /// Accepts tokens signed with the configured secret (HS256) or by one of `public_keys`.
    pub fn new(config: &AuthConfig, public_keys: Vec<PublicKey>) -> Self {
        let own = Key {
            key: DecodingKey::from_secret(&config.jwt_secret.bytes),
            algorithm: Algorithm::HS256,
        };
        let others = public_keys
            .into_iter()
            .map(|PublicKey { key, algorithm }| Key { key, algorithm });
        Self {
            keys: std::iter::once(own).chain(others).collect(),
            issuer: config.jwt_issuer.clone(),
            audience: config.jwt_audience.clone(),
            prefixes: config.permission_prefixes,
            permissions: KnownPermissions::default(),
        }
    }

    /// The identity an access token stands for. A token without `tokenUse` is one only if it has `permissions`.
    pub fn access(&self, token: &str, now_unix_s: u64) -> Result<Identity, TokenError> {
        self.access_with_email(token, now_unix_s).map(|(identity, _)| identity)
    }

    /// The same with the e-mail address in the token, which nobody keeps.
    pub fn access_with_email(&self, token: &str, now_unix_s: u64) -> Result<(Identity, Option<String>), TokenError> {
        let Checked {
            claims,
            expires_at_unix_s,
        } = self.check(token, now_unix_s)?;
        match claims.get("tokenUse") {
            Some(Value::String(token_use)) if token_use == "access" => {}
            None | Some(Value::Null) if has_permissions(&claims) => {}
            _ => return Err(TokenError::Use),
        }
        let proof = if is_demo(&claims) {
            Proof::DemoToken
        } else {
            Proof::Token
        };
        let user_id = user_id(&claims)?.into_boxed_str();
        let permissions = self.permissions.shared(self.permissions(&claims));
        let identity = Identity::new(user_id, permissions, proof, Some(expires_at_unix_s));
        Ok((identity, text(&claims, "email")))
    }

    /// The content of a refresh token. A token without `tokenUse` is one only if it lacks `permissions` (§16.2).
    pub fn refresh(&self, token: &str, now_unix_s: u64) -> Result<RefreshClaims, TokenError> {
        let Checked {
            claims,
            expires_at_unix_s,
        } = self.check(token, now_unix_s)?;
        match claims.get("tokenUse") {
            Some(Value::String(token_use)) if token_use == "refresh" => {}
            None | Some(Value::Null) if !has_permissions(&claims) => {}
            _ => return Err(TokenError::Use),
        }
        Ok(RefreshClaims {
            user_id: user_id(&claims)?,
            email: text(&claims, "email"),
            permissions: self.permissions(&claims),
            demo: is_demo(&claims),
            jti: text(&claims, "jti"),
            family: text(&claims, "family"),
            expires_at_unix_s,
        })
    }

    fn check(&self, token: &str, now_unix_s: u64) -> Result<Checked, TokenError> {
        let claims = self.signed_claims(token)?;
        let expires_at_unix_s = match claims.get("exp").and_then(Value::as_f64) {
            // Negative numbers and NaN become 0, which has passed.
            Some(exp) => exp.min(EXPIRY_UNIX_S_MAX) as u64,
            None => return Err(TokenError::NoExpiry),
        };
        if now_unix_s >= expires_at_unix_s.saturating_add(LEEWAY_S) {
            return Err(TokenError::Expired);
        }
        if let Some(not_before) = claims.get("nbf").filter(|value| !value.is_null()) {
            let not_before = not_before.as_f64().ok_or(TokenError::NotYetValid)?;
            if not_before > now_unix_s.saturating_add(LEEWAY_S) as f64 {
                return Err(TokenError::NotYetValid);
            }
        }
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenError::Issuer);
        }
        if let Some(audience) = &self.audience
            && !names_audience(claims.get("aud"), audience)
        {
            return Err(TokenError::Audience);
        }
        Ok(Checked {
            claims,
            expires_at_unix_s,
        })
    }

    /// The claims, if a key of the algorithm the header names signed them. Keys of other algorithms are not tried.
    fn signed_claims(&self, token: &str) -> Result<Map<String, Value>, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() || header.zip.is_some() || header.enc.is_some() {
            // RFC 7515 §4.1.11: an extension that is not understood must not be ignored.
            return Err(TokenError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (_, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let mut candidates = self.keys.iter().filter(|key| key.algorithm == header.alg).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::Algorithm);
        }
        let signed = |key: &Key| {
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, key.algorithm).unwrap_or(false)
        };
        if !candidates.any(signed) {
            return Err(TokenError::Signature);
        }
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed)?;
        serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)
    }

    fn permissions(&self, claims: &Map<String, Value>) -> Permissions {
        Permissions::from_json(claims.get("permissions").unwrap_or(&Value::Null), self.prefixes)
    }
}

fn has_permissions(claims: &Map<String, Value>) -> bool {
    claims.get("permissions").is_some_and(|value| !value.is_null())
}

fn is_demo(claims: &Map<String, Value>) -> bool {
    claims.get("demo") == Some(&Value::Bool(true))
}

fn text(claims: &Map<String, Value>, name: &str) -> Option<String> {
    claims.get(name).and_then(Value::as_str).map(str::to_owned)
}

/// `userId` wins over `sub` (§7.5).
fn user_id(claims: &Map<String, Value>) -> Result<String, TokenError> {
    let usable = |name| {
        let id = claims.get(name).and_then(Value::as_str)?;
        (!id.is_empty() && id.chars().count() <= USER_ID_CHARS_MAX).then(|| id.to_owned())
    };
    usable("userId").or_else(|| usable("sub")).ok_or(TokenError::NoUser)
}

fn names_audience(claim: Option<&Value>, audience: &str) -> bool {
    match claim {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    }
}
