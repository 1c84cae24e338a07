//! Tokens and credentials as an attacker would send them. Every case starts from a token that is accepted and changes
//! one thing, so that a refusal has that one cause.

use super::*;
use crate::config::{Config, Flags};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

const SECRET: &str = "a-long-enough-secret-for-hs256-tokens-0123456789";
const NOW: u64 = 1_800_000_000;
const RSA: &str = include_str!("../../tests/keys/test-only-rsa.pem");
const RSA_PUBLIC: &str = include_str!("../../tests/keys/test-only-rsa.pub.pem");
const P256: &str = include_str!("../../tests/keys/test-only-p256.pem");
const P256_PUBLIC: &str = include_str!("../../tests/keys/test-only-p256.pub.pem");
const ED25519: &str = include_str!("../../tests/keys/test-only-ed25519.pem");
const ED25519_PUBLIC: &str = include_str!("../../tests/keys/test-only-ed25519.pub.pem");
const P384_PUBLIC: &str = include_str!("../../tests/keys/test-only-p384.pub.pem");
const RSA1024_PUBLIC: &str = include_str!("../../tests/keys/test-only-rsa1024.pub.pem");

fn authenticator(variables: &[(&str, &str)], keys: &str) -> Authenticator {
    let look_up = |name: &str| match name {
        "JWT_SECRET" => Some(SECRET.to_owned()),
        _ => variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()),
    };
    let config = Config::from_env(look_up, &Flags::default()).unwrap();
    let keys = if keys.is_empty() {
        Vec::new()
    } else {
        public_keys(keys).unwrap()
    };
    Authenticator::new(&config.auth, keys)
}

fn claims() -> Value {
    let permissions = json!({"canRead": ["a"], "canWrite": [], "isAdmin": false});
    json!({"userId": "u", "permissions": permissions, "exp": NOW + 100, "iat": NOW})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn sign(claims: &Value) -> String {
    sign_with(claims, Algorithm::HS256, SECRET.as_bytes())
}

fn sign_with(claims: &Value, algorithm: Algorithm, secret: &[u8]) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn access(claims: &Value) -> Result<Identity, TokenError> {
    authenticator(&[], "").verifier().access(&sign(claims), NOW)
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

#[test]
fn the_unchanged_token_is_accepted() {
    let identity = access(&claims()).unwrap();
    assert_eq!(
        (&*identity.user_id, identity.expires_at_unix_s()),
        ("u", Some(NOW + 100))
    );
    assert!(identity.permissions.can_read("a") && !identity.permissions.can_write("a"));
    assert_eq!(identity.proof(), Proof::Token);
}

#[test]
fn other_algorithms_are_refused() {
    let gate = authenticator(&[], "");
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = sign_with(&claims(), algorithm, SECRET.as_bytes());
        assert_eq!(gate.verifier().access(&token, NOW), Err(TokenError::Algorithm));
    }
    let body = base64(&claims().to_string());
    for name in ["none", "None", "NONE", "nOnE", "", "HS1", "hs256"] {
        let header = base64(&json!({"alg": name, "typ": "JWT"}).to_string());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{body}.{signature}");
            assert_eq!(
                gate.verifier().access(&token, NOW),
                Err(TokenError::Malformed),
                "{name}"
            );
        }
    }
    let rs256 = base64(r#"{"alg":"RS256"}"#);
    let hs256 = sign(&claims());
    let signature = hs256.rsplit('.').next().unwrap();
    let token = format!("{rs256}.{body}.{signature}");
    assert_eq!(gate.verifier().access(&token, NOW), Err(TokenError::Algorithm));
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    let gate = authenticator(&[], &format!("{RSA_PUBLIC}{P256_PUBLIC}{ED25519_PUBLIC}"));
    for public in [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC] {
        let token = sign_with(&claims(), Algorithm::HS256, public.as_bytes());
        assert_eq!(gate.verifier().access(&token, NOW), Err(TokenError::Signature));
        let token = sign_with(&claims(), Algorithm::HS256, public.trim_end().as_bytes());
        assert_eq!(gate.verifier().access(&token, NOW), Err(TokenError::Signature));
    }
}

#[test]
fn each_public_key_works_with_its_own_algorithm_only() {
    let rsa = || EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
    let p256 = EncodingKey::from_ec_pem(P256.as_bytes()).unwrap();
    let ed25519 = EncodingKey::from_ed_pem(ED25519.as_bytes()).unwrap();
    let signed = |algorithm, key: &EncodingKey| encode(&Header::new(algorithm), &claims(), key).unwrap();
    let tokens = [
        signed(Algorithm::RS256, &rsa()),
        signed(Algorithm::ES256, &p256),
        signed(Algorithm::EdDSA, &ed25519),
    ];
    let publics = [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC];
    let all = authenticator(&[], &publics.concat());
    for (index, token) in tokens.iter().enumerate() {
        assert!(all.verifier().access(token, NOW).is_ok(), "{index}");
        assert!(
            authenticator(&[], publics[index]).verifier().access(token, NOW).is_ok(),
            "{index}"
        );
        let other = authenticator(&[], publics[(index + 1) % 3]);
        assert_eq!(
            other.verifier().access(token, NOW),
            Err(TokenError::Algorithm),
            "{index}"
        );
        assert_eq!(
            authenticator(&[], "").verifier().access(token, NOW),
            Err(TokenError::Algorithm),
            "{index}"
        );
    }
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        assert_eq!(
            all.verifier().access(&signed(algorithm, &rsa()), NOW),
            Err(TokenError::Algorithm)
        );
    }
    let forged = format!("{}A", &tokens[0][..tokens[0].len() - 1]);
    assert!(all.verifier().access(&forged, NOW).is_err());
    assert!(
        all.verifier().access(&sign(&claims()), NOW).is_ok(),
        "own tokens stay valid beside foreign ones"
    );
}

