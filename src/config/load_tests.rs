//! Whole configurations: what an operator writes and what comes out of it, or why the start is refused.

use super::*;

const SECRET: &str = "a-long-enough-secret-for-hs256-tokens-0123456789";

fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let look_up = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    Config::from_env(look_up, &Flags::default())
}

fn problems(variables: &[(&str, &str)]) -> String {
    load(variables).expect_err("must be refused").to_string()
}

#[test]
fn an_empty_environment_gives_the_documented_defaults() {
    let config = load(&[("PORT", ""), ("HOST", "  ")]).unwrap();
    assert_eq!(config.listen_address().to_string(), "0.0.0.0:8080");
    assert_eq!((config.environment, config.shards), (Environment::Development, 0));
    assert!(config.auth.required && config.auth.jwt_secret.generated);
    assert_eq!(
        (config.auth.access_token_s, config.auth.refresh_token_s),
        (86_400, 604_800)
    );
    assert_eq!(config.auth.demo_login, DemoLogin::User);
    assert_eq!(config.limits.connections_max, 0);
    assert_eq!(config.limits.connections_per_address_max, 50);
    assert_eq!(config.limits.frame_bytes_max, 17 << 20);
    assert_eq!(config.limits.documents_per_address_max, u32::MAX);
    assert_eq!(config.sync.flush_window_ms, 4);
    assert_eq!(config.sync.heartbeat_timeout_ms, 60_000);
    assert_eq!(config.http.requests_per_minute_max, 600);
    assert_eq!(config.http.trusted_proxies, TrustedProxies::None);
    let other = load(&[]).unwrap();
    assert_ne!(
        config.auth.jwt_secret, other.auth.jwt_secret,
        "the made-up secret is new at every start"
    );
}

#[test]
fn flags_beat_variables_and_variables_beat_the_server_url() {
    let variables = [
        ("PORT", "9001"),
        ("SYNCKIT_SERVER_URL", "http://127.0.0.1:7000/ws"),
        ("SYNCKIT_SHARDS", "2"),
    ];
    let look_up = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let config = Config::from_env(look_up, &Flags::default()).unwrap();
    assert_eq!(config.listen_address().to_string(), "127.0.0.1:9001");
    let flags = Flags::default().with("PORT", "1").with("SYNCKIT_SHARDS", "3");
    let config = Config::from_env(look_up, &flags).unwrap();
    assert_eq!((config.port, config.shards), (1, 3));
    let port = config.describe().iter().find(|setting| setting.name == "PORT").unwrap();
    assert_eq!((port.value.as_str(), &port.origin), ("1", &Origin::Flag("PORT")));
    assert_eq!(port.origin.to_string(), "flag --port");
}

#[test]
fn the_first_set_environment_variable_decides() {
    let environment = |variables: &[(&str, &str)]| load(variables).map(|config| config.environment);
    assert_eq!(environment(&[("NODE_ENV", "test")]), Ok(Environment::Test));
    assert_eq!(
        environment(&[("SYNCKIT_ENV", "test"), ("NODE_ENV", "production")]),
        Ok(Environment::Test)
    );
    let production = environment(&[("ASPNETCORE_ENVIRONMENT", "Production"), ("JWT_SECRET", SECRET)]);
    assert_eq!(production, Ok(Environment::Production));
    assert!(environment(&[("NODE_ENV", "staging")]).is_err());
}

#[test]
fn authentication_is_off_only_when_clearly_said() {
    let required = |value| load(&[("SYNCKIT_AUTH_REQUIRED", value)]).unwrap().auth.required;
    for off in ["false", " FALSE ", "0", "No", "off"] {
        assert!(!required(off), "{off}");
    }
    for on in ["true", "1", "", "flase", "disabled"] {
        assert!(required(on), "{on}");
    }
}

#[test]
fn all_invalid_values_are_named_at_once() {
    let error = problems(&[
        ("PORT", "70000"),
        ("WS_HEARTBEAT_INTERVAL", "30s"),
        ("TRUSTED_PROXIES", "10.0.0.0/40"),
    ]);
    for part in [
        "PORT=\"70000\"",
        "65535",
        "WS_HEARTBEAT_INTERVAL=\"30s\"",
        "TRUSTED_PROXIES=\"10.0.0.0/40\"",
    ] {
        assert!(error.contains(part), "{part} not in {error}");
    }
}

#[test]
fn a_database_is_chosen_by_its_url() {
    use super::{Database, Durability};
    let storage = |url: &str| load(&[("DATABASE_URL", url)]).unwrap().storage;
    assert_eq!(storage("").database, Database::Memory);
    assert_eq!(storage("memory:").database, Database::Memory);
    assert_eq!(
        storage("sqlite:/var/x.db").database,
        Database::Sqlite("/var/x.db".into())
    );
    assert_eq!(
        storage("sqlite:///var/x.db").database,
        Database::Sqlite("/var/x.db".into())
    );
    let postgres = load(&[("DATABASE_URL", "postgresql://u:hunter2@db/x")]).unwrap();
    assert_eq!(postgres.storage.durability, Durability::Sync);
    assert!(!format!("{postgres:?}").contains("hunter2"));
    let wrong = problems(&[("ConnectionStrings__synckit", "Host=db;Password=hunter2")]);
    assert!(
        wrong.contains("ConnectionStrings__synckit") && wrong.contains("postgresql://") && !wrong.contains("hunter2")
    );
    assert!(problems(&[("DATABASE_URL", "sqlite:")]).contains("sqlite:PATH"));
    assert!(problems(&[("SYNCKIT_DURABILITY", "maybe")]).contains("sync or async"));
    let pool = load(&[("DB_POOL_MIN", "8"), ("DATABASE_POOL_MAX", "3")])
        .unwrap()
        .storage;
    assert_eq!((pool.pool_min, pool.pool_max), (3, 3));
    assert!(load(&[("DATABASE_URL", "memory:"), ("REDIS_URL", "")]).is_ok());
}

