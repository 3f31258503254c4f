//! The settings about space, revisions, and agreement between members. Names and forms are etcd's where etcd has them.

use std::time::Duration;

use super::super::settings::{ConfigError, Texts};
use super::{byte_count, truth};
use crate::config::{AutoCompaction, Maintenance, go_time};

/// Reads them.
pub(super) fn read(texts: &Texts<'_>) -> Result<Maintenance, ConfigError> {
    let default = Maintenance::default();
    let mode = texts.get("auto-compaction-mode", mode)?.unwrap_or(Mode::Periodic);
    let auto_compaction = texts.get("auto-compaction-retention", |text| retention(mode, text))?.flatten();
    Ok(Maintenance {
        quota_bytes: texts.get("quota-backend-bytes", quota)?.unwrap_or(default.quota_bytes),
        disk_reserve_bytes: texts.get("disk-reserve", byte_count)?.unwrap_or(default.disk_reserve_bytes),
        auto_compaction,
        corrupt_check_at_start: texts
            .get("initial-corrupt-check", truth)?
            .unwrap_or(default.corrupt_check_at_start),
        corrupt_check_interval: texts
            .get("corrupt-check-time", go_time::parse)?
            .filter(|time| !time.is_zero()),
    })
}

/// How automatic compaction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Periodic,
    Revision,
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "periodic" => Ok(Mode::Periodic),
        "revision" => Ok(Mode::Revision),
        _ => Err("is no mode; periodic and revision are".into()),
    }
}

/// As etcd reads it: a number alone is hours, or revisions; 0 is off.
fn retention(mode: Mode, text: &str) -> Result<Option<AutoCompaction>, String> {
    if let Ok(number) = text.parse::<u32>() {
        return Ok(match (number, mode) {
            (0, _) => None,
            (_, Mode::Revision) => Some(AutoCompaction::Revision(i64::from(number))),
            (_, Mode::Periodic) => {
                Some(AutoCompaction::Periodic(Duration::from_secs(3_600 * u64::from(number))))
            }
        });
    }
    match mode {
        Mode::Revision => Err("is no number of revisions".into()),
        Mode::Periodic => {
            let time = go_time::parse(text)?;
            Ok((!time.is_zero()).then_some(AutoCompaction::Periodic(time)))
        }
    }
}

/// Bytes; less than 0: no quota.
fn quota(text: &str) -> Result<i64, String> {
    if text.strip_prefix('-').is_some_and(|digits| digits.parse::<u64>().is_ok()) {
        return Ok(-1);
    }
    byte_count(text).and_then(|bytes| i64::try_from(bytes).map_err(|_| "is more than there can be".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_read_as_etcd_reads_it() {
        let hours = |hours| Some(AutoCompaction::Periodic(Duration::from_hours(hours)));
        for (mode, text, expected) in [
            (Mode::Periodic, "0", None),
            (Mode::Periodic, "0s", None),
            (Mode::Periodic, "5", hours(5)),
            (Mode::Periodic, "5h", hours(5)),
            (Mode::Periodic, "1h30m", Some(AutoCompaction::Periodic(Duration::from_mins(90)))),
            (Mode::Periodic, "10m", Some(AutoCompaction::Periodic(Duration::from_mins(10)))),
            (Mode::Revision, "0", None),
            (Mode::Revision, "5000", Some(AutoCompaction::Revision(5_000))),
        ] {
            assert_eq!(retention(mode, text), Ok(expected), "{mode:?} {text}");
        }
        for (mode, text) in [
            (Mode::Revision, "5m"),
            (Mode::Revision, "-1"),
            (Mode::Periodic, "-1"),
            (Mode::Periodic, "5x"),
            (Mode::Periodic, "h"),
            (Mode::Periodic, ""),
        ] {
            assert!(retention(mode, text).is_err(), "{mode:?} {text}");
        }
    }

    #[test]
    fn a_quota_below_zero_is_none() {
        assert_eq!(quota("-1"), Ok(-1));
        assert_eq!(quota("-7"), Ok(-1));
        assert_eq!(quota("0"), Ok(0));
        assert_eq!(quota("8GiB"), Ok(8 << 30));
        for text in ["", "-", "-x", "x", "1e9", "99999999999GiB"] {
            assert!(quota(text).is_err(), "{text}");
        }
    }
}
