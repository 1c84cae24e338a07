//! The named figures of a run: what can be asserted, compared and tabled.

use crate::result::{Better, Latency, MemorySlopes, RunResult, ServerCpu, Slope};

/// What scenarios time. `NAME_p99_ms` and the other statistics exist for each of them.
pub const LATENCIES: [&str; 13] = [
    "ack",
    "delivery",
    "connect",
    "authenticate",
    "subscribe",
    "reconnect",
    "broadcast",
    "established",
    "echo",
    "lag",
    "closed_ack",
    "single_ack",
    "commit",
];

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    Fixed(&'static Fixed),
    /// A statistic of a latency of [`LATENCIES`], or of the run's headline latency.
    Latency {
        latency: Option<&'static str>,
        statistic: &'static Statistic,
    },
}

/// Why a run has no figure for a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    NotMeasured,
    /// The figure would say nothing about the server ([`crate::result::Verdict::withholds`]).
    Withheld,
}

/// A metric that every run has, measured or not.
#[derive(Debug)]
pub struct Fixed {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
    pub description: &'static str,
    /// Still true when the load tester was the limit: counts and memory are, rates and times are not.
    stands_when_saturated: bool,
    read: fn(&RunResult) -> Option<f64>,
}

impl PartialEq for Fixed {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Fixed {}

/// One statistic of a latency, in one unit.
#[derive(Debug)]
pub struct Statistic {
    pub name: &'static str,
    pub unit: &'static str,
    read: fn(&Latency) -> f64,
}

impl PartialEq for Statistic {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Statistic {}

impl Metric {
    /// The metric of a name.
    pub fn named(name: &str) -> Option<Self> {
        if let Some(fixed) = FIXED.iter().find(|fixed| fixed.name == name) {
            return Some(Self::Fixed(fixed));
        }
        let statistic = |name: &str| STATISTICS.iter().find(|statistic| statistic.name == name);
        if let Some(statistic) = statistic(name) {
            return Some(Self::Latency {
                latency: None,
                statistic,
            });
        }
        LATENCIES.into_iter().find_map(|latency| {
            let statistic = statistic(name.strip_prefix(latency)?.strip_prefix('_')?)?;
            Some(Self::Latency {
                latency: Some(latency),
                statistic,
            })
        })
    }

    /// Every metric there is, in the order reports show them.
    pub fn all() -> impl Iterator<Item = Self> {
        let headline = STATISTICS.iter().map(|statistic| Self::Latency {
            latency: None,
            statistic,
        });
        let named = LATENCIES.into_iter().flat_map(|latency| {
            STATISTICS.iter().map(move |statistic| Self::Latency {
                latency: Some(latency),
                statistic,
            })
        });
        FIXED.iter().map(Self::Fixed).chain(headline).chain(named)
    }

    pub fn name(&self) -> String {
        match self {
            Self::Fixed(fixed) => fixed.name.to_owned(),
            Self::Latency {
                latency: None,
                statistic,
            } => statistic.name.to_owned(),
            Self::Latency {
                latency: Some(latency),
                statistic,
            } => format!("{latency}_{}", statistic.name),
        }
    }

    /// What the figure is, with a capital letter.
    pub fn description(&self) -> String {
        let (text, rest) = match self {
            Self::Fixed(fixed) => (fixed.description, String::new()),
            Self::Latency { latency, statistic } => {
                let percentile = statistic
                    .name
                    .trim_end_matches("_ms")
                    .trim_end_matches("_us")
                    .replace('_', ".");
                (latency.unwrap_or("headline"), format!(" latency, {percentile}"))
            }
        };
        let mut letters = text.chars();
        let first = letters
            .next()
            .map(|letter| letter.to_uppercase().to_string())
            .unwrap_or_default();
        format!("{first}{}{rest}", letters.as_str())
    }

    pub fn unit(&self) -> &'static str {
        match self {
            Self::Fixed(fixed) => fixed.unit,
            Self::Latency { statistic, .. } => statistic.unit,
        }
    }

