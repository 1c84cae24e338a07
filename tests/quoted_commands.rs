//! Every command that README and docs quote can be run: the program is known, subcommands and flags of our own programs are
//! understood by them, named tests, examples, benches and files exist. Those of `synckit-server` that are cheap and change
//! nothing are run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use synckit_server::command::definition;

/// Programs of others that a reader is expected to have or to get. A new one is a decision.
const OTHERS: [&str; 30] = [
    "cat",
    "cp",
    "createdb",
    "curl",
    "docker",
    "dmesg",
    "fly",
    "grep",
    "head",
    "install",
    "ip",
    "kill",
    "nft",
    "npm",
    "nstat",
    "openssl",
    "pg_dump",
    "pg_restore",
    "psql",
    "restart",
    "rm",
    "slabtop",
    "sqlite3",
    "ss",
    "sysctl",
    "systemctl",
    "systemd-analyze",
    "tee",
    "ulimit",
    "useradd",
];
/// Subcommands of cargo, our own wrapper of nothing.
const CARGO: [&str; 10] = [
    "bench", "build", "clippy", "deb", "doc", "fmt", "install", "metadata", "run", "test",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn chapters() -> Vec<PathBuf> {
    let mut files = vec![root().join("README.md"), root().join("tuning/README.md")];
    files.extend(
        fs::read_dir(root().join("docs"))
            .expect("docs")
            .map(|entry| entry.expect("readable").path()),
    );
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    files
}

/// Lines of fenced `sh` blocks, and spans of inline code that begin with one of our programs.
fn quoted(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fence: Option<bool> = None;
    let mut pending = String::new();
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = match fence {
                None => Some(language.trim() == "sh"),
                Some(_) => None,
            };
            continue;
        }
        match fence {
            Some(true) => match line.trim_end().strip_suffix('\\') {
                Some(begun) => pending.push_str(begun),
                None => lines.push(std::mem::take(&mut pending) + line),
            },
            Some(false) => {}
            None => {
                let spans = line.split('`').skip(1).step_by(2);
                let ours = |span: &&str| {
                    ["cargo ", "synckit-server ", "./tests/", "loadtest "]
                        .iter()
                        .any(|start| span.starts_with(start))
                };
                lines.extend(spans.filter(ours).map(str::to_owned));
            }
        }
    }
    lines
}

/// The simple commands of a line: without comments, in pieces at `&&`, `|`, `;`, with those inside `$(…)` by themselves.
fn simple(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote, mut inner, mut depth) = (String::new(), None, String::new(), 0);
    let mut nested = Vec::new();
    let mut characters = line.chars().peekable();
    let mut quoted_word = false;
    while let Some(c) = characters.next() {
        if depth > 0 {
            depth = match c {
                '(' => depth + 1,
                ')' => depth - 1,
                _ => depth,
            };
            if depth == 0 {
                nested.extend(simple(&std::mem::take(&mut inner)));
                word.push('X');
            } else {
                inner.push(c);
            }
            continue;
        }
        match (c, quote) {
            ('$', None | Some('"')) if characters.peek() == Some(&'(') => {
                characters.next();
                depth = 1;
            }
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                quoted_word = true;
            }
            ('#', None) if word.is_empty() => break,
            (' ' | '|' | '&' | ';', None) => {
                if !word.is_empty() || quoted_word {
                    commands.last_mut().expect("one").push(std::mem::take(&mut word));
                    quoted_word = false;
                }
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (c, None) => word.push(c),
        }
    }
    if !word.is_empty() || quoted_word {
        commands.last_mut().expect("one").push(word);
    }
    commands.extend(nested);
    commands
        .into_iter()
        .map(without_preamble)
        .filter(|words| !words.is_empty())
        .collect()
}

/// Without `sudo`, `export` and settings of variables in front, and without redirections behind.
fn without_preamble(words: Vec<String>) -> Vec<String> {
    let is_setting = |word: &str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        })
    };
    let rest = words
        .into_iter()
        .skip_while(|word| ["sudo", "export"].contains(&word.as_str()) || is_setting(word));
    rest.take_while(|word| !word.starts_with('>') && !word.starts_with("2>") && word != "<")
        .collect()
}

