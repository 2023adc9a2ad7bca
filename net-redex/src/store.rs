//! A log as the memory of a channel in a bus.

use std::sync::Arc;

use net_channel::{
    BatchHash, Cursor, OpenStore, Seek, SenderKey, SeqRange, Store, StoreError, StoreFuture, StorePlace, Stored,
};
use net_identity::EntityId;
use net_transport::ShortId;

use crate::core::Core;
use crate::format::{Entry, OriginRange};
use crate::segment::Segment;
use crate::{Ack, AppendError, Batch, KeyRingError, Log, LogConfig};

const NANOS_PER_MS: u64 = 1_000_000;

impl OpenStore for LogConfig {
    fn open(&self, place: &StorePlace) -> Result<Arc<dyn Store>, StoreError> {
        let mut config = self.clone().channel(place.mesh, place.channel);
        if let (None, Some(secret)) = (&config.ring_secret, place.secret) {
            config = config.ring_secret(secret);
        }
        let log = Log::open(&place.dir, config).map_err(StoreError::new)?;
        Ok(Arc::new(log))
    }
}

impl Store for Log {
    fn enqueue<'a>(&'a self, frame: &'a [u8], expected: Option<u64>) -> StoreFuture<'a, StoreFuture<'static, Stored>> {
        Box::pin(async move {
            let queued = self.enqueue_if(expected, frame).await.map_err(append_error)?;
            let stored: StoreFuture<'static, Stored> = Box::pin(async move {
                let ack = queued.await.map_err(append_error)?;
                Ok(Stored { offset: ack.offset(), durable: matches!(ack, Ack::Durable { .. }) })
            });
            Ok(stored)
        })
    }

    fn events(&self) -> u64 {
        self.next_offset().saturating_sub(self.first_offset())
    }

    fn head(&self, origin: &EntityId) -> Option<(u64, BatchHash)> {
        let head = self.core.index().head(&origin.short())?;
        // What was lost behind it had another hash, which nobody knows: whoever has seen it, or not, is told of a break.
        let is_end_lost = self.lost(origin).any(|lost| lost.is_none_or(|(_, last)| last >= head.next));
        let hash = if is_end_lost { BatchHash::ZERO } else { BatchHash(head.hash) };
        Some((head.next, hash))
    }

    fn run(&self, origin: &EntityId) -> Option<SeqRange> {
        let index = self.core.index();
        let next = index.head(&origin.short())?.next;
        let its = entries_of(index.entries(), index.origins(), origin.short());
        let from = its.rev().map(|e| (e.seq, e.seq + u64::from(e.events))).try_fold(next, |from, (seq, end)| {
            // What came late stands behind what follows it.
            if end == from { Ok(seq) } else { Err(from) }
        });
        let (Ok(from) | Err(from)) = from;
        Some(SeqRange { from, to: next })
    }

    fn seek(&self, origin: &EntityId, to: Seek) -> Result<Option<u64>, StoreError> {
        let short = origin.short();
        match to {
            Seek::First => {
                let first = self.core.first_seq_of(short).map_err(StoreError::new)?;
                // What was lost is asked for too, so that it is named.
                Ok(first.into_iter().chain(self.lost(origin).flatten().map(|(first, _)| first)).min())
            }
            Seek::Back { before, events } => self.core.seq_back(short, before, events).map_err(StoreError::new),
            Seek::Since(unix_ms) => {
                let time = unix_ms.saturating_mul(NANOS_PER_MS);
                let every = SeqRange { from: 0, to: u64::MAX };
                let mut found = None;
                let walked = self.core.walk_origin(short, every, time, |batch| {
                    found = (batch.time() >= time).then(|| batch.header().seq());
                    found.is_none()
                });
                walked.map_err(StoreError::new)?;
                Ok(found)
            }
        }
    }

    fn read(
        &self,
        origin: &EntityId,
        range: SeqRange,
        len_max: usize,
        frames: &mut Vec<u8>,
    ) -> Result<u64, StoreError> {
        let short = origin.short();
        // Taken before reading: what is appended meanwhile is not said to be missing.
        let end = range.to.min(self.next_seq(&short).unwrap_or(range.from)).max(range.from);
        let (begin, mut covered) = (frames.len(), end);
        let walked = self.core.walk_origin(short, SeqRange { to: end, ..range }, 0, |batch| {
            if batch.is_compacted() {
                return true;
            }
            if frames.len() > begin && frames.len() - begin + batch.frame().len() > len_max {
                covered = batch.header().seq();
                return false;
            }
            frames.extend_from_slice(batch.frame());
            true
        });
        walked.map_err(StoreError::new)?;
        Ok(covered)
    }

    fn cursor(&self) -> Cursor {
        Self::cursor(self)
    }

    fn keys(&self, origin: &EntityId) -> Vec<(u64, SenderKey)> {
        Self::keys(self, origin)
    }

    fn batch_len_max(&self) -> usize {
        self.core.config.batch_len_max().try_into().unwrap_or(usize::MAX)
    }

    fn add_origin(&self, origin: &EntityId) -> Result<(), StoreError> {
        Self::add_origin(self, *origin).map_err(ring_error)
    }

    fn add_key(&self, origin: &EntityId, first_seq: u64, key: &SenderKey) -> Result<(), StoreError> {
        Self::add_key(self, *origin, first_seq, key.clone()).map_err(ring_error)
    }

    fn is_open(&self) -> bool {
        self.core.staging().stop.is_none()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.clone().close().map_err(append_error)
    }
}

