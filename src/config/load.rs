//! From variables and flags to [`Config`]: one function per group of settings, in the order they are printed.

use super::cluster::cluster;
use super::flags::Flags;
use super::network::TrustedProxies;
use super::operation::operation;
use super::production;
use super::reader::{ConfigError, Origin, Reader};
use super::settings::{
    AuthConfig, Config, CorsOrigins, DemoLogin, DocumentPolicy, Environment, HttpConfig, JwtSecret, LimitsConfig,
    RateLimitMode, Role, SocketChoice, SyncConfig, TlsConfig,
};
use super::sources::{Sources, odd_variables};
use super::storage::storage;
use super::values::{self, Expected, Life};
use rand::RngCore as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

const SECRET_BYTES_MIN: usize = 32;
const MIB: u64 = 1 << 20;
const DAY_S: u64 = 86_400;
/// A shard number has ten bits.
const SHARDS_MAX: u64 = 1023;
/// Longest time span that is accepted where milliseconds are asked for: ten years, far from any overflow.
const MILLISECONDS_MAX: u64 = 10 * 365 * DAY_S * 1000;
/// How much longer the hard limit of a message is than the longest batch when the operator raised only the latter.
const FRAME_MARGIN_BYTES: u64 = MIB;

impl Config {
    /// Reads all settings. `variables` looks up an environment variable; a flag beats its variable.
    ///
    /// # Errors
    /// Everything that is invalid or refused, collected.
    pub fn from_env(variables: impl Fn(&str) -> Option<String>, flags: &Flags) -> Result<Self, ConfigError> {
        let sources = Sources {
            flags: flags.clone(),
            ..Sources::default()
        };
        Self::read(Reader::new(variables, sources))
    }

    /// Reads all settings from everything the operator said.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let variables = |name: &str| sources.variables.get(name).cloned();
        let mut reader = Reader::new(variables, sources.clone());
        reader.warnings = odd_variables(sources.variables.keys());
        Self::read(reader)
    }

    fn read<V: Fn(&str) -> Option<String>>(mut reader: Reader<V>) -> Result<Self, ConfigError> {
        let environment = reader.value(
            &["SYNCKIT_ENV", "ENVIRONMENT", "NODE_ENV", "ASPNETCORE_ENVIRONMENT"],
            Environment::Development,
            values::environment,
            |environment| environment.name().to_owned(),
        );
        let (host, port) = listen(&mut reader);
        let shards = shards(&mut reader);
        let sockets = reader.value(
            &["SYNCKIT_SOCKETS"],
            SocketChoice::Auto,
            values::sockets,
            |choice| match choice {
                SocketChoice::Auto => "auto".to_owned(),
                SocketChoice::Direct => "direct".to_owned(),
                SocketChoice::Ordinary => "ordinary".to_owned(),
            },
        );
        let operation = operation(&mut reader);
        let auth = auth(&mut reader, environment);
        let http = http(&mut reader);
        let limits = limits(&mut reader);
        let sync = sync(&mut reader);
        let storage = storage(&mut reader);
        let tls = tls(&mut reader);
        let cluster = cluster(&mut reader);
        if environment == Environment::Production {
            production::check(&mut reader, &auth, &http);
        } else if !auth.jwt_secret.generated && production::is_known_secret(&auth.jwt_secret.bytes) {
            reader
                .warnings
                .push("JWT_SECRET is public knowledge; production will refuse it".to_owned());
        }
        if !reader.problems.is_empty() {
            return Err(ConfigError {
                problems: reader.problems,
            });
        }
        let Reader { settings, warnings, .. } = reader;
        Ok(Self {
            environment,
            host,
            port,
            shards,
            sockets,
            operation,
            auth,
            http,
            limits,
            sync,
            storage,
            tls,
            cluster,
            warnings,
            settings,
        })
    }
}