    pub fn better(&self) -> Better {
        match self {
            Self::Fixed(fixed) => fixed.better,
            Self::Latency { .. } => Better::Lower,
        }
    }

    /// Worth a line when servers are compared: not what the user asked for, and each latency once.
    pub fn is_compared(&self) -> bool {
        match self {
            Self::Fixed(fixed) => !matches!(fixed.name, "requested" | "sent" | "duration_seconds"),
            Self::Latency { latency, statistic } => latency.is_some() && statistic.unit == "ms",
        }
    }

    /// Counts that every summary opens with.
    pub fn is_connection_count(&self) -> bool {
        matches!(self, Self::Fixed(fixed) if matches!(fixed.name, "established" | "failed" | "dropped"))
    }

    /// The figure this run measured.
    pub fn read(&self, result: &RunResult) -> Result<f64, Missing> {
        let (stands, figure) = match self {
            Self::Fixed(fixed) => (fixed.stands_when_saturated, (fixed.read)(result)),
            Self::Latency { latency, statistic } => (false, latency_of(result, *latency).map(statistic.read)),
        };
        let figure = figure.filter(|figure| figure.is_finite()).ok_or(Missing::NotMeasured)?;
        if !stands && result.saturation.verdict.withholds() {
            return Err(Missing::Withheld);
        }
        Ok(figure)
    }
}

/// The latency of a name, or the one the scenario is about.
fn latency_of<'a>(result: &'a RunResult, name: Option<&str>) -> Option<&'a Latency> {
    result.latencies.get(name.or(result.headline_latency.as_deref())?)
}

fn slope_of(slope: Option<&Slope>) -> Option<f64> {
    slope.map(|slope| slope.bytes_per_connection)
}

/// The first stretch of the run that measured this cost.
fn cpu_of(result: &RunResult, cost: fn(&ServerCpu) -> Option<f64>) -> Option<f64> {
    result.cpu.server.iter().find_map(cost)
}

const fn count(name: &'static str, better: Better, description: &'static str, read: Reader) -> Fixed {
    Fixed {
        name,
        unit: "",
        better,
        description,
        stands_when_saturated: true,
        read,
    }
}

const fn rate(name: &'static str, description: &'static str, read: Reader) -> Fixed {
    Fixed {
        name,
        unit: "/s",
        better: Better::Higher,
        description,
        stands_when_saturated: false,
        read,
    }
}

const fn bytes(name: &'static str, description: &'static str, read: Reader) -> Fixed {
    Fixed {
        name,
        unit: "B",
        better: Better::Lower,
        description,
        stands_when_saturated: true,
        read,
    }
}

const fn cost(name: &'static str, description: &'static str, read: Reader) -> Fixed {
    Fixed {
        name,
        unit: "µs",
        better: Better::Lower,
        description,
        stands_when_saturated: false,
        read,
    }
}

type Reader = fn(&RunResult) -> Option<f64>;

fn memory(result: &RunResult) -> &MemorySlopes {
    &result.memory.slopes
}

