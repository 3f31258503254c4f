//! The text of a transaction, as `etcdctl txn` reads it: compares, a blank line, operations for success, a blank line,
//! operations for failure. Pure.
//!
//! ```text
//! mod("color") > "0"
//! value("owner") = "me"
//!
//! put color "dark blue"
//! get --prefix /services/
//!
//! del color
//! ```
//!
//! Operations take the options of the commands `get`, `put` and `del`. Errors name the line.

use bytes::Bytes;
use clap::{Parser, Subcommand};

use super::text::Encoding;
use super::{del, get, put};
use crate::limits::TXN_OPERATIONS;
use crate::mvcc::command::{Compare, CompareResult, Operand, Txn, TxnOp};

/// Why a script is no transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ScriptError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Debug, Subcommand)]
enum Operation {
    Get(get::Arguments),
    Put(put::Arguments),
    Del(del::Arguments),
}

/// Reads a script. Lines that begin with `#` are skipped. Sections that are missing are empty; what follows a third one
/// is refused. Errors: see [`ScriptError`]; also more operations than a transaction may have.
pub fn parse(script: &str) -> Result<Txn, ScriptError> {
    let mut txn = Txn::default();
    let mut section = 0;
    for (index, text) in script.lines().enumerate() {
        let line = index + 1;
        let text = text.trim();
        let fail = |reason: String| ScriptError { line, reason };
        if text.starts_with('#') {
            continue;
        }
        if text.is_empty() {
            section += 1;
            continue;
        }
        let count = match section {
            0 => {
                txn.compares.push(compare(text).map_err(fail)?);
                txn.compares.len()
            }
            1 => {
                txn.success.push(operation(text).map_err(fail)?);
                txn.success.len()
            }
            2 => {
                txn.failure.push(operation(text).map_err(fail)?);
                txn.failure.len()
            }
            _ => {
                return Err(fail(
                    "a third blank line ended the script; there is nothing after the failure branch".into(),
                ));
            }
        };
        if count > TXN_OPERATIONS {
            return Err(fail(format!("more than {TXN_OPERATIONS} lines in this part")));
        }
    }
    Ok(txn)
}

/// `target("key") op "operand"`, with op one of `=`, `!=`, `<`, `>`.
fn compare(text: &str) -> Result<Compare, String> {
    const SHAPE: &str = "a compare looks like mod(\"key\") > \"0\"";
    let (target, rest) = text.split_once('(').ok_or(SHAPE)?;
    let (key, rest) = quoted(rest.trim_start())?;
    let rest = rest.trim_start().strip_prefix(')').ok_or(SHAPE)?.trim_start();
    let (result, rest) = [
        ("!=", CompareResult::NotEqual),
        ("=", CompareResult::Equal),
        (">", CompareResult::Greater),
        ("<", CompareResult::Less),
    ]
    .into_iter()
    .find_map(|(sign, result)| rest.strip_prefix(sign).map(|rest| (result, rest)))
    .ok_or_else(|| format!("{rest:?} does not begin with =, !=, < or >"))?;
    let (operand, rest) = quoted(rest.trim_start())?;
    if !rest.trim().is_empty() {
        return Err(format!("{:?} follows the compare", rest.trim()));
    }
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    let number = || {
        std::str::from_utf8(&operand)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("{:?} is no number", Encoding::Text.show(&operand)))
    };
    let operand = match target.trim() {
        "ver" | "version" => Operand::Version(number()?),
        "c" | "create" => Operand::Create(number()?),
        "m" | "mod" => Operand::Mod(number()?),
        "val" | "value" => Operand::Value(operand.clone().into()),
        "lease" => Operand::Lease(put::lease(&Encoding::Text.show(&operand))?),
        other => {
            return Err(format!("{other:?} cannot be compared; version, create, mod, value and lease can"));
        }
    };
    Ok(Compare { key: key.into(), range_end: Bytes::new(), result, operand })
}

