//! Reading and verifying batches, without a key to open them.

use bytes::Bytes;
use net_identity::{EntityId, VerifySignature};
use net_transport::{Header, HeaderError, Kind, MeshId, ShortId};
use zerocopy::{FromBytes, IntoBytes};

use super::layout::{
    FLAG_FIRST, FLAG_PARENTS_CUT, FLAGS, FORMAT, OFFSET_LEN, ParentBytes, RECORD_LEN, SealBytes, TAG_LEN, batch_hash,
    head_len, signed_message,
};
use super::{BATCH_EVENTS_MAX, BatchHash};
use crate::mutants::mutant;
use crate::{ChannelHash, Hlc, KeyId, Parents};

/// Why bytes are no batch, or not the batch they should be. Always the fault of whoever sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The header is wrong.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A frame of another kind.
    #[error("a {0:?} frame is no batch")]
    Kind(Kind),
    /// The frame is shorter or longer than its header says, or too short for what it says it holds.
    #[error("a frame of {found} bytes, where its header and seal say {expected}")]
    Length {
        /// Bytes it should have, or at least.
        expected: usize,
        /// Bytes it has.
        found: usize,
    },
    /// The body is not sealed.
    #[error("a batch that is not sealed")]
    Clear,
    /// The frame is addressed to one node.
    #[error("a batch with a destination")]
    Destination,
    /// A seal of a version that this build does not know.
    #[error("unknown seal format {0}")]
    Format(u8),
    /// A bit or byte that must be zero is not.
    #[error("reserved bits are set in the seal")]
    Reserved,
    /// No event, or more than [`BATCH_EVENTS_MAX`].
    #[error("a batch of {0} events")]
    Events(u16),
    /// Seq 0, a seq after which there is none, or one below its incarnation.
    #[error("seq {seq} cannot be in incarnation {incarnation}")]
    Seq {
        /// The seq of the first event.
        seq: u64,
        /// The seq of the first event of the incarnation.
        incarnation: u64,
    },
    /// The flag FIRST on a batch that is not the first of its incarnation, or none on one that is.
    #[error("the flag FIRST does not agree with seq and incarnation")]
    First,
    /// A parent of the batch's own origin, with a seq that no event has, or not above the one before it.
    #[error("parent {index} is of the batch's own origin, has a seq that no event has, or is out of order")]
    Parent {
        /// Which one.
        index: usize,
    },
    /// A realtime batch with parents.
    #[error("a realtime batch with parents")]
    RealtimeParents,
    /// The batch is of another channel.
    #[error("a batch of another channel")]
    Channel,
    /// The batch is of another origin.
    #[error("a batch of another origin")]
    Origin,
    /// The body is not the one that was signed.
    #[error("the body does not have the hash in the seal")]
    BodyHash,
    /// The origin did not sign this in this channel of this mesh.
    #[error("the signature does not verify")]
    Signature,
}

/// The clear part of a batch: header, seal, parents. Parsed, not verified.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(super) header: &'a Header,
    pub(super) seal: &'a SealBytes,
    pub(super) parents: &'a [ParentBytes],
}

impl<'a> Head<'a> {
    /// Parses header, seal, parents and padding at the start of `bytes`; gives back what follows them.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BatchError> {
        let header = Header::parse(bytes)?;
        if header.kind() != Kind::Batch {
            return Err(BatchError::Kind(header.kind()));
        }
        if header.flags() & Header::SEALED == 0 {
            return Err(BatchError::Clear);
        }
        if header.dest() != ShortId::default() {
            return Err(BatchError::Destination);
        }
        let too_short = |expected| BatchError::Length { expected, found: bytes.len() };
        let rest = &bytes[size_of::<Header>()..];
        let (seal, rest) = SealBytes::ref_from_prefix(rest).map_err(|_| too_short(head_len(0)))?;
        let count = usize::from(seal.parents);
        let (parents, rest) =
            <[ParentBytes]>::ref_from_prefix_with_elems(rest, count).map_err(|_| too_short(head_len(count)))?;
        let padding_len = head_len(count) - (bytes.len() - rest.len());
        let (padding, rest) = rest.split_at_checked(padding_len).ok_or_else(|| too_short(head_len(count)))?;

