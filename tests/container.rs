//! The image can be built: the steps of the Dockerfile's first stage are carried out in a folder of the test's own, with what
//! .dockerignore leaves of the sources. `cargo` is replaced by one that only reads the manifests, because the real build is
//! the same as everybody's; what is missing from the context is noticed all the same. And the files for hosts agree with
//! each other: ports, users, time limits, the seccomp profile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Instructions of the Dockerfile, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, rest) = line.split_once(' ').expect("an instruction");
            (name.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

/// Whether .dockerignore keeps a file out: the last pattern that fits decides.
fn is_ignored(path: &str) -> bool {
    let mut ignored = false;
    for pattern in read(".dockerignore").lines() {
        let (exception, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        let fits = match pattern.strip_prefix("**/") {
            Some(name) => path.split('/').any(|part| part == name),
            None => path == pattern || path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('/')),
        };
        if fits {
            ignored = !exception;
        }
    }
    ignored
}

/// Files below a path of the sources that the context has.
fn context(path: &str) -> Vec<String> {
    let full = root().join(path);
    if full.is_dir() {
        let entries = fs::read_dir(&full).expect("a folder");
        let names = entries.map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .into_string()
                .expect("a plain name")
        });
        return names.flat_map(|name| context(&format!("{path}/{name}"))).collect();
    }
    assert!(full.exists(), "COPY {path}: it is not there");
    if is_ignored(path) {
        Vec::new()
    } else {
        vec![path.to_owned()]
    }
}

fn copy(arguments: &str, place: &Path) {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let (to, from) = words.split_last().expect("source and target");
    for source in from {
        let files = context(source);
        assert!(!files.is_empty(), "COPY {source}: .dockerignore keeps it out");
        for file in files {
            let target = match file.strip_prefix(&format!("{source}/")) {
                Some(below) => place.join(to).join(below),
                None if to.ends_with('/') => place.join(to).join(Path::new(&file).file_name().expect("a name")),
                None => place.join(to),
            };
            fs::create_dir_all(target.parent().expect("a folder")).expect("folders");
            fs::copy(root().join(&file), &target).expect("a copy");
        }
    }
}

fn put_program(folder: &Path, name: &str, script: &str) {
    let file = folder.join(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a script");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("permissions");
}

#[test]
fn the_build_stage_has_what_it_needs() {
    let scratch = Scratch(std::env::temp_dir().join(format!("synckit-container-{}", std::process::id())));
    let (source, programs) = (scratch.0.join("source"), scratch.0.join("bin"));
    fs::create_dir_all(&source).expect("a folder");
    fs::create_dir_all(&programs).expect("a folder");
    // By its path: the name alone would be the replacement itself.
    let cargo = env!("CARGO");
    let manifests = "metadata --no-deps --offline --format-version 1 >/dev/null";
    put_program(
        &programs,
        "cargo",
        &format!("set -e; '{cargo}' {manifests}; mkdir -p target/release; echo >target/release/synckit-server"),
    );
    put_program(&programs, "strip", "test -e \"$1\"");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let stage = instructions()
        .into_iter()
        .skip(1)
        .take_while(|(name, _)| name != "FROM");
    let mut builds = 0;
    for (name, arguments) in stage {
        match name.as_str() {
            "COPY" => copy(&arguments, &source),
            "RUN" => {
                builds += usize::from(arguments.contains("cargo build --release --locked"));
                let output = Command::new("timeout")
                    .args(["--kill-after=5", "120", "sh", "-c", &arguments])
                    .env("PATH", &path)
                    .env_remove("CARGO_TARGET_DIR")
                    .current_dir(&source)
                    .output()
                    .expect("a shell");
                assert!(
                    output.status.success(),
                    "RUN {arguments}\n{}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
            "WORKDIR" => {}
            other => panic!("{other} is not understood by this test"),
        }
    }
    assert_eq!(builds, 2, "the dependencies, and then the server");
    assert!(
        fs::read_to_string(source.join("src/main.rs")).expect("a source").len() > 100,
        "a placeholder is left"
    );
    // What the sources take in when they are compiled, tests aside.
    let mut included = 0;
    for file in context("src").iter().filter(|file| file.ends_with(".rs")) {
        for rest in read(file).split("include_str!(\"").skip(1) {
            let name = rest.split('"').next().expect("a name");
            let wanted = Path::new(file).parent().expect("a folder").join(name);
            if wanted.components().any(|part| part.as_os_str() == "tests") {
                continue;
            }
            included += 1;
            assert!(
                source.join(&wanted).exists(),
                "{file} includes {name}, which the image's build lacks"
            );
        }
    }
    assert!(included >= 5, "only {included} included files were found");
}

/// The text between `start` and the next of `ends`.
fn after<'a>(text: &'a str, start: &str, ends: &[char]) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no {start:?}"));
    rest.split(ends).next().unwrap_or_default().trim()
}

#[test]
fn the_files_for_hosts_agree() {
    let image: Vec<(String, String)> = instructions();
    let of = |name: &str| -> Vec<&str> {
        let found = image.iter().filter(|(known, _)| known == name);
        found.map(|(_, rest)| rest.as_str()).collect()
    };
    assert_eq!(of("USER"), ["65532:65532"], "not root");
    assert_eq!(of("STOPSIGNAL"), ["SIGTERM"]);
    let port = of("EXPOSE")[0];
    assert!(of("ENV").iter().any(|rest| rest.contains(&format!("PORT={port}"))));

    let fly: toml::Table = read("fly.toml").parse().expect("TOML");
    assert_eq!(
        fly["http_service"]["internal_port"]
            .as_integer()
            .map(|port| port.to_string())
            .as_deref(),
        Some(port)
    );
    assert_eq!(fly["env"]["PORT"].as_str(), Some(port));
    assert_eq!(fly["build"]["dockerfile"].as_str(), Some("Dockerfile"));
    let seconds = |text: &str| text.trim_end_matches('s').parse::<u32>().expect("seconds");
    let drain = 10;
    assert!(seconds(fly["kill_timeout"].as_str().expect("a time")) > drain);
    assert_eq!(fly["kill_signal"].as_str(), Some("SIGTERM"));

    let compose = read("docker-compose.yml");
    assert!(seconds(after(&compose, "stop_grace_period:", &['\n'])) > drain);
    assert!(compose.contains("seccomp=tuning/seccomp.json") && compose.contains("- ALL"));
    let unit = read("tuning/synckit-server.service");
    assert!(seconds(after(&unit, "TimeoutStopSec=", &['\n'])) > drain);
    assert!(unit.contains("Type=notify") && unit.contains("NoNewPrivileges=yes"));
    assert_eq!(
        after(&read("tuning/synckit-server.socket"), "ListenStream=", &['\n']),
        port
    );

    let profile: serde_json::Value = serde_json::from_str(&read("tuning/seccomp.json")).expect("JSON");
    assert_eq!(
        profile["defaultAction"], "SCMP_ACT_ERRNO",
        "what is not named is forbidden"
    );
    let allowed = |call: &str| {
        let rules = profile["syscalls"].as_array().expect("rules");
        rules.iter().any(|rule| {
            let names = rule["names"].as_array().expect("names");
            let always = ["args", "includes", "excludes"].iter().all(|key| {
                rule[key].as_object().is_none_or(serde_json::Map::is_empty)
                    && rule[key].as_array().is_none_or(Vec::is_empty)
            });
            rule["action"] == "SCMP_ACT_ALLOW" && always && names.iter().any(|name| name == call)
        })
    };
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed(call), "{call}");
    }
    assert!(!allowed("mount") && !allowed("bpf"));
}
