//! The messages of a link's control stream: `len u16 ‖ postcard`, little-endian. Layout: `docs/spec/link.md`.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::joins::{JoinMessage, PATH_MAX};
use crate::sync::lock;
use crate::{Pair, ShortId, UnjoinReason};

/// Version of the control stream that this build speaks.
pub(crate) const CONTROL_VERSION: u16 = 1;
/// Bytes of one control message at most, without its length.
pub(crate) const MESSAGE_LEN_MAX: usize = 4096;
/// Bytes of control messages that are encoded and not yet written.
pub(crate) const CONTROL_QUEUE_BYTES: usize = 64 << 10;
/// Join messages that may wait for one link; a neighbour that lets more pile up does not read its control stream.
const PENDING_MAX: usize = 1 << 18;

/// What is said on a control stream. Variants are never reordered; new ones are appended and sent only to those whose
/// hello names a version that knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message<'a> {
    /// First on the stream, once, from either end.
    Hello(Hello),
    /// A node record, and how old it was when it was sent.
    Record {
        age_ms: u32,
        record: &'a [u8],
    },
    /// An advert, opaque here.
    Advert(&'a [u8]),
    Join(Pair),
    /// `path`: short ids of 8 bytes each, from the origin's node on.
    Joined {
        pair: Pair,
        path: &'a [u8],
    },
    Unjoin(Pair),
    Unjoined {
        pair: Pair,
        reason: u8,
    },
    Full(Pair),
    Room(Pair),
    /// All joins have been said.
    Synced,
}

/// How two ends of a connection introduce themselves once they know who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    /// Random for each start of the node.
    pub(crate) boot: [u8; 8],
    /// Which of the sender's dials to the receiver this connection is, from 1; 0 from the end that was dialled.
    pub(crate) dial: u64,
    /// How many dials to the receiver the sender had begun when it said this.
    pub(crate) dials: u64,
    /// The sender has another connection with the receiver.
    pub(crate) linked: bool,
    /// The address that the sender sees the receiver at.
    pub(crate) observed: WireAddress,
}

/// Why bytes on a control stream are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("a control message of {0} bytes, the limit is {MESSAGE_LEN_MAX}")]
    TooLong(usize),
    #[error("a control message that cannot be read")]
    Malformed,
    #[error("bytes after a control message")]
    Trailing,
}

impl<'a> Message<'a> {
    /// Parses exactly one message; allocates nothing.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            Ok(_) => Err(MessageError::Trailing),
            Err(_) => Err(MessageError::Malformed),
        }
    }

    /// Appends the message with its length.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let body = postcard::to_allocvec(self).expect("a message is plain data");
        debug_assert!(body.len() <= MESSAGE_LEN_MAX, "what is sent is bounded where it is made");
        let len = u16::try_from(body.len()).expect("bounded by MESSAGE_LEN_MAX");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&body);
    }
}

impl JoinMessage {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Join(pair) => Message::Join(*pair).encode(out),
            Self::Unjoin(pair) => Message::Unjoin(*pair).encode(out),
            Self::Joined(pair, path) => {
                let path: Vec<u8> = path.iter().flat_map(|id| id.0).collect();
                Message::Joined { pair: *pair, path: &path }.encode(out);
            }
            Self::Unjoined(pair, reason) => Message::Unjoined { pair: *pair, reason: *reason as u8 }.encode(out),
            Self::Full(pair) => Message::Full(*pair).encode(out),
            Self::Room(pair) => Message::Room(*pair).encode(out),
            Self::Synced => Message::Synced.encode(out),
        }
    }

    fn slot(&self) -> Slot {
        match self {
            Self::Join(pair) | Self::Unjoin(pair) => Slot::Membership(*pair),
            Self::Joined(pair, _) | Self::Unjoined(pair, _) => Slot::Answer(*pair),
            Self::Full(pair) | Self::Room(pair) => Slot::Fullness(*pair),
            Self::Synced => Slot::Synced,
        }
    }
}

/// The path of a `Joined`, if it is one.
pub(crate) fn parse_path(bytes: &[u8]) -> Result<Vec<ShortId>, MessageError> {
    let (ids, rest) = bytes.as_chunks::<8>();
    if ids.is_empty() || ids.len() > PATH_MAX || !rest.is_empty() {
        return Err(MessageError::Malformed);
    }
    Ok(ids.iter().map(|id| ShortId(*id)).collect())
}

pub(crate) fn parse_reason(code: u8) -> Result<UnjoinReason, MessageError> {
    UnjoinReason::from_wire(code).ok_or(MessageError::Malformed)
}

