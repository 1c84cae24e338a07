//! The summary for the terminal.

use super::figures::{duration_us, grouped, significant, with_unit};
use crate::metric::{Metric, Missing};
use crate::result::{AssertionOutcome, Comparison, ResultFile, RunResult, Verdict};

/// Lines of text, without escape codes, for standard output.
pub fn summary(result: &ResultFile) -> String {
    let lines = match result {
        ResultFile::Run(run) => run_lines(run),
        ResultFile::Comparison(comparison) => comparison_lines(comparison),
    };
    lines.join("\n") + "\n"
}

fn run_lines(run: &RunResult) -> Vec<String> {
    let mut lines = vec![format!(
        "{} against {} ({})",
        run.scenario, run.server.name, run.server.url
    )];
    lines.extend(verdict_lines(run));
    lines.push(format!(
        "connections: {} of {} ready, {} failed, {} dropped",
        grouped(run.connections.established),
        grouped(run.connections.requested),
        grouped(run.connections.failed_total()),
        grouped(run.connections.dropped_total())
    ));
    for (fate, reasons) in [
        ("failed", &run.connections.failed),
        ("dropped", &run.connections.dropped),
    ] {
        lines.extend(
            reasons
                .iter()
                .map(|(reason, count)| format!("  {fate}: {reason} × {}", grouped(*count))),
        );
    }
    let figures = Metric::all().filter(|metric| metric.is_compared() && matches!(metric, Metric::Fixed(_)));
    for metric in figures.filter(|metric| !metric.is_connection_count()) {
        match metric.read(run) {
            Ok(figure) => lines.push(format!("{:<44} {}", metric.name(), with_unit(figure, metric.unit()))),
            Err(Missing::Withheld) => lines.push(format!("{:<44} withheld", metric.name())),
            Err(Missing::NotMeasured) => {}
        }
    }
    if !run.saturation.verdict.withholds() {
        for (name, latency) in &run.latencies {
            let times = [
                ("p50", latency.p50_us),
                ("p90", latency.p90_us),
                ("p95", latency.p95_us),
                ("p99", latency.p99_us),
                ("p99.9", latency.p99_9_us),
                ("max", latency.max_us),
            ];
            let times = times.map(|(percentile, us)| format!("{percentile} {}", duration_us(us)));
            lines.push(format!(
                "{:<44} {}",
                format!("{name} latency, {} timed", grouped(latency.count)),
                times.join(", ")
            ));
        }
    }
    lines.extend(
        run.messages
            .server_errors
            .iter()
            .map(|(code, count)| format!("server error {code} × {count}")),
    );
    lines.extend(
        run.unsupported
            .iter()
            .map(|step| format!("not measured: {} ({})", step.step, step.reason)),
    );
    lines.extend(run.assertions.iter().map(assertion_line));
    lines
}

fn assertion_line(outcome: &AssertionOutcome) -> String {
    let verdict = if outcome.holds { "holds" } else { "FAILS" };
    let reason = outcome
        .reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    format!("assert {} {verdict}{reason}", outcome.expression)
}

fn verdict_lines(run: &RunResult) -> Vec<String> {
    let saturation = &run.saturation;
    let headline = match saturation.verdict {
        Verdict::Saturated => "INVALID: the load tester was the limit; rates, times and costs are withheld",
        Verdict::Failed => "FAILED: rates, times and costs are withheld",
        Verdict::Unknown => "WARNING: the load tester's own CPU was not measured",
        Verdict::Valid if saturation.reasons.is_empty() => return Vec::new(),
        Verdict::Valid | Verdict::Allowed => "WARNING: the load tester may have been the limit",
    };
    let reasons = saturation.reasons.iter().map(|reason| format!("  {reason}"));
    std::iter::once(headline.to_owned()).chain(reasons).collect()
}

fn comparison_lines(comparison: &Comparison) -> Vec<String> {
    let mut header = vec![String::new()];
    header.extend(comparison.servers.iter().map(|server| server.name.clone()));
    let mut rows = vec![header];
    for metric in &comparison.metrics {
        let mut row = vec![metric.metric.clone()];
        row.extend(metric.values.iter().map(|value| match (value.median, value.ratio) {
            (None, _) => "–".to_owned(),
            (Some(median), Some(ratio)) if value.server != comparison.baseline => {
                format!("{} ({} ×)", with_unit(median, &metric.unit), significant(ratio))
            }
            (Some(median), _) => with_unit(median, &metric.unit),
        }));
        rows.push(row);
    }
    let mut lines = vec![format!(
        "{}: medians, ratios to {}",
        comparison.scenario, comparison.baseline
    )];
    for server in &comparison.servers {
        for (round, run) in server.runs.iter().enumerate() {
            let verdicts = verdict_lines(run);
            lines.extend(
                verdicts
                    .into_iter()
                    .map(|line| format!("{} round {}: {line}", server.name, round + 1)),
            );
        }
        let unsupported = server.runs.iter().take(1).flat_map(|run| &run.unsupported);
        lines.extend(unsupported.map(|step| format!("{} cannot: {} ({})", server.name, step.step, step.reason)));
    }
    lines.extend(columns(&rows));
    lines.extend(comparison.assertions.iter().map(assertion_line));
    lines
}

/// Columns as wide as their widest cell.
fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
