//! Where settings come from, in order: flags, environment variables (or the files that `NAME_FILE` variables name, for
//! secrets), the configuration file, defaults. Plain data; whoever reads files and environment is in [`super::files`].

use super::flags::Flags;
use super::table::{self, TABLE};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Everything the operator said.
#[derive(Clone, Default)]
pub struct Sources {
    /// The command line.
    pub flags: Flags,
    /// The environment, by name.
    pub variables: BTreeMap<String, String>,
    /// Contents of files that hold secrets, by the main name of the setting.
    pub secrets: BTreeMap<&'static str, Secret>,
    /// The configuration file.
    pub file: Option<ConfigFile>,
}

/// A secret that was read from a file of its own.
#[derive(Clone)]
pub struct Secret {
    /// The file.
    pub path: Arc<str>,
    /// Its content without the line's end.
    pub text: String,
    /// Named by a variable rather than by the configuration file, so that it beats the latter.
    pub by_variable: bool,
}

/// A configuration file that was understood.
#[derive(Clone)]
pub struct ConfigFile {
    /// Where it is.
    pub path: Arc<str>,
    /// Values by the main name of their setting.
    values: BTreeMap<&'static str, String>,
    /// Files with secrets, by the main name of their setting.
    secret_files: BTreeMap<&'static str, String>,
}

/// What is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFileError {
    /// It is no TOML.
    #[error("{path}: {reason}")]
    Syntax {
        /// The file.
        path: Arc<str>,
        /// Line, column and cause.
        reason: String,
    },
    /// It has keys that mean nothing, or values of a wrong type.
    #[error("{path}: {}", problems.join("; "))]
    Keys {
        /// The file.
        path: Arc<str>,
        /// All of them.
        problems: Vec<String>,
    },
}

impl Sources {
    /// The value of a setting as it was written, by its main name, wherever it was said.
    pub fn value(&self, name: &str) -> Option<&str> {
        let variable = || {
            let entry = table::find(name)?;
            let set = |name: &&'static str| self.variables.get(*name).filter(|value| !value.trim().is_empty());
            entry.names.iter().find_map(set).map(String::as_str)
        };
        let secret = || self.secrets.get(name).map(|secret| secret.text.as_str());
        let file = || self.file.as_ref().and_then(|file| file.value(name));
        self.flags.value(name).or_else(variable).or_else(secret).or_else(file)
    }
}

impl ConfigFile {
    /// Reads TOML: one key for each setting, named as in the table. Numbers, booleans, strings and lists of strings.
    ///
    /// # Errors
    /// Text that is no TOML, unknown keys (with the nearest known one), values of other types.
    pub fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigFileError> {
        let path: Arc<str> = path.to_string_lossy().into();
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigFileError::Syntax {
            path: path.clone(),
            // The library quotes the line, which may hold a secret; place and cause are enough.
            reason: syntax(text, &error),
        })?;
        let mut file = ConfigFile {
            path,
            values: BTreeMap::new(),
            secret_files: BTreeMap::new(),
        };
        let mut problems = Vec::new();
        for (key, value) in &table {
            if let Err(problem) = file.take(key, value) {
                problems.push(problem);
            }
        }
        if problems.is_empty() {
            Ok(file)
        } else {
            Err(ConfigFileError::Keys {
                path: file.path,
                problems,
            })
        }
    }

    fn take(&mut self, key: &str, value: &toml::Value) -> Result<(), String> {
        let text = plain(value).ok_or_else(|| {
            format!(
                "{key} has a value of a kind that no setting takes; write a string, number, boolean or list of strings"
            )
        })?;
        if let Some(entry) = table::find_key(key) {
            self.values.insert(entry.name(), text);
        } else if let Some(entry) = key
            .strip_suffix("_file")
            .and_then(table::find_key)
            .filter(|entry| entry.secret)
        {
            self.secret_files.insert(entry.name(), text);
        } else {
            return Err(unknown(key));
        }
        Ok(())
    }

    /// The value of a setting, by its main name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Files with secrets, by the main names of their settings.
    pub fn secret_files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.secret_files.iter().map(|(name, path)| (*name, path.as_str()))
    }
}

fn unknown(key: &str) -> String {
    let keys = TABLE.iter().flat_map(|entry| {
        let file = entry.secret.then(|| format!("{}_file", entry.key()));
        std::iter::once(entry.key()).chain(file)
    });
    // Whoever writes the variable's name means the key.
    if let Some(entry) = TABLE
        .iter()
        .find(|entry| entry.names.iter().any(|name| name.eq_ignore_ascii_case(key)))
    {
        return format!("unknown key {key}; did you mean {}?", entry.key());
    }
    match table::nearest(key, keys) {
        Some(near) => format!("unknown key {key}; did you mean {near}?"),
        None => format!("unknown key {key}; `synckit-server config print` lists all"),
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(members) => {
            let members: Option<Vec<&str>> = members.iter().map(toml::Value::as_str).collect();
            Some(members?.join(","))
        }
        _ => None,
    }
}

/// Warnings about variables that begin like ours and are none, and about those of the family that mean nothing here.
pub(super) fn odd_variables<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut warnings = Vec::new();
    for name in names {
        if let Some((_, reason)) = table::IGNORED.iter().find(|(ignored, _)| ignored == name) {
            warnings.push(format!("{name} has no effect on this server: {reason}"));
            continue;
        }
        let names_a_file = |name: &str| {
            name.strip_suffix("_FILE")
                .and_then(table::find)
                .is_some_and(|entry| entry.secret)
        };
        if !name.starts_with("SYNCKIT_") || table::find(name).is_some() || names_a_file(name) {
            continue;
        }
        let known = TABLE
            .iter()
            .flat_map(|entry| entry.names.iter().map(|name| (*name).to_owned()));
        warnings.push(match table::nearest(name, known) {
            Some(near) => format!("{name} is no variable of this server; did you mean {near}?"),
            None => format!("{name} is no variable of this server"),
        });
    }
    warnings
}
