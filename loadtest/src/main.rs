//! Command line of the load tester.

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use loadtest::options::{Command, Common, Options, Report};
use loadtest::result::{AssertionOutcome, Comparison, ResultFile, RunResult, Verdict};
use loadtest::{assertion, check, compare, report, scenario};
use std::process::ExitCode;

/// The figures are not to be trusted.
const SATURATED: u8 = 3;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = check::check(&options.command) {
        let wrong = Options::command().error(ErrorKind::ValueValidation, format!("{error:#}"));
        wrong.exit();
    }
    match run(options.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Worker => loadtest::worker::run().map(|()| ExitCode::SUCCESS),
        Command::Bare(options) => loadtest::bare::run(options.port).map(|()| ExitCode::SUCCESS),
        Command::Report(options) => show_saved(&options).map(|()| ExitCode::SUCCESS),
        Command::Compare(options) => {
            let common = options.scenario.common();
            conclude_comparison(common, compare::run(&options)?)
        }
        Command::Scenario(scenario) => match scenario.yardstick() {
            Some(path) => {
                let comparison = compare::beside_yardstick(&scenario, path)?;
                conclude_comparison(scenario.common(), comparison)
            }
            None => conclude(scenario.common(), scenario::run(&scenario)?),
        },
    }
}

fn show_saved(options: &Report) -> Result<()> {
    let result = report::load(&options.files, options.baseline.as_deref())?;
    print!("{}", report::summary(&result));
    match &options.html {
        Some(file) => report::save_html(&result, file),
        None => Ok(()),
    }
}

/// Checks assertions, writes files, prints the summary.
fn conclude(common: &Common, mut result: RunResult) -> Result<ExitCode> {
    let verdict = judge(common, &mut result);
    let all_hold = check_assertions(common, &mut result);
    publish(common, &ResultFile::Run(Box::new(result)))?;
    Ok(code(&[verdict], all_hold))
}

/// As [`conclude`], for runs side by side. Assertions are about the first server: the one in question.
fn conclude_comparison(common: &Common, mut comparison: Comparison) -> Result<ExitCode> {
    let (mut verdicts, mut all_hold) = (Vec::new(), true);
    for (index, server) in comparison.servers.iter_mut().enumerate() {
        for run in &mut server.runs {
            let verdict = judge(common, run);
            // Another server may be one that cannot do what is measured; its column says so.
            if index == 0 || !run.phases.is_empty() {
                verdicts.push(verdict);
            }
            if index == 0 {
                all_hold &= check_assertions(common, run);
            }
        }
    }
    let servers = std::mem::take(&mut comparison.servers);
    let measured = servers.first().map_or_else(String::new, |server| server.name.clone());
    let mut comparison = Comparison::of(servers, Some(&comparison.baseline));
    let outcomes = common
        .ratio_assertions
        .iter()
        .map(|assertion| assertion.check_ratio(&comparison, &measured));
    comparison.assertions = outcomes.collect();
    all_hold &= complain("--assert-ratio", &comparison.assertions);
    publish(common, &ResultFile::Comparison(Box::new(comparison)))?;
    Ok(code(&verdicts, all_hold))
}

/// Gives the figures that were asked for nevertheless; says why others are invalid.
fn judge(common: &Common, result: &mut RunResult) -> Verdict {
    let saturation = &mut result.saturation;
    if saturation.verdict == Verdict::Saturated && common.allow_saturated {
        saturation.verdict = Verdict::Allowed;
    }
    if saturation.verdict.withholds() {
        for reason in &saturation.reasons {
            eprintln!("loadtest: the figures of {} are invalid: {reason}", result.server.name);
        }
    }
    saturation.verdict
}

fn check_assertions(common: &Common, result: &mut RunResult) -> bool {
    assertion::check_all(&common.assertions, result);
    complain("--assert", &result.assertions)
}

/// Says which assertions do not hold; true when all do.
fn complain(option: &str, outcomes: &[AssertionOutcome]) -> bool {
    for outcome in outcomes.iter().filter(|outcome| !outcome.holds) {
        let reason = outcome.reason.as_deref().unwrap_or("it does not hold");
        eprintln!("loadtest: {option} '{}': {reason}", outcome.expression);
    }
    outcomes.iter().all(|outcome| outcome.holds)
}

fn publish(common: &Common, result: &ResultFile) -> Result<()> {
    print!("{}", report::summary(result));
    if let Some(file) = &common.json {
        report::save(result, file)?;
    }
    if let Some(file) = &common.html {
        report::save_html(result, file)?;
    }
    Ok(())
}

fn code(verdicts: &[Verdict], all_hold: bool) -> ExitCode {
    if !all_hold || verdicts.contains(&Verdict::Failed) {
        ExitCode::FAILURE
    } else if verdicts.contains(&Verdict::Saturated) {
        ExitCode::from(SATURATED)
    } else {
        ExitCode::SUCCESS
    }
}
