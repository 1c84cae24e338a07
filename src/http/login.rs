//! `/auth/*`: login, refresh, who am I, is this token good (docs/protocol.md §16.2).

use super::address::AddressGroup;
use super::api::Api;
use super::request::Head;
use super::response::Response;
use super::routes::{Answer, bearer_with_email, too_many};
use crate::auth::{Authenticator, Permissions, Redemption, RefreshClaims, Subject};
use crate::clock::Now;
use crate::config::DemoLogin;
use serde_json::{Value, json};

/// Longest e-mail, in bytes (RFC 5321 allows 254; some more for odd user names).
const EMAIL_BYTES_MAX: usize = 320;

/// `POST /auth/login`. With a users file only its accounts exist; the demo login is for servers without one.
pub(super) fn login(body: &Value, address: AddressGroup, api: &Api, now: Now) -> Answer {
    if api.users().is_none() && api.demo_login == DemoLogin::Off {
        return Answer::Respond(Response::error(403, "Login is disabled"));
    }
    let (Some(email), Some(password)) = (text(body, "email"), text(body, "password")) else {
        return Answer::Respond(Response::error(400, "Email and password required"));
    };
    if email.len() > EMAIL_BYTES_MAX {
        return Answer::Respond(Response::error(400, "Email too long"));
    }
    match api.users() {
        Some(users) => match api.count_login(address, email, now) {
            Ok(()) => Answer::Blocking(users.login(email, password.to_owned())),
            Err(seconds) => Answer::Respond(too_many(seconds)),
        },
        None => {
            let wished = Permissions::from_json(body.get("permissions").unwrap_or(&Value::Null), false);
            let permissions = if api.demo_login == DemoLogin::Full {
                wished
            } else {
                wished.without_admin()
            };
            let user_id = format!("user-{}", now.unix_ms);
            let subject = Subject {
                user_id,
                email: Some(email.to_owned()),
                permissions,
                demo: true,
            };
            Answer::Respond(logged_in(&api.auth, &subject, now))
        }
    }
}

/// The answer to a successful login.
pub(super) fn logged_in(auth: &Authenticator, subject: &Subject, now: Now) -> Response {
    let pair = auth.issuer().pair(subject, None, now.unix_ms / 1000);
    let body = json!({
        "userId": subject.user_id,
        "email": subject.email,
        "accessToken": pair.access,
        "refreshToken": pair.refresh,
        "permissions": subject.permissions,
    });
    secret(Response::json(200, &body))
}

/// `POST /auth/refresh`: every refresh token works once.
pub(super) fn refresh(body: &Value, api: &Api, now: Now) -> Response {
    let now_unix_s = now.unix_ms / 1000;
    let refused = || Response::error(401, "Invalid or expired refresh token");
    let Some(token) = text(body, "refreshToken") else {
        return Response::error(400, "Refresh token required");
    };
    let Ok(claims) = api.auth.verifier().refresh(token, now_unix_s) else {
        return refused();
    };
    // Tokens of other servers have no id; the token itself serves as one, and as the name of the login.
    let id = claims.jti.as_deref().unwrap_or(token);
    let family = claims.family.clone().unwrap_or_else(|| id.to_owned());
    if api.ledger().redeem(id, &family, now_unix_s) == Redemption::Refused {
        return refused();
    }
    let Some(subject) = refreshed(claims, api) else {
        return refused();
    };
    let pair = api.auth.issuer().pair(&subject, Some(&family), now_unix_s);
    secret(Response::json(
        200,
        &json!({ "accessToken": pair.access, "refreshToken": pair.refresh }),
    ))
}

/// Whom the refreshed tokens are for. What the operator changed since the login counts: an account that is gone or may do
/// less, a demo login that is off. Otherwise a chain of refreshes would outlive every decision.
fn refreshed(claims: RefreshClaims, api: &Api) -> Option<Subject> {
    let RefreshClaims {
        user_id,
        email,
        permissions,
        demo,
        ..
    } = claims;
    match api.users() {
        Some(users) => {
            let account = users.account(email.as_deref()?)?.clone();
            Some(Subject {
                user_id: account.user_id,
                email: Some(account.email),
                permissions: account.permissions,
                demo: false,
            })
        }
        None if demo && api.demo_login == DemoLogin::Off => None,
        None if demo && api.demo_login == DemoLogin::User => Some(Subject {
            user_id,
            email,
            permissions: permissions.without_admin(),
            demo,
        }),
        None => Some(Subject {
            user_id,
            email,
            permissions,
            demo,
        }),
    }
}

/// `GET /auth/me`.
pub(super) fn me(head: &Head, api: &Api, now: Now) -> Response {
    match bearer_with_email(head, api, now) {
        Ok((identity, email)) => {
            let body = json!({ "userId": identity.user_id, "email": email, "permissions": identity.permissions });
            secret(Response::json(200, &body))
        }
        Err(refused) => refused,
    }
}

/// `POST /auth/verify`.
pub(super) fn verify(body: &Value, api: &Api, now: Now) -> Response {
    let Some(token) = text(body, "token") else {
        return Response::error(400, "Token required");
    };
    let body = match api.auth.verifier().access(token, now.unix_ms / 1000) {
        Ok(identity) => json!({ "valid": true, "userId": identity.user_id, "expiresAt": identity.expires_at_unix_s() }),
        Err(_) => json!({ "valid": false, "userId": null, "expiresAt": null }),
    };
    secret(Response::json(200, &body))
}

/// Answers with tokens or personal data in them must not stay in any cache.
fn secret(response: Response) -> Response {
    response.with_header("Cache-Control", "no-store")
}

fn text<'a>(body: &'a Value, name: &str) -> Option<&'a str> {
    body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}
