//! The page of several servers side by side.

use std::collections::BTreeSet;

use super::axis::Scale;
use super::chart::{Bar, LineChart, LineStyle, Series, Width, bars};
use super::figures::{decimal_bytes, grouped, precise, significant, with_unit};
use super::markup::Element;
use super::page::{self, Cell, faint, heading, table};
use super::run_page::{LATENCY_COLUMNS, latency_chart, latency_row};
use crate::metric::Metric;
use crate::result::{
    AssertionOutcome, Better, ComparedMetric, ComparedServer, ComparedValue, Comparison, Latency, RunResult,
};

/// Metrics with bars; the table has all of them.
const BARS: [&str; 16] = [
    "user_bytes_per_connection",
    "kernel_bytes_per_connection",
    "idle_cpu_us_per_connection_second",
    "established_per_second",
    "acked_per_second",
    "delivered_per_second",
    "cpu_us_per_message",
    "ack_p50_ms",
    "ack_p99_ms",
    "ack_p99_9_ms",
    "delivery_p50_ms",
    "delivery_p99_ms",
    "delivery_p99_9_ms",
    "connect_p99_ms",
    "reconnect_p99_ms",
    "lost",
];

pub fn page(comparison: &Comparison) -> Element {
    let names: Vec<&str> = comparison.servers.iter().map(|server| server.name.as_str()).collect();
    let title = format!("{} · {}", comparison.scenario, names.join(", "));
    let rounds = comparison
        .servers
        .iter()
        .map(|server| server.runs.len())
        .max()
        .unwrap_or(0);
    let identity = format!(
        "Medians of {rounds} alternating rounds · ratios to {} · loadtest {}",
        comparison.baseline, comparison.tool_version
    );
    let runs: Vec<&RunResult> = comparison.servers.iter().flat_map(|server| &server.runs).collect();
    let mut content = vec![Element::new("h1").text(&title), faint(identity)];
    content.extend(other_scenarios(comparison));
    content.extend(page::saturation_warnings(&runs));
    content.extend(servers_table(comparison));
    content.extend(page::unsupported(&unsupported_once(comparison)));
    content.extend(bar_charts(comparison));
    content.extend(memory_chart(comparison));
    content.extend(latencies(comparison));
    content.extend(metrics_tables(comparison));
    content.extend(assertions(comparison));
    content.extend(page::circumstances(&comparison.machine, &comparison.parameters));
    page::frame(&title, content)
}

fn other_scenarios(comparison: &Comparison) -> Option<Element> {
    let others = comparison.other_scenarios();
    let remarks: Vec<String> = others.iter().map(|scenario| (*scenario).to_owned()).collect();
    (!others.is_empty()).then(|| {
        let text = format!("Their figures do not belong beside those of {}:", comparison.scenario);
        page::warning("Runs of other scenarios are among these", &text, &remarks)
    })
}

fn servers_table(comparison: &Comparison) -> Option<Element> {
    let row = |server: &ComparedServer| {
        let first = server.runs.first()?;
        let sum = |of: fn(&RunResult) -> u64| server.runs.iter().map(of).sum::<u64>();
        let (failed, dropped) = (
            sum(|run| run.connections.failed_total()),
            sum(|run| run.connections.dropped_total()),
        );
        let invalid = server
            .runs
            .iter()
            .filter(|run| run.saturation.verdict.withholds())
            .count();
        Some(vec![
            Cell::new(&server.name),
            Cell::new(&first.server.dialect),
            Cell::new(first.server.version.as_deref().unwrap_or("–")),
            Cell::new(server.runs.len()),
            Cell::good(invalid, invalid == 0),
            Cell::new(grouped(sum(|run| run.connections.requested))),
            Cell::new(grouped(sum(|run| run.connections.established))),
            Cell::good(grouped(failed), failed == 0),
            Cell::good(grouped(dropped), dropped == 0),
            Cell::new(grouped(sum(|run| run.messages.server_errors.values().sum()))),
        ])
    };
    let rows: Vec<Vec<Cell>> = comparison.servers.iter().filter_map(row).collect();
    let columns = [
        "server",
        "dialect",
        "version",
        "rounds",
        "invalid",
        "connections asked for",
        "ready",
        "failed",
        "dropped",
        "server errors",
    ];
    table("Servers, all rounds together", &columns, &rows)
}

