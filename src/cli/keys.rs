//! Which keys a command means.

use bytes::Bytes;

use super::exit::Failure;
use super::text::Encoding;
use crate::client::prefix_end;

// Arguments that name keys. Not a doc comment, which would become the description of the command that they are part of.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Keys {
    /// The key, the first key of a range, or the prefix; may be empty with --prefix or --from-key
    pub key: String,
    /// First key after the range
    #[arg(conflicts_with_all = ["prefix", "from_key"])]
    pub range_end: Option<String>,
    /// Every key that begins with KEY
    #[arg(long, conflicts_with = "from_key")]
    pub prefix: bool,
    /// Every key from KEY on
    #[arg(long)]
    pub from_key: bool,
}

impl Keys {
    /// First key and range end. The empty key stands for the lowest one where a range is meant.
    pub(super) fn span(&self, encoding: Encoding) -> Result<(Bytes, Bytes), Failure> {
        let zero = Bytes::from_static(b"\0");
        let key = encoding.decode(&self.key)?;
        if key.is_empty() && !self.prefix && !self.from_key {
            return Err(Failure::usage("the key is empty; only with --prefix or --from-key may it be"));
        }
        let end = match &self.range_end {
            Some(end) => encoding.decode(end)?,
            None if self.prefix => prefix_end(&key),
            None if self.from_key => zero.clone(),
            None => Bytes::new(),
        };
        Ok((if key.is_empty() { zero } else { key }, end))
    }
}
