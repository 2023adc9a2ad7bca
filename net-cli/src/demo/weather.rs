//! The bad weather of the demo: what its sockets do to datagrams, and what came of it.

use std::ops::AddAssign;

use net::Node;
use net::transport::Weather;
use serde::{Deserialize, Serialize};

use crate::demo::checks::Check;
use crate::demo::messages::RoleName;

/// Datagrams that each process loses of those it sends.
const LOSS: f64 = 0.05;
/// Datagrams that it holds back while others overtake them.
const REORDER: f64 = 0.02;
/// Datagrams that it sends twice.
const DUPLICATE: f64 = 0.01;
/// Batches that are taken away from the consumer, and from nobody else, after its links have brought them.
const BATCHES: f64 = 0.25;

/// What the sockets of a process, or of several, did, and what was done about it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Storm {
    pub(crate) datagrams: u64,
    pub(crate) datagrams_lost: u64,
    pub(crate) datagrams_reordered: u64,
    pub(crate) datagrams_duplicated: u64,
    /// Batches that links had brought and that were dropped on purpose.
    pub(crate) batches_dropped: u64,
    /// Requests for batches that subscriptions sent to origins.
    pub(crate) fetches: u64,
    /// Events that subscriptions said could not be had.
    pub(crate) gaps: u64,
}

/// The weather of a process.
pub(crate) fn weather_of(role: &RoleName, seed: u64) -> Weather {
    let batches = if matches!(role, RoleName::Consumer { .. }) { BATCHES } else { 0.0 };
    Weather { loss: LOSS, reorder: REORDER, duplicate: DUPLICATE, batches, seed }
}

impl Storm {
    /// What has happened on this node so far.
    pub(crate) async fn of(node: &Node) -> Self {
        let metrics = node.metrics().await;
        let (transport, counters) = (metrics.transport, metrics.channel.counters);
        Self {
            datagrams: transport.weather_datagrams,
            datagrams_lost: transport.weather_lost,
            datagrams_reordered: transport.weather_reordered,
            datagrams_duplicated: transport.weather_duplicated,
            batches_dropped: transport.weather_batches_dropped,
            fetches: counters.fetches,
            gaps: counters.gaps,
        }
    }

    /// Whether there was bad weather at all, and nothing came of it; `everywhere` are all processes together.
    pub(crate) fn check(consumer: &Self, everywhere: &Self) -> Check {
        let Self { datagrams, datagrams_lost, datagrams_reordered, datagrams_duplicated, gaps, .. } = *everywhere;
        let Self { batches_dropped, fetches, .. } = *consumer;
        let happened = [datagrams_lost, datagrams_reordered, datagrams_duplicated, batches_dropped, fetches];
        Check {
            name: "losses repaired".to_owned(),
            ok: gaps == 0 && happened.iter().all(|count| *count > 0),
            says: format!(
                "{datagrams_lost} of {datagrams} datagrams lost, {datagrams_reordered} reordered, \
                 {datagrams_duplicated} duplicated; {batches_dropped} batches taken from the consumer, got back with \
                 {fetches} requests to their origins; {gaps} gaps"
            ),
        }
    }
}

impl AddAssign for Storm {
    fn add_assign(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.datagrams_lost += other.datagrams_lost;
        self.datagrams_reordered += other.datagrams_reordered;
        self.datagrams_duplicated += other.datagrams_duplicated;
        self.batches_dropped += other.batches_dropped;
        self.fetches += other.fetches;
        self.gaps += other.gaps;
    }
}