impl Log {
    /// First and last seq of what damage has taken of an origin; nothing where it is not known whose it was.
    fn lost(&self, origin: &EntityId) -> impl Iterator<Item = Option<(u64, u64)>> + use<> {
        let (origin, first) = (origin.short(), self.first_offset());
        let holes = self.holes().into_iter().filter(move |hole| hole.offsets.start >= first);
        holes.flat_map(move |hole| {
            let its = hole.dots.iter().filter(move |dots| dots.origin == origin);
            let mut lost: Vec<_> = its.map(|dots| Some((dots.first, dots.last))).collect();
            if hole.dots.is_empty() {
                lost.push(None);
            }
            lost
        })
    }
}

fn append_error(error: AppendError) -> StoreError {
    match error {
        AppendError::Duplicate { .. } => StoreError::Duplicate,
        AppendError::NotABatch(_) | AppendError::OtherChannel | AppendError::TooLarge { .. } => {
            StoreError::refused(error)
        }
        error => StoreError::new(error),
    }
}

fn ring_error(error: KeyRingError) -> StoreError {
    match error {
        KeyRingError::Full | KeyRingError::Collision => StoreError::refused(error),
        error => StoreError::new(error),
    }
}

/// The records that are an origin's, or may be: those of the 65,536th origin and later say it themselves.
fn entries_of<'a>(
    entries: &'a [Entry],
    origins: &[OriginRange],
    origin: ShortId,
) -> impl DoubleEndedIterator<Item = &'a Entry> + use<'a> {
    let place = origins.iter().position(|o| o.origin == origin);
    let number = place.and_then(|n| u16::try_from(n).ok()).filter(|number| *number != u16::MAX);
    entries.iter().filter(move |entry| place.is_some() && entry.origin == number)
}

/// Whether an origin has something in a segment that ends a range of seqs.
fn reaches(origins: &[OriginRange], origin: ShortId, range: SeqRange) -> bool {
    let its = origins.iter().find(|o| o.origin == origin).and_then(|o| o.range);
    its.is_some_and(|(first, last)| first < range.to && last >= range.from)
}

impl Core {
    /// The bases of the sealed segments, and that of the one being written.
    fn all_bases(&self) -> (Vec<u64>, u64) {
        let table = self.table();
        (table.sealed.keys().copied().collect(), table.active.base())
    }