#[test]
fn production_refuses_unsafe_settings_with_a_remedy() {
    let production = ("SYNCKIT_ENV", "production");
    let secret = ("JWT_SECRET", SECRET);
    assert!(load(&[production, secret]).is_ok());
    assert_eq!(load(&[production, secret]).unwrap().auth.demo_login, DemoLogin::Off);
    assert!(problems(&[production]).contains("Remedy: set JWT_SECRET"));
    let known = ("JWT_SECRET", "development-secret-do-not-use-in-production");
    assert!(problems(&[production, known]).contains("public knowledge"));
    assert!(!load(&[known]).unwrap().warnings.is_empty());
    assert!(problems(&[production, secret, ("SYNCKIT_AUTH_APIKEYS", "short")]).contains("key number 1"));
    assert!(problems(&[production, secret, ("SYNCKIT_TEST_ENDPOINTS", "1")]).contains("SYNCKIT_TEST_ENDPOINTS"));
    assert!(problems(&[production, secret, ("SYNCKIT_DEMO_LOGIN", "full")]).contains("SYNCKIT_DEMO_LOGIN"));
    assert!(
        load(&[production, ("JWT_PUBLIC_KEY_FILE", "/k.pem")]).is_ok(),
        "foreign tokens need no own secret"
    );
    assert!(load(&[production, ("JWT_PUBLIC_KEY_FILE", "/k"), ("SYNCKIT_USERS_FILE", "/u")]).is_err());
}

#[test]
fn secrets_show_nowhere() {
    let keys = "super-secret-api-key-1,super-secret-api-key-2=read";
    let config = load(&[("JWT_SECRET", SECRET), ("SYNCKIT_AUTH_APIKEYS", keys)]).unwrap();
    let shown = format!("{config:?} {:?}", config.describe());
    assert!(!shown.contains(SECRET) && !shown.contains("super-secret"), "{shown}");
    let error = problems(&[
        ("JWT_SECRET", "too-short-secret"),
        ("SYNCKIT_AUTH_APIKEYS", "super-secret=owner"),
    ]);
    assert!(
        !error.contains("too-short-secret") && !error.contains("super-secret"),
        "{error}"
    );
    assert!(error.contains("JWT_SECRET") && error.contains("SYNCKIT_AUTH_APIKEYS"));
    let padded = format!(" {SECRET}\t");
    let config = load(&[("JWT_SECRET", &padded)]).unwrap();
    assert_eq!(
        config.auth.jwt_secret.bytes,
        padded.as_bytes(),
        "a secret is taken as it is"
    );
}

#[test]
fn zero_switches_a_limit_off() {
    let config = load(&[("MAX_CONNECTIONS_PER_IP", "0"), ("SYNCKIT_MAX_DOC_SIZE", "0")]).unwrap();
    assert_eq!(config.limits.connections_per_address_max, u32::MAX);
    assert_eq!(config.limits.document_bytes_max, u64::MAX);
}

#[test]
fn the_hard_message_limit_follows_the_soft_ones() {
    assert_eq!(
        load(&[("SYNCKIT_MAX_BATCH_SIZE", "32MiB")])
            .unwrap()
            .limits
            .frame_bytes_max,
        33 << 20
    );
    let error = load(&[("SYNCKIT_MAX_FRAME_SIZE", "1MiB")]).unwrap_err();
    assert!(matches!(
        error.problems[0],
        Problem::Refused {
            variable: "SYNCKIT_MAX_FRAME_SIZE",
            ..
        }
    ));
}

#[test]
fn aliases_and_units() {
    assert_eq!(
        load(&[("JWT_EXPIRATION_HOURS", "2")]).unwrap().auth.access_token_s,
        7200
    );
    let both = load(&[("JWT_EXPIRATION_HOURS", "2"), ("JWT_EXPIRES_IN", "15m")]).unwrap();
    assert_eq!(both.auth.access_token_s, 900);
    let bare = load(&[("JWT_EXPIRES_IN", "3600")]).unwrap();
    assert_eq!(bare.auth.access_token_s, 3600);
    assert!(bare.warnings[0].contains("JWT_EXPIRES_IN"));
    assert!(load(&[("JWT_ALGORITHM", "RS256")]).is_err());
    assert!(load(&[("DATABASE_POOL_MAX", "many")]).is_err());
    assert!(load(&[("TRUSTED_PROXIES", "10.0.0.1"), ("TRUSTED_PROXY_HOPS", "1")]).is_err());
    let hops = load(&[("TRUSTED_PROXY_HOPS", "2")]).unwrap();
    assert_eq!(hops.http.trusted_proxies, TrustedProxies::Hops(2));
}
