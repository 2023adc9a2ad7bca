//! Adverts: an origin's signed statement that it produces a channel. Layout: `docs/spec/batch.md`.

use net_identity::{EntityId, SignError, Signer};
use net_transport::{AdvertId, MeshId, NodeId, Visibility};
use serde::{Deserialize, Serialize};

use crate::cursor::Reader;
use crate::{ChannelHash, ChannelName, NameError, context};

/// The most bytes of an [`Advert`].
pub const ADVERT_LEN_MAX: usize = FIXED_LEN + crate::NAME_LEN_MAX + SIGNATURE_LEN;

const FORMAT: u8 = 1;
const FLAG_CLOSED: u8 = 1;
/// Format, class, visibility, flags, name length, zero 3, seq, capability, origin, entity, node.
const FIXED_LEN: usize = 16 + 4 * 32;
const SIGNATURE_LEN: usize = 64;

const _: () = assert!(ADVERT_LEN_MAX <= 1024);

/// What becomes of events that are lost on the way. Fixed for each channel and origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Class {
    /// They are asked for again, and events wait for their causes.
    #[default]
    Reliable = 0,
    /// The newest wins, nothing is repaired.
    Realtime = 1,
}

/// This origin produces this channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The channel.
    pub name: ChannelName,
    /// What becomes of lost events.
    pub class: Class,
    /// How far the channel travels.
    pub visibility: Visibility,
    /// Hash of the capability under which the origin publishes; zero if none is needed.
    pub capability: [u8; 32],
    /// The key that signs the batches, and this.
    pub origin: EntityId,
    /// Whom the origin speaks for: itself, or another that a capability names.
    pub entity: EntityId,
    /// The node that holds the origin's key, to which joins and subscriptions go.
    pub node: NodeId,
    /// Which version: max(unix ms, last + 1). A higher one replaces a lower.
    pub seq: u64,
    /// Has the origin stopped producing the channel?
    pub closed: bool,
}

/// Why bytes are no advert. The fault of whoever made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdvertError {
    /// A wrong length, an unknown version, class or visibility, or reserved bits that are set.
    #[error("no advert of a known version")]
    Malformed,
    /// The channel's name is none.
    #[error("the advert's channel has no proper name")]
    Name(#[from] NameError),
    /// The origin says it speaks for another, and names nothing that could prove it.
    #[error("the advert speaks for another entity without a capability")]
    Entity,
    /// The origin did not sign this in this mesh.
    #[error("the advert is not signed by its origin in this mesh")]
    Signature,
}

impl Advert {
    /// Signs the advert for this mesh.
    ///
    /// # Errors
    /// [`SignError`] if the signer fails.
    ///
    /// # Panics
    /// If `signer` is not the origin: a node signs only for keys that it holds.
    pub fn sign(&self, mesh: &MeshId, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        assert_eq!(signer.id(), self.origin, "an advert is signed by its origin");
        let name = self.name.as_str().as_bytes();
        let name_len = u8::try_from(name.len()).expect("a name has at most 255 bytes");
        let mut bytes = Vec::with_capacity(FIXED_LEN + name.len() + SIGNATURE_LEN);
        let flags = if self.closed { FLAG_CLOSED } else { 0 };
        bytes.extend_from_slice(&[FORMAT, self.class as u8, self.visibility as u8, flags, name_len, 0, 0, 0]);
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes.extend_from_slice(&self.capability);
        bytes.extend_from_slice(self.origin.as_bytes());
        bytes.extend_from_slice(self.entity.as_bytes());
        bytes.extend_from_slice(self.node.as_bytes());
        bytes.extend_from_slice(name);
        let signature = signer.sign(&signed_message(mesh, &bytes))?;
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }

    /// Parses an advert and checks that its origin signed it for this mesh.
    ///
    /// A capability is only named here: whoever asks about rights, or shows `entity`, has to check it.
    ///
    /// # Errors
    /// [`AdvertError`].
    pub fn verify(bytes: &[u8], mesh: &MeshId) -> Result<VerifiedAdvert, AdvertError> {
        let (advert, signature) = Self::parse(bytes)?;
        if advert.entity != advert.origin && advert.capability == [0; 32] {
            return Err(AdvertError::Entity);
        }
        let message = signed_message(mesh, &bytes[..bytes.len() - SIGNATURE_LEN]);
        advert.origin.verify(&message, &signature).map_err(|_| AdvertError::Signature)?;
        let channel = advert.name.hash(mesh);
        Ok(VerifiedAdvert { advert, channel })
    }

    fn parse(bytes: &[u8]) -> Result<(Self, [u8; SIGNATURE_LEN]), AdvertError> {
        let (fields, name, signature) = split(bytes).ok_or(AdvertError::Malformed)?;
        let name = ChannelName::parse(std::str::from_utf8(name).map_err(|_| AdvertError::Malformed)?)?;
        let advert = from_fields(fields, name).ok_or(AdvertError::Malformed)?;
        Ok((advert, signature))
    }
}

/// An advert of these fixed fields, if they are in order.
fn from_fields(fields: &[u8; FIXED_LEN], name: ChannelName) -> Option<Advert> {
    let mut reader = Reader::new(fields);
    let [format, class, visibility, flags, _name_len, zero @ ..] = reader.array::<8>()?;
    if format != FORMAT || flags & !FLAG_CLOSED != 0 || zero != [0; 3] {
        return None;
    }
    let class = match class {
        0 => Class::Reliable,
        1 => Class::Realtime,
        _ => return None,
    };
    Some(Advert {
        name,
        class,
        visibility: Visibility::from_bits(visibility)?,
        seq: reader.u64()?,
        capability: reader.array()?,
        origin: EntityId::from_bytes(reader.array()?),
        entity: EntityId::from_bytes(reader.array()?),
        node: NodeId::from_bytes(reader.array()?),
        closed: flags & FLAG_CLOSED != 0,
    })
}

/// Fixed fields, name, signature; nothing after them.
fn split(bytes: &[u8]) -> Option<(&[u8; FIXED_LEN], &[u8], [u8; SIGNATURE_LEN])> {
    let (fields, rest) = bytes.split_first_chunk::<FIXED_LEN>()?;
    let mut reader = Reader::new(rest);
    let name = reader.bytes(usize::from(fields[4]))?;
    let signature = reader.array()?;
    reader.end()?;
    Some((fields, name, signature))
}

fn signed_message(mesh: &MeshId, advert: &[u8]) -> Vec<u8> {
    [context::ADVERT.as_bytes(), &mesh.0, advert].concat()
}

/// An advert that its origin has signed for this mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedAdvert {
    advert: Advert,
    channel: ChannelHash,
}

impl VerifiedAdvert {
    /// What it says.
    #[must_use]
    pub fn advert(&self) -> &Advert {
        &self.advert
    }

    /// The hash of its channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelHash {
        &self.channel
    }

    /// How the directory of nodes knows it: one for each channel and origin.
    #[must_use]
    pub fn advert_id(&self) -> AdvertId {
        let mut hasher = blake3::Hasher::new_derive_key(context::ADVERT_KEY);
        hasher.update(&self.channel.0).update(self.advert.origin.as_bytes());
        AdvertId { node: self.advert.node, key: *hasher.finalize().as_bytes(), seq: self.advert.seq }
    }
}
