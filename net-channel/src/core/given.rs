//! What this node's application has been given: the causes of what it publishes next.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use net_identity::EntityId;

use crate::mutants::mutant;
use crate::{BatchHash, Hlc, Parent, VerifiedSeal};

/// The newest event of each origin that the application has been given, by channel.
///
/// Shared by the subscriptions of a node, which note what they hand out, and its producers, which name it as causes.
#[derive(Debug, Default)]
pub struct Given {
    channels: RwLock<HashMap<[u8; 32], Heads>>,
}

type Heads = BTreeMap<EntityId, Arc<Head>>;

/// The newest event given of one origin in one channel.
///
/// The batch changes under the lock and the seq within a batch without it, so that the way of an event to the
/// application costs one relaxed store.
#[derive(Debug, Default)]
pub struct Head {
    seq: AtomicU64,
    batch: Mutex<HeadBatch>,
}

#[derive(Clone, Copy, Debug, Default)]
struct HeadBatch {
    hash: [u8; 8],
    time: Hlc,
    /// The seq that this node's last batch named, or one before it.
    named: u64,
}

impl Given {
    /// The head of this origin in this channel, made if it is new.
    #[must_use]
    pub fn head(&self, channel: [u8; 32], origin: EntityId) -> Arc<Head> {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels.entry(channel).or_default().entry(origin).or_default().clone()
    }

    /// The parents of a batch that `origin` seals now, with their times: of each other origin the newest event that the
    /// application has been given, unless an earlier batch has named it. What that one named, or what it named itself,
    /// is a cause already, because each batch has those before it as causes.
    ///
    /// An event that is a cause of another parent is named all the same: whoever cannot have the one still waits for
    /// the other.
    pub fn take_parents(&self, channel: &[u8; 32], origin: &EntityId) -> Vec<(Hlc, Parent)> {
        if mutant("forget_parent") {
            return vec![];
        }
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let Some(heads) = channels.get(channel) else { return Vec::new() };
        let heads = heads.iter().filter(|(other, _)| *other != origin);
        heads.filter_map(|(other, head)| head.take_parent(other)).collect()
    }

    /// A new incarnation of this node's producer: its first batch names everything again, since it may follow none.
    pub fn forget_named(&self, channel: &[u8; 32]) {
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        channels.get(channel).into_iter().flat_map(BTreeMap::values).for_each(|head| head.lock().named = 0);
    }
}

impl Head {
    /// The application is given the event with this seq, the first of this batch that it is given.
    pub fn begin(&self, seal: &VerifiedSeal, seq: u64) {
        self.note(seal.hash(), seal.time(), seq);
    }

    /// The application is given a further event of the batch that it began last.
    pub fn advance(&self, seq: u64) {
        self.seq.fetch_max(seq, Ordering::Relaxed);
    }

    fn note(&self, hash: BatchHash, time: Hlc, seq: u64) {
        let mut batch = self.lock();
        // Two subscriptions may be at different places in the same events; the newest counts.
        if seq > self.seq.load(Ordering::Relaxed) {
            (batch.hash, batch.time) = (hash.short(), time);
            self.seq.store(seq, Ordering::Relaxed);
        }
    }

    fn take_parent(&self, origin: &EntityId) -> Option<(Hlc, Parent)> {
        let mut batch = self.lock();
        let seq = self.seq.load(Ordering::Relaxed);
        let is_news = seq > batch.named;
        batch.named = seq;
        is_news.then(|| (batch.time, Parent { origin: origin.short(), seq, hash: batch.hash }))
    }

    fn lock(&self) -> MutexGuard<'_, HeadBatch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_by_the_first_batch_after_it_was_given_and_by_no_other() {
        let given = Given::default();
        let (me, other) = (EntityId::from_bytes([1; 32]), EntityId::from_bytes([2; 32]));
        let head = given.head([0; 32], other);
        let seqs = || given.take_parents(&[0; 32], &me).iter().map(|(_, parent)| parent.seq).collect::<Vec<_>>();
        assert!(seqs().is_empty());
        head.note(BatchHash([3; 32]), Hlc::new(1, 0), 7);
        head.advance(8);
        assert_eq!(seqs(), [8]);
        assert!(seqs().is_empty());
        head.advance(9);
        assert_eq!(seqs(), [9]);
        given.forget_named(&[0; 32]);
        assert_eq!(seqs(), [9]);
        assert!(given.take_parents(&[0; 32], &other).is_empty(), "its own events are no parents of its batches");
    }
}
