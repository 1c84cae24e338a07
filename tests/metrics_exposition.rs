//! `/metrics` is valid Prometheus text, judged by a strict reader of the format written here: every family has help and
//! type and stands together once, names and labels are well formed, counters end in `_total`, histograms are cumulative and
//! complete, and units are base units. Every metric that the alert rules and the dashboard name exists, and the numbers move
//! when what they count happens.

use test_support as support;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use support::database::SqliteFile;
use support::redis::Redis;
use support::{Client, Dialect, Server, eventually};

/// One family: type, and samples with labels.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

type Families = BTreeMap<String, Family>;

fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// `name{a="b",c="d"} value` without escapes, which this server never needs.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value: f64 = if value == "+Inf" {
        f64::INFINITY
    } else {
        value.parse().unwrap_or_else(|_| panic!("no number: {line}"))
    };
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (
            name,
            rest.strip_suffix('}')
                .unwrap_or_else(|| panic!("no closing brace: {line}")),
        ),
    };
    assert!(is_name(name), "{line}");
    let mut map = BTreeMap::new();
    for pair in labels.split(',').filter(|pair| !pair.is_empty()) {
        let (label, value) = pair.split_once('=').unwrap_or_else(|| panic!("no label: {line}"));
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .unwrap_or_else(|| panic!("no quotes: {line}"));
        assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
        assert!(
            map.insert(label.to_owned(), value.to_owned()).is_none(),
            "twice: {line}"
        );
    }
    (name.to_owned(), map, value)
}

fn parse(text: &str) -> Families {
    assert!(text.ends_with('\n'), "the last line must end");
    let mut families = Families::new();
    let mut current = String::new();
    let mut helped: Option<(String, String)> = None;
    for line in text.lines() {
        assert!(!line.is_empty() && line.trim() == line, "{line:?}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(helped.is_none(), "help without type before {line}");
            helped = Some((name.to_owned(), help.to_owned()));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            let (helped, help) = helped.take().expect("help before type");
            assert_eq!(helped, name, "{line}");
            assert!(is_name(name) && !help.is_empty(), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            let family = Family {
                kind: kind.to_owned(),
                help,
                samples: Vec::new(),
            };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} twice");
            name.clone_into(&mut current);
        } else {
            let (name, labels, value) = sample(line);
            let family = families
                .get_mut(&current)
                .unwrap_or_else(|| panic!("no family for {line}"));
            let suffix = name
                .strip_prefix(current.as_str())
                .unwrap_or_else(|| panic!("{line} stands under {current}"));
            let suffixes: &[&str] = if family.kind == "histogram" {
                &["_bucket", "_sum", "_count"]
            } else {
                &[""]
            };
            assert!(suffixes.contains(&suffix), "{line} stands under {current}");
            family.samples.push((name, labels, value));
        }
    }
    families
}

fn check(families: &Families) {
    for (name, family) in families {
        let mut seen = BTreeSet::new();
        for (sample, labels, value) in &family.samples {
            assert!(
                seen.insert((sample.clone(), labels.clone())),
                "{sample} {labels:?} twice"
            );
            assert!(value.is_finite() && (*value >= 0.0), "{sample} {value}");
        }
        assert_eq!(
            family.kind == "counter",
            name.ends_with("_total"),
            "{name} is a {}",
            family.kind
        );
        let words: Vec<&str> = name.split('_').collect();
        for unit in ["us", "ms", "microseconds", "milliseconds", "kb", "mb", "kib"] {
            assert!(!words.contains(&unit), "{name} is not in base units");
        }
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
}

fn check_histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for (sample, labels, value) in &family.samples {
        if sample.ends_with("_bucket") {
            let mut labels = labels.clone();
            let bound = labels.remove("le").expect("le");
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse().expect("a bound")
            };
            series.entry(labels).or_default().push((bound, *value));
        }
    }
    assert!(!series.is_empty(), "{name} has no buckets");
    for (labels, buckets) in series {
        assert!(
            buckets
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
            "{name} {labels:?}: {buckets:?}"
        );
        let (last, all) = buckets[buckets.len() - 1];
        assert!(last.is_infinite(), "{name} lacks +Inf");
        let count = family
            .samples
            .iter()
            .find(|(sample, own, _)| sample.ends_with("_count") && *own == labels);
        assert_eq!(count.expect("a count").2, all, "{name} {labels:?}");
        assert!(
            family
                .samples
                .iter()
                .any(|(sample, own, _)| sample.ends_with("_sum") && *own == labels),
            "{name}"
        );
    }
}

