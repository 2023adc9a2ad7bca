//! A batch as it came: parsed, then verified, then opened; each step needs the one before it.

use bytes::BytesMut;
use net_identity::EntityId;
use net_transport::{HEADER_LEN, Header, Kind, MeshId, ShortId};
use zerocopy::FromBytes;

use super::layout::{
    FLAG_FIRST, FLAG_PARENTS_CUT, FORMAT, OFFSET_LEN, PARENT_LEN, Parent, ParentBytes, RECORD_LEN, SEAL_HASHED, SEAL_LEN,
    SealBytes, TAG_LEN, body_offset,
};
use super::{BatchError, BatchHash, OpenError, OpenedBatch, signed_bytes};
use crate::{ChannelHash, Hlc, KeyId, SenderKey};

/// A frame that has the form of a sealed batch. Nothing is known of its truth yet.
#[derive(Debug)]
pub struct Sealed {
    frame: BytesMut,
    body: usize,
}

/// A batch whose signature and body hash have been checked against its channel and origin.
#[derive(Debug)]
pub struct Verified {
    sealed: Sealed,
    channel: ChannelHash,
    hash: BatchHash,
}

impl Sealed {
    /// Checks the form of a whole frame.
    ///
    /// # Errors
    /// [`BatchError`] for everything that can be seen without keys.
    pub fn parse(frame: BytesMut) -> Result<Self, BatchError> {
        let header = Header::parse(&frame)?;
        if header.kind() != Kind::Batch {
            return Err(BatchError::Kind);
        }
        if header.flags() & Header::SEALED == 0 {
            return Err(BatchError::Clear);
        }
        let found = frame.len();
        if found != HEADER_LEN + header.payload_len() {
            return Err(BatchError::Length { found, expected: HEADER_LEN + header.payload_len() });
        }
        let Ok((seal, _)) = SealBytes::ref_from_prefix(&frame[HEADER_LEN..]) else {
            return Err(BatchError::Length { found, expected: HEADER_LEN + SEAL_LEN });
        };
        if seal.format != FORMAT {
            return Err(BatchError::Format(seal.format));
        }
        let body = body_offset(usize::from(seal.parents));
        let events = usize::from(header.events());
        let least = body + events * (RECORD_LEN + OFFSET_LEN) + TAG_LEN;
        if found < least {
            return Err(BatchError::Length { found, expected: least });
        }
        let parents_end = HEADER_LEN + SEAL_LEN + PARENT_LEN * usize::from(seal.parents);
        let padding = &frame[parents_end..body];
        if seal.flags & !(FLAG_FIRST | FLAG_PARENTS_CUT) != 0 || seal.zero != [0; 5] || padding.iter().any(|b| *b != 0) {
            return Err(BatchError::Reserved);
        }
        let (seq, incarnation) = (header.seq(), header.incarnation());
        let first = seal.flags & FLAG_FIRST != 0;
        let overflows = seq.checked_add(events as u64).is_none();
        if seq == 0 || events == 0 || overflows || incarnation == 0 || incarnation > seq || first != (seq == incarnation) {
            return Err(BatchError::Seq);
        }
        let own = header.origin();
        let sealed = Self { frame, body };
        if sealed.parents().any(|parent| parent.origin == own || parent.seq == 0) {
            return Err(BatchError::OwnParent);
        }
        Ok(sealed)
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        Header::parse(&self.frame).expect("checked when it was parsed")
    }

    /// Which sender key opens it.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId(self.header().key_id())
    }

    /// The whole frame.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// The causes it names.
    pub fn parents(&self) -> impl Iterator<Item = Parent> + '_ {
        let count = usize::from(self.seal().parents);
        let bytes = &self.frame[HEADER_LEN + SEAL_LEN..][..count * PARENT_LEN];
        bytes.chunks_exact(PARENT_LEN).map(|bytes| {
            let parent = ParentBytes::ref_from_bytes(bytes).expect("a chunk has the length of a parent");
            Parent { origin: ShortId(parent.origin), seq: parent.seq.get(), hash: parent.hash }
        })
    }

    /// The hash that names it.
    #[must_use]
    pub fn hash(&self) -> BatchHash {
        let parents_end = HEADER_LEN + SEAL_LEN + PARENT_LEN * usize::from(self.seal().parents);
        let seal = &self.frame[HEADER_LEN..];
        BatchHash::of(self.header(), &seal[..SEAL_HASHED], &self.frame[HEADER_LEN + SEAL_LEN..parents_end])
    }

    /// Checks that it is this origin's batch in this channel of this mesh: hints, body hash, signature (strictly).
    ///
    /// # Errors
    /// The batch itself, unchanged, and why.
    pub fn verify(
        self,
        mesh: &MeshId,
        channel: &ChannelHash,
        origin: &EntityId,
    ) -> Result<Verified, (Self, BatchError)> {
        let header = self.header();
        if header.channel() != channel.prefix() || header.origin() != ShortId::of(origin.as_bytes()) {
            return Err((self, BatchError::Pair));
        }
        if *blake3::hash(&self.frame[self.body..]).as_bytes() != self.seal().body_hash {
            return Err((self, BatchError::BodyHash));
        }
        let hash = self.hash();
        if origin.verify(&signed_bytes(mesh, channel, origin, &hash), &self.seal().signature).is_err() {
            return Err((self, BatchError::Signature));
        }
        Ok(Verified { sealed: self, channel: *channel, hash })
    }

    pub(super) fn seal(&self) -> &SealBytes {
        let (seal, _) = SealBytes::ref_from_prefix(&self.frame[HEADER_LEN..]).expect("checked when it was parsed");
        seal
    }

    pub(super) fn parents_bytes(&self) -> &[u8] {
        &self.frame[HEADER_LEN + SEAL_LEN..][..usize::from(self.seal().parents) * PARENT_LEN]
    }

    pub(super) fn into_parts(self) -> (BytesMut, usize) {
        (self.frame, self.body)
    }
}

impl Verified {
    /// The batch.
    #[must_use]
    pub fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> &BatchHash {
        &self.hash
    }

    /// The hash of the batch before it.
    #[must_use]
    pub fn prev(&self) -> &[u8; 32] {
        &self.sealed.seal().prev
    }

    /// Time of its first event.
    #[must_use]
    pub fn time(&self) -> Hlc {
        Hlc(self.sealed.seal().time.get())
    }

    /// Whether it begins an incarnation.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.sealed.seal().flags & FLAG_FIRST != 0
    }

    pub(super) fn channel(&self) -> &ChannelHash {
        &self.channel
    }

    pub(super) fn into_sealed(self) -> Sealed {
        self.sealed
    }

    /// Opens it in place with the sender key that it names.
    ///
    /// # Errors
    /// [`OpenError`] if this is not the key, or what it seals is no list of events.
    pub fn open(self, key: &SenderKey) -> Result<OpenedBatch, OpenError> {
        OpenedBatch::open(self, key)
    }
}
