//! `check-config` and `config print`.

use super::{Given, fail, show};
use crate::config::{Config, Database, table};
use crate::server::reload;
use crate::storage::postgres::PostgresUrl;
use serde_json::json;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Reads everything that a start would read, without starting.
pub(super) fn check(given: &Given) -> ExitCode {
    let config = match given.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    if let Err(problem) = files_are_usable(&config) {
        return fail(&problem);
    }
    let listen = config.listen_address();
    show(&format!(
        "the configuration is valid: {}, listening on {listen}, documents in {}, {} warnings\n",
        config.environment.name(),
        place(&config),
        config.warnings.len()
    ))
}

fn place(config: &Config) -> &'static str {
    match config.storage.database {
        Database::Memory => "memory",
        Database::Postgres(_) => "PostgreSQL",
        Database::Sqlite(_) => "SQLite",
    }
}

fn files_are_usable(config: &Config) -> Result<(), String> {
    reload::read_public_keys(&config.auth).map_err(|error| error.to_string())?;
    reload::read_users(&config.auth).map_err(|error| error.to_string())?;
    if let Database::Postgres(url) = &config.storage.database {
        PostgresUrl::parse(url).map_err(|error| format!("DATABASE_URL: {error}"))?;
    }
    Ok(())
}

/// Every setting with its effective value and origin.
pub(super) fn settings(given: &Given, as_json: bool) -> ExitCode {
    let config = match given.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    if as_json {
        let settings: Vec<_> = config
            .describe()
            .iter()
            .map(|setting| json!({"name": setting.name, "value": setting.value, "origin": setting.origin.to_string()}))
            .collect();
        return show(&format!("{:#}\n", json!(settings)));
    }
    let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let names = width(&mut config.describe().iter().map(|setting| setting.name.len()));
    let values = width(
        &mut config
            .describe()
            .iter()
            .map(|setting| setting.value.chars().count().min(48)),
    );
    let mut text = String::new();
    for group in table::Group::ALL {
        let of_group = |name| table::find(name).is_some_and(|entry| entry.group == group);
        let mut settings = config
            .describe()
            .iter()
            .filter(|setting| of_group(setting.name))
            .peekable();
        if settings.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, "# {}", group.title());
        for setting in settings {
            let (name, value, origin) = (setting.name, &setting.value, &setting.origin);
            let _ = writeln!(text, "{name:names$}  {value:values$}  {origin}");
        }
    }
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    show(&text)
}
