//! What was measured, for people and as JSON.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::options::{Operation, Plan};
use super::worker::Measured;
use crate::cli::exit::Failure;

/// The result of a load.
#[derive(Debug)]
pub(super) struct Report<'a> {
    plan: &'a Plan,
    endpoints: usize,
    measured: &'a Measured,
}

/// Percentiles that are reported, with their names in JSON.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];

impl<'a> Report<'a> {
    /// The report of a load.
    pub fn new(plan: &'a Plan, endpoints: usize, measured: &'a Measured) -> Self {
        Self { plan, endpoints, measured }
    }

    /// Requests per second that succeeded.
    fn throughput(&self) -> f64 {
        let seconds = self.measured.seconds();
        if seconds > 0.0 { self.measured.done as f64 / seconds } else { 0.0 }
    }

    /// Prints it for people.
    pub fn print(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let Self { plan, measured, .. } = self;
        writeln!(
            out,
            "{}, {} clients, {} keys of {} bytes, values of {} bytes",
            plan.operation.name(),
            plan.clients,
            plan.key_space,
            plan.key_size,
            plan.value_size
        )?;
        writeln!(
            out,
            "{:.0} requests/s ({} in {:.2} s), {} errors",
            self.throughput(),
            measured.done,
            measured.seconds(),
            measured.errors.total()
        )?;
        let mut parts = vec![format!("mean {}", time(measured.latency_us.mean()))];
        for (name, percentile) in PERCENTILES {
            parts
                .push(format!("{name} {}", time(measured.latency_us.value_at_percentile(percentile) as f64)));
        }
        writeln!(out, "latency: {}", parts.join(", "))?;
        if measured.empty > 0 {
            writeln!(out, "{} reads found nothing; --prefill writes every key first", measured.empty)?;
        }
        for (text, count) in measured.errors.iter() {
            writeln!(out, "{count} × {text}")?;
        }
        Ok(())
    }

    /// The report for programs. Latencies are in microseconds.
    pub fn json(&self) -> Value {
        let Self { plan, measured, .. } = self;
        let mut latency = Map::new();
        latency.insert("mean".into(), json!(measured.latency_us.mean()));
        latency.insert("min".into(), json!(measured.latency_us.min()));
        for (name, percentile) in PERCENTILES {
            latency.insert(name.into(), json!(measured.latency_us.value_at_percentile(percentile)));
        }
        let errors: Map<String, Value> =
            measured.errors.iter().map(|(text, count)| (text.to_owned(), json!(count))).collect();
        let mut document = json!({
            "operation": plan.operation.name(),
            "endpoints": self.endpoints,
            "clients": plan.clients,
            "connections": plan.connections,
            "threads": plan.threads,
            "key_space": plan.key_space,
            "key_size": plan.key_size,
            "value_size": plan.value_size,
            "rate": plan.rate,
            "seed": plan.seed,
            "seconds": measured.seconds(),
            "requests": measured.done,
            "requests_per_second": self.throughput(),
            "empty_reads": measured.empty,
            "errors": measured.errors.total(),
            "error_texts": errors,
            "latency_us": latency,
        });
        if let (Operation::Mixed { reads, .. }, Some(object)) = (plan.operation, document.as_object_mut()) {
            object.insert("reads_percent".into(), json!(reads));
        }
        document
    }
}

/// Microseconds with a unit that suits them.
fn time(us: f64) -> String {
    if us < 1_000.0 {
        format!("{us:.0} µs")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}
