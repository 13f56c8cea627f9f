//! The times of HEALTHCHECK: `1m30s`, `500ms`, `1.5h`.

use super::quote::go_quote;

const MILLISECOND: i64 = 1_000_000;

/// The nanoseconds of a HEALTHCHECK flag; 0 when it is empty.
pub(super) fn health_time(flag: &str, text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let time = parse(text)?;
    if time != 0 && time < MILLISECOND {
        let name = go_quote(flag);
        return Err(format!("Interval {name} cannot be less than 1ms"));
    }
    Ok(time)
}

/// Nanoseconds of a text such as `-1.5h10m`.
fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanos: i128 = match unit {
            "" => return Err(format!("time: missing unit in duration {}", go_quote(text))),
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => {
                let unit = go_quote(other);
                return Err(format!(
                    "time: unknown unit {unit} in duration {}",
                    go_quote(text)
                ));
            }
        };
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            i128::from(whole.parse::<u64>().map_err(|_| invalid())?)
        };
        total += whole * nanos;
        // digits below a nanosecond of an hour don't count
        let (mut scale, mut part) = (1i128, 0i128);
        for digit in fraction.bytes().take(18) {
            part = part * 10 + i128::from(digit - b'0');
            scale *= 10;
        }
        total += part * nanos / scale;
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = after;
    }
    let total = i64::try_from(total).map_err(|_| invalid())?;
    Ok(if negative { -total } else { total })
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        assert_eq!(health_time("interval", "1m30s"), Ok(90_000_000_000));
        assert_eq!(health_time("interval", "1.5ms"), Ok(1_500_000));
        assert_eq!(health_time("interval", ".5s"), Ok(500_000_000));
        assert_eq!(health_time("interval", "0"), Ok(0));
        assert_eq!(health_time("interval", ""), Ok(0));
    }

    #[test]
    fn each_mistake_has_its_text() {
        let error = |text| health_time("interval", text).unwrap_err();
        assert_eq!(error("1"), "time: missing unit in duration \"1\"");
        assert_eq!(error("fast"), "time: invalid duration \"fast\"");
        assert_eq!(error("1x"), "time: unknown unit \"x\" in duration \"1x\"");
        assert_eq!(error("9999999h"), "time: invalid duration \"9999999h\"");
        assert_eq!(
            error("1us"),
            "Interval \"interval\" cannot be less than 1ms"
        );
        assert_eq!(
            error("-1s"),
            "Interval \"interval\" cannot be less than 1ms"
        );
    }
}
