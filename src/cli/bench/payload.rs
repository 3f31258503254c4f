//! Keys and values. Repeatable: the same seed gives the same.

use bytes::Bytes;

use super::options::Plan;

/// Bytes by which the values of one length differ in where they start in the slab.
const SLAB_EXTRA: usize = 8_191;

/// A small generator of random numbers (SplitMix64): no state is shared, and a number costs a nanosecond.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// A generator; `stream` makes those of one seed differ.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.next();
        rng
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Where keys and values come from. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    prefix: Bytes,
    key_size: usize,
    value_size: usize,
    /// Random bytes that values are cut from: they do not compress, and cost nothing to make.
    slab: Bytes,
}

impl Payload {
    /// The payload of a plan.
    pub fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed, u64::MAX);
        let mut slab = Vec::with_capacity(plan.value_size + SLAB_EXTRA + 8);
        while slab.len() < plan.value_size + SLAB_EXTRA {
            slab.extend_from_slice(&rng.next().to_le_bytes());
        }
        Self {
            prefix: Bytes::copy_from_slice(plan.key_prefix.as_bytes()),
            key_size: plan.key_size,
            value_size: plan.value_size,
            slab: slab.into(),
        }
    }

    /// The key of a number: prefix, then the number with zeros before it.
    pub fn key(&self, mut number: u64) -> Bytes {
        let mut key = Vec::with_capacity(self.key_size);
        key.extend_from_slice(&self.prefix);
        key.resize(self.key_size, b'0');
        for digit in key.iter_mut().rev().take(self.key_size - self.prefix.len()) {
            if number == 0 {
                break;
            }
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        key.into()
    }

    /// A value.
    pub fn value(&self, rng: &mut Rng) -> Bytes {
        let start = rng.below(SLAB_EXTRA as u64) as usize;
        self.slab.slice(start..start + self.value_size)
    }

    /// First key after all keys of this payload.
    pub fn end(&self) -> Bytes {
        crate::client::prefix_end(&self.prefix)
    }
}
