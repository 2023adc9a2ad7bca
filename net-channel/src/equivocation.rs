//! Equivocation: two batches of one origin that cannot both be true, and the proof of it. Layout: `docs/spec/batch.md`.

use net_identity::EntityId;
use net_transport::{MeshId, Pair};

use crate::batch::Head;
use crate::cursor::Reader;
use crate::{BatchError, ChannelHash, VerifiedSeal};

const FORMAT: u8 = 1;
/// Format, zero 7, mesh id, channel hash, origin.
const FIXED_LEN: usize = 8 + 3 * 32;
/// The most bytes of a proof: two seals with 255 parents each.
pub const EQUIVOCATION_LEN_MAX: usize = FIXED_LEN + 2 * crate::batch::HEAD_LEN_MAX;

/// Two valid batches of one origin, channel and incarnation whose seqs overlap and whose hashes differ.
///
/// Anyone can check it, with public keys only. There is one proof for each pair: the batch with the smaller hash is first.
#[derive(Clone, Debug)]
pub struct Equivocation {
    mesh: MeshId,
    first: VerifiedSeal,
    second: VerifiedSeal,
}

/// Why bytes prove no equivocation. The fault of whoever sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EquivocationError {
    /// A wrong length, an unknown version, or reserved bytes that are set.
    #[error("no proof of equivocation of a known version")]
    Malformed,
    /// A proof from another mesh.
    #[error("the proof is of another mesh")]
    Mesh,
    /// One of the two is no batch of that origin.
    #[error("the proof holds a batch that does not verify")]
    Batch(#[from] BatchError),
    /// Both may be true: other incarnations, seqs that do not overlap, or the same batch twice.
    #[error("the two batches do not contradict each other")]
    NoContradiction,
}

impl Equivocation {
    /// The proof that these two contradict each other, if they do.
    #[must_use]
    pub fn between(mesh: &MeshId, one: &VerifiedSeal, other: &VerifiedSeal) -> Option<Self> {
        let same_line = one.channel() == other.channel()
            && one.origin() == other.origin()
            && one.incarnation() == other.incarnation();
        let overlap = one.seq() < other.next_seq() && other.seq() < one.next_seq();
        if !same_line || !overlap || one.hash() == other.hash() {
            return None;
        }
        let (first, second) = if one.hash() < other.hash() { (one, other) } else { (other, one) };
        Some(Self { mesh: *mesh, first: first.clone(), second: second.clone() })
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelHash {
        self.first.channel()
    }

    /// Who said two things.
    #[must_use]
    pub fn origin(&self) -> EntityId {
        self.first.origin()
    }

    /// In which incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.first.incarnation()
    }

    /// The lower seq of the two: from there on the incarnation cannot be trusted.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.first.seq().min(self.second.seq())
    }

    /// The two batches, the one with the smaller hash first.
    #[must_use]
    pub fn seals(&self) -> (&VerifiedSeal, &VerifiedSeal) {
        (&self.first, &self.second)
    }

    /// The proof as bytes, at most [`EQUIVOCATION_LEN_MAX`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [
            &[FORMAT, 0, 0, 0, 0, 0, 0, 0],
            self.mesh.0.as_slice(),
            &self.channel().0,
            self.origin().as_bytes(),
            &self.first.to_bytes(),
            &self.second.to_bytes(),
        ]
        .concat()
    }

    /// Of which pair and incarnation bytes claim to be a proof; nothing is checked.
    pub(crate) fn claim_of(bytes: &[u8]) -> Option<(Pair, u64)> {
        let (_, channel, origin) = parse_fixed(bytes)?;
        let (first, _) = Head::parse(&bytes[FIXED_LEN..]).ok()?;
        Some((Pair { channel: channel.0, origin: *origin.as_bytes() }, first.incarnation()))
    }

    /// Parses and checks a proof: both signatures, and that the two contradict each other.
    ///
    /// # Errors
    /// [`EquivocationError`].
    pub fn verify(bytes: &[u8], mesh: &MeshId) -> Result<Self, EquivocationError> {
        let (proof_mesh, channel, origin) = parse_fixed(bytes).ok_or(EquivocationError::Malformed)?;
        if proof_mesh != *mesh {
            return Err(EquivocationError::Mesh);
        }
        let (first, rest) = Head::parse(&bytes[FIXED_LEN..])?;
        let (second, rest) = Head::parse(rest)?;
        // Nothing else may vary either: ttl, which no signature covers, and the order.
        if !rest.is_empty() || first.ttl() != 0 || second.ttl() != 0 {
            return Err(EquivocationError::Malformed);
        }
        let first = first.verify(mesh, &channel, &origin)?;
        let second = second.verify(mesh, &channel, &origin)?;
        if first.hash() > second.hash() {
            return Err(EquivocationError::Malformed);
        }
        Self::between(mesh, &first, &second).ok_or(EquivocationError::NoContradiction)
    }
}

fn parse_fixed(bytes: &[u8]) -> Option<(MeshId, ChannelHash, EntityId)> {
    let mut reader = Reader::new(bytes);
    if reader.array()? != [FORMAT, 0, 0, 0, 0, 0, 0, 0] {
        return None;
    }
    Some((MeshId(reader.array()?), ChannelHash(reader.array()?), EntityId::from_bytes(reader.array()?)))
}