fn listen<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> (IpAddr, u16) {
    const URL: &[&str] = &["SYNCKIT_SERVER_URL"];
    let url = reader.optional(URL, values::server_url).map(|(_, url)| url);
    let url_origin = reader.origin(URL);
    let host = reader.optional(&["HOST"], values::host);
    let port = reader.optional(&["PORT"], |text| {
        values::number(text, 0, 65_535).map(|port| port as u16)
    });
    let (host_origin, port_origin) = (reader.origin(&["HOST"]), reader.origin(&["PORT"]));
    let host = host.map(|(_, host)| (host, host_origin));
    let port = port.map(|(_, port)| (port, port_origin));
    let (url_host, url_port) = url.unzip();
    let (host, host_origin) = chosen(
        host,
        url_host.map(|host| (host, url_origin.clone())),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    );
    let (port, port_origin) = chosen(port, url_port.map(|port| (port, url_origin)), 8080);
    reader.describe("HOST", host.to_string(), host_origin);
    reader.describe("PORT", port.to_string(), port_origin);
    (host, port)
}

/// The setting itself beats the one that stands in for it, unless that was said in a stronger place.
fn chosen<T>(own: Option<(T, Origin)>, stand_in: Option<(T, Origin)>, default: T) -> (T, Origin) {
    match (own, stand_in) {
        (Some(own), Some(stand_in)) if stand_in.1.rank() > own.1.rank() => stand_in,
        (Some(own), _) => own,
        (None, Some(stand_in)) => stand_in,
        (None, None) => (default, Origin::Default),
    }
}

fn shards<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> u16 {
    reader.value(
        &["SYNCKIT_SHARDS"],
        0,
        |text| values::number(text, 0, SHARDS_MAX).map(|shards| shards as u16),
        |shards| match shards {
            0 => "one per core".to_owned(),
            _ => shards.to_string(),
        },
    )
}

fn auth<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, environment: Environment) -> AuthConfig {
    // The family reads everything but "false" as "required", and a typo must not open the server (§7.1).
    let required = reader.value(
        &["SYNCKIT_AUTH_REQUIRED"],
        true,
        |text| {
            Ok(!matches!(
                text.to_ascii_lowercase().as_str(),
                "false" | "0" | "no" | "off"
            ))
        },
        bool::to_string,
    );
    let demo_default = if environment == Environment::Production {
        DemoLogin::Off
    } else {
        DemoLogin::User
    };
    let jwt_secret = jwt_secret(reader);
    let access_token_s = access_token_life(reader);
    reader.value(
        &["JWT_ALGORITHM"],
        (),
        |text| {
            if text == "HS256" {
                Ok(())
            } else {
                Err(Expected("HS256".to_owned()))
            }
        },
        |()| "HS256".to_owned(),
    );
    AuthConfig {
        required,
        jwt_secret,
        jwt_issuer: word(reader, "JWT_ISSUER"),
        jwt_audience: word(reader, "JWT_AUDIENCE"),
        access_token_s,
        refresh_token_s: token_life(reader, "JWT_REFRESH_EXPIRES_IN", 7 * DAY_S),
        public_key_file: path(reader, "JWT_PUBLIC_KEY_FILE"),
        api_keys: api_keys(reader),
        auth_timeout_ms: milliseconds(reader, &["SYNCKIT_AUTH_TIMEOUT_MS"], 10_000, 1),
        close_on_token_expiry: switch(reader, "SYNCKIT_CLOSE_ON_TOKEN_EXPIRY", true),
        url_token: switch(reader, "SYNCKIT_URL_TOKEN", true),
        demo_login: reader.value(
            &["SYNCKIT_DEMO_LOGIN"],
            demo_default,
            values::demo_login,
            |mode| match mode {
                DemoLogin::Off => "off".to_owned(),
                DemoLogin::User => "user".to_owned(),
                DemoLogin::Full => "full".to_owned(),
            },
        ),
        users_file: path(reader, "SYNCKIT_USERS_FILE"),
        document_policy: reader.value(
            &["SYNCKIT_DOCUMENT_POLICY"],
            DocumentPolicy::Open,
            values::document_policy,
            |policy| {
                if *policy == DocumentPolicy::Open {
                    "open".to_owned()
                } else {
                    "demo".to_owned()
                }
            },
        ),
        permission_prefixes: switch(reader, "SYNCKIT_PERMISSION_PREFIXES", false),
    }
}

