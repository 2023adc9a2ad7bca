//! The directory in which a node keeps what must outlive its process.
//!
//! | file | what |
//! |---|---|
//! | `seed` | 32 random bytes, from which all keys of the node are derived |
//! | `mesh` | the mesh: its id, the generation of its psk, the psk |
//! | `peers` | nodes to try first at the next start |
//! | `port` | the UDP port that was bound, tried again so that tickets stay good |
//! | `floor` | what keeps seqs from being used twice after a crash |
//! | `cursor-NAME` | where the subscription stands that is resumed under this name; `cursor-NAME.lock` is held by its owner |
//! | `logs` | the logs of channels, a directory each |
//! | `LOCK` | held by the process that is the node; contains its id |
//!
//! The directory has mode `0700` and its files `0600`; wider modes are refused. A file is written beside its place,
//! synced, and renamed, so that a crash leaves the old one or the new one.

mod lock;
mod record;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use net_identity::secret_file::{self, SecretFileError};
use net_transport::{Mesh, MeshId, NodeKeys, Peer, Psk, Seed};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use lock::StateLock;

/// The most peers that are remembered.
pub const PEERS_MAX: usize = 64;

/// The most addresses that are remembered of one peer.
pub const PEER_ADDRESSES_MAX: usize = 16;

/// A node's directory, checked, not locked: good for reading.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The system names no directory for state, and none was given.
    #[error("this system names no directory for state: give one")]
    NoHome,
    /// The name of a mesh names its directory too.
    #[error("`{0}` is no name for a mesh on this machine: 1 to 64 of a-z A-Z 0-9 . _ -, not beginning with a dot")]
    BadName(String),
    /// Others may enter the directory.
    #[error("{path} has mode {mode:04o}, so others may use the keys in it: run `chmod 700 {path}`", path = .path.display())]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is something else of that name.
    #[error("{path} is not a directory", path = .0.display())]
    NotADirectory(PathBuf),
    /// Another process is the node of this directory.
    #[error("process {pid} is the node of {path} already", path = .path.display(), pid = .pid.map_or("?".to_owned(), |pid| pid.to_string()))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process, if it has said so yet.
        pid: Option<u32>,
    },
    /// A file's content is not what was written.
    #[error("{path} is damaged: restore it from a copy, or remove it to have a new one made ({loss})", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is lost with it.
        loss: &'static str,
    },
    /// A file was written by a later version of this program.
    #[error("{path} was written by a later version: use that version", path = .0.display())]
    Version(PathBuf),
    /// A file that holds a secret cannot be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The system could not do it.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct MeshRecord {
    id: MeshId,
    generation: u8,
    psk: Psk,
}

const MESH: record::Format = record::Format { magic: *b"netmesh", version: 1, loss: "joining again needs a ticket" };
const PEERS: record::Format = record::Format { magic: *b"netpeer", version: 1, loss: "the peers it remembered" };
const SEED_LOSS: &str = "a new node id";

impl StateDir {
    /// The directory of the mesh of this name on this machine: `net/NAME` where the platform keeps state.
    ///
    /// # Errors
    /// [`StateError::BadName`], [`StateError::NoHome`].
    pub fn path_of(name: &str) -> Result<PathBuf, StateError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(good) {
            return Err(StateError::BadName(name.to_owned()));
        }
        let base = etcetera::choose_base_strategy().map_err(|_| StateError::NoHome)?;
        let home = base.state_dir().unwrap_or_else(|| base.data_dir());
        Ok(home.join("net").join(name))
    }

    /// Opens a directory, made with mode `0700` if it is not there.
    ///
    /// # Errors
    /// [`StateError::Mode`] if group or others have any right to it; [`StateError::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        match fs::symlink_metadata(&path).and_then(|_| fs::metadata(&path)) {
            Ok(metadata) if !metadata.is_dir() => return Err(StateError::NotADirectory(path)),
            Ok(metadata) => check_mode(&path, &metadata)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_private(&path)?,
            Err(source) => return Err(StateError::Io { what: "open", path, source }),
        }
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes this process the node of the directory until the lock is dropped.
    ///
    /// # Errors
    /// [`StateError::Locked`] if another process, or another node of this one, is.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        StateLock::take(self.clone())
    }

    /// The node's keys, if it has some.
    ///
    /// # Errors
    /// [`StateError::Damaged`] and what a file may suffer.
    pub fn keys(&self) -> Result<Option<NodeKeys>, StateError> {
        let path = self.file("seed");
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let seed: [u8; 32] = bytes.as_slice().try_into().map_err(|_| StateError::Damaged { path, loss: SEED_LOSS })?;
        Ok(Some(NodeKeys::from_seed(&Seed::new(seed))))
    }

    /// The mesh that the node is a member of, if it has joined or made one.
    ///
    /// # Errors
    /// [`StateError::Damaged`] and what a file may suffer.
    pub fn mesh(&self) -> Result<Option<Mesh>, StateError> {
        let path = self.file("mesh");
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let record: MeshRecord = MESH.decode(&path, &bytes)?;
        Ok(Some(Mesh::new(record.id, record.generation, record.psk.clone())))
    }

    /// The peers it remembers; none if it has never had any.
    ///
    /// # Errors
    /// [`StateError::Damaged`] and what a file may suffer.
    pub fn peers(&self) -> Result<Vec<Peer>, StateError> {
        let path = self.file("peers");
        let Some(bytes) = read(&path)? else { return Ok(Vec::new()) };
        PEERS.decode(&path, &bytes)
    }

    /// The port that was bound last. What cannot be read counts as none: it is a wish, not a fact.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let bytes = read(&self.file("port")).ok()??;
        std::str::from_utf8(&bytes).ok()?.trim().parse().ok().filter(|port| *port != 0)
    }
}

