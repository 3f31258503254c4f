//! Medians and ratios of what was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cluster::System;
use crate::load::Sample;

/// All samples, by load and system; the rounds are in order.
#[derive(Default)]
pub struct Results {
    loads: Vec<&'static str>,
    samples: BTreeMap<(&'static str, System), Vec<Sample>>,
    puts: u32,
    memory: BTreeMap<System, Vec<Vec<u64>>>,
}

/// A figure of a sample, how it is written, and its heading.
type Figure = (&'static str, fn(&Sample) -> f64, fn(f64) -> String);

const FIGURES: [Figure; 5] = [
    ("requests/s", |sample| sample.per_second, |value| format!("{value:.0}")),
    ("p50, ms", |sample| sample.p50_us / 1e3, |value| format!("{value:.2}")),
    ("p99, ms", |sample| sample.p99_us / 1e3, |value| format!("{value:.2}")),
    ("server CPU, µs/request", |sample| sample.cpu_us, |value| format!("{value:.0}")),
    ("disk, bytes/request", |sample| sample.disk_bytes, |value| format!("{value:.0}")),
];

impl Results {
    /// Adds a sample of one round.
    pub fn add(&mut self, load: &'static str, system: System, sample: Sample) {
        if sample.errors > 0.0 {
            eprintln!("  {} requests failed", sample.errors);
        }
        if !self.loads.contains(&load) {
            self.loads.push(load);
        }
        self.samples.entry((load, system)).or_default().push(sample);
    }

    /// Adds the resident memory of the members after `puts` puts.
    pub fn add_memory(&mut self, puts: u32, system: System, members: Vec<u64>) {
        self.puts = puts;
        self.memory.entry(system).or_default().push(members);
    }

    /// The head and the cells of the table.
    fn rows(&self) -> Vec<Vec<String>> {
        let mut head = vec!["etcd → setstone (ratio)".to_owned()];
        head.extend(FIGURES.iter().map(|(name, ..)| (*name).to_owned()));
        let mut rows = vec![head];
        for load in &self.loads {
            let of = |system| self.samples.get(&(*load, system)).map_or(&[][..], Vec::as_slice);
            let mut row = vec![(*load).to_owned()];
            for (_, figure, write) in FIGURES {
                let values = |system| of(system).iter().map(figure).collect::<Vec<_>>();
                row.push(cell(&values(System::Etcd), &values(System::Setstone), write));
            }
            rows.push(row);
        }
        rows
    }

    /// Memory in one line each: sum over the members, and the largest of them.
    fn memory_lines(&self) -> Vec<String> {
        let values = |system, figure: fn(&[u64]) -> u64| -> Vec<f64> {
            let rounds = self.memory.get(&system).map_or(&[][..], Vec::as_slice);
            rounds.iter().map(|members| figure(members) as f64 / f64::from(1 << 20)).collect()
        };
        let line = |name: &str, figure: fn(&[u64]) -> u64| {
            let cell = cell(&values(System::Etcd, figure), &values(System::Setstone, figure), |mib| {
                format!("{mib:.0}")
            });
            format!("resident memory after {} puts, MiB, {name}: {cell}", self.puts)
        };
        if self.memory.is_empty() {
            return Vec::new();
        }
        vec![
            line("all members", |members| members.iter().sum()),
            line("largest member", |members| members.iter().copied().max().unwrap_or(0)),
        ]
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let rows = self.rows();
        let columns = rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        if !self.loads.is_empty() {
            for row in &rows {
                let cells: Vec<String> =
                    row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
                let _ = writeln!(text, "{}", cells.join("   ").trim_end());
            }
        }
        for line in self.memory_lines() {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// For a README.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.loads.is_empty() {
            for (index, row) in self.rows().iter().enumerate() {
                let _ = writeln!(text, "| {} |", row.join(" | "));
                if index == 0 {
                    let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
                }
            }
            text.push('\n');
        }
        for line in self.memory_lines() {
            let _ = writeln!(text, "* {line}");
        }
        text
    }

    /// Every sample.
    pub fn json(&self) -> Value {
        let samples: Vec<Value> = self
            .samples
            .iter()
            .flat_map(|((load, system), samples)| {
                samples.iter().enumerate().map(move |(round, sample)| {
                    json!({
                        "load": load,
                        "system": system.name(),
                        "round": round + 1,
                        "requests_per_second": sample.per_second,
                        "p50_us": sample.p50_us,
                        "p99_us": sample.p99_us,
                        "server_cpu_us_per_request": sample.cpu_us,
                        "disk_bytes_per_request": sample.disk_bytes,
                        "errors": sample.errors,
                    })
                })
            })
            .collect();
        let memory: BTreeMap<&str, &Vec<Vec<u64>>> =
            self.memory.iter().map(|(system, rounds)| (system.name(), rounds)).collect();
        json!({ "samples": samples, "memory": { "puts": self.puts, "resident_bytes": memory } })
    }
}

/// Medians of both systems, and the median of the rounds' ratios: within a round, the machine was the same.
fn cell(etcd: &[f64], setstone: &[f64], write: fn(f64) -> String) -> String {
    let ratios: Vec<f64> =
        etcd.iter().zip(setstone).filter(|(etcd, _)| **etcd > 0.0).map(|(etcd, ours)| ours / etcd).collect();
    let ratio = median(&ratios).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let shown = |values: &[f64]| median(values).map_or("-".to_owned(), write);
    format!("{} → {} ({ratio})", shown(etcd), shown(setstone))
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some(f64::midpoint(*sorted.get(middle - 1)?, upper)) }
}
