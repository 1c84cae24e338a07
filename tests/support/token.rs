//! Tokens as a client or an attacker would make them.

use super::unix_ms;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The secret of servers started with `auth()`.
pub const SECRET: &str = "a-secret-that-only-this-test-run-knows-0123456789";

/// Seconds since 1970, `offset` seconds from now.
pub fn in_seconds(offset: i64) -> i64 {
    unix_ms() / 1000 + offset
}

/// Claims that are valid for an hour.
pub fn claims(user: &str, can_read: &[&str], can_write: &[&str], is_admin: bool) -> Value {
    json!({
        "userId": user,
        "sub": user,
        "permissions": {"canRead": can_read, "canWrite": can_write, "isAdmin": is_admin},
        "iat": in_seconds(0),
        "exp": in_seconds(3600),
    })
}

/// A token for a user that may read and write the documents named.
pub fn token(user: &str, can_read: &[&str], can_write: &[&str]) -> String {
    sign(&claims(user, can_read, can_write, false))
}

/// A token that may do everything.
pub fn admin() -> String {
    sign(&claims("root", &[], &[], true))
}

/// Claims signed with HS256 and [`SECRET`].
pub fn sign(claims: &Value) -> String {
    sign_with(claims, Algorithm::HS256, SECRET.as_bytes())
}

/// Claims signed with any HMAC algorithm and secret.
pub fn sign_with(claims: &Value, algorithm: Algorithm, secret: &[u8]) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).expect("a token")
}

/// Header and claims with a signature of one's own choosing.
pub fn forge(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}
