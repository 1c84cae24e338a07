//! The pages as a whole: well formed, complete, escaped, and standing on their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::assertion::check_all;
use crate::measure::{SlopeRange, memory};
use crate::result::{
    Connections, Cpu, KernelMemory, Latency, Machine, MemorySample, Messages, Phase, ProcessMemory, RateSample,
    RunResult, Saturation, Server, ServerCpu, SlabCache, UnsupportedStep, Verdict, WorkerCpu, new_histogram,
};

/// Text that breaks a page which forgets to escape it anywhere.
const HOSTILE: &str = "</title></style><script>alert('x')</script>\" onload=\"&amp;";

fn samples(bytes_per_connection: u64) -> Vec<MemorySample> {
    (0..=6u64)
        .map(|step| {
            let connections = step * 50_000;
            let cache = SlabCache {
                objects: connections,
                object_bytes: 256,
                bytes: connections * 256,
            };
            let inodes = SlabCache {
                objects: 2 * connections,
                object_bytes: 832,
                bytes: connections * 1664,
            };
            let kernel = KernelMemory {
                slab_bytes: 500_000_000 + connections * 8_192,
                slab_unreclaimable_bytes: 90_000_000 + connections * 6_400,
                caches: [("io_kiocb".into(), cache), ("sock_inode_cache".into(), inodes)].into(),
                ..KernelMemory::default()
            };
            let rss_bytes = 6_000_000 + connections * bytes_per_connection;
            let server = ProcessMemory {
                rss_bytes,
                private_bytes: rss_bytes - 4_000_000,
                ..ProcessMemory::default()
            };
            MemorySample {
                at_seconds: step as f64 * 3.5,
                connections,
                server: Some(server),
                kernel: Some(kernel),
                ..MemorySample::default()
            }
        })
        .collect()
}

fn latency(scale_us: f64) -> Latency {
    let mut histogram = new_histogram();
    for rank in 0..200_000u32 {
        let tail = 1.0 / (1.0 - f64::from(rank) / 200_000.0);
        histogram.saturating_record((scale_us * 1000.0 * tail.powf(0.6)) as u64);
    }
    Latency::from_histogram(&histogram, true).expect("recorded values")
}

/// A run with something in every section.
fn full_run(name: &str, factor: f64) -> RunResult {
    let rates = (0..60).map(|second| RateSample {
        at_seconds: f64::from(second),
        connections: 300_000,
        sent_per_second: 210_000.0 * factor,
        acked_per_second: (200_000.0 + 5_000.0 * f64::from(second % 7)) * factor,
        delivered_per_second: 150_000.0 * factor,
        ..RateSample::default()
    });
    let range = SlopeRange {
        server_caches: vec!["io_kiocb".into()],
        ..SlopeRange::default()
    };
    let stretch = ServerCpu {
        phase: "hold".into(),
        seconds: 60.0,
        total_us: 9e6,
        user_us: 2e6,
        system_us: 7e6,
        ..ServerCpu::default()
    };
    let mut run = RunResult {
        started_at_unix_ms: 1_790_000_000_000,
        duration_seconds: 83.25,
        parameters: [("conns".into(), 300_000.into()), ("dialect".into(), "sdk".into())].into(),
        machine: Machine {
            kernel: "6.18.44".into(),
            cpu_model: "Example CPU @ 2.9 GHz".into(),
            cores: 2,
            memory_bytes: 24 << 30,
            descriptors_max: 20_000,
        },
        server: Server {
            url: "ws://127.0.0.1:8080/ws".into(),
            name: name.into(),
            dialect: "sdk/json".into(),
            pid: Some(4_321),
            version: Some("0.1.0".into()),
            is_local: true,
        },
        connections: Connections {
            requested: 300_000,
            established: 299_997,
            open_max: 299_996,
            failed: [("connection refused".into(), 3)].into(),
            dropped: [("closed 1006".into(), 1)].into(),
            established_per_second: Some(17_654.0 * factor),
        },
        phases: vec![Phase {
            name: "connect".into(),
            from_seconds: 0.0,
            to_seconds: 21.5,
        }],
        memory: memory(samples((312.0 / factor) as u64), &range),
        cpu: Cpu {
            server: vec![stretch.per_idle_connection(299_996).per_message(6_543_210)],
            client: vec![WorkerCpu {
                worker: "worker 0".into(),
                pid: 77,
                seconds: 60.0,
                cpu_us: 12e6,
                share: 0.2,
            }],
        },
        latencies: [
            ("ack".into(), latency(180.0 / factor)),
            ("delivery".into(), latency(420.0 / factor)),
        ]
        .into(),
        headline_latency: Some("ack".into()),
        messages: Messages {
            sent: Some(12_600_000),
            acked: Some(12_345_678),
            delivered: Some(9_000_001),
            coalesced: Some(765_432),
            lost: Some(0),
            measured_seconds: Some(60.0 / factor),
            server_errors: [("RATE_LIMITED".into(), 17)].into(),
            ..Messages::default()
        },
        rates: rates.collect(),
        unsupported: vec![UnsupportedStep {
            step: "awareness".into(),
            reason: "no such message".into(),
        }],
        saturation: Saturation {
            verdict: Verdict::Valid,
            client_share_max: Some(0.2),
            ..Saturation::default()
        },
        ..RunResult::new("mixed")
    };
    let assertions = ["user_bytes_per_connection <= 512", "p99_ms < 1", "duplicated == 0"];
    check_all(&assertions.map(|text| text.parse().expect(text)), &mut run);
    run
}

