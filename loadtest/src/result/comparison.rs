//! The same scenario against several servers, in alternating rounds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AssertionOutcome, FORMAT, Machine, RunResult};
use crate::metric::Metric;

/// Runs of several servers and the medians of what they measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Comparison {
    pub format: u32,
    pub tool_version: String,
    pub scenario: String,
    pub parameters: BTreeMap<String, serde_json::Value>,
    pub machine: Machine,
    /// The server the ratios are against.
    pub baseline: String,
    pub servers: Vec<ComparedServer>,
    pub metrics: Vec<ComparedMetric>,
    /// Assertions about ratios; those about single runs are in the runs.
    pub assertions: Vec<AssertionOutcome>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparedServer {
    pub name: String,
    /// One per round, in order.
    pub runs: Vec<RunResult>,
}

/// One metric of all servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparedMetric {
    pub metric: String,
    pub unit: String,
    pub better: Better,
    pub values: Vec<ComparedValue>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    #[default]
    Lower,
    Higher,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparedValue {
    pub server: String,
    /// Per round; `None` where it was not measured, or the run was saturated and says nothing.
    pub rounds: Vec<Option<f64>>,
    pub median: Option<f64>,
    /// Median divided by the median of the baseline.
    pub ratio: Option<f64>,
}

impl Comparison {
    /// Compares servers by everything at least one of them measured. Scenario, parameters and machine are those of the
    /// first run; the baseline is the first server unless another is named.
    pub fn of(servers: Vec<ComparedServer>, baseline: Option<&str>) -> Self {
        let baseline = baseline
            .or(servers.first().map(|server| server.name.as_str()))
            .unwrap_or_default()
            .to_owned();
        let metrics = Metric::all()
            .filter(Metric::is_compared)
            .filter_map(|metric| compare(metric, &servers, &baseline))
            .collect();
        let first = servers.iter().find_map(|server| server.runs.first());
        Self {
            format: FORMAT,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: first.map(|run| run.scenario.clone()).unwrap_or_default(),
            parameters: first.map(|run| run.parameters.clone()).unwrap_or_default(),
            machine: first.map(|run| run.machine.clone()).unwrap_or_default(),
            baseline,
            servers,
            metrics,
            assertions: Vec::new(),
        }
    }

    /// Saved runs side by side: runs of one server name are its rounds.
    pub fn of_runs(runs: Vec<RunResult>, baseline: Option<&str>) -> Self {
        let mut servers: Vec<ComparedServer> = Vec::new();
        for run in runs {
            match servers.iter_mut().find(|server| server.name == run.server.name) {
                Some(server) => server.runs.push(run),
                None => servers.push(ComparedServer {
                    name: run.server.name.clone(),
                    runs: vec![run],
                }),
            }
        }
        Self::of(servers, baseline)
    }

    /// The ratio of a server to the baseline in one metric.
    pub fn ratio(&self, metric: &str, server: &str) -> Option<f64> {
        let compared = self.metrics.iter().find(|compared| compared.metric == metric)?;
        compared.values.iter().find(|value| value.server == server)?.ratio
    }

    /// Scenarios other than the first run's: their figures do not belong side by side.
    pub fn other_scenarios(&self) -> Vec<&str> {
        let runs = self.servers.iter().flat_map(|server| &server.runs);
        let mut others: Vec<&str> = runs
            .map(|run| run.scenario.as_str())
            .filter(|scenario| *scenario != self.scenario)
            .collect();
        others.sort_unstable();
        others.dedup();
        others
    }
}

fn compare(metric: Metric, servers: &[ComparedServer], baseline: &str) -> Option<ComparedMetric> {
    let mut values: Vec<ComparedValue> = servers
        .iter()
        .map(|server| {
            let rounds: Vec<Option<f64>> = server.runs.iter().map(|run| metric.read(run).ok()).collect();
            ComparedValue {
                server: server.name.clone(),
                median: median(&rounds),
                rounds,
                ratio: None,
            }
        })
        .collect();
    values.iter().find(|value| value.median.is_some())?;
    let reference = values
        .iter()
        .find(|value| value.server == baseline)
        .and_then(|value| value.median);
    for value in &mut values {
        let parts = value.median.zip(reference.filter(|reference| *reference != 0.0));
        value.ratio = parts.map(|(median, reference)| median / reference);
    }
    Some(ComparedMetric {
        metric: metric.name(),
        unit: metric.unit().to_owned(),
        better: metric.better(),
        values,
    })
}

/// The middle of the rounds that measured something.
fn median(rounds: &[Option<f64>]) -> Option<f64> {
    let mut measured: Vec<f64> = rounds.iter().flatten().copied().collect();
    measured.sort_by(f64::total_cmp);
    let middle = measured.len() / 2;
    match measured.len() {
        0 => None,
        count if count % 2 == 1 => Some(measured[middle]),
        _ => Some((measured[middle - 1] + measured[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Messages, Saturation, Server, Verdict};

    fn run(name: &str, acked: Option<u64>) -> RunResult {
        RunResult {
            server: Server {
                name: name.to_owned(),
                ..Server::default()
            },
            messages: Messages {
                acked,
                measured_seconds: Some(1.0),
                ..Messages::default()
            },
            ..RunResult::new("throughput")
        }
    }

    fn acked(comparison: &Comparison) -> &ComparedMetric {
        comparison
            .metrics
            .iter()
            .find(|metric| metric.metric == "acked_per_second")
            .expect("measured")
    }

    #[test]
    fn medians_of_alternating_rounds_are_set_against_the_baseline() {
        let rounds = [("a", 100), ("b", 400), ("a", 300), ("b", 500), ("a", 200), ("b", 450)];
        let comparison = Comparison::of_runs(rounds.map(|(name, count)| run(name, Some(count))).into(), None);
        assert_eq!(comparison.baseline, "a");
        let values = &acked(&comparison).values;
        assert_eq!(values[0].rounds, [Some(100.0), Some(300.0), Some(200.0)]);
        assert_eq!((values[0].median, values[0].ratio), (Some(200.0), Some(1.0)));
        assert_eq!((values[1].median, values[1].ratio), (Some(450.0), Some(2.25)));
        let against_b = Comparison::of_runs(vec![run("a", Some(9)), run("b", Some(3))], Some("b"));
        assert_eq!(acked(&against_b).values[0].ratio, Some(3.0));
    }

    #[test]
    fn a_saturated_round_and_an_unmeasured_one_do_not_count() {
        let mut saturated = run("a", Some(9_999));
        saturated.saturation = Saturation {
            verdict: Verdict::Saturated,
            ..Saturation::default()
        };
        let comparison = Comparison::of_runs(vec![run("a", Some(5)), saturated, run("b", None)], None);
        let values = &acked(&comparison).values;
        assert_eq!(values[0].rounds, [Some(5.0), None]);
        assert_eq!(values[0].median, Some(5.0));
        assert_eq!((values[1].median, values[1].ratio), (None, None));
    }

    #[test]
    fn no_runs_compare_to_nothing() {
        let comparison = Comparison::of_runs(Vec::new(), None);
        assert!(comparison.servers.is_empty() && comparison.metrics.is_empty());
    }

    #[test]
    fn another_scenario_is_noticed() {
        let mut other = run("b", None);
        other.scenario = "fanout".to_owned();
        let comparison = Comparison::of_runs(vec![run("a", None), other], None);
        assert_eq!(comparison.other_scenarios(), ["fanout"]);
    }
}
