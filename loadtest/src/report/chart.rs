//! Charts as SVG. Colours come from the page's style sheet, so that they follow light and dark.

use std::fmt::Write;

use super::axis::{Axis, Scale};
use super::markup::Element;

/// Series beyond this repeat colours.
const COLOURS: usize = 6;

const HEIGHT: f64 = 300.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// Points drawn with a dot of their own; more would be a smear.
const DOTS_MAX: usize = 40;

/// About the width of a letter of a label.
const LETTER: f64 = 6.6;

/// How wide a chart is drawn. A unit is about a pixel on a wide screen, so that letters are alike on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Two beside each other.
    Half,
    Full,
}

impl Width {
    fn units(self) -> f64 {
        match self {
            Self::Half => 490.0,
            Self::Full => 1010.0,
        }
    }
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub style: LineStyle,
    /// Which colour, so that a thing keeps its colour from chart to chart.
    pub colour: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineStyle {
    Solid,
    /// Computed rather than measured.
    Dashed,
    /// Filled down to the series before it; points are already sums.
    Stacked,
}

/// Lines over two axes.
pub struct LineChart<'a> {
    /// Read out by screen readers, and shown above the chart.
    pub title: &'a str,
    pub width: Width,
    pub x_title: &'a str,
    pub y_title: &'a str,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub x_format: &'a dyn Fn(f64) -> String,
    pub y_format: &'a dyn Fn(f64) -> String,
    pub series: Vec<Series>,
}

impl LineChart<'_> {
    /// The chart with its title and legend. Without a point to draw it says so.
    pub fn render(&self) -> Element {
        let figure = Element::new("figure").child(Element::new("figcaption").text(self.title));
        let drawn: Vec<&Series> = self.series.iter().filter(|series| !series.points.is_empty()).collect();
        if drawn.is_empty() {
            return figure.child(Element::new("p").with("class", "empty").text("Nothing was measured."));
        }
        figure.child(legend(&drawn)).child(self.drawing(&drawn))
    }

    /// From the vertical axis to the end of the horizontal one.
    fn right(&self) -> f64 {
        self.width.units() - RIGHT
    }

    fn drawing(&self, drawn: &[&Series]) -> Element {
        let points = || drawn.iter().flat_map(|series| &series.points);
        let x = Axis::over(self.x_scale, points().map(|point| point.0));
        let y = Axis::over(self.y_scale, points().map(|point| point.1));
        let place = |(px, py): (f64, f64)| {
            (
                LEFT + x.place(px) * (self.right() - LEFT),
                HEIGHT - BOTTOM - y.place(py) * (HEIGHT - TOP - BOTTOM),
            )
        };
        let mut drawing = svg(self.title, self.width, HEIGHT)
            .child(self.y_marks(&y))
            .child(self.x_marks(&x));
        // Areas first, so that no area hides a line.
        for (index, series) in drawn
            .iter()
            .enumerate()
            .filter(|(_, series)| series.style == LineStyle::Stacked)
        {
            let below = drawn[..index]
                .iter()
                .rev()
                .find(|series| series.style == LineStyle::Stacked);
            drawing = drawing.child(area(series, below.copied(), &place, place((0.0, 0.0)).1));
        }
        for series in drawn {
            drawing = drawing.child(line(series, &place)).children(self.dots(series, &place));
        }
        drawing
    }

    fn y_marks(&self, axis: &Axis) -> Element {
        let mut group = Element::new("g");
        for mark in axis.marks() {
            let y = HEIGHT - BOTTOM - axis.place(mark) * (HEIGHT - TOP - BOTTOM);
            group = group.child(rule((LEFT, y), (self.right(), y))).child(label(
                LEFT - 8.0,
                y + 4.0,
                "end",
                &(self.y_format)(mark),
            ));
        }
        let turned = label(0.0, 0.0, "middle", self.y_title).with(
            "transform",
            format!("translate(13 {}) rotate(-90)", (HEIGHT - BOTTOM + TOP) / 2.0),
        );
        group.child(turned)
    }

    fn x_marks(&self, axis: &Axis) -> Element {
        let mut group = Element::new("g");
        let mut free_from = f64::NEG_INFINITY;
        for mark in axis.marks() {
            let x = LEFT + axis.place(mark) * (self.right() - LEFT);
            let text = (self.x_format)(mark);
            let half = text.chars().count() as f64 * LETTER / 2.0;
            group = group.child(rule((x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 5.0)));
            // A label that would touch the last one is left out; its mark stays.
            if x - half > free_from {
                let centre = x.min(self.width.units() - half - 1.0);
                group = group.child(label(centre, HEIGHT - BOTTOM + 19.0, "middle", &text));
                free_from = centre + half + LETTER;
            }
        }
        group.child(label((LEFT + self.right()) / 2.0, HEIGHT - 6.0, "middle", self.x_title))
    }

    fn dots(&self, series: &Series, place: &impl Fn((f64, f64)) -> (f64, f64)) -> Vec<Element> {
        if series.style == LineStyle::Dashed || series.points.len() > DOTS_MAX {
            return Vec::new();
        }
        let dot = |point: &(f64, f64)| {
            let (x, y) = place(*point);
            let reading = format!(
                "{}: {} at {}",
                series.name,
                (self.y_format)(point.1),
                (self.x_format)(point.0)
            );
            Element::new("circle")
                .with("class", format!("dot c{}", series.colour % COLOURS))
                .with("cx", rounded(x))
                .with("cy", rounded(y))
                .with("r", 3)
                .child(Element::new("title").text(reading))
        };
        series.points.iter().map(dot).collect()
    }
}