/// An address as it is written: IPv6 (IPv4 as mapped) and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireAddress {
    ip: [u8; 16],
    port: [u8; 2],
}

/// Bytes of an address.
pub(crate) const ADDRESS_LEN: usize = 18;

impl WireAddress {
    pub(crate) fn to_bytes(self) -> [u8; ADDRESS_LEN] {
        let mut bytes = [0; ADDRESS_LEN];
        bytes[..16].copy_from_slice(&self.ip);
        bytes[16..].copy_from_slice(&self.port);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; ADDRESS_LEN]) -> Self {
        Self { ip: std::array::from_fn(|i| bytes[i]), port: [bytes[16], bytes[17]] }
    }

    /// The address, if it is one that can be dialled.
    pub(crate) fn dialable(self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.ip).to_canonical();
        let port = u16::from_le_bytes(self.port);
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        (port != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast).then(|| SocketAddr::new(ip, port))
    }
}

impl From<SocketAddr> for WireAddress {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: address.port().to_le_bytes() }
    }
}

/// Join messages that wait to be written to one control stream.
///
/// For each pair only the latest of each sort is kept, so what waits is bounded by the pairs, not by how often they
/// change.
#[derive(Debug, Default)]
pub(crate) struct ControlOut {
    pending: Mutex<Pending>,
    pub(crate) ready: Notify,
    /// Notified when more waits than may, also while what was taken is still being written.
    pub(crate) overflowed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    order: VecDeque<Slot>,
    messages: HashMap<Slot, JoinMessage>,
    overflow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slot {
    Membership(Pair),
    Answer(Pair),
    Fullness(Pair),
    Synced,
}

/// More waits for the control stream than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ControlOverflow;

impl ControlOut {
    pub(crate) fn push(&self, message: JoinMessage) {
        let mut pending = lock(&self.pending);
        if pending.overflow {
            // The link is being closed for it; a peer that does not read must not make this grow.
            return;
        }
        let slot = message.slot();
        if let JoinMessage::Join(pair) = &message {
            // A join starts afresh: a fullness that waits was meant for the one before.
            pending.messages.remove(&Slot::Fullness(*pair));
        }
        if pending.messages.insert(slot, message).is_none() {
            if pending.order.len() >= PENDING_MAX {
                *pending = Pending { overflow: true, ..Pending::default() };
                self.overflowed.notify_one();
            } else {
                pending.order.push_back(slot);
            }
        }
        drop(pending);
        self.ready.notify_one();
    }

