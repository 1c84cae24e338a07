//! The single table of settings. Command-line flags, environment variables, keys of the configuration file,
//! `config print`, `--help`, the man page and docs/configuration.md are all made from it; tests hold the code that reads
//! settings to it in both directions.

/// Sections of the table, in the order they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Where and how it runs.
    Server,
    /// Who may connect.
    Authentication,
    /// The HTTP side.
    Http,
    /// What peers may use.
    Limits,
    /// Windows and time-outs.
    Timing,
    /// Where documents are kept.
    Storage,
    /// Other servers.
    Cluster,
}

impl Group {
    /// All of them in order.
    pub const ALL: [Group; 7] = [
        Group::Server,
        Group::Authentication,
        Group::Http,
        Group::Limits,
        Group::Timing,
        Group::Storage,
        Group::Cluster,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Server => "Server",
            Group::Authentication => "Authentication",
            Group::Http => "HTTP",
            Group::Limits => "Limits",
            Group::Timing => "Timing",
            Group::Storage => "Storage",
            Group::Cluster => "Cluster",
        }
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Environment variables, main spelling first; the first that is set counts.
    pub names: &'static [&'static str],
    /// Its section.
    pub group: Group,
    /// What kind of value it takes, as a placeholder.
    pub value: &'static str,
    /// The default as an operator would write it; empty: none, or explained in the help.
    pub default: &'static str,
    /// What it does, units included.
    pub help: &'static str,
    /// Never shown, never a flag (other users see command lines), and readable from the file that `NAME_FILE` names.
    pub secret: bool,
    /// Takes effect on SIGHUP.
    pub reload: bool,
}

impl Entry {
    /// The main spelling.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The key in the configuration file: the main name in small letters without `SYNCKIT_`.
    pub fn key(&self) -> String {
        let name = self.name();
        name.strip_prefix("SYNCKIT_").unwrap_or(name).to_ascii_lowercase()
    }

    /// The flag without dashes in front; secrets have none.
    pub fn flag(&self) -> Option<String> {
        (!self.secret).then(|| self.key().replace('_', "-"))
    }
}

const fn row(
    group: Group,
    names: &'static [&'static str],
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Entry {
    Entry {
        names,
        group,
        value,
        default,
        help,
        secret: false,
        reload: false,
    }
}

const fn secret(mut entry: Entry) -> Entry {
    entry.secret = true;
    entry
}

const fn reloaded(mut entry: Entry) -> Entry {
    entry.reload = true;
    entry
}

use Group::{Authentication, Cluster, Http, Limits, Server, Storage, Timing};

