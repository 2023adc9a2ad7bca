//! Adverts: an origin's signed statement that it produces a channel.

use net_identity::{EntityId, SignError, Signer};
use net_transport::{AdvertId, MeshId, NodeId, Pair, Visibility};
use serde::{Deserialize, Serialize};

use crate::{ChannelName, context};

/// What is done for events that do not arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// They are fetched again: every event, once, in order.
    #[default]
    Reliable,
    /// Nothing: newest wins.
    Realtime,
}

/// "This origin produces this channel, at this node."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The channel.
    pub name: ChannelName,
    /// What is done for lost events.
    pub class: Class,
    /// How far its events travel.
    pub visibility: Visibility,
    /// Hash of the capability that it publishes under; zeros if none is needed.
    pub capability: [u8; 32],
    /// The key that signs the batches, and this advert.
    pub origin: EntityId,
    /// For whom the origin speaks.
    pub entity: EntityId,
    /// Where the origin runs.
    pub node: NodeId,
    /// Which version of the advert it is: unix milliseconds, higher than all before.
    pub seq: u64,
    /// The producer has ended.
    pub closed: bool,
}

/// The most bytes of an encoded advert.
pub const ADVERT_LEN_MAX: usize = 1_024;

/// Why bytes are no advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdvertError {
    /// Not decodable, too long, or of another version.
    #[error("not an advert of this version")]
    Malformed,
    /// Not signed by its origin for this mesh.
    #[error("the advert is not signed by its origin for this mesh")]
    Signature,
}

const VERSION: u8 = 1;
const SIGNATURE_LEN: usize = 64;

#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    name: &'a str,
    realtime: bool,
    visibility: u8,
    capability: [u8; 32],
    origin: [u8; 32],
    entity: [u8; 32],
    node: [u8; 32],
    seq: u64,
    closed: bool,
}

impl Advert {
    /// The channel and origin that it speaks of.
    #[must_use]
    pub fn pair(&self, mesh: &MeshId) -> Pair {
        Pair { channel: self.name.hash(mesh).0, origin: *self.origin.as_bytes() }
    }

    /// Which advert it is for the directory.
    #[must_use]
    pub fn id(&self, mesh: &MeshId) -> AdvertId {
        let pair = self.pair(mesh);
        let key = blake3::derive_key(context::ADVERT_KEY, &[pair.channel, pair.origin].concat());
        AdvertId { node: self.node, key, seq: self.seq }
    }

    fn message(mesh: &MeshId, body: &[u8]) -> Vec<u8> {
        [context::ADVERT.as_bytes(), &mesh.0, body].concat()
    }

    /// Signs and encodes it: version u8 ‖ postcard fields ‖ 64 bytes of signature.
    ///
    /// # Errors
    /// [`SignError`] if the key does not sign.
    pub fn sign(&self, mesh: &MeshId, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let fields = Fields {
            name: self.name.as_str(),
            realtime: self.class == Class::Realtime,
            visibility: self.visibility as u8,
            capability: self.capability,
            origin: *self.origin.as_bytes(),
            entity: *self.entity.as_bytes(),
            node: *self.node.as_bytes(),
            seq: self.seq,
            closed: self.closed,
        };
        let mut bytes = postcard::to_extend(&fields, vec![VERSION]).expect("a Vec grows and these fields serialise");
        let signature = signer.sign(&Self::message(mesh, &bytes))?;
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }

    /// Decodes an advert that has been verified before.
    ///
    /// # Errors
    /// [`AdvertError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, AdvertError> {
        if bytes.len() > ADVERT_LEN_MAX {
            return Err(AdvertError::Malformed);
        }
        let (body, _) = bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or(AdvertError::Malformed)?;
        let [VERSION, fields @ ..] = body else { return Err(AdvertError::Malformed) };
        let Ok((fields, [])) = postcard::take_from_bytes::<Fields<'_>>(fields) else {
            return Err(AdvertError::Malformed);
        };
        Ok(Self {
            name: ChannelName::parse(fields.name).map_err(|_| AdvertError::Malformed)?,
            class: if fields.realtime { Class::Realtime } else { Class::Reliable },
            visibility: Visibility::from_bits(fields.visibility).ok_or(AdvertError::Malformed)?,
            capability: fields.capability,
            origin: EntityId::from_bytes(fields.origin),
            entity: EntityId::from_bytes(fields.entity),
            node: NodeId::from_bytes(fields.node),
            seq: fields.seq,
            closed: fields.closed,
        })
    }

    /// Decodes an advert and checks its origin's signature, strictly.
    ///
    /// # Errors
    /// [`AdvertError`].
    pub fn verify(bytes: &[u8], mesh: &MeshId) -> Result<Self, AdvertError> {
        let advert = Self::decode(bytes)?;
        let (body, signature) = bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or(AdvertError::Malformed)?;
        advert.origin.verify(&Self::message(mesh, body), signature).map_err(|_| AdvertError::Signature)?;
        Ok(advert)
    }
}
