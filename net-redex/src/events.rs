//! Reading events: each batch's signature is verified, and its body opened, before its events are given out.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use net_channel::{BatchError, EventRef, KeyId, OpenBatch, OpenError as BatchOpenError, SealedBatch, SenderKey};
use net_identity::EntityId;
use net_transport::ShortId;

use crate::compact::{KEYS_MAX, short_hash};
use crate::core::lock;
use crate::hole::{DotRange, Hole, dots_of};
use crate::keyring::KeyRingError;
use crate::{Batch, Found, Log, ReadError, Reader, Start};

impl AsRef<[u8]> for Batch {
    fn as_ref(&self) -> &[u8] {
        self.frame()
    }
}

/// One event of a log: its batch's signature is verified. Cheap to clone; it keeps its batch in memory.
#[derive(Clone, Debug)]
pub struct LogEvent {
    batch: Arc<OpenBatch>,
    index: u16,
    offset: u64,
}

impl LogEvent {
    /// The event at `index` of a batch that stands at the offset `of_batch`.
    pub(crate) fn new(batch: Arc<OpenBatch>, index: u16, of_batch: u64) -> Self {
        Self { batch, index, offset: of_batch + u64::from(index) }
    }

    /// Its place in this log.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Who signed it.
    #[must_use]
    pub fn origin(&self) -> EntityId {
        self.batch.seal().origin()
    }

    /// Seq, time, key, headers, payload.
    #[must_use]
    pub fn get(&self) -> EventRef<'_> {
        self.batch.event(self.index).expect("the index was taken from this batch")
    }

    /// What was published.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.get().payload
    }

    /// The batch that holds it.
    #[must_use]
    pub fn batch(&self) -> &Arc<OpenBatch> {
        &self.batch
    }
}

/// One thing that a log tells, in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventItem {
    /// An event.
    Event(LogEvent),
    /// Damage; what follows is readable.
    Hole(Hole),
    /// Retention gave up what stood here; reading goes on at `first`.
    Trimmed {
        /// The oldest offset that is kept.
        first: u64,
    },
    /// Every event of a batch was superseded, and its body is gone.
    Compacted {
        /// The events' offsets.
        offsets: Range<u64>,
        /// Whose, and which.
        dots: DotRange,
    },
    /// A batch that cannot be opened here.
    Sealed {
        /// The events' offsets.
        offsets: Range<u64>,
        /// Whose, and which.
        dots: DotRange,
        /// Why.
        why: SealedWhy,
    },
}

/// Why a batch was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealedWhy {
    /// Nobody told the log this origin's public key.
    #[error("the origin's public key is not known here: add it to the log")]
    UnknownOrigin,
    /// The key ring does not have this key.
    #[error("the key ring does not hold key {0}")]
    NoKey(KeyId),
    /// The signature, or what it covers, is not right.
    #[error("the batch does not verify: {0}")]
    Invalid(BatchError),
    /// The body does not open.
    #[error("the body does not open: {0}")]
    Body(BatchOpenError),
}

/// Reads a log event by event. At the end it gives nothing, and something again when the log has grown.
#[derive(Debug)]
pub struct Events {
    log: Log,
    reader: Reader,
    open: Option<Open>,
    /// The key that opened the last batch: mostly it opens the next.
    key: Option<(ShortId, EntityId, SenderKey)>,
    /// Offsets before this one were not asked for.
    from: u64,
    /// The offset of the newest event of each key: older ones are hidden.
    newest: Option<HashMap<[u8; 16], u64>>,
}

#[derive(Debug)]
struct Open {
    batch: Arc<OpenBatch>,
    index: u16,
    offset: u64,
}

impl Log {
    /// Reads events from here on, with the keys of the log's key ring.
    ///
    /// # Errors
    /// [`ReadError`] if the place is another log's, or the disk refuses.
    pub fn events(&self, start: Start) -> Result<Events, ReadError> {
        let from = match &start {
            Start::Offset(offset) => *offset,
            Start::Place(place) => place.offset,
            _ => 0,
        };
        Ok(Events { log: self.clone(), reader: self.read(start)?, open: None, key: None, from, newest: None })
    }

