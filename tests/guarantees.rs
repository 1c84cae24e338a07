//! Promise: every test that docs/guarantees.md and docs/security-budgets.md name exists, every promise names at least
//! one, and every fuzz target has a corpus and a place in docs/fuzzing.md.
//!
//! A name is written `file::test` for `tests/file.rs`, or `src/path.rs::test` for a unit test. Checked by reading the
//! files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between back quotes and looks like `place::test`.
fn named(text: &str) -> BTreeSet<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let pair = |quoted: &str| {
        let (place, test) = quoted.split_once("::")?;
        let plain = |name: &str| {
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_/.".contains(&b))
        };
        (plain(place) && plain(test)).then(|| (place.to_owned(), test.to_owned()))
    };
    quoted.filter_map(pair).collect()
}

/// Whether the file has that function and marks it as a test, directly or inside `proptest!`.
fn has_test(source: &str, test: &str) -> bool {
    let head = format!("fn {test}(");
    let lines: Vec<&str> = source.lines().collect();
    lines.iter().enumerate().any(|(at, line)| {
        line.trim_start().starts_with(&head) && lines[..at].iter().rev().take(4).any(|above| above.contains("#[test]"))
    })
}

fn check(page: &str) -> usize {
    let names = named(&read(page));
    let missing: Vec<String> = names
        .iter()
        .filter(|(place, test)| {
            let file = if place.contains('/') {
                place.clone()
            } else {
                format!("tests/{place}.rs")
            };
            !Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).exists() || !has_test(&read(&file), test)
        })
        .map(|(place, test)| format!("{place}::{test}"))
        .collect();
    assert!(
        missing.is_empty(),
        "{page} names tests that do not exist:\n{}",
        missing.join("\n")
    );
    names.len()
}

#[test]
fn every_test_that_is_named_exists() {
    assert!(check("docs/guarantees.md") >= 30);
    assert!(check("docs/security-budgets.md") >= 15);
}

#[test]
fn every_promise_names_what_enforces_it() {
    let page = read("docs/guarantees.md");
    for promise in ["G1", "G2", "G3", "G4", "G5", "G6", "G7"] {
        let heading = format!("## {promise} ");
        let (_, section) = page
            .split_once(&heading)
            .unwrap_or_else(|| panic!("{promise} has no section"));
        let section = section.split("\n## ").next().unwrap_or_default();
        assert!(!named(section).is_empty(), "{promise} names no test");
        for part in ["**Who may rely on it:**", "**What voids it:**", "**Enforced by:**"] {
            assert!(section.contains(part), "{promise} does not say {part}");
        }
    }
}

#[test]
fn every_fuzz_target_is_described_and_has_inputs() {
    let page = read("docs/fuzzing.md");
    let manifest = read("tests/fuzz/Cargo.toml");
    let targets = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"bins/")?.strip_suffix(".rs\""));
    let targets: Vec<&str> = targets.collect();
    assert!(targets.len() >= 9, "{targets:?}");
    for target in targets {
        assert!(
            page.contains(&format!("| `{target}` |")),
            "docs/fuzzing.md does not describe {target}"
        );
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz/corpus")
            .join(target);
        assert!(
            fs::read_dir(&corpus).is_ok_and(|files| files.count() > 0),
            "{target} has no corpus"
        );
    }
}