/// Each step a server cannot do, once, however many rounds said so.
fn unsupported_once(comparison: &Comparison) -> Vec<(&str, &crate::result::UnsupportedStep)> {
    let mut seen = BTreeSet::new();
    let steps = comparison.servers.iter().flat_map(|server| {
        server
            .runs
            .iter()
            .flat_map(|run| &run.unsupported)
            .map(|step| (server.name.as_str(), step))
    });
    steps
        .filter(|(server, step)| seen.insert((server.to_owned(), step.step.clone())))
        .collect()
}

fn bar_charts(comparison: &Comparison) -> Vec<Element> {
    let charts: Vec<Element> = BARS
        .iter()
        .filter_map(|name| comparison.metrics.iter().find(|metric| metric.metric == *name))
        // Nothing but zeros, such as no losses anywhere, is a row of the table, not a picture.
        .filter(|metric| {
            metric
                .values
                .iter()
                .any(|value| value.median.is_some_and(|median| median != 0.0))
        })
        .map(|metric| bar_chart(metric, &comparison.baseline))
        .collect();
    if charts.is_empty() {
        return Vec::new();
    }
    vec![
        heading("Side by side"),
        Element::new("div").with("class", "pair").children(charts),
    ]
}

fn bar_chart(metric: &ComparedMetric, baseline: &str) -> Element {
    let bar = |(colour, value): (usize, &ComparedValue)| Bar {
        name: value.server.clone(),
        figure: value.median,
        label: match (value.median, value.ratio) {
            (None, _) => "not measured".to_owned(),
            (Some(median), Some(ratio)) if value.server != baseline => {
                format!("{} ({} ×)", with_unit(median, &metric.unit), significant(ratio))
            }
            (Some(median), _) => with_unit(median, &metric.unit),
        },
        colour,
    };
    let rows: Vec<Bar> = metric.values.iter().enumerate().map(bar).collect();
    let meaning = Metric::named(&metric.metric).map_or_else(|| metric.metric.clone(), |metric| metric.description());
    bars(&format!("{meaning} ({})", better(metric.better)), &rows)
}

fn better(better: Better) -> &'static str {
    match better {
        Better::Lower => "lower is better",
        Better::Higher => "higher is better",
    }
}

fn memory_chart(comparison: &Comparison) -> Vec<Element> {
    let line = |(colour, server): (usize, &ComparedServer)| {
        let run = server.runs.iter().find(|run| !run.memory.samples.is_empty())?;
        let samples = run.memory.samples.iter();
        let mut points: Vec<(f64, f64)> = samples
            .filter_map(|sample| Some((sample.connections as f64, sample.server?.rss_bytes as f64)))
            .collect();
        points.sort_by(|left, right| left.0.total_cmp(&right.0));
        Some(Series {
            name: server.name.clone(),
            points,
            style: LineStyle::Solid,
            colour,
        })
    };
    let series: Vec<Series> = comparison.servers.iter().enumerate().filter_map(line).collect();
    if series.is_empty() {
        return Vec::new();
    }
    let chart = LineChart {
        title: "Resident user memory against connections, first round",
        width: Width::Full,
        x_title: "connections",
        y_title: "bytes",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        x_format: &|connections| grouped(connections.max(0.0) as u64),
        y_format: &decimal_bytes,
        series,
    };
    vec![heading("Memory"), chart.render()]
}

fn latencies(comparison: &Comparison) -> Vec<Element> {
    let names: BTreeSet<&str> = comparison
        .servers
        .iter()
        .flat_map(|server| &server.runs)
        .flat_map(|run| run.latencies.keys().map(String::as_str))
        .collect();
    let mut content = Vec::new();
    for name in names {
        let chosen: Vec<(usize, &str, &Latency)> = comparison
            .servers
            .iter()
            .enumerate()
            .filter_map(|(colour, server)| Some((colour, server.name.as_str(), middle_round(server, name)?)))
            .collect();
        if chosen.is_empty() {
            continue;
        }
        let rows: Vec<Vec<Cell>> = chosen
            .iter()
            .map(|(_, server, latency)| latency_row(server, latency))
            .collect();
        let title = format!("{name}: latency by percentile, the round with the median p99");
        content.push(latency_chart(&title, &chosen).render());
        content.extend(table(&title, &LATENCY_COLUMNS, &rows));
    }
    if !content.is_empty() {
        content.insert(0, heading("Latency"));
    }
    content
}

