//! Messages that nobody would send: made of the descriptors alone, with extreme values, and then broken.
// Two test binaries have it, of which one needs all.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

/// `SplitMix64`: the same numbers everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn integer(&mut self) -> i64 {
        let any = self.next() as i64;
        self.one_of(&[
            0,
            1,
            -1,
            2,
            7,
            i64::MAX,
            i64::MIN,
            i64::from(i32::MAX),
            i64::from(i32::MIN),
            any,
            any >> 40,
        ])
    }

    fn size(&mut self) -> usize {
        match self.below(40) {
            0 => 20_000,
            1 => 300,
            _ => self.below(5),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let size = self.size();
        let byte = self.one_of(&[0, b'a', 0x7f, 0x80, 0xff]);
        (0..size).map(|at| if at == 0 { byte } else { self.next() as u8 }).collect()
    }

    fn text(&mut self) -> String {
        let size = self.size();
        (0..size)
            .map(|_| self.one_of(&['a', '\0', '"', '\\', '/', 'ß', '\u{202e}', '😀', '%', '\n']))
            .collect()
    }
}

/// A message of this kind, some of whose fields are set.
pub fn message(kind: &MessageDescriptor, dice: &mut Dice, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(kind.clone());
    let fields: Vec<FieldDescriptor> = kind.fields().collect();
    for field in fields {
        if dice.below(2) == 0 {
            continue;
        }
        let value = if field.is_list() {
            let count = if dice.below(60) == 0 && depth < 2 { 200 } else { dice.below(4) };
            Value::List((0..count).filter_map(|_| single(&field, dice, depth)).collect())
        } else {
            match single(&field, dice, depth) {
                Some(value) => value,
                None => continue,
            }
        };
        message.set_field(&field, value);
    }
    message
}

fn single(field: &FieldDescriptor, dice: &mut Dice, depth: usize) -> Option<Value> {
    Some(match field.kind() {
        Kind::Double => Value::F64(f64::from_bits(dice.next())),
        Kind::Float => Value::F32(f32::from_bits(dice.next() as u32)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(dice.integer() as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(dice.integer()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(dice.integer() as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(dice.integer() as u64),
        Kind::Bool => Value::Bool(dice.below(2) == 0),
        Kind::String => Value::String(dice.text()),
        Kind::Bytes => Value::Bytes(dice.bytes().into()),
        Kind::Enum(_) if dice.below(8) == 0 => Value::EnumNumber(dice.integer() as i32),
        Kind::Enum(_) => Value::EnumNumber(dice.below(6) as i32),
        Kind::Message(_) if depth >= 5 => return None,
        Kind::Message(kind) => Value::Message(message(&kind, dice, depth + 1)),
    })
}

/// The same bytes, with something wrong.
pub fn broken(mut bytes: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.next() as u8),
            2 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            3 => {
                let again = bytes[..at].to_vec();
                bytes.extend(again);
            }
            // A length that is far too large.
            _ => bytes.extend([0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        }
    }
    bytes
}

/// The same JSON, with something wrong.
pub fn broken_json(mut text: String, dice: &mut Dice) -> String {
    for _ in 0..=dice.below(3) {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let at = dice.one_of(&places);
        let with: String = match dice.below(12) {
            0 => {
                text.truncate(at);
                continue;
            }
            1 => "[".repeat(5_000),
            2 => "{\"a\":".repeat(2_000),
            3 => "1e999999".into(),
            4 => "-99999999999999999999999999".into(),
            5 => "\"\\ud800\"".into(),
            6 => "null".into(),
            7 => "{}".into(),
            8 => "\"".into(),
            9 => "\0".into(),
            10 => format!("\"{}\"", "x".repeat(50_000)),
            _ => dice.one_of(&["{", "}", "[", "]", ",", ":", "\\", "0", "-", "."]).into(),
        };
        text.insert_str(at, &with);
    }
    text
}
