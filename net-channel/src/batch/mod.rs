//! Batches: the unit of sealing, signing, sending and storing.
//!
//! A batch is a frame: the 64-byte header, the **seal** (clear: chain, hashes, signature), the **body** (sealed events).
//! Layout: `docs/spec/batch.md`. A [`BatchBuilder`] makes one; a [`SealedView`] reads one that came; verifying gives a
//! [`VerifiedSeal`], and only a [`SealedBatch`], which holds one beside the very bytes it speaks of, can be opened.

mod builder;
mod layout;
mod open;
mod view;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use builder::{BatchBuilder, PushError, SealError, SealParams};
pub use open::{EventRef, OpenBatch, OpenError, Unopened};
pub(crate) use view::Head;
pub use view::{BatchError, SealView, SealedBatch, SealedView, VerifiedSeal};

/// The most events of a batch.
pub const BATCH_EVENTS_MAX: usize = 4096;
/// The most bytes of the body of a batch of several events, as sealed. One larger event goes alone.
pub const BATCH_BODY_LEN_MAX: usize = 512 << 10;
/// The most bytes of one event: payload, key and headers. Larger things are blobs.
pub const EVENT_LEN_MAX: usize = 1 << 20;
/// The most bytes of an event's key.
pub const KEY_LEN_MAX: usize = 1 << 10;
/// The most parents of a batch.
pub const PARENTS_MAX: usize = 255;
/// Bytes of a seal without its parents.
pub const SEAL_LEN: usize = 192;

/// The most bytes of header, seal and parents.
pub(crate) const HEAD_LEN_MAX: usize = layout::head_len(PARENTS_MAX);

/// The hash of a batch: of its header (with ttl 0), the seal up to the signature, and the parents.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BatchHash(pub [u8; 32]);

impl BatchHash {
    /// What stands for the batch before the first.
    pub const ZERO: Self = Self([0; 32]);

    /// The first 8 bytes: how a [`Parent`](crate::Parent) names it.
    #[must_use]
    pub fn short(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }
}

impl fmt::Display for BatchHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for BatchHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.short().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
