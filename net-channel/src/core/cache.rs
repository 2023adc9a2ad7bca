//! The sealed batches that an origin's node keeps in memory for those who come late or lost some.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::core::SeqRange;

/// The newest sealed batches of one (channel, origin), oldest dropped first beyond a bound in bytes.
///
/// Batches of one incarnation are contiguous, so a range of seqs is one slice of the queue.
#[derive(Debug)]
pub struct Cache {
    batches: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
    /// Batches with seqs at or above this stay: they are not in the log yet.
    stored_below: u64,
}

/// A sealed batch in the cache.
#[derive(Clone, Debug)]
pub struct Cached {
    /// Seqs of its events.
    pub range: SeqRange,
    /// When it was sealed, by the node's monotonic clock.
    pub sealed_at: Instant,
    /// When it was sealed, unix milliseconds.
    pub unix_ms: u64,
    /// The whole frame.
    pub frame: Bytes,
}

impl Cache {
    /// An empty cache of at most `bytes_max` bytes of frames (the newest batch is kept in any case).
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, bytes_max, stored_below: u64::MAX }
    }

    /// Adds the newest batch.
    pub fn push(&mut self, batch: Cached) {
        debug_assert!(self.batches.back().is_none_or(|last| last.range.to == batch.range.from));
        self.bytes += batch.frame.len();
        self.batches.push_back(batch);
        self.shrink();
    }

    /// Keeps batches with seqs at or above this one in any case: they are not in the log yet.
    pub fn set_stored_below(&mut self, seq: u64) {
        // Those who say so come in no order.
        self.stored_below = if self.stored_below == u64::MAX { seq } else { self.stored_below.max(seq) };
        self.shrink();
    }

    fn shrink(&mut self) {
        let goes = |first: &&Cached| first.range.to <= self.stored_below;
        while self.bytes > self.bytes_max
            && self.batches.len() > 1
            && let Some(old) = self.batches.front().filter(goes)
        {
            self.bytes -= old.frame.len();
            self.batches.pop_front();
        }
    }

    /// The oldest seq it holds.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.batches.front().map(|b| b.range.from)
    }

    /// Bytes of the frames it holds.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// The batches with seqs of `range`, in order.
    pub fn range(&self, range: SeqRange) -> impl Iterator<Item = &Cached> {
        let begin = self.batches.partition_point(|b| b.range.to <= range.from);
        self.batches.range(begin..).take_while(move |b| b.range.from < range.to)
    }

    /// The first batch for which this does not hold; the predicate holds for a prefix of the queue.
    #[must_use]
    pub fn first_not(&self, before: impl FnMut(&Cached) -> bool) -> Option<&Cached> {
        self.batches.get(self.batches.partition_point(before))
    }
}