/// The valid round in the middle by p99: a whole curve of one round, not a mixture that nobody measured.
fn middle_round<'a>(server: &'a ComparedServer, name: &str) -> Option<&'a Latency> {
    let valid = server.runs.iter().filter(|run| !run.saturation.verdict.withholds());
    let mut latencies: Vec<&Latency> = valid.filter_map(|run| run.latencies.get(name)).collect();
    latencies.sort_by(|left, right| left.p99_us.total_cmp(&right.p99_us));
    latencies.get(latencies.len().saturating_sub(1) / 2).copied()
}

fn metrics_tables(comparison: &Comparison) -> Vec<Element> {
    let mut columns = vec!["metric", "better"];
    columns.extend(
        comparison
            .servers
            .iter()
            .flat_map(|server| [server.name.as_str(), "ratio"]),
    );
    let row = |metric: &ComparedMetric| {
        let direction = match metric.better {
            Better::Lower => "lower",
            Better::Higher => "higher",
        };
        let mut cells = vec![Cell::new(&metric.metric), Cell::new(direction)];
        for value in &metric.values {
            cells.push(Cell::figure(value.median.map(|median| with_unit(median, &metric.unit))));
            cells.push(Cell::figure(
                value.ratio.map(|ratio| format!("{} ×", significant(ratio))),
            ));
        }
        cells
    };
    let rows: Vec<Vec<Cell>> = comparison.metrics.iter().map(row).collect();
    let mut content = vec![heading("All figures")];
    content.extend(table("Medians, and their ratios to the baseline", &columns, &rows));
    content.extend(rounds_table(comparison));
    content
}

/// How far the rounds lie apart says how much of a ratio is chance.
fn rounds_table(comparison: &Comparison) -> Option<Element> {
    let rounds = comparison
        .servers
        .iter()
        .map(|server| server.runs.len())
        .max()
        .filter(|rounds| *rounds > 1)?;
    let numbers: Vec<String> = (1..=rounds).map(|round| format!("round {round}")).collect();
    let mut columns = vec!["metric", "server"];
    columns.extend(numbers.iter().map(String::as_str));
    let rows = comparison.metrics.iter().flat_map(|metric| {
        metric
            .values
            .iter()
            .filter(|value| value.median.is_some())
            .map(|value| {
                let mut cells = vec![Cell::new(&metric.metric), Cell::prose(&value.server)];
                let figures = value
                    .rounds
                    .iter()
                    .map(|round| round.map(|figure| with_unit(figure, &metric.unit)));
                cells.extend(figures.map(Cell::figure));
                cells
            })
    });
    table("Each round", &columns, &rows.collect::<Vec<_>>())
}

fn assertions(comparison: &Comparison) -> Vec<Element> {
    let row = |of: &str, outcome: &AssertionOutcome| {
        vec![
            Cell::new(of),
            Cell::prose(&outcome.expression),
            Cell::figure(outcome.measured.map(precise)),
            Cell::good(if outcome.holds { "holds" } else { "FAILS" }, outcome.holds),
            Cell::prose(outcome.reason.as_deref().unwrap_or_default()),
        ]
    };
    let mut rows: Vec<Vec<Cell>> = comparison
        .assertions
        .iter()
        .map(|outcome| row("medians", outcome))
        .collect();
    for server in &comparison.servers {
        for (round, run) in server.runs.iter().enumerate() {
            let of = format!("{}, round {}", server.name, round + 1);
            rows.extend(run.assertions.iter().map(|outcome| row(&of, outcome)));
        }
    }
    table("Assertions", &["of", "assertion", "measured", "outcome", ""], &rows)
        .into_iter()
        .collect()
}