    /// Goes through the batches of an origin with seqs of a range, in the order of the log, in segments that end at this
    /// time or later, as long as `take` says so. It reads what the indexes name and nothing else.
    fn walk_origin(
        &self,
        origin: ShortId,
        range: SeqRange,
        time: u64,
        mut take: impl FnMut(&Batch) -> bool,
    ) -> std::io::Result<()> {
        let overlaps = |e: &&Entry| e.seq < range.to && e.seq + u64::from(e.events) > range.from;
        let mut done: Option<u64> = None;
        loop {
            let (sealed, active) = self.all_bases();
            for base in sealed {
                if done.is_some_and(|done| base <= done) {
                    continue;
                }
                // None of a segment that retention was faster to give up.
                let Some((segment, index)) = self.sealed_segment(base)? else { continue };
                done = Some(base);
                if index.meta.end_time < time || !reaches(&index.origins, origin, range) {
                    continue;
                }
                for entry in entries_of(&index.entries, &index.origins, origin).filter(overlaps) {
                    if !self.show(&segment, entry, origin, &mut take) {
                        return Ok(());
                    }
                }
            }
            let entries: Vec<Entry> = {
                let index = self.index();
                if index.base() != active {
                    // It has ended since, and is one of the others by now.
                    drop(index);
                    std::thread::yield_now();
                    continue;
                }
                entries_of(index.entries(), index.origins(), origin).filter(overlaps).copied().collect()
            };
            let segment = self.table().active.clone();
            if segment.base() != active {
                continue;
            }
            for entry in &entries {
                if !self.show(&segment, entry, origin, &mut take) {
                    break;
                }
            }
            return Ok(());
        }
    }

    /// Gives the batch at an entry to `take`, if its checksums hold.
    fn show(
        &self,
        segment: &Arc<Segment>,
        entry: &Entry,
        origin: ShortId,
        take: &mut impl FnMut(&Batch) -> bool,
    ) -> bool {
        match Batch::at(segment, entry.position, &self.id) {
            Some(batch) if batch.header().origin() == origin => take(&batch),
            _ => true,
        }
    }

    /// The oldest seq of an origin.
    fn first_seq_of(&self, origin: ShortId) -> std::io::Result<Option<u64>> {
        let first = |origins: &[OriginRange]| {
            origins.iter().find(|o| o.origin == origin).and_then(|o| o.range.map(|(first, _)| first))
        };
        for base in self.all_bases().0 {
            let known = {
                let table = self.table();
                let ranges = table.sealed.get(&base).and_then(|slot| slot.ranges.as_ref());
                ranges.map(|ranges| ranges.iter().find(|(of, ..)| *of == origin).map(|(_, first, _)| *first))
            };
            let found = match known {
                Some(found) => found,
                None => match self.sealed_index(base) {
                    Ok(index) => {
                        self.remember_ranges(base, &index);
                        first(&index.origins)
                    }
                    // Retention was faster.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                },
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(first(self.index().origins()))
    }

    /// The seq from which on so many events of an origin come before this one; its oldest if there are fewer.
    fn seq_back(&self, origin: ShortId, before: u64, events: u64) -> std::io::Result<Option<u64>> {
        let (mut left, mut oldest) = (events, None);
        let mut look = |entries: &[Entry], origins: &[OriginRange]| {
            for entry in entries_of(entries, origins, origin).rev().filter(|entry| entry.seq < before) {
                let count = (entry.seq + u64::from(entry.events)).min(before) - entry.seq;
                if count >= left {
                    return Some(entry.seq + count - left);
                }
                left -= count;
                oldest = Some(entry.seq);
            }
            None
        };
        let active = {
            let index = self.index();
            if let Some(found) = look(index.entries(), index.origins()) {
                return Ok(Some(found));
            }
            index.base()
        };
        // Asked for after the index was looked at: a segment that has ended meanwhile is among them, and was seen.
        for base in self.all_bases().0.into_iter().rev().filter(|base| *base < active) {
            match self.sealed_index(base) {
                Ok(index) => {
                    if let Some(found) = look(&index.entries, &index.origins) {
                        return Ok(Some(found));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(oldest)
    }
}