/// One bar of a bar chart.
#[derive(Clone, Debug)]
pub struct Bar {
    pub name: String,
    /// `None` is shown as not measured, not as an empty bar.
    pub figure: Option<f64>,
    /// Beside the bar: the figure with its unit, and its ratio.
    pub label: String,
    pub colour: usize,
}

/// Bars side by side from zero, one to a row.
pub fn bars(title: &str, bars: &[Bar]) -> Element {
    const ROW: f64 = 30.0;
    const NAME: f64 = 140.0;
    const LABEL: f64 = 150.0;
    const NAME_CHARACTERS: usize = 20;
    let most = bars.iter().filter_map(|bar| bar.figure).fold(0.0, f64::max);
    let mut drawing = svg(title, Width::Half, ROW * bars.len().max(1) as f64);
    for (row, bar) in bars.iter().enumerate() {
        let top = row as f64 * ROW;
        let middle = top + ROW / 2.0 + 5.0;
        let length = bar.figure.map_or(0.0, |figure| {
            if most > 0.0 {
                figure.max(0.0) / most * (Width::Half.units() - NAME - LABEL)
            } else {
                0.0
            }
        });
        let short: String = match bar.name.char_indices().nth(NAME_CHARACTERS) {
            Some((end, _)) => format!("{}…", &bar.name[..end]),
            None => bar.name.clone(),
        };
        let reading = Element::new("title").text(format!("{}: {}", bar.name, bar.label));
        let shape = Element::new("rect")
            .with("class", format!("bar c{}", bar.colour % COLOURS))
            .with("x", NAME)
            .with("y", top + 6.0)
            .with(
                "width",
                rounded(length.max(if bar.figure.is_some() { 1.0 } else { 0.0 })),
            )
            .with("height", ROW - 12.0)
            .with("rx", 2)
            .child(reading);
        drawing = drawing
            .child(label(NAME - 10.0, middle, "end", &short))
            .child(shape)
            .child(label(NAME + length + 8.0, middle, "start", &bar.label).with("class", "value"));
    }
    Element::new("figure")
        .child(Element::new("figcaption").text(title))
        .child(drawing)
}

fn svg(title: &str, width: Width, height: f64) -> Element {
    Element::new("svg")
        .with("xmlns", "http://www.w3.org/2000/svg")
        .with("viewBox", format!("0 0 {} {height}", width.units()))
        .with("role", "img")
        .with("aria-label", title)
        .child(Element::new("title").text(title))
}

fn legend(drawn: &[&Series]) -> Element {
    let entry = |series: &&Series| {
        let kind = if series.style == LineStyle::Dashed {
            "key dashed"
        } else {
            "key"
        };
        let key = Element::new("span").with("class", format!("{kind} c{}", series.colour % COLOURS));
        Element::new("li").child(key).text(&series.name)
    };
    Element::new("ul")
        .with("class", "legend")
        .children(drawn.iter().map(entry))
}

fn line(series: &Series, place: &impl Fn((f64, f64)) -> (f64, f64)) -> Element {
    let kind = if series.style == LineStyle::Dashed {
        "line dashed"
    } else {
        "line"
    };
    Element::new("path")
        .with("class", format!("{kind} c{}", series.colour % COLOURS))
        .with("d", path(series.points.iter().map(|point| place(*point)), 'M'))
}

