//! What quinn is configured with: who we are, whom we dial, whom we admit.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use quinn_proto::crypto::{self, Keys, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side};

use super::Entropy;
use super::messages::{AUTH_LEN, BODY_LEN_MAX};
use super::schedule::Gate;
use super::session::LinkSession;
use crate::{Admission, Aead, Mesh, NodeKeys, StaticBinding};

/// The QUIC version without its low byte: `NET`.
const VERSION_PREFIX: u32 = 0x4e45_5400;

/// Bytes of a credential at most: what A_I has room for.
pub const CREDENTIAL_LEN_MAX: usize = BODY_LEN_MAX - AUTH_LEN;

/// The QUIC version of links made with the psk of this generation.
#[must_use]
pub const fn version(generation: u8) -> u32 {
    VERSION_PREFIX | generation as u32
}

/// The psk generation of a QUIC version, if it is one of ours.
#[must_use]
pub const fn generation_of(version: u32) -> Option<u8> {
    let [prefix @ .., generation] = version.to_be_bytes();
    if u32::from_be_bytes([prefix[0], prefix[1], prefix[2], 0]) == VERSION_PREFIX { Some(generation) } else { None }
}

/// All our QUIC versions, for `EndpointConfig::supported_versions`: it cannot be changed when the psk is, so it takes
/// all generations, and those without a valid psk are refused here.
#[must_use]
pub fn versions() -> Vec<u32> {
    (0..=u8::MAX).map(version).collect()
}

/// Who this node is on links, and the mesh it is in. Shared by all links; mesh and credential may change.
pub struct LinkIdentity {
    keys: NodeKeys,
    aead: Aead,
    mesh: RwLock<Mesh>,
    credential: RwLock<Bytes>,
}

/// A credential that does not fit into the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a credential of {0} bytes does not fit into the handshake, which has room for {CREDENTIAL_LEN_MAX}")]
pub struct CredentialTooLong(pub usize);

impl LinkIdentity {
    /// An identity that presents no credential and prefers the cipher that is fastest here.
    #[must_use]
    pub fn new(keys: NodeKeys, mesh: Mesh) -> Self {
        Self::preferring(Aead::fastest_here(), keys, mesh)
    }

    /// As [`LinkIdentity::new`], with links under this cipher if the other end prefers it too, and under
    /// ChaCha20-Poly1305 if not.
    #[must_use]
    pub fn preferring(aead: Aead, keys: NodeKeys, mesh: Mesh) -> Self {
        Self { keys, aead, mesh: RwLock::new(mesh), credential: RwLock::default() }
    }

    /// The cipher that this end prefers.
    #[must_use]
    pub fn aead(&self) -> Aead {
        self.aead
    }

    /// The node's keys.
    #[must_use]
    pub fn keys(&self) -> &NodeKeys {
        &self.keys
    }

    /// The mesh as it is now.
    #[must_use]
    pub fn mesh(&self) -> Mesh {
        self.mesh.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes to another psk generation, or drops an old one. Links that stand keep standing.
    pub fn set_mesh(&self, mesh: Mesh) {
        *self.mesh.write().unwrap_or_else(PoisonError::into_inner) = mesh;
    }

    /// What is presented to those we dial: empty, or a capability.
    #[must_use]
    pub fn credential(&self) -> Bytes {
        self.credential.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Presents this from the next dial on; at most [`CREDENTIAL_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// [`CredentialTooLong`]; the credential before stays.
    pub fn set_credential(&self, credential: Bytes) -> Result<(), CredentialTooLong> {
        if credential.len() > CREDENTIAL_LEN_MAX {
            return Err(CredentialTooLong(credential.len()));
        }
        *self.credential.write().unwrap_or_else(PoisonError::into_inner) = credential;
        Ok(())
    }
}

impl fmt::Debug for LinkIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkIdentity").field("node", &self.keys.id()).finish_non_exhaustive()
    }
}

/// Dials exactly one node: whoever answers must prove that it is `remote`.
///
/// The QUIC version chosen beside it (`ClientConfig::version`) says which psk generation is used, and the server name
/// given to `connect` means nothing.
#[must_use]
pub fn client_config(
    identity: Arc<LinkIdentity>,
    remote: StaticBinding,
    entropy: Entropy,
) -> Arc<dyn crypto::ClientConfig> {
    Arc::new(Dialer { identity, remote, entropy })
}

struct Dialer {
    identity: Arc<LinkIdentity>,
    remote: StaticBinding,
    entropy: Entropy,
}

impl crypto::ClientConfig for Dialer {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        _: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let mesh = self.identity.mesh();
        let psk = generation_of(version).and_then(|generation| mesh.psk(generation));
        let psk = psk.ok_or(ConnectError::UnsupportedVersion)?;
        let session =
            LinkSession::initiator(self.identity.clone(), self.remote, mesh.id(), psk, version, params, &self.entropy);
        // quinn has no better error for a peer that cannot be dialled: its static key is a low-order point, or there
        // is no randomness.
        let session = session.map_err(|error| ConnectError::InvalidServerName(error.to_string()))?;
        Ok(Box::new(session))
    }
}

/// Answers members of the mesh, and connects those that `admission` admits.
#[must_use]
pub fn server_config(
    identity: Arc<LinkIdentity>,
    admission: Arc<dyn Admission>,
    entropy: Entropy,
) -> Arc<dyn crypto::ServerConfig> {
    Arc::new(Listener { identity, admission, entropy })
}

struct Listener {
    identity: Arc<LinkIdentity>,
    admission: Arc<dyn Admission>,
    entropy: Entropy,
}

impl Listener {
    fn gate(&self, version: u32) -> Option<Gate> {
        let mesh = self.identity.mesh();
        let psk = mesh.psk(generation_of(version)?)?;
        Some(Gate::new(psk, self.identity.keys.binding().noise_public()))
    }
}

impl crypto::ServerConfig for Listener {
    fn initial_keys(&self, version: u32, dcid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        let gate = self.gate(version).ok_or(UnsupportedVersion)?;
        Ok(gate.initial_keys(version, dcid, Side::Server))
    }

    fn retry_tag(&self, version: u32, original_dcid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        // The psk may have gone since `initial_keys`: then the tag is wrong, and the peer dials again.
        self.gate(version).map_or([0; 16], |gate| gate.retry_tag(version, original_dcid, &[packet]))
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn crypto::Session> {
        let mesh = self.identity.mesh();
        let psk = generation_of(version).and_then(|generation| mesh.psk(generation));
        let (identity, admission) = (self.identity.clone(), self.admission.clone());
        Box::new(LinkSession::responder(identity, admission, mesh.id(), psk, version, params, &self.entropy))
    }
}