fn operation(text: &str) -> Result<TxnOp, String> {
    let words = words(text)?;
    let line = Line::try_parse_from(words).map_err(|error| complaint(&error))?;
    let op = match line.operation {
        Operation::Get(arguments) => arguments.request().map(TxnOp::Range),
        Operation::Put(arguments) => {
            arguments.literal_value().and_then(|value| arguments.request(value)).map(TxnOp::Put)
        }
        Operation::Del(arguments) => arguments.request().map(TxnOp::DeleteRange),
    };
    op.map_err(|failure| failure.text)
}

/// What clap complains about, in one line and without its usage.
pub(super) fn complaint(error: &clap::Error) -> String {
    let text = error.to_string();
    let first: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = first.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// A text in double quotes at the beginning of `text`, and what follows it.
fn quoted(text: &str) -> Result<(Vec<u8>, &str), String> {
    let Some(inside) = text.strip_prefix('"') else {
        return Err(format!("{text:?} does not begin with a double quote"));
    };
    unquote(inside)
}

/// Reads up to the closing double quote, with Go's escapes: `\n \t \r \\ \" \xNN`.
fn unquote(inside: &str) -> Result<(Vec<u8>, &str), String> {
    let mut value = Vec::new();
    let mut rest = inside.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => return Ok((value, rest.as_str())),
            '\\' => match rest.next() {
                Some('n') => value.push(b'\n'),
                Some('t') => value.push(b'\t'),
                Some('r') => value.push(b'\r'),
                Some(same @ ('\\' | '"')) => value.push(same as u8),
                Some('x') => {
                    let digits: String = rest.by_ref().take(2).collect();
                    let byte =
                        u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits} is no byte"))?;
                    value.push(byte);
                }
                other => {
                    return Err(format!("\\{} is no escape", other.map(String::from).unwrap_or_default()));
                }
            },
            c => {
                let mut buffer = [0; 4];
                value.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
        }
    }
    Err("a double quote is not closed".into())
}

