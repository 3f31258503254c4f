//! Replays the corpus of the fuzzers, and every input cut short or with a byte changed: none may panic.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, missing_docs)]

use std::path::Path;

use setstone::fuzzing::TARGETS;

/// Changes of each input.
const CHANGES: usize = 64;

#[test]
fn no_input_of_the_corpus_does_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in TARGETS {
        let mut inputs: Vec<_> =
            std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for path in inputs {
            println!("{}", path.display());
            let bytes = std::fs::read(&path).unwrap();
            target(&bytes);
            for change in 0..CHANGES.min(bytes.len()) {
                let at = change * bytes.len() / CHANGES.min(bytes.len());
                target(&bytes[..at]);
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (change % 8);
                target(&changed);
            }
        }
    }
}