fn families(server: &Server) -> Families {
    let response = server.get("/metrics?format=prometheus");
    assert_eq!(
        response.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let families = parse(response.text());
    check(&families);
    families
}

/// The sum over all labels.
fn total(families: &Families, name: &str) -> f64 {
    let family = families.iter().find(|(family, _)| {
        *family == name
            || name
                .strip_prefix(family.as_str())
                .is_some_and(|rest| ["_count", "_sum"].contains(&rest))
    });
    let (_, family) = family.unwrap_or_else(|| panic!("no {name}"));
    family
        .samples
        .iter()
        .filter(|(sample, _, _)| sample == name)
        .map(|(_, _, value)| value)
        .sum()
}

#[test]
fn the_text_is_valid_and_the_numbers_move() {
    let server = Server::with().shards(2).env("SYNCKIT_METRICS_PUBLIC", true).start();
    let before = families(&server);
    let mut writer = Client::connect(&server, Dialect::Json);
    let mut reader = Client::connect(&server, Dialect::Binary);
    for document in ["one", "two", "three"] {
        reader.subscribe(document);
        for number in 0..5 {
            writer.write_acked(document, json!({ "field": number }));
        }
        reader.take_where("the last value", |message| {
            message.kind == "delta" && message["value"] == 4
        });
    }
    writer.say("subscribe", json!({ "documentId": "no such id!" }));
    writer.take("error");
    let after = families(&server);
    let grew = |name: &str| total(&after, name) - total(&before, name);
    assert_eq!(grew("synckit_ack_latency_seconds_count"), 15.0);
    assert_eq!(grew("synckit_websockets"), 2.0);
    assert_eq!(grew("synckit_documents"), 3.0);
    assert!(grew("synckit_flush_wait_seconds_count") >= 6.0 && grew("synckit_flush_fields_sum") >= 6.0);
    assert!(grew("synckit_fan_out_listeners_sum") >= 6.0);
    assert!(grew("synckit_turn_duration_seconds_count") > 0.0 && grew("synckit_turn_seconds_total") > 0.0);
    assert_eq!(grew("synckit_refused_total"), 1.0);
    assert!(total(&after, "process_resident_memory_bytes") > 1e6);
    assert!(total(&after, "synckit_http_connections") >= 1.0, "the one that asks");
    assert!(
        server.log().contains("peers make mistakes, one of them:"),
        "{}",
        server.log()
    );
}

#[test]
fn modes_and_the_way_to_redis_are_told() {
    let (redis, file) = (Redis::start(), SqliteFile::new());
    let server = Server::with()
        .env("SYNCKIT_METRICS_PUBLIC", true)
        .env("REDIS_URL", redis.url())
        .env("DATABASE_URL", file.url())
        .start();
    let modes = |families: &Families| families["synckit_mode_info"].samples[0].1.clone();
    let labels = |storage: &str, durability: &str, cluster: &str| {
        let pairs = [("storage", storage), ("durability", durability), ("cluster", cluster)];
        BTreeMap::from(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())))
    };
    assert_eq!(modes(&families(&server)), labels("sqlite", "sync", "redis"));
    let plain = Server::with().env("SYNCKIT_METRICS_PUBLIC", true).start();
    assert_eq!(modes(&families(&plain)), labels("memory", "none", "none"));
    let mut writer = Client::connect(&server, Dialect::Json);
    let after = eventually("confirmations of Redis are timed", || {
        writer.write_acked("note", json!({ "field": 1 }));
        let known = families(&server);
        (total(&known, "synckit_bus_confirmations_timed_total") >= 3.0).then_some(known)
    });
    let each = total(&after, "synckit_bus_confirmation_seconds_total")
        / total(&after, "synckit_bus_confirmations_timed_total");
    assert!(each > 0.0 && each < 10.0, "{each} s");
    assert!(total(&after, "synckit_bus_connected_seconds") > 0.0);
    assert!(
        total(&after, "synckit_bus_confirmations_timed_total") <= total(&after, "synckit_bus_published_total") + 10.0,
        "one at a time"
    );
}

/// Names of metrics in an expression of PromQL.
fn names_in(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words
        .filter(|word| word.starts_with("synckit_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" || name == "query" || name == "definition" => {
                        found.push(text.clone())
                    }
                    _ => expressions(member, found),
                }
            }
        }
        Value::Array(members) => members.iter().for_each(|member| expressions(member, found)),
        _ => {}
    }
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    // With everything that has metrics of its own.
    let (redis, file) = (Redis::start(), SqliteFile::new());
    let server = Server::with()
        .shards(1)
        .env("SYNCKIT_METRICS_PUBLIC", true)
        .env("REDIS_URL", redis.url())
        .env("DATABASE_URL", file.url())
        .start();
    let mut client = Client::connect(&server, Dialect::Json);
    client.say("subscribe", json!({ "documentId": "no such id!" }));
    client.take("error");
    client.close();
    // A family without samples is no family to Prometheus; these two have some now.
    let known = eventually("an error and a close are counted", || {
        let known = families(&server);
        let has = |name: &str| known.get(name).is_some_and(|family| !family.samples.is_empty());
        (has("synckit_refused_total") && has("synckit_closed_total")).then_some(known)
    });
    let tuning = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning");
    let read =
        |name: &str| std::fs::read_to_string(tuning.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let rules = read("prometheus/synckit-alerts.yml");
    let mut all: Vec<String> = rules
        .lines()
        .filter_map(|line| Some(line.trim().strip_prefix("expr:")?.to_owned()))
        .collect();
    assert!(all.len() >= 10, "the rules were not understood");
    assert!(
        !rules.contains("expr: |"),
        "keep each expression on one line, or this test does not see it"
    );
    let dashboard: Value = serde_json::from_str(&read("grafana/synckit.json")).expect("JSON");
    let rules_count = all.len();
    expressions(&dashboard, &mut all);
    assert!(all.len() >= rules_count + 15, "the dashboard was not understood");
    let mut unknown = BTreeSet::new();
    for name in all.iter().flat_map(|expression| names_in(expression)) {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        if !known.contains_key(&name)
            && family.is_none_or(|family| known.get(family).is_none_or(|family| family.kind != "histogram"))
        {
            unknown.insert(name);
        }
    }
    assert!(unknown.is_empty(), "named in tuning/, told by nobody: {unknown:?}");
    let chapter =
        std::fs::read_to_string(tuning.with_file_name("docs").join("monitoring.md")).expect("docs/monitoring.md");
    for (name, family) in &known {
        if !name.starts_with("synckit_shard_") {
            assert!(
                chapter.contains(&format!("`{name}`")),
                "docs/monitoring.md does not explain {name}: {}",
                family.help
            );
        }
    }
}
