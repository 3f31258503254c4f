//! `setstone put`: writes a key.

use std::io::{Read, Write};

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::output::{self, header_json, pair_json};
use super::text::{Encoding, from_hex};
use crate::client::{Answer, Client, KeyValue};
use crate::limits::REQUEST_BYTES;
use crate::mvcc::command::Put;

/// Writes a key
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone put color blue
  setstone put config - < config.yaml           the value from standard input
  setstone put --prev-kv color green            also prints what it was
  setstone put --hex 00ff cafe
  setstone put -- offset -5                     a value that begins with a dash

Exits with 4 if the write was sent and not answered: it may have happened.")]
pub(super) struct Arguments {
    /// The key
    pub key: String,
    /// The value; `-` reads it from standard input
    #[arg(required_unless_present = "ignore_value", conflicts_with = "ignore_value")]
    pub value: Option<String>,
    /// Print the pair as it was before
    #[arg(long)]
    pub prev_kv: bool,
    /// Lease to hang the key on, as hexadecimal digits
    #[arg(long, value_name = "ID", value_parser = lease, default_value = "0")]
    pub lease: i64,
    /// Keep the value that the key has
    #[arg(long)]
    pub ignore_value: bool,
    /// Keep the lease that the key has
    #[arg(long, conflicts_with = "lease")]
    pub ignore_lease: bool,
    /// Keys and values are hexadecimal digits
    #[arg(long)]
    pub hex: bool,
}

/// Reads a lease's id.
pub(super) fn lease(text: &str) -> Result<i64, String> {
    u64::from_str_radix(text, 16)
        .map(|id| id as i64)
        .map_err(|_| format!("{text:?} is no lease; up to 16 hexadecimal digits are"))
}

impl Arguments {
    /// The request that these arguments mean, with `value` as its value.
    pub fn request(&self, value: Bytes) -> Result<Put, Failure> {
        let key = Encoding::from_flag(self.hex).decode(&self.key)?;
        if key.is_empty() {
            return Err(Failure::usage("the key is empty"));
        }
        Ok(Put {
            key,
            value,
            lease: self.lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }

    /// The value as the argument gives it.
    pub fn literal_value(&self) -> Result<Bytes, Failure> {
        Encoding::from_flag(self.hex).decode(self.value.as_deref().unwrap_or_default())
    }

    fn value(&self, input: &mut dyn Read) -> Result<Bytes, Failure> {
        if self.value.as_deref() != Some("-") {
            return self.literal_value();
        }
        let most = if self.hex { 2 * REQUEST_BYTES + 2 } else { REQUEST_BYTES };
        let mut value = Vec::new();
        input.take(most as u64 + 1).read_to_end(&mut value)?;
        if value.len() > most {
            return Err(Failure::usage(format!(
                "the value is larger than a request may be, {REQUEST_BYTES} bytes"
            )));
        }
        if !self.hex {
            return Ok(value.into());
        }
        std::str::from_utf8(value.trim_ascii())
            .ok()
            .and_then(from_hex)
            .map(Bytes::from)
            .ok_or_else(|| Failure::usage("standard input is not made of pairs of hexadecimal digits"))
    }
}

pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let value = arguments.value(&mut std::io::stdin().lock())?;
    let answer = global.client()?.put(arguments.request(value)?).await?;
    print(&answer, &arguments, global.json, out)?;
    Ok(Exit::Ok)
}

pub(super) fn print(
    answer: &Answer<Option<KeyValue>>,
    arguments: &Arguments,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let encoding = Encoding::from_flag(arguments.hex);
    if as_json {
        let mut document = json!({ "header": header_json(&answer.header) });
        if let (Some(kv), Some(object)) = (&answer.value, document.as_object_mut()) {
            object.insert("prev_kv".into(), pair_json(kv, encoding, true));
        }
        return output::print_json(out, &document);
    }
    writeln!(out, "written at revision {}", answer.header.revision)?;
    if let Some(kv) = &answer.value {
        writeln!(out, "before:")?;
        output::print_table(out, &output::pairs_table(std::slice::from_ref(kv), encoding, true))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with_value(value: &str, hex: bool) -> Arguments {
        Arguments {
            key: "k".into(),
            value: Some(value.into()),
            prev_kv: false,
            lease: 0,
            ignore_value: false,
            ignore_lease: false,
            hex,
        }
    }

    #[test]
    fn a_dash_reads_standard_input_as_it_is() {
        let mut input: &[u8] = b"two\nlines\n\xff";
        assert_eq!(with_value("-", false).value(&mut input).unwrap(), &b"two\nlines\n\xff"[..]);
        let mut input: &[u8] = b"61FF\n";
        assert_eq!(with_value("-", true).value(&mut input).unwrap(), &b"a\xff"[..]);
        let mut input: &[u8] = b"unused";
        assert_eq!(with_value("x", false).value(&mut input).unwrap(), "x");
        assert_eq!(input.len(), 6);
    }

    #[test]
    fn too_much_input_is_refused_and_not_read_to_its_end() {
        let mut endless = std::io::repeat(b'a');
        let failure = with_value("-", false).value(&mut endless).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let just_fits = vec![b'a'; REQUEST_BYTES];
        assert_eq!(with_value("-", false).value(&mut just_fits.as_slice()).unwrap().len(), REQUEST_BYTES);
    }

    #[test]
    fn leases_are_hexadecimal_as_etcdctl_prints_them() {
        assert_eq!(lease("694d77aa9e38260f"), Ok(0x694d_77aa_9e38_260f));
        assert_eq!(lease("ffffffffffffffff"), Ok(-1));
        assert!(lease("x").is_err());
        assert!(lease("10000000000000000").is_err());
    }
}
