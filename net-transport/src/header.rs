//! The 64-byte header that starts every frame.
//!
//! A forwarder decides from these bytes alone. Layout: `docs/spec/header.md`.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ShortId;

/// Bytes of a header.
pub const HEADER_LEN: usize = 64;
/// The most payload bytes that may follow a header: 1 MiB and 16 KiB.
pub const PAYLOAD_LEN_MAX: usize = (1 << 20) + (16 << 10);
/// The most bytes of a whole frame.
pub const FRAME_LEN_MAX: usize = HEADER_LEN + PAYLOAD_LEN_MAX;
/// The `ttl` a frame starts with.
pub const TTL_DEFAULT: u8 = 16;

const VERSION: u8 = 1;
const OFFSET_TTL: usize = 3;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// A sealed batch of events.
    Batch = 1,
    /// A datagram of an end-to-end connection.
    Tunnel = 2,
    /// A call, inside an end-to-end connection only.
    Rpc = 3,
    /// Neighbour to neighbour, never forwarded.
    Control = 4,
    /// Reserved: a one-way sealed message.
    Unicast = 5,
    /// An origin's signed statement of its last seq.
    Tick = 6,
}

impl Kind {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Batch,
            2 => Self::Tunnel,
            3 => Self::Rpc,
            4 => Self::Control,
            5 => Self::Unicast,
            6 => Self::Tick,
            _ => return None,
        })
    }
}

/// How far a frame may travel: a filter on where traffic goes, never an authorisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Visibility {
    /// The origin's subnet only.
    Local = 0,
    /// The origin's subnet and its ancestors.
    ParentVisible = 1,
    /// The subnets listed for the channel.
    Exported = 2,
    /// Everywhere.
    #[default]
    Global = 3,
}

impl Visibility {
    /// The visibility with this number, 0 to 3.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Local,
            1 => Self::ParentVisible,
            2 => Self::Exported,
            3 => Self::Global,
            _ => return None,
        })
    }
}

/// Which of the four queues of a link a frame waits in; the highest leaves first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// Before everything else.
    Highest = 0,
    /// Before normal traffic.
    High = 1,
    /// The default.
    #[default]
    Normal = 2,
    /// When nothing else waits.
    Low = 3,
}

impl Priority {
    /// The four priorities, highest first.
    pub const ALL: [Self; 4] = [Self::Highest, Self::High, Self::Normal, Self::Low];

    /// The priority with this number, 0 (highest) to 3.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Self::ALL.get(usize::from(bits)).copied()
    }
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Fewer than 64 bytes.
    #[error("a header has 64 bytes, found {found}")]
    Truncated {
        /// Bytes that were there.
        found: usize,
    },
    /// A version that this build does not speak.
    #[error("unknown frame version {0}")]
    Version(u8),
    /// A kind that this build does not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A reserved bit or byte is set.
    #[error("reserved bits are set in byte {offset}")]
    Reserved {
        /// Offset of the byte in the header.
        offset: usize,
    },
    /// More payload than a frame may have.
    #[error("a payload of {len} bytes, the limit is {PAYLOAD_LEN_MAX}")]
    TooLong {
        /// The length the header names.
        len: u32,
    },
}

/// The header, as it lies in memory and on the wire.
///
/// A `&Header` from [`Header::parse`] has passed every check that needs no other state: version, known kind,
/// reserved bits, length. Numbers are little-endian.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    ver_kind: u8,
    flags: u8,
    scope_prio: u8,
    ttl: u8,
    len: U32,
    channel: U64,
    origin: [u8; 8],
    dest: [u8; 8],
    seq: U64,
    events: U16,
    zero: U16,
    subnet: [u8; 4],
    incarnation: U64,
    cap: [u8; 4],
    key_id: [u8; 4],
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN && align_of::<Header>() == 1);

impl Header {
    /// Bit of [`Header::flags`]: the body is sealed.
    pub const SEALED: u8 = 1;
    /// Bit of [`Header::flags`]: newest wins, nothing is repaired.
    pub const REALTIME: u8 = 2;