fn jwt_secret<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> JwtSecret {
    // Taken as it is: other issuers sign with these very bytes, blanks included.
    let Some((name, text)) = reader.untrimmed("JWT_SECRET") else {
        let mut bytes = vec![0; SECRET_BYTES_MIN];
        rand::rng().fill_bytes(&mut bytes);
        reader.describe(
            "JWT_SECRET",
            "(random, valid until restart)".to_owned(),
            Origin::Default,
        );
        return JwtSecret { bytes, generated: true };
    };
    if text.len() < SECRET_BYTES_MIN {
        reader.invalid(name, "(hidden)", Expected(format!("at least {SECRET_BYTES_MIN} bytes")));
    }
    let origin = reader.origin(&["JWT_SECRET"]);
    reader.describe("JWT_SECRET", "(set)".to_owned(), origin);
    JwtSecret {
        bytes: text.into_bytes(),
        generated: false,
    }
}

/// `JWT_EXPIRES_IN`, or the Python server's `JWT_EXPIRATION_HOURS`.
fn access_token_life<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> u64 {
    const HOURS: &str = "JWT_EXPIRATION_HOURS";
    let hours = reader.optional(&[HOURS], |text| values::number(text, 1, 10 * 365 * 24));
    let origin = reader.origin(&[HOURS]);
    if origin.rank() > reader.origin(&["JWT_EXPIRES_IN"]).rank()
        && let Some((_, hours)) = hours
    {
        reader.describe("JWT_EXPIRES_IN", format!("{}s", hours * 3600), origin);
        return hours * 3600;
    }
    token_life(reader, "JWT_EXPIRES_IN", DAY_S)
}

fn token_life<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, name: &'static str, default_s: u64) -> u64 {
    let default = Life {
        seconds: default_s,
        bare: false,
    };
    let life = reader.value(&[name], default, values::life, |life| format!("{}s", life.seconds));
    if life.bare {
        let seconds = life.seconds;
        reader.warnings.push(format!(
            "{name}={seconds} has no unit and is read as seconds; write {seconds}s"
        ));
    }
    life.seconds
}

fn api_keys<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> Vec<super::ApiKey> {
    const NAME: &str = "SYNCKIT_AUTH_APIKEYS";
    let keys = match reader.text(&[NAME]).map(|(_, text)| values::api_keys(&text)) {
        None => Vec::new(),
        Some(Ok(keys)) => keys,
        Some(Err(expected)) => {
            reader.invalid(NAME, "(hidden)", expected);
            Vec::new()
        }
    };
    let count = |role: Role| keys.iter().filter(|key| key.role == role).count();
    let shown = match keys.len() {
        0 => "none".to_owned(),
        _ => format!(
            "{} admin, {} write, {} read",
            count(Role::Admin),
            count(Role::Write),
            count(Role::Read)
        ),
    };
    let origin = reader.origin(&[NAME]);
    reader.describe(NAME, shown, origin);
    keys
}

fn http<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> HttpConfig {
    HttpConfig {
        cors_origins: reader.value(
            &["CORS_ORIGINS", "CORS_ORIGIN", "SYNCKIT_CORS_ORIGINS"],
            CorsOrigins::Any,
            values::cors_origins,
            |origins| match origins {
                CorsOrigins::Any => "*".to_owned(),
                CorsOrigins::List(list) => list.join(","),
            },
        ),
        trusted_proxies: trusted_proxies(reader),
        requests_per_minute_max: count(reader, &["RATE_LIMIT_PER_MINUTE"], 600),
        health_details: switch(reader, "SYNCKIT_HEALTH_DETAILS", false),
        metrics_public: switch(reader, "SYNCKIT_METRICS_PUBLIC", false),
        test_endpoints: switch(reader, "SYNCKIT_TEST_ENDPOINTS", false),
        rooms_endpoint: switch(reader, "SYNCKIT_ROOMS_ENDPOINT", true),
        memory_snapshots: switch(reader, "SYNCKIT_MEMORY_SNAPSHOTS", true),
        compression: switch(reader, "WS_COMPRESSION", false),
        anonymous_snapshot_delete: switch(reader, "SYNCKIT_ANONYMOUS_SNAPSHOT_DELETE", false),
    }
}

