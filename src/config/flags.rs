//! Command-line flags: one for each setting that is no secret, made from the table.

use super::table::TABLE;
use clap::{Arg, ArgMatches};
use std::collections::BTreeMap;

/// What the command line says, by the main name of each setting; each beats its variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    values: BTreeMap<&'static str, String>,
}

/// Flags that `-h` shows; `--help` shows all.
const EVERYDAY: [&str; 5] = ["HOST", "PORT", "SYNCKIT_SHARDS", "SYNCKIT_ENV", "SYNCKIT_LOG"];

impl Flags {
    /// The arguments for clap.
    pub fn arguments() -> impl Iterator<Item = Arg> {
        TABLE.iter().filter_map(|entry| {
            let flag = entry.flag()?;
            let default = match entry.default {
                "" => String::new(),
                default => format!(", default {default}"),
            };
            let help = format!("{} [env: {}{default}]", entry.help.replace('`', ""), entry.name());
            let argument = Arg::new(entry.name())
                .long(flag)
                .value_name(entry.value)
                .help(help)
                .help_heading(entry.group.title())
                .allow_hyphen_values(false)
                .global(true)
                .hide_short_help(!EVERYDAY.contains(&entry.name()));
            Some(argument)
        })
    }

    /// Those that were given.
    pub fn from_matches(matches: &ArgMatches) -> Flags {
        let given = TABLE.iter().filter(|entry| !entry.secret).filter_map(|entry| {
            let value = matches.get_one::<String>(entry.name())?;
            Some((entry.name(), value.clone()))
        });
        Flags {
            values: given.collect(),
        }
    }

    /// The value for a setting, by its main name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The same with one more; for tests.
    pub fn with(mut self, name: &'static str, value: &str) -> Flags {
        self.values.insert(name, value.to_owned());
        self
    }
}
