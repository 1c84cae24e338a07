//! Reads variables one by one, remembers where each value came from and collects what is wrong with them.

use super::sources::Sources;
use super::table;
use super::values::Expected;
use std::fmt;
use std::sync::Arc;

/// Where an effective value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A command-line flag, by the variable it stands for.
    Flag(&'static str),
    /// An environment variable, under the spelling that was used.
    Variable(&'static str),
    /// A file that holds nothing else.
    SecretFile(Arc<str>),
    /// The configuration file.
    File {
        /// The main name of the setting.
        name: &'static str,
        /// The file.
        path: Arc<str>,
    },
    /// Nobody chose it.
    Default,
}

impl Origin {
    /// Which of two origins counts: the greater one.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Flag(_) => 3,
            Self::Variable(_) | Self::SecretFile(_) => 2,
            Self::File { .. } => 1,
            Self::Default => 0,
        }
    }
}

fn flag(name: &str) -> String {
    let flag = table::find(name).and_then(table::Entry::flag);
    format!("--{}", flag.as_deref().unwrap_or(name))
}

fn key(name: &str) -> String {
    table::find(name).map_or_else(|| name.to_owned(), table::Entry::key)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {}", flag(name)),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::SecretFile(path) => write!(f, "file {path}"),
            Self::File { name, path } => write!(f, "key {} in {path}", key(name)),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One line of the start-up print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The variable's main spelling.
    pub name: &'static str,
    /// The effective value; for a secret only whether there is one.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Why the server does not start with this configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The operator wrote something that cannot be understood.
    #[error("{} is not valid; accepted: {accepted}", written(origin, variable, value))]
    Invalid {
        /// The variable as it was spelled.
        variable: &'static str,
        /// Where the value came from.
        origin: Origin,
        /// What it holds, or `(hidden)`.
        value: String,
        /// What it may hold.
        accepted: String,
    },
    /// It can be understood, but starting with it would be unsafe or would lose data.
    #[error("{variable}: {cause}. Remedy: {remedy}")]
    Refused {
        /// The variable that is the matter.
        variable: &'static str,
        /// What is wrong.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// A value as the operator wrote it.
fn written(origin: &Origin, variable: &str, value: &str) -> String {
    match origin {
        Origin::Flag(name) => format!("{} {value:?} (flag)", flag(name)),
        Origin::File { name, path } => format!("{} = {value:?} in {path}", key(name)),
        Origin::SecretFile(path) => format!("{variable} (from the file {path})"),
        Origin::Variable(_) | Origin::Default => format!("{variable}={value:?}"),
    }
}

/// All problems of a configuration at once, so that one restart is enough to fix them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server cannot start with this configuration:")?;
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// Longest part of a value that an error quotes.
const QUOTED_CHARS_MAX: usize = 80;

pub(super) struct Reader<V> {
    variables: V,
    /// Everything but the environment.
    sources: Sources,
    pub(super) problems: Vec<Problem>,
    pub(super) settings: Vec<Setting>,
    pub(super) warnings: Vec<String>,
}

/// A value that somebody set.
struct Found {
    origin: Origin,
    /// The spelling that was used.
    name: &'static str,
    text: String,
}

impl<V: Fn(&str) -> Option<String>> Reader<V> {
    pub(super) fn new(variables: V, sources: Sources) -> Self {
        Self {
            variables,
            sources,
            problems: Vec::new(),
            settings: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// What counts for a setting: its flag, the first of its variables that is set, its file, its key. Empty and blank
    /// values count as unset.
    fn find(&self, names: &[&'static str]) -> Option<Found> {
        let main = names[0];
        let found = |origin, name, text: &str| {
            (!text.trim().is_empty()).then(|| Found {
                origin,
                name,
                text: text.to_owned(),
            })
        };
        let flag = || found(Origin::Flag(main), main, self.sources.flags.value(main)?);
        let variable = || {
            let set = |&name: &&'static str| found(Origin::Variable(name), name, &(self.variables)(name)?);
            names.iter().find_map(set)
        };
        let secret = |by_variable| {
            let secret = self.sources.secrets.get(main)?;
            let wanted = secret.by_variable == by_variable;
            found(Origin::SecretFile(secret.path.clone()), main, &secret.text).filter(|_| wanted)
        };
        let file = || {
            let file = self.sources.file.as_ref()?;
            let origin = Origin::File {
                name: main,
                path: file.path.clone(),
            };
            found(origin, main, file.value(main)?)
        };
        flag()
            .or_else(variable)
            .or_else(|| secret(true))
            .or_else(file)
            .or_else(|| secret(false))
    }

    /// The value of the setting with these names, trimmed, and the spelling that was used.
    pub(super) fn text(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        self.find(names).map(|found| (found.name, found.text.trim().to_owned()))
    }

    /// A setting whose blanks matter.
    pub(super) fn untrimmed(&self, name: &'static str) -> Option<(&'static str, String)> {
        self.find(&[name]).map(|found| (found.name, found.text))
    }

    /// Where the value of the setting with these names comes from.
    pub(super) fn origin(&self, names: &[&'static str]) -> Origin {
        self.find(names).map_or(Origin::Default, |found| found.origin)
    }

    /// A value that is there only if somebody set it.
    pub(super) fn optional<T>(
        &mut self,
        names: &[&'static str],
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Option<(&'static str, T)> {
        let found = self.find(names)?;
        let text = found.text.trim();
        match parse(text) {
            Ok(value) => Some((found.name, value)),
            Err(expected) => {
                self.invalid_from(found.origin, found.name, text, expected);
                None
            }
        }
    }

    /// A value with a default, entered into the description under the first of `names`.
    pub(super) fn value<T>(
        &mut self,
        names: &[&'static str],
        default: T,
        parse: impl Fn(&str) -> Result<T, Expected>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let (value, origin) = match self.optional(names, parse) {
            Some((_, value)) => (value, self.origin(names)),
            None => (default, Origin::Default),
        };
        self.describe(names[0], show(&value), origin);
        value
    }

    /// As [`Reader::value`], for what must not be quoted when it is wrong.
    pub(super) fn secret<T>(
        &mut self,
        names: &[&'static str],
        default: T,
        parse: impl Fn(&str) -> Result<T, Expected>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let Some(found) = self.find(names) else {
            self.describe(names[0], show(&default), Origin::Default);
            return default;
        };
        match parse(found.text.trim()) {
            Ok(value) => {
                self.describe(names[0], show(&value), found.origin);
                value
            }
            Err(expected) => {
                self.invalid_from(found.origin, found.name, "(hidden)", expected);
                default
            }
        }
    }

    pub(super) fn describe(&mut self, name: &'static str, value: String, origin: Origin) {
        self.settings.push(Setting { name, value, origin });
    }

    pub(super) fn invalid(&mut self, variable: &'static str, text: &str, expected: Expected) {
        let origin = self.origin(&[variable]);
        self.invalid_from(origin, variable, text, expected);
    }

    fn invalid_from(&mut self, origin: Origin, variable: &'static str, text: &str, expected: Expected) {
        let value = text.chars().take(QUOTED_CHARS_MAX).collect();
        self.problems.push(Problem::Invalid {
            variable,
            origin,
            value,
            accepted: expected.0,
        });
    }

    pub(super) fn refuse(&mut self, variable: &'static str, cause: impl Into<String>, remedy: &'static str) {
        self.problems.push(Problem::Refused {
            variable,
            cause: cause.into(),
            remedy,
        });
    }
}
