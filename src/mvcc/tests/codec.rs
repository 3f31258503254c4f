//! The bytes: what is written is read, and nothing else is taken for it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::mvcc::record::{self, Damage, Entry, Kind, Raw, Walk};
use crate::mvcc::{Revision, layout, read};

prop_compose! {
    fn entry()(
        tombstone in any::<bool>(),
        age in 0..1_000_i64,
        version in 1..i64::MAX,
        lease in prop_oneof![Just(0), any::<i64>()],
        key in vec(any::<u8>(), 0..40),
        value in prop_oneof![4 => vec(any::<u8>(), 0..400), 1 => vec(any::<u8>(), 8_000..20_000)],
    ) -> (Entry, i64) {
        let mut entry = Entry { tombstone, key: key.into(), ..Entry::default() };
        if !tombstone {
            (entry.version, entry.lease, entry.value) = (version, lease, value.into());
        }
        (entry, age)
    }
}

/// Entries at ascending revisions from `main` on, `steps` saying where a new main revision begins.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let steps = vec((entry(), any::<bool>()), 1..60);
    (1_000..i64::MAX / 2, steps).prop_map(|(main, steps)| {
        let mut revision = Revision::new(main, 0);
        let mut all = Vec::new();
        for ((mut entry, age), next) in steps {
            entry.revision = revision;
            if !entry.tombstone {
                entry.create = revision.main - age;
            }
            all.push(entry);
            revision = if next {
                Revision::new(revision.main + 1, 0)
            } else {
                Revision::new(revision.main, revision.sub + 1)
            };
        }
        all
    })
}

fn encoded(entries: &[Entry]) -> (Memory, Vec<Event>) {
    let (mut puts, mut events) = (Vec::new(), Vec::new());
    record::encode(entries, &mut puts, &mut events);
    let mut memory = Memory::default();
    memory.write(&Changes { puts, deletes: Vec::new() });
    (memory, events)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(entries in entries()) {
        let (memory, events) = encoded(&entries);
        prop_assert!(memory.0.iter().all(|(key, value)| record::open(key, value).is_ok()));
        let mut ascending = read::Reader::new(&memory);
        for (entry, event) in entries.iter().zip(&events) {
            prop_assert_eq!(&ascending.read(entry.revision).unwrap(), entry);
            prop_assert_eq!(&read::Reader::new(&memory).read(entry.revision).unwrap(), entry);
            prop_assert_eq!(&event.kv, &entry.clone().into_kv());
        }
        let mut all = Vec::new();
        for (base, value) in read::next_records(&memory, Revision::default(), i64::MAX - 1, usize::MAX).unwrap() {
            all.extend(read::entries(&memory, base, &value).unwrap());
        }
        prop_assert_eq!(&all, &entries);
        let missing = Revision::new(entries[0].revision.main - 1, 0);
        prop_assert_eq!(ascending.read(missing), Err(Refusal::Compacted));
    }

    #[test]
    fn a_flipped_bit_is_found(entries in entries(), item in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>()) {
        let (memory, _) = encoded(&entries);
        let (key, value) = memory.0.iter().nth(item.index(memory.0.len())).unwrap();
        let flip = |bytes: &[u8], bit: usize| {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            Bytes::from(bytes)
        };
        let bit = bit.index(8 * (key.len() + value.len()));
        if let Some(bit) = bit.checked_sub(8 * key.len()) {
            prop_assert!(record::open(key, &flip(value, bit)).is_err());
        } else {
            prop_assert!(record::open(&flip(key, bit), value).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        kind in 0..5_u8,
        body in vec(any::<u8>(), 0..200),
        others in vec((vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..60)), 0..5),
        base in (0..3_i64, 0..2_i64),
    ) {
        let base = Revision::new(base.0, base.1);
        let key = layout::record_key(base);
        let mut value = vec![record::FORMAT, kind, 0, 0, 0, 0];
        value.extend(&body);
        // With the checksum right, so that what is behind it is reached.
        let sealed = record::seal(&key, value.as_slice().into());
        let mut memory = Memory::default();
        for (key, value) in others {
            memory.0.insert([&b"h"[..], &key].concat().into(), value.into());
        }
        memory.0.insert(Bytes::copy_from_slice(&key), sealed.clone());
        let _ = State::load(&memory);
        let _ = read::Reader::new(&memory).read(base);
        let _ = read::next_records(&memory, Revision::default(), 10, 100);
        let _ = read::entries(&memory, base, &sealed);
        let _ = crate::mvcc::small::read(&key, &sealed);
        let owner = Bytes::from(body);
        let _ = Raw::new(base.main, &owner).and_then(|raw| raw.entry(&owner));
        let mut walk = Walk::new(base, &owner);
        while let Ok(Some(raw)) = walk.next() {
            let _ = raw.entry(&owner);
        }
    }
}

#[test]
fn the_format_is_what_it_was() {
    let put = Entry {
        revision: Revision::new(300, 2),
        create: 172,
        version: 3,
        lease: 258,
        key: text("key"),
        value: text("value"),
        tombstone: false,
    };
    let gone = Entry { revision: Revision::new(301, 0), tombstone: true, key: text("k"), ..Entry::default() };
    let value = record::record(Revision::new(299, 0), &[put, gone], 0);
    let (kind, body) = record::open(&layout::record_key(Revision::new(299, 0)), &value).unwrap();
    assert_eq!(kind, Kind::Record);
    let first = [&[23, 1, 2, 2, 0x80, 1, 3, 2, 1, 0, 0, 0, 0, 0, 0, 3][..], b"keyvalue"].concat();
    let second = [5, 2, 0, 1, 1, b'k'];
    assert_eq!(body, [&first[..], &second].concat());
    assert_eq!(value[..6], [1, 0, 16, 82, 138, 183]);
    assert_eq!(layout::record_key(Revision::new(258, 3)), *b"h\0\0\0\0\0\0\x01\x02\0\0\0\x03");
    assert_eq!(layout::part_key(Revision::new(258, 3), 4), *b"h\0\0\0\0\0\0\x01\x02\0\0\0\x03\0\0\0\x04");
}

#[test]
fn unknown_versions_and_kinds_are_named() {
    assert_eq!(record::open(b"", &[2, 0, 0, 0, 0, 0]), Err(Damage::Format(2)));
    assert_eq!(record::open(b"", &[1, 9, 0, 0, 0, 0]), Err(Damage::Kind(9)));
    assert_eq!(record::open(b"", &[1, 0, 0]), Err(Damage::Truncated));
}

#[test]
fn flags_of_no_meaning_are_refused() {
    for (flags, sound) in [(0, true), (1, true), (2, false), (3, false), (4, false), (0x80, false)] {
        // Delta, sub, flags; for a put age and version; a lease would follow; an empty key.
        let body = if flags == 1 { vec![0, 0, flags, 0] } else { vec![0, 0, flags, 0, 1, 0] };
        let owner = Bytes::from(body);
        let entry = Raw::new(7, &owner).unwrap().entry(&owner);
        assert_eq!(entry.is_ok(), sound, "{flags}");
    }
}
