//! The identity file: small, written as a whole, never half.
//!
//! Layout, all numbers little-endian: 8 bytes `SETIDENT`, format version (u32), length of the body (u32), CRC32C of the
//! version, the length and the body (u32), body (protobuf). A new version is written to `identity.new`, fsynced, renamed over
//! `identity`, and the directory is fsynced; so the file is always the one before or the one after. Blocking: called at
//! start and whenever what the disk is changes, from where blocking is allowed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;

use super::{Boot, ClusterId, DiskState, Identity, LastStop, Member, Membership, NodeId};
use crate::env::files::Open;
use crate::env::simulated::{self, Bug};
use crate::env::{Files, Random};
use crate::limits;

/// The format that this version writes, and the newest that it reads.
pub const IDENTITY_FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"SETIDENT";
const HEADER_BYTES: usize = 20;
const NAME: &str = "identity";
const NEW_NAME: &str = "identity.new";

/// Why the identity cannot be read or written. Nothing on the disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The file does not begin as an identity file does.
    #[error("{path}: not an identity file")]
    NotAnIdentity {
        /// The file.
        path: PathBuf,
    },
    /// Another version of Setstone wrote it.
    #[error("{path}: format version {found}; this version of setstone supports {supported}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// The checksum is wrong or the file is cut.
    #[error("{path}: damaged ({reason})")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The boot counter is at its end.
    #[error("{path}: the boot counter cannot be raised above {boot}")]
    BootExhausted {
        /// The file.
        path: PathBuf,
        /// The counter.
        boot: u64,
    },
}

/// The identity file of one data directory.
#[derive(Clone, Debug)]
pub struct IdentityFile {
    files: Arc<dyn Files>,
    directory: PathBuf,
}

impl IdentityFile {
    /// The identity file of this data directory, which must exist before anything is stored.
    pub fn new(files: Arc<dyn Files>, directory: &Path) -> Self {
        Self { files, directory: directory.to_owned() }
    }

    /// Reads the identity; `None` if there is no file.
    pub fn load(&self) -> Result<Option<Identity>, IdentityError> {
        let path = self.path();
        if !self.files.exists(&path).map_err(|error| self.io(error))? {
            return Ok(None);
        }
        let file = self.files.open(&path, Open::Read).map_err(|error| self.io(error))?;
        let length = file.length().map_err(|error| self.io(error))?;
        if length > limits::IDENTITY_BYTES as u64 {
            return Err(self.damaged(format!("{length} bytes, more than {}", limits::IDENTITY_BYTES)));
        }
        let mut bytes = vec![0; length as usize];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, filled as u64).map_err(|error| self.io(error))? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        self.decode(&bytes).map(Some)
    }

    /// Replaces the identity; it is durable when this returns.
    pub fn store(&self, identity: &Identity) -> Result<(), IdentityError> {
        let bytes = encode(identity);
        if bytes.len() > limits::IDENTITY_BYTES {
            return Err(self.damaged(format!("{} bytes, more than {}", bytes.len(), limits::IDENTITY_BYTES)));
        }
        self.replace(&bytes).map_err(|error| self.io(error))
    }

    /// Raises the boot counter of `identity` on disk, and draws the random number that goes with it. Called once at each
    /// start, before anything is said to anyone.
    pub fn raise_boot(
        &self,
        identity: &Identity,
        random: &dyn Random,
    ) -> Result<(Identity, Boot), IdentityError> {
        let Some(number) = identity.boot.checked_add(1) else {
            return Err(IdentityError::BootExhausted { path: self.path(), boot: identity.boot });
        };
        let raised = Identity { boot: number, ..identity.clone() };
        if !simulated::planted(Bug::ForgetBoot) {
            self.store(&raised)?;
        }
        Ok((raised, Boot { number, random: random.next_u64() }))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.directory.join(NEW_NAME);
        if self.files.exists(&new)? {
            self.files.remove_file(&new)?;
        }
        let file = self.files.open(&new, Open::Create)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        drop(file);
        self.files.rename(&new, &self.path())?;
        self.files.sync_dir(&self.directory)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Identity, IdentityError> {
        if !bytes.starts_with(MAGIC) {
            return Err(IdentityError::NotAnIdentity { path: self.path() });
        }
        let number = |at: usize| -> Option<u32> {
            bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes)
        };
        let (Some(format), Some(length), Some(checksum)) = (number(8), number(12), number(16)) else {
            return Err(self.damaged("the header is cut".into()));
        };
        // The version is looked at first: a newer one may have moved the checksum.
        if format == 0 || format > IDENTITY_FORMAT {
            return Err(IdentityError::Format {
                path: self.path(),
                found: format,
                supported: IDENTITY_FORMAT,
            });
        }
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        if body.len() != length as usize {
            return Err(self.damaged(format!("{} bytes follow the header, not {length}", body.len())));
        }
        if checksum != checksum_of(format, body) && !cfg!(fuzzing) {
            return Err(self.damaged("the checksum is wrong".into()));
        }
        wire::Identity::decode(body)
            .map_err(|error| error.to_string())
            .and_then(|wire| from_wire(wire).map_err(Into::into))
            .map_err(|reason| self.damaged(reason))
    }

    fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    fn io(&self, error: io::Error) -> IdentityError {
        IdentityError::Io { path: self.path(), error }
    }

    fn damaged(&self, reason: String) -> IdentityError {
        IdentityError::Damaged { path: self.path(), reason }
    }
}

