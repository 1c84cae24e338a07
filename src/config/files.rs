//! The configuration's only I/O: the process environment and the files it names. Everything that interprets what is
//! read here is pure and lives elsewhere.

use super::flags::Flags;
use super::sources::{ConfigFile, ConfigFileError, Secret, Sources};
use super::table::TABLE;
use super::{Config, ConfigError};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Largest key or users file that is read. A million accounts do not belong into a file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The operator named a file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("{variable}={path:?} cannot be read: {source}. Remedy: correct the path or the file's permissions")]
    Unreadable {
        /// The variable or flag that named it.
        variable: String,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is larger than anything sensible.
    #[error("{variable}={path:?} is larger than {FILE_BYTES_MAX} bytes. Remedy: name the right file")]
    TooLarge {
        /// The variable or flag that named it.
        variable: String,
        /// The file.
        path: PathBuf,
    },
}

/// Reads a text file that `variable` names.
pub fn read(variable: &str, path: &Path) -> Result<String, FileError> {
    let unreadable = |source| FileError::Unreadable {
        variable: variable.to_owned(),
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge {
            variable: variable.to_owned(),
            path: path.to_owned(),
        });
    }
    Ok(text)
}

/// Why the operator's settings cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The configuration file is not understood.
    #[error("{0}. Remedy: correct the file; docs/configuration.md lists the keys")]
    ConfigFile(#[from] ConfigFileError),
    /// A secret is given twice.
    #[error("{name} and {name}_FILE are both set. Remedy: unset one of them")]
    Twice {
        /// The variable.
        name: &'static str,
    },
    /// Values are invalid or refused.
    #[error(transparent)]
    Values(#[from] ConfigError),
}

/// Collects everything the operator said: flags, this process's environment, the file given by `--config`, and the files
/// that hold one secret each.
pub fn sources(flags: Flags, config_file: Option<&Path>) -> Result<Sources, LoadError> {
    let file = match config_file {
        Some(path) => Some(ConfigFile::parse(path, &read("--config", path)?)?),
        None => None,
    };
    // Bytes that are not UTF-8 are replaced rather than dropped, so that the value is refused as invalid instead of
    // passing for unset.
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    let mut secrets = BTreeMap::new();
    if let Some(file) = &file {
        for (name, path) in file.secret_files() {
            secrets.insert(name, secret("--config", path, false)?);
        }
    }
    let is_set = |name: &str| variables.get(name).is_some_and(|value| !value.trim().is_empty());
    for name in TABLE.iter().filter(|entry| entry.secret).flat_map(|entry| entry.names) {
        let variable = format!("{name}_FILE");
        if !is_set(&variable) {
            continue;
        }
        if is_set(name) {
            return Err(LoadError::Twice { name });
        }
        let main = super::table::find(name).map_or(*name, super::table::Entry::name);
        secrets.insert(main, secret(&variable, &variables[&variable], true)?);
    }
    Ok(Sources {
        flags,
        variables,
        secrets,
        file,
    })
}

/// Reads all settings of this process.
pub fn load(flags: Flags, config_file: Option<&Path>) -> Result<Config, LoadError> {
    Ok(Config::load(&sources(flags, config_file)?)?)
}

fn secret(variable: &str, path: &str, by_variable: bool) -> Result<Secret, FileError> {
    let text = read(variable, Path::new(path.trim()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret {
        path: path.into(),
        text: text.strip_suffix('\r').unwrap_or(text).to_owned(),
        by_variable,
    })
}
