//! A node in figures, and those as OpenMetrics text.

mod openmetrics;

use net_channel::BusMetrics;
use net_transport::PeerInfo;

use crate::{Node, NodeId};

/// A node in figures, as they were at one moment. Counters only grow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Whose.
    pub node: NodeId,
    /// Links, frames, records: everything that was sent, taken, refused and dropped, by cause.
    pub transport: net_transport::Metrics,
    /// Each neighbour with its queue, its frames and its drops, and each node that is to be one.
    pub peers: Vec<PeerInfo>,
    /// Producers, subscriptions, and what they have seen.
    pub channel: BusMetrics,
}

impl Metrics {
    /// As text in the format OpenMetrics 1.0, as Prometheus and others read it.
    ///
    /// Names begin with `net_`. Of links, producers and subscriptions at most 500 each have series of their own;
    /// `net_metrics_omitted` says how many have none.
    #[must_use]
    pub fn to_openmetrics(&self) -> String {
        openmetrics::text(self)
    }
}

impl Node {
    /// This node in figures.
    pub async fn metrics(&self) -> Metrics {
        let endpoint = self.endpoint();
        Metrics {
            node: self.id(),
            transport: endpoint.metrics(),
            peers: endpoint.peers(),
            channel: self.bus().metrics().await,
        }
    }
}
