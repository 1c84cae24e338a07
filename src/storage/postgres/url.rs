//! `DATABASE_URL` for PostgreSQL: what the `postgres` crate reads, and the TLS modes of libpq, which it does not.

use super::tls::{TlsMode, connector};
use super::{Trouble, trouble};
use postgres::config::{Host, SslMode};
use postgres::{Client, Config, NoTls};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without an answer on the network level, a connection is lost.
const PEER_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a URL cannot be used. The operator's fault; the text holds nothing of the URL, which may contain a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The `postgres` crate does not understand it.
    #[error("it is not a PostgreSQL URL like postgresql://user:password@host:5432/database ({0})")]
    Malformed(String),
    /// An unknown TLS mode.
    #[error("sslmode must be disable, prefer, require, verify-ca or verify-full")]
    SslMode,
}

/// Where a database is and how to get there.
#[derive(Clone)]
pub struct PostgresUrl {
    config: Config,
    tls: TlsMode,
    root_certificates: Option<PathBuf>,
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({})", self.place())
    }
}

impl PostgresUrl {
    /// Reads `postgresql://user:password@host:port/database?sslmode=…&sslrootcert=…` (or `postgres://`). `sslmode` is as
    /// for libpq: `disable`, `prefer` (the default), `require`, `verify-ca`, `verify-full`; only the last two check
    /// certificates, against `sslrootcert` or else the system's.
    pub fn parse(url: &str) -> Result<PostgresUrl, UrlError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut tls, mut root_certificates, mut rest) = (TlsMode::Prefer, None, Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslmode", mode)) => tls = TlsMode::parse(mode).ok_or(UrlError::SslMode)?,
                Some(("sslrootcert", path)) => root_certificates = Some(PathBuf::from(path.replace("%2F", "/"))),
                _ => rest.push(parameter),
            }
        }
        let url = match rest.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", rest.join("&")),
        };
        let mut config: Config = url.parse().map_err(|error: postgres::Error| {
            let reason = std::error::Error::source(&error).map_or(error.to_string(), |source| source.to_string());
            UrlError::Malformed(reason)
        })?;
        config.ssl_mode(match tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        if config.get_application_name().is_none() {
            config.application_name("synckit-server");
        }
        config.connect_timeout(*config.get_connect_timeout().unwrap_or(&CONNECT_TIMEOUT));
        config
            .tcp_user_timeout(PEER_TIMEOUT)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3);
        Ok(PostgresUrl {
            config,
            tls,
            root_certificates,
        })
    }

    /// Where the database is, without user and password.
    pub fn place(&self) -> String {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        let ports: Vec<String> = self.config.get_ports().iter().map(u16::to_string).collect();
        format!(
            "{}:{}/{}",
            hosts.join(","),
            if ports.is_empty() {
                "5432".to_owned()
            } else {
                ports.join(",")
            },
            self.config.get_dbname().unwrap_or_default()
        )
    }

    pub(super) fn connect(&self) -> Result<Client, Trouble> {
        let client = match self.tls {
            TlsMode::Disable => self.config.connect(NoTls),
            mode => self
                .config
                .connect(connector(mode, self.root_certificates.as_deref()).map_err(Trouble::Away)?),
        };
        client.map_err(|error| match trouble(&error) {
            // Nothing was asked yet that could be refused for its content: it is always the operator's to repair.
            Trouble::Away(text) | Trouble::Again(text) | Trouble::Refused(text) => Trouble::Away(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_without_giving_away_the_password() {
        let url =
            PostgresUrl::parse("postgresql://u:hunter2@db:5433/synckit?sslmode=verify-full&connect_timeout=3").unwrap();
        assert_eq!(url.place(), "db:5433/synckit");
        assert_eq!(url.tls, TlsMode::VerifyFull);
        assert!(!format!("{url:?}").contains("hunter2"));
        assert_eq!(
            PostgresUrl::parse("postgres:///x?host=/run/pg").unwrap().place(),
            "/run/pg:5432/x"
        );
        assert_eq!(
            PostgresUrl::parse("postgresql://h/x?sslmode=yes").unwrap_err(),
            UrlError::SslMode
        );
        for bad in ["postgresql://u:hunter2@h:port/x", "postgresql://h/x?hunter2=1"] {
            let error = PostgresUrl::parse(bad).unwrap_err();
            assert!(matches!(&error, UrlError::Malformed(_)), "{error:?}");
        }
    }
}
