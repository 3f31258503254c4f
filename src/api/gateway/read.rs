//! JSON into messages, by their descriptors: the rules of protojson, with unknown fields and unknown names of enums ignored.
//!
//! prost-reflect reads JSON too, by other rules: it takes a field that is there twice, rounds numbers that no integer holds, and
//! knows neither integers as text like `"1e3"` nor base64 with line ends in it, which etcd takes. So only the values are its own.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use tonic::Code;

use crate::limits;
use crate::transport::Failure;

/// Characters of a wrong value that its client is shown.
const SHOWN: usize = 64;
/// Integers up to here are exact in a number with a fraction or an exponent.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads one message; `text` holds nothing else.
///
/// # Errors
/// `InvalidArgument` that names what is wrong and where it stands.
pub(crate) fn read(kind: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Failure> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let left = Cell::new(limits::GATEWAY_ELEMENTS);
    let message = Message { kind, left: &left }.deserialize(&mut json);
    message.and_then(|message| json.end().map(|()| message)).map_err(|error| {
        if error.is_eof() {
            // Go's text for it.
            return Failure::new(Code::InvalidArgument, "unexpected EOF");
        }
        Failure::new(Code::InvalidArgument, format!("proto: {error}"))
    })
}

/// A message of this kind.
#[derive(Clone, Copy)]
struct Message<'a> {
    kind: &'a MessageDescriptor,
    left: &'a Cell<usize>,
}

/// The value of a field; `None` if it is null, or means nothing to us.
#[derive(Clone, Copy)]
struct Field<'a> {
    field: &'a FieldDescriptor,
    left: &'a Cell<usize>,
}

/// The values of a field that may have several.
struct List<'a>(Field<'a>);

/// One value of a field.
#[derive(Clone, Copy)]
struct Single<'a>(Field<'a>);

/// Counts one message or element.
fn take_one<E: Error>(left: &Cell<usize>) -> Result<(), E> {
    match left.get().checked_sub(1) {
        Some(fewer) => {
            left.set(fewer);
            Ok(())
        }
        None => Err(E::custom(format_args!("more than {} values", limits::GATEWAY_ELEMENTS))),
    }
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = DynamicMessage;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<DynamicMessage, D::Error> {
        take_one(self.left)?;
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = DynamicMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", self.kind.name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<DynamicMessage, A::Error> {
        let mut message = DynamicMessage::new(self.kind.clone());
        // A message has few fields.
        let (mut seen, mut chosen) = (Vec::new(), Vec::new());
        while let Some(name) = pairs.next_key::<Cow<'de, str>>()? {
            let known =
                self.kind.get_field_by_json_name(&name).or_else(|| self.kind.get_field_by_name(&name));
            let Some(field) = known else {
                pairs.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&field.number()) {
                return Err(A::Error::custom(format_args!("duplicate field {:?}", shown(&name))));
            }
            seen.push(field.number());
            let Some(value) = pairs.next_value_seed(Field { field: &field, left: self.left })? else {
                continue;
            };
            if let Some(oneof) = field.containing_oneof() {
                if chosen.contains(&oneof) {
                    return Err(A::Error::custom(format_args!(
                        "error parsing {:?}, oneof {} is already set",
                        shown(&name),
                        oneof.full_name()
                    )));
                }
                chosen.push(oneof);
            }
            message.try_set_field(&field, value).map_err(A::Error::custom)?;
        }
        Ok(message)
    }
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<Value>, D::Error> {
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for field {}", self.field.name())
    }

    fn visit_none<E: Error>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Option<Value>, D::Error> {
        if self.field.is_list() {
            json.deserialize_seq(List(self)).map(Some)
        } else {
            Single(self).deserialize(json)
        }
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list for field {}", self.0.field.name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(Single(self.0))? {
            take_one(self.0.left)?;
            values.extend(value);
        }
        Ok(Value::List(values))
    }
}

impl<'de> DeserializeSeed<'de> for Single<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<Value>, D::Error> {
        if let Kind::Message(kind) = self.0.field.kind() {
            return Message { kind: &kind, left: self.0.left }
                .deserialize(json)
                .map(|m| Some(Value::Message(m)));
        }
        json.deserialize_any(self)
    }
}

