//! Times as Go writes them, because etcd's options do: `300ms`, `10m`, `1h30m`, `1.5s`.

use std::time::Duration;

/// Reads numbers, each with a unit, without anything between them; `0` needs no unit. There is no time below 0.
///
/// # Errors
/// What the text should look like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write 300s, 10m or 1h30m");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (text, millis) in [
            ("300s", 300_000),
            ("1.5s", 1_500),
            ("1h0m1s", 3_601_000),
            ("20ms", 20),
            ("+5m", 300_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("3µs"), Ok(Duration::from_micros(3)));
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in ["", "+", "5", "s", "-5s", "5d", "5 s", "1..2s", "1e400s", "99999999999999999999h"] {
            assert!(parse(text).unwrap_err().contains("is no time"), "{text}");
        }
    }
}
