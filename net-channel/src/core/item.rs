//! What a subscription delivers.

use std::fmt;
use std::sync::Arc;

use net_identity::EntityId;
use net_transport::Pair;

use crate::core::SeqRange;
use crate::{BatchHash, ChannelName, Event};

/// One thing that a subscription tells its application, in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Item {
    /// An event: its signature verified, its place in its origin's chain checked, each exactly once.
    Event(Event),
    /// Events that exist and cannot be had from any source; delivery goes on behind them.
    Gap(Gap),
    /// The origin's producer was started again; what lay between may be lost.
    Restart(Restart),
    /// The origin signed two different batches for one place in its chain. Nothing more of this incarnation is
    /// delivered.
    Equivocation(Fork),
}

/// Two batches of one origin for one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Whose.
    pub source: Arc<Source>,
    /// First seq of the batch that does not continue the chain of what was delivered.
    pub seq: u64,
}

/// Events that could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Whose events.
    pub source: Arc<Source>,
    /// Which seqs.
    pub range: SeqRange,
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
            Self::Gap(_) | Self::Restart(_) | Self::Equivocation(_) => None,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(e) => write!(f, "{} {}", e.channel(), String::from_utf8_lossy(e.payload())),
            Self::Gap(g) => {
                write!(f, "{} gap: {} events of {} cannot be had", g.source.channel, g.range.len(), g.source.origin)
            }
            Self::Equivocation(e) => {
                write!(f, "{} equivocation: {} signed two batches at {}", e.source.channel, e.source.origin, e.seq)
            }
            Self::Restart(r) => write!(f, "{} restart of {}", r.source.channel, r.source.origin),
        }
    }
}
