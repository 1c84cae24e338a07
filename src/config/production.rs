//! Rules that look at several settings together: what production forbids, and what this version must refuse.

use super::reader::Reader;
use super::settings::{AuthConfig, DemoLogin, HttpConfig};

/// Secrets that are printed in the family's documentation: whoever can read can sign with them.
const KNOWN_SECRETS: [&str; 4] = [
    "development-secret-do-not-use-in-production",
    "your-secret-key-change-in-production",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "test-secret-key-for-integration-tests-only-32-chars",
];

/// Shortest API key that production accepts, in characters.
const API_KEY_CHARS_MIN: usize = 16;

pub(super) fn is_known_secret(secret: &[u8]) -> bool {
    KNOWN_SECRETS.iter().any(|known| known.as_bytes() == secret)
}

/// What production refuses (docs/protocol.md §7.3, §7.5, §16.1, §16.2). Without authentication no token matters, but a
/// public secret is refused all the same: the next start may have authentication on.
pub(super) fn check<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, auth: &AuthConfig, http: &HttpConfig) {
    const NEW_SECRET: &str =
        "set JWT_SECRET to a random value of at least 32 bytes, for example from `openssl rand -base64 48`";
    let foreign_tokens_only = auth.public_key_file.is_some() && auth.users_file.is_none();
    if auth.jwt_secret.generated && !foreign_tokens_only {
        reader.refuse("JWT_SECRET", "production needs a secret and none is set", NEW_SECRET);
    }
    if is_known_secret(&auth.jwt_secret.bytes) {
        reader.refuse(
            "JWT_SECRET",
            "the secret is public knowledge, so anybody could sign tokens",
            NEW_SECRET,
        );
    }
    if let Some(place) = auth
        .api_keys
        .iter()
        .position(|entry| entry.key.chars().count() < API_KEY_CHARS_MIN)
    {
        reader.refuse(
            "SYNCKIT_AUTH_APIKEYS",
            format!(
                "key number {} has fewer than {API_KEY_CHARS_MIN} characters and could be guessed",
                place + 1
            ),
            "use longer random keys",
        );
    }
    if http.test_endpoints {
        reader.refuse(
            "SYNCKIT_TEST_ENDPOINTS",
            "it would let callers delete all documents in production",
            "unset it, or set SYNCKIT_ENV=test",
        );
    }
    if auth.demo_login == DemoLogin::Full {
        reader.refuse(
            "SYNCKIT_DEMO_LOGIN",
            "\"full\" would give admin rights to whoever asks in production",
            "use off or user, or real accounts in SYNCKIT_USERS_FILE",
        );
    }
}