fn check(words: &[String]) -> Result<(), String> {
    let program = words[0].as_str();
    let name = program.rsplit('/').next().unwrap_or(program);
    match name {
        "cargo" => cargo(&words[1..]),
        "synckit-server" => synckit_server(words),
        "loadtest" => loadtest(&words[1..]),
        _ if program.contains('/') => match root().join(program.trim_start_matches("./")).exists() {
            true => Ok(()),
            false => Err(format!("{program} is not there")),
        },
        _ if OTHERS.contains(&name) => Ok(()),
        _ => Err(format!("{program} is no known program")),
    }?;
    for word in &words[1..] {
        let ours = ["tuning/", "docs/", "tests/", "src/"]
            .iter()
            .any(|start| word.starts_with(start));
        if ours && !word.contains('*') && !root().join(word).exists() {
            return Err(format!("{word} is not there"));
        }
    }
    Ok(())
}

fn cargo(words: &[String]) -> Result<(), String> {
    let subcommand = words.first().map(String::as_str).unwrap_or_default();
    if !CARGO.contains(&subcommand) {
        return Err(format!("cargo {subcommand}"));
    }
    for pair in words.windows(2) {
        let (folder, name) = (
            match pair[0].as_str() {
                "--test" => "tests",
                "--example" => "examples",
                "--bench" => "benches",
                _ => continue,
            },
            &pair[1],
        );
        let places = [root().join(folder), root().join("loadtest").join(folder)];
        if !places.iter().any(|place| place.join(format!("{name}.rs")).exists()) {
            return Err(format!("{folder}/{name}.rs is not there"));
        }
    }
    Ok(())
}

fn synckit_server(words: &[String]) -> Result<(), String> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    match definition().try_get_matches_from(words) {
        Err(error) if ![DisplayHelp, DisplayVersion].contains(&error.kind()) => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// The load tester is another crate: its flags are looked for in its source.
fn loadtest(words: &[String]) -> Result<(), String> {
    let mut source = String::new();
    let mut folders = vec![root().join("loadtest/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("loadtest/src").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => source.push_str(&fs::read_to_string(path).expect("a source file")),
            }
        }
    }
    for word in words {
        let Some(flag) = word
            .strip_prefix("--")
            .map(|flag| flag.split('=').next().unwrap_or(flag))
        else {
            continue;
        };
        let field = flag.replace('-', "_");
        if flag != "help" && !source.contains(&format!("{field}:")) && !source.contains(&format!("\"{flag}\"")) {
            return Err(format!("loadtest has no --{flag}"));
        }
    }
    Ok(())
}

#[test]
fn every_quoted_command_can_be_run() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in chapters() {
        let text = fs::read_to_string(&file).expect("a chapter");
        // An ellipsis stands for what the reader fills in.
        for line in quoted(&text).iter().filter(|line| !line.contains('…')) {
            for words in simple(line) {
                checked += 1;
                if let Err(reason) = check(&words) {
                    wrong.push(format!("{}: {line}\n    {reason}", file.display()));
                }
            }
        }
    }
    assert!(checked > 60, "only {checked} commands were found");
    assert!(wrong.is_empty(), "cannot be run:\n{}", wrong.join("\n"));
}

#[test]
fn the_cheap_ones_do_what_they_say() {
    let cheap = [
        "capacity",
        "check-config",
        "completions",
        "config",
        "man",
        "token",
        "--help",
    ];
    let mut run = BTreeSet::new();
    for file in chapters() {
        let text = fs::read_to_string(&file).expect("a chapter");
        for words in quoted(&text)
            .iter()
            .filter(|line| !line.contains('…'))
            .flat_map(|line| simple(line))
        {
            let is_cheap =
                words[0] == "synckit-server" && words.get(1).is_some_and(|word| cheap.contains(&word.as_str()));
            if !is_cheap || words.iter().any(|word| word.starts_with("/etc/")) || !run.insert(words.clone()) {
                continue;
            }
            let mut command = Command::new(env!("CARGO_BIN_EXE_synckit-server"));
            command
                .args(&words[1..])
                .env_clear()
                .env("JWT_SECRET", "a-secret-that-only-this-test-knows-0123456789");
            let output = command.output().expect("the binary runs");
            assert!(
                output.status.success(),
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(!output.stdout.is_empty(), "{words:?} says nothing");
        }
    }
    assert!(run.len() >= 8, "only {run:?}");
}

#[test]
fn lines_are_taken_apart_as_a_shell_does() {
    let words = |line: &str| {
        simple(line)
            .into_iter()
            .map(|words| words.join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words("sudo cp a b && A=1 cargo test # not this"),
        ["cp a b", "cargo test"]
    );
    assert_eq!(
        words("curl -H \"x: $(synckit-server token)\" u"),
        ["curl -H x: X u", "synckit-server token"]
    );
    assert_eq!(words("synckit-server man > page.1"), ["synckit-server man"]);
}
