//! Keys and values as people write and read them: text, or hexadecimal digits with `--hex`.

use bytes::Bytes;
use serde_json::{Map, Value};
use std::fmt::Write as _;

use super::exit::Failure;

/// How keys and values are written in arguments and output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As text. In tables, bytes that are no printable text are escaped as `\xNN`.
    #[default]
    Text,
    /// As hexadecimal digits.
    Hex,
}

impl Encoding {
    /// The encoding that `--hex` asks for.
    pub fn from_flag(hex: bool) -> Self {
        if hex { Self::Hex } else { Self::Text }
    }

    /// Reads an argument. Errors: `--hex` and something else than pairs of hexadecimal digits.
    pub fn decode(self, argument: &str) -> Result<Bytes, Failure> {
        match self {
            Self::Text => Ok(Bytes::copy_from_slice(argument.as_bytes())),
            Self::Hex => from_hex(argument).map(Bytes::from).ok_or_else(|| {
                Failure::usage(format!("{argument:?} is not made of pairs of hexadecimal digits"))
            }),
        }
    }

    /// For a cell of a table.
    pub fn show(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => to_hex(bytes),
            Self::Text => printable(bytes),
        }
    }

    /// Adds `name` to a JSON object: as text, or as `name_hex` if it is not UTF-8 or `--hex` asks for it.
    pub fn put_json(self, object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Text, Ok(text)) => object.insert(name.to_owned(), Value::from(text)),
            _ => object.insert(format!("{name}_hex"), Value::from(to_hex(bytes))),
        };
    }
}

/// Hexadecimal digits of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of pairs of hexadecimal digits.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |c: u8| (c as char).to_digit(16);
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(nibble(*high)? * 16 + nibble(*low)?).ok(),
            _ => None,
        })
        .collect()
}

/// Text without what would move the cursor or break a table.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if c.is_ascii_control() => {
                    let _ = write!(text, "\\x{:02x}", c as u32);
                }
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hex_there_and_back() {
        for bytes in [&b""[..], b"\x00", b"\xff\x00\x7f", b"abc"] {
            assert_eq!(from_hex(&to_hex(bytes)).unwrap(), bytes);
        }
        assert_eq!(from_hex("0AfF").unwrap(), b"\x0a\xff");
        for text in ["0", "0g", "é", "0x00", " 00"] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn tables_get_no_control_characters() {
        assert_eq!(Encoding::Text.show(b"a\nb\x1b[0m\xff\xc3\xa4"), "a\\nb\\x1b[0m\\xff\u{e4}");
        assert_eq!(Encoding::Hex.show(b"a\xff"), "61ff");
    }

    #[test]
    fn json_keeps_every_byte() {
        let mut object = Map::new();
        Encoding::Text.put_json(&mut object, "key", b"a\n");
        Encoding::Text.put_json(&mut object, "value", b"\xff");
        Encoding::Hex.put_json(&mut object, "other", b"a");
        assert_eq!(Value::from(object).to_string(), r#"{"key":"a\n","other_hex":"61","value_hex":"ff"}"#);
    }
}
