//! The shape of the source tree: pure rooms know no socket, thread, clock or executor; files stay readable; nothing
//! unfinished is left behind; every behaviour test says what it promises. Checked by reading the files.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that take values and give effects (docs/architecture.md §3).
const PURE_ROOMS: [&str; 19] = [
    "histogram",
    "protocol",
    "websocket",
    "document",
    "saved",
    "text",
    "auth",
    "json",
    "http",
    "awareness",
    "session",
    "shard",
    "limits",
    "mutation",
    "config",
    "handler",
    "clock",
    "ids",
    "peers",
];

/// What a pure room must not mention outside comments and its tests.
const IMPURE: [&str; 13] = [
    "crate::runtime",
    "crate::storage::",
    "crate::cluster::redis",
    "glommio",
    "io_uring",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "Instant::now",
    "SystemTime",
    "thread::sleep",
];

const LINES_MAX: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.map(|entry| entry.expect("a readable entry").path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The room a source file belongs to: its folder under src, or its own name.
fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).expect("under src");
    let first = inside
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Lines of code with their numbers: no comments, and no test module written inside the file.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut code = Vec::new();
    let mut inside_tests = false;
    for (index, line) in lines.iter().enumerate() {
        let next = lines.get(index + 1).copied().unwrap_or_default();
        if *line == "#[cfg(test)]" && next.contains("mod ") && next.ends_with('{') {
            inside_tests = true;
        }
        if !inside_tests && !line.trim_start().starts_with("//") {
            code.push((index + 1, *line));
        }
        if inside_tests && *line == "}" {
            inside_tests = false;
        }
    }
    code
}

/// A file of unit tests that stands beside the code it tests.
fn is_test_file(file: &Path) -> bool {
    file.file_stem()
        .is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
}

#[test]
fn pure_rooms_stay_pure() {
    let mut offences = Vec::new();
    for file in rust_files(&root().join("src")) {
        if !PURE_ROOMS.contains(&room_of(&file).as_str()) || is_test_file(&file) {
            continue;
        }
        for (number, line) in code_lines(&text_of(&file)) {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                offences.push(format!("{}:{number}: {word}", file.display()));
            }
        }
    }
    assert!(
        offences.is_empty(),
        "pure rooms reach for the outside world:\n{}",
        offences.join("\n")
    );
}

#[test]
fn no_source_file_is_too_long() {
    let long: Vec<String> = rust_files(&root().join("src"))
        .iter()
        .map(|file| (text_of(file).lines().count(), file))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, file)| format!("{}: {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn nothing_unfinished_is_left_behind() {
    // Written apart, so that this file does not find itself.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("unimplemented", "!("),
    ];
    let mut found = Vec::new();
    for file in rust_files(&root().join("src"))
        .into_iter()
        .chain(rust_files(&root().join("tests")))
    {
        let is_dependency = file.components().any(|part| part.as_os_str() == "node_modules");
        for (index, line) in text_of(&file).lines().enumerate() {
            if !is_dependency && marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}: {}", file.display(), index + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "unfinished:\n{}", found.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let top_of_tests = fs::read_dir(root().join("tests"))
        .expect("the tests")
        .map(|entry| entry.expect("readable").path());
    let tests = top_of_tests.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let sources = rust_files(&root().join("src"))
        .into_iter()
        .filter(|file| !is_test_file(file));
    for file in tests.chain(sources) {
        let text = text_of(&file);
        let opening = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(opening >= 1, "{} does not open with a //! paragraph", file.display());
    }
}