fn run_file(run: RunResult) -> ResultFile {
    ResultFile::Run(Box::new(run))
}

fn comparison() -> Comparison {
    let mut rounds = Vec::new();
    for round in 0..3 {
        let noise = 1.0 + f64::from(round) * 0.05;
        rounds.extend([full_run("this server", 4.0 * noise), full_run("another", noise)]);
        let mut cannot = full_run("one that cannot", 0.5 * noise);
        cannot.latencies = BTreeMap::new();
        cannot.messages.acked = None;
        rounds.push(cannot);
    }
    Comparison::of_runs(rounds, Some("another"))
}

/// Every start tag has its end tag, in order, and attributes are quoted. Returns the text between the tags.
fn well_formed(page: &str) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a document type");
    while let Some(start) = rest.find('<') {
        text.push_str(&rest[..start]);
        text.push('\n');
        let end = start + rest[start..].find('>').expect("a closed tag");
        let tag = &rest[start + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "end tags in order");
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().expect("a name"));
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    text
}

#[test]
fn the_page_of_a_run_holds_every_figure() {
    let page = html(&run_file(full_run("this server", 1.0)));
    let text = well_formed(&page);
    for figure in [
        "300,000",
        "299,997",
        "299,996",
        "312 B",
        "312.0 B",
        "17,700/s",
        "206,000/s",
        "12,345,678",
        "9,000,001",
        "765,432",
        "RATE_LIMITED",
        "connection refused",
        "closed 1006",
        "6,543,210",
        "1.38 µs",
        "0.5 µs",
        "20.0 %",
        "Example CPU @ 2.9 GHz",
        "6.18.44",
        "24 GiB",
        "sdk/json",
        "process 4321",
        "awareness",
        "no such message",
        "user_bytes_per_connection <= 512",
        "holds",
        "FAILS",
        "not measured in this run",
        "83.3 s",
        "io_kiocb",
        "wholly to the server",
        "256.0 B",
    ] {
        let escaped = figure.replace('<', "&lt;");
        assert!(text.contains(&escaped), "{figure} is missing");
    }
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(!page.contains("role=\"alert\""), "nothing to warn of");
    let axis_ends_with_the_sample = page.contains(">99.999 %<") && !page.contains(">99.9999 %<");
    assert!(
        axis_ends_with_the_sample,
        "200,000 latencies say nothing of the 99.9999th percentile"
    );
}

#[test]
fn every_chart_has_a_title_that_is_read_out() {
    let page = html(&run_file(full_run("this server", 1.0)));
    for drawing in page.split("<svg").skip(1) {
        let tag = drawing.split_once('>').expect("a tag").0;
        assert!(tag.contains("role=\"img\"") && tag.contains("aria-label=\""), "{tag}");
        assert!(drawing.starts_with(&format!("{tag}><title>")));
    }
}

