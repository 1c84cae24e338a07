//! What all pages share: the frame, tables, warnings, machine and parameters.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::figures::{binary_bytes, grouped};
use super::markup::Element;
use crate::result::{Machine, Phase, RunResult, UnsupportedStep, Verdict};

const STYLE: &str = include_str!("style.css");

/// A page with its style; nothing is fetched to show it.
pub fn frame(title: &str, content: Vec<Element>) -> Element {
    let head = Element::new("head")
        .child(Element::new("meta").with("charset", "utf-8"))
        .child(
            Element::new("meta")
                .with("name", "viewport")
                .with("content", "width=device-width, initial-scale=1"),
        )
        .child(Element::new("title").text(title))
        .child(Element::new("style").text(STYLE));
    let body = Element::new("body").child(Element::new("main").children(content));
    Element::new("html").with("lang", "en").child(head).child(body)
}

pub fn heading(text: &str) -> Element {
    Element::new("h2").text(text)
}

pub fn faint(text: impl Display) -> Element {
    Element::new("p").with("class", "faint").text(text)
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    class: Option<&'static str>,
}

impl Cell {
    pub fn new(text: impl Display) -> Self {
        Self {
            text: text.to_string(),
            class: None,
        }
    }

    /// Text that may wrap.
    pub fn prose(text: impl Display) -> Self {
        Self {
            class: Some("prose"),
            ..Self::new(text)
        }
    }

    pub fn good(text: impl Display, is_good: bool) -> Self {
        Self {
            class: Some(if is_good { "good" } else { "bad" }),
            ..Self::new(text)
        }
    }

    /// A figure, or the words for its absence.
    pub fn figure(figure: Option<String>) -> Self {
        Self::new(figure.unwrap_or_else(|| "–".to_owned()))
    }

    fn element(&self, name: &'static str) -> Element {
        let element = Element::new(name).text(&self.text);
        match self.class {
            Some(class) => element.with("class", class),
            None => element,
        }
    }
}

/// A table whose first column names the rows. Without rows there is no table.
pub fn table(caption: &str, columns: &[&str], rows: &[Vec<Cell>]) -> Option<Element> {
    if rows.is_empty() {
        return None;
    }
    let is_prose = |index: usize| {
        rows.iter()
            .filter_map(|row| row.get(index))
            .any(|cell| cell.class == Some("prose"))
    };
    let head = columns.iter().enumerate().map(|(index, column)| {
        let cell = if is_prose(index) {
            Cell::prose(column)
        } else {
            Cell::new(column)
        };
        cell.element("th").with("scope", "col")
    });
    let body = rows.iter().map(|cells| {
        let mut row = Element::new("tr");
        for (index, cell) in cells.iter().enumerate() {
            row = row.child(if index == 0 {
                cell.element("th").with("scope", "row")
            } else {
                cell.element("td")
            });
        }
        row
    });
    let table = Element::new("table")
        .child(Element::new("caption").text(caption))
        .child(Element::new("thead").child(Element::new("tr").children(head)))
        .child(Element::new("tbody").children(body));
    Some(Element::new("div").with("class", "wide").child(table))
}

/// Warnings that figures say nothing, that they may not, or that nobody checked.
pub fn saturation_warnings(runs: &[&RunResult]) -> Vec<Element> {
    let failed = remarks(runs, |run| run.saturation.verdict == Verdict::Failed);
    let saturated = remarks(runs, |run| run.saturation.verdict == Verdict::Saturated);
    let doubtful = remarks(runs, |run| {
        let saturation = &run.saturation;
        !saturation.verdict.withholds() && (saturation.verdict == Verdict::Allowed || !saturation.reasons.is_empty())
    });
    let mut warnings = Vec::new();
    if !failed.is_empty() {
        let text = "Rates, times and costs of such a run are withheld.";
        warnings.push(warning("The run failed", text, &failed));
    }
    if !saturated.is_empty() {
        let text = "Rates, times and costs of such a run say nothing about the server and are withheld.";
        warnings.push(warning("The load tester was the limit", text, &saturated));
    }
    if !doubtful.is_empty() {
        let text = "Figures are shown because they were asked for nevertheless. They may be the load tester's own.";
        warnings.push(warning("The load tester may have been the limit", text, &doubtful));
    }
    if runs.iter().any(|run| run.saturation.verdict == Verdict::Unknown) {
        let title = "Nobody checked whether the load tester was the limit";
        let text = "Its own CPU was not measured, so rates and times may be its own rather than the server's.";
        warnings.push(warning(title, text, &[]));
    }
    warnings
}

fn remarks(runs: &[&RunResult], applies: impl Fn(&RunResult) -> bool) -> Vec<String> {
    let remark = |run: &&RunResult| match run.saturation.reasons.as_slice() {
        [] => format!("{}: no reason was recorded", run.server.name),
        reasons => format!("{}: {}", run.server.name, reasons.join("; ")),
    };
    runs.iter().filter(|run| applies(run)).map(remark).collect()
}

pub fn warning(title: &str, text: &str, remarks: &[String]) -> Element {
    let mut block = Element::new("section")
        .with("class", "warning")
        .with("role", "alert")
        .child(Element::new("h2").text(title))
        .child(Element::new("p").text(text));
    if !remarks.is_empty() {
        block = block.child(Element::new("ul").children(remarks.iter().map(|remark| Element::new("li").text(remark))));
    }
    block
}

/// Steps that were not measured because a server cannot do them.
pub fn unsupported(steps: &[(&str, &UnsupportedStep)]) -> Vec<Element> {
    let rows: Vec<Vec<Cell>> = steps
        .iter()
        .map(|(server, step)| vec![Cell::new(server), Cell::prose(&step.step), Cell::prose(&step.reason)])
        .collect();
    let columns = ["server", "step", "why it was not measured"];
    table("Not measured, because the server cannot do it", &columns, &rows)
        .into_iter()
        .collect()
}

/// Where and with what a run was made.
pub fn circumstances(machine: &Machine, parameters: &BTreeMap<String, serde_json::Value>) -> Vec<Element> {
    let machine_rows = [
        ("Kernel", machine.kernel.clone()),
        ("CPU", machine.cpu_model.clone()),
        ("Cores", machine.cores.to_string()),
        ("Memory", binary_bytes(machine.memory_bytes as f64)),
        ("Descriptors per process", grouped(machine.descriptors_max)),
    ]
    .map(|(name, value)| vec![Cell::new(name), Cell::prose(value)]);
    let parameter_rows: Vec<Vec<Cell>> = parameters
        .iter()
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            vec![Cell::new(name), Cell::prose(value)]
        })
        .collect();
    let mut content = vec![heading("Machine and parameters")];
    content.extend(table("Machine", &["", ""], &machine_rows));
    content.extend(table("Parameters", &["", ""], &parameter_rows));
    content
}

/// The stretches of the run.
pub fn phases(phases: &[Phase]) -> Option<Element> {
    let rows: Vec<Vec<Cell>> = phases
        .iter()
        .map(|phase| {
            let seconds = |seconds: f64| Cell::new(format!("{seconds:.1} s"));
            vec![
                Cell::new(&phase.name),
                seconds(phase.from_seconds),
                seconds(phase.to_seconds),
            ]
        })
        .collect();
    table("Phases", &["phase", "from", "to"], &rows)
}