    /// A header of this kind with every other field zero, ttl [`TTL_DEFAULT`], global and of normal priority.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            ver_kind: VERSION << 4 | kind as u8,
            flags: 0,
            scope_prio: Visibility::Global as u8 | (Priority::Normal as u8) << 2,
            ttl: TTL_DEFAULT,
            len: U32::ZERO,
            channel: U64::ZERO,
            origin: [0; 8],
            dest: [0; 8],
            seq: U64::ZERO,
            events: U16::ZERO,
            zero: U16::ZERO,
            subnet: [0; 4],
            incarnation: U64::ZERO,
            cap: [0; 4],
            key_id: [0; 4],
        }
    }

    /// The header at the start of `bytes`, borrowed, if it is one.
    ///
    /// # Errors
    /// [`HeaderError`], for everything that can be seen without other state. What follows the header is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<&Self, HeaderError> {
        let Ok((header, _)) = Self::ref_from_prefix(bytes) else {
            return Err(HeaderError::Truncated { found: bytes.len() });
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), HeaderError> {
        if self.ver_kind >> 4 != VERSION {
            return Err(HeaderError::Version(self.ver_kind >> 4));
        }
        if Kind::from_bits(self.ver_kind & 0x0f).is_none() {
            return Err(HeaderError::Kind(self.ver_kind & 0x0f));
        }
        if self.flags & !(Self::SEALED | Self::REALTIME) != 0 {
            return Err(HeaderError::Reserved { offset: 1 });
        }
        if self.scope_prio & 0xf0 != 0 {
            return Err(HeaderError::Reserved { offset: 2 });
        }
        if self.zero.get() != 0 {
            return Err(HeaderError::Reserved { offset: 42 });
        }
        if self.payload_len() > PAYLOAD_LEN_MAX {
            return Err(HeaderError::TooLong { len: self.len.get() });
        }
        Ok(())
    }

    /// What the frame is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::from_bits(self.ver_kind & 0x0f).expect("checked when it was parsed, or set from a Kind")
    }

    /// [`Header::SEALED`] and [`Header::REALTIME`].
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Is it of a realtime channel: newest wins, nothing is repaired?
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        self.flags & Self::REALTIME != 0
    }

    /// Sets the flag bits; others than the two named ones are refused by [`Header::parse`].
    pub fn set_flags(&mut self, flags: u8) {
        self.flags = flags;
    }

    /// How far the frame may travel.
    #[must_use]
    pub fn visibility(&self) -> Visibility {
        Visibility::from_bits(self.scope_prio & 3).expect("two bits name four visibilities")
    }

    /// The queue the frame waits in.
    #[must_use]
    pub fn priority(&self) -> Priority {
        Priority::from_bits(self.scope_prio >> 2 & 3).expect("two bits name four priorities")
    }

    /// Sets visibility and priority.
    pub fn set_scope(&mut self, visibility: Visibility, priority: Priority) {
        self.scope_prio = visibility as u8 | (priority as u8) << 2;
    }

    /// Hops left; the only byte that a forwarder changes.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    /// Sets the hops left.
    pub fn set_ttl(&mut self, ttl: u8) {
        self.ttl = ttl;
    }

    /// Payload bytes after the header.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.len.get() as usize
    }

    /// Sets the payload length in bytes.
    pub fn set_payload_len(&mut self, len: u32) {
        self.len = U32::new(len);
    }

    /// First 8 bytes of the channel hash.
    #[must_use]
    pub fn channel(&self) -> u64 {
        self.channel.get()
    }

    /// Sets the first 8 bytes of the channel hash (little-endian).
    pub fn set_channel(&mut self, channel: u64) {
        self.channel = U64::new(channel);
    }

    /// Short id of the origin that signed the frame.
    #[must_use]
    pub fn origin(&self) -> ShortId {
        ShortId(self.origin)
    }

    /// Sets the short id of the origin.
    pub fn set_origin(&mut self, origin: ShortId) {
        self.origin = origin.0;
    }

    /// Short id of the one node this is for; zero is whoever joined (channel, origin).
    #[must_use]
    pub fn dest(&self) -> ShortId {
        ShortId(self.dest)
    }

    /// Sets the destination.
    pub fn set_dest(&mut self, dest: ShortId) {
        self.dest = dest.0;
    }

    /// Seq of the first event of the batch.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq.get()
    }

    /// Sets the seq of the first event.
    pub fn set_seq(&mut self, seq: u64) {
        self.seq = U64::new(seq);
    }

    /// Events in the batch.
    #[must_use]
    pub fn events(&self) -> u16 {
        self.events.get()
    }

    /// Sets the number of events.
    pub fn set_events(&mut self, events: u16) {
        self.events = U16::new(events);
    }

    /// The place of the origin's node, one byte a level; zero is the root.
    #[must_use]
    pub fn subnet(&self) -> [u8; 4] {
        self.subnet
    }

    /// Sets the place of the origin's node.
    pub fn set_subnet(&mut self, subnet: [u8; 4]) {
        self.subnet = subnet;
    }

    /// Seq of the first event of this incarnation of the origin.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation.get()
    }

    /// Sets the incarnation.
    pub fn set_incarnation(&mut self, incarnation: u64) {
        self.incarnation = U64::new(incarnation);
    }

    /// First 4 bytes of the hash of the capability the origin publishes under; zero is none needed.
    #[must_use]
    pub fn cap(&self) -> [u8; 4] {
        self.cap
    }

    /// Sets the capability hint.
    pub fn set_cap(&mut self, cap: [u8; 4]) {
        self.cap = cap;
    }

    /// Which of the origin's sender keys sealed the batch.
    #[must_use]
    pub fn key_id(&self) -> [u8; 4] {
        self.key_id
    }

    /// Sets the sender key id.
    pub fn set_key_id(&mut self, key_id: [u8; 4]) {
        self.key_id = key_id;
    }

    /// The 64 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; HEADER_LEN] {
        zerocopy::transmute_ref!(self)
    }

    /// The 64 bytes with `ttl` zero: what hashes, signatures and associated data cover.
    #[must_use]
    pub fn to_signed_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = *self.as_bytes();
        bytes[OFFSET_TTL] = 0;
        bytes
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header")
            .field("kind", &Kind::from_bits(self.ver_kind & 0x0f))
            .field("flags", &self.flags)
            .field("ttl", &self.ttl)
            .field("len", &self.len.get())
            .field("channel", &format_args!("{:016x}", self.channel.get()))
            .field("origin", &self.origin())
            .field("dest", &self.dest())
            .field("seq", &self.seq.get())
            .field("events", &self.events.get())
            .field("incarnation", &self.incarnation.get())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        let mut h = Header::new(Kind::Batch);
        h.set_flags(Header::SEALED);
        h.set_payload_len(4096);
        h.set_channel(0x0102_0304_0506_0708);
        h.set_origin(ShortId([9; 8]));
        h.set_seq(77);
        h.set_events(3);
        h.set_incarnation(70);
        h.set_key_id([1, 2, 3, 4]);
        h
    }

    #[test]
    fn header_round_trips() {
        let h = sample();
        assert_eq!(Header::parse(h.as_bytes()), Ok(&h));
        assert_eq!(h.kind(), Kind::Batch);
        assert_eq!((h.visibility(), h.priority()), (Visibility::Global, Priority::Normal));
    }

    #[test]
    fn each_of_512_flipped_bits_is_refused_or_seen() {
        let good = sample();
        for bit in 0..512 {
            let mut bytes = *good.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match Header::parse(&bytes) {
                Err(_) => {}
                Ok(bad) => {
                    assert_ne!(bad, &good, "bit {bit}");
                    let covered = bad.to_signed_bytes() != good.to_signed_bytes();
                    assert_eq!(covered, bit / 8 != OFFSET_TTL, "bit {bit}: only ttl is outside the signature");
                }
            }
        }
    }

    #[test]
    fn reserved_bits_are_refused() {
        for (offset, mask) in [(1, 0xfcu8), (2, 0xf0), (42, 0xff), (43, 0xff)] {
            for bit in (0..8).filter(|b| mask >> b & 1 == 1) {
                let mut bytes = *sample().as_bytes();
                bytes[offset] |= 1 << bit;
                assert!(matches!(Header::parse(&bytes), Err(HeaderError::Reserved { .. })), "{offset}.{bit}");
            }
        }
    }

    #[test]
    fn len_beyond_the_limit_is_refused() {
        let mut h = sample();
        let max = u32::try_from(PAYLOAD_LEN_MAX).expect("a little over 1 MiB");
        h.set_payload_len(max);
        assert!(Header::parse(h.as_bytes()).is_ok());
        h.set_payload_len(max + 1);
        assert_eq!(Header::parse(h.as_bytes()), Err(HeaderError::TooLong { len: max + 1 }));
    }

    #[test]
    fn truncated_is_refused_at_every_length() {
        for n in 0..HEADER_LEN {
            assert_eq!(Header::parse(&sample().as_bytes()[..n]), Err(HeaderError::Truncated { found: n }));
        }
    }
}
