//! What a human asks a pod for through its data directory: whoever can write there may decide about it. A small JSON file, which the
//! process looks for while it cannot go on by itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{ClusterId, NodeId};

/// Name of the file in the data directory.
pub const REQUEST_FILE: &str = "request";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// This disk is to go on as the only member of a new cluster, because a majority of the old one's disks is gone for good.
    Recover(Recovery),
    /// This pod may found a cluster alone, although its `StatefulSet` is not new: the data that there was is gone for good.
    Bootstrap {},
}

/// A recovery, with all that whoever asks for it knows: another disk than the one that was meant refuses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// The cluster whose majority is gone.
    #[serde(with = "number")]
    pub cluster: ClusterId,
    /// The disk that goes on.
    #[serde(with = "number")]
    pub node: NodeId,
    /// Names of the pods that do not answer and whose disks are gone for good.
    pub gone: BTreeSet<String>,
    /// Whoever does not answer is gone for good (`setstone etcd --force-new-cluster`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub everyone: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde wants it.
fn is_false(value: &bool) -> bool {
    !value
}

impl Request {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        // A struct of numbers and strings: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What the bytes of a file ask for.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

/// Ids as hexadecimal text, as people see them everywhere else.
mod number {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{ClusterId, NodeId};

    pub(super) trait Id: Copy {
        fn number(self) -> u64;
        fn of(number: u64) -> Self;
    }

    impl Id for ClusterId {
        fn number(self) -> u64 {
            self.0
        }
        fn of(number: u64) -> Self {
            Self(number)
        }
    }

    impl Id for NodeId {
        fn number(self) -> u64 {
            self.0
        }
        fn of(number: u64) -> Self {
            Self(number)
        }
    }

    pub(super) fn serialize<I: Id, S: Serializer>(id: &I, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:x}", id.number()))
    }

    pub(super) fn deserialize<'de, I: Id, D: Deserializer<'de>>(from: D) -> Result<I, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16)
            .map(I::of)
            .map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let recovery = Recovery {
            cluster: ClusterId(0xfeed_0000_0000_0001),
            node: NodeId::new(2, 9),
            gone: ["setstone-1".to_owned()].into(),
            everyone: false,
        };
        let forced = Recovery { everyone: true, ..recovery.clone() };
        for request in [Request::Bootstrap {}, Request::Recover(recovery), Request::Recover(forced)] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        let text = String::from_utf8(Request::Bootstrap {}.encode()).unwrap();
        assert_eq!(text, r#"{"bootstrap":{}}"#);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (bytes, named) in [
            (&b"{"[..], "EOF"),
            (br#"{"destroy":{}}"#, "destroy"),
            (br#"{"recover":{"cluster":"xyz","node":"1","gone":[]}}"#, "xyz"),
            (br#"{"recover":{"cluster":"1","node":"1","gone":[],"extra":1}}"#, "extra"),
        ] {
            let error = Request::decode(bytes).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