impl Visitor<'_> for Single<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {:?} field {}", self.0.field.kind(), self.0.field.name())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<Value>, E> {
        match self.0.field.kind() {
            Kind::Bool => Ok(Some(Value::Bool(value))),
            _ => Err(self.wrong(&value.to_string())),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<Value>, E> {
        self.number(&value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<Value>, E> {
        self.number(&value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<Value>, E> {
        match Number::from_f64(value) {
            Some(number) => self.number(&number),
            None => Err(self.wrong(&value.to_string())),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<Value>, E> {
        match self.0.field.kind() {
            Kind::String => Ok(Some(Value::String(text.to_owned()))),
            Kind::Bytes => match bytes_of(text) {
                Some(bytes) => Ok(Some(Value::Bytes(bytes.into()))),
                None => Err(self.wrong(&format!("{:?}", shown(text)))),
            },
            // A name that is not known is ignored, like a field.
            Kind::Enum(names) => {
                Ok(names.get_value_by_name(text).map(|value| Value::EnumNumber(value.number())))
            }
            Kind::Bool | Kind::Message(_) => Err(self.wrong(&format!("{:?}", shown(text)))),
            // A number as JSON writes it, without space around it.
            _ => match text.trim().parse::<Number>() {
                Ok(number) if text.len() == text.trim().len() => self.number(&number),
                _ => Err(self.wrong(&format!("{:?}", shown(text)))),
            },
        }
    }
}

impl Single<'_> {
    fn wrong<E: Error>(self, what: &str) -> E {
        let field = self.0.field;
        E::custom(format_args!(
            "invalid value for {:?} field {}: {}",
            field.kind(),
            field.name(),
            shown(what)
        ))
    }

    fn number<E: Error>(self, number: &Number) -> Result<Option<Value>, E> {
        let float = || number.as_f64();
        let value = match self.0.field.kind() {
            Kind::Double => float().map(Value::F64),
            Kind::Float => float().map(|value| Value::F32(value as f32)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(number).map(Value::I32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(number).map(Value::I64),
            Kind::Uint32 | Kind::Fixed32 => integer(number).map(Value::U32),
            Kind::Uint64 | Kind::Fixed64 => integer(number).map(Value::U64),
            Kind::Enum(_) => integer(number).map(Value::EnumNumber),
            Kind::Bool | Kind::String | Kind::Bytes | Kind::Message(_) => None,
        };
        value.map(Some).ok_or_else(|| self.wrong(&number.to_string()))
    }
}

/// A number that is exactly one of these integers.
fn integer<I: TryFrom<i128>>(number: &Number) -> Option<I> {
    let whole = if let Some(value) = number.as_i64() {
        i128::from(value)
    } else if let Some(value) = number.as_u64() {
        i128::from(value)
    } else {
        let value = number.as_f64()?;
        (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i128)?
    };
    I::try_from(whole).ok()
}

/// As Go decodes it: either alphabet, padded if the length is a multiple of four and not padded otherwise, line ends ignored.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    const fn engine(alphabet: &alphabet::Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
        let config = GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(padding);
        GeneralPurpose::new(alphabet, config)
    }
    const STANDARD: GeneralPurpose = engine(&alphabet::STANDARD, DecodePaddingMode::RequireCanonical);
    const STANDARD_BARE: GeneralPurpose = engine(&alphabet::STANDARD, DecodePaddingMode::RequireNone);
    const URL: GeneralPurpose = engine(&alphabet::URL_SAFE, DecodePaddingMode::RequireCanonical);
    const URL_BARE: GeneralPurpose = engine(&alphabet::URL_SAFE, DecodePaddingMode::RequireNone);
    let engine = match (text.contains(['-', '_']), text.len().is_multiple_of(4)) {
        (false, true) => STANDARD,
        (false, false) => STANDARD_BARE,
        (true, true) => URL,
        (true, false) => URL_BARE,
    };
    if text.contains(['\r', '\n']) {
        engine.decode(text.replace(['\r', '\n'], "")).ok()
    } else {
        engine.decode(text).ok()
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
