//! What an endpoint shows of its neighbours.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::shared::Shared;
use crate::NodeId;
use crate::socket::canonical;
use crate::sync::lock;

/// A neighbour, or a node that this one tries to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// The node.
    pub node: NodeId,
    /// How things stand with it.
    pub state: PeerState,
}

/// How things stand with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// It is a neighbour.
    #[non_exhaustive]
    Linked {
        /// Where it is.
        address: SocketAddr,
        /// Round-trip time.
        rtt: Duration,
        /// How long the connection has stood.
        since: Duration,
        /// This node has dialled, or the other.
        dialed: bool,
        /// Connections that are being drained beside the current one.
        draining: usize,
        /// Bytes of frames queued for it.
        queued_bytes: usize,
        /// Frames queued for it so far.
        frames_sent: u64,
        /// Their bytes.
        bytes_sent: u64,
        /// Frames taken from it so far.
        frames_received: u64,
        /// Their bytes.
        bytes_received: u64,
        /// Frames of it that were dropped.
        frames_dropped: u64,
        /// Frames of joined pairs that were not queued for it: it was full, or slow.
        frames_skipped: u64,
    },
    /// It is not, and is to be.
    #[non_exhaustive]
    Dialing {
        /// A dial is under way.
        now: bool,
        /// Dials that have failed since it was last linked.
        failures: u32,
        /// Why the last one failed, or the link was lost.
        last_error: Option<String>,
        /// Until the next dial.
        next_try: Duration,
    },
}

pub(super) fn peers(shared: &Shared) -> Vec<PeerInfo> {
    let now = Instant::now();
    let (neighbours, standings) = {
        let state = lock(&shared.state);
        let neighbours: Vec<_> = state.neighbours.values().cloned().collect();
        (neighbours, state.dialer.standings().collect::<Vec<_>>())
    };
    let linked = neighbours.iter().map(|neighbour| {
        let links = neighbour.links();
        let link = neighbour.current();
        let state = PeerState::Linked {
            address: canonical(link.connection.remote_address()),
            rtt: link.connection.rtt(),
            since: now.duration_since(link.since),
            dialed: link.dial.mine(),
            draining: links.len() - 1,
            queued_bytes: neighbour.outbox.queued_bytes(),
            frames_sent: neighbour.counters.frames_sent.value(),
            bytes_sent: neighbour.counters.bytes_sent.value(),
            frames_received: neighbour.counters.frames_received.value(),
            bytes_received: neighbour.counters.bytes_received.value(),
            frames_dropped: neighbour.counters.frames_dropped.value(),
            frames_skipped: neighbour.counters.frames_skipped.value(),
        };
        PeerInfo { node: neighbour.node, state }
    });
    let dialing = standings.into_iter().map(|(node, standing)| {
        let state = PeerState::Dialing {
            now: standing.dialing,
            failures: standing.failures,
            last_error: standing.last_error,
            next_try: standing.next.saturating_duration_since(now),
        };
        PeerInfo { node, state }
    });
    let mut peers: Vec<PeerInfo> = linked.chain(dialing).collect();
    peers.sort_by_key(|peer| peer.node);
    peers
}
