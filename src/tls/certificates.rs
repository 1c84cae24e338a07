//! Certificate and key: read, checked, and replaced while connections go on.

use crate::config::TlsConfig;
use crate::config::files::{self, FileError};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{InconsistentKeys, ServerConfig};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// A certificate that ends within this time is worth a warning.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 86_400);
/// Tickets sent to each TLS 1.3 client: it opens one connection at a time.
const TICKETS: usize = 1;

/// Why certificate and key cannot be used. Each message says what the operator can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file of `TLS_CERT` holds no certificate that can be read.
    #[error(
        "TLS_CERT={path:?}: {reason}. Remedy: name a PEM file with the server's certificate and, behind it, the intermediate ones"
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate's time is over, or has not begun.
    #[error("TLS_CERT={path:?}: the certificate {problem}. Remedy: renew it, or correct this machine's clock")]
    Validity {
        /// The file.
        path: PathBuf,
        /// Which of the two.
        problem: String,
    },
    /// The file of `TLS_KEY` holds no key that can be read.
    #[error(
        "TLS_KEY={path:?}: {reason}. Remedy: name a PEM file with the private key of the certificate (PKCS#8, PKCS#1 or SEC1)"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is protected by a password.
    #[error(
        "TLS_KEY={path:?}: the key is encrypted, and a server that starts by itself has nobody to ask for the password. \
         Remedy: openssl pkey -in {path:?} -out server.key, readable for the server's user only"
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The two do not belong together.
    #[error(
        "TLS_KEY={key:?} is not the key of TLS_CERT={certificate:?}. Remedy: name the two files that were made together"
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Anything else that TLS does not accept.
    #[error("TLS_CERT and TLS_KEY cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The certificate in force, shared by all shards. Cheap to clone.
#[derive(Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

struct Shared {
    files: TlsConfig,
    /// Outlives reloads, so that clients can still resume.
    tickets: Arc<dyn ProducesTickets>,
    current: RwLock<Arc<ServerConfig>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("files", &self.shared.files)
            .finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads and checks both files.
    pub fn load(files: &TlsConfig) -> Result<Certificates, TlsError> {
        let tickets = ring::Ticketer::new()?;
        let current = RwLock::new(read(files, &tickets)?);
        Ok(Certificates {
            shared: Arc::new(Shared {
                files: files.clone(),
                tickets,
                current,
            }),
        })
    }

    /// Reads both files again. New connections get what they hold now; those that are open keep what they have. After an
    /// error everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = read(&self.shared.files, &self.shared.tickets)?;
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// What a new connection is made with.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let current = self.shared.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }
}

fn read(files: &TlsConfig, tickets: &Arc<dyn ProducesTickets>) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = chain(files)?;
    check_validity(files, &chain[0])?;
    let key = key(files)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
            },
            other => TlsError::Unusable(other),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Resumption by tickets only: nothing is remembered per client.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(tickets);
    config.send_tls13_tickets = TICKETS;
    Ok(Arc::new(config))
}

fn chain(files: &TlsConfig) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = files::read("TLS_CERT", &files.certificate)?;
    let refused = |reason: String| TlsError::Certificate {
        path: files.certificate.clone(),
        reason,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.map_err(|error| refused(error.to_string()))?;
    if chain.is_empty() {
        return Err(refused("it holds no certificate".to_owned()));
    }
    Ok(chain)
}

fn check_validity(files: &TlsConfig, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
    let parsed = Certificate::from_der(certificate).map_err(|error| TlsError::Certificate {
        path: files.certificate.clone(),
        reason: format!("its first certificate cannot be read ({error})"),
    })?;
    let validity = parsed.tbs_certificate.validity;
    let refused = |problem: String| TlsError::Validity {
        path: files.certificate.clone(),
        problem,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if now < validity.not_before.to_unix_duration() {
        return Err(refused(format!("is not valid before {}", validity.not_before)));
    }
    let end = validity.not_after.to_unix_duration();
    if now > end {
        return Err(refused(format!("expired on {}", validity.not_after)));
    }
    if end - now < EXPIRY_WARNING {
        tracing::warn!(
            "the TLS certificate expires on {}: renew it and send SIGHUP",
            validity.not_after
        );
    }
    Ok(())
}

fn key(files: &TlsConfig) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = files::read("TLS_KEY", &files.key)?;
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::EncryptedKey {
            path: files.key.clone(),
        });
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| TlsError::Key {
        path: files.key.clone(),
        reason: match error {
            rustls::pki_types::pem::Error::NoItemsFound => "it holds no private key".to_owned(),
            other => other.to_string(),
        },
    })
}
