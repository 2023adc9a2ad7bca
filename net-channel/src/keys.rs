//! Sender keys: what seals an origin's batches in a channel.

use std::fmt;

use net_transport::prf;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::{ChannelHash, context};

/// First 4 bytes of a hash of a sender key: which one sealed a batch.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret of one origin for one channel, from which the key of each batch is derived. Erased when it is dropped.
///
/// An origin makes a fresh one with each start; one that was loaded from a disk opens batches and never seals.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SenderKey {
    secret: [u8; 32],
    #[zeroize(skip)]
    id: KeyId,
}

impl SenderKey {
    /// A new key from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness to give; nothing may be sealed then.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).expect("the system gives randomness");
        Self::new(*secret)
    }

    /// The key of these bytes; they must be random.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        let hash = blake3::derive_key(context::SENDER_KEY_ID, &secret);
        Self { secret, id: KeyId([hash[0], hash[1], hash[2], hash[3]]) }
    }

    /// What headers call it.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// The bytes: for a grant or an encrypted key ring, and nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The key of one batch. Whoever holds it can open that batch and no other.
    pub(crate) fn batch_key(&self, channel: &ChannelHash, seq: u64, salt: &[u8; 16]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(prf(&self.secret, "batch", &[&channel.0, &seq.to_le_bytes(), salt]))
    }
}

/// 16 bytes from the system's randomness: the salt of one batch.
///
/// # Panics
/// If the system has no randomness to give; nothing may be sealed then.
#[must_use]
pub fn random_salt() -> [u8; 16] {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).expect("the system gives randomness");
    salt
}

impl fmt::Debug for SenderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SenderKey").field("id", &self.id).finish_non_exhaustive()
    }
}
