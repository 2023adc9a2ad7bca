//! Key grants: how a sender key reaches one subscriber. Layout: `docs/spec/batch.md`.

use net_identity::{EntityId, SignError, Signer};
use net_transport::NodeId;
use zeroize::Zeroizing;

use crate::cursor::Reader;
use crate::{ChannelHash, KeyId, SenderKey, context};

/// Bytes of a [`KeyGrant`].
pub const KEY_GRANT_LEN: usize = 184;
/// How far two clocks may differ before a grant counts as ended, in seconds.
pub const CLOCK_SKEW_S: u64 = 300;

const FORMAT: u8 = 1;
const SIGNATURE_LEN: usize = 64;

/// A sender key for one subscriber, signed by the origin.
///
/// It goes end to end, over a connection that proves the subscriber's node; it names that node in what is signed, so it
/// is worth nothing to another.
#[derive(Clone, Debug)]
pub struct KeyGrant {
    /// The channel whose batches the key opens.
    pub channel: ChannelHash,
    /// Whose batches.
    pub origin: EntityId,
    /// The first seq that the key seals.
    pub first_seq: u64,
    /// Unix seconds after which the subscriber has to ask again.
    pub not_after: u64,
    /// The key.
    pub sender_key: SenderKey,
}

/// Why bytes are no grant for this subscriber. The fault of whoever sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// Not 184 bytes, an unknown version, or reserved bytes that are set.
    #[error("no key grant of a known version")]
    Malformed,
    /// The key is not the one that the grant names.
    #[error("the granted key does not have the id {0}")]
    KeyId(KeyId),
    /// The origin did not sign this grant for this subscriber.
    #[error("the grant is not signed by its origin for this node")]
    Signature,
    /// The time of the grant is over.
    #[error("the grant ended at unix second {not_after}: ask again")]
    Expired {
        /// When it ended.
        not_after: u64,
    },
}

impl KeyGrant {
    /// Signs the grant for one subscriber's node.
    ///
    /// # Errors
    /// [`SignError`] if the signer fails.
    ///
    /// # Panics
    /// If `signer` is not the origin: a node signs only for keys that it holds.
    pub fn sign(&self, subscriber: &NodeId, signer: &dyn Signer) -> Result<Zeroizing<Vec<u8>>, SignError> {
        assert_eq!(signer.id(), self.origin, "a grant is signed by its origin");
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_GRANT_LEN));
        bytes.extend_from_slice(&[FORMAT, 0, 0, 0]);
        bytes.extend_from_slice(&self.sender_key.key_id().0);
        bytes.extend_from_slice(&self.channel.0);
        bytes.extend_from_slice(self.origin.as_bytes());
        bytes.extend_from_slice(&self.first_seq.to_le_bytes());
        bytes.extend_from_slice(&self.not_after.to_le_bytes());
        bytes.extend_from_slice(self.sender_key.expose());
        let signature = signer.sign(&signed_message(subscriber, &bytes))?;
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }

    /// Parses a grant and checks that its origin made it for this subscriber's node, and that its time is not over.
    ///
    /// Whether that origin may publish in that channel is not asked here.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn verify(bytes: &[u8], subscriber: &NodeId, now_unix_s: u64) -> Result<Self, GrantError> {
        let (grant, key_id, signature) = Self::parse(bytes).ok_or(GrantError::Malformed)?;
        if grant.sender_key.key_id() != key_id {
            return Err(GrantError::KeyId(key_id));
        }
        let message = signed_message(subscriber, &bytes[..KEY_GRANT_LEN - SIGNATURE_LEN]);
        grant.origin.verify(&message, &signature).map_err(|_| GrantError::Signature)?;
        if now_unix_s > grant.not_after.saturating_add(CLOCK_SKEW_S) {
            return Err(GrantError::Expired { not_after: grant.not_after });
        }
        Ok(grant)
    }

    fn parse(bytes: &[u8]) -> Option<(Self, KeyId, [u8; SIGNATURE_LEN])> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != [FORMAT, 0, 0, 0] {
            return None;
        }
        let key_id = KeyId(reader.array()?);
        let channel = ChannelHash(reader.array()?);
        let origin = EntityId::from_bytes(reader.array()?);
        let (first_seq, not_after) = (reader.u64()?, reader.u64()?);
        let sender_key = SenderKey::new(reader.array()?);
        let signature = reader.array()?;
        reader.end()?;
        Some((Self { channel, origin, first_seq, not_after, sender_key }, key_id, signature))
    }
}

fn signed_message(subscriber: &NodeId, grant: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([context::KEY_GRANT.as_bytes(), subscriber.as_bytes(), grant].concat())
}
