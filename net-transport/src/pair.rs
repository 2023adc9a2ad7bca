//! What a join names: a channel and one of its origins.

use serde::{Deserialize, Serialize};

use crate::ShortId;

/// A channel and one origin that produces it: the unit of joining.
///
/// Both are full: the channel hash and the origin's public key. Frames carry only the first 8 bytes of each
/// ([`Pair::prefix`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The channel hash.
    pub channel: [u8; 32],
    /// The origin's public key.
    pub origin: [u8; 32],
}

/// What a frame says of its pair: the first 8 bytes of the channel hash, and the origin's short id.
pub(crate) type Prefix = (u64, ShortId);

impl Pair {
    /// What a frame's header says of this pair.
    #[must_use]
    pub fn prefix(&self) -> (u64, ShortId) {
        let mut channel = [0; 8];
        channel.copy_from_slice(&self.channel[..8]);
        (u64::from_le_bytes(channel), ShortId::of(&self.origin))
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (channel, origin) = self.prefix();
        write!(f, "Pair({channel:016x}, {origin})")
    }
}