fn trusted_proxies<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> TrustedProxies {
    let networks = reader.optional(&["TRUSTED_PROXIES"], values::networks);
    let hops = reader.optional(&["TRUSTED_PROXY_HOPS"], |text| {
        values::number(text, 0, 16).map(|hops| hops as u8)
    });
    let (proxies, shown, origin) = match (networks, hops.filter(|(_, hops)| *hops > 0)) {
        (Some((name, _)), Some(_)) => {
            reader.refuse(
                name,
                "TRUSTED_PROXIES and TRUSTED_PROXY_HOPS are both set and would disagree about who the client is",
                "set only one of them; TRUSTED_PROXIES is the safer one",
            );
            (TrustedProxies::None, String::new(), Origin::Default)
        }
        (Some((_, networks)), None) => {
            let shown = networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let origin = reader.origin(&["TRUSTED_PROXIES"]);
            (TrustedProxies::Networks(networks), shown, origin)
        }
        (None, Some((_, hops))) => {
            let origin = reader.origin(&["TRUSTED_PROXY_HOPS"]);
            (TrustedProxies::Hops(hops), format!("{hops} hops"), origin)
        }
        (None, None) => (TrustedProxies::None, "none".to_owned(), Origin::Default),
    };
    reader.describe("TRUSTED_PROXIES", shown, origin);
    proxies
}

fn limits<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> LimitsConfig {
    let connections_max = reader.value(
        &["WS_MAX_CONNECTIONS"],
        0,
        |text| values::number(text, 0, u64::from(u32::MAX)).map(|count| count as u32),
        |count| {
            if *count == 0 {
                "from the descriptor limit".to_owned()
            } else {
                count.to_string()
            }
        },
    );
    let per_address = &["SYNCKIT_MAX_CONNECTIONS_PER_IP", "MAX_CONNECTIONS_PER_IP"];
    let message_bytes_max = size(reader, "SYNCKIT_MAX_MESSAGE_SIZE", 2_000_000);
    let batch_bytes_max = size(reader, "SYNCKIT_MAX_BATCH_SIZE", 16 * MIB);
    LimitsConfig {
        connections_max,
        connections_per_address_max: count(reader, per_address, 50),
        messages_per_minute_max: count(reader, &["SYNCKIT_MAX_MESSAGES_PER_MINUTE"], 500),
        rate_limit_mode: reader.value(
            &["SYNCKIT_RATE_LIMIT_MODE"],
            RateLimitMode::Backpressure,
            values::rate_limit_mode,
            |mode| match mode {
                RateLimitMode::Backpressure => "backpressure".to_owned(),
                RateLimitMode::Reject => "reject".to_owned(),
            },
        ),
        message_bytes_max,
        batch_bytes_max,
        frame_bytes_max: frame_size(reader, message_bytes_max.max(batch_bytes_max)),
        document_bytes_max: size(reader, "SYNCKIT_MAX_DOC_SIZE", 10_485_760),
        subscriptions_max: count(reader, &["SYNCKIT_MAX_SUBSCRIPTIONS"], 1000),
        documents_max: count(reader, &["SYNCKIT_MAX_MEMORY_DOCS"], u32::MAX),
        documents_per_address_max: count(reader, &["SYNCKIT_MAX_DOCS_PER_IP"], u32::MAX),
        documents_per_address_per_hour_max: count(reader, &["SYNCKIT_MAX_DOCS_PER_HOUR"], u32::MAX),
        send_queue_bytes_max: reader.value(
            &["SYNCKIT_SEND_QUEUE_BYTES"],
            8 * MIB,
            // Without this bound one slow reader could take all memory, so it cannot be switched off.
            |text| values::bytes(text, 65_536, 1 << 40),
            u64::to_string,
        ),
    }
}

/// The hard limit must leave room for the soft ones, or clients would be closed where an error was promised.
fn frame_size<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, longest_message: u64) -> u64 {
    const NAME: &str = "SYNCKIT_MAX_FRAME_SIZE";
    let default = (17 * MIB).max(longest_message.saturating_add(FRAME_MARGIN_BYTES));
    let size = size(reader, NAME, default);
    if size < longest_message {
        reader.refuse(
            NAME,
            format!("the hard limit {size} is below the longest message or batch that is promised, {longest_message}"),
            "raise it, or lower SYNCKIT_MAX_BATCH_SIZE and SYNCKIT_MAX_MESSAGE_SIZE",
        );
    }
    size
}

