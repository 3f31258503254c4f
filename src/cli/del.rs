//! `setstone del`: deletes keys.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::keys::Keys;
use super::output::{self, counted, header_json, pair_json};
use super::text::Encoding;
use crate::client::{Answer, Client};
use crate::mvcc::command::{DeleteRange, Deleted};

/// Deletes a key, a range of keys or all keys with a prefix
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone del color
  setstone del --prefix /services/ --prev-kv    also prints what was deleted
  setstone del a m                              keys from a up to, not including, m

Exits with 0 even if there was nothing to delete.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub keys: Keys,
    /// Print the pairs as they were before
    #[arg(long)]
    pub prev_kv: bool,
    /// Keys and values are hexadecimal digits
    #[arg(long)]
    pub hex: bool,
}

impl Arguments {
    /// The request that these arguments mean.
    pub fn request(&self) -> Result<DeleteRange, Failure> {
        let encoding = Encoding::from_flag(self.hex);
        let (key, range_end) = self.keys.span(encoding)?;
        Ok(DeleteRange { key, range_end, prev_kv: self.prev_kv })
    }
}

pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let answer = global.client()?.delete(arguments.request()?).await?;
    print(&answer, Encoding::from_flag(arguments.hex), global.json, out)?;
    Ok(Exit::Ok)
}

pub(super) fn print(
    answer: &Answer<Deleted>,
    encoding: Encoding,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if as_json {
        let mut document = deleted_json(&answer.value, encoding);
        if let Some(object) = document.as_object_mut() {
            object.insert("header".into(), header_json(&answer.header));
        }
        return output::print_json(out, &document);
    }
    print_deleted(&answer.value, encoding, out)?;
    writeln!(out, "{} deleted, revision {}", counted(answer.value.deleted, "key"), answer.header.revision)?;
    Ok(())
}

/// Table of what was deleted, if it was asked for.
pub(super) fn print_deleted(
    deleted: &Deleted,
    encoding: Encoding,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if !deleted.previous.is_empty() {
        output::print_table(out, &output::pairs_table(&deleted.previous, encoding, true))?;
    }
    Ok(())
}

/// What a delete did, without header.
pub(super) fn deleted_json(deleted: &Deleted, encoding: Encoding) -> serde_json::Value {
    let previous: Vec<_> = deleted.previous.iter().map(|kv| pair_json(kv, encoding, true)).collect();
    json!({ "deleted": deleted.deleted, "prev_kvs": previous })
}
