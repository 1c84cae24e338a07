//! TLS to PostgreSQL with the modes of libpq.

use crate::tls::client::{Trust, client_config};
use std::path::Path;
use tokio_postgres_rustls::MakeRustlsConnect;

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    Disable,
    /// Encrypted if the server can; certificates are not checked.
    Prefer,
    /// Encrypted or not at all; certificates are not checked.
    Require,
    /// The certificate must come from a known authority.
    VerifyCa,
    /// It must also be the host's.
    VerifyFull,
}

impl TlsMode {
    pub fn parse(text: &str) -> Option<TlsMode> {
        Some(match text {
            "disable" => TlsMode::Disable,
            "allow" | "prefer" => TlsMode::Prefer,
            "require" => TlsMode::Require,
            "verify-ca" => TlsMode::VerifyCa,
            "verify-full" => TlsMode::VerifyFull,
            _ => return None,
        })
    }
}

/// What the `postgres` crate makes TLS connections with. Errors say what is wrong with the certificates.
pub(super) fn connector(mode: TlsMode, root_certificates: Option<&Path>) -> Result<MakeRustlsConnect, String> {
    let trust = match (mode, root_certificates) {
        // As libpq: a given root certificate is never ignored.
        (TlsMode::Disable | TlsMode::Prefer | TlsMode::Require, None) => Trust::Everything,
        (TlsMode::VerifyFull, file) => Trust::Host(file),
        (_, file) => Trust::Authority(file),
    };
    Ok(MakeRustlsConnect::new(client_config(trust)?))
}
