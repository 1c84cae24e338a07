//! Configuration is what the documentation says: the table in docs/configuration.md is the one the program is made from,
//! and a running program takes flags before variables before the file, names what it does not understand and suggests what
//! was meant, and never prints a secret. Tried with the real binary.
//!
//! After a change of the table: `UPDATE_DOCS=1 cargo test --test configuration`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use synckit_server::config::table::{self, TABLE};

const SECRET: &str = "an-operators-secret-that-must-not-be-printed-0123";
const BEGIN: &str = "<!-- settings: made by `synckit-server config table` -->\n";
const END: &str = "<!-- end of settings -->";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synckit-server"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file that is removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("synckit-configuration-{}-{name}", std::process::id()));
        fs::write(&path, text).expect("a file");
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_documentation_holds_the_table() {
    let path = root().join("docs/configuration.md");
    let text = fs::read_to_string(&path).expect("docs/configuration.md");
    let (before, rest) = text.split_once(BEGIN).expect("the mark before the table");
    let (written, after) = rest.split_once(END).expect("the mark behind the table");
    let wanted = table::markdown();
    if written != wanted && std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("docs/configuration.md");
        return;
    }
    assert_eq!(written, wanted, "run UPDATE_DOCS=1 cargo test --test configuration");
    assert_eq!(stdout(&run(&["config", "table"], &[])), wanted);
}

#[test]
fn every_variable_named_anywhere_in_the_documentation_exists() {
    let ours = |word: &str| {
        [
            "SYNCKIT_",
            "JWT_",
            "WS_",
            "REDIS_",
            "DB_POOL_",
            "DATABASE_POOL_",
            "TRUSTED_PROX",
            "CORS_",
        ]
        .iter()
        .any(|start| word.starts_with(start))
    };
    let known = |word: &str| {
        let plain = word.strip_suffix("_FILE").unwrap_or(word);
        table::find(word).is_some()
            || table::find(plain).is_some_and(|entry| entry.secret)
            || table::IGNORED.iter().any(|(ignored, _)| *ignored == word)
    };
    let mut files = vec![root().join("README.md"), root().join("tuning/README.md")];
    files.extend(
        fs::read_dir(root().join("docs"))
            .expect("docs")
            .map(|entry| entry.expect("readable").path()),
    );
    let mut unknown = Vec::new();
    // The specification names what other servers of the family have, too.
    files.retain(|file| {
        file.extension().is_some_and(|extension| extension == "md") && !file.ends_with("docs/protocol.md")
    });
    for file in &files {
        let text = fs::read_to_string(file).expect("a chapter");
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        for word in words.filter(|word| ours(word) && !word.ends_with('_') && !known(word)) {
            unknown.push(format!("{}: {word}", file.display()));
        }
    }
    assert!(unknown.is_empty(), "no such variable:\n{}", unknown.join("\n"));
}

#[test]
fn flags_variables_and_the_file_are_told_apart() {
    let file = Scratch::new(
        "precedence.toml",
        &format!("port = 1001\nshards = 4\njwt_secret = \"{SECRET}\"\nhost = \"::1\"\n"),
    );
    let output = run(
        &["config", "print", "--config", file.path(), "--port", "1003"],
        &[("PORT", "1002"), ("SYNCKIT_SHARDS", "5")],
    );
    let text = stdout(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    let line = |name: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("PORT"), "PORT 1003 flag --port");
    assert_eq!(line("SYNCKIT_SHARDS"), "SYNCKIT_SHARDS 5 environment SYNCKIT_SHARDS");
    assert_eq!(line("HOST"), format!("HOST ::1 key host in {}", file.path()));
    assert_eq!(line("SYNC_BATCH_DELAY"), "SYNC_BATCH_DELAY 4 ms default");
    assert!(line("JWT_SECRET").starts_with("JWT_SECRET (set) key jwt_secret"));
    assert!(!text.contains(SECRET) && !stderr(&output).contains(SECRET));
}

#[test]
fn all_problems_are_told_at_once_with_their_place() {
    let file = Scratch::new("wrong.toml", "max_doc_size = \"huge\"\n");
    let output = run(
        &["check-config", "--config", file.path(), "--shards", "many"],
        &[("PORT", "http"), ("JWT_SECRET", "short")],
    );
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    for part in [
        "--shards \"many\" (flag) is not valid",
        "PORT=\"http\" is not valid; accepted: a whole number from 0 to 65535",
        "max_doc_size = \"huge\" in",
        "JWT_SECRET=\"(hidden)\" is not valid; accepted: at least 32 bytes",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let typo = Scratch::new("typo.toml", "shrads = 2\n");
    let output = run(&["check-config", "--config", typo.path()], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("unknown key shrads; did you mean shards?"),
        "{}",
        stderr(&output)
    );
    let output = run(&["check-config"], &[("SYNCKIT_MAX_DOC_SIZ", "1")]);
    assert!(output.status.success());
    assert!(
        stderr(&output).contains("did you mean SYNCKIT_MAX_DOC_SIZE?"),
        "{}",
        stderr(&output)
    );
    let output = run(&["--prot", "1"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--port"), "{}", stderr(&output));
}

#[test]
fn every_flag_of_the_table_is_taken_and_no_secret_has_one() {
    let help = stdout(&run(&["--help"], &[]));
    for entry in TABLE {
        match entry.flag() {
            Some(flag) => assert!(help.contains(&format!("--{flag} <{}>", entry.value)), "--{flag}"),
            None => assert!(
                !help.contains(&format!("--{} ", entry.key().replace('_', "-"))),
                "{}",
                entry.name()
            ),
        }
    }
    let short = stdout(&run(&["-h"], &[]));
    assert!(
        short.contains("--port") && !short.contains("--max-doc-size"),
        "-h shows the everyday flags only:\n{short}"
    );
}

#[test]
fn secrets_come_from_files_and_only_once() {
    let secret = Scratch::new("secret", &format!("{SECRET}\n"));
    let output = run(&["token", "--role", "read"], &[("JWT_SECRET_FILE", secret.path())]);
    let token = stdout(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    let verified = jsonwebtoken::crypto::verify(
        token.trim().rsplit_once('.').expect("a JWT").1,
        token.trim().rsplit_once('.').expect("a JWT").0.as_bytes(),
        &jsonwebtoken::DecodingKey::from_secret(SECRET.as_bytes()),
        jsonwebtoken::Algorithm::HS256,
    );
    assert!(
        verified.expect("a signature"),
        "signed with the secret of the file, without its line end"
    );
    let output = run(
        &["check-config"],
        &[("JWT_SECRET_FILE", secret.path()), ("JWT_SECRET", SECRET)],
    );
    assert!(
        stderr(&output).contains("JWT_SECRET and JWT_SECRET_FILE are both set"),
        "{}",
        stderr(&output)
    );
    let output = run(&["check-config"], &[("JWT_SECRET_FILE", "/nowhere/secret")]);
    assert!(
        stderr(&output).contains("JWT_SECRET_FILE=\"/nowhere/secret\" cannot be read"),
        "{}",
        stderr(&output)
    );
    let output = run(&["token"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("JWT_SECRET is not set"), "{}", stderr(&output));
}
