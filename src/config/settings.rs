//! The configuration as plain data. Every field says its unit; a limit that is switched off holds its type's maximum, so
//! whoever enforces it compares and never asks whether it is on.

use super::cluster::ClusterConfig;
use super::network::TrustedProxies;
use super::operation::OperationConfig;
use super::reader::Setting;
use super::storage::StorageConfig;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Everything the operator can choose.
#[derive(Clone, Debug)]
pub struct Config {
    /// What kind of installation this is; production turns unsafe defaults into start-up errors.
    pub environment: Environment,
    /// Where to listen.
    pub host: IpAddr,
    /// Where to listen; 0 lets the kernel choose, which tests use.
    pub port: u16,
    /// Number of shards; 0 = one per core.
    pub shards: u16,
    /// How sockets are driven.
    pub sockets: SocketChoice,
    /// How it starts, ends and tells about itself.
    pub operation: OperationConfig,
    /// Who may connect, and how they prove it.
    pub auth: AuthConfig,
    /// What the HTTP side offers.
    pub http: HttpConfig,
    /// Bounds on what peers may use.
    pub limits: LimitsConfig,
    /// Timing of synchronisation and presence.
    pub sync: SyncConfig,
    /// Where documents are kept.
    pub storage: StorageConfig,
    /// TLS on the port, if certificates are given.
    pub tls: Option<TlsConfig>,
    /// Several nodes.
    pub cluster: ClusterConfig,
    /// Things the operator should know although the server starts.
    pub warnings: Vec<String>,
    /// Every setting with its effective value and origin, without secrets.
    pub(super) settings: Vec<Setting>,
}

impl Config {
    /// The listening address.
    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Name, effective value and origin of every setting, for the start-up print. Holds no secret.
    pub fn describe(&self) -> &[Setting] {
        &self.settings
    }
}

/// Files for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM: the server's certificate, and the intermediate ones behind it.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// The kind of installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine: convenient defaults.
    Development,
    /// An automated test.
    Test,
    /// Real users: no unsafe default is accepted.
    Production,
}

impl Environment {
    /// The name as operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Test => "test",
            Self::Production => "production",
        }
    }
}

/// How sockets are driven (docs/architecture.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketChoice {
    /// Direct descriptors where the kernel can, else ordinary ones.
    #[default]
    Auto,
    /// Direct descriptors on private io_uring rings, or no start.
    Direct,
    /// Ordinary descriptors behind epoll.
    Ordinary,
}

/// Settings of authentication and authorisation (docs/protocol.md §7, §8).
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// Whether a connection must authenticate at all.
    pub required: bool,
    /// The key of HS256 tokens, at least 32 bytes.
    pub jwt_secret: JwtSecret,
    /// Demanded and emitted `iss`.
    pub jwt_issuer: Option<String>,
    /// Demanded and emitted `aud`.
    pub jwt_audience: Option<String>,
    /// Life of access tokens, in seconds.
    pub access_token_s: u64,
    /// Life of refresh tokens, in seconds.
    pub refresh_token_s: u64,
    /// PEM file with keys whose tokens are accepted too (§7.7).
    pub public_key_file: Option<PathBuf>,
    /// Keys that authenticate without a token.
    pub api_keys: Vec<ApiKey>,
    /// How long a connection may stay unauthenticated, in milliseconds.
    pub auth_timeout_ms: u64,
    /// Whether a connection is closed (60 s) after its token expired.
    pub close_on_token_expiry: bool,
    /// Whether `?token=` in the upgrade request is read.
    pub url_token: bool,
    /// What `POST /auth/login` does without a users file.
    pub demo_login: DemoLogin,
    /// File with real accounts.
    pub users_file: Option<PathBuf>,
    /// Which document ids exist for clients.
    pub document_policy: DocumentPolicy,
    /// Whether permission entries ending in `*` match as prefixes.
    pub permission_prefixes: bool,
}

/// The HS256 key. Its bytes never show in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSecret {
    /// The key itself.
    pub bytes: Vec<u8>,
    /// Made up at this start because none was configured: tokens die with the process, and main says so.
    pub generated: bool,
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSecret")
            .field("bytes", &"(hidden)")
            .field("generated", &self.generated)
            .finish()
    }
}

