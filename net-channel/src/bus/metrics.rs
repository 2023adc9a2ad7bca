//! What a bus does and holds, in figures.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::ChannelName;
use crate::bus::hub::Command;
use crate::bus::producer::lock;
use crate::bus::quota::QuotaCounters;
use crate::bus::{Bus, FilterCounters};
use crate::core::{Counters, Source, SubId};

/// A bus in figures, as they were at one moment. Counters only grow.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BusMetrics {
    /// What this node's subscriptions have seen, together.
    pub counters: Counters,
    /// Batches that wait for what is missing before them.
    pub held_batches: usize,
    /// Their bytes.
    pub held_bytes: usize,
    /// Each channel that is open for publishing, in order of its name.
    pub producers: Vec<ProducerMetrics>,
    /// Each subscription, in the order in which they were made.
    pub subscriptions: Vec<SubscriptionMetrics>,
    /// What other nodes were refused or had to wait for.
    pub quotas: QuotaCounters,
}

/// A channel that this node publishes on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProducerMetrics {
    /// Its name.
    pub channel: ChannelName,
    /// Events sealed since the channel was opened.
    pub events: u64,
    /// The seq that the next event gets.
    pub next_seq: u64,
    /// Bytes of events that wait to be sealed.
    pub queued_bytes: usize,
    /// Bytes of sealed batches that are kept for late subscribers.
    pub cached_bytes: usize,
    /// Nodes that are subscribed.
    pub subscribers: usize,
    /// Of these, the nodes that have been handed everything sealed so far.
    pub complete: usize,
    /// Events that the slowest of them has not been handed.
    pub lag_max: u64,
}

/// A subscription of this node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SubscriptionMetrics {
    /// Its number on this node.
    pub id: SubId,
    /// The channels it is for.
    pub pattern: String,
    /// The text of its filter.
    pub filter: Option<String>,
    /// What became of the events that the filter was asked about.
    pub filtered: FilterCounters,
    /// How many events of each origin are known to exist and have not been handed over.
    pub lag: Vec<(Arc<Source>, u64)>,
}

impl SubscriptionMetrics {
    /// Events of all origins that are known to exist and have not been handed over.
    #[must_use]
    pub fn lag_total(&self) -> u64 {
        self.lag.iter().map(|(_, events)| events).sum()
    }
}

impl BusMetrics {
    /// Every counter with its name, in a fixed order: those of the subscriptions, then those of the quotas.
    #[must_use]
    pub fn counters_by_name(&self) -> Vec<(&'static str, u64)> {
        // Named one by one, so that a counter that is added and not told does not compile.
        let Counters {
            batches,
            events,
            late,
            duplicates,
            malformed,
            unverified,
            equivocations,
            sealed,
            ticks,
            grants_refused,
            overflowed,
            fetches,
            gaps,
            restarts,
            trimmed,
            refused_full,
            unexpected,
        } = self.counters;
        let QuotaCounters { streams_refused, subscriptions_refused, requests_delayed } = self.quotas;
        vec![
            ("batches_delivered", batches),
            ("events_delivered", events),
            ("events_late", late),
            ("batches_duplicate", duplicates),
            ("batches_malformed", malformed),
            ("batches_unverified", unverified),
            ("equivocations", equivocations),
            ("batches_sealed", sealed),
            ("ticks", ticks),
            ("grants_refused", grants_refused),
            ("batches_overflowed", overflowed),
            ("fetches", fetches),
            ("gaps", gaps),
            ("restarts", restarts),
            ("positions_trimmed", trimmed),
            ("refused_full", refused_full),
            ("messages_unexpected", unexpected),
            ("streams_refused", streams_refused),
            ("subscriptions_refused", subscriptions_refused),
            ("requests_delayed", requests_delayed),
        ]
    }
}

impl Bus {
    /// What this bus does and holds, in figures. After the bus was closed, those of its producers.
    pub async fn metrics(&self) -> BusMetrics {
        let (answer, metrics) = oneshot::channel();
        let mut metrics: BusMetrics = self.ask(Command::Metrics { answer }, metrics).await.unwrap_or_default();
        let producers: Vec<_> = lock(&self.inner.producers).values().cloned().collect();
        metrics.producers = producers.iter().filter(|producer| !producer.is_closed()).map(|p| p.metrics()).collect();
        metrics.producers.sort_by(|a, b| a.channel.cmp(&b.channel));
        metrics.quotas = self.inner.served.counters();
        metrics
    }
}
