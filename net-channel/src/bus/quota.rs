//! What other nodes may have this one do: streams, subscriptions, requests.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use net_transport::NodeId;

use crate::bus::producer::lock;
use crate::core::Publisher;

/// Streams that one node may have open here. One is enough; older ones may linger when connections are replaced.
const STREAMS_PER_NODE_MAX: usize = 16;
/// Subscriptions that one node may have with all producers here: as many as the pairs that it can follow.
const SUBSCRIPTIONS_PER_NODE_MAX: usize = 65_536;
/// Requests of one node a second that cost a signature or a copy of batches. Further ones wait.
const REQUESTS_PER_SEC: u32 = 2_000;
/// So many at once are no reason to wait: a node that comes back asks for everything.
const REQUESTS_BURST: u32 = 8_192;

/// What other nodes were refused or had to wait for, on the way to this node's producers. Counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaCounters {
    /// Streams refused because their node had 16 open.
    pub streams_refused: u64,
    /// Subscriptions refused because their node had 65,536 here or 1,024 at the producer, or because 4,096 nodes had
    /// subscribed there.
    pub subscriptions_refused: u64,
    /// Requests that waited because their node had made more than 2,000 a second.
    pub requests_delayed: u64,
}

/// What the nodes that subscribe here have.
#[derive(Debug, Default)]
pub(crate) struct Served {
    nodes: Mutex<HashMap<NodeId, Usage>>,
    streams_refused: AtomicU64,
    subscriptions_refused: AtomicU64,
    requests_delayed: AtomicU64,
}

#[derive(Debug, Default)]
struct Usage {
    streams: usize,
    subscriptions: usize,
    pace: Option<Pace>,
}

impl Served {
    /// A node opens a stream; whether it may.
    pub(crate) fn open_stream(&self, node: NodeId) -> bool {
        let mut nodes = lock(&self.nodes);
        let usage = nodes.entry(node).or_default();
        let may = usage.streams < STREAMS_PER_NODE_MAX;
        if may {
            usage.streams += 1;
        } else {
            self.streams_refused.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// A stream that was opened has ended; whether it was the node's last.
    pub(crate) fn close_stream(&self, node: &NodeId) -> bool {
        let mut nodes = lock(&self.nodes);
        let Some(usage) = nodes.get_mut(node) else { return false };
        usage.streams -= 1;
        let was_last = usage.streams == 0;
        if was_last {
            nodes.remove(node);
        }
        was_last
    }

    /// Whether the node may have another subscription.
    pub(crate) fn may_subscribe(&self, node: &NodeId) -> bool {
        lock(&self.nodes).get(node).is_none_or(|usage| usage.subscriptions < SUBSCRIPTIONS_PER_NODE_MAX)
    }

    /// A subscription was refused because there are too many.
    pub(crate) fn subscription_refused(&self) {
        self.subscriptions_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A producer had so many subscriptions of the node, and has so many now.
    pub(crate) fn subscriptions_changed(&self, node: &NodeId, before: usize, after: usize) {
        if let Some(usage) = lock(&self.nodes).get_mut(node) {
            usage.subscriptions = (usage.subscriptions + after).saturating_sub(before);
        }
    }

    /// A producer is replaced by its next incarnation: its subscriptions are gone.
    pub(crate) fn forget(&self, publisher: &Publisher) {
        for node in publisher.subscribers().keys() {
            self.subscriptions_changed(node, publisher.subscriptions_of(node), 0);
        }
    }

    /// How long the node's next request has to wait.
    pub(crate) fn request(&self, node: &NodeId, now: Instant) -> Duration {
        let mut nodes = lock(&self.nodes);
        let Some(usage) = nodes.get_mut(node) else { return Duration::ZERO };
        let wait = usage.pace.get_or_insert_with(|| Pace::new(now)).take(now);
        if !wait.is_zero() {
            self.requests_delayed.fetch_add(1, Ordering::Relaxed);
        }
        wait
    }

    pub(crate) fn counters(&self) -> QuotaCounters {
        QuotaCounters {
            streams_refused: self.streams_refused.load(Ordering::Relaxed),
            subscriptions_refused: self.subscriptions_refused.load(Ordering::Relaxed),
            requests_delayed: self.requests_delayed.load(Ordering::Relaxed),
        }
    }
}

/// So many requests a second, and a burst at once: each moves the time from which on there is room again.
#[derive(Debug)]
struct Pace {
    free_at: Instant,
}

const REQUEST_TIME: Duration = Duration::from_nanos(1_000_000_000 / REQUESTS_PER_SEC as u64);

impl Pace {
    fn new(now: Instant) -> Self {
        Self { free_at: now }
    }

    /// Takes one; how long it has to wait.
    fn take(&mut self, now: Instant) -> Duration {
        self.free_at = self.free_at.max(now) + REQUEST_TIME;
        self.free_at.saturating_duration_since(now + REQUEST_TIME * REQUESTS_BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn streams_of_one_node_are_bounded_and_those_of_others_are_not_affected() {
        let served = Served::default();
        assert!((0..STREAMS_PER_NODE_MAX).all(|_| served.open_stream(NODE)));
        assert!(!served.open_stream(NODE));
        assert!(served.open_stream(NodeId::from_bytes([2; 32])));
        assert!((1..STREAMS_PER_NODE_MAX).all(|_| !served.close_stream(&NODE)));
        assert!(served.close_stream(&NODE), "it was the last");
        assert!(served.open_stream(NODE));
        assert_eq!(served.counters().streams_refused, 1);
    }

    #[test]
    fn subscriptions_of_one_node_are_bounded_over_all_producers() {
        let served = Served::default();
        served.open_stream(NODE);
        served.subscriptions_changed(&NODE, 0, 60_000);
        assert!(served.may_subscribe(&NODE));
        served.subscriptions_changed(&NODE, 0, SUBSCRIPTIONS_PER_NODE_MAX - 60_000);
        assert!(!served.may_subscribe(&NODE));
        served.subscriptions_changed(&NODE, 1, 0);
        assert!(served.may_subscribe(&NODE));
    }

    #[test]
    fn requests_beyond_a_burst_come_at_the_named_rate() {
        let served = Served::default();
        served.open_stream(NODE);
        let now = Instant::now();
        assert!((0..REQUESTS_BURST).all(|_| served.request(&NODE, now).is_zero()));
        let waits: Duration = (0..REQUESTS_PER_SEC).map(|_| served.request(&NODE, now)).max().unwrap_or_default();
        assert_eq!(waits, REQUEST_TIME * REQUESTS_PER_SEC);
        let later = now + Duration::from_secs(60);
        assert!((0..REQUESTS_BURST).all(|_| served.request(&NODE, later).is_zero()));
        assert_eq!(served.counters().requests_delayed, u64::from(REQUESTS_PER_SEC));
    }
}