#[test]
fn unsuitable_key_files_are_refused() {
    assert!(matches!(public_keys(""), Err(PublicKeyError::Empty)));
    assert!(matches!(public_keys(RSA), Err(PublicKeyError::Label { block: 1, .. })));
    assert!(matches!(
        public_keys(P384_PUBLIC),
        Err(PublicKeyError::Unsupported { block: 1 })
    ));
    let second = format!("{RSA_PUBLIC}\n{RSA1024_PUBLIC}");
    assert!(matches!(
        public_keys(&second),
        Err(PublicKeyError::Unsupported { block: 2 })
    ));
    assert!(matches!(
        public_keys("-----BEGIN PUBLIC KEY-----\nAAAA"),
        Err(PublicKeyError::Unsupported { .. })
    ));
    assert_eq!(
        public_keys(&format!("{RSA_PUBLIC}{P256_PUBLIC}{ED25519_PUBLIC}"))
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn times_are_checked_against_the_given_clock() {
    let gate = authenticator(&[], "");
    let token = sign(&claims());
    let at = |now| gate.verifier().access(&token, now).map(|_| ());
    assert_eq!(at(NOW + 100 + LEEWAY_S - 1), Ok(()));
    assert_eq!(at(NOW + 100 + LEEWAY_S), Err(TokenError::Expired));
    assert_eq!(access(&without("exp")).unwrap_err(), TokenError::NoExpiry);
    for bad in [json!(null), json!("9999999999"), json!([1]), json!(true)] {
        assert_eq!(access(&with("exp", bad)).unwrap_err(), TokenError::NoExpiry);
    }
    assert_eq!(access(&with("exp", json!(-1))).unwrap_err(), TokenError::Expired);
    assert_eq!(
        access(&with("nbf", json!(NOW + LEEWAY_S + 1))).unwrap_err(),
        TokenError::NotYetValid
    );
    assert_eq!(
        access(&with("nbf", json!("soon"))).unwrap_err(),
        TokenError::NotYetValid
    );
    assert!(access(&with("nbf", json!(NOW + LEEWAY_S))).is_ok());
    let far = access(&with("exp", json!(1e300))).unwrap();
    assert_eq!(far.expires_at_unix_s(), Some(253_402_300_799));
}

#[test]
fn a_refresh_token_is_no_access_token_and_the_reverse() {
    let gate = authenticator(&[], "");
    let subject = Subject {
        user_id: "u".into(),
        email: None,
        permissions: Permissions::anonymous(),
        demo: false,
    };
    let pair = gate.issuer().pair(&subject, None, NOW);
    assert!(gate.verifier().access(&pair.access, NOW).is_ok());
    assert!(gate.verifier().refresh(&pair.refresh, NOW).is_ok());
    assert_eq!(gate.verifier().access(&pair.refresh, NOW), Err(TokenError::Use));
    assert_eq!(gate.verifier().refresh(&pair.access, NOW), Err(TokenError::Use));
    assert_eq!(access(&without("permissions")), Err(TokenError::Use));
    assert_eq!(access(&with("tokenUse", json!("reset"))), Err(TokenError::Use));
    assert_eq!(access(&with("tokenUse", json!(["access"]))), Err(TokenError::Use));
    assert!(gate.verifier().refresh(&sign(&without("permissions")), NOW).is_ok());
    assert_eq!(gate.verifier().refresh(&sign(&claims()), NOW), Err(TokenError::Use));
}

#[test]
fn issuer_and_audience_are_demanded_when_configured() {
    let gate = authenticator(&[("JWT_ISSUER", "me"), ("JWT_AUDIENCE", "sync")], "");
    let check = |extra: Value| {
        let mut all = claims();
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        gate.verifier().access(&sign(&all), NOW).map(|_| ())
    };
    assert_eq!(check(json!({"iss": "me", "aud": "sync"})), Ok(()));
    assert_eq!(check(json!({"iss": "me", "aud": ["x", "sync"]})), Ok(()));
    assert_eq!(check(json!({"iss": "you", "aud": "sync"})), Err(TokenError::Issuer));
    assert_eq!(check(json!({"aud": "sync"})), Err(TokenError::Issuer));
    assert_eq!(check(json!({"iss": ["me"], "aud": "sync"})), Err(TokenError::Issuer));
    assert_eq!(check(json!({"iss": "me"})), Err(TokenError::Audience));
    assert_eq!(check(json!({"iss": "me", "aud": "other"})), Err(TokenError::Audience));
    let own = gate.issuer().development_token(NOW);
    assert!(gate.verifier().access(&own, NOW).unwrap().permissions.is_admin());
    assert!(
        access(&with("aud", json!("anything"))).is_ok(),
        "not configured, not checked"
    );
}

#[test]
fn every_tampered_byte_is_noticed() {
    let gate = authenticator(&[], "");
    let token = sign(&claims());
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        let outcome = gate.verifier().access(&changed, NOW);
        assert!(outcome.is_err(), "byte {at}");
    }
    assert_eq!(
        gate.verifier()
            .access(&sign_with(&claims(), Algorithm::HS256, b"other"), NOW),
        Err(TokenError::Signature)
    );
    let stripped = &token[..=token.rfind('.').unwrap()];
    assert_eq!(gate.verifier().access(stripped, NOW), Err(TokenError::Signature));
}

#[test]
fn unknown_critical_extensions_are_refused() {
    let header = Header {
        crit: Some(vec!["exp".into()]),
        ..Header::default()
    };
    let token = encode(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    assert_eq!(
        authenticator(&[], "").verifier().access(&token, NOW),
        Err(TokenError::Malformed)
    );
}

#[test]
fn user_ids_come_from_user_id_before_sub_and_must_exist() {
    assert_eq!(access(&with("sub", json!("s"))).unwrap().user_id.as_ref(), "u");
    let mut only_sub = without("userId");
    only_sub["sub"] = json!("s");
    assert_eq!(access(&only_sub).unwrap().user_id.as_ref(), "s");
    assert_eq!(access(&without("userId")).unwrap_err(), TokenError::NoUser);
    assert_eq!(access(&with("userId", json!(7))).unwrap_err(), TokenError::NoUser);
    assert_eq!(
        access(&with("userId", json!("x".repeat(257)))).unwrap_err(),
        TokenError::NoUser
    );
}

#[test]
fn malformed_permissions_grant_nothing() {
    let identity = access(&with("permissions", json!("admin"))).unwrap();
    assert_eq!(identity.permissions, Permissions::default());
}

#[test]
fn huge_and_deep_tokens_are_refused_cheaply() {
    let gate = authenticator(&[], "");
    let huge = sign(&with("email", json!("x".repeat(TOKEN_BYTES_MAX))));
    assert_eq!(gate.verifier().access(&huge, NOW), Err(TokenError::TooLong));
    let deep = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    let header = base64(r#"{"alg":"HS256"}"#);
    let message = format!("{header}.{}", base64(&deep));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    assert_eq!(
        gate.verifier().access(&format!("{message}.{signature}"), NOW),
        Err(TokenError::Malformed)
    );
}

fn outcome(gate: &Authenticator, credentials: Credentials<'_>) -> AuthOutcome {
    gate.authenticate(credentials, NOW)
}

fn refusal(outcome: AuthOutcome) -> (&'static str, &'static str, Option<&'static str>) {
    let AuthOutcome::Refused(refusal) = outcome else {
        panic!("{outcome:?}")
    };
    (refusal.error, refusal.code, refusal.close.reason(1))
}

#[test]
fn the_table_for_required_authentication() {
    let gate = authenticator(
        &[("SYNCKIT_AUTH_APIKEYS", "key-number-one-1,key-number-two-2=read")],
        "",
    );
    let good = sign(&claims());
    let none = Credentials::default();
    let failed = ("Authentication failed", "INVALID_TOKEN", Some("Authentication failed"));
    let required = (
        "Authentication required",
        "AUTH_REQUIRED",
        Some("Authentication required"),
    );
    let accepted = |credentials| match outcome(&gate, credentials) {
        AuthOutcome::Accepted(identity) => identity,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        accepted(Credentials {
            token: Some(&good),
            ..none
        })
        .user_id
        .as_ref(),
        "u"
    );
    let both = Credentials {
        token: Some("bad"),
        api_key: Some("key-number-two-2"),
        ..none
    };
    assert_eq!(accepted(both).user_id.as_ref(), "api-key-user");
    assert!(!accepted(both).permissions.can_write("a"));
    assert!(
        accepted(Credentials {
            api_key: Some("key-number-one-1"),
            ..none
        })
        .permissions
        .is_admin()
    );
    assert_eq!(
        refusal(outcome(
            &gate,
            Credentials {
                token: Some("bad"),
                ..none
            }
        )),
        failed
    );
    assert_eq!(
        refusal(outcome(
            &gate,
            Credentials {
                api_key: Some("key-number-one-"),
                ..none
            }
        )),
        failed
    );
    assert_eq!(
        refusal(outcome(
            &gate,
            Credentials {
                user_id: Some("admin"),
                ..none
            }
        )),
        required
    );
    assert_eq!(
        refusal(outcome(
            &gate,
            Credentials {
                token: Some(""),
                api_key: Some(""),
                ..none
            }
        )),
        required
    );
}

#[test]
fn goc_clients_may_try_again() {
    let gate = authenticator(&[], "");
    let credentials = Credentials {
        token: Some("bad"),
        goc_style: true,
        ..Credentials::default()
    };
    assert_eq!(
        refusal(outcome(&gate, credentials)),
        ("Invalid or expired token", "INVALID_TOKEN", None)
    );
    let AuthOutcome::Refused(refusal) = outcome(&gate, credentials) else {
        panic!()
    };
    assert_eq!(refusal.close.reason(GOC_FAILURES_MAX), Some("Authentication failed"));
}

#[test]
fn the_rules_without_authentication() {
    let gate = authenticator(&[("SYNCKIT_AUTH_REQUIRED", "false")], "");
    let none = Credentials::default();
    let unchanged = |user_id: &str| AuthOutcome::Unchanged {
        user_id: user_id.to_owned(),
    };
    assert_eq!(outcome(&gate, none), unchanged("anonymous"));
    assert_eq!(
        outcome(
            &gate,
            Credentials {
                user_id: Some("ann"),
                ..none
            }
        ),
        unchanged("ann")
    );
    let long = "x".repeat(257);
    assert_eq!(
        outcome(
            &gate,
            Credentials {
                user_id: Some(&long),
                ..none
            }
        ),
        unchanged("anonymous")
    );
    assert_eq!(
        outcome(
            &gate,
            Credentials {
                api_key: Some("whatever"),
                ..none
            }
        ),
        unchanged("anonymous")
    );
    let bad = outcome(
        &gate,
        Credentials {
            token: Some("bad"),
            ..none
        },
    );
    assert_eq!(
        refusal(bad).2,
        Some("Authentication failed"),
        "a bad token is refused in this mode too"
    );
    let good = sign(&claims());
    assert!(matches!(
        outcome(
            &gate,
            Credentials {
                token: Some(&good),
                ..none
            }
        ),
        AuthOutcome::Accepted(_)
    ));
    let UpgradeOutcome::Authenticated(anonymous) = gate.authenticate_upgrade(None, NOW) else {
        panic!()
    };
    assert!(anonymous.permissions.can_write("x") && !anonymous.permissions.is_admin());
}

#[test]
fn a_token_in_the_upgrade_request_lasts() {
    let gate = authenticator(&[], "");
    let good = sign(&claims());
    assert_eq!(gate.authenticate_upgrade(None, NOW), UpgradeOutcome::Pending);
    assert!(matches!(
        gate.authenticate_upgrade(Some("bad"), NOW),
        UpgradeOutcome::Refused(_)
    ));
    let UpgradeOutcome::Authenticated(identity) = gate.authenticate_upgrade(Some(&good), NOW) else {
        panic!()
    };
    let later = Credentials {
        current: Some(&identity),
        user_id: Some("eve"),
        ..Credentials::default()
    };
    assert_eq!(
        outcome(&gate, later),
        AuthOutcome::Unchanged {
            user_id: "u".to_owned()
        }
    );
    let anonymous = Arc::clone(gate.anonymous());
    let nobody = Credentials {
        current: Some(&anonymous),
        ..Credentials::default()
    };
    assert!(
        matches!(outcome(&gate, nobody), AuthOutcome::Refused(_)),
        "anonymous proves nothing"
    );
}

proptest! {
    #[test]
    fn no_token_panics(token in "\\PC{0,200}") {
        prop_assert!(authenticator(&[], "").verifier().access(&token, NOW).is_err());
    }

    #[test]
    fn no_signed_content_panics(content in "\\PC{0,200}", exp in any::<f64>()) {
        let gate = authenticator(&[], "");
        let header = base64(r#"{"alg":"HS256"}"#);
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let body = json!({"userId": content, "permissions": content, "exp": exp, "nbf": content}).to_string();
        for body in [content, body] {
            let message = format!("{header}.{}", base64(&body));
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            let _ = gate.verifier().access(&format!("{message}.{signature}"), NOW);
            let _ = gate.verifier().refresh(&format!("{message}.{signature}"), NOW);
        }
    }
}
