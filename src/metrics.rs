//! placeholder
#[derive(Clone, Default, Debug)]
/// m
pub struct Metrics;
impl Metrics {
    /// a
    pub fn applied(&self, _: usize, _: std::time::Duration) {}
    /// a
    pub fn proposed(&self, _: usize) {}
    /// a
    pub fn proposals_done(&self, _: usize) {}
    /// a
    pub fn leader(&self, _: bool, _: bool) {}
    /// a
    pub fn disk(&self, _: u64, _: u64, _: u64) {}
}
