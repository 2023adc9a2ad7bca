//! What a bus needs of a log: net-channel knows no files, and whoever has some implements this.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use net_identity::EntityId;
use net_transport::{FRAME_LEN_MAX, MeshId};

use crate::core::{Cursor, SeqRange};
use crate::{BatchHash, ChannelHash, ChannelName, SenderKey};

/// A future of a [`Store`].
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The batches of one channel on a disk. `net_redex::Log` is one.
///
/// Everything but [`Store::enqueue`] may block for as long as a disk takes.
pub trait Store: fmt::Debug + Send + Sync {
    /// Gives a batch its place behind those before it. The first future ends when it has one, the second when the batch
    /// is written, and on the disk if the store's policy says so. With `expected`, the origin's next seq must be that one
    /// (0: it has none), so that nothing is placed behind a batch that failed.
    ///
    /// # Errors
    /// The first: nothing has changed, and the same place may be taken by another batch. The second: whether the batch is
    /// there is not known.
    fn enqueue<'a>(&'a self, frame: &'a [u8], expected: Option<u64>) -> StoreFuture<'a, StoreFuture<'static, Stored>>;

    /// The most bytes of a batch that it takes: what a producer whose log this is keeps to.
    fn batch_len_max(&self) -> usize {
        FRAME_LEN_MAX
    }

    /// How many events are kept.
    fn events(&self) -> u64;

    /// Where an origin stands: its next seq and the hash of the batch before that; nothing if the store has none of it.
    fn head(&self, origin: &EntityId) -> Option<(u64, BatchHash)>;

    /// The last events of an origin, as far back as none is missing.
    fn run(&self, origin: &EntityId) -> Option<SeqRange>;

    /// The seq of an origin that a search leads to; nothing if the store has nothing there.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    fn seek(&self, origin: &EntityId, to: Seek) -> Result<Option<u64>, StoreError>;

    /// Appends to `frames` the batches of an origin with seqs of `range`, in order, as long as they fit in `len_max` bytes
    /// together (the first in any case), and says up to which seq this is all there is.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    fn read(&self, origin: &EntityId, range: SeqRange, len_max: usize, frames: &mut Vec<u8>)
    -> Result<u64, StoreError>;

    /// The next seq of every origin.
    fn cursor(&self) -> Cursor;

    /// The keys that open an origin's batches, each with the first seq that it may have sealed.
    fn keys(&self, origin: &EntityId) -> Vec<(u64, SenderKey)>;

    /// Keeps an origin's public key, with which its batches are verified; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    fn add_origin(&self, origin: &EntityId) -> Result<(), StoreError>;

    /// Keeps a key, encrypted; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    fn add_key(&self, origin: &EntityId, first_seq: u64, key: &SenderKey) -> Result<(), StoreError>;

    /// Whether batches may still be appended: not closed, and no sync has failed.
    fn is_open(&self) -> bool;

    /// Writes and syncs what is queued, and lets the files go.
    ///
    /// # Errors
    /// What kept the end from reaching the disk.
    fn close(&self) -> Result<(), StoreError>;
}

/// Makes the [`Store`] of a channel. `net_redex::LogConfig` is one.
pub trait OpenStore: fmt::Debug + Send + Sync {
    /// Opens or makes the store of a channel. May block.
    ///
    /// # Errors
    /// [`StoreError`] that says what to do.
    fn open(&self, place: &StorePlace) -> Result<Arc<dyn Store>, StoreError>;
}

/// Where a channel's store is, and for what.
#[derive(Clone)]
#[non_exhaustive]
pub struct StorePlace {
    /// Its directory.
    pub dir: PathBuf,
    /// The channel's mesh.
    pub mesh: MeshId,
    /// The channel.
    pub channel: ChannelHash,
    /// What the keys on the disk are encrypted under; without it they are kept in memory only.
    pub secret: Option<[u8; 32]>,
}

impl StorePlace {
    /// The place of a channel among the others of its node.
    #[must_use]
    pub fn new(dir: PathBuf, mesh: MeshId, name: &ChannelName, secret: Option<[u8; 32]>) -> Self {
        Self { dir, mesh, channel: name.hash(&mesh), secret }
    }

    /// The name of the directory of a channel's log among the others of its node: `+` for each `/`, which no name has.
    #[must_use]
    pub fn dir_name(channel: &ChannelName) -> String {
        channel.as_str().replace('/', "+")
    }

    /// The channel whose log a directory of this name holds, if it can be one.
    #[must_use]
    pub fn channel_of(dir_name: &str) -> Option<ChannelName> {
        if dir_name.contains('/') { None } else { ChannelName::parse(&dir_name.replace('+', "/")).ok() }
    }
}

impl fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorePlace").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Where in an origin's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The oldest.
    First,
    /// So many events before the one with this seq.
    Back {
        /// From where.
        before: u64,
        /// How many.
        events: u64,
    },
    /// The first batch stored at this unix time in milliseconds, or later.
    Since(u64),
}

/// A batch that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Offset of its first event in the store.
    pub offset: u64,
    /// Whether it is on the disk: it outlives a power cut, and not only the process.
    pub durable: bool,
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An event of the batch is there already.
    #[error("the log has this batch already")]
    Duplicate,
    /// This batch, key or origin cannot be stored; others can.
    #[error("{}", chain(&**.0))]
    Refused(Arc<dyn Error + Send + Sync>),
    /// Anything else, in the store's own words.
    #[error("{}", chain(&**.0))]
    Failed(Arc<dyn Error + Send + Sync>),
}

/// An error with its sources: what a disk says stands in the last of them.
fn chain(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

impl StoreError {
    /// An error of the store's own.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(Arc::from(error.into()))
    }

    /// An error that concerns one batch, key or origin.
    pub fn refused(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(Arc::from(error.into()))
    }
}