fn area(series: &Series, below: Option<&Series>, place: &impl Fn((f64, f64)) -> (f64, f64), bottom: f64) -> Element {
    let mut outline = path(series.points.iter().map(|point| place(*point)), 'M');
    match below {
        Some(below) => outline += &path(below.points.iter().rev().map(|point| place(*point)), 'L'),
        None => {
            let ends = [series.points.last(), series.points.first()];
            outline += &path(ends.into_iter().flatten().map(|point| (place(*point).0, bottom)), 'L');
        }
    }
    Element::new("path")
        .with("class", format!("area c{}", series.colour % COLOURS))
        .with("d", outline + "Z")
}

fn path(points: impl Iterator<Item = (f64, f64)>, first: char) -> String {
    let mut path = String::new();
    for (index, (x, y)) in points.enumerate() {
        let command = if index == 0 { first } else { 'L' };
        // Writing to a String cannot fail.
        let _ = write!(path, "{command}{} {}", rounded(x), rounded(y));
    }
    path
}

fn rule(from: (f64, f64), to: (f64, f64)) -> Element {
    Element::new("line")
        .with("class", "rule")
        .with("x1", rounded(from.0))
        .with("y1", rounded(from.1))
        .with("x2", rounded(to.0))
        .with("y2", rounded(to.1))
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> Element {
    Element::new("text")
        .with("x", rounded(x))
        .with("y", rounded(y))
        .with("text-anchor", anchor)
        .text(text)
}

/// A tenth of a unit is less than a pixel.
fn rounded(place: f64) -> f64 {
    (place * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> String {
        let chart = LineChart {
            title: "Memory <of> it",
            width: Width::Half,
            x_title: "connections",
            y_title: "bytes",
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            x_format: &|figure| format!("{figure}"),
            y_format: &|figure| format!("{figure}"),
            series,
        };
        chart.render().to_string()
    }

    fn series(points: &[(f64, f64)], style: LineStyle) -> Series {
        Series {
            name: "user".into(),
            points: points.to_vec(),
            style,
            colour: 1,
        }
    }

    #[test]
    fn a_line_goes_through_its_points_and_each_can_be_read() {
        let drawn = chart(vec![series(
            &[(0.0, 0.0), (50.0, 100.0), (100.0, 200.0)],
            LineStyle::Solid,
        )]);
        assert!(drawn.contains("d=\"M78 254L275 133L472 12\""), "{drawn}");
        assert!(drawn.contains("<title>user: 100 at 50</title>"));
        assert!(drawn.contains("aria-label=\"Memory &lt;of&gt; it\""));
    }

    #[test]
    fn areas_are_stacked_on_each_other() {
        let lower = series(&[(0.0, 1.0), (10.0, 5.0)], LineStyle::Stacked);
        let upper = Series {
            name: "kernel".into(),
            points: vec![(0.0, 2.0), (10.0, 10.0)],
            colour: 2,
            ..lower.clone()
        };
        let drawn = chart(vec![lower, upper]);
        assert_eq!(drawn.matches("class=\"area").count(), 2);
        assert!(
            drawn.contains("d=\"M78 229.8L472 133L472 254L78 254Z\""),
            "the lower area ends at zero: {drawn}"
        );
        assert!(
            drawn.contains("d=\"M78 205.6L472 12L472 133L78 229.8Z\""),
            "the upper one on the lower: {drawn}"
        );
    }

    #[test]
    fn no_points_are_said_to_be_none() {
        for empty in [vec![], vec![series(&[], LineStyle::Solid)]] {
            let drawn = chart(empty);
            assert!(drawn.contains("Nothing was measured.") && !drawn.contains("<svg"));
        }
    }

    #[test]
    fn bars_are_as_long_as_their_figures_and_a_missing_one_has_none() {
        let bar = |figure: Option<f64>| Bar {
            name: "s".into(),
            figure,
            label: "l".into(),
            colour: 0,
        };
        let drawn = bars("speed", &[bar(Some(50.0)), bar(Some(100.0)), bar(None)]).to_string();
        for width in ["width=\"100\"", "width=\"200\"", "width=\"0\""] {
            assert_eq!(drawn.matches(width).count(), 1, "{width} in {drawn}");
        }
        assert!(bars("speed", &[]).to_string().contains("<svg"));
        assert!(!bars("speed", &[bar(Some(0.0))]).to_string().contains("NaN"));
    }
}
