//! Results for people: a summary for the terminal and a page that stands on its own.
//!
//! The page asks nobody for anything: style and charts are in it, there is no script. Whatever a result holds is escaped,
//! because it holds what servers said. Figures of a run in which the load tester was the limit are withheld, not shown
//! in grey: they would be quoted.

mod axis;
mod chart;
mod comparison_page;
pub mod figures;
mod markup;
mod page;
mod run_page;
mod summary;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::result::{ComparedServer, Comparison, FORMAT, ResultFile};

pub use summary::summary;

/// The page of a result.
pub fn html(result: &ResultFile) -> String {
    let page = match result {
        ResultFile::Run(run) => run_page::page(run),
        ResultFile::Comparison(comparison) => comparison_page::page(comparison),
    };
    format!("<!DOCTYPE html>\n{page}\n")
}

/// Reads one saved result, or several to stand side by side: each file is a column of its own, a comparison as many as
/// it has servers. `baseline` names the server that ratios are against, or else it is the first.
pub fn load(files: &[PathBuf], baseline: Option<&str>) -> Result<ResultFile> {
    let mut results = files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    ensure!(!results.is_empty(), "name at least one result file");
    if results.len() == 1 && baseline.is_none() {
        return Ok(results.remove(0));
    }
    let mut columns: Vec<(&Path, ComparedServer)> = Vec::new();
    for (file, result) in files.iter().zip(results) {
        columns.extend(servers_of(result).into_iter().map(|server| (file.as_path(), server)));
    }
    let servers = with_names_of_their_own(columns);
    if let Some(name) = baseline {
        let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
        ensure!(
            names.contains(&name),
            "no result of a server named {name}; there are {}",
            names.join(", ")
        );
    }
    Ok(ResultFile::Comparison(Box::new(Comparison::of(servers, baseline))))
}

/// Servers of one name, such as one server before and after a change, are told apart by their files.
fn with_names_of_their_own(columns: Vec<(&Path, ComparedServer)>) -> Vec<ComparedServer> {
    let names: Vec<String> = columns.iter().map(|(_, server)| server.name.clone()).collect();
    let is_shared = |name: &str| names.iter().filter(|other| *other == name).count() > 1;
    let renamed = columns.into_iter().map(|(file, mut server)| {
        if is_shared(&server.name) {
            let file = file.file_stem().unwrap_or_default().to_string_lossy();
            server.name = format!("{} ({file})", server.name);
        }
        server
    });
    renamed.collect()
}

/// Saves a result as JSON.
pub fn save(result: &ResultFile, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(result).context("cannot write the result as JSON")?;
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

/// Saves the page of a result.
pub fn save_html(result: &ResultFile, file: &Path) -> Result<()> {
    fs::write(file, html(result)).with_context(|| format!("cannot write {}", file.display()))
}

fn read(file: &Path) -> Result<ResultFile> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let result: ResultFile =
        serde_json::from_str(&text).with_context(|| format!("{} is not a result of this tool", file.display()))?;
    let format = match &result {
        ResultFile::Run(run) => run.format,
        ResultFile::Comparison(comparison) => comparison.format,
    };
    ensure!(
        format == FORMAT,
        "{} has format {format}; this tool reads format {FORMAT}",
        file.display()
    );
    Ok(result)
}

fn servers_of(result: ResultFile) -> Vec<ComparedServer> {
    match result {
        ResultFile::Run(run) => vec![ComparedServer {
            name: run.server.name.clone(),
            runs: vec![*run],
        }],
        ResultFile::Comparison(comparison) => comparison.servers,
    }
}
