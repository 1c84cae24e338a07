//! `--assert 'METRIC OP NUMBER'`: a run that does not keep a promise ends with a failure.

use std::fmt;
use std::str::FromStr;

use crate::metric::{Metric, Missing};
use crate::report::figures::precise;
use crate::result::{AssertionOutcome, Comparison, RunResult};

/// Names suggested for one that does not exist.
const SUGGESTIONS_MAX: usize = 5;

/// A promise about one metric, such as `p99_ms < 20` or `lost == 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    expression: String,
    metric: Metric,
    operator: Operator,
    bound: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// Longer signs first, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 6] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Operator {
    fn holds(self, measured: f64, bound: f64) -> bool {
        match self {
            Self::Less => measured < bound,
            Self::LessOrEqual => measured <= bound,
            Self::Greater => measured > bound,
            Self::GreaterOrEqual => measured >= bound,
            Self::Equal => measured == bound,
            Self::NotEqual => measured != bound,
        }
    }
}

/// Why an expression is no assertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAssertion {
    NoOperator,
    NotANumber(String),
    UnknownMetric { name: String, near: Vec<String> },
}

impl std::error::Error for NoAssertion {}

impl fmt::Display for NoAssertion {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOperator => write!(to, "expected METRIC OP NUMBER, where OP is one of <= >= == != < >"),
            Self::NotANumber(text) => write!(to, "`{text}` is not a number"),
            Self::UnknownMetric { name, near } if near.is_empty() => write!(to, "there is no metric `{name}`"),
            Self::UnknownMetric { name, near } => {
                write!(to, "there is no metric `{name}`; did you mean {}?", near.join(", "))
            }
        }
    }
}

impl FromStr for Assertion {
    type Err = NoAssertion;

    fn from_str(text: &str) -> Result<Self, NoAssertion> {
        let start = text.find(['<', '>', '=', '!']).ok_or(NoAssertion::NoOperator)?;
        let (name, rest) = (text[..start].trim(), &text[start..]);
        let (sign, operator) = OPERATORS
            .into_iter()
            .find(|(sign, _)| rest.starts_with(sign))
            .ok_or(NoAssertion::NoOperator)?;
        let number = rest[sign.len()..].trim();
        let bound = number
            .replace('_', "")
            .parse()
            .ok()
            .filter(|bound: &f64| bound.is_finite())
            .ok_or_else(|| NoAssertion::NotANumber(number.to_owned()))?;
        let metric = Metric::named(name).ok_or_else(|| NoAssertion::UnknownMetric {
            name: name.to_owned(),
            near: near_names(name),
        })?;
        Ok(Self {
            expression: format!("{name} {sign} {number}"),
            metric,
            operator,
            bound,
        })
    }
}

impl Assertion {
    /// How the assertion fares against a run. What was not measured does not hold.
    pub fn check(&self, result: &RunResult) -> AssertionOutcome {
        let measured = self.metric.read(result).map_err(|missing| match missing {
            Missing::NotMeasured => "not measured in this run",
            Missing::Withheld => "the figures of this run are invalid, so this one is withheld",
        });
        self.outcome(self.expression.clone(), measured)
    }

    /// How the ratio of a server to the baseline fares against the bound. Without a ratio the assertion does not hold.
    pub fn check_ratio(&self, comparison: &Comparison, server: &str) -> AssertionOutcome {
        let expression = format!("{server} / {}: {}", comparison.baseline, self.expression);
        let ratio = comparison.ratio(&self.metric.name(), server);
        self.outcome(expression, ratio.ok_or("not measured on both servers in a valid round"))
    }

    fn outcome(&self, expression: String, measured: Result<f64, &str>) -> AssertionOutcome {
        let reason = match measured {
            Ok(figure) if self.operator.holds(figure, self.bound) => None,
            Ok(figure) => Some(format!("measured {}", precise(figure))),
            Err(missing) => Some(missing.to_owned()),
        };
        AssertionOutcome {
            expression,
            measured: measured.ok(),
            holds: reason.is_none(),
            reason,
        }
    }
}

/// Checks all assertions and records the outcome in the run. True when all hold.
pub fn check_all(assertions: &[Assertion], result: &mut RunResult) -> bool {
    result.assertions = assertions.iter().map(|assertion| assertion.check(result)).collect();
    result.assertions.iter().all(|outcome| outcome.holds)
}

/// The names closest by edits, nearest first. A name that contains the other is near however long it is.
fn near_names(name: &str) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut near: Vec<(usize, String)> = Metric::all()
        .map(|metric| metric.name())
        .filter_map(|candidate| {
            let contained = wanted.len() >= 3 && (candidate.contains(&wanted) || wanted.contains(&candidate));
            let distance = edits(&wanted, &candidate);
            (contained || distance <= wanted.len().div_ceil(3)).then_some((distance, candidate))
        })
        .collect();
    near.sort();
    near.into_iter()
        .take(SUGGESTIONS_MAX)
        .map(|(_, candidate)| candidate)
        .collect()
}