    /// Reads events from the beginning, and of each key only the newest, as of now. Events without a key are all
    /// given. Superseded ones that compaction could not take, because another of their batch stays, are hidden.
    ///
    /// # Errors
    /// [`ReadError`] if the disk refuses, or there are more than four million keys.
    pub fn newest_events(&self) -> Result<Events, ReadError> {
        let mut newest = HashMap::new();
        for item in self.events(Start::Earliest)? {
            if let EventItem::Event(event) = item?
                && let Some(key) = event.get().key
            {
                newest.insert(short_hash(key), event.offset());
                if newest.len() > KEYS_MAX {
                    return Err(ReadError::TooManyKeys);
                }
            }
        }
        Ok(Events { newest: Some(newest), ..self.events(Start::Earliest)? })
    }

    /// Tells the log an origin's public key, which `verify` and reading events need.
    ///
    /// # Errors
    /// [`KeyRingError`].
    pub fn add_origin(&self, origin: EntityId) -> Result<(), KeyRingError> {
        let mut keys = lock(&self.core.keys);
        if keys.add_origin(origin)? { keys.save(&self.core.files()) } else { Ok(()) }
    }

    /// Adds a key that opens this origin's batches from this seq on. Kept on the disk, encrypted, if the log has a ring
    /// secret.
    ///
    /// # Errors
    /// [`KeyRingError`].
    pub fn add_key(&self, origin: EntityId, first_seq: u64, key: SenderKey) -> Result<(), KeyRingError> {
        let mut keys = lock(&self.core.keys);
        if keys.add_key(origin, first_seq, key)? { keys.save(&self.core.files()) } else { Ok(()) }
    }

    /// The keys of an origin, each with the first seq that it may have sealed, in that order.
    #[must_use]
    pub fn keys(&self, origin: &EntityId) -> Vec<(u64, SenderKey)> {
        lock(&self.core.keys).keys_of(&origin.short())
    }

    /// Forgets a key, in memory and on the disk: what it sealed can never be opened again from here.
    ///
    /// # Errors
    /// [`KeyRingError`].
    pub fn remove_key(&self, origin: &ShortId, id: KeyId) -> Result<(), KeyRingError> {
        let mut keys = lock(&self.core.keys);
        if keys.remove_key(origin, id) { keys.save(&self.core.files()) } else { Ok(()) }
    }

    /// The origins whose public keys the log knows.
    #[must_use]
    pub fn origins(&self) -> Vec<EntityId> {
        lock(&self.core.keys).origins().collect()
    }

    /// Verifies and opens a batch with the key ring.
    ///
    /// # Errors
    /// [`SealedWhy`].
    pub fn open_batch(&self, batch: &Batch) -> Result<OpenBatch, SealedWhy> {
        let (short, id) = (batch.header().origin(), KeyId(batch.header().key_id()));
        let (origin, key) = self.key_of(&short, id)?;
        self.open_with(batch, &origin, &key)
    }

    fn key_of(&self, short: &ShortId, id: KeyId) -> Result<(EntityId, SenderKey), SealedWhy> {
        let keys = lock(&self.core.keys);
        let origin = keys.origin(short).ok_or(SealedWhy::UnknownOrigin)?;
        let key = keys.key(short, id).ok_or(SealedWhy::NoKey(id))?;
        Ok((origin, key.clone()))
    }

    fn open_with(&self, batch: &Batch, origin: &EntityId, key: &SenderKey) -> Result<OpenBatch, SealedWhy> {
        let frame = Bytes::from_owner(batch.clone());
        let sealed =
            SealedBatch::verify(frame, &self.core.mesh, &self.core.channel, origin).map_err(SealedWhy::Invalid)?;
        sealed.open(key).map_err(SealedWhy::Body)
    }
}

