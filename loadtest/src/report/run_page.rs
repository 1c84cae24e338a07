//! The page of one run.

use super::axis::Scale;
use super::chart::{LineChart, LineStyle, Series, Width};
use super::figures::{binary_bytes, decimal_bytes, duration_us, grouped, precise, significant, with_unit};
use super::markup::Element;
use super::page::{self, Cell, faint, heading, table};
use crate::metric::Metric;
use crate::result::{Latency, MemorySample, RunResult, Slope};

/// Figures at the top of the page, those that the run measured.
const TILES: [(&str, &str); 14] = [
    ("open_max", "connections open"),
    ("user_bytes_per_connection", "user memory per connection"),
    ("kernel_bytes_per_connection", "kernel memory per connection"),
    (
        "idle_cpu_us_per_connection_second",
        "CPU per idle connection and second",
    ),
    ("established_per_second", "connections ready"),
    ("acked_per_second", "acknowledged"),
    ("delivered_per_second", "delivered"),
    ("cpu_us_per_message", "server CPU per message"),
    ("p50_ms", "median latency"),
    ("p99_ms", "p99 latency"),
    ("p99_9_ms", "p99.9 latency"),
    ("lost", "messages lost"),
    ("failed", "connections failed"),
    ("dropped", "connections dropped"),
];

/// Rows of the rate table; the chart has all samples.
const RATE_ROWS_MAX: usize = 20;

pub fn page(run: &RunResult) -> Element {
    let title = format!("{} · {}", run.scenario, run.server.name);
    let mut content = vec![Element::new("h1").text(&title), faint(identity(run))];
    content.extend(page::saturation_warnings(&[run]));
    content.push(tiles(run));
    content.extend(assertions(run));
    let steps: Vec<_> = run
        .unsupported
        .iter()
        .map(|step| (run.server.name.as_str(), step))
        .collect();
    content.extend(page::unsupported(&steps));
    content.extend(memory(run));
    content.extend(latencies(run));
    content.extend(rates(run));
    content.extend(cpu(run));
    content.extend(counts(run));
    content.extend(page::circumstances(&run.machine, &run.parameters));
    content.extend(page::phases(&run.phases));
    page::frame(&title, content)
}

fn identity(run: &RunResult) -> String {
    let server = &run.server;
    let mut parts = vec![server.url.clone(), server.dialect.clone()];
    parts.extend(
        server
            .version
            .as_ref()
            .map(|version| format!("server version {version}")),
    );
    parts.extend(server.pid.map(|pid| format!("process {pid}")));
    parts.push(format!("{} s", significant(run.duration_seconds)));
    parts.push(format!("loadtest {}", run.tool_version));
    parts.retain(|part| !part.is_empty());
    parts.join(" · ")
}

fn tiles(run: &RunResult) -> Element {
    let tile = |(name, meaning): (&str, &str)| {
        let metric = Metric::named(name)?;
        let figure = metric.read(run).ok()?;
        let figure = Element::new("b").text(with_unit(figure, metric.unit()));
        Some(
            Element::new("div")
                .with("class", "tile")
                .child(figure)
                .child(Element::new("span").text(meaning)),
        )
    };
    Element::new("section")
        .with("class", "tiles")
        .children(TILES.into_iter().filter_map(tile))
}