    /// Appends what waits, up to about `CONTROL_QUEUE_BYTES`; returns how many messages that were.
    pub(crate) fn take(&self, out: &mut Vec<u8>) -> Result<u64, ControlOverflow> {
        let mut pending = lock(&self.pending);
        if pending.overflow {
            return Err(ControlOverflow);
        }
        let mut count = 0;
        while out.len() < CONTROL_QUEUE_BYTES - MESSAGE_LEN_MAX {
            let Some(slot) = pending.order.pop_front() else { break };
            if let Some(message) = pending.messages.remove(&slot) {
                message.encode(out);
                count += 1;
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        let observed = SocketAddr::from(([127, 0, 0, 1], 9000)).into();
        Hello { version: 1, boot: [1; 8], dial: 3, dials: 4, linked: true, observed }
    }

    fn samples(bytes: &[u8]) -> Vec<Message<'_>> {
        let pair = Pair { channel: [1; 32], origin: [2; 32] };
        vec![
            Message::Hello(hello()),
            Message::Record { age_ms: 70, record: bytes },
            Message::Advert(bytes),
            Message::Join(pair),
            Message::Joined { pair, path: bytes },
            Message::Unjoin(pair),
            Message::Unjoined { pair, reason: 1 },
            Message::Full(pair),
            Message::Room(pair),
            Message::Synced,
        ]
    }

    #[test]
    fn messages_round_trip_and_every_cut_or_extension_is_refused() {
        for message in samples(&[5; 16]) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let body = &bytes[2..];
            assert_eq!(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])), body.len());
            assert_eq!(Message::parse(body), Ok(message));
            for n in 0..body.len() {
                assert_eq!(Message::parse(&body[..n]), Err(MessageError::Malformed), "{message:?} cut to {n}");
            }
            let longer = [body, &[0]].concat();
            assert_eq!(Message::parse(&longer), Err(MessageError::Trailing));
        }
    }

    #[test]
    fn bytes_of_version_1_are_these() {
        let encoded = |message: Message<'_>| {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            bytes
        };
        let mut hello_bytes = vec![34, 0, 0, 1];
        hello_bytes.extend([1; 8]);
        hello_bytes.extend([3, 4, 1]);
        hello_bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1, 0x28, 0x23]);
        hello_bytes[0] = u8::try_from(hello_bytes.len() - 2).expect("short");
        assert_eq!(encoded(Message::Hello(hello())), hello_bytes);
        assert_eq!(encoded(Message::Record { age_ms: 300, record: &[9, 8] }), [6, 0, 1, 0xac, 2, 2, 9, 8]);
        assert_eq!(encoded(Message::Advert(&[9])), [3, 0, 2, 1, 9]);
        let pair = Pair { channel: [1; 32], origin: [2; 32] };
        let with_pair = |kind: u8, rest: &[u8]| {
            let body = [&[kind][..], &[1; 32], &[2; 32], rest].concat();
            [&[u8::try_from(body.len()).expect("short"), 0][..], &body].concat()
        };
        assert_eq!(encoded(Message::Join(pair)), with_pair(3, &[]));
        assert_eq!(encoded(Message::Joined { pair, path: &[7; 8] }), with_pair(4, &[8, 7, 7, 7, 7, 7, 7, 7, 7]));
        assert_eq!(encoded(Message::Unjoin(pair)), with_pair(5, &[]));
        assert_eq!(encoded(Message::Unjoined { pair, reason: 3 }), with_pair(6, &[3]));
        assert_eq!(encoded(Message::Full(pair)), with_pair(7, &[]));
        assert_eq!(encoded(Message::Room(pair)), with_pair(8, &[]));
        assert_eq!(encoded(Message::Synced), [1, 0, 9]);
    }

    #[test]
    fn oversized_message_is_refused_before_it_is_read() {
        assert_eq!(Message::parse(&[2; MESSAGE_LEN_MAX + 1]), Err(MessageError::TooLong(MESSAGE_LEN_MAX + 1)));
    }

    #[test]
    fn path_is_one_to_sixteen_ids() {
        assert_eq!(parse_path(&[]), Err(MessageError::Malformed));
        assert_eq!(parse_path(&[1; 7]), Err(MessageError::Malformed));
        assert_eq!(parse_path(&[1; 12]), Err(MessageError::Malformed));
        assert_eq!(parse_path(&[1; 8 * 17]), Err(MessageError::Malformed));
        assert_eq!(parse_path(&[1; 8 * 16]).map(|p| p.len()), Ok(16));
    }

    #[test]
    fn addresses_that_nobody_can_dial_are_left_out() {
        let dialable = |text: &str| WireAddress::from(text.parse::<SocketAddr>().expect("an address")).dialable();
        assert_eq!(dialable("127.0.0.1:80").map(|a| a.to_string()).as_deref(), Some("127.0.0.1:80"));
        assert_eq!(dialable("[2001:db8::1]:80").map(|a| a.to_string()).as_deref(), Some("[2001:db8::1]:80"));
        for bad in ["0.0.0.0:80", "[::]:80", "127.0.0.1:0", "224.0.0.1:80", "[ff02::1]:80", "255.255.255.255:80"] {
            assert_eq!(dialable(bad), None, "{bad}");
        }
    }

    #[test]
    fn latest_message_of_a_pair_replaces_the_one_that_waits() {
        let out = ControlOut::default();
        let (a, b) = (Pair { channel: [1; 32], origin: [0; 32] }, Pair { channel: [2; 32], origin: [0; 32] });
        for message in [
            JoinMessage::Join(a),
            JoinMessage::Full(a),
            JoinMessage::Join(b),
            JoinMessage::Unjoin(a),
            JoinMessage::Join(a),
            JoinMessage::Synced,
        ] {
            out.push(message);
        }
        let mut bytes = Vec::new();
        assert_eq!(out.take(&mut bytes), Ok(3));
        let mut expected = Vec::new();
        Message::Join(a).encode(&mut expected);
        Message::Join(b).encode(&mut expected);
        Message::Synced.encode(&mut expected);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn neighbour_that_never_reads_is_noticed() {
        let out = ControlOut::default();
        for n in 0..=u32::try_from(PENDING_MAX).expect("small") {
            let mut channel = [0; 32];
            channel[..4].copy_from_slice(&n.to_le_bytes());
            out.push(JoinMessage::Join(Pair { channel, origin: [0; 32] }));
        }
        assert_eq!(out.take(&mut Vec::new()), Err(ControlOverflow));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::parse(&bytes) {
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(Message::parse(&again[2..]), Ok(message));
            }
        }
    }
}
