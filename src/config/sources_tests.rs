use super::sources::{ConfigFile, ConfigFileError, Secret, Sources};
use super::table::{self, TABLE};
use super::{Config, Flags, Origin};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

fn file(text: &str) -> Result<ConfigFile, ConfigFileError> {
    ConfigFile::parse(Path::new("/etc/synckit.toml"), text)
}

fn sources(flags: Flags, variables: &[(&str, &str)], text: &str) -> Sources {
    Sources {
        flags,
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        file: Some(file(text).unwrap()),
        ..Sources::default()
    }
}

fn shown(config: &Config, name: &str) -> (String, Origin) {
    let setting = config.describe().iter().find(|setting| setting.name == name).unwrap();
    (setting.value.clone(), setting.origin.clone())
}

#[test]
fn the_code_asks_for_exactly_the_settings_of_the_table() {
    let asked = RefCell::new(BTreeSet::new());
    let look_up = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        None
    };
    Config::from_env(look_up, &Flags::default()).unwrap();
    let known: BTreeSet<String> = TABLE
        .iter()
        .flat_map(|entry| entry.names)
        .map(|name| (*name).to_owned())
        .collect();
    let asked = asked.into_inner();
    let unlisted: Vec<_> = asked.difference(&known).collect();
    let unread: Vec<_> = known.difference(&asked).collect();
    assert!(
        unlisted.is_empty(),
        "read by the code, missing in config/table.rs: {unlisted:?}"
    );
    assert!(unread.is_empty(), "in config/table.rs, read by nobody: {unread:?}");
}

#[test]
fn the_defaults_of_the_table_are_the_defaults() {
    let unset = Config::from_env(|_| None, &Flags::default()).unwrap();
    for entry in TABLE.iter().filter(|entry| !entry.default.is_empty()) {
        let written = Config::from_env(
            |name| (name == entry.name()).then(|| entry.default.to_owned()),
            &Flags::default(),
        );
        let written = written.unwrap_or_else(|error| panic!("{error}"));
        let value = |config: &Config| {
            config
                .describe()
                .iter()
                .find(|setting| setting.name == entry.name())
                .map(|setting| setting.value.clone())
        };
        assert_eq!(value(&written), value(&unset), "{}", entry.name());
    }
}

#[test]
fn names_keys_and_flags_are_each_there_once() {
    let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for entry in TABLE {
        assert!(entry.names.iter().all(|name| names.insert(*name)), "{}", entry.name());
        assert!(keys.insert(entry.key()), "{}", entry.key());
        assert!(!entry.help.is_empty() && !entry.value.is_empty());
    }
    assert!(keys.contains("shards") && keys.contains("jwt_secret") && keys.contains("max_doc_size"));
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let flags = Flags::default().with("PORT", "1");
    let text = "port = 3\nshards = 4\nheartbeat = 0\n".replace("heartbeat = 0\n", "ws_heartbeat_interval = 7000\n");
    let config = Config::load(&sources(flags, &[("PORT", "2"), ("SYNCKIT_SHARDS", "2")], &text)).unwrap();
    assert_eq!((config.port, config.shards), (1, 2));
    assert_eq!(shown(&config, "SYNCKIT_SHARDS").1, Origin::Variable("SYNCKIT_SHARDS"));
    assert_eq!(config.sync.heartbeat_interval_ms, 7000);
    let origin = shown(&config, "WS_HEARTBEAT_INTERVAL").1.to_string();
    assert_eq!(origin, "key ws_heartbeat_interval in /etc/synckit.toml");
    assert_eq!(shown(&config, "HOST").1, Origin::Default);
    // An empty variable counts as unset.
    let config = Config::load(&sources(Flags::default(), &[("PORT", " ")], "port = 3")).unwrap();
    assert_eq!(config.port, 3);
}

#[test]
fn what_stands_in_for_another_setting_does_so_within_its_place() {
    let variables = [
        ("SYNCKIT_SERVER_URL", "http://127.0.0.1:9/ws"),
        ("JWT_EXPIRATION_HOURS", "2"),
    ];
    let config = Config::load(&sources(
        Flags::default(),
        &variables,
        "port = 3\njwt_expires_in = \"5h\"",
    ))
    .unwrap();
    assert_eq!((config.port, config.auth.access_token_s), (9, 7200));
    let variables = [("JWT_EXPIRATION_HOURS", "2"), ("JWT_EXPIRES_IN", "5h")];
    let config = Config::load(&sources(Flags::default(), &variables, "")).unwrap();
    assert_eq!(config.auth.access_token_s, 5 * 3600);
}