fn assertions(run: &RunResult) -> Option<Element> {
    let rows: Vec<Vec<Cell>> = run
        .assertions
        .iter()
        .map(|outcome| {
            vec![
                Cell::new(&outcome.expression),
                Cell::figure(outcome.measured.map(precise)),
                Cell::good(if outcome.holds { "holds" } else { "FAILS" }, outcome.holds),
                Cell::prose(outcome.reason.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    table("Assertions", &["assertion", "measured", "outcome", ""], &rows)
}

fn memory(run: &RunResult) -> Vec<Element> {
    let samples = &run.memory.samples;
    let slopes = &run.memory.slopes;
    if samples.is_empty() {
        return Vec::new();
    }
    let named = [
        ("User, resident", slopes.user_rss),
        ("User, proportional", slopes.user_pss),
        ("User, private", slopes.user_private),
        ("User, anonymous", slopes.user_anonymous),
        ("Kernel, the server's part", slopes.kernel_server),
        ("Kernel, whole machine", slopes.kernel_machine),
        ("No longer available on the machine", slopes.machine_unavailable),
        ("Load tester, resident", slopes.client_rss),
    ];
    let rows: Vec<Vec<Cell>> = named
        .into_iter()
        .filter_map(|(name, slope)| Some(slope_row(name, &slope?)))
        .collect();
    let caches: Vec<Vec<Cell>> = slopes
        .caches
        .iter()
        .map(|(name, slope)| slope_row(name, slope))
        .collect();
    let charts = [stacked_chart(samples), user_chart(samples, slopes.user_rss.as_ref())].map(|chart| chart.render());
    let columns = [
        "",
        "per connection",
        "between the ends",
        "at none",
        "from",
        "to",
        "samples",
        "R²",
    ];
    let mut content = vec![
        heading("Memory"),
        Element::new("div").with("class", "pair").children(charts),
    ];
    content.extend(table("Bytes per connection, by least squares", &columns, &rows));
    if !slopes.attribution.is_empty() {
        content.push(faint(format!(
            "The server's part of kernel memory is {}.",
            slopes.attribution
        )));
    }
    content.extend(table("Kernel object caches of the machine", &columns, &caches));
    content.extend(samples_table(samples));
    content
}

fn slope_row(name: &str, slope: &Slope) -> Vec<Cell> {
    vec![
        Cell::new(name),
        Cell::new(format!("{:.1} B", slope.bytes_per_connection)),
        Cell::new(format!("{:.1} B", slope.endpoints_bytes_per_connection)),
        Cell::new(binary_bytes(slope.base_bytes)),
        Cell::new(grouped(slope.from_connections)),
        Cell::new(grouped(slope.to_connections)),
        Cell::new(slope.samples),
        Cell::new(format!("{:.4}", slope.r_squared)),
    ]
}

fn samples_table(samples: &[MemorySample]) -> Option<Element> {
    let bytes = |bytes: Option<u64>| Cell::figure(bytes.map(|bytes| binary_bytes(bytes as f64)));
    let rows: Vec<Vec<Cell>> = samples
        .iter()
        .map(|sample| {
            vec![
                Cell::new(grouped(sample.connections)),
                Cell::new(format!("{:.1} s", sample.at_seconds)),
                bytes(sample.server.map(|memory| memory.rss_bytes)),
                bytes(sample.server.map(|memory| memory.private_bytes)),
                bytes(sample.kernel_server_bytes),
                bytes(sample.kernel.as_ref().map(|kernel| kernel.slab_bytes)),
                bytes(sample.kernel.as_ref().map(|kernel| kernel.sockets.tcp_memory_bytes)),
                bytes(sample.client.map(|memory| memory.rss_bytes)),
            ]
        })
        .collect();
    let columns = [
        "connections",
        "at",
        "server resident",
        "server private",
        "kernel, server's part",
        "machine's slab",
        "TCP buffers",
        "load tester",
    ];
    table("Memory samples", &columns, &rows)
}

fn by_connections(samples: &[MemorySample], bytes: impl Fn(&MemorySample) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = samples
        .iter()
        .filter_map(|sample| Some((sample.connections as f64, bytes(sample)?)))
        .collect();
    points.sort_by(|left, right| left.0.total_cmp(&right.0));
    points
}

fn memory_chart<'a>(title: &'a str, series: Vec<Series>) -> LineChart<'a> {
    LineChart {
        title,
        width: Width::Half,
        x_title: "connections",
        y_title: "bytes",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        x_format: &|connections| grouped(connections.max(0.0) as u64),
        y_format: &decimal_bytes,
        series,
    }
}

/// Growth since the sample with the fewest connections: the kernel of an idle machine holds much that is not the
/// server's.
fn stacked_chart(samples: &[MemorySample]) -> LineChart<'static> {
    let both = |sample: &MemorySample| Some((sample.server?.rss_bytes as f64, sample.kernel_server_bytes? as f64));
    let first = samples
        .iter()
        .filter(|sample| both(sample).is_some())
        .min_by_key(|sample| sample.connections);
    let (user_first, kernel_first) = first.and_then(both).unwrap_or_default();
    let user = by_connections(samples, |sample| Some(both(sample)?.0 - user_first));
    let sum = by_connections(samples, |sample| {
        let (user, kernel) = both(sample)?;
        Some(user - user_first + kernel - kernel_first)
    });
    let stacked = |name: &str, points, colour| Series {
        name: name.to_owned(),
        points,
        style: LineStyle::Stacked,
        colour,
    };
    let series = vec![
        stacked("user memory of the server", user, 0),
        stacked("with its kernel memory on top", sum, 1),
    ];
    memory_chart("Memory of the server, user and kernel: growth", series)
}

fn user_chart(samples: &[MemorySample], slope: Option<&Slope>) -> LineChart<'static> {
    let measured = |name: &str, points, colour| Series {
        name: name.to_owned(),
        points,
        style: LineStyle::Solid,
        colour,
    };
    let mut series = vec![
        measured(
            "resident",
            by_connections(samples, |sample| Some(sample.server?.rss_bytes as f64)),
            0,
        ),
        measured(
            "private",
            by_connections(samples, |sample| Some(sample.server?.private_bytes as f64)),
            2,
        ),
    ];
    if let Some(slope) = slope {
        let at = |connections: u64| {
            let connections = connections as f64;
            (connections, slope.base_bytes + slope.bytes_per_connection * connections)
        };
        series.push(Series {
            name: format!("{:.1} B per connection", slope.bytes_per_connection),
            points: vec![at(slope.from_connections), at(slope.to_connections)],
            style: LineStyle::Dashed,
            colour: 3,
        });
    }
    memory_chart("User memory of the server", series)
}