/// Splits a line as a shell does: blanks separate, double quotes (with escapes) and single quotes (without) join.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let mut word = Vec::new();
        while let Some(c) = rest.chars().next().filter(|c| !c.is_whitespace()) {
            let after = rest.get(c.len_utf8()..).unwrap_or_default();
            match c {
                '"' => {
                    let (part, left) = unquote(after)?;
                    word.extend(part);
                    rest = left;
                }
                '\'' => {
                    let (part, left) = after.split_once('\'').ok_or("a single quote is not closed")?;
                    word.extend_from_slice(part.as_bytes());
                    rest = left;
                }
                c => {
                    let mut buffer = [0; 4];
                    word.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                    rest = after;
                }
            }
        }
        words.push(String::from_utf8(word).map_err(|_| "a word is not UTF-8; use --hex for bytes")?);
        rest = rest.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::mvcc::command::{DeleteRange, Put, Range};

    #[test]
    fn the_example_of_etcdctl() {
        let script = "mod(\"key1\") > \"0\"\n\nput key1 \"overwrote-key1\"\n\nput key1 \"created-key1\"\nput key2 'some extra key'\n";
        let txn = parse(script).unwrap();
        assert_eq!(
            txn.compares,
            [Compare {
                key: "key1".into(),
                range_end: Bytes::new(),
                result: CompareResult::Greater,
                operand: Operand::Mod(0),
            }]
        );
        let put = |key: &'static str, value: &'static str| {
            TxnOp::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
        };
        assert_eq!(txn.success, [put("key1", "overwrote-key1")]);
        assert_eq!(txn.failure, [put("key1", "created-key1"), put("key2", "some extra key")]);
    }

    #[test]
    fn every_target_and_sign() {
        let script = "ver(\"a\")=\"1\"\nversion(\"a\") != \"1\"\nc( \"a\" ) < \"-1\"\ncreate(\"a\") > \"1\"\nm(\"a\") = \"1\"\nval(\"a\") = \"\"\nvalue(\"a\\x00\") = \"b \\\"c\\\"\\n\"\nlease(\"a\") = \"ff\"\n";
        let txn = parse(script).unwrap();
        let operands: Vec<_> = txn.compares.iter().map(|compare| compare.operand.clone()).collect();
        assert_eq!(
            operands,
            [
                Operand::Version(1),
                Operand::Version(1),
                Operand::Create(-1),
                Operand::Create(1),
                Operand::Mod(1),
                Operand::Value(Bytes::new()),
                Operand::Value("b \"c\"\n".into()),
                Operand::Lease(255),
            ]
        );
        assert_eq!(txn.compares[6].key, "a\0");
        assert_eq!(txn.compares[1].result, CompareResult::NotEqual);
    }

    #[test]
    fn operations_take_the_options_of_the_commands() {
        let txn = parse("\nget --prefix a --limit 3\ndel a c --prev-kv\nput --hex 00 ff\nput a -\n").unwrap();
        assert_eq!(
            txn.success,
            [
                TxnOp::Range(Range { key: "a".into(), range_end: "b".into(), limit: 3, ..Range::default() }),
                TxnOp::DeleteRange(DeleteRange { key: "a".into(), range_end: "c".into(), prev_kv: true }),
                TxnOp::Put(Put { key: "\0".into(), value: Bytes::from_static(b"\xff"), ..Put::default() }),
                TxnOp::Put(Put { key: "a".into(), value: "-".into(), ..Put::default() }),
            ]
        );
        assert!(txn.failure.is_empty());
    }

    #[test]
    fn an_empty_script_is_an_empty_transaction() {
        assert_eq!(parse("").unwrap(), Txn::default());
        assert_eq!(parse("# nothing\n\n\n\n").unwrap(), Txn::default());
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        for (script, expected) in [
            ("mod(\"a\") > \"x\"", "line 1: \"x\" is no number"),
            ("mod(a) > \"1\"", "line 1: \"a) > \\\"1\\\"\" does not begin with a double quote"),
            (
                "size(\"a\") > \"1\"",
                "line 1: \"size\" cannot be compared; version, create, mod, value and lease can",
            ),
            ("mod(\"a\") ~ \"1\"", "line 1: \"~ \\\"1\\\"\" does not begin with =, !=, < or >"),
            ("mod(\"a\") > \"1\" x", "line 1: \"x\" follows the compare"),
            ("mod(\"\") > \"1\"", "line 1: the key is empty"),
            ("mod(\"a", "line 1: a double quote is not closed"),
            ("\nput a 'b", "line 2: a single quote is not closed"),
            ("\nput a \"\\q\"", "line 2: \\q is no escape"),
            ("\nput a \"\\xff\"", "line 2: a word is not UTF-8; use --hex for bytes"),
            ("\nmove a b", "line 2: unrecognized subcommand 'move'"),
            ("\nput a", "line 2: the following required arguments were not provided: <VALUE>"),
            ("\nget ''", "line 2: the key is empty; only with --prefix or --from-key may it be"),
            (
                "\n\n\nput a b",
                "line 4: a third blank line ended the script; there is nothing after the failure branch",
            ),
        ] {
            assert_eq!(parse(script).unwrap_err().to_string(), expected, "{script:?}");
        }
        let many = "mod(\"a\") > \"1\"\n".repeat(TXN_OPERATIONS + 1);
        assert_eq!(parse(&many).unwrap_err().line, TXN_OPERATIONS + 1);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = parse(&text);
            let _ = parse(&format!("\n{text}"));
        }

        #[test]
        fn any_words_come_back_from_quotes(parts in proptest::collection::vec("[^']{0,8}", 0..5)) {
            let line: Vec<String> = parts.iter().map(|part| format!("'{part}'")).collect();
            proptest::prop_assert_eq!(words(&line.join(" ")).unwrap(), parts);
        }
    }
}
