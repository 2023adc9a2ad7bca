//! Node keys, static bindings, and what makes a mesh.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::context;

/// The 32 random bytes from which all keys of a node are derived. A secret.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed of these bytes; they must be random.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be stored with mode `0600` and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// First 8 bytes of the BLAKE3 of a public key: a hint for speed, never a proof.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShortId(pub [u8; 8]);

impl ShortId {
    /// The short id of a public key.
    #[must_use]
    pub fn of(public_key: &[u8; 32]) -> Self {
        let hash = blake3::hash(public_key);
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_bytes()[..8]);
        Self(id)
    }
}

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A node: its ed25519 public key.
///
/// Its text form is lower-case base32 without padding, 52 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// A node id of these bytes. Whether they are a valid key shows when a signature is checked.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hint for tables and headers.
    #[must_use]
    pub fn short(&self) -> ShortId {
        ShortId::of(&self.0)
    }

    /// Checks an ed25519 signature of this node strictly (RFC 8032, no small-order keys, no malleability).
    ///
    /// # Errors
    /// [`BadSignature`] for everything that is not this key's signature of exactly these bytes.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| BadSignature)?;
        key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| BadSignature)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32_encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32_encode(&self.0)[..10])
    }
}

impl FromStr for NodeId {
    type Err = KeyTextError;

    fn from_str(s: &str) -> Result<Self, KeyTextError> {
        let bytes = base32_decode(s).ok_or(KeyTextError)?;
        Ok(Self(bytes.try_into().map_err(|_| KeyTextError)?))
    }
}

/// Text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is written as 52 letters a-z and digits 2-7")]
pub struct KeyTextError;

/// A signature that does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// Lower-case base32 without padding (RFC 4648), the text form of keys and tickets.
#[must_use]
pub fn base32_encode(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// The bytes of lower- or upper-case base32 without padding, or nothing if it is not that.
#[must_use]
pub fn base32_decode(text: &str) -> Option<Vec<u8>> {
    BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()
}

/// An ed25519 key that signs (RFC 8032), and never fails to. Its memory is wiped when the last clone is dropped.
#[derive(Clone)]
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key of these 32 secret bytes (the "private key" of RFC 8032); they must be random, and are the caller's to wipe.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(secret).expect("any 32 bytes are an ed25519 secret"))
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("an ed25519 public key has 32 bytes")
    }

    /// Signs exactly these bytes, which begin with a context string of their own.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().expect("an ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &NodeId(self.public())).finish_non_exhaustive()
    }
}

/// The keys of one node: its ed25519 signing key and its X25519 Noise static key, both from one [`Seed`].
#[derive(Clone)]
pub struct NodeKeys {
    signing: SigningKey,
    noise: StaticSecret,
    seed: Seed,
    binding: StaticBinding,
}

impl NodeKeys {
    /// Derives the keys. The same seed gives the same keys.
    #[must_use]
    pub fn from_seed(seed: &Seed) -> Self {
        let mut node = blake3::derive_key(context::NODE_KEY, seed.expose());
        let mut noise = blake3::derive_key(context::NOISE_KEY, seed.expose());
        let signing = SigningKey::from_secret(&node);
        let noise_key = StaticSecret::from(noise);
        node.zeroize();
        noise.zeroize();
        let public = x25519_dalek::PublicKey::from(&noise_key).to_bytes();
        let binding = StaticBinding::sign(&signing, public);
        Self { signing, noise: noise_key, seed: seed.clone(), binding }
    }

    /// Who this is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.binding.node
    }

    /// The signed statement that the Noise static key belongs to this node.
    #[must_use]
    pub fn binding(&self) -> &StaticBinding {
        &self.binding
    }

    /// Signs with the node key. `message` begins with a context string of its own.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message)
    }

    /// The Noise static secret.
    #[must_use]
    pub fn noise_secret(&self) -> &StaticSecret {
        &self.noise
    }

    /// A secret of this node for one purpose, named by a context string.
    #[must_use]
    pub fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, self.seed.expose())
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKeys").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Bytes of a [`StaticBinding`].
pub const BINDING_LEN: usize = 128;

/// The proof that a Noise static key belongs to a node: `node 32 ‖ static 32 ‖ signature 64`.
///
/// A value of this type has been verified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StaticBinding {
    node: NodeId,
    noise_public: [u8; 32],
    signature: [u8; 64],
}

impl StaticBinding {
    fn sign(signing: &SigningKey, noise_public: [u8; 32]) -> Self {
        let node = NodeId(signing.public());
        let signature = signing.sign(&Self::message(&node, &noise_public));
        Self { node, noise_public, signature }
    }