/// Latency against percentile, for one run or for several. Lines are colour, name and figures.
pub fn latency_chart<'a>(title: &'a str, lines: &[(usize, &str, &Latency)]) -> LineChart<'a> {
    let series = lines.iter().map(|&(colour, name, latency)| {
        // The maximum is one of `count`: drawn further out it would look like a tail that nobody measured.
        let farthest = 100.0 - 50.0 / latency.count.max(1) as f64;
        Series {
            name: name.to_owned(),
            points: latency
                .curve
                .iter()
                .map(|point| (point.percentile.min(farthest), point.us))
                .collect(),
            style: LineStyle::Solid,
            colour,
        }
    });
    LineChart {
        title,
        width: Width::Full,
        x_title: "percentile, each nine as wide as the last",
        y_title: "latency",
        x_scale: Scale::Percentile,
        y_scale: Scale::Logarithmic,
        x_format: &|percentile| format!("{percentile} %"),
        y_format: &duration_us,
        series: series.collect(),
    }
}

fn latencies(run: &RunResult) -> Vec<Element> {
    if run.latencies.is_empty() || run.saturation.verdict.withholds() {
        return Vec::new();
    }
    let named = run.latencies.iter().enumerate();
    let lines: Vec<_> = named
        .map(|(colour, (name, latency))| (colour, name.as_str(), latency))
        .collect();
    let rows: Vec<Vec<Cell>> = run
        .latencies
        .iter()
        .map(|(name, latency)| latency_row(name, latency))
        .collect();
    let mut content = vec![
        heading("Latency"),
        latency_chart("Latency by percentile", &lines).render(),
    ];
    content.extend(table("Latency", &LATENCY_COLUMNS, &rows));
    content
}

pub const LATENCY_COLUMNS: [&str; 11] = [
    "",
    "count",
    "min",
    "mean",
    "p50",
    "p90",
    "p95",
    "p99",
    "p99.9",
    "max",
    "timed from",
];

pub fn latency_row(name: &str, latency: &Latency) -> Vec<Cell> {
    let times = [
        latency.min_us,
        latency.mean_us,
        latency.p50_us,
        latency.p90_us,
        latency.p95_us,
        latency.p99_us,
        latency.p99_9_us,
        latency.max_us,
    ];
    let mut row = vec![Cell::new(name), Cell::new(grouped(latency.count))];
    row.extend(times.map(|us| Cell::new(duration_us(us))));
    row.push(Cell::new(if latency.from_intended_time {
        "when due"
    } else {
        "when sent"
    }));
    row
}

fn rates(run: &RunResult) -> Vec<Element> {
    if run.rates.is_empty() || run.saturation.verdict.withholds() {
        return Vec::new();
    }
    let line = |name: &str, colour: usize, of: fn(&crate::result::RateSample) -> f64| Series {
        name: name.to_owned(),
        points: run.rates.iter().map(|sample| (sample.at_seconds, of(sample))).collect(),
        style: LineStyle::Solid,
        colour,
    };
    let mut series = vec![
        line("connections ready", 4, |sample| sample.established_per_second),
        line("sent", 3, |sample| sample.sent_per_second),
        line("acknowledged", 0, |sample| sample.acked_per_second),
        line("delivered", 2, |sample| sample.delivered_per_second),
        line("errors", 5, |sample| sample.errors_per_second),
    ];
    series.retain(|series| series.points.iter().any(|point| point.1 != 0.0));
    let chart = LineChart {
        title: "Rates over time",
        width: Width::Full,
        x_title: "seconds",
        y_title: "per second",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        x_format: &significant,
        y_format: &significant,
        series,
    };
    let every = run.rates.len().div_ceil(RATE_ROWS_MAX);
    let rows: Vec<Vec<Cell>> = run
        .rates
        .iter()
        .step_by(every)
        .map(|sample| {
            let rates = [
                sample.established_per_second,
                sample.sent_per_second,
                sample.acked_per_second,
                sample.delivered_per_second,
                sample.errors_per_second,
            ];
            let mut row = vec![
                Cell::new(format!("{:.1} s", sample.at_seconds)),
                Cell::new(grouped(sample.connections)),
            ];
            row.extend(rates.map(|rate| Cell::new(significant(rate))));
            row
        })
        .collect();
    let caption = if every == 1 {
        "Rates".to_owned()
    } else {
        format!("Rates, one of {every} samples")
    };
    let columns = [
        "at",
        "connections",
        "ready/s",
        "sent/s",
        "acknowledged/s",
        "delivered/s",
        "errors/s",
    ];
    let mut content = vec![heading("Rates"), chart.render()];
    content.extend(table(&caption, &columns, &rows));
    content
}

