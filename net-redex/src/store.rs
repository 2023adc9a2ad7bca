//! A log as the memory of a channel in a bus.

use std::sync::{Arc, PoisonError};

use net_channel::{
    BatchHash, Cursor, OpenStore, Seek, SenderKey, SeqRange, Store, StoreError, StoreFuture, StorePlace, Stored,
};
use net_identity::EntityId;
use net_transport::ShortId;

use crate::core::Core;
use crate::format::{Entry, OriginRange, header};
use crate::{Ack, AppendError, Found, Log, LogConfig, Start};

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
    fn enqueue<'a>(&'a self, frame: &'a [u8]) -> StoreFuture<'a, StoreFuture<'static, Stored>> {
        Box::pin(async move {
            let queued = Self::enqueue(self, frame).await.map_err(store_error)?;
            let stored: StoreFuture<'static, Stored> = Box::pin(async move {
                let ack = queued.await.map_err(store_error)?;
                Ok(Stored { offset: ack.offset(), durable: matches!(ack, Ack::Durable { .. }) })
            });
            Ok(stored)
        })
    }

    fn head(&self, origin: &EntityId) -> Option<(u64, BatchHash)> {
        let head = self.core.index().head(&origin.short())?;
        Some((head.next, BatchHash(head.hash)))
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
            Seek::First => self.core.first_seq_of(short).map_err(StoreError::new),
            Seek::Back { before, events } => self.core.seq_back(short, before, events).map_err(StoreError::new),
            Seek::Since(_) if self.next_seq(&short).is_none() => Ok(None),
            Seek::Since(unix_ms) => {
                let start = Start::Time(unix_ms.saturating_mul(NANOS_PER_MS));
                for found in self.read(start).map_err(StoreError::new)? {
                    if let Found::Batch(batch) = found.map_err(StoreError::new)?
                        && batch.header().origin() == short
                    {
                        return Ok(Some(batch.header().seq()));
                    }
                }
                Ok(None)
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
        let begin = frames.len();
        let Some(offset) = self.core.offset_from(short, range.from).map_err(StoreError::new)? else { return Ok(end) };
        for found in Self::read(self, Start::Offset(offset)).map_err(StoreError::new)? {
            let Found::Batch(batch) = found.map_err(StoreError::new)? else { continue };
            let header = batch.header();
            if header.origin() != short || batch.is_compacted() {
                continue;
            }
            let (seq, next) = (header.seq(), header.seq() + u64::from(header.events()));
            if seq >= end {
                break;
            }
            if next <= range.from {
                continue;
            }
            if frames.len() > begin && frames.len() - begin + batch.frame().len() > len_max {
                return Ok(seq);
            }
            frames.extend_from_slice(batch.frame());
        }
        Ok(end)
    }

    fn cursor(&self) -> Cursor {
        Self::cursor(self)
    }

    fn keys(&self, origin: &EntityId) -> Vec<(u64, SenderKey)> {
        Self::keys(self, origin)
    }

    fn add_origin(&self, origin: &EntityId) -> Result<(), StoreError> {
        Self::add_origin(self, *origin).map_err(StoreError::new)
    }

    fn add_key(&self, origin: &EntityId, first_seq: u64, key: &SenderKey) -> Result<(), StoreError> {
        Self::add_key(self, *origin, first_seq, key.clone()).map_err(StoreError::new)
    }

    fn is_open(&self) -> bool {
        self.core.staging().stop.is_none()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.clone().close().map_err(store_error)
    }
}

fn store_error(error: AppendError) -> StoreError {
    match error {
        AppendError::Duplicate { .. } => StoreError::Duplicate,
        error => StoreError::new(error),
    }
}

/// The records of an origin, as an index knows them.
fn entries_of<'a>(
    entries: &'a [Entry],
    origins: &[OriginRange],
    origin: ShortId,
) -> impl DoubleEndedIterator<Item = &'a Entry> + use<'a> {
    let number = origins.iter().position(|o| o.origin == origin).and_then(|n| u16::try_from(n).ok());
    let number = number.filter(|number| *number != u16::MAX);
    entries.iter().filter(move |entry| number.is_some() && entry.origin == number)
}

impl Core {
    /// Goes through the indexes of all segments, until one says what is looked for.
    fn search<T>(
        &self,
        newest_first: bool,
        mut look: impl FnMut(u64, &[Entry], &[OriginRange]) -> Option<T>,
    ) -> std::io::Result<Option<T>> {
        let (sealed, active) = {
            let table = self.table();
            (table.sealed.keys().copied().collect::<Vec<_>>(), table.active.base())
        };
        let mut rounds = sealed.into_iter().map(Some).collect::<Vec<_>>();
        rounds.push(None);
        if newest_first {
            rounds.reverse();
        }
        for base in rounds {
            let found = match base.map(|base| self.sealed_index(base)) {
                Some(Ok(index)) => look(index.meta.base, &index.entries, &index.origins),
                // Retention was faster.
                Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
                Some(Err(error)) => return Err(error),
                None => {
                    let index = self.index();
                    if index.base() != active {
                        // It has ended since, and is one of the others by now.
                        drop(index);
                        return self.search(newest_first, look);
                    }
                    look(index.base(), index.entries(), index.origins())
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The oldest seq of an origin.
    fn first_seq_of(&self, origin: ShortId) -> std::io::Result<Option<u64>> {
        self.search(false, |_, _, origins| {
            let its = origins.iter().find(|o| o.origin == origin)?;
            its.range.map(|(first, _)| first)
        })
    }

    /// The seq from which on so many events of an origin come before this one; its oldest if there are fewer.
    fn seq_back(&self, origin: ShortId, before: u64, events: u64) -> std::io::Result<Option<u64>> {
        let (mut left, mut oldest) = (events, None);
        let found = self.search(true, |_, entries, origins| {
            for entry in entries_of(entries, origins, origin).rev().filter(|entry| entry.seq < before) {
                let count = (entry.seq + u64::from(entry.events)).min(before) - entry.seq;
                if count >= left {
                    return Some(entry.seq + count - left);
                }
                left -= count;
                oldest = Some(entry.seq);
            }
            None
        })?;
        Ok(found.or(oldest))
    }

    /// The offset of the oldest batch of an origin that has a seq at or above this one.
    fn offset_from(&self, origin: ShortId, seq: u64) -> std::io::Result<Option<u64>> {
        let found = self.search(false, |base, entries, origins| {
            let its = origins.iter().find(|o| o.origin == origin)?;
            its.range.filter(|(_, last)| *last >= seq)?;
            let entry = entries_of(entries, origins, origin).find(|e| e.seq + u64::from(e.events) > seq)?;
            Some((base, entry.position))
        })?;
        let Some((base, position)) = found else { return Ok(None) };
        let active = self.table.read().unwrap_or_else(PoisonError::into_inner).active.clone();
        let segment = if active.base() == base { Some(active) } else { self.sealed_segment(base)?.map(|(s, _)| s) };
        let offset = segment.and_then(|segment| {
            let rest = segment.bytes.slice(position..segment.bytes.end())?;
            Some(header(rest, &self.id)?.offset())
        });
        // A damaged record has no offset to tell: then what its segment holds is gone through.
        Ok(Some(offset.unwrap_or(base)))
    }
}
