//! `REDIS_URL`: what the `redis` crate reads, the addresses of sentinels, and TLS by rustls.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SENTINEL_PORT: u16 = 26_379;

/// Why a URL cannot be used. The operator's fault; the text holds nothing of the URL, which may contain a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisUrlError {
    /// It is no URL of a Redis.
    #[error("it is not a URL like redis://user:password@host:6379 ({0})")]
    Malformed(String),
    /// The list of sentinels or the name of the master is missing or wrong.
    #[error("it is not a URL like redis+sentinel://user:password@host:26379,host:26379/name-of-the-master")]
    Sentinels,
    /// The authorities for TLS cannot be read.
    #[error("{0}")]
    Certificates(String),
}

/// Where Redis is and how to get there.
#[derive(Clone)]
pub struct RedisAddress {
    pub(super) target: Target,
    pub(super) sentinels: Option<Sentinels>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// Who knows which server is the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sentinels {
    pub nodes: Vec<(String, u16)>,
    pub master: String,
}

impl RedisAddress {
    /// Reads `redis://`, `rediss://` (TLS), `unix://` and `redis+sentinel://`. For TLS, `?sslrootcert=FILE` names the
    /// authorities instead of the system's, and `#insecure` takes every certificate.
    pub fn parse(url: &str) -> Result<RedisAddress, RedisUrlError> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let (sentinels, url) = match scheme.strip_suffix("+sentinel") {
            Some(scheme) => {
                let (sentinels, plain) = sentinels(scheme, rest)?;
                (Some(sentinels), plain)
            }
            None => (None, url.to_owned()),
        };
        let (url, authorities) = without_authorities(&url);
        let info: ConnectionInfo = url
            .as_str()
            .into_connection_info()
            .map_err(|error| RedisUrlError::Malformed(error.to_string()))?;
        let (target, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (Target::Tcp(host.clone(), *port), None),
            ConnectionAddr::TcpTls {
                host, port, insecure, ..
            } => {
                let tls = client_config(authorities.as_deref(), *insecure).map_err(RedisUrlError::Certificates)?;
                (Target::Tcp(host.clone(), *port), Some(Arc::new(tls)))
            }
            ConnectionAddr::Unix(path) => (Target::Unix(path.clone()), None),
            _ => return Err(RedisUrlError::Malformed("unknown kind of address".to_owned())),
        };
        let settings = info.redis_settings();
        Ok(RedisAddress {
            target,
            sentinels,
            tls,
            username: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
        })
    }

    /// Where Redis is, without user and password.
    pub fn place(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        match (&self.sentinels, &self.target) {
            (Some(sentinels), _) => {
                let nodes: Vec<String> = sentinels
                    .nodes
                    .iter()
                    .map(|(host, port)| format!("{host}:{port}"))
                    .collect();
                format!("{scheme}+sentinel://{}/{}", nodes.join(","), sentinels.master)
            }
            (None, Target::Tcp(host, port)) => format!("{scheme}://{host}:{port}"),
            (None, Target::Unix(path)) => format!("unix://{}", path.display()),
        }
    }
}

impl std::fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisAddress({})", self.place())
    }
}

/// Takes the sentinels out and leaves a URL of the `redis` crate's kind, for user, password and TLS.
fn sentinels(scheme: &str, rest: &str) -> Result<(Sentinels, String), RedisUrlError> {
    let (rest, fragment) = rest.split_once('#').map_or((rest, ""), |(rest, part)| (rest, part));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').ok_or(RedisUrlError::Sentinels)?;
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (format!("{credentials}@"), hosts),
        None => (String::new(), authority),
    };
    let master = path.split('/').next().unwrap_or_default();
    let node = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() => Some((host.to_owned(), port.parse().ok()?)),
        None if !text.is_empty() => Some((text.to_owned(), SENTINEL_PORT)),
        _ => None,
    };
    let nodes: Option<Vec<_>> = hosts.split(',').map(node).collect();
    let nodes = nodes.filter(|_| !master.is_empty()).ok_or(RedisUrlError::Sentinels)?;
    let mut plain = format!("{scheme}://{credentials}{}", nodes[0].0);
    if !query.is_empty() {
        plain.push_str(&format!("?{query}"));
    }
    if !fragment.is_empty() {
        plain.push_str(&format!("#{fragment}"));
    }
    let master = master.to_owned();
    Ok((Sentinels { nodes, master }, plain))
}

/// Takes `sslrootcert` out, which the `redis` crate does not know.
fn without_authorities(url: &str) -> (String, Option<PathBuf>) {
    let Some((base, rest)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let (query, fragment) = rest
        .split_once('#')
        .map_or((rest, None), |(query, part)| (query, Some(part)));
    let mut authorities = None;
    let kept: Vec<&str> = query
        .split('&')
        .filter(|parameter| match parameter.strip_prefix("sslrootcert=") {
            Some(path) => {
                authorities = Some(PathBuf::from(path.replace("%2F", "/")));
                false
            }
            None => !parameter.is_empty(),
        })
        .collect();
    let mut url = base.to_owned();
    if !kept.is_empty() {
        url.push_str(&format!("?{}", kept.join("&")));
    }
    if let Some(fragment) = fragment {
        url.push_str(&format!("#{fragment}"));
    }
    (url, authorities)
}

fn client_config(authorities: Option<&Path>, insecure: bool) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if insecure {
        let verifier = Arc::new(TakesEverything(provider));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let unusable = |error: &dyn std::fmt::Display| format!("sslrootcert {}: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| format!("no usable root certificates: {error}"))?;
    Ok(builder.with_webpki_verifier(verifier).with_no_client_auth())
}

/// For `#insecure`: encryption without knowing with whom.
#[derive(Debug)]
struct TakesEverything(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesEverything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_kind_are_read_and_shown_without_secrets() {
        let place = |url: &str| RedisAddress::parse(url).unwrap().place();
        assert_eq!(place("redis://localhost"), "redis://localhost:6379");
        assert_eq!(place("redis://u:hunter2@r.example:7000/3"), "redis://r.example:7000");
        assert_eq!(place("unix:///run/redis.sock?pass=hunter2"), "unix:///run/redis.sock");
        assert_eq!(place("rediss://:hunter2@r#insecure"), "rediss://r:6379");
        let sentinel = RedisAddress::parse("redis+sentinel://u:hunter2@a:1,b/mymaster").unwrap();
        assert_eq!(sentinel.place(), "redis+sentinel://a:1,b:26379/mymaster");
        assert_eq!(
            (sentinel.username.as_deref(), sentinel.password.as_deref()),
            (Some("u"), Some("hunter2"))
        );
        let escaped = RedisAddress::parse("redis://:p%40ss@r").unwrap();
        assert_eq!(escaped.password.as_deref(), Some("p@ss"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_quoting_it() {
        for url in [
            "redis://:hunter2@",
            "redis+sentinel://hunter2",
            "redis+sentinel://a:hunter2/m",
            "redis+sentinel://a:1/",
            "rediss://r?sslrootcert=/does/not/exist",
        ] {
            let error = RedisAddress::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
