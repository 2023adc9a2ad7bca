//! Events, as an application sees them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use net_identity::EntityId;

use crate::batch::{BatchHash, OpenedBatch, Parent};
use crate::{ChannelName, Hlc};

/// Names one event of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who signed it.
    pub origin: EntityId,
    /// Its place in the origin's order in the channel.
    pub seq: u64,
}

/// An event that was published on a channel.
///
/// Its origin's signature has been verified. Payload, key and headers share the memory of the batch they came in:
/// copy what is kept for long.
#[derive(Clone)]
pub struct Event {
    /// Where it was published.
    pub channel: ChannelName,
    /// The key that signed it.
    pub origin: EntityId,
    /// For whom the origin speaks.
    pub entity: EntityId,
    /// Its place in the origin's order in this channel.
    pub seq: u64,
    /// When it was published, by the origin's clock.
    pub time: Hlc,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its headers.
    pub headers: Headers,
    /// What was published.
    pub payload: Bytes,
    batch: Arc<OpenedBatch>,
}

impl Event {
    /// The event at `index` of a batch of this channel and origin.
    ///
    /// # Panics
    /// If the batch has no such event.
    #[must_use]
    pub fn from_batch(
        channel: &ChannelName,
        origin: EntityId,
        entity: EntityId,
        batch: &Arc<OpenedBatch>,
        index: usize,
    ) -> Self {
        let record = batch.record(index);
        let time = batch.time();
        Self {
            channel: channel.clone(),
            origin,
            entity,
            seq: batch.seq() + index as u64,
            time: Hlc::new(time.unix_ms() + u64::from(record.time_delta_ms), time.counter()),
            key: record.key,
            headers: record.headers,
            payload: record.payload,
            batch: batch.clone(),
        }
    }

    /// Its name in the channel.
    #[must_use]
    pub fn dot(&self) -> Dot {
        Dot { origin: self.origin, seq: self.seq }
    }

    /// Its causes of other origins: what the publisher's application had been given before, and what it named.
    #[must_use]
    pub fn parents(&self) -> &[Parent] {
        self.batch.parents()
    }

    /// This event as a cause of another, for [`crate::Publish::after`].
    #[must_use]
    pub fn as_parent(&self) -> Parent {
        Parent { origin: self.origin.short(), seq: self.seq, hash: self.batch_hash().short() }
    }

    /// Whether this event is the one that a parent names.
    #[must_use]
    pub fn is(&self, parent: &Parent) -> bool {
        self.seq == parent.seq && self.as_parent() == *parent
    }

    /// The hash of the batch it came in.
    #[must_use]
    pub fn batch_hash(&self) -> &BatchHash {
        self.batch.hash()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("channel", &self.channel)
            .field("origin", &self.origin)
            .field("seq", &self.seq)
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.channel, String::from_utf8_lossy(&self.payload))
    }
}

/// The headers of an event: names and values, in the order in which they were given.
#[derive(Clone, Default)]
pub struct Headers(Bytes);

impl Headers {
    /// Headers whose form has been checked.
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The value of the first header of this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All headers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (name, value, after) = split_header(rest)?;
            rest = after;
            Some((name, value))
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(n, v)| (n, String::from_utf8_lossy(v)))).finish()
    }
}

fn split_header(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let [name_len, a, b, rest @ ..] = bytes else { return None };
    let (name, rest) = rest.split_at_checked(usize::from(*name_len))?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([*a, *b])))?;
    Some((std::str::from_utf8(name).ok()?, value, rest))
}

/// Whether the bytes are headers to the last.
pub(crate) fn valid_headers(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some((_, _, rest)) = split_header(bytes) else { return false };
        bytes = rest;
    }
    true
}
