//! TLS for tests: a folder with certificates made by openssl, and a rustls client that takes every certificate.

use super::server::{Server, ServerBuilder};
use super::{PATIENCE, Steady};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// A TLS connection.
pub type Stream = StreamOwned<ClientConnection, Steady>;

/// A folder with `cert.pem` and `key.pem`, removed in the end.
pub struct Files(PathBuf);

impl Files {
    /// A fresh folder; `name` tells the tests of one binary apart.
    pub fn new(name: &str) -> Files {
        let folder = std::env::temp_dir().join(format!("synckit-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let files = Files(folder);
        files.make("cert.pem", "key.pem", "first", "2");
        files
    }

    /// A certificate of its own authority for `name`, valid for so many days.
    pub fn make(&self, certificate: &str, key: &str, name: &str, days: &str) {
        let new_key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        self.openssl(&format!(
            "{new_key} -days {days} -subj /CN={name} -keyout {key} -out {certificate}"
        ));
    }

    /// Runs openssl in the folder.
    pub fn openssl(&self, arguments: &str) {
        let run = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&self.0)
            .output();
        let run = run.expect("openssl runs");
        assert!(
            run.status.success(),
            "{arguments}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A server with this certificate.
    pub fn server(&self) -> ServerBuilder {
        Server::with()
            .env("TLS_CERT", self.path("cert.pem"))
            .env("TLS_KEY", self.path("key.pem"))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What is left lies in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Takes every certificate; the tests look at it themselves.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A client's settings; those who share them resume each other's sessions.
pub fn client_config() -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider fits")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    Arc::new(config)
}

/// Connects; the handshake happens with the first byte.
pub fn stream(server: &Server, config: &Arc<ClientConfig>) -> Stream {
    let socket = Steady::connect(server.address(), PATIENCE).expect("the server accepts");
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(ClientConnection::new(config.clone(), name).expect("a client"), socket)
}