        let head = Self { header, seal, parents };
        head.check()?;
        if padding.iter().any(|&b| b != 0) {
            return Err(BatchError::Reserved);
        }
        Ok((head, rest))
    }

    fn check(&self) -> Result<(), BatchError> {
        let Self { header, seal, parents } = self;
        if seal.format != FORMAT {
            return Err(BatchError::Format(seal.format));
        }
        if seal.flags & !FLAGS != 0 || seal.zero != [0; 5] {
            return Err(BatchError::Reserved);
        }
        let events = header.events();
        if events == 0 || usize::from(events) > BATCH_EVENTS_MAX {
            return Err(BatchError::Events(events));
        }
        let (seq, incarnation) = (header.seq(), header.incarnation());
        // The next seq must be a number too, or nothing could follow.
        let overflows = seq.checked_add(u64::from(events)).is_none();
        if seq == 0 || incarnation == 0 || incarnation > seq || overflows {
            return Err(BatchError::Seq { seq, incarnation });
        }
        if (seal.flags & FLAG_FIRST != 0) != (seq == incarnation) {
            return Err(BatchError::First);
        }
        if header.flags() & Header::REALTIME != 0 && (!parents.is_empty() || seal.flags & FLAG_PARENTS_CUT != 0) {
            return Err(BatchError::RealtimeParents);
        }
        let own = header.origin().0;
        for (index, parent) in parents.iter().enumerate() {
            // One parent for each origin is enough, the last one: so there is one order, and no room for padding.
            let ordered = index == 0 || parents[index - 1].origin < parent.origin;
            if parent.origin == own || matches!(parent.seq.get(), 0 | u64::MAX) || !ordered {
                return Err(BatchError::Parent { index });
            }
        }
        Ok(())
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.header.incarnation()
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.header.ttl()
    }

    pub(super) fn hash(&self) -> BatchHash {
        batch_hash(self.header, self.seal, self.parents)
    }

    /// Checks that this origin signed this head in this channel. The body is not looked at.
    pub(crate) fn verify(
        &self,
        mesh: &MeshId,
        channel: &ChannelHash,
        key: &impl VerifySignature,
    ) -> Result<VerifiedSeal, BatchError> {
        let origin = &key.entity();
        if self.header.channel() != channel.prefix() {
            return Err(BatchError::Channel);
        }
        if self.header.origin() != origin.short() {
            return Err(BatchError::Origin);
        }
        let hash = self.hash();
        if !mutant("trust_unverified") {
            key.verify_signature(&signed_message(mesh, channel, origin, &hash), &self.seal.signature)
                .map_err(|_| BatchError::Signature)?;
        }
        Ok(self.trusted(hash, channel, origin))
    }

    /// The proof for a head that has been verified, or that we have signed ourselves.
    pub(super) fn trusted(&self, hash: BatchHash, channel: &ChannelHash, origin: &EntityId) -> VerifiedSeal {
        VerifiedSeal {
            header: *self.header,
            seal: *self.seal,
            parents: self.parents.iter().map(Into::into).collect(),
            hash,
            channel: *channel,
            origin: *origin,
        }
    }
}

/// A batch as it came: everything is in its place, and nothing is proved yet.
#[derive(Clone, Copy)]
pub struct SealedView<'a> {
    pub(super) head: Head<'a>,
    pub(super) body: &'a [u8],
}

impl<'a> SealedView<'a> {
    /// Parses a frame, which must be exactly one batch.
    ///
    /// # Errors
    /// [`BatchError`], for everything that can be seen without keys.
    pub fn parse(frame: &'a [u8]) -> Result<Self, BatchError> {
        let (head, body) = Head::parse(frame)?;
        let expected = size_of::<Header>() + head.header.payload_len();
        let least = usize::from(head.header.events()) * (RECORD_LEN + OFFSET_LEN) + TAG_LEN;
        if frame.len() != expected {
            return Err(BatchError::Length { expected, found: frame.len() });
        }
        if body.len() < least {
            return Err(BatchError::Length { expected: frame.len() - body.len() + least, found: frame.len() });
        }
        Ok(Self { head, body })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &'a Header {
        self.head.header
    }

    /// The hash of the batch, computed now.
    #[must_use]
    pub fn hash(&self) -> BatchHash {
        self.head.hash()
    }

    /// Bytes of header, seal and parents: what a [`SealView`] needs, without the body.
    #[must_use]
    pub fn head_len(&self) -> usize {
        head_len(self.head.parents.len())
    }

    /// Checks that the body is the one that was signed, and that this origin signed it in this channel of this mesh.
    ///
    /// Not the chain: whether `prev` is the batch before is for whoever knows that one.
    ///
    /// # Errors
    /// [`BatchError::Channel`], `Origin`, `BodyHash` or `Signature`.
    pub fn verify(
        &self,
        mesh: &MeshId,
        channel: &ChannelHash,
        origin: &impl VerifySignature,
    ) -> Result<VerifiedSeal, BatchError> {
        // Cheaper than the signature, so first; it proves nothing by itself.
        if *blake3::hash(self.body).as_bytes() != self.head.seal.body_hash {
            return Err(BatchError::BodyHash);
        }
        self.head.verify(mesh, channel, origin)
    }
}

impl std::fmt::Debug for SealedView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedView").field("header", self.head.header).finish_non_exhaustive()
    }
}

/// Header, seal and parents of a batch whose body is elsewhere, or gone: chain and signature can still be verified.
#[derive(Clone, Copy)]
pub struct SealView<'a>(Head<'a>);

