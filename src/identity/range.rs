//! The pods that a `StatefulSet` is to have.

use std::fmt;

use super::Ordinal;

/// `size` pods, from ordinal `start` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrdinalRange {
    /// Ordinal of the first pod.
    pub start: Ordinal,
    /// Number of pods; 0: the set sleeps.
    pub size: u16,
}

impl OrdinalRange {
    /// The ordinals, in order. What would be beyond the greatest ordinal there is, is left out.
    pub fn ordinals(self) -> impl Iterator<Item = Ordinal> {
        let start = u32::from(self.start);
        (start..start + u32::from(self.size)).map_while(|ordinal| Ordinal::try_from(ordinal).ok())
    }

    /// Whether the pod with this ordinal is one of them.
    pub fn contains(self, ordinal: Ordinal) -> bool {
        ordinal >= self.start && u32::from(ordinal) < u32::from(self.start) + u32::from(self.size)
    }
}

impl fmt::Display for OrdinalRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size {
            0 => write!(f, "no pods"),
            1 => write!(f, "the pod {}", self.start),
            size => write!(f, "the {size} pods from {} on", self.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_its_ordinals_and_no_others() {
        for (start, size, last) in [(0, 0, None), (0, 3, Some(2)), (5, 1, Some(5)), (65_534, 9, Some(65_535))]
        {
            let range = OrdinalRange { start, size };
            assert_eq!(range.ordinals().last(), last);
            let all: Vec<_> = (0..=Ordinal::MAX).filter(|ordinal| range.contains(*ordinal)).collect();
            assert_eq!(all, range.ordinals().collect::<Vec<_>>());
        }
    }
}