    fn message(node: &NodeId, noise_public: &[u8; 32]) -> Vec<u8> {
        [context::BINDING.as_bytes(), &node.0, noise_public].concat()
    }

    /// Parses and verifies.
    ///
    /// # Errors
    /// [`BadSignature`] if the length is not 128 or the signature is not the node's.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadSignature> {
        let bytes: &[u8; BINDING_LEN] = bytes.try_into().map_err(|_| BadSignature)?;
        let part = |at: usize| -> [u8; 32] { std::array::from_fn(|i| bytes[at + i]) };
        let (node, noise_public) = (NodeId(part(0)), part(32));
        let signature = std::array::from_fn(|i| bytes[64 + i]);
        node.verify(&Self::message(&node, &noise_public), &signature)?;
        Ok(Self { node, noise_public, signature })
    }

    /// The 128 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BINDING_LEN] {
        let mut bytes = [0; BINDING_LEN];
        bytes[..32].copy_from_slice(&self.node.0);
        bytes[32..64].copy_from_slice(&self.noise_public);
        bytes[64..].copy_from_slice(&self.signature);
        bytes
    }

    /// Whose key it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The X25519 public key.
    #[must_use]
    pub fn noise_public(&self) -> &[u8; 32] {
        &self.noise_public
    }
}

impl fmt::Debug for StaticBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticBinding").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Serialize for StaticBinding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

impl<'de> Deserialize<'de> for StaticBinding {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Self::parse(bytes).map_err(serde::de::Error::custom)
    }
}

/// A mesh's public name: 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MeshId(pub [u8; 32]);

impl MeshId {
    /// What may be shown of it in public, on the local network: 16 bytes that do not give the id away.
    #[must_use]
    pub fn hint(&self) -> [u8; 16] {
        let hash = blake3::derive_key(context::MESH_ID_HINT, &self.0);
        std::array::from_fn(|i| hash[i])
    }
}

/// The secret that the members of a mesh share: 32 *random* bytes, never a passphrase.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct Psk([u8; 32]);

impl Psk {
    /// A psk of these bytes; they must be random.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes. A secret.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

/// The mesh that a node is a member of: its id and the generations of its psk that are valid.
#[derive(Clone, Debug)]
pub struct Mesh {
    id: MeshId,
    current: (u8, Psk),
    previous: Option<(u8, Psk)>,
}

impl Mesh {
    /// A mesh at this psk generation.
    #[must_use]
    pub fn new(id: MeshId, generation: u8, psk: Psk) -> Self {
        Self { id, current: (generation, psk), previous: None }
    }

    /// The same mesh, where the generation before is still accepted (24 h after a change).
    #[must_use]
    pub fn with_previous(self, generation: u8, psk: Psk) -> Self {
        Self { previous: Some((generation, psk)), ..self }
    }

    /// The public name.
    #[must_use]
    pub fn id(&self) -> MeshId {
        self.id
    }

    /// The generation to dial with, and its psk.
    #[must_use]
    pub fn current(&self) -> (u8, &Psk) {
        (self.current.0, &self.current.1)
    }

    /// The psk of this generation, if it is valid now.
    #[must_use]
    pub fn psk(&self, generation: u8) -> Option<&Psk> {
        std::iter::once(&self.current).chain(&self.previous).find(|(g, _)| *g == generation).map(|(_, psk)| psk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_derived_from_the_seed_alone() {
        let (a, b) = (NodeKeys::from_seed(&Seed::new([1; 32])), NodeKeys::from_seed(&Seed::new([1; 32])));
        assert_eq!(a.binding(), b.binding());
        assert_ne!(a.id(), NodeKeys::from_seed(&Seed::new([2; 32])).id());
    }

    #[test]
    fn binding_round_trips_and_every_flipped_bit_is_refused() {
        let bytes = NodeKeys::from_seed(&Seed::new([3; 32])).binding().to_bytes();
        assert!(StaticBinding::parse(&bytes).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(StaticBinding::parse(&bad).is_err(), "bit {bit}");
        }
        assert!(StaticBinding::parse(&bytes[..127]).is_err());
    }

    #[test]
    fn node_id_text_round_trips() {
        let id = NodeKeys::from_seed(&Seed::new([4; 32])).id();
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("net".parse::<NodeId>(), Err(KeyTextError));
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let keys = NodeKeys::from_seed(&Seed::new([0xab; 32]));
        for text in [format!("{keys:?}"), format!("{:?}", Seed::new([0xab; 32])), format!("{:?}", Psk::new([0xab; 32]))]
        {
            assert!(!text.contains("171") && !text.contains("abab"), "{text}");
        }
    }
}
