//! Key grants: a sender key, given by its origin to one subscriber.

use net_identity::{EntityId, SignError, Signer};
use net_transport::NodeId;
use zeroize::Zeroizing;

use crate::{ChannelHash, SenderKey, context};

/// A sender key on its way to one subscriber.
///
/// Encoded it is 32 channel ‖ 32 origin ‖ 4 key id ‖ first seq u64 ‖ 32 sender key ‖ not after u64 ‖ 64 signature.
#[derive(Clone, Debug)]
pub struct KeyGrant {
    /// The channel.
    pub channel: ChannelHash,
    /// Who seals with it.
    pub origin: EntityId,
    /// The first seq that it sealed.
    pub first_seq: u64,
    /// The key.
    pub sender_key: SenderKey,
    /// Unix seconds after which the grant is not to be used.
    pub not_after: u64,
}

/// Bytes of an encoded grant.
pub const GRANT_LEN: usize = 180;

/// Why bytes are no grant for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// Not [`GRANT_LEN`] bytes, or the key id is not the key's.
    #[error("not a key grant")]
    Malformed,
    /// It is of another channel or origin.
    #[error("the grant is of another channel or origin")]
    Pair,
    /// It is not signed by the origin for this node.
    #[error("the grant is not signed by its origin for this node")]
    Signature,
}

impl KeyGrant {
    fn fields(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(GRANT_LEN));
        bytes.extend_from_slice(&self.channel.0);
        bytes.extend_from_slice(self.origin.as_bytes());
        bytes.extend_from_slice(&self.sender_key.key_id().0);
        bytes.extend_from_slice(&self.first_seq.to_le_bytes());
        bytes.extend_from_slice(self.sender_key.expose());
        bytes.extend_from_slice(&self.not_after.to_le_bytes());
        bytes
    }

    fn message(fields: &[u8], node: &NodeId) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([context::KEY_GRANT.as_bytes(), node.as_bytes(), fields].concat())
    }

    /// Signs and encodes it for one subscriber.
    ///
    /// # Errors
    /// [`SignError`] if the key does not sign.
    pub fn sign(&self, node: &NodeId, signer: &dyn Signer) -> Result<Zeroizing<Vec<u8>>, SignError> {
        let mut bytes = self.fields();
        let signature = signer.sign(&Self::message(&bytes, node))?;
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }

    /// Decodes a grant and checks that it is this origin's for this channel and this node.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn verify(
        bytes: &[u8],
        node: &NodeId,
        channel: &ChannelHash,
        origin: &EntityId,
    ) -> Result<Self, GrantError> {
        let bytes: &[u8; GRANT_LEN] = bytes.try_into().map_err(|_| GrantError::Malformed)?;
        let (fields, signature) = bytes.split_at(GRANT_LEN - 64);
        let take = |at: usize| -> [u8; 32] { std::array::from_fn(|i| fields[at + i]) };
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fields[at + i]));
        let grant = Self {
            channel: ChannelHash(take(0)),
            origin: EntityId::from_bytes(take(32)),
            first_seq: number(68),
            sender_key: SenderKey::new(take(76)),
            not_after: number(108),
        };
        if fields[64..68] != grant.sender_key.key_id().0 {
            return Err(GrantError::Malformed);
        }
        if grant.channel != *channel || grant.origin != *origin {
            return Err(GrantError::Pair);
        }
        let signature: [u8; 64] = std::array::from_fn(|i| signature[i]);
        origin.verify(&Self::message(fields, node), &signature).map_err(|_| GrantError::Signature)?;
        Ok(grant)
    }
}