fn checksum_of(format: u32, body: &[u8]) -> u32 {
    let mut checked = Vec::with_capacity(8 + body.len());
    checked.extend_from_slice(&format.to_le_bytes());
    checked.extend_from_slice(&(body.len() as u32).to_le_bytes());
    checked.extend_from_slice(body);
    crc32c::crc32c(&checked)
}

fn encode(identity: &Identity) -> Vec<u8> {
    let body = to_wire(identity).encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&IDENTITY_FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&checksum_of(IDENTITY_FORMAT, &body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn to_wire(identity: &Identity) -> wire::Identity {
    let state = match &identity.state {
        DiskState::Prepared { voters } => wire::State::Prepared(wire::Prepared {
            configs: voters
                .configs
                .iter()
                .map(|config| wire::Voters { ids: config.iter().map(|id| id.0).collect() })
                .collect(),
            members: voters
                .members
                .iter()
                .map(|member| wire::Member {
                    node_id: member.node_id.0,
                    name: member.name.clone(),
                    peer_address: member.peer_address.clone(),
                    client_urls: member.client_urls.clone(),
                })
                .collect(),
        }),
        DiskState::Joining { nonce } => wire::State::Joining(wire::Joining { nonce: *nonce }),
        DiskState::Member => wire::State::Member(wire::Nothing {}),
        DiskState::Lost { reason, successor } => {
            wire::State::Lost(wire::Lost { reason: reason.clone(), successor: *successor })
        }
    };
    wire::Identity {
        cluster_id: identity.cluster.0,
        supersedes: identity.supersedes.iter().map(|cluster| cluster.0).collect(),
        node_id: identity.node_id.0,
        ordinal: u32::from(identity.ordinal),
        boot: identity.boot,
        last_stop: identity
            .last_stop
            .as_ref()
            .map(|stop| wire::LastStop { boot: stop.boot, decided: stop.decided.clone() }),
        state: Some(state),
    }
}

fn from_wire(identity: wire::Identity) -> Result<Identity, &'static str> {
    let state = match identity.state.ok_or("it does not say what the disk is")? {
        wire::State::Prepared(prepared) => DiskState::Prepared {
            voters: Membership {
                configs: prepared
                    .configs
                    .into_iter()
                    .map(|config| config.ids.into_iter().map(NodeId).collect())
                    .collect(),
                members: prepared
                    .members
                    .into_iter()
                    .map(|member| Member {
                        node_id: NodeId(member.node_id),
                        name: member.name,
                        peer_address: member.peer_address,
                        client_urls: member.client_urls,
                    })
                    .collect(),
            },
        },
        wire::State::Joining(joining) => DiskState::Joining { nonce: joining.nonce },
        wire::State::Member(_) => DiskState::Member,
        wire::State::Lost(lost) => DiskState::Lost { reason: lost.reason, successor: lost.successor },
    };
    Ok(Identity {
        cluster: ClusterId(identity.cluster_id),
        supersedes: identity.supersedes.into_iter().map(ClusterId).collect(),
        node_id: NodeId(identity.node_id),
        ordinal: identity.ordinal.try_into().map_err(|_| "its ordinal is above 65535")?,
        state,
        boot: identity.boot,
        last_stop: identity.last_stop.map(|stop| LastStop { boot: stop.boot, decided: stop.decided }),
    })
}

/// The body as protobuf. Fields are added, never changed.
mod wire {
    /// The whole body.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Identity {
        #[prost(fixed64, tag = "1")]
        pub(super) cluster_id: u64,
        #[prost(fixed64, repeated, tag = "2")]
        pub(super) supersedes: Vec<u64>,
        #[prost(fixed64, tag = "3")]
        pub(super) node_id: u64,
        #[prost(uint32, tag = "4")]
        pub(super) ordinal: u32,
        #[prost(uint64, tag = "5")]
        pub(super) boot: u64,
        #[prost(oneof = "State", tags = "6, 7, 8, 9")]
        pub(super) state: Option<State>,
        #[prost(message, optional, tag = "10")]
        pub(super) last_stop: Option<LastStop>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct LastStop {
        #[prost(uint64, tag = "1")]
        pub(super) boot: u64,
        #[prost(string, tag = "2")]
        pub(super) decided: String,
    }

    /// What the disk is.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum State {
        #[prost(message, tag = "6")]
        Prepared(Prepared),
        #[prost(message, tag = "7")]
        Joining(Joining),
        #[prost(message, tag = "8")]
        Member(Nothing),
        #[prost(message, tag = "9")]
        Lost(Lost),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Prepared {
        #[prost(message, repeated, tag = "1")]
        pub(super) configs: Vec<Voters>,
        #[prost(message, repeated, tag = "2")]
        pub(super) members: Vec<Member>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Voters {
        #[prost(fixed64, repeated, tag = "1")]
        pub(super) ids: Vec<u64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Member {
        #[prost(fixed64, tag = "1")]
        pub(super) node_id: u64,
        #[prost(string, tag = "2")]
        pub(super) name: String,
        #[prost(string, tag = "3")]
        pub(super) peer_address: String,
        #[prost(string, repeated, tag = "4")]
        pub(super) client_urls: Vec<String>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Joining {
        #[prost(fixed64, tag = "1")]
        pub(super) nonce: u64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Nothing {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Lost {
        #[prost(string, tag = "1")]
        pub(super) reason: String,
        #[prost(fixed64, optional, tag = "2")]
        pub(super) successor: Option<u64>,
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