static FIXED: [Fixed; 34] = [
    bytes(
        "user_bytes_per_connection",
        "resident user memory of the server per connection, slope",
        |run| slope_of(memory(run).user_rss.as_ref()),
    ),
    bytes(
        "user_endpoints_bytes_per_connection",
        "the same between the two ends of the range",
        |run| {
            memory(run)
                .user_rss
                .as_ref()
                .map(|slope| slope.endpoints_bytes_per_connection)
        },
    ),
    bytes(
        "user_pss_bytes_per_connection",
        "proportional set size of the server per connection, slope",
        |run| slope_of(memory(run).user_pss.as_ref()),
    ),
    bytes(
        "user_private_bytes_per_connection",
        "private memory of the server per connection, slope",
        |run| slope_of(memory(run).user_private.as_ref()),
    ),
    bytes(
        "kernel_bytes_per_connection",
        "kernel memory of the server per connection, slope",
        |run| slope_of(memory(run).kernel_server.as_ref()),
    ),
    bytes(
        "kernel_machine_bytes_per_connection",
        "kernel memory of the machine per connection, both ends, slope",
        |run| slope_of(memory(run).kernel_machine.as_ref()),
    ),
    bytes(
        "machine_bytes_per_connection",
        "memory of the whole machine per connection, load tester included, slope",
        |run| slope_of(memory(run).machine_unavailable.as_ref()),
    ),
    bytes(
        "client_bytes_per_connection",
        "user memory of the load tester per connection, slope",
        |run| slope_of(memory(run).client_rss.as_ref()),
    ),
    cost("cpu_us_per_message", "server CPU per message", |run| {
        cpu_of(run, |cpu| cpu.us_per_message)
    }),
    cost(
        "user_cpu_us_per_message",
        "server CPU per message outside the kernel",
        |run| cpu_of(run, |cpu| cpu.user_us_per_message),
    ),
    cost(
        "system_cpu_us_per_message",
        "server CPU per message inside the kernel",
        |run| cpu_of(run, |cpu| cpu.system_us_per_message),
    ),
    cost(
        "idle_cpu_us_per_connection_second",
        "server CPU per idle connection and second",
        |run| cpu_of(run, |cpu| cpu.us_per_idle_connection_second),
    ),
    rate("established_per_second", "connections ready per second", |run| {
        run.connections.established_per_second
    }),
    rate("sent_per_second", "messages sent per second", |run| {
        run.messages.rate(run.messages.sent)
    }),
    rate("acked_per_second", "messages acknowledged per second", |run| {
        run.messages.rate(run.messages.acked)
    }),
    rate("delivered_per_second", "deliveries to subscribers per second", |run| {
        run.messages.rate(run.messages.delivered)
    }),
    rate(
        "closed_acked_per_second",
        "changes stored and acknowledged per second in closed loops",
        |run| run.durable.closed_acked_per_second,
    ),
    Fixed {
        name: "ack_to_commit_ratio",
        unit: "",
        better: Better::Lower,
        description: "median acknowledgement of a lone client by the median of a bare commit",
        stands_when_saturated: false,
        read: |run| run.durable.ack_to_commit_ratio,
    },
    count("requested", Better::Higher, "connections asked for", |run| {
        Some(run.connections.requested as f64)
    }),
    count("established", Better::Higher, "connections that became ready", |run| {
        Some(run.connections.established as f64)
    }),
    count("open_max", Better::Higher, "connections open at one time", |run| {
        Some(run.connections.open_max as f64)
    }),
    count("failed", Better::Lower, "connections that never became ready", |run| {
        Some(run.connections.failed_total() as f64)
    }),
    count("dropped", Better::Lower, "ready connections that were lost", |run| {
        Some(run.connections.dropped_total() as f64)
    }),
    count("sent", Better::Higher, "messages sent per second", |run| {
        figure(run.messages.sent)
    }),
    count("acked", Better::Higher, "messages acknowledged", |run| {
        figure(run.messages.acked)
    }),
    count("delivered", Better::Higher, "deliveries to subscribers", |run| {
        figure(run.messages.delivered)
    }),
    count(
        "coalesced",
        Better::Lower,
        "deliveries superseded by newer ones",
        |run| figure(run.messages.coalesced),
    ),
    count("lost", Better::Lower, "deliveries proved missing by sequence", |run| {
        figure(run.messages.lost)
    }),
    count("duplicated", Better::Lower, "deliveries that came twice", |run| {
        figure(run.messages.duplicated)
    }),
    count(
        "out_of_order",
        Better::Lower,
        "deliveries older than one before them",
        |run| figure(run.messages.out_of_order),
    ),
    count(
        "server_errors",
        Better::Lower,
        "error messages from the server",
        |run| Some(run.messages.server_errors.values().sum::<u64>() as f64),
    ),
    count(
        "unsupported_steps",
        Better::Lower,
        "steps the server cannot do",
        |run| Some(run.unsupported.len() as f64),
    ),
    count(
        "client_cpu_share",
        Better::Lower,
        "busiest worker's part of one core",
        |run| run.saturation.client_share_max,
    ),
    count("duration_seconds", Better::Lower, "length of the run", |run| {
        Some(run.duration_seconds)
    }),
];

