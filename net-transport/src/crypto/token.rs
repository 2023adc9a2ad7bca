//! Keys that outlive connections: stateless resets, address tokens, connection ids.
//!
//! All are derived from the node's seed, so a node that was restarted recognises what it issued before.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use super::Entropy;
use super::schedule::Secret;
use crate::{NodeKeys, context};

/// The key of stateless reset tokens, for `EndpointConfig::new`.
#[must_use]
pub fn reset_key(keys: &NodeKeys) -> Arc<dyn HmacKey> {
    Arc::new(ResetKey(Secret::new(keys.derive(context::RESET_KEY))))
}

struct ResetKey(Secret);

impl ResetKey {
    fn mac(&self, data: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(self.0.expose(), data)
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(self.mac(data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Comparison of `blake3::Hash` takes the same time whatever differs.
        let signature = blake3::Hash::from_slice(signature).map_err(|_| CryptoError)?;
        if self.mac(data) == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// The key of address tokens (Retry), for `ServerConfig::new`.
#[must_use]
pub fn token_key(keys: &NodeKeys) -> Arc<dyn HandshakeTokenKey> {
    Arc::new(TokenKey(Secret::new(keys.derive(context::TOKEN_KEY))))
}

struct TokenKey(Secret);

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        let key = self.0.derive("token", &[random_bytes]);
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.expose()).expect("a key has 32 bytes");
        Box::new(TokenAead(LessSafeKey::new(key)))
    }
}

/// The key of one token; it seals once, so its nonce is zero.
struct TokenAead(LessSafeKey);

impl AeadKey for TokenAead {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        self.0.seal_in_place_append_tag(nonce, Aad::from(additional_data), data).map_err(|_| CryptoError)
    }

    fn open<'a>(&self, data: &'a mut [u8], additional_data: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        self.0.open_in_place(nonce, Aad::from(additional_data), data).map_err(|_| CryptoError)
    }
}

/// Bytes of the connection ids of a node.
pub const CONNECTION_ID_LEN: usize = 16;

/// Connection ids that only their node can make: 8 random bytes ‖ 8 bytes of keyed BLAKE3 over them.
///
/// A packet with any other id is dropped, so a stranger cannot make the node send a stateless reset.
pub struct ConnectionIds {
    key: Secret,
    entropy: Entropy,
}

impl ConnectionIds {
    /// The generator of this node.
    #[must_use]
    pub fn new(keys: &NodeKeys, entropy: Entropy) -> Self {
        Self { key: Secret::new(keys.derive(context::CONNECTION_ID_KEY)), entropy }
    }

    fn id(&self, random: [u8; 8]) -> [u8; CONNECTION_ID_LEN] {
        let mac = self.key.derive("connection id", &[&random]);
        std::array::from_fn(|i| if i < 8 { random[i] } else { mac.expose()[i - 8] })
    }
}

impl std::fmt::Debug for ConnectionIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionIds(..)")
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut random = [0; 8];
        // The trait cannot fail. Without randomness quinn asks again and again until an id is new, so this must not go
        // on: the same holds for every generator of quinn's own.
        self.entropy.fill(&mut random).expect("the operating system gives random bytes");
        ConnectionId::new(&self.id(random))
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let cid: [u8; CONNECTION_ID_LEN] = (&**cid).try_into().map_err(|_| InvalidCid)?;
        let expected = self.id(std::array::from_fn(|i| cid[i]));
        // One comparison of two integers, so the time does not tell how far a guess was right.
        if u128::from_le_bytes(cid) == u128::from_le_bytes(expected) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests;
