//! Where a node can be reached.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{NodeId, StaticBinding};

/// A node that can be dialled: who it is, proved by its binding, and the addresses to try.
///
/// Tickets, node records and the list of known peers carry these. The addresses are hints: whoever answers at one must
/// still prove in the handshake that it is this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The node and its Noise static key; verified when it was parsed.
    pub binding: StaticBinding,
    /// Addresses to try, in order of preference. May be empty when others introduce the node.
    pub addresses: Vec<SocketAddr>,
}

impl Peer {
    /// The node that is expected to answer.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.binding.node()
    }
}
