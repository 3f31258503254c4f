//! What is put on the clusters, by `setstone bench`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::Failure;
use crate::cluster::Cluster;
use crate::sample_of;

/// Bytes of values.
const VALUE_BYTES: &str = "256";
const KEY_SPACE: &str = "10000";
/// Time for caches and connections to warm up before each measurement.
const WARMUP: Duration = Duration::from_secs(1);

/// One load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// As it is called in the table.
    pub name: &'static str,
    operation: &'static [&'static str],
    clients: u32,
    prefill: bool,
}

/// All of them. One client asks the leader; many are spread over the members.
pub const LOADS: [Load; 7] = [
    Load { name: "put, 1 client", operation: &["put"], clients: 1, prefill: false },
    Load { name: "put, 128 clients", operation: &["put"], clients: 128, prefill: false },
    Load { name: "put, 512 clients", operation: &["put"], clients: 512, prefill: false },
    Load { name: "linearizable get, 128 clients", operation: &["get"], clients: 128, prefill: true },
    Load {
        name: "serializable get, 128 clients",
        operation: &["get", "--serializable"],
        clients: 128,
        prefill: true,
    },
    Load { name: "txn (compare, put), 128 clients", operation: &["txn"], clients: 128, prefill: false },
    Load { name: "lease keep-alive, 128 clients", operation: &["keep-alive"], clients: 128, prefill: false },
];

/// What one run measured.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// CPU time of all members, per request.
    pub cpu_us: f64,
    /// Bytes that all members wrote to disk, per request.
    pub disk_bytes: f64,
    pub errors: f64,
}

impl Load {
    /// Puts the load on a cluster for `length`, and measures it.
    pub fn run(&self, cluster: &Cluster, client: &Path, length: Duration) -> Result<Sample, Failure> {
        let endpoints = if self.clients == 1 { cluster.leader()? } else { cluster.endpoints() };
        let clients = self.clients.to_string();
        let time = |time: Duration| format!("{}ms", time.as_millis());
        let with = |more: &[&str]| {
            bench(client, &endpoints, &[self.operation, &["--clients", &clients], more].concat())
        };
        let warmup = time(WARMUP.min(length));
        if self.prefill {
            with(&["--duration", &warmup, "--prefill"])?;
        } else {
            with(&["--duration", &warmup])?;
        }
        let before = cluster.cost()?;
        let report = with(&["--duration", &time(length)])?;
        let cost = cluster.cost()?.since(before);
        sample_of(&report, cost)
    }
}

/// Writes `puts` different keys.
pub fn fill(cluster: &Cluster, client: &Path, puts: u32) -> Result<(), Failure> {
    let puts = puts.to_string();
    let report = bench(
        client,
        &cluster.endpoints(),
        &["put", "--sequential", "--clients", "128", "--total", &puts, "--key-space", &puts],
    )?;
    match report.pointer("/errors").and_then(Value::as_u64) {
        Some(0) => Ok(()),
        _ => Err(format!("not all puts succeeded: {report}").into()),
    }
}

fn bench(client: &Path, endpoints: &str, arguments: &[&str]) -> Result<Value, Failure> {
    let key_space: &[&str] =
        if arguments.contains(&"--key-space") { &[] } else { &["--key-space", KEY_SPACE] };
    let output = Command::new(client)
        .arg("bench")
        .args(arguments)
        .args(key_space)
        .args(["--value-size", VALUE_BYTES, "--json", "--endpoints", endpoints])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("setstone bench {arguments:?} ended with {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
