//! Whoever can sign for an entity.

use std::error::Error;
use std::fmt;

use net_transport::{NodeKeys, SigningKey};
use zeroize::{Zeroize, Zeroizing};

use crate::EntityId;

/// Signs for one entity. The key may lie in memory, in an agent or in an HSM.
///
/// What is signed begins with a context string of its own, so that a signature made for one purpose is worth nothing
/// for another. A batch is signed on the path of every publish: an implementation that waits makes publishers wait.
pub trait Signer: Send + Sync {
    /// Whose signatures these are.
    fn id(&self) -> EntityId;

    /// The ed25519 signature of exactly these bytes.
    ///
    /// # Errors
    /// [`SignError`] if the key cannot be used now, or not for this.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// Why there is no signature. A key in memory never fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// Whoever holds the key cannot be reached; trying again later may help.
    #[error("the holder of the key is not reachable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// Whoever holds the key will not sign this.
    #[error("the holder of the key refused to sign: {0}")]
    Refused(String),
}

impl Signer for NodeKeys {
    fn id(&self) -> EntityId {
        Self::id(self).into()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(Self::sign(self, message))
    }
}

impl<S: Signer + ?Sized> Signer for &S {
    fn id(&self) -> EntityId {
        (**self).id()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        (**self).sign(message)
    }
}

impl<S: Signer + ?Sized> Signer for std::sync::Arc<S> {
    fn id(&self) -> EntityId {
        (**self).id()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        (**self).sign(message)
    }
}

/// A signing key in memory, erased when it is dropped.
#[derive(Clone)]
pub struct EntityKey {
    signing: SigningKey,
    secret: Zeroizing<[u8; 32]>,
}

impl EntityKey {
    /// A new key from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness to give; nothing that needs keys can go on then.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).expect("the system gives randomness");
        Self::from_secret(&secret)
    }

    /// The key of these 32 secret bytes (the "private key" of RFC 8032); they must be random.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self { signing: SigningKey::from_secret(secret), secret: Zeroizing::new(*secret) }
    }

    /// Whose key it is.
    #[must_use]
    pub fn id(&self) -> EntityId {
        EntityId::from_bytes(self.signing.public())
    }

    /// The 32 secret bytes, to be stored with mode `0600` and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl Signer for EntityKey {
    fn id(&self) -> EntityId {
        Self::id(self)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.signing.sign(message))
    }
}

impl fmt::Debug for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntityKey").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A passphrase, erased when it is dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes the text; no copy stays behind.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    #[cfg(feature = "passphrase")]
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Zeroize for Passphrase {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

impl fmt::Debug for dyn Signer + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("id", &self.id()).finish_non_exhaustive()
    }
}
