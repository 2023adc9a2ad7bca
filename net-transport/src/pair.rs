//! What is joined, served and forwarded: one origin's frames in one channel.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ShortId;

/// One origin's frames in one channel: the full channel hash and the origin's full public key.
///
/// Frames carry only the first 8 bytes of each ([`Pair::prefix`]), which are hints; decisions are made on the pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The channel hash.
    pub channel: [u8; 32],
    /// The origin's public key.
    pub origin: [u8; 32],
}

/// What a frame says of its pair: the first 8 bytes of the channel hash, and the origin's short id.
#[cfg(feature = "link")]
pub(crate) type Prefix = (u64, ShortId);

impl Pair {
    /// What a frame's header says of this pair: the first 8 bytes of the channel hash (little-endian), and the short
    /// id of the origin.
    #[must_use]
    pub fn prefix(&self) -> (u64, ShortId) {
        let first: [u8; 8] = std::array::from_fn(|i| self.channel[i]);
        (u64::from_le_bytes(first), ShortId::of(&self.origin))
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.channel[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("@")?;
        fmt::Display::fmt(&ShortId::of(&self.origin), f)
    }
}
