//! What is said over the control socket.

use std::net::SocketAddr;

use net::channel::ChannelInfo;
use net::{Event, Item};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::start::Start;

/// The version of this protocol. Both ends are of one build almost always; when they are not, this says so.
pub(crate) const VERSION: u32 = 2;
/// The most patterns of one [`Request::Keep`].
pub(crate) const PATTERNS_MAX: usize = 64;

/// The first line of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub(crate) version: u32,
    pub(crate) request: Request,
}

/// What is wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// With `stay`, the connection stays open until the node stops.
    Status {
        stay: bool,
    },
    Ticket,
    Peers,
    Channels,
    /// The node's figures as OpenMetrics.
    Metrics,
    /// Remember and dial the peers of a ticket of this mesh.
    Join {
        ticket: String,
    },
    /// Answered with [`Reply::Subscribed`] and then a [`Reply::Item`] for each item.
    Subscribe {
        pattern: String,
        start: Start,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
    },
    /// Followed by [`Feed`]s.
    Publish,
    /// Keep channels for as long as the connection stays open. Answered with [`Reply::Keeping`], and then with a
    /// [`Reply::Kept`] whenever a log fails or does so no more.
    Keep {
        patterns: Vec<String>,
    },
}

/// What follows a [`Request::Publish`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Feed {
    /// Publish this.
    Event(Publication),
    /// That was all; wait for delivery at most so many milliseconds. With `patient`, somebody subscribed before another
    /// process was the node, and is waited for.
    Finish { linger_ms: u64, patient: bool },
}

/// An event to publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publication {
    pub(crate) channel: String,
    pub(crate) payload: Blob,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Blob>,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Status(Status),
    /// A secret.
    Ticket(String),
    Peers(Vec<PeerRow>),
    Channels {
        producers: Vec<ChannelRow>,
        keeps: Vec<KeepRow>,
    },
    Metrics(String),
    /// So many peers are dialled.
    Joined {
        peers: usize,
    },
    Subscribed,
    Item(ItemRow),
    /// So many of the events that were sent are sealed and on their way, and so many of these in a log of the node.
    Taken {
        events: u64,
        stored: u64,
    },
    Keeping,
    Kept(KeptRow),
    Delivered(Delivered),
    Refused {
        message: String,
        next: Option<String>,
        usage: bool,
    },
}

/// The node that answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) node: String,
    pub(crate) origin: String,
    /// The public name of the mesh.
    pub(crate) mesh: String,
    pub(crate) pid: u32,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) links: usize,
    pub(crate) known_peers: usize,
    pub(crate) mdns: bool,
    pub(crate) uptime_ms: u64,
    pub(crate) notes: Vec<String>,
    /// Everything that was done, dropped or refused, by cause; zeros are left out.
    pub(crate) counters: Vec<(String, u64)>,
    /// Subscriptions that have not been handed everything that is known to exist, and how many events they lack.
    #[serde(default)]
    pub(crate) behind: Vec<(String, u64)>,
}

/// A link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerRow {
    pub(crate) node: String,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) linked: bool,
    /// Bytes that wait to be sent there.
    #[serde(default)]
    pub(crate) queued_bytes: u64,
    /// Frames from there that were dropped.
    #[serde(default)]
    pub(crate) frames_dropped: u64,
    /// Frames that were not queued for it because it was full or slow; they are fetched again.
    #[serde(default)]
    pub(crate) frames_skipped: u64,
    /// Why it is not linked, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) says: Option<String>,
}

/// A producer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ChannelRow {
    pub(crate) channel: String,
    pub(crate) origin: String,
    pub(crate) entity: String,
    pub(crate) node: String,
    /// If this node produces it: who takes it, and how far they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) takers: Option<Takers>,
}

/// Channels that this node keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeepRow {
    /// The pattern.
    pub(crate) keeps: String,
    /// Those that there are.
    pub(crate) channels: Vec<KeptRow>,
}

/// A channel that this node keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptRow {
    pub(crate) channel: String,
    /// Events in its log.
    pub(crate) events: u64,
    /// Why nothing is stored at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
}

/// Who takes a channel of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Takers {
    /// Nodes that are subscribed.
    pub(crate) subscribers: usize,
    /// Events that the slowest of them has not been handed.
    pub(crate) lag_max: u64,
}

/// Who has what was published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delivered {
    /// Events published.
    pub(crate) events: u64,
    /// Of these, the events that are in a log of this node.
    pub(crate) stored: u64,
    /// Whether this node keeps one of the channels.
    pub(crate) kept: bool,
    /// Other nodes that have all of it on their disks.
    pub(crate) keepers: usize,
    /// Nodes that are subscribed to one of the channels; this one if one of its commands is, and not for what it keeps.
    pub(crate) subscribers: usize,
    /// Of these, the nodes that have everything.
    pub(crate) complete: usize,
    /// Nodes that were subscribed and have left meanwhile; what they have is not known.
    pub(crate) left: usize,
}

