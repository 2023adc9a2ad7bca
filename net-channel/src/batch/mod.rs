//! Batches: the unit of sealing, signing, sending and storing.

mod build;
mod layout;
mod open;
mod sealed;

use net_identity::{EntityId, SignError};
use net_transport::{Header, HeaderError, MeshId};

pub use build::{BatchBuilder, PushError, SealParams, SealedBatch};
pub use layout::{
    BATCH_LEN_FULL, EVENT_LEN_MAX, EVENTS_MAX, HEADERS_LEN_MAX, KEY_LEN_MAX, PARENT_LEN, PARENTS_MAX, Parent, SEAL_LEN,
};
pub use open::{OpenError, OpenedBatch, RecordView};
pub use sealed::{Sealed, Verified};

use crate::{ChannelHash, context};

/// Why bytes are no batch, or not this origin's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The frame's header is not one.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The frame is of another kind.
    #[error("the frame is no batch")]
    Kind,
    /// The body is not sealed; such a batch never leaves its process.
    #[error("the batch is not sealed")]
    Clear,
    /// Fewer or more bytes than the header says, or too few for seal and parents.
    #[error("the frame has {found} bytes, its header and seal say {expected}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// A seal of a format that this build does not know.
    #[error("unknown seal format {0}")]
    Format(u8),
    /// A reserved bit, or padding that is not zero.
    #[error("reserved bits or padding of the seal are set")]
    Reserved,
    /// Seq, number of events and incarnation do not go together.
    #[error("seq, event count and incarnation contradict each other")]
    Seq,
    /// A parent is of the batch's own origin.
    #[error("a parent is of the batch's own origin")]
    OwnParent,
    /// Channel or origin are others than the ones it was checked against.
    #[error("the batch is of another channel or origin")]
    Pair,
    /// The body is not the one that was signed.
    #[error("the body does not have the hash that the seal names")]
    BodyHash,
    /// The signature is not the origin's.
    #[error("the signature of the batch does not verify")]
    Signature,
}

/// Why a batch was not sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no event in it.
    #[error("the batch is empty")]
    Empty,
    /// More parents than a batch may have.
    #[error("{0} parents, the limit is {PARENTS_MAX}")]
    Parents(usize),
    /// The origin's key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// The hash that names a batch and links it to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchHash([u8; 32]);

impl BatchHash {
    fn of(header: &Header, sealed: &[u8], parents: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(context::BATCH_HASH.as_bytes());
        hasher.update(&header.to_signed_bytes());
        hasher.update(sealed);
        hasher.update(parents);
        Self(*hasher.finalize().as_bytes())
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 8 bytes: what a parent names.
    #[must_use]
    pub fn short(&self) -> [u8; 8] {
        std::array::from_fn(|i| self.0[i])
    }
}

/// What an origin signs of a batch.
fn signed_bytes(mesh: &MeshId, channel: &ChannelHash, origin: &EntityId, hash: &BatchHash) -> Vec<u8> {
    [context::BATCH.as_bytes(), &mesh.0, &channel.0, origin.as_bytes(), &hash.0].concat()
}

/// What the seal commits to, so that a batch cannot be made that opens in two ways.
fn key_commit(batch_key: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key(context::BATCH_KEY_COMMIT, batch_key)
}

/// Associated data of a body: the header with ttl 0, the seal but for body hash and signature, the parents.
fn associated_data(header: &Header, seal: &[u8], parents: &[u8]) -> Vec<u8> {
    [&header.to_signed_bytes()[..], &seal[..48], &seal[80..128], parents].concat()
}
