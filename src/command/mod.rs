//! The command line: `synckit-server [serve]`, and what helps an operator before and beside it.
//!
//! Every setting that is no secret is also a flag, before or behind the command (see [`crate::config::table`]).
//! Exit codes: 0 well, 1 not well, 2 a command line that is not understood.

mod capacity;
mod doctor;
mod print;
mod serve;
mod token;

pub use capacity::{Demand, Need};

use crate::config::Flags;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// The whole command line, for parsing, `--help`, the man page and shell completions.
pub fn definition() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .global(true)
        .help("TOML file with settings; flags and environment variables beat it");
    Command::new("synckit-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("SyncKit server: real-time document synchronisation over WebSocket")
        .after_help(
            "Settings: flags beat environment variables, which beat the --config file, which beats the defaults. \
             --help lists all flags; secrets (JWT_SECRET, SYNCKIT_AUTH_APIKEYS, DATABASE_URL, REDIS_URL) have none, because \
             other users can read command lines: set the variable, name a file in NAME_FILE, or use the --config file.\n\n\
             Signals: SIGTERM and SIGINT drain and end, SIGHUP reads log levels, secrets, keys and accounts again, SIGUSR1 \
             writes the state to the log.",
        )
        .arg(config)
        .args(Flags::arguments())
        .args_conflicts_with_subcommands(false)
        .subcommand(Command::new("serve").about("Run the server (the default)"))
        .subcommand(Command::new("check-config").about("Check all settings and the files they name; exit 1 if the server would refuse them"))
        .subcommand(
            Command::new("config")
                .about("About the settings")
                .subcommand_required(true)
                .subcommand(
                    Command::new("print")
                        .about("Print every effective setting and where it comes from, without secrets")
                        .arg(json_switch()),
                )
                .subcommand(Command::new("table").about("Print all settings as a Markdown table").hide(true)),
        )
        .subcommand(token::definition())
        .subcommand(doctor::definition())
        .subcommand(capacity::definition())
        .subcommand(Command::new("man").about("Print the manual page (roff)").hide(true))
        .subcommand(
            Command::new("completions")
                .about("Print a completion script")
                .hide(true)
                .arg(Arg::new("shell").required(true).value_parser(PossibleValuesParser::new(SHELLS))),
        )
}

const SHELLS: [&str; 5] = ["bash", "zsh", "fish", "elvish", "powershell"];

fn json_switch() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print JSON")
}

/// The settings part of a command line.
struct Given {
    flags: Flags,
    config: Option<PathBuf>,
}

impl Given {
    fn of(matches: &ArgMatches) -> Given {
        Given {
            flags: Flags::from_matches(matches),
            config: matches.get_one::<PathBuf>("config").cloned(),
        }
    }

    /// The configuration, or the reason there is none on standard error.
    fn load(&self) -> Result<crate::config::Config, ExitCode> {
        crate::config::files::load(self.flags.clone(), self.config.as_deref()).map_err(|error| fail(&error))
    }
}

/// Runs what the command line of this process says.
pub fn run() -> ExitCode {
    let matches = definition().get_matches();
    // Global arguments are found in the innermost command.
    match matches.subcommand() {
        None | Some(("serve", _)) => {
            let innermost = matches.subcommand().map_or(&matches, |(_, inner)| inner);
            serve::run(&Given::of(innermost))
        }
        Some(("check-config", inner)) => print::check(&Given::of(inner)),
        Some(("config", inner)) => match inner.subcommand() {
            Some(("print", inner)) => print::settings(&Given::of(inner), inner.get_flag("json")),
            _ => show(&crate::config::table::markdown()),
        },
        Some(("token", inner)) => token::run(&Given::of(inner), inner),
        Some(("doctor", inner)) => doctor::run(&Given::of(inner), inner),
        Some(("capacity", inner)) => capacity::run(&Given::of(inner), inner),
        Some(("man", _)) => manual(),
        Some(("completions", inner)) => completions(inner),
        Some((other, _)) => fail(&format!("{other} is not a command")),
    }
}

fn manual() -> ExitCode {
    let mut page = Vec::new();
    match clap_mangen::Man::new(definition()).render(&mut page) {
        Ok(()) => show(&String::from_utf8_lossy(&page)),
        Err(error) => fail(&error),
    }
}

fn completions(matches: &ArgMatches) -> ExitCode {
    let name = matches.get_one::<String>("shell").map_or("bash", String::as_str);
    let Ok(shell) = name.parse::<clap_complete::Shell>() else {
        return fail(&format!("no completions for {name}"));
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition(), "synckit-server", &mut script);
    show(&String::from_utf8_lossy(&script))
}

/// Writes to standard output. A reader that has gone away is no fault.
fn show(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(error: &dyn Display) -> ExitCode {
    eprintln!("synckit-server: {error}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn settings_may_stand_before_and_behind_the_command() {
        for line in [
            ["synckit-server", "--port", "1", "check-config"],
            ["synckit-server", "check-config", "--port", "1"],
        ] {
            let matches = definition().try_get_matches_from(line).unwrap();
            let (_, inner) = matches.subcommand().unwrap();
            assert_eq!(Given::of(inner).flags.value("PORT"), Some("1"), "{line:?}");
        }
        let matches = definition()
            .try_get_matches_from(["synckit-server", "--shards", "3"])
            .unwrap();
        assert_eq!(Given::of(&matches).flags.value("SYNCKIT_SHARDS"), Some("3"));
        assert!(
            definition()
                .try_get_matches_from(["synckit-server", "--jwt-secret", "x"])
                .is_err()
        );
    }
}