/// Every setting.
#[rustfmt::skip]
pub static TABLE: &[Entry] = &[
    row(Server, &["SYNCKIT_ENV", "ENVIRONMENT", "NODE_ENV", "ASPNETCORE_ENVIRONMENT"], "NAME", "development",
        "`development`, `test` or `production`; production refuses unsafe settings"),
    row(Server, &["HOST"], "ADDRESS", "0.0.0.0", "IP address to listen on; `::` for both families"),
    row(Server, &["PORT"], "PORT", "8080", "TCP port to listen on; 0 takes a free one"),
    row(Server, &["SYNCKIT_SERVER_URL"], "URL", "", "`http://host:port[/ws]`, used where `HOST` or `PORT` is not set"),
    row(Server, &["SYNCKIT_SHARDS"], "N", "0", "number of shards, each pinned to a core; 0 = one per core"),
    row(Server, &["SYNCKIT_SOCKETS"], "LAYER", "auto",
        "`direct`: direct descriptors, or no start; `ordinary`: ordinary descriptors with epoll; `auto`: direct where a trial succeeds"),
    row(Server, &["SYNCKIT_DRAIN_MS"], "MS", "2000",
        "window over which SIGTERM spreads the closing of connections, ms; `/health/ready` says 503 meanwhile; 0 = all at once"),
    reloaded(row(Server, &["SYNCKIT_LOG", "RUST_LOG"], "FILTER", "info",
        "log levels: `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,synckit_server::auth=debug`")),

    row(Authentication, &["SYNCKIT_AUTH_REQUIRED"], "BOOL", "true", "anything but `false`, `0`, `no`, `off` means required"),
    reloaded(secret(row(Authentication, &["JWT_SECRET"], "TEXT", "", "HS256 key, at least 32 bytes; needed in production, otherwise random per start"))),
    row(Authentication, &["JWT_EXPIRES_IN"], "DURATION", "24h",
        "life of access tokens: number and `ms`, `s`, `m`, `h`, `d`, `w`, `y`; bare digits are seconds, with a warning"),
    row(Authentication, &["JWT_EXPIRATION_HOURS"], "HOURS", "", "the same in hours, where `JWT_EXPIRES_IN` is not set"),
    row(Authentication, &["JWT_REFRESH_EXPIRES_IN"], "DURATION", "7d", "life of refresh tokens"),
    row(Authentication, &["JWT_ISSUER"], "TEXT", "", "demanded and written `iss`"),
    row(Authentication, &["JWT_AUDIENCE"], "TEXT", "", "demanded and written `aud`"),
    row(Authentication, &["JWT_ALGORITHM"], "NAME", "HS256", "nothing else is accepted"),
    reloaded(row(Authentication, &["JWT_PUBLIC_KEY_FILE"], "PATH", "", "PEM file of keys whose tokens are accepted too (RSA, P-256, Ed25519)")),
    reloaded(secret(row(Authentication, &["SYNCKIT_AUTH_APIKEYS"], "LIST", "", "comma list of `key` or `key=role`; role `admin` (default), `write`, `read`"))),
    row(Authentication, &["SYNCKIT_AUTH_TIMEOUT_MS"], "MS", "10000", "how long a connection may stay unauthenticated, ms"),
    row(Authentication, &["SYNCKIT_CLOSE_ON_TOKEN_EXPIRY"], "BOOL", "true", "close 60 s after the token expired"),
    row(Authentication, &["SYNCKIT_URL_TOKEN"], "BOOL", "true", "read `?token=` of the upgrade request"),
    row(Authentication, &["SYNCKIT_DEMO_LOGIN"], "MODE", "",
        "what `POST /auth/login` does without a users file: `off` refuses (default in production), `user` grants what is asked for except admin (default elsewhere), `full` grants everything"),
    reloaded(row(Authentication, &["SYNCKIT_USERS_FILE"], "PATH", "", "accounts: JSON, or lines `email:hash:permissions` with argon2 or bcrypt hashes")),
    row(Authentication, &["SYNCKIT_DOCUMENT_POLICY"], "POLICY", "open", "`demo`: only the document ids of the family's demo site"),
    row(Authentication, &["SYNCKIT_PERMISSION_PREFIXES"], "BOOL", "false", "permission entries ending in `*` match as prefixes"),

    row(Http, &["CORS_ORIGINS", "CORS_ORIGIN", "SYNCKIT_CORS_ORIGINS"], "LIST", "*",
        "comma or JSON list of origins; with a list, WebSockets of other origins get 403"),
    reloaded(row(Server, &["TLS_CERT"], "FILE", "", "PEM file of the certificate and those between it and the root; with `TLS_KEY`: the port speaks TLS")),
    reloaded(row(Server, &["TLS_KEY"], "FILE", "", "PEM file of the certificate's private key, not encrypted")),
    row(Http, &["WS_COMPRESSION"], "BOOL", "false", "agree on permessage-deflate with clients that offer it"),
    row(Http, &["TRUSTED_PROXIES"], "LIST", "", "comma list of addresses or CIDR ranges whose `X-Forwarded-For` is believed"),
    row(Http, &["TRUSTED_PROXY_HOPS"], "N", "0", "instead: every peer is the last of so many proxies"),
    row(Http, &["RATE_LIMIT_PER_MINUTE"], "N", "600", "HTTP requests per minute and address; not `/ws` and `/health*`; 0 = no limit"),
    row(Http, &["SYNCKIT_HEALTH_DETAILS"], "BOOL", "false", "`/health` lists documents to anybody"),
    row(Http, &["SYNCKIT_METRICS_PUBLIC"], "BOOL", "false", "`/metrics` without a token"),
    row(Http, &["SYNCKIT_TEST_ENDPOINTS"], "BOOL", "false", "`POST /metrics/reset` and `POST /_test/clear`; refused in production"),
    row(Http, &["SYNCKIT_ROOMS_ENDPOINT"], "BOOL", "true", "whether `/rooms` exists"),
    row(Http, &["SYNCKIT_MEMORY_SNAPSHOTS"], "BOOL", "true", "whether snapshots are kept"),
    row(Http, &["SYNCKIT_ANONYMOUS_SNAPSHOT_DELETE"], "BOOL", "false", "deleting snapshots while authentication is off"),

    row(Limits, &["WS_MAX_CONNECTIONS"], "N", "0", "connections in total; 0 = what the socket layer can hold"),
    row(Limits, &["SYNCKIT_MAX_CONNECTIONS_PER_IP", "MAX_CONNECTIONS_PER_IP"], "N", "50",
        "connections per address; those of this machine itself are not counted; 0 = no limit"),
    row(Limits, &["SYNCKIT_MAX_MESSAGES_PER_MINUTE"], "N", "500", "messages per minute and connection; 0 = no limit"),
    row(Limits, &["SYNCKIT_RATE_LIMIT_MODE"], "MODE", "backpressure", "messages above that wait; `reject`: an error and they are dropped"),
    row(Limits, &["SYNCKIT_MAX_MESSAGE_SIZE"], "BYTES", "2000000", "bytes of a message; above it an error; 0 = no limit"),
    row(Limits, &["SYNCKIT_MAX_BATCH_SIZE"], "BYTES", "16MiB", "bytes of a `delta_batch`; above it an error; 0 = no limit"),
    row(Limits, &["SYNCKIT_MAX_FRAME_SIZE"], "BYTES", "17MiB", "bytes of any message; above it close 1009; 0 = no limit"),
    row(Limits, &["SYNCKIT_MAX_DOC_SIZE"], "BYTES", "10485760", "bytes of a document's encoded fields; 0 = no limit"),
    row(Limits, &["SYNCKIT_MAX_SUBSCRIPTIONS"], "N", "1000", "documents per connection; 0 = no limit"),
    row(Limits, &["SYNCKIT_MAX_MEMORY_DOCS"], "N", "0", "documents in memory; further new ones are refused with `LIMIT_EXCEEDED`; 0 = no limit"),
    row(Limits, &["SYNCKIT_MAX_DOCS_PER_IP"], "N", "0", "new documents per address in total; 0 = no limit"),
    row(Limits, &["SYNCKIT_MAX_DOCS_PER_HOUR"], "N", "0", "new documents per address and hour; 0 = no limit"),
    row(Limits, &["SYNCKIT_SEND_QUEUE_BYTES"], "BYTES", "8MiB", "bytes that may wait for one connection, at least 64 KiB; cannot be switched off"),

    row(Timing, &["SYNC_BATCH_DELAY"], "MS", "4", "flush window, ms; 0 = every loop turn"),
    row(Timing, &["SYNCKIT_TOMBSTONE_TTL_HOURS"], "HOURS", "24", "how long deleted fields are remembered, hours"),
    row(Timing, &["AWARENESS_TIMEOUT_MS"], "MS", "30000", "how long presence outlives a vanished connection, ms"),
    row(Timing, &["WS_HEARTBEAT_INTERVAL"], "MS", "30000", "time between WebSocket pings, ms; 0 = none"),
    row(Timing, &["WS_HEARTBEAT_TIMEOUT"], "MS", "60000", "silence that ends a connection, ms; 0 = never"),

    secret(row(Storage, &["DATABASE_URL", "ConnectionStrings__synckit"], "URL", "",
        "`postgresql://user:password@host:port/database?sslmode=…`, `sqlite:PATH`; empty or `memory:` = memory only. `sslmode` as for libpq, with `sslrootcert`")),
    row(Storage, &["SYNCKIT_DURABILITY"], "MODE", "sync", "`sync`: acknowledged after the commit; `async`: at once, and a crash may lose the last moments"),
    row(Storage, &["DB_POOL_MIN", "DATABASE_POOL_MIN"], "N", "2", "connections to PostgreSQL that are kept open"),
    row(Storage, &["DB_POOL_MAX", "DATABASE_POOL_MAX"], "N", "10", "connections to PostgreSQL at most"),
    row(Storage, &["SYNCKIT_DOC_MEMORY"], "BYTES", "1GiB",
        "memory for documents; beyond it stored documents without listeners are unloaded, least recently used first"),
    row(Storage, &["SYNCKIT_DB_STARTUP_TIMEOUT_MS"], "MS", "30000", "how long the database may be away at the start, ms"),
    row(Storage, &["SYNCKIT_DB_OPTIONAL"], "BOOL", "false", "start in memory if it is away for longer"),
    row(Storage, &["SYNCKIT_AUDIT_DELTAS"], "BOOL", "true", "a row in `deltas` for every change"),
    row(Storage, &["SYNCKIT_SESSIONS"], "BOOL", "false", "a row in `sessions` for every authenticated connection"),

    secret(row(Cluster, &["REDIS_URL", "ConnectionStrings__redis"], "URL", "",
        "the Redis that joins the nodes: `redis://`, `rediss://`, `unix://`, `redis+sentinel://`; empty = single server")),
    row(Cluster, &["REDIS_CHANNEL_PREFIX"], "TEXT", "synckit:", "begins the names of all channels; a colon is added at the end"),
    row(Cluster, &["SYNCKIT_DIGEST_INTERVAL"], "MS", "5000", "how often nodes compare documents that changed: ms, or with a unit like `5s`"),
    row(Cluster, &["SYNCKIT_NODE_ID"], "NAME", "", "the node's name among the others; random when empty"),
    row(Cluster, &["SYNCKIT_REDIS_BRIDGE"], "MODE", "off", "`off`; `csharp` is refused: the channels of the C# server are not served"),
];

