//! What a node's subscriptions have seen.

use net_transport::Pair;

use crate::core::item::Item;
use crate::core::line::Delivery;
use crate::core::message::SeqRange;

/// Counters of everything that was refused, repeated or repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Batches delivered, counted once for each subscription.
    pub batches: u64,
    /// Events delivered, counted once for each subscription.
    pub events: u64,
    /// Events delivered after a gap had named them.
    pub late: u64,
    /// Batches that had been delivered already.
    pub duplicates: u64,
    /// Frames that are no batch or Tick of the format.
    pub malformed: u64,
    /// Batches, Ticks and proofs whose signature, hash or origin does not verify.
    pub unverified: u64,
    /// Origins found to have signed two batches for one place, counted once for each subscription.
    pub equivocations: u64,
    /// Batches that verify and could not be opened.
    pub sealed: u64,
    /// Ticks that told something new.
    pub ticks: u64,
    /// Grants that are not the origin's, or not for this node.
    pub grants_refused: u64,
    /// Batches dropped because too much was held; they are fetched when it is their turn.
    pub overflowed: u64,
    /// Requests for what was missing.
    pub fetches: u64,
    /// Gaps told to applications.
    pub gaps: u64,
    /// Restarts told to applications.
    pub restarts: u64,
    /// Positions that were older than what is kept, told to applications.
    pub trimmed: u64,
    /// Adverts, feeds and proofs refused because a table was full.
    pub refused_full: u64,
    /// Messages from a node that has no business sending them.
    pub unexpected: u64,
}

impl Counters {
    /// Counts what is delivered, and says of which pair events are.
    pub(super) fn count(&mut self, delivery: &Delivery) -> Option<Pair> {
        match delivery {
            Delivery::Batch { source, batch, skip, late, .. } => {
                self.batches += 1;
                self.events += u64::from(batch.open().seal().events() - skip);
                self.late += late.iter().map(SeqRange::len).sum::<u64>();
                return Some(source.pair);
            }
            Delivery::Sealed { source, batch, .. } => {
                self.batches += 1;
                self.events += u64::from(batch.seal().events());
                return Some(source.pair);
            }
            Delivery::Item(Item::Gap(_)) => self.gaps += 1,
            Delivery::Item(Item::Restart(_)) => self.restarts += 1,
            Delivery::Item(Item::Trimmed(_)) => self.trimmed += 1,
            Delivery::Item(Item::Equivocation(_)) => self.equivocations += 1,
            Delivery::Item(Item::Sealed(sealed)) => {
                self.sealed += 1;
                return Some(sealed.source.pair);
            }
            Delivery::Key { .. } | Delivery::Item(Item::Event(_)) => {}
        }
        None
    }
}