#[test]
fn a_page_asks_nobody_for_anything() {
    for page in [
        html(&run_file(full_run("a", 1.0))),
        html(&ResultFile::Comparison(Box::new(comparison()))),
    ] {
        for outside in [
            "<script", "<link", "<img", "<iframe", "src=", "href=", "url(", "@import", "https:",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
        let names = page.matches("http:").count();
        assert_eq!(names, page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    }
}

#[test]
fn what_servers_say_cannot_become_part_of_the_page() {
    let mut run = full_run(HOSTILE, 1.0);
    run.scenario = HOSTILE.into();
    run.server.url = HOSTILE.into();
    run.server.dialect = HOSTILE.into();
    run.server.version = Some(HOSTILE.into());
    run.machine.cpu_model = HOSTILE.into();
    run.parameters.insert(HOSTILE.into(), HOSTILE.into());
    run.connections.failed.insert(HOSTILE.into(), 1);
    run.connections.dropped.insert(HOSTILE.into(), 1);
    run.messages.server_errors.insert(HOSTILE.into(), 1);
    run.unsupported.push(UnsupportedStep {
        step: HOSTILE.into(),
        reason: HOSTILE.into(),
    });
    run.latencies.insert(HOSTILE.into(), latency(10.0));
    run.phases.push(Phase {
        name: HOSTILE.into(),
        ..Phase::default()
    });
    run.saturation = Saturation {
        verdict: Verdict::Unknown,
        reasons: vec![HOSTILE.into()],
        client_share_max: None,
    };
    let of_one = html(&run_file(run.clone()));
    let of_two = html(&ResultFile::Comparison(Box::new(Comparison::of_runs(
        vec![run, full_run("b", 1.0)],
        None,
    ))));
    for page in [of_one, of_two] {
        well_formed(&page);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert!(!page.contains("\" onload="));
    }
}

#[test]
fn a_run_that_measured_nothing_is_still_a_page() {
    let page = html(&run_file(RunResult::new("density")));
    let text = well_formed(&page);
    assert!(text.contains("Nobody checked whether the load tester was the limit"));
    assert!(!page.contains("NaN") && !page.contains("<svg"));
    let nothing = Comparison::of_runs(Vec::new(), None);
    let page = html(&ResultFile::Comparison(Box::new(nothing)));
    assert!(!well_formed(&page).contains("NaN"));
}

#[test]
fn figures_of_a_saturated_run_are_withheld_and_the_reason_is_plain() {
    let mut run = full_run("this server", 1.0);
    run.saturation = Saturation {
        verdict: Verdict::Saturated,
        reasons: vec!["worker 0 used 97 % of its core".into()],
        client_share_max: Some(0.97),
    };
    let result = run_file(run);
    let text = well_formed(&html(&result));
    assert!(text.contains("The load tester was the limit") && text.contains("worker 0 used 97 % of its core"));
    for withheld in ["206,000/s", "1.38 µs", "p99 latency", "17,700/s"] {
        assert!(!text.contains(withheld), "{withheld}");
    }
    assert!(
        text.contains("312 B"),
        "memory does not depend on the load tester's speed"
    );
    let summary = summary(&result);
    assert!(summary.contains("INVALID") && summary.contains("withheld") && !summary.contains("206,000/s"));
}

#[test]
fn figures_that_were_allowed_are_shown_under_a_warning() {
    for verdict in [Verdict::Allowed, Verdict::Valid] {
        let mut run = full_run("this server", 1.0);
        let reasons = vec!["worker 0 used 97 % of its core".into()];
        run.saturation = Saturation {
            verdict,
            reasons,
            client_share_max: Some(0.97),
        };
        let result = run_file(run);
        let text = well_formed(&html(&result));
        for shown in [
            "The load tester may have been the limit",
            "worker 0 used 97 % of its core",
            "206,000/s",
        ] {
            assert!(text.contains(shown), "{shown} is missing");
        }
        assert!(summary(&result).contains("WARNING: the load tester may have been the limit\n  worker 0"));
    }
}

#[test]
fn assertions_about_ratios_stand_with_those_about_runs() {
    let mut compared = comparison();
    let assertion: crate::assertion::Assertion = "acked_per_second >= 5".parse().expect("an assertion");
    compared.assertions = vec![assertion.check_ratio(&compared, "this server")];
    let result = ResultFile::Comparison(Box::new(compared));
    let text = well_formed(&html(&result));
    assert!(text.contains("this server / another: acked_per_second &gt;= 5") && text.contains("another, round 3"));
    assert!(summary(&result).contains("assert this server / another: acked_per_second >= 5 FAILS: measured 4"));
}

#[test]
fn servers_side_by_side_show_medians_ratios_and_what_was_not_measured() {
    let comparison = comparison();
    let page = html(&ResultFile::Comparison(Box::new(comparison.clone())));
    let text = well_formed(&page);
    assert!(text.contains("mixed · this server, another, one that cannot"));
    // The median round has 5 % noise: 205,761.3/s × 4 × 1.05 against × 1.05.
    for figure in ["864,000/s (4 ×)", "216,000/s", "not measured", "awareness"] {
        assert!(text.contains(figure), "{figure} is missing");
    }
    assert!(text.contains("ack: latency by percentile, the round with the median p99"));
    let summary = summary(&ResultFile::Comparison(Box::new(comparison)));
    assert!(summary.contains("864,000/s (4 ×)") && summary.contains("one that cannot cannot: awareness"));
}

#[test]
fn the_terminal_summary_holds_the_outcome() {
    let text = summary(&run_file(full_run("this server", 1.0)));
    for line in [
        "mixed against this server (ws://127.0.0.1:8080/ws)",
        "connections: 299,997 of 300,000 ready, 3 failed, 1 dropped",
        "  failed: connection refused × 3",
        "server error RATE_LIMITED × 17",
        "not measured: awareness (no such message)",
        "assert user_bytes_per_connection <= 512 holds",
        "assert duplicated == 0 FAILS: not measured in this run",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} is missing from\n{text}"
        );
    }
}