/// Variables of the other servers of the family that mean nothing here, and why.
pub static IGNORED: &[(&str, &str)] = &[
    ("SYNCKIT_STORAGE_MODEL", "DATABASE_URL says where documents are kept"),
    (
        "WS_MAX_PENDING_SENDS_PER_CONNECTION",
        "SYNCKIT_SEND_QUEUE_BYTES bounds what may wait for a connection",
    ),
    (
        "SYNC_BATCH_SIZE",
        "SYNC_BATCH_DELAY alone decides when changes are sent",
    ),
];

/// The setting with this variable among its spellings.
pub fn find(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.names.contains(&name))
}

/// The setting with this key of the configuration file.
pub fn find_key(key: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.key() == key)
}

/// The known name that `wrong` is most likely meant to be.
pub fn nearest(wrong: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let distance = |name: &String| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    let best = known.into_iter().map(|name| (distance(&name), name)).min()?;
    (best.0 <= 2.max(wrong.len() / 4)).then_some(best.1)
}

/// The table as it stands in docs/configuration.md.
pub fn markdown() -> String {
    use std::fmt::Write as _;
    let mut text =
        String::from("| variable (other spellings) | flag; key of the file | default | meaning |\n|---|---|---|---|\n");
    for group in Group::ALL {
        let _ = writeln!(text, "| **{}** | | | |", group.title());
        for entry in TABLE.iter().filter(|entry| entry.group == group) {
            let others: Vec<String> = entry.names[1..].iter().map(|name| format!("`{name}`")).collect();
            let others = if others.is_empty() {
                String::new()
            } else {
                format!(" ({})", others.join(", "))
            };
            let flag = match entry.flag() {
                Some(flag) => format!("`--{flag}`; `{}`", entry.key()),
                None => format!("`{0}`, `{0}_file`", entry.key()),
            };
            let default = if entry.default.is_empty() {
                "–".to_owned()
            } else {
                format!("`{}`", entry.default)
            };
            let reload = if entry.reload { ". *SIGHUP*" } else { "" };
            let help = entry.help.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}`{others} | {flag} | {default} | {help}{reload} |",
                entry.name()
            );
        }
    }
    text
}
