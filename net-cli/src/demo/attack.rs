//! A hostile producer: it has the public API and a signer of its own making.

use std::sync::atomic::{AtomicU64, Ordering};

use net::identity::{EntityId, EntityKey, SignError, Signer};
use serde::{Deserialize, Serialize};

/// What the producer does to some of its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Attack {
    /// Signs them with another key.
    Forge,
    /// Does not sign them.
    Unsign,
}

/// Signs everything as it should, but every so many batches.
pub(crate) struct HostileSigner {
    honest: EntityKey,
    other: EntityKey,
    attack: Attack,
    batches: AtomicU64,
}

/// What signed batches begin with.
const BATCH_CONTEXT: &[u8] = b"net batch v1\0";
/// Every so many batches one is bad: the others show that the subscriber goes on.
const EVERY: u64 = 3;

impl HostileSigner {
    pub(crate) fn new(attack: Attack) -> Self {
        Self { honest: EntityKey::generate(), other: EntityKey::generate(), attack, batches: AtomicU64::new(0) }
    }
}

impl Signer for HostileSigner {
    fn id(&self) -> EntityId {
        self.honest.id()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        if message.starts_with(BATCH_CONTEXT) && self.batches.fetch_add(1, Ordering::Relaxed) % EVERY == EVERY - 1 {
            return match self.attack {
                Attack::Forge => self.other.sign(message),
                Attack::Unsign => Ok([0; 64]),
            };
        }
        self.honest.sign(message)
    }
}