impl StateLock {
    /// The node's keys, made if it has none.
    ///
    /// # Errors
    /// As [`StateDir::keys`].
    ///
    /// # Durability
    /// New keys are on the disk when this returns.
    pub fn keys_or_new(&self) -> Result<NodeKeys, StateError> {
        if let Some(keys) = self.dir().keys()? {
            return Ok(keys);
        }
        let seed = Seed::new(random(self.dir())?);
        secret_file::create(&self.dir().file("seed"), seed.expose())?;
        Ok(NodeKeys::from_seed(&seed))
    }

    /// The mesh, made with a random psk if there is none.
    ///
    /// # Errors
    /// As [`StateDir::mesh`].
    ///
    /// # Durability
    /// A new mesh is on the disk when this returns.
    pub fn mesh_or_new(&self) -> Result<Mesh, StateError> {
        if let Some(mesh) = self.dir().mesh()? {
            return Ok(mesh);
        }
        let mesh = Mesh::new(MeshId(random(self.dir())?), 0, Psk::new(random(self.dir())?));
        self.set_mesh(&mesh)?;
        Ok(mesh)
    }

    /// Writes the mesh, in place of the one that may be there.
    ///
    /// # Errors
    /// [`StateError::File`].
    ///
    /// # Durability
    /// It is on the disk when this returns.
    pub fn set_mesh(&self, mesh: &Mesh) -> Result<(), StateError> {
        let (generation, psk) = mesh.current();
        let record = MeshRecord { id: mesh.id(), generation, psk: psk.clone() };
        Ok(secret_file::replace(&self.dir().file("mesh"), &MESH.encode(&record))?)
    }

    /// Writes the peers to remember, at most [`PEERS_MAX`] of them.
    ///
    /// # Errors
    /// [`StateError::File`].
    ///
    /// # Durability
    /// They are on the disk when this returns.
    pub fn set_peers(&self, peers: &[Peer]) -> Result<(), StateError> {
        let mut peers = peers[..peers.len().min(PEERS_MAX)].to_vec();
        peers.iter_mut().for_each(|peer| peer.addresses.truncate(PEER_ADDRESSES_MAX));
        Ok(secret_file::replace(&self.dir().file("peers"), &PEERS.encode(&peers))?)
    }

    /// Remembers these peers beside the ones it knows; of one node, the newer addresses are kept.
    ///
    /// # Errors
    /// As [`StateDir::peers`] and [`StateLock::set_peers`].
    pub fn add_peers(&self, new: &[Peer]) -> Result<(), StateError> {
        let mut peers = new.to_vec();
        peers.extend(self.dir().peers()?.into_iter().filter(|old| new.iter().all(|p| p.node() != old.node())));
        self.set_peers(&peers)
    }

    /// Remembers the port.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn set_port(&self, port: u16) -> Result<(), StateError> {
        if self.dir().port() != Some(port) {
            secret_file::replace(&self.dir().file("port"), format!("{port}\n").as_bytes())?;
        }
        Ok(())
    }
}

/// 32 random bytes.
pub(crate) fn random(for_whom: &StateDir) -> Result<[u8; 32], StateError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| StateError::Io {
        what: "get randomness for",
        path: for_whom.path.clone(),
        source: io::Error::other(error),
    })?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    match secret_file::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(SecretFileError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn create_private(path: &Path) -> Result<(), StateError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| StateError::Io { what: "create", path: path.to_owned(), source })
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), StateError> {
    let mode = std::os::unix::fs::MetadataExt::mode(metadata) & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::Mode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Elsewhere there are no mode bits to check.
#[cfg(not(unix))]
fn check_mode(_: &Path, _: &fs::Metadata) -> Result<(), StateError> {
    Ok(())
}

#[cfg(test)]
mod tests;
