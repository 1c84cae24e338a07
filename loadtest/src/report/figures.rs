//! Figures for people: three significant digits, thousands apart, units that fit.

/// A whole number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits, without an exponent.
pub fn significant(number: f64) -> String {
    to_digits(number, 3)
}

/// Six significant digits, for figures that are held against a bound.
pub fn precise(number: f64) -> String {
    to_digits(number, 6)
}

fn to_digits(number: f64, digits: i32) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    let magnitude = number.abs().log10().floor() as i32;
    let scale = 10f64.powi(digits - 1 - magnitude);
    let rounded = (number * scale).round() / scale;
    // Rounding 9.996 gives a digit more before the point, and then one less after it.
    let magnitude = rounded.abs().log10().floor() as i32;
    let decimals = usize::try_from((digits - 1 - magnitude).clamp(0, 9)).unwrap_or(0);
    let text = format!("{:.decimals$}", rounded.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = whole.parse().map_or_else(|_| whole.to_owned(), grouped);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let sign = if rounded < 0.0 { "−" } else { "" };
    format!("{sign}{whole}{point}{fraction}")
}

/// Bytes in the largest binary unit that keeps a figure of at least 1.
pub fn binary_bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes;
    let mut unit = 0;
    while scaled.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", significant(scaled), UNITS[unit])
}

/// Bytes in powers of a thousand, for the round marks of an axis.
pub fn decimal_bytes(bytes: f64) -> String {
    match bytes.abs() {
        giga if giga >= 1e9 => format!("{} GB", significant(bytes / 1e9)),
        mega if mega >= 1e6 => format!("{} MB", significant(bytes / 1e6)),
        kilo if kilo >= 1e3 => format!("{} kB", significant(bytes / 1e3)),
        _ => format!("{} B", significant(bytes)),
    }
}

/// Microseconds in the unit that fits.
pub fn duration_us(us: f64) -> String {
    match us.abs() {
        long if long >= 1e6 => format!("{} s", significant(us / 1e6)),
        medium if medium >= 1e3 => format!("{} ms", significant(us / 1e3)),
        _ => format!("{} µs", significant(us)),
    }
}

/// A figure with the unit of its metric.
pub fn with_unit(figure: f64, unit: &str) -> String {
    match unit {
        "B" => binary_bytes(figure),
        "ms" => duration_us(figure * 1000.0),
        "µs" => duration_us(figure),
        "" if figure.fract() == 0.0 && (0.0..1e15).contains(&figure) => grouped(figure as u64),
        "" => significant(figure),
        _ if unit.starts_with('/') => format!("{}{unit}", significant(figure)),
        _ => format!("{} {unit}", significant(figure)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn three_digits_are_kept_whatever_the_size() {
        for (number, text) in [
            (0.0, "0"),
            (0.041234, "0.0412"),
            (1.0, "1"),
            (2.345, "2.35"),
            (9.996, "10"),
            (99.96, "100"),
            (123.4, "123"),
            (15_321.7, "15,300"),
            (1_999_999.0, "2,000,000"),
            (-4.5678, "−4.57"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(significant(number), text, "{number}");
        }
    }

    #[test]
    fn units_fit_the_figure() {
        assert_eq!(binary_bytes(312.4), "312 B");
        assert_eq!(binary_bytes(1536.0), "1.5 KiB");
        assert_eq!(binary_bytes(3.0 * 1024.0 * 1024.0 * 1024.0), "3 GiB");
        assert_eq!(precise(2.8528629999999997), "2.85286");
        assert_eq!(precise(312.0), "312");
        assert_eq!(decimal_bytes(200_000_000.0), "200 MB");
        assert_eq!(duration_us(0.5), "0.5 µs");
        assert_eq!(duration_us(2_500.0), "2.5 ms");
        assert_eq!(duration_us(12_000_000.0), "12 s");
        assert_eq!(with_unit(2.5, "ms"), "2.5 ms");
        assert_eq!(with_unit(200_000.0, "/s"), "200,000/s");
        assert_eq!(with_unit(1_234_567.0, ""), "1,234,567");
        assert_eq!(with_unit(0.5, ""), "0.5");
    }
}
