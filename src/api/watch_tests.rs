#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;
use crate::watch::{Outgoing, SharedEvent};

fn pair(key: &'static [u8], value: usize) -> KeyValue {
    KeyValue {
        key: Bytes::from_static(key),
        create_revision: 3,
        mod_revision: 300,
        version: 2,
        value: vec![7; value].into(),
        lease: -1,
    }
}

#[test]
fn an_encoded_event_tells_where_its_key_is() {
    for key in [&b"k"[..], b"", &[1; 200], b"\x0a\x01k"] {
        for (kind, value) in [(EventKind::Put, 0), (EventKind::Put, 70_000), (EventKind::Delete, 0)] {
            let mut kv = pair(Box::leak(key.into()), value);
            if kind == EventKind::Delete {
                kv = KeyValue { key: kv.key, mod_revision: 5, ..KeyValue::default() };
            }
            let shared = SharedEvent::new(&Event { kind, kv: kv.clone() }, ENCODE);
            assert_eq!(shared.key(), key);
            let decoded = mvccpb::Event::decode(shared.encoded().clone()).unwrap();
            assert_eq!(decoded.kv.unwrap(), crate::api::convert::key_value(kv));
            assert_eq!(decoded.r#type, i32::from(kind == EventKind::Delete));
        }
    }
}

#[test]
fn shared_parts_make_the_message_that_prost_makes() {
    for sizes in [vec![0], vec![10, 20_000, 3], vec![70_000, 16 << 10], vec![5; 6_000]] {
        for with_previous in [false, true] {
            let events: Vec<_> = sizes
                .iter()
                .map(|size| {
                    let event = Event { kind: EventKind::Put, kv: pair(b"key", *size) };
                    let previous = with_previous.then(|| (ENCODE.previous)(pair(b"key", size + 1)));
                    Outgoing { event: Arc::new(SharedEvent::new(&event, ENCODE)), previous }
                })
                .collect();
            let encoded = encode_events(&Message { is_fragment: true, events });
            let bytes = encoded.pieces.concat();
            assert_eq!(bytes.len(), encoded.bytes);
            let decoded = pb::WatchResponse::decode(bytes.as_slice()).unwrap();
            let of = |size: usize| mvccpb::Event {
                r#type: 0,
                kv: Some(crate::api::convert::key_value(pair(b"key", size))),
                prev_kv: with_previous.then(|| crate::api::convert::key_value(pair(b"key", size + 1))),
            };
            assert!(decoded.fragment);
            assert_eq!(decoded.events, sizes.iter().map(|size| of(*size)).collect::<Vec<_>>());
        }
    }
}
