//! `setstone txn`: compares, then one of two lists of operations, atomically.

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, counted, header_json, pair_json};
use super::text::Encoding;
use super::{del, get, txn_script};
use crate::client::{Answer, Client};
use crate::limits::RECEIVED_MESSAGE_BYTES;
use crate::mvcc::command::{Outcome, TxnResult};

/// Runs a transaction that is read from standard input, as etcdctl's text
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The text has three parts, separated by blank lines: compares, operations if all of them hold,
operations otherwise. Compares are of version, create, mod, value and lease, with =, !=, < and >.
Operations are get, put and del, with their options.

Example:
  setstone txn <<'END'
  mod(\"color\") > \"0\"

  put color blue

  put color green
  get --prefix /services/
  END

Exits with 0 whichever list ran.")]
pub(super) struct Arguments {
    /// File to read instead of standard input
    pub file: Option<PathBuf>,
    /// Print keys and values as hexadecimal digits
    #[arg(long)]
    pub hex: bool,
}

pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let script = match &arguments.file {
        None => read(&mut std::io::stdin().lock())?,
        Some(path) => {
            let fail = |error| Failure::usage(format!("{}: {error}", path.display()));
            read(&mut std::fs::File::open(path).map_err(fail)?)?
        }
    };
    let txn = txn_script::parse(&script).map_err(|error| Failure::usage(error.to_string()))?;
    let answer = global.client()?.txn(txn).await?;
    print(&answer, Encoding::from_flag(arguments.hex), global.json, out)?;
    Ok(Exit::Ok)
}

fn read(input: &mut dyn Read) -> Result<String, Failure> {
    let mut script = String::new();
    input.take(RECEIVED_MESSAGE_BYTES as u64 + 1).read_to_string(&mut script)?;
    if script.len() > RECEIVED_MESSAGE_BYTES {
        return Err(Failure::usage("the script is larger than a request may be"));
    }
    Ok(script)
}

pub(super) fn print(
    answer: &Answer<TxnResult>,
    encoding: Encoding,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let result = &answer.value;
    if as_json {
        let mut document = txn_json(result, encoding);
        if let Some(object) = document.as_object_mut() {
            object.insert("header".into(), header_json(&answer.header));
        }
        return output::print_json(out, &document);
    }
    let ran = if result.succeeded { "the compares hold" } else { "a compare does not hold" };
    let operations = counted(i64::try_from(result.outcomes.len()).unwrap_or(i64::MAX), "operation");
    writeln!(out, "{ran}; {operations} ran, revision {}", answer.header.revision)?;
    print_outcomes(result, encoding, "", out)
}

fn print_outcomes(
    result: &TxnResult,
    encoding: Encoding,
    prefix: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    for (index, outcome) in result.outcomes.iter().enumerate() {
        let number = format!("{prefix}{}", index + 1);
        match outcome {
            Outcome::Range(range) => {
                writeln!(out, "{number}. get: {}", get::extent(range))?;
                let with_values = range.kvs.iter().any(|kv| !kv.value.is_empty());
                get::print_range(range, encoding, with_values, out)?;
            }
            Outcome::Put(previous) => {
                writeln!(out, "{number}. put: written")?;
                if let Some(kv) = previous {
                    output::print_table(out, &output::pairs_table(std::slice::from_ref(kv), encoding, true))?;
                }
            }
            Outcome::DeleteRange(deleted) => {
                writeln!(out, "{number}. del: {} deleted", counted(deleted.deleted, "key"))?;
                del::print_deleted(deleted, encoding, out)?;
            }
            Outcome::Txn(inner) => {
                writeln!(out, "{number}. txn: {}", if inner.succeeded { "success" } else { "failure" })?;
                print_outcomes(inner, encoding, &format!("{number}."), out)?;
            }
            // Not of operations that a transaction can have.
            _ => {}
        }
    }
    Ok(())
}

fn txn_json(result: &TxnResult, encoding: Encoding) -> Value {
    let responses: Vec<Value> = result
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Range(range) => json!({ "get": get::range_json(range, encoding, true) }),
            Outcome::Put(None) => json!({ "put": {} }),
            Outcome::Put(Some(kv)) => json!({ "put": { "prev_kv": pair_json(kv, encoding, true) } }),
            Outcome::DeleteRange(deleted) => json!({ "del": del::deleted_json(deleted, encoding) }),
            Outcome::Txn(inner) => json!({ "txn": txn_json(inner, encoding) }),
            _ => json!({}),
        })
        .collect();
    json!({ "succeeded": result.succeeded, "responses": responses })
}
