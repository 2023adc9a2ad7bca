//! The seam between links and rights: what the layers above decide for the transport.

use std::fmt;

use crate::{Header, NodeId};

/// What a node may do on links and with frames. The transport asks; net-identity and net-channel answer.
///
/// Calls come from the hot path: they must not block and should not allocate.
pub trait Admission: Send + Sync + 'static {
    /// May this node be a neighbour? Asked with the credential of its handshake (empty, or a MEMBER capability).
    ///
    /// # Errors
    /// [`Refusal`] closes the connection before it is reported as connected.
    fn member(&self, node: &NodeId, credential: &[u8]) -> Result<(), Refusal>;

    /// May this frame pass? Asked for each frame after the header and the join have been checked.
    ///
    /// # Errors
    /// [`Refusal`] drops the frame, which is counted.
    fn check(&self, header: &Header, from: &NodeId) -> Result<(), Refusal>;

    /// Is this advert genuine, and which one is it? Asked once for each advert that is new here; `bytes` are what
    /// the layer above gave to its own endpoint.
    ///
    /// # Errors
    /// [`Refusal`] drops the advert, which is neither reported nor passed on.
    fn advert(&self, bytes: &[u8]) -> Result<AdvertId, Refusal>;
}

/// Which advert it is. Of two with one `node` and `key`, the one with the higher `seq` replaces the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdvertId {
    /// The node that the advert speaks of.
    pub node: NodeId,
    /// What it speaks of, a hash.
    pub key: [u8; 32],
    /// Which version it is.
    pub seq: u64,
}

/// Why something was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not admitted: {0}")]
pub struct Refusal(pub &'static str);

/// Admits every member, frame and no advert: for protocols of your own on bare links.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAdmission;

impl Admission for OpenAdmission {
    fn member(&self, _: &NodeId, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn check(&self, _: &Header, _: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }

    fn advert(&self, _: &[u8]) -> Result<AdvertId, Refusal> {
        Err(Refusal("this node knows no adverts"))
    }
}

impl fmt::Debug for dyn Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dyn Admission")
    }
}
