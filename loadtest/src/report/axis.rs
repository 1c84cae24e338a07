//! Axes: from figures to places on a chart, and where the marks go.

/// How figures are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten, for positive figures.
    Logarithmic,
    /// 0 to 100 with each further nine as far apart as the last: where the tail of a distribution can be read.
    Percentile,
}

/// One axis of a chart.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
    /// Between the marks of a linear axis.
    step: f64,
}

/// Percentiles beyond this are drawn here: the maximum has no finite place.
const PERCENTILE_MAX: f64 = 99.9999;

/// About as many marks on a linear axis.
const MARKS: f64 = 5.0;

impl Axis {
    /// An axis that holds all these figures.
    pub fn over(scale: Scale, figures: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for figure in figures
            .filter(|figure| figure.is_finite())
            .map(|figure| placed(scale, figure))
        {
            least = least.min(figure);
            most = most.max(figure);
        }
        if least > most {
            (least, most) = (0.0, 1.0);
        }
        match scale {
            Scale::Linear => Self::linear(least, most),
            Scale::Logarithmic => Self {
                scale,
                from: least.floor(),
                to: most.ceil().max(least.floor() + 1.0),
                step: 1.0,
            },
            Scale::Percentile => Self {
                scale,
                from: 0.0,
                to: most.max(1.0),
                step: 1.0,
            },
        }
    }

    /// From zero, or from below it, to a whole number of steps.
    fn linear(least: f64, most: f64) -> Self {
        let (least, most) = (least.min(0.0), if most > least.min(0.0) { most.max(0.0) } else { 1.0 });
        let step = step(most - least);
        let (from, to) = ((least / step).floor() * step, (most / step).ceil() * step);
        Self {
            scale: Scale::Linear,
            from,
            to,
            step,
        }
    }

    /// The place of a figure, 0 at the start of the axis to 1 at its end.
    pub fn place(&self, figure: f64) -> f64 {
        ((placed(self.scale, figure) - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// The figures to mark.
    pub fn marks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let first = (self.from / self.step).round() as i64;
                let last = (self.to / self.step).round() as i64;
                (first..=last).map(|index| index as f64 * self.step).collect()
            }
            Scale::Logarithmic => {
                let decades = self.from.round() as i32..=self.to.round() as i32;
                let between: &[f64] = if self.to - self.from <= 2.0 {
                    &[1.0, 2.0, 5.0]
                } else {
                    &[1.0]
                };
                let marks = decades.flat_map(|decade| between.iter().map(move |part| part * 10f64.powi(decade)));
                marks.filter(|mark| mark.log10() <= self.to + 1e-9).collect()
            }
            Scale::Percentile => {
                let marks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999];
                marks
                    .into_iter()
                    .filter(|mark| placed(self.scale, *mark) <= self.to + 1e-9)
                    .collect()
            }
        }
    }
}

fn placed(scale: Scale, figure: f64) -> f64 {
    match scale {
        Scale::Linear => figure,
        Scale::Logarithmic => figure.max(f64::MIN_POSITIVE).log10(),
        Scale::Percentile => -(1.0 - figure.clamp(0.0, PERCENTILE_MAX) / 100.0).log10(),
    }
}

/// 1, 2 or 5 times a power of ten.
fn step(span: f64) -> f64 {
    let rough = span / MARKS;
    let power = 10f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|times| rough <= times * power * (1.0 + 1e-9));
    times.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_starts_at_zero_and_ends_on_a_mark() {
        let axis = Axis::over(Scale::Linear, [40.0, 930.0].into_iter());
        assert_eq!(axis.marks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(
            (axis.place(0.0), axis.place(500.0), axis.place(1000.0)),
            (0.0, 0.5, 1.0)
        );
    }

    #[test]
    fn a_negative_figure_has_its_place() {
        let axis = Axis::over(Scale::Linear, [-10.0, 90.0].into_iter());
        assert_eq!(axis.marks().first(), Some(&-20.0));
        assert!(axis.place(-10.0) < axis.place(0.0));
    }

    #[test]
    fn each_nine_is_as_wide_as_the_last() {
        let axis = Axis::over(Scale::Percentile, [0.0, 99.9].into_iter());
        assert_eq!(axis.marks(), [0.0, 50.0, 90.0, 99.0, 99.9]);
        assert!((axis.place(90.0) - 1.0 / 3.0).abs() < 1e-9 && (axis.place(99.0) - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(axis.place(100.0), 1.0);
    }

    #[test]
    fn a_logarithmic_axis_marks_powers_and_what_lies_between_few_of_them() {
        let wide = Axis::over(Scale::Logarithmic, [0.3, 9_000.0].into_iter());
        assert_eq!(wide.marks().len(), 6);
        let narrow = Axis::over(Scale::Logarithmic, [30.0, 400.0].into_iter());
        assert_eq!(
            narrow.marks().iter().map(|mark| mark.round()).collect::<Vec<_>>(),
            [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
        );
    }

    #[test]
    fn nothing_to_hold_is_still_an_axis() {
        for scale in [Scale::Linear, Scale::Logarithmic, Scale::Percentile] {
            for figures in [vec![], vec![0.0], vec![f64::NAN], vec![7.0, 7.0]] {
                let axis = Axis::over(scale, figures.iter().copied());
                assert!(
                    !axis.marks().is_empty() && axis.place(7.0).is_finite(),
                    "{scale:?} {figures:?}"
                );
            }
        }
    }
}