fn sync<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> SyncConfig {
    let tombstone_hours = reader.value(
        &["SYNCKIT_TOMBSTONE_TTL_HOURS"],
        24,
        |text| values::number(text, 1, 10 * 365 * 24),
        u64::to_string,
    );
    let heartbeat_interval_ms = milliseconds(reader, &["WS_HEARTBEAT_INTERVAL"], 30_000, 0);
    let heartbeat_timeout_ms = match milliseconds(reader, &["WS_HEARTBEAT_TIMEOUT"], 60_000, 0) {
        0 => u64::MAX,
        timeout => timeout,
    };
    if heartbeat_interval_ms > 0 && heartbeat_timeout_ms <= heartbeat_interval_ms {
        reader.refuse(
            "WS_HEARTBEAT_TIMEOUT",
            format!("{heartbeat_timeout_ms} ms is not above WS_HEARTBEAT_INTERVAL ({heartbeat_interval_ms} ms), so quiet clients would be closed before they are asked"),
            "set it to twice the interval or more",
        );
    }
    SyncConfig {
        flush_window_ms: reader.value(
            &["SYNC_BATCH_DELAY"],
            4,
            |text| values::number(text, 0, 60_000),
            |window| format!("{window} ms"),
        ),
        tombstone_ttl_s: tombstone_hours * 3600,
        awareness_timeout_ms: milliseconds(reader, &["AWARENESS_TIMEOUT_MS"], 30_000, 1),
        heartbeat_interval_ms,
        heartbeat_timeout_ms,
    }
}

/// Certificate and key come together or not at all.
fn tls<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>) -> Option<TlsConfig> {
    let (certificate, key) = (path(reader, "TLS_CERT"), path(reader, "TLS_KEY"));
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(TlsConfig { certificate, key }),
        (None, None) => None,
        (Some(_), None) => {
            reader.refuse(
                "TLS_KEY",
                "TLS_CERT is set and its key is not",
                "set TLS_KEY to the key's file",
            );
            None
        }
        (None, Some(_)) => {
            reader.refuse(
                "TLS_CERT",
                "TLS_KEY is set and its certificate is not",
                "set TLS_CERT to the certificate's file",
            );
            None
        }
    }
}

fn word<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, name: &'static str) -> Option<String> {
    reader.value(
        &[name],
        None,
        |text| Ok(Some(text.to_owned())),
        |word| word.clone().unwrap_or("none".to_owned()),
    )
}

fn path<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, name: &'static str) -> Option<PathBuf> {
    word(reader, name).map(PathBuf::from)
}

fn switch<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, name: &'static str, default: bool) -> bool {
    reader.value(&[name], default, values::switch, bool::to_string)
}

fn milliseconds<V: Fn(&str) -> Option<String>>(
    reader: &mut Reader<V>,
    names: &[&'static str],
    default: u64,
    min: u64,
) -> u64 {
    reader.value(
        names,
        default,
        |text| values::number(text, min, MILLISECONDS_MAX),
        |ms| format!("{ms} ms"),
    )
}

/// A limit that counts; 0 switches it off.
fn count<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, names: &[&'static str], default: u32) -> u32 {
    let parse = |text: &str| match values::number(text, 0, u64::from(u32::MAX) - 1)? as u32 {
        0 => Ok(u32::MAX),
        limit => Ok(limit),
    };
    reader.value(names, default, parse, |limit| match *limit {
        u32::MAX => "no limit".to_owned(),
        limit => limit.to_string(),
    })
}

/// A limit in bytes; 0 switches it off.
fn size<V: Fn(&str) -> Option<String>>(reader: &mut Reader<V>, name: &'static str, default: u64) -> u64 {
    let parse = |text: &str| match values::bytes(text, 0, 1 << 40)? {
        0 => Ok(u64::MAX),
        limit => Ok(limit),
    };
    reader.value(&[name], default, parse, |limit| match *limit {
        u64::MAX => "no limit".to_owned(),
        limit => format!("{limit} bytes"),
    })
}
