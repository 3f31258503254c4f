//! Elements of DER (X.690), one after the other.

/// The element at the start: its tag, its content, and what follows it. `None`: it is malformed, or longer than 64 KiB, which no key and
/// no name is.
pub(crate) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// All elements; `None` if one of them is malformed.
pub(crate) fn elements(mut der: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (tag, content, rest) = element(der)?;
        found.push((tag, content));
        der = rest;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_follow_each_other_and_what_is_cut_is_none() {
        let der = [0x02, 1, 7, 0x04, 0x81, 2, 8, 9];
        assert_eq!(elements(&der), Some(vec![(2, &[7][..]), (4, &[8, 9][..])]));
        for cut in (1..der.len()).filter(|cut| *cut != 3) {
            assert_eq!(elements(&der[..cut]), None, "{cut}");
        }
        assert_eq!(element(&[0x30, 0x83, 0, 0, 0]), None);
        assert_eq!(elements(&[]), Some(Vec::new()));
    }
}
