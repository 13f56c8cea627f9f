//! Values as Go's formatting prints them, which is what the output of 2018 was made with.

use time::{Duration, OffsetDateTime};

/// `2018-08-31 19:07:09.246319297 +0000 UTC`, without the zeros at the end of the fraction.
pub fn time(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}{} +0000 UTC",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        fraction(u64::from(at.nanosecond()), 9)
    )
}

/// `66.818µs`, `1.5s`, `2m0.25s`, `1h0m0s`.
pub fn duration(duration: Duration) -> String {
    let nanos = duration.whole_nanoseconds();
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = u64::try_from(nanos.unsigned_abs()).unwrap_or(u64::MAX);
    let small = |unit: u64, digits: usize, name: &str| {
        format!(
            "{sign}{}{}{name}",
            nanos / unit,
            fraction(nanos % unit, digits)
        )
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => small(1, 0, "ns"),
        1_000..1_000_000 => small(1_000, 3, "µs"),
        1_000_000..1_000_000_000 => small(1_000_000, 6, "ms"),
        _ => {
            let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let mut text = sign.to_owned();
            if hours > 0 {
                text += &format!("{hours}h");
            }
            if seconds >= 60 {
                text += &format!("{minutes}m");
            }
            text + &format!("{}{}s", seconds % 60, fraction(rest, 9))
        }
    }
}

/// `.25` of 250000000 with nine digits; nothing for zero.
fn fraction(value: u64, digits: usize) -> String {
    if value == 0 {
        return String::new();
    }
    let text = format!(".{value:0digits$}");
    text.trim_end_matches('0').to_owned()
}

/// A text in double quotes, escaped as `%q` does.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_unit_that_fits() {
        for (nanos, text) in [
            (0, "0s"),
            (7, "7ns"),
            (66_818, "66.818µs"),
            (14_432_052, "14.432052ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (3_600_250_000_000, "1h0m0.25s"),
            (-1_000, "-1µs"),
        ] {
            assert_eq!(duration(Duration::nanoseconds(nanos)), text);
        }
    }

    #[test]
    fn a_whole_second_has_no_fraction() {
        assert_eq!(
            time(OffsetDateTime::UNIX_EPOCH),
            "1970-01-01 00:00:00 +0000 UTC"
        );
    }

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(quote("a\"b\\\n\x1b\u{e9}"), "\"a\\\"b\\\\\\n\\x1bé\"");
    }
}