#[test]
fn values_of_a_file_have_their_types() {
    let text = "auth_required = false\nmax_batch_size = \"8MiB\"\ncors_origins = [\"https://a.example\", \"https://b.example\"]";
    let config = Config::load(&sources(Flags::default(), &[], text)).unwrap();
    assert!(!config.auth.required);
    assert_eq!(config.limits.batch_bytes_max, 8 << 20);
    assert_eq!(shown(&config, "CORS_ORIGINS").0, "https://a.example,https://b.example");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    let problem = |text| file(text).err().expect("must be refused").to_string();
    assert!(problem("shard = 2").contains("unknown key shard; did you mean shards?"));
    assert!(problem("SYNCKIT_SHARDS = 2").contains("did you mean shards?"));
    assert!(problem("jwt_secret_fle = \"x\"").contains("did you mean jwt_secret_file?"));
    let hopeless = problem("colour = \"blue\"");
    assert!(
        hopeless.contains("unknown key colour") && !hopeless.contains("did you mean"),
        "{hopeless}"
    );
    let both = problem("colour = 1\nprot = 2");
    assert!(both.contains("colour") && both.contains("did you mean port?"), "{both}");
    assert!(problem("[limits]\nx = 1").contains("limits has a value of a kind"));
    let broken = problem("port = 1\njwt_secret = \"very secret");
    assert!(broken.contains("line 2") && !broken.contains("very secret"), "{broken}");
}

#[test]
fn an_invalid_value_names_its_place() {
    let wrong = |flags, variables: &[(&str, &str)], text: &str| {
        Config::load(&sources(flags, variables, text)).unwrap_err().to_string()
    };
    let flag = wrong(Flags::default().with("PORT", "x"), &[], "");
    assert!(
        flag.contains("--port \"x\" (flag) is not valid; accepted: a whole number"),
        "{flag}"
    );
    let file = wrong(Flags::default(), &[], "port = 70000");
    assert!(
        file.contains("port = \"70000\" in /etc/synckit.toml is not valid"),
        "{file}"
    );
    let secret = wrong(Flags::default(), &[], "jwt_secret = \"short\"");
    assert!(
        secret.contains("jwt_secret = \"(hidden)\" in") && !secret.contains("short"),
        "{secret}"
    );
}

#[test]
fn a_secret_may_have_a_file_of_its_own() {
    let text = "a-long-enough-secret-for-hs256-tokens-0123456789";
    let secret = |by_variable| Secret {
        path: "/run/secrets/jwt".into(),
        text: text.to_owned(),
        by_variable,
    };
    let key = format!("jwt_secret = \"{}\"", text.to_uppercase());
    for (by_variable, wins) in [(true, true), (false, false)] {
        let mut sources = sources(Flags::default(), &[], &key);
        sources.secrets.insert("JWT_SECRET", secret(by_variable));
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.auth.jwt_secret.bytes == text.as_bytes(), wins);
        assert_eq!(shown(&config, "JWT_SECRET").0, "(set)");
    }
}

#[test]
fn odd_variables_are_warned_about() {
    let variables = [
        ("SYNCKIT_SHRADS", "1"),
        ("SYNCKIT_COLOUR_SCHEME_OF_LOGS", "1"),
        ("SYNC_BATCH_SIZE", "100"),
        ("SYNCKIT_AUTH_APIKEYS_FILE", "/x"),
        ("PATH", "/bin"),
    ];
    let config = Config::load(&sources(Flags::default(), &variables, "")).unwrap();
    let warnings = config.warnings.join("\n");
    assert!(
        warnings.contains("SYNCKIT_SHRADS is no variable of this server; did you mean SYNCKIT_SHARDS?"),
        "{warnings}"
    );
    assert!(
        warnings.contains("SYNCKIT_COLOUR_SCHEME_OF_LOGS is no variable of this server"),
        "{warnings}"
    );
    assert!(warnings.contains("SYNC_BATCH_SIZE has no effect"), "{warnings}");
    assert!(
        !warnings.contains("APIKEYS") && !warnings.contains("PATH"),
        "{warnings}"
    );
}

#[test]
fn a_nearest_name_is_near() {
    let known = || ["shards", "sockets", "host"].map(str::to_owned);
    assert_eq!(table::nearest("shrads", known()).as_deref(), Some("shards"));
    assert_eq!(table::nearest("something", known()), None);
}