/// Levenshtein distance, one row at a time.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Messages, Saturation, Slope, Verdict};

    fn run() -> RunResult {
        let mut run = RunResult::new("density");
        run.memory.slopes.user_rss = Some(Slope {
            bytes_per_connection: 300.0,
            ..Slope::default()
        });
        run.messages = Messages {
            acked: Some(500_000),
            lost: Some(0),
            measured_seconds: Some(2.0),
            ..Messages::default()
        };
        run
    }

    fn check(expression: &str) -> AssertionOutcome {
        expression.parse::<Assertion>().expect(expression).check(&run())
    }

    #[test]
    fn every_operator_decides_at_its_edge() {
        for (expression, holds) in [
            ("user_bytes_per_connection <= 300", true),
            ("user_bytes_per_connection < 300", false),
            ("user_bytes_per_connection >= 300", true),
            ("user_bytes_per_connection > 300", false),
            ("user_bytes_per_connection == 300", true),
            ("user_bytes_per_connection != 300", false),
            ("acked_per_second>=200_000", true),
            ("acked_per_second >= 2.6e5", false),
            ("lost == 0", true),
            ("lost != 0", false),
            ("lost > -1", true),
        ] {
            assert_eq!(check(expression).holds, holds, "{expression}");
        }
    }

    #[test]
    fn a_failure_says_what_was_measured() {
        let outcome = check("user_bytes_per_connection<200");
        assert_eq!(outcome.expression, "user_bytes_per_connection < 200");
        assert_eq!(outcome.measured, Some(300.0));
        assert_eq!(outcome.reason.as_deref(), Some("measured 300"));
    }

    #[test]
    fn what_was_not_measured_does_not_hold_whatever_the_operator() {
        for expression in ["coalesced == 0", "coalesced != 0", "p99_ms < 20", "p99_ms > 20"] {
            let outcome = check(expression);
            assert!(!outcome.holds && outcome.measured.is_none(), "{expression}");
            assert_eq!(outcome.reason.as_deref(), Some("not measured in this run"));
        }
    }

    #[test]
    fn a_saturated_run_proves_no_rate() {
        let mut saturated = run();
        saturated.saturation = Saturation {
            verdict: Verdict::Saturated,
            ..Saturation::default()
        };
        let assertions = ["acked_per_second > 1", "lost == 0"].map(|text| text.parse().expect(text));
        assert!(!check_all(&assertions, &mut saturated));
        assert!(!saturated.assertions[0].holds && saturated.assertions[1].holds);
        assert!(
            saturated.assertions[0]
                .reason
                .as_deref()
                .is_some_and(|reason| reason.contains("withheld"))
        );
    }

    #[test]
    fn a_ratio_is_held_against_the_bound_and_a_missing_one_fails() {
        let named = |name: &str, acked| {
            let mut run = run();
            run.server.name = name.to_owned();
            run.messages.acked = acked;
            run
        };
        let runs = vec![named("bare", Some(1000)), named("ours", Some(800)), named("mute", None)];
        let comparison = Comparison::of_runs(runs, Some("bare"));
        let check = |text: &str, server| text.parse::<Assertion>().expect(text).check_ratio(&comparison, server);
        let outcome = check("acked_per_second >= 0.8", "ours");
        assert!(outcome.holds && outcome.measured == Some(0.8), "{outcome:?}");
        assert_eq!(outcome.expression, "ours / bare: acked_per_second >= 0.8");
        assert!(!check("acked_per_second >= 0.81", "ours").holds);
        for (text, server) in [
            ("acked_per_second >= 0", "mute"),
            ("acked_per_second >= 0", "nobody"),
            ("lost == 0", "ours"),
        ] {
            assert!(!check(text, server).holds, "{text} of {server}: no ratio, nothing held");
        }
    }

    #[test]
    fn an_unknown_metric_lists_near_names() {
        let error = "p99ms < 20".parse::<Assertion>().expect_err("no such metric");
        let NoAssertion::UnknownMetric { near, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(near.first().map(String::as_str), Some("p99_ms"));
        let error = "bytes_per_connection < 9"
            .parse::<Assertion>()
            .expect_err("no such metric");
        assert!(error.to_string().contains("user_bytes_per_connection"), "{error}");
        let error = "qqqqqqqqqqqqqqqqqqqqqqqq < 9"
            .parse::<Assertion>()
            .expect_err("no such metric");
        assert_eq!(error.to_string(), "there is no metric `qqqqqqqqqqqqqqqqqqqqqqqq`");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in ["", "lost", "lost = 0", "lost ! 0", "== 0x"] {
            assert!(text.parse::<Assertion>().is_err(), "{text}");
        }
        for text in ["lost == ", "lost == zero", "lost == NaN", "lost == inf", "lost == 0 B"] {
            let error = text.parse::<Assertion>().expect_err(text);
            assert!(matches!(error, NoAssertion::NotANumber(_)), "{text}: {error}");
        }
    }
}
