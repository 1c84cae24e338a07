//! `token`: issues a token signed with the configured secret, for trying things out and for services.

use super::{Given, fail, show};
use crate::auth::{Issuer, Permissions, Subject};
use crate::config::{Role, duration_s};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest user id that the server accepts, in characters.
const USER_ID_CHARS_MAX: usize = 256;

pub(super) fn definition() -> Command {
    let documents = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("DOCUMENT")
            .action(ArgAction::Append)
            .conflicts_with("role")
            .help(help)
    };
    Command::new("token")
        .about("Issue an access token signed with JWT_SECRET and print it on standard output")
        .after_help(
            "Examples:\n  synckit-server token                                  an administrator for a day\n  \
             synckit-server token --role read --expires 30d        a service that reads everything\n  \
             synckit-server token --user ann --read note --write note   one document",
        )
        .arg(
            Arg::new("user")
                .long("user")
                .value_name("ID")
                .default_value("developer")
                .help("whose token it is"),
        )
        .arg(
            Arg::new("role")
                .long("role")
                .value_parser(PossibleValuesParser::new(["admin", "write", "read"]))
                .help("everything, reading and writing everything, or reading everything; default admin"),
        )
        .arg(documents("read", "a document that may be read; may be repeated"))
        .arg(documents(
            "write",
            "a document that may be written; may be repeated; does not include reading",
        ))
        .arg(
            Arg::new("expires")
                .long("expires")
                .value_name("DURATION")
                .value_parser(duration_s)
                .help("life, like 90m, 24h or 30d; default JWT_EXPIRES_IN"),
        )
}

pub(super) fn run(given: &Given, matches: &ArgMatches) -> ExitCode {
    let config = match given.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    if config.auth.jwt_secret.generated {
        return fail(
            &"JWT_SECRET is not set, so a running server could not check the token. Remedy: set the secret that the server \
              has, in JWT_SECRET, JWT_SECRET_FILE or the --config file",
        );
    }
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let user_id = text("user").unwrap_or_default();
    if user_id.is_empty() || user_id.chars().count() > USER_ID_CHARS_MAX {
        return fail(&format!("--user takes 1 to {USER_ID_CHARS_MAX} characters"));
    }
    let mut auth = config.auth.clone();
    if let Some(seconds) = matches.get_one::<u64>("expires") {
        auth.access_token_s = *seconds;
    }
    let permissions = permissions(matches, auth.permission_prefixes);
    let subject = Subject {
        user_id,
        email: None,
        permissions,
        demo: false,
    };
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let token = Issuer::new(&auth).access(&subject, now_s);
    let permissions = serde_json::to_string(&subject.permissions).unwrap_or_default();
    eprintln!("{}: {permissions}, for {} s", subject.user_id, auth.access_token_s);
    show(&format!("{token}\n"))
}

fn permissions(matches: &ArgMatches, prefixes: bool) -> Permissions {
    let list = |name: &str| -> Vec<String> {
        matches
            .get_many::<String>(name)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    };
    let (read, write) = (list("read"), list("write"));
    if !read.is_empty() || !write.is_empty() {
        return Permissions::new(read, write, false, prefixes);
    }
    Permissions::of_role(match matches.get_one::<String>("role").map(String::as_str) {
        Some("read") => Role::Read,
        Some("write") => Role::Write,
        _ => Role::Admin,
    })
}
