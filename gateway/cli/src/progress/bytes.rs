//! Byte counts as people read them: decimal units, two decimals from kilobytes on.

pub fn format_bytes(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{value:.2}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_decimal() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1980, "1.98kB"),
            (1_980_000, "1.98MB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}