/// A configured API key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What the client must send.
    pub key: String,
    /// What it is allowed.
    pub role: Role,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("key", &"(hidden)")
            .field("role", &self.role)
            .finish()
    }
}

/// What an API key or a simple account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything, the administrative HTTP calls included.
    Admin,
    /// Read and write every document.
    Write,
    /// Read every document.
    Read,
}

/// What `POST /auth/login` does when there is no users file (docs/protocol.md §16.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoLogin {
    /// Refuses.
    Off,
    /// Grants the requested permissions, but never admin.
    User,
    /// Grants whatever is asked for.
    Full,
}

/// Which document ids clients may use (docs/protocol.md §8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentPolicy {
    /// Every valid id.
    Open,
    /// The list of the family's demo site.
    Demo,
}

/// What happens to a client that sends too many messages (docs/protocol.md §17.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitMode {
    /// Its messages wait. Nothing is lost.
    Backpressure,
    /// Its messages are answered with an error and dropped, as the TypeScript server does.
    Reject,
}

/// Settings of the HTTP side (docs/protocol.md §16).
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Who may call from a browser page.
    pub cors_origins: CorsOrigins,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// HTTP requests per minute and client address; `u32::MAX` = no limit.
    pub requests_per_minute_max: u32,
    /// Whether `/health` lists documents to anybody.
    pub health_details: bool,
    /// Whether `/metrics` answers without an admin token.
    pub metrics_public: bool,
    /// Whether `POST /metrics/reset` and `POST /_test/clear` exist.
    pub test_endpoints: bool,
    /// Whether `/rooms` exists.
    pub rooms_endpoint: bool,
    /// Whether snapshots are kept (in memory).
    pub memory_snapshots: bool,
    /// Whether permessage-deflate is agreed to.
    pub compression: bool,
    /// Whether snapshots can be deleted without authentication while authentication is off.
    pub anonymous_snapshot_delete: bool,
}

/// Origins that browsers may call from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// `*`: everybody, without credentials.
    Any,
    /// Exactly these, compared without regard to case.
    List(Vec<String>),
}

/// Bounds of docs/protocol.md §17.1 that an operator can change. The type's maximum means "no limit".
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// Connections in total; 0 = as many as the descriptor limit allows, which only the runtime knows.
    pub connections_max: u32,
    /// Connections per client address.
    pub connections_per_address_max: u32,
    /// Messages per minute and connection.
    pub messages_per_minute_max: u32,
    /// What happens above that.
    pub rate_limit_mode: RateLimitMode,
    /// Soft limit of one message, in bytes.
    pub message_bytes_max: u64,
    /// Soft limit of one `delta_batch`, in bytes.
    pub batch_bytes_max: u64,
    /// Hard limit of one message, in bytes.
    pub frame_bytes_max: u64,
    /// Encoded fields of one document, in bytes.
    pub document_bytes_max: u64,
    /// Documents one connection may be subscribed to.
    pub subscriptions_max: u32,
    /// Documents in memory, in total.
    pub documents_max: u32,
    /// Documents one address may ever create.
    pub documents_per_address_max: u32,
    /// Documents one address may create per hour.
    pub documents_per_address_per_hour_max: u32,
    /// Outgoing bytes that may wait for one connection (docs/protocol.md §21).
    pub send_queue_bytes_max: u64,
}

/// Timing of synchronisation, presence and heartbeats.
#[derive(Clone, Debug)]
pub struct SyncConfig {
    /// Length of the flush window after a document's last flush, in milliseconds.
    pub flush_window_ms: u64,
    /// How long deleted fields are remembered, in seconds.
    pub tombstone_ttl_s: u64,
    /// How long presence outlives its last sign of life, in milliseconds.
    pub awareness_timeout_ms: u64,
    /// Time between protocol pings, in milliseconds; 0 = none are sent.
    pub heartbeat_interval_ms: u64,
    /// Silence after which a connection is dead, in milliseconds; `u64::MAX` = never.
    pub heartbeat_timeout_ms: u64,
}
