//! What this node's application has been given: the causes of what it publishes next.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use net_identity::EntityId;

use crate::{BatchHash, Hlc, Parent};

/// The newest event of each origin that the application has been given, by channel.
#[derive(Debug, Default)]
pub(crate) struct Given {
    channels: RwLock<HashMap<[u8; 32], Heads>>,
}

type Heads = BTreeMap<EntityId, Arc<Head>>;

/// The newest event given of one origin in one channel.
///
/// The batch changes under the lock and the seq within a batch without it, so that the way of an event to the
/// application costs one relaxed store.
#[derive(Debug, Default)]
pub(crate) struct Head {
    seq: AtomicU64,
    batch: Mutex<HeadBatch>,
}

#[derive(Clone, Copy, Debug, Default)]
struct HeadBatch {
    hash: [u8; 8],
    time: Hlc,
}

impl Given {
    /// The head of this origin in this channel, made if it is new.
    pub(crate) fn head(&self, channel: [u8; 32], origin: EntityId) -> Arc<Head> {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels.entry(channel).or_default().entry(origin).or_default().clone()
    }

    /// The heads of the other origins of the channel: the parents of a batch that `except` seals now, newest last by
    /// time.
    pub(crate) fn parents(&self, channel: &[u8; 32], except: &EntityId) -> Vec<(Hlc, Parent)> {
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let Some(heads) = channels.get(channel) else { return Vec::new() };
        let heads = heads.iter().filter(|(origin, _)| *origin != except);
        heads.filter_map(|(origin, head)| head.parent(origin)).collect()
    }
}

impl Head {
    /// The application is given the first event of a batch that it had not begun.
    pub(crate) fn begin(&self, seq: u64, hash: BatchHash, time: Hlc) {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        // Two subscriptions may be at different places in the same events; the newest counts.
        if seq > self.seq.load(Ordering::Relaxed) {
            *batch = HeadBatch { hash: hash.short(), time };
            self.seq.store(seq, Ordering::Relaxed);
        }
    }

    /// The application is given a further event of the batch that it began last.
    pub(crate) fn advance(&self, seq: u64) {
        self.seq.fetch_max(seq, Ordering::Relaxed);
    }

    fn parent(&self, origin: &EntityId) -> Option<(Hlc, Parent)> {
        let batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = self.seq.load(Ordering::Relaxed);
        (seq > 0).then(|| (batch.time, Parent { origin: origin.short(), seq, hash: batch.hash }))
    }
}