/// A folder of its own for each test, removed with what is in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("loadtest-report-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for temporary files");
        Self(path)
    }

    fn file(&self, name: &str, result: &ResultFile) -> PathBuf {
        let file = self.0.join(name);
        save(result, &file).expect("a writable folder");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn saved_results_come_back_as_they_were_and_several_stand_side_by_side() {
    let folder = Folder::new("round-trip");
    let (first, second) = (full_run("a", 1.0), full_run("b", 2.0));
    let files = [
        folder.file("a.json", &run_file(first.clone())),
        folder.file("b.json", &run_file(second)),
    ];
    let ResultFile::Run(read) = load(&files[..1], None).expect("a result") else {
        panic!("one run is a run")
    };
    // Not compared as values: the JSON reader may be off by the last bit of a fraction.
    assert_eq!(html(&ResultFile::Run(read)), html(&run_file(first)));
    let ResultFile::Comparison(both) = load(&files, Some("b")).expect("two results") else {
        panic!("two are compared")
    };
    assert_eq!((both.baseline.as_str(), both.servers.len()), ("b", 2));
    save_html(&ResultFile::Comparison(both), &folder.0.join("page.html")).expect("a writable folder");
    well_formed(
        fs::read_to_string(folder.0.join("page.html"))
            .expect("the page")
            .trim_end(),
    );
}

#[test]
fn one_server_before_and_after_is_two_columns() {
    let folder = Folder::new("columns");
    let files =
        [("before", 1.0), ("after", 2.0)].map(|(name, factor)| folder.file(name, &run_file(full_run("a", factor))));
    let ResultFile::Comparison(both) = load(&files, None).expect("two results") else {
        panic!("two are compared")
    };
    let names: Vec<&str> = both.servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["a (before)", "a (after)"]);
    let acked = both
        .metrics
        .iter()
        .find(|metric| metric.metric == "acked_per_second")
        .expect("measured");
    assert!(
        acked.values[1].ratio.is_some_and(|ratio| (ratio - 2.0).abs() < 1e-9),
        "{acked:?}"
    );
}

#[test]
fn files_that_are_no_results_are_named() {
    let folder = Folder::new("refused");
    let file = folder.0.join("other.json");
    fs::write(&file, "{}").expect("a writable folder");
    let missing = folder.0.join("missing.json");
    let newer = folder.file(
        "newer.json",
        &run_file(RunResult {
            format: FORMAT + 1,
            ..RunResult::new("density")
        }),
    );
    for (file, complaint) in [
        (file, "not a result"),
        (missing, "cannot read"),
        (newer, "has format 2"),
    ] {
        let error = format!("{:#}", load(std::slice::from_ref(&file), None).expect_err(complaint));
        assert!(
            error.contains(complaint) && error.contains(&file.display().to_string()),
            "{error}"
        );
    }
    let one = folder.file("one.json", &run_file(full_run("a", 1.0)));
    assert!(
        load(&[one], Some("b"))
            .expect_err("no such server")
            .to_string()
            .contains("there are a")
    );
}

/// Pages to look at: `REPORT_EXAMPLES=FOLDER cargo test -p loadtest examples`.
#[test]
fn examples_can_be_written_to_look_at() {
    let folder = Folder::new("examples");
    let to = std::env::var_os("REPORT_EXAMPLES").map_or_else(|| folder.0.clone(), PathBuf::from);
    let mut saturated = full_run("this server", 1.0);
    saturated.saturation = Saturation {
        verdict: Verdict::Saturated,
        reasons: vec![
            "worker 0 used 97 % of its core".into(),
            "4,312 sends were late by more than 1 ms".into(),
        ],
        client_share_max: Some(0.97),
    };
    let examples = [
        ("run", run_file(full_run("this server", 1.0))),
        ("saturated", run_file(saturated)),
        ("comparison", ResultFile::Comparison(Box::new(comparison()))),
    ];
    for (name, result) in examples {
        let file = to.join(format!("{name}.html"));
        save_html(&result, &file).expect("a writable folder");
        well_formed(fs::read_to_string(file).expect("the page").trim_end());
    }
}
