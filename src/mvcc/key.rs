//! The key type of the index: small keys inline, so that most lookups follow no pointer and most keys need no allocation.
//! It owns its bytes: a slice of a network buffer would keep the whole buffer alive.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// Bytes that fit without an allocation; makes the type three words.
const INLINE: usize = 22;

/// An owned key, ordered as its bytes.
#[derive(Clone, Debug)]
pub(super) enum Key {
    Inline { length: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl Key {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..key.len()) {
            Some(space) => {
                space.copy_from_slice(key);
                Self::Inline { length: key.len() as u8, bytes }
            }
            None => Self::Heap(key.into()),
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_three_words_and_keep_their_bytes() {
        assert_eq!(size_of::<Key>(), 24);
        for length in [0, 1, 21, 22, 23, 5_000] {
            let bytes = vec![7; length];
            assert_eq!(Key::from(bytes.as_slice()).as_slice(), bytes);
        }
    }
}
