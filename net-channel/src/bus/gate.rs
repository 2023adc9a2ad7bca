//! The open policy: every member may publish and subscribe, and still every frame must be vouched for.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use net_transport::{Admission, AdvertId, Header, MeshId, NodeId, Pair, Refusal, ShortId};

use crate::Advert;

/// Admits members, adverts that their origins signed, and frames of origins that have such an advert.
#[derive(Debug)]
pub struct OpenGate {
    mesh: MeshId,
    vouched: RwLock<HashSet<(u64, ShortId)>>,
}

/// The most (channel, origin) pairs that a gate remembers.
const VOUCHED_MAX: usize = 1 << 20;

impl OpenGate {
    /// A gate of this mesh that has seen no advert.
    #[must_use]
    pub fn new(mesh: MeshId) -> Self {
        Self { mesh, vouched: RwLock::default() }
    }
}

impl Admission for OpenGate {
    fn member(&self, _: &NodeId, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn check(&self, header: &Header, _: &NodeId) -> Result<(), Refusal> {
        let vouched = self.vouched.read().unwrap_or_else(PoisonError::into_inner);
        if vouched.contains(&(header.channel(), header.origin())) {
            Ok(())
        } else {
            Err(Refusal("no advert vouches for this origin on this channel"))
        }
    }

    fn advert(&self, bytes: &[u8]) -> Result<AdvertId, Refusal> {
        let advert = Advert::verify(bytes, &self.mesh).map_err(|_| Refusal("the advert is not its origin's"))?;
        // Speaking for another entity needs a capability that this policy cannot check: nobody may claim to.
        if advert.advert().entity != advert.advert().origin || advert.advert().capability != [0; 32] {
            return Err(Refusal("the advert speaks for an entity that has not signed it"));
        }
        let mut vouched = self.vouched.write().unwrap_or_else(PoisonError::into_inner);
        let pair = Pair { channel: advert.channel().0, origin: *advert.advert().origin.as_bytes() };
        if vouched.len() >= VOUCHED_MAX && !vouched.contains(&pair.prefix()) {
            return Err(Refusal("this node knows as many channels as it can"));
        }
        vouched.insert(pair.prefix());
        Ok(advert.advert_id())
    }
}
