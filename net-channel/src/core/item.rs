//! What a subscription delivers: events, and everything that is not an event and must not be hidden.

use std::fmt;
use std::sync::Arc;

use net_identity::EntityId;
use net_transport::Pair;

use crate::core::SeqRange;
use crate::{BatchHash, ChannelName, Dot, Equivocation, Event, KeyId};

/// One thing that a subscription tells its application, in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Item {
    /// An event: its signature verified, its place in its origin's chain checked, each exactly once, and none before
    /// its causes, except for causes that a [`Item::Gap`] named before it.
    Event(Event),
    /// Events that exist, or are said to exist, and are not waited for any longer.
    Gap(Gap),
    /// The origin's producer was started again; what lay between may be lost.
    Restart(Restart),
    /// Events whose signature verifies and which this node cannot open.
    Sealed(Sealed),
    /// The origin signed two different batches for one place in its chain. Nothing more of this incarnation is
    /// delivered.
    Equivocation(Fork),
    /// The position at which the subscription was to begin is older than what is kept.
    Trimmed(Trimmed),
}

/// Two batches of one origin for one place.
#[derive(Clone, Debug)]
pub struct Fork {
    /// Whose.
    pub source: Arc<Source>,
    /// From this seq on nothing of the incarnation is trusted.
    pub seq: u64,
    /// The two batches, for anyone to check. None when only the chain shows it: a batch follows one that this node
    /// never saw in the place of one that it did see.
    pub proof: Option<Arc<Equivocation>>,
}

/// Events that are not waited for any longer. Should they come after all, they are delivered once, marked
/// [`Event::late`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Whose events.
    pub source: Arc<Source>,
    /// Which seqs.
    pub range: SeqRange,
    /// Why.
    pub why: GapWhy,
    /// The event that is delivered next without these, its causes. None where the origin's own events go on behind the
    /// range.
    pub before: Option<Dot>,
}

/// Why events are not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapWhy {
    /// Every source that could be asked says that it does not have them.
    Unavailable,
    /// They were kept once, and are not any more.
    Trimmed,
    /// No source could be reached for [`GAP_AFTER`](crate::core::GAP_AFTER).
    Unreachable,
    /// Another origin names them as causes, and theirs says that it has not published them.
    Denied,
    /// Lost, in a realtime channel: those are not repaired.
    Realtime,
}

/// A new incarnation of an origin whose chain does not continue what this subscription saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Whose.
    pub source: Arc<Source>,
    /// The last seq delivered before it.
    pub last_seen: u64,
    /// First seq of the new incarnation.
    pub incarnation: u64,
    /// Hash of the batch that the new incarnation continues; zero if it continues none.
    pub prev: BatchHash,
}

/// Events that are there and cannot be read here. They count as delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Whose events.
    pub source: Arc<Source>,
    /// Which seqs.
    pub range: SeqRange,
    /// Why.
    pub why: SealedWhy,
}

/// Why a batch that verifies is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealedWhy {
    /// Nobody gave this node the key.
    NoKey(KeyId),
    /// It does not open under the key that the origin committed to, or holds no events: the origin's fault.
    Malformed,
}

/// A subscription was to begin before the oldest event that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// Whose events.
    pub source: Arc<Source>,
    /// The seq it was to begin with.
    pub asked: u64,
    /// The seq it begins with.
    pub first: u64,
}

/// One origin's events in one channel, as a subscription names it in what it delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The channel's name.
    pub channel: ChannelName,
    /// The key that signs.
    pub origin: EntityId,
    /// For whom the origin speaks.
    pub entity: EntityId,
    /// Full channel hash and origin key.
    pub pair: Pair,
}

impl Item {
    /// The event, if it is one.
    #[must_use]
    pub fn event(self) -> Option<Event> {
        match self {
            Self::Event(event) => Some(event),
            _ => None,
        }
    }

    /// The seq behind this item in its origin's events: where a cursor stands once the application has it. None if the
    /// item moves no cursor, and for events, of which [`Event::seq`] says it.
    #[must_use]
    pub fn moves_to(&self) -> Option<(Pair, u64)> {
        match self {
            Self::Gap(gap) if gap.before.is_none() => Some((gap.source.pair, gap.range.to)),
            Self::Restart(restart) => Some((restart.source.pair, restart.incarnation)),
            Self::Sealed(sealed) => Some((sealed.source.pair, sealed.range.to)),
            Self::Trimmed(trimmed) => Some((trimmed.source.pair, trimmed.first)),
            Self::Event(_) | Self::Gap(_) | Self::Equivocation(_) => None,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(e) => write!(f, "{} {}", e.channel(), String::from_utf8_lossy(e.payload())),
            Self::Gap(g) => {
                write!(f, "{} gap: {} events of {} {}", g.source.channel, g.range.len(), g.source.origin, g.why)
            }
            Self::Restart(r) => write!(f, "{} restart of {}", r.source.channel, r.source.origin),
            Self::Sealed(s) => {
                write!(f, "{} sealed: {} events of {}: {}", s.source.channel, s.range.len(), s.source.origin, s.why)
            }
            Self::Equivocation(e) => {
                write!(f, "{} equivocation: {} signed two batches at {}", e.source.channel, e.source.origin, e.seq)
            }
            Self::Trimmed(t) => write!(
                f,
                "{} trimmed: {} keeps its events from {} on, {} was asked for",
                t.source.channel, t.source.origin, t.first, t.asked
            ),
        }
    }
}

impl fmt::Display for GapWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "cannot be had",
            Self::Trimmed => "are not kept any more",
            Self::Unreachable => "are out of reach",
            Self::Denied => "are named as causes and were never published",
            Self::Realtime => "were lost",
        })
    }
}

impl fmt::Display for SealedWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey(id) => write!(f, "nobody gave this node the key {id}"),
            Self::Malformed => f.write_str("the origin sealed no events"),
        }
    }
}