fn cpu(run: &RunResult) -> Vec<Element> {
    let is_valid = !run.saturation.verdict.withholds();
    let us = |us: Option<f64>| Cell::figure(us.filter(|_| is_valid).map(duration_us));
    let server: Vec<Vec<Cell>> = run
        .cpu
        .server
        .iter()
        .map(|cpu| {
            vec![
                Cell::new(&cpu.phase),
                Cell::new(format!("{:.1} s", cpu.seconds)),
                Cell::new(duration_us(cpu.user_us)),
                Cell::new(duration_us(cpu.system_us)),
                Cell::figure(cpu.messages.map(grouped)),
                us(cpu.us_per_message),
                us(cpu.user_us_per_message),
                us(cpu.system_us_per_message),
                us(cpu.us_per_idle_connection_second),
            ]
        })
        .collect();
    let client: Vec<Vec<Cell>> = run
        .cpu
        .client
        .iter()
        .map(|cpu| {
            vec![
                Cell::new(&cpu.worker),
                Cell::new(cpu.pid),
                Cell::new(format!("{:.1} s", cpu.seconds)),
                Cell::new(duration_us(cpu.cpu_us)),
                Cell::new(format!("{:.1} %", cpu.share * 100.0)),
            ]
        })
        .collect();
    let columns = [
        "phase",
        "length",
        "user",
        "kernel",
        "messages",
        "per message",
        "of it user",
        "of it kernel",
        "per idle connection and second",
    ];
    let mut content: Vec<Element> = table("CPU of the server", &columns, &server).into_iter().collect();
    content.extend(table(
        "CPU of the load tester",
        &["worker", "process", "length", "CPU", "of a core"],
        &client,
    ));
    if !content.is_empty() {
        content.insert(0, heading("CPU"));
    }
    content
}

fn counts(run: &RunResult) -> Vec<Element> {
    let connections = &run.connections;
    let mut rows = vec![
        vec![Cell::new("asked for"), Cell::new(grouped(connections.requested))],
        vec![Cell::new("became ready"), Cell::new(grouped(connections.established))],
        vec![Cell::new("open at one time"), Cell::new(grouped(connections.open_max))],
    ];
    for (fate, reasons) in [("failed", &connections.failed), ("dropped", &connections.dropped)] {
        let total = reasons.values().sum::<u64>();
        rows.push(vec![Cell::new(fate), Cell::good(grouped(total), total == 0)]);
        let each = reasons
            .iter()
            .map(|(reason, count)| vec![Cell::new(format!("· {fate}: {reason}")), Cell::new(grouped(*count))]);
        rows.extend(each);
    }
    let mut content = vec![heading("Connections and messages")];
    content.extend(table("Connections", &["", "count"], &rows));
    content.extend(table(
        "Messages of the measured stretch (from “expected” to “out of order”: of the whole run)",
        &["", "count"],
        &message_rows(run),
    ));
    content
}

fn message_rows(run: &RunResult) -> Vec<Vec<Cell>> {
    let messages = &run.messages;
    let counts = [
        ("sent", messages.sent),
        ("acknowledged", messages.acked),
        ("delivered", messages.delivered),
        ("deliveries expected without coalescing", messages.expected_deliveries),
        ("coalesced", messages.coalesced),
        ("lost", messages.lost),
        ("duplicated", messages.duplicated),
        ("out of order", messages.out_of_order),
        ("bytes sent", messages.bytes_sent),
        ("bytes received", messages.bytes_received),
    ];
    let mut rows: Vec<Vec<Cell>> = counts
        .into_iter()
        .filter_map(|(name, count)| {
            let cell = if name == "lost" {
                Cell::good(grouped(count?), count == Some(0))
            } else {
                Cell::new(grouped(count?))
            };
            Some(vec![Cell::new(name), cell])
        })
        .collect();
    let errors = messages.server_errors.iter();
    rows.extend(
        errors.map(|(code, count)| vec![Cell::new(format!("server error {code}")), Cell::new(grouped(*count))]),
    );
    rows
}