/// An item of a subscription.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ItemRow {
    Event(EventRow),
    /// Events `from..to` of the origin are not waited for any longer.
    Gap {
        channel: String,
        origin: String,
        from: u64,
        to: u64,
        why: String,
        /// The event that comes next without these, its causes: origin and seq.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
    },
    /// Events `from..to` of the origin are there and cannot be read here.
    Sealed {
        channel: String,
        origin: String,
        from: u64,
        to: u64,
        why: String,
    },
    /// The position asked for is older than what the origin keeps.
    Trimmed {
        channel: String,
        origin: String,
        asked: u64,
        first: u64,
    },
    /// The origin's producer was started again.
    Restart {
        channel: String,
        origin: String,
        last_seen: u64,
        incarnation: u64,
    },
    /// The origin signed two batches for one place.
    Equivocation {
        channel: String,
        origin: String,
        seq: u64,
    },
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EventRow {
    pub(crate) channel: String,
    pub(crate) origin: String,
    pub(crate) entity: String,
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    /// It came after a gap had named it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) late: bool,
    #[serde(flatten)]
    pub(crate) payload: Blob,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Blob>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<HeaderRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parents: Vec<ParentRow>,
}

/// A header of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HeaderRow {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) value: Blob,
}

/// A cause of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ParentRow {
    /// The short id of the origin.
    pub(crate) origin: String,
    pub(crate) seq: u64,
}

/// Bytes: as text where they are text, in base64 where they are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Blob {
    Text(String),
    Base64(String),
}

impl Blob {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        // Control characters take six bytes each in JSON: base64 keeps the line within its limit.
        let short = |text: &&str| text.bytes().all(|b| b >= 0x20 || matches!(b, b'\n' | b'\r' | b'\t'));
        match std::str::from_utf8(bytes).ok().filter(short) {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Base64(data_encoding::BASE64.encode(bytes)),
        }
    }

    pub(crate) fn into_bytes(self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Base64(text) => data_encoding::BASE64
                .decode(text.as_bytes())
                .map_err(|error| Failure::usage(format!("not base64: {error}"))),
        }
    }
}

impl std::fmt::Display for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Base64(text) => write!(f, "base64:{text}"),
        }
    }
}

impl Reply {
    pub(crate) fn refused(failure: Failure) -> Self {
        Self::Refused { message: failure.message, next: failure.next, usage: failure.usage }
    }
}

impl ItemRow {
    /// The row of an item; nothing for kinds of item that this program does not know.
    pub(crate) fn of(item: &Item) -> Option<Self> {
        let names = |source: &net::channel::Source| (source.channel.to_string(), source.origin.to_string());
        Some(match item {
            Item::Event(event) => Self::Event(EventRow::of(event)),
            Item::Gap(gap) => {
                let (channel, origin) = names(&gap.source);
                let (from, to, why) = (gap.range.from, gap.range.to, gap.why.to_string());
                Self::Gap { channel, origin, from, to, why, before: gap.before.map(|dot| dot.to_string()) }
            }
            Item::Sealed(sealed) => {
                let (channel, origin) = names(&sealed.source);
                let (from, to, why) = (sealed.range.from, sealed.range.to, sealed.why.to_string());
                Self::Sealed { channel, origin, from, to, why }
            }
            Item::Trimmed(trimmed) => {
                let (channel, origin) = names(&trimmed.source);
                Self::Trimmed { channel, origin, asked: trimmed.asked, first: trimmed.first }
            }
            Item::Restart(restart) => {
                let (channel, origin) = names(&restart.source);
                Self::Restart { channel, origin, last_seen: restart.last_seen, incarnation: restart.incarnation }
            }
            Item::Equivocation(equivocation) => {
                let (channel, origin) = names(&equivocation.source);
                Self::Equivocation { channel, origin, seq: equivocation.seq }
            }
            _ => return None,
        })
    }
}

impl EventRow {
    fn of(event: &Event) -> Self {
        let header = |(name, value): (&str, &[u8])| HeaderRow { name: name.to_owned(), value: Blob::new(value) };
        Self {
            channel: event.channel().to_string(),
            origin: event.origin().to_string(),
            entity: event.entity().to_string(),
            seq: event.seq(),
            time_ms: event.time().unix_ms(),
            late: event.late(),
            payload: Blob::new(event.payload()),
            key: event.key().map(Blob::new),
            headers: event.headers().iter().map(header).collect(),
            parents: event
                .parents()
                .iter()
                .map(|parent| ParentRow { origin: parent.origin.to_string(), seq: parent.seq })
                .collect(),
        }
    }
}

impl From<ChannelInfo> for ChannelRow {
    fn from(info: ChannelInfo) -> Self {
        Self {
            channel: info.name.to_string(),
            origin: info.origin.to_string(),
            entity: info.entity.to_string(),
            node: info.node.to_string(),
            takers: None,
        }
    }
}
