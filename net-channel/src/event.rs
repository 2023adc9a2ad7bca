//! Events, as an application gets them, and what names them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use net_identity::EntityId;
use net_transport::ShortId;
use serde::{Deserialize, Serialize};

use crate::batch::{EventRef, OpenBatch};
use crate::{ChannelName, HeadersRef, Hlc};

/// The name of one event in a channel: who sent it, and which of theirs it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// The key that signed it.
    pub origin: EntityId,
    /// Which one: grows by one with each event, and by more from one incarnation to the next.
    pub seq: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.seq)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.origin, self.seq)
    }
}

/// A cause of a batch: an event of another origin, as it stands in the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Parent {
    /// Short id of the origin.
    pub origin: ShortId,
    /// The event, at least 1.
    pub seq: u64,
    /// First 8 bytes of the hash of the batch that holds the event.
    pub hash: [u8; 8],
}

/// The causes of a batch, in the order of their origins. Cheap to clone; none takes no memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Parents(Option<Arc<[Parent]>>);

impl FromIterator<Parent> for Parents {
    fn from_iter<I: IntoIterator<Item = Parent>>(parents: I) -> Self {
        let mut parents = parents.into_iter().peekable();
        Self(parents.peek().is_some().then(|| parents.collect()))
    }
}

impl Deref for Parents {
    type Target = [Parent];

    fn deref(&self) -> &[Parent] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for Parents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// An opened batch with what its events share beside it: the channel's name and the entity that the origin speaks for.
#[derive(Debug)]
pub struct EventBatch {
    channel: ChannelName,
    entity: EntityId,
    open: OpenBatch,
}

impl EventBatch {
    /// Puts them together: one allocation for a batch, none for an event.
    #[must_use]
    pub fn new(channel: ChannelName, entity: EntityId, open: OpenBatch) -> Arc<Self> {
        Arc::new(Self { channel, entity, open })
    }

    /// The opened batch.
    #[must_use]
    pub fn open(&self) -> &OpenBatch {
        &self.open
    }

    /// The event at this place in the batch, 0 first.
    #[must_use]
    pub fn event(self: &Arc<Self>, index: u16) -> Option<Event> {
        (index < self.open.seal().events()).then(|| Event {
            batch: Arc::clone(self),
            index,
            time_suspect: false,
            late: false,
        })
    }

    /// The events, in the order of their seq.
    pub fn events(self: &Arc<Self>) -> impl ExactSizeIterator<Item = Event> + use<> {
        let batch = Arc::clone(self);
        (0..batch.open.seal().events()).map(move |index| Event {
            batch: Arc::clone(&batch),
            index,
            time_suspect: false,
            late: false,
        })
    }
}

/// One event. Cheap to clone; it keeps its batch (at most 512 KiB, or the event itself) in memory.
#[derive(Clone)]
pub struct Event {
    batch: Arc<EventBatch>,
    index: u16,
    time_suspect: bool,
    late: bool,
}

impl Event {
    /// The batch it came in.
    #[must_use]
    pub fn batch(&self) -> &Arc<EventBatch> {
        &self.batch
    }

    /// The channel it came through.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.batch.channel
    }

    /// The key that signed it.
    #[must_use]
    pub fn origin(&self) -> EntityId {
        self.batch.open.seal().origin()
    }

    /// Whom the origin speaks for, as its advert says.
    #[must_use]
    pub fn entity(&self) -> EntityId {
        self.batch.entity
    }

    /// Which of the origin's events in this channel it is.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.batch.open.seal().seq() + u64::from(self.index)
    }

    /// Its name in the channel.
    #[must_use]
    pub fn dot(&self) -> Dot {
        Dot { origin: self.origin(), seq: self.seq() }
    }

    /// Its name, as a later batch names it among its causes.
    #[must_use]
    pub fn as_parent(&self) -> Parent {
        let seal = self.batch.open.seal();
        Parent { origin: seal.header().origin(), seq: self.seq(), hash: seal.hash().short() }
    }

    /// When it happened, by the origin's clock.
    #[must_use]
    pub fn time(&self) -> Hlc {
        self.parts().time
    }

    /// What its origin had seen of others before it sent the batch. Those before it of its own origin are causes too.
    #[must_use]
    pub fn parents(&self) -> &Parents {
        self.batch.open.seal().parents()
    }

    /// The key, if it has one: events of one key are about one thing.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.parts().key
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> HeadersRef<'_> {
        self.parts().headers
    }

    /// What was published. It lies in memory at a multiple of 8 bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.parts().payload
    }

    /// What was published, without copying it.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.batch.open.slice(self.payload())
    }

    /// Is the time more than a minute past this node's clock?
    #[must_use]
    pub fn time_suspect(&self) -> bool {
        self.time_suspect
    }

    /// Did it arrive after a gap that named it?
    #[must_use]
    pub fn late(&self) -> bool {
        self.late
    }

    /// The same event, marked as one whose clock is ahead.
    #[must_use]
    pub fn with_time_suspect(self, time_suspect: bool) -> Self {
        Self { time_suspect, ..self }
    }

    /// The same event, marked as one that came after its gap.
    #[must_use]
    pub fn with_late(self, late: bool) -> Self {
        Self { late, ..self }
    }

    fn parts(&self) -> EventRef<'_> {
        self.batch.open.event(self.index).expect("an event is made for an index of its batch")
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("channel", self.channel())
            .field("dot", &self.dot())
            .field("time", &self.time())
            .field("payload_len", &self.payload().len())
            .field("time_suspect", &self.time_suspect)
            .field("late", &self.late)
            .finish_non_exhaustive()
    }
}