impl Events {
    /// The next event, or what stands in place of some; nothing at the end of what there is now.
    ///
    /// # Errors
    /// [`ReadError`]; reading can be tried again.
    pub fn next_item(&mut self) -> Result<Option<EventItem>, ReadError> {
        loop {
            if let Some(event) = self.next_open() {
                if self.is_superseded(&event) {
                    continue;
                }
                return Ok(Some(EventItem::Event(event)));
            }
            let Some(found) = self.reader.next_found()? else { return Ok(None) };
            if let Some(item) = self.take(found) {
                return Ok(Some(item));
            }
        }
    }

    fn is_superseded(&self, event: &LogEvent) -> bool {
        let newest = self.newest.as_ref().and_then(|newest| newest.get(&short_hash(event.get().key?)));
        newest.is_some_and(|newest| event.offset() < *newest)
    }

    fn next_open(&mut self) -> Option<LogEvent> {
        let open = self.open.as_mut()?;
        if open.index >= open.batch.seal().events() {
            self.open = None;
            return None;
        }
        let event = LogEvent::new(open.batch.clone(), open.index, open.offset);
        open.index += 1;
        Some(event)
    }

    /// What a found thing tells; nothing for a batch that opens, whose events come next.
    fn take(&mut self, found: Found) -> Option<EventItem> {
        let batch = match found {
            Found::Batch(batch) => batch,
            Found::Hole(hole) => return Some(EventItem::Hole(hole)),
            Found::Trimmed { first } => return Some(EventItem::Trimmed { first }),
        };
        let header = batch.header();
        let dots = dots_of(header);
        let offsets = batch.offset()..batch.next_offset();
        if batch.is_compacted() {
            return Some(EventItem::Compacted { offsets, dots });
        }
        match self.open_batch(&batch) {
            Ok(open) => {
                let skip = self.from.saturating_sub(batch.offset());
                let index = u16::try_from(skip).unwrap_or(u16::MAX);
                self.open = Some(Open { batch: Arc::new(open), index, offset: batch.offset() });
                None
            }
            Err(why) => Some(EventItem::Sealed { offsets, dots, why }),
        }
    }

    fn open_batch(&mut self, batch: &Batch) -> Result<OpenBatch, SealedWhy> {
        let (short, id) = (batch.header().origin(), KeyId(batch.header().key_id()));
        let known = self.key.as_ref().is_some_and(|(last, _, key)| *last == short && key.key_id() == id);
        if !known {
            let (origin, key) = self.log.key_of(&short, id)?;
            self.key = Some((short, origin, key));
        }
        let (_, origin, key) = self.key.as_ref().expect("just set, or known");
        self.log.open_with(batch, origin, key)
    }
}

impl Events {
    /// Blocks until there is an item, or the time is over.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn wait_item(&mut self, timeout: Duration) -> Result<Option<EventItem>, ReadError> {
        let deadline = Instant::now() + timeout;
        loop {
            let version = self.log.core.watch.version();
            if let Some(item) = self.next_item()? {
                return Ok(Some(item));
            }
            if !self.log.core.watch.wait(version, deadline.saturating_duration_since(Instant::now())) {
                return Ok(None);
            }
        }
    }

    /// What comes next, as soon as there is something: first history, then what is appended, without a seam.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost.
    pub fn follow(&mut self) -> FollowEvents<'_> {
        FollowEvents { events: self }
    }
}

/// Waits for the next item of [`Events`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct FollowEvents<'a> {
    events: &'a mut Events,
}

impl Future for FollowEvents<'_> {
    type Output = Result<EventItem, ReadError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let version = self.events.log.core.watch.version();
            if let Some(item) = self.events.next_item()? {
                return Poll::Ready(Ok(item));
            }
            if self.events.log.core.watch.poll(version, context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Iterator for Events {
    type Item = Result<EventItem, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_item().transpose()
    }
}
