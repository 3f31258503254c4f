//! What a process used so far, from `/proc`.

use std::iter::Sum;
use std::time::Duration;

use crate::Failure;

/// CPU time and bytes written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// In user and system mode.
    pub cpu: Duration,
    /// To the storage layer.
    pub written_bytes: u64,
}

impl Cost {
    /// Of the process with this id.
    pub fn of(pid: u32) -> Result<Self, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let io = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
        let ticks = ticks(&stat).ok_or_else(|| format!("/proc/{pid}/stat: {stat:?}"))?;
        let written_bytes = labelled(&io, "write_bytes:").ok_or_else(|| format!("/proc/{pid}/io: {io:?}"))?;
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(Self { cpu: Duration::from_secs_f64(ticks as f64 / per_second as f64), written_bytes })
    }

    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| Self {
            cpu: sum.cpu + cost.cpu,
            written_bytes: sum.written_bytes + cost.written_bytes,
        })
    }
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = labelled(&status, "VmRSS:").ok_or_else(|| format!("/proc/{pid}/status has no VmRSS"))?;
    Ok(kib * 1024)
}

/// `utime` and `stime` together. The name of the command, in parentheses, may hold anything; what follows it is plain.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn labelled(text: &str, label: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(label))?.split_whitespace().next()?.parse().ok()
}
