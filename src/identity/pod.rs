//! placeholder until merge
/// Pod facts.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {}
