//! What commands print: aligned columns for people, one JSON document for programs.
//!
//! Ids are hexadecimal strings in JSON, because most readers of JSON round numbers of 64 bits.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use super::exit::Failure;
use super::text::Encoding;
use crate::client::{Answer, Header, KeyValue};

/// Columns without lines, as `kubectl` prints them. Nothing is cut or wrapped, so that it can be piped.
pub fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

/// Right-aligns the columns of these places.
pub fn right_align(table: &mut Table, columns: &[usize]) {
    for place in columns {
        if let Some(column) = table.column_mut(*place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Prints a table, without blanks at the ends of lines.
pub fn print_table(out: &mut dyn Write, table: &Table) -> io::Result<()> {
    for line in table.to_string().lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints one JSON document and a newline.
pub fn print_json(out: &mut dyn Write, value: &Value) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Prints one document under the answer's header, or one text.
pub fn print_answer<T>(
    out: &mut dyn Write,
    as_json: bool,
    answer: &Answer<T>,
    mut document: Value,
    text: &str,
) -> Result<(), Failure> {
    if !as_json {
        // Of an empty list there is nothing to say.
        return if text.is_empty() { Ok(()) } else { Ok(writeln!(out, "{text}")?) };
    }
    if let Some(object) = document.as_object_mut() {
        object.insert("header".into(), header_json(&answer.header));
    }
    print_json(out, &document)
}

/// An answer's header.
pub fn header_json(header: &Header) -> Value {
    json!({
        "cluster_id": id(header.cluster.0),
        "member_id": id(header.member.0),
        "revision": header.revision,
        "raft_term": header.term,
    })
}

/// An id as [`id`] prints it.
///
/// # Errors
/// What is wrong with it.
pub fn parse_id(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|error| error.to_string())
}

/// An id as etcd's tools print it.
pub fn id(id: u64) -> String {
    format!("{id:x}")
}

/// A table of pairs.
pub fn pairs_table(kvs: &[KeyValue], encoding: Encoding, with_values: bool) -> Table {
    let mut table = table(if with_values {
        &["KEY", "VALUE", "VERSION", "CREATED", "MODIFIED", "LEASE"]
    } else {
        &["KEY", "VERSION", "CREATED", "MODIFIED", "LEASE"]
    });
    for kv in kvs {
        let mut row = vec![encoding.show(&kv.key)];
        if with_values {
            row.push(encoding.show(&kv.value));
        }
        row.extend([kv.version.to_string(), kv.create_revision.to_string(), kv.mod_revision.to_string()]);
        row.push(if kv.lease == 0 { "-".into() } else { id(kv.lease as u64) });
        table.add_row(row);
    }
    let first = if with_values { 2 } else { 1 };
    right_align(&mut table, &[first, first + 1, first + 2]);
    table
}

/// A pair. `value` is left out if it was not asked for.
pub fn pair_json(kv: &KeyValue, encoding: Encoding, with_value: bool) -> Value {
    let mut object = Map::new();
    encoding.put_json(&mut object, "key", &kv.key);
    if with_value {
        encoding.put_json(&mut object, "value", &kv.value);
    }
    object.insert("version".into(), kv.version.into());
    object.insert("create_revision".into(), kv.create_revision.into());
    object.insert("mod_revision".into(), kv.mod_revision.into());
    object.insert("lease".into(), id(kv.lease as u64).into());
    Value::Object(object)
}

/// "1 key", "2 keys".
pub fn counted(count: i64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Bytes with a binary unit.
pub fn bytes(bytes: i64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
