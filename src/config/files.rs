//! The configuration's only I/O: the process environment and the files it names. Everything that interprets what is
//! read here is pure and lives elsewhere.

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
        /// The variable that named it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is larger than anything sensible.
    #[error("{variable}={path:?} is larger than {FILE_BYTES_MAX} bytes. Remedy: name the right file")]
    TooLarge {
        /// The variable that named it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// Reads a text file that `variable` names.
pub fn read(variable: &'static str, path: &Path) -> Result<String, FileError> {
    let unreadable = |source| FileError::Unreadable {
        variable,
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
            variable,
            path: path.to_owned(),
        });
    }
    Ok(text)
}

/// A variable of this process. Bytes that are not UTF-8 are replaced rather than dropped, so that the value is refused
/// as invalid instead of passing for unset.
pub fn environment_variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
