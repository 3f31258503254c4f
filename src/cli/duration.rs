//! Durations as people write them: `500ms`, `5s`, `2m`, `1h`; a bare number is seconds.

use std::time::Duration;

/// Reads a duration. Errors: no number, an unknown unit, or more than a day.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is no duration; write 500ms, 5s, 2m or 1h"))?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time; us, ms, s, m and h are")),
    };
    if seconds > 86_400.0 {
        return Err(format!("{text:?} is more than a day"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is no duration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, millis) in
            [("5", 5_000), ("5s", 5_000), ("500ms", 500), ("1.5s", 1_500), ("2m", 120_000), ("0", 0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("250us"), Ok(Duration::from_micros(250)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "s", "-1s", "1x", "25h", "1e400", "nan", "inf", "1..2", "1 s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
