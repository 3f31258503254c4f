//! `setstone get`: reads keys.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Global;
use super::exit::{Exit, Failure};
use super::keys::Keys;
use super::output::{self, counted, header_json, pair_json};
use super::text::Encoding;
use crate::client::{Answer, Client, Consistency};
use crate::mvcc::command::{Range, RangeResult, SortOrder, SortTarget};

/// Reads a key, a range of keys or all keys with a prefix
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setstone get color
  setstone get --prefix /services/ --limit 10
  setstone get --prefix '' --keys-only          every key
  setstone get a m                              keys from a up to, not including, m
  setstone get color --rev 12 --json
  setstone get config --value-only > config.yaml

Exits with 3 if there is no such key.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub keys: Keys,
    /// Most keys to return; 0: all
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub limit: i64,
    /// Read at this revision; 0: the newest
    #[arg(long, value_name = "REVISION", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub rev: i64,
    /// What to sort by
    #[arg(long, value_enum, default_value_t = SortBy::Key)]
    pub sort_by: SortBy,
    /// In which order
    #[arg(long, value_enum, default_value_t = Order::Ascend)]
    pub order: Order,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// Return how many there are
    #[arg(long, conflicts_with_all = ["keys_only", "value_only"])]
    pub count_only: bool,
    /// Print nothing but the values, as they are, each followed by a newline
    #[arg(long, conflicts_with = "keys_only")]
    pub value_only: bool,
    /// Ask one member for what it has, without a quorum; the answer may be old
    #[arg(long)]
    pub serializable: bool,
    /// Keys and values are hexadecimal digits
    #[arg(long)]
    pub hex: bool,
}

/// What to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SortBy {
    /// The key
    Key,
    /// The number of writes since it was created
    Version,
    /// The revision that created it
    Create,
    /// The revision that last changed it
    Modify,
    /// The value
    Value,
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    /// Lowest first
    Ascend,
    /// Highest first
    Descend,
}

impl Arguments {
    /// The request that these arguments mean.
    pub fn request(&self) -> Result<Range, Failure> {
        let encoding = Encoding::from_flag(self.hex);
        let (key, range_end) = self.keys.span(encoding)?;
        let sort_order = match (self.sort_by, self.order) {
            (SortBy::Key, Order::Ascend) => SortOrder::None,
            (_, Order::Ascend) => SortOrder::Ascend,
            (_, Order::Descend) => SortOrder::Descend,
        };
        let sort_target = match self.sort_by {
            SortBy::Key => SortTarget::Key,
            SortBy::Version => SortTarget::Version,
            SortBy::Create => SortTarget::Create,
            SortBy::Modify => SortTarget::Mod,
            SortBy::Value => SortTarget::Value,
        };
        Ok(Range {
            key,
            range_end,
            limit: self.limit,
            revision: self.rev,
            sort_order,
            sort_target,
            keys_only: self.keys_only,
            count_only: self.count_only,
            ..Range::default()
        })
    }
}

pub(super) async fn run(arguments: Arguments, global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    if arguments.value_only && global.json {
        return Err(Failure::usage("--value-only and --json exclude each other"));
    }
    let consistency =
        if arguments.serializable { Consistency::Serializable } else { Consistency::Linearizable };
    let answer = global.client()?.get(arguments.request()?, consistency).await?;
    print(&answer, &arguments, global.json, out)?;
    Ok(if answer.value.count == 0 && !arguments.count_only { Exit::NotFound } else { Exit::Ok })
}

pub(super) fn print(
    answer: &Answer<RangeResult>,
    arguments: &Arguments,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let encoding = Encoding::from_flag(arguments.hex);
    let result = &answer.value;
    if as_json {
        let mut document = range_json(result, encoding, !arguments.keys_only);
        if let Some(object) = document.as_object_mut() {
            object.insert("header".into(), header_json(&answer.header));
        }
        return output::print_json(out, &document);
    }
    if arguments.value_only {
        for kv in &result.kvs {
            match encoding {
                Encoding::Text => out.write_all(&kv.value)?,
                Encoding::Hex => out.write_all(encoding.show(&kv.value).as_bytes())?,
            }
            out.write_all(b"\n")?;
        }
        return Ok(());
    }
    if arguments.count_only {
        writeln!(out, "{}", result.count)?;
        return Ok(());
    }
    print_range(result, encoding, !arguments.keys_only, out)?;
    writeln!(out, "{}, revision {}", extent(result), answer.header.revision)?;
    Ok(())
}

/// Table of what a range found; nothing if it found nothing.
pub(super) fn print_range(
    result: &RangeResult,
    encoding: Encoding,
    with_values: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if !result.kvs.is_empty() {
        output::print_table(out, &output::pairs_table(&result.kvs, encoding, with_values))?;
    }
    Ok(())
}

/// How much of what there is was returned.
pub(super) fn extent(result: &RangeResult) -> String {
    let returned = i64::try_from(result.kvs.len()).unwrap_or(i64::MAX);
    if returned < result.count {
        format!("{returned} of {}", counted(result.count, "key"))
    } else {
        counted(result.count, "key")
    }
}

/// What a range found, without header.
pub(super) fn range_json(result: &RangeResult, encoding: Encoding, with_values: bool) -> serde_json::Value {
    let kvs: Vec<_> = result.kvs.iter().map(|kv| pair_json(kv, encoding, with_values)).collect();
    json!({ "kvs": kvs, "more": result.more, "count": result.count })
}
