//! Where the parts of a batch lie. Byte tables: `docs/spec/batch.md`.

use net_transport::{HEADER_LEN, ShortId};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a seal without parents.
pub const SEAL_LEN: usize = 192;
/// Bytes of the seal that the batch hash covers: everything before the signature.
pub(super) const SEAL_HASHED: usize = 128;
/// Bytes of one parent.
pub const PARENT_LEN: usize = 24;
/// The most parents of a batch.
pub const PARENTS_MAX: usize = 255;
/// What frames, bodies and records are aligned to, seen from the start of the frame.
pub(super) const BODY_ALIGN: usize = 16;
/// Bytes of the tag that ends a sealed body.
pub(super) const TAG_LEN: usize = 16;

/// The most events of a batch.
pub const EVENTS_MAX: usize = 1_024;
/// A batch takes no further event when its body has this many bytes.
pub const BATCH_LEN_FULL: usize = 64 << 10;
/// The most bytes of an event: payload, key and headers together.
pub const EVENT_LEN_MAX: usize = 1 << 20;
/// The most bytes of a key.
pub const KEY_LEN_MAX: usize = 1 << 10;
/// The most bytes of an event's headers, as encoded.
pub const HEADERS_LEN_MAX: usize = 16 << 10;

pub(super) const FORMAT: u8 = 1;
pub(super) const FLAG_FIRST: u8 = 1;
pub(super) const FLAG_PARENTS_CUT: u8 = 2;

/// The clear part of a batch, before its parents.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SealBytes {
    pub(super) format: u8,
    pub(super) flags: u8,
    pub(super) parents: u8,
    pub(super) zero: [u8; 5],
    pub(super) time: U64,
    pub(super) prev: [u8; 32],
    pub(super) body_hash: [u8; 32],
    pub(super) key_commit: [u8; 32],
    pub(super) salt: [u8; 16],
    pub(super) signature: [u8; 64],
}

/// A parent as it lies in a batch.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ParentBytes {
    pub(super) origin: [u8; 8],
    pub(super) seq: U64,
    pub(super) hash: [u8; 8],
}

/// What precedes each event in a body.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RecordBytes {
    pub(super) payload_len: U32,
    pub(super) key_len: U16,
    pub(super) headers_len: U16,
    pub(super) time_delta: U32,
    pub(super) flags: U32,
}

pub(super) const RECORD_LEN: usize = 16;
pub(super) const OFFSET_LEN: usize = 4;

const _: () = assert!(size_of::<SealBytes>() == SEAL_LEN);
const _: () = assert!(size_of::<ParentBytes>() == PARENT_LEN);
const _: () = assert!(size_of::<RecordBytes>() == RECORD_LEN);

/// A cause of a batch: an event of another origin of the channel, and the beginning of its batch's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Parent {
    /// Short id of its origin.
    pub origin: ShortId,
    /// Its seq.
    pub seq: u64,
    /// First 8 bytes of the hash of the batch it is in.
    pub hash: [u8; 8],
}

/// Bytes from the start of a frame to its body, with this many parents.
pub(super) const fn body_offset(parents: usize) -> usize {
    (HEADER_LEN + SEAL_LEN + PARENT_LEN * parents).next_multiple_of(BODY_ALIGN)
}
