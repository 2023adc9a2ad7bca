//! What this node's application has been given: the causes of what it publishes next.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use net_identity::EntityId;

use crate::mutants::mutant;
use crate::{BatchHash, Parent, VerifiedSeal};

/// The newest event of each origin that the application has been given, by channel.
///
/// Shared by the subscriptions of a node, which note what they hand out, and its producers, which name it as causes.
#[derive(Debug, Default)]
pub struct Given {
    channels: RwLock<HashMap<[u8; 32], Heads>>,
    /// How often batches have named parents.
    namings: AtomicU64,
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
    /// The seq that this node's last batch named, or one before it.
    named: u64,
    /// Which of this node's namings that was.
    named_at: u64,
}

impl Given {
    /// The head of this origin in this channel, made if it is new.
    #[must_use]
    pub fn head(&self, channel: [u8; 32], origin: EntityId) -> Arc<Head> {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels.entry(channel).or_default().entry(origin).or_default().clone()
    }

    /// The parents of a batch that `origin` seals now: of each other origin the newest event that the
    /// application has been given, unless an earlier batch has named it. What that one named, or what it named itself,
    /// is a cause already, because each batch has those before it as causes.
    ///
    /// An event that is a cause of another parent is named all the same: whoever cannot have the one still waits for
    /// the other.
    ///
    /// If there are more than `max`, those that were named longest ago come first, and the rest wait for the next batch; the
    /// second value says so. So nobody is kept out by others, whatever their clocks say.
    pub fn take_parents(&self, channel: &[u8; 32], origin: &EntityId, max: usize) -> (Vec<Parent>, bool) {
        if mutant("forget_parent") {
            return (vec![], false);
        }
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let Some(heads) = channels.get(channel) else { return (vec![], false) };
        let news = heads.iter().filter(|(other, head)| *other != origin && head.is_news());
        let mut news: Vec<(u64, &EntityId, &Arc<Head>)> =
            news.map(|(other, head)| (head.lock().named_at, other, head)).collect();
        let cut = news.len() > max;
        if cut {
            news.sort_by_key(|(named_at, ..)| *named_at);
            news.truncate(max);
        }
        let naming = self.namings.fetch_add(1, Ordering::Relaxed) + 1;
        (news.into_iter().map(|(_, other, head)| head.take_parent(other, naming)).collect(), cut)
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
        self.note(seal.hash(), seq);
    }

    /// The application is given a further event of the batch that it began last.
    pub fn advance(&self, seq: u64) {
        self.seq.fetch_max(seq, Ordering::Relaxed);
    }

    fn note(&self, hash: BatchHash, seq: u64) {
        let mut batch = self.lock();
        // Two subscriptions may be at different places in the same events; the newest counts.
        if seq > self.seq.load(Ordering::Relaxed) {
            batch.hash = hash.short();
            self.seq.store(seq, Ordering::Relaxed);
        }
    }

    fn is_news(&self) -> bool {
        self.seq.load(Ordering::Relaxed) > self.lock().named
    }

    fn take_parent(&self, origin: &EntityId, naming: u64) -> Parent {
        let mut batch = self.lock();
        let seq = self.seq.load(Ordering::Relaxed);
        (batch.named, batch.named_at) = (seq, naming);
        Parent { origin: origin.short(), seq, hash: batch.hash }
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
        let seqs = || given.take_parents(&[0; 32], &me, 9).0.iter().map(|parent| parent.seq).collect::<Vec<_>>();
        assert!(seqs().is_empty());
        head.note(BatchHash([3; 32]), 7);
        head.advance(8);
        assert_eq!(seqs(), [8]);
        assert!(seqs().is_empty());
        head.advance(9);
        assert_eq!(seqs(), [9]);
        given.forget_named(&[0; 32]);
        assert_eq!(seqs(), [9]);
        assert!(given.take_parents(&[0; 32], &other, 9).0.is_empty(), "its own events are no parents of its batches");
    }

    #[test]
    fn of_too_many_causes_those_wait_that_were_named_last() {
        let given = Given::default();
        let others: Vec<EntityId> = (1..=4).map(|n| EntityId::from_bytes([n; 32])).collect();
        let heads: Vec<Arc<Head>> = others.iter().map(|other| given.head([0; 32], *other)).collect();
        let me = EntityId::from_bytes([9; 32]);
        heads.iter().for_each(|head| head.note(BatchHash([3; 32]), 1));
        let (first, cut) = given.take_parents(&[0; 32], &me, 3);
        assert!(first.len() == 3 && cut);
        // Those that push are named again only after the one that waits.
        heads.iter().for_each(|head| head.advance(2));
        let (second, cut) = given.take_parents(&[0; 32], &me, 1);
        assert!(cut && first.iter().all(|parent| parent.origin != second[0].origin));
    }
}
