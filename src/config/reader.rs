//! Reads variables one by one, remembers where each value came from and collects what is wrong with them.

use super::values::Expected;
use std::fmt;

/// Where an effective value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A command-line flag.
    Flag(&'static str),
    /// An environment variable, under the spelling that was used.
    Variable(&'static str),
    /// Nobody chose it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Variable(name) => write!(f, "environment {name}"),
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
    #[error("{variable}={value:?} is not valid; accepted: {accepted}")]
    Invalid {
        /// The variable as it was spelled.
        variable: &'static str,
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
    pub(super) problems: Vec<Problem>,
    pub(super) settings: Vec<Setting>,
    pub(super) warnings: Vec<String>,
}

impl<V: Fn(&str) -> Option<String>> Reader<V> {
    pub(super) fn new(variables: V) -> Self {
        Self {
            variables,
            problems: Vec::new(),
            settings: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The first of `names` that is set, trimmed. Empty and blank values count as unset.
    pub(super) fn text(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|&name| {
            let value = (self.variables)(name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| (name, value.to_owned()))
        })
    }

    /// A variable whose blanks matter.
    pub(super) fn untrimmed(&self, name: &'static str) -> Option<(&'static str, String)> {
        let value = (self.variables)(name)?;
        (!value.trim().is_empty()).then_some((name, value))
    }

    /// A value that is there only if somebody set it.
    pub(super) fn optional<T>(
        &mut self,
        names: &[&'static str],
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Option<(&'static str, T)> {
        let (name, text) = self.text(names)?;
        match parse(&text) {
            Ok(value) => Some((name, value)),
            Err(expected) => {
                self.invalid(name, &text, expected);
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
        let found = self.optional(names, parse);
        let origin = found
            .as_ref()
            .map_or(Origin::Default, |(name, _)| Origin::Variable(name));
        let value = found.map_or(default, |(_, value)| value);
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
        let Some((name, text)) = self.text(names) else {
            self.describe(names[0], show(&default), Origin::Default);
            return default;
        };
        match parse(&text) {
            Ok(value) => {
                self.describe(names[0], show(&value), Origin::Variable(name));
                value
            }
            Err(expected) => {
                self.invalid(name, "(hidden)", expected);
                default
            }
        }
    }

    pub(super) fn describe(&mut self, name: &'static str, value: String, origin: Origin) {
        self.settings.push(Setting { name, value, origin });
    }

    pub(super) fn invalid(&mut self, variable: &'static str, text: &str, expected: Expected) {
        let value = text.chars().take(QUOTED_CHARS_MAX).collect();
        self.problems.push(Problem::Invalid {
            variable,
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