/// Each figure, which a [`Latency`] keeps in microseconds, in both units.
macro_rules! statistics {
    ($($name:literal => $field:ident),*) => {
        [
            $(Statistic { name: concat!($name, "_ms"), unit: "ms", read: |latency| latency.$field / 1000.0 },)*
            $(Statistic { name: concat!($name, "_us"), unit: "µs", read: |latency| latency.$field },)*
        ]
    };
}

static STATISTICS: [Statistic; 16] = statistics! {
    "p50" => p50_us,
    "p90" => p90_us,
    "p95" => p95_us,
    "p99" => p99_us,
    "p99_9" => p99_9_us,
    "max" => max_us,
    "mean" => mean_us,
    "min" => min_us
};

fn figure(count: Option<u64>) -> Option<f64> {
    count.map(|count| count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Messages, Saturation, Verdict};
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_is_found_by_its_own_name() {
        let mut names = BTreeSet::new();
        for metric in Metric::all() {
            assert_eq!(Metric::named(&metric.name()), Some(metric));
            assert!(names.insert(metric.name()), "{} twice", metric.name());
        }
        assert_eq!(names.len(), FIXED.len() + STATISTICS.len() * (1 + LATENCIES.len()));
        assert_eq!(Metric::named("nonsense"), None);
        assert_eq!(Metric::named("ack_lost"), None);
    }

    #[test]
    fn metrics_are_described_in_words() {
        let described = |name: &str| Metric::named(name).expect("a metric").description();
        assert_eq!(described("ack_p99_9_ms"), "Ack latency, p99.9");
        assert_eq!(described("lost"), "Deliveries proved missing by sequence");
    }

    #[test]
    fn an_unnamed_statistic_is_of_the_headline_latency() {
        let mut run = RunResult::new("latency");
        run.latencies.insert(
            "ack".into(),
            Latency {
                p99_us: 1500.0,
                ..Latency::default()
            },
        );
        run.latencies.insert(
            "delivery".into(),
            Latency {
                p99_us: 2500.0,
                ..Latency::default()
            },
        );
        let read = |run: &RunResult, name: &str| Metric::named(name).expect("a metric").read(run);
        assert_eq!(read(&run, "p99_ms"), Err(Missing::NotMeasured));
        run.headline_latency = Some("delivery".into());
        assert_eq!(read(&run, "p99_ms"), Ok(2.5));
        assert_eq!(read(&run, "ack_p99_us"), Ok(1500.0));
        assert_eq!(read(&run, "connect_p99_us"), Err(Missing::NotMeasured));
    }

    #[test]
    fn a_saturated_run_keeps_its_counts_and_withholds_its_rates() {
        let messages = Messages {
            acked: Some(100),
            measured_seconds: Some(2.0),
            ..Messages::default()
        };
        let mut run = RunResult {
            messages,
            ..RunResult::new("throughput")
        };
        let read = |run: &RunResult, name: &str| Metric::named(name).expect("a metric").read(run);
        assert_eq!(read(&run, "acked_per_second"), Ok(50.0));
        run.saturation = Saturation {
            verdict: Verdict::Saturated,
            ..Saturation::default()
        };
        assert_eq!(read(&run, "acked_per_second"), Err(Missing::Withheld));
        assert_eq!(read(&run, "acked"), Ok(100.0));
        assert_eq!(read(&run, "lost"), Err(Missing::NotMeasured));
    }
}