impl<'a> SealView<'a> {
    /// Parses bytes that must be exactly the head of one batch.
    ///
    /// # Errors
    /// [`BatchError`], for everything that can be seen without keys and body.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        match Head::parse(bytes)? {
            (head, []) => Ok(Self(head)),
            (_, rest) => Err(BatchError::Length { expected: bytes.len() - rest.len(), found: bytes.len() }),
        }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &'a Header {
        self.0.header
    }

    /// The hash of the batch, computed now.
    #[must_use]
    pub fn hash(&self) -> BatchHash {
        self.0.hash()
    }

    /// Checks that this origin signed it in this channel of this mesh.
    ///
    /// # Errors
    /// [`BatchError::Channel`], `Origin` or `Signature`.
    pub fn verify(
        &self,
        mesh: &MeshId,
        channel: &ChannelHash,
        origin: &impl VerifySignature,
    ) -> Result<VerifiedSeal, BatchError> {
        self.0.verify(mesh, channel, origin)
    }
}

impl std::fmt::Debug for SealView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealView").field("header", self.0.header).finish_non_exhaustive()
    }
}

/// The seal of a batch whose signature has been verified: proof of who sent what, after what.
///
/// It owns what it says and can outlive the frame.
#[derive(Clone)]
pub struct VerifiedSeal {
    pub(super) header: Header,
    pub(super) seal: SealBytes,
    pub(super) parents: Parents,
    pub(super) hash: BatchHash,
    pub(super) channel: ChannelHash,
    pub(super) origin: EntityId,
}

impl VerifiedSeal {
    /// The header, with the ttl it came with.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The hash of the batch.
    #[must_use]
    pub fn hash(&self) -> BatchHash {
        self.hash
    }

    /// The channel it was verified for.
    #[must_use]
    pub fn channel(&self) -> &ChannelHash {
        &self.channel
    }

    /// Who signed it.
    #[must_use]
    pub fn origin(&self) -> EntityId {
        self.origin
    }

    /// Seq of the first event, at least 1.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.header.seq()
    }

    /// Events in the batch, 1 to 4,096.
    #[must_use]
    pub fn events(&self) -> u16 {
        self.header.events()
    }

    /// Seq of the last event.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.next_seq() - 1
    }

    /// Seq of the first event of the batch that follows in this incarnation.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.seq() + u64::from(self.events())
    }

    /// Seq of the first event of this incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.header.incarnation()
    }

    /// Is it the first batch of its incarnation?
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.seal.flags & FLAG_FIRST != 0
    }

    /// Does it belong to a realtime channel?
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        self.header.flags() & Header::REALTIME != 0
    }

    /// Hash of the origin's batch before this one; of a first batch, of the last one its log holds, or zero.
    #[must_use]
    pub fn prev(&self) -> BatchHash {
        BatchHash(self.seal.prev)
    }

    /// Time of the first event.
    #[must_use]
    pub fn time(&self) -> Hlc {
        Hlc(self.seal.time.get())
    }

    /// The causes, ascending by origin, one for each.
    #[must_use]
    pub fn parents(&self) -> &Parents {
        &self.parents
    }

    /// Were causes left out, being more than 255?
    #[must_use]
    pub fn parents_cut(&self) -> bool {
        self.seal.flags & FLAG_PARENTS_CUT != 0
    }

    /// Which sender key seals the body.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId(self.header.key_id())
    }

    /// Header (with ttl 0), seal, parents and padding, as they stand at the start of the frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(head_len(self.parents.len()));
        bytes.extend_from_slice(&self.header.to_signed_bytes());
        bytes.extend_from_slice(self.seal.as_bytes());
        for parent in self.parents.iter() {
            bytes.extend_from_slice(ParentBytes::from(parent).as_bytes());
        }
        bytes.resize(head_len(self.parents.len()), 0);
        bytes
    }
}

impl std::fmt::Debug for VerifiedSeal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedSeal")
            .field("origin", &self.origin)
            .field("seq", &self.seq())
            .field("events", &self.events())
            .field("incarnation", &self.incarnation())
            .field("hash", &self.hash)
            .field("parents", &self.parents)
            .finish_non_exhaustive()
    }
}

/// A frame together with the proof that it is what its origin signed, body included.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    pub(super) seal: VerifiedSeal,
    pub(super) frame: Bytes,
}

impl SealedBatch {
    /// Parses and verifies a frame.
    ///
    /// # Errors
    /// As [`SealedView::parse`] and [`SealedView::verify`].
    pub fn verify(
        frame: Bytes,
        mesh: &MeshId,
        channel: &ChannelHash,
        origin: &impl VerifySignature,
    ) -> Result<Self, BatchError> {
        let seal = SealedView::parse(&frame)?.verify(mesh, channel, origin)?;
        Ok(Self { seal, frame })
    }

    /// What is proved.
    #[must_use]
    pub fn seal(&self) -> &VerifiedSeal {
        &self.seal
    }

    /// The hash of the batch.
    #[must_use]
    pub fn hash(&self) -> BatchHash {
        self.seal.hash
    }

    /// The bytes, as they go over links and into logs.
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// Takes the two apart.
    #[must_use]
    pub fn into_parts(self) -> (VerifiedSeal, Bytes) {
        (self.seal, self.frame)
    }
}
