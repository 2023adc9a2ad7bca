//! The bytes of seal and records, and what is hashed, signed and sealed of them.

use aws_lc_rs::aead::{AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use net_identity::EntityId;
use net_transport::{Aead, HEADER_LEN, Header, MeshId, ShortId};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BatchHash, SEAL_LEN};
use crate::{ChannelHash, Parent, context};

pub(super) const FORMAT: u8 = 1;
pub(super) const FLAG_FIRST: u8 = 1;
pub(super) const FLAG_PARENTS_CUT: u8 = 2;
/// The body is under AES-256-GCM, and not under ChaCha20-Poly1305.
pub(super) const FLAG_AES: u8 = 4;
pub(super) const FLAGS: u8 = FLAG_FIRST | FLAG_PARENTS_CUT | FLAG_AES;
/// Bytes of the authentication tag at the end of the body.
pub(super) const TAG_LEN: usize = 16;
/// Bytes of the seal that the batch hash covers: all but the signature.
const HASHED_LEN: usize = 128;
/// Bytes of the seal before `body_hash`, which associated data cannot cover.
const ASSOCIATED_LEN: usize = 48;

/// The clear part of a batch after the header, without the parents.
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

const _: () = assert!(size_of::<SealBytes>() == SEAL_LEN);

impl SealBytes {
    pub(super) fn aead(&self) -> Aead {
        if self.flags & FLAG_AES == 0 { Aead::ChaCha20Poly1305 } else { Aead::Aes256Gcm }
    }
}

/// One parent, as it stands after the seal.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ParentBytes {
    pub(super) origin: [u8; 8],
    pub(super) seq: U64,
    pub(super) hash: [u8; 8],
}

pub(super) const PARENT_LEN: usize = 24;
const _: () = assert!(size_of::<ParentBytes>() == PARENT_LEN);

impl From<&Parent> for ParentBytes {
    fn from(parent: &Parent) -> Self {
        Self { origin: parent.origin.0, seq: U64::new(parent.seq), hash: parent.hash }
    }
}

impl From<&ParentBytes> for Parent {
    fn from(bytes: &ParentBytes) -> Self {
        Self { origin: ShortId(bytes.origin), seq: bytes.seq.get(), hash: bytes.hash }
    }
}

/// What stands before the payload of each event.
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
const _: () = assert!(size_of::<RecordBytes>() == RECORD_LEN);
/// Records start at multiples of this.
pub(super) const RECORD_ALIGN: usize = 8;
/// Bytes of an entry of the offset table.
pub(super) const OFFSET_LEN: usize = 4;

/// Bytes of header, seal, `parents` parents and padding: where the body starts.
pub(super) const fn head_len(parents: usize) -> usize {
    HEADER_LEN + (SEAL_LEN + parents * PARENT_LEN).next_multiple_of(16)
}

pub(super) fn batch_hash(header: &Header, seal: &SealBytes, parents: &[ParentBytes]) -> BatchHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(context::BATCH_HASH.as_bytes());
    hasher.update(&header.to_signed_bytes());
    hasher.update(&seal.as_bytes()[..HASHED_LEN]);
    hasher.update(parents.as_bytes());
    BatchHash(*hasher.finalize().as_bytes())
}

/// What the origin signs.
pub(super) fn signed_message(mesh: &MeshId, channel: &ChannelHash, origin: &EntityId, hash: &BatchHash) -> Vec<u8> {
    [context::BATCH.as_bytes(), &mesh.0, &channel.0, origin.as_bytes(), &hash.0].concat()
}

/// All of the clear part that is known before the body is sealed.
pub(super) fn associated_data(header: &Header, seal: &SealBytes, parents: &[ParentBytes]) -> Vec<u8> {
    let seal_prefix = &seal.as_bytes()[..ASSOCIATED_LEN];
    [&header.to_signed_bytes(), seal_prefix, &seal.key_commit, &seal.salt, parents.as_bytes()].concat()
}

pub(super) fn key_commit(batch_key: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key(context::BATCH_KEY_COMMIT, batch_key)
}

/// Neither cipher commits to its key by itself: that is what `key_commit` is for.
pub(super) fn cipher(aead: Aead, batch_key: &[u8; 32]) -> LessSafeKey {
    let algorithm = match aead {
        Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        Aead::Aes256Gcm => &AES_256_GCM,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, batch_key).expect("a key of 32 bytes"))
}

/// A batch key seals one body, so one nonce is enough.
pub(super) fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}
