//! Counters of everything an endpoint does, and of everything it drops, by cause.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The live counters of one endpoint.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// What an endpoint has done since it was bound; every drop has a cause of its own. Counts only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Metrics {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Metrics {
                Metrics { $($name: self.$name.value(),)* }
            }
        }

        impl Metrics {
            /// Every counter with its name, in a fixed order.
            #[must_use]
            pub fn iter(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

/// One monotone counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        // Counters order nothing, so relaxed is enough.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Links that came up, one for each time a node became a neighbour.
    links_up,
    /// Links that went down.
    links_down,
    /// Connections of a link that took over from another without the link going down.
    links_switched,
    /// Drained connections that were closed before they were empty: at the deadline, or because too many were drained.
    drains_cut,
    /// Connections refused because `links_max` was reached.
    links_refused_full,
    /// Dials begun.
    dials,
    /// Dials that failed on every address.
    dials_failed,
    /// Addresses that were not dialled because too many dials of their host were without an answer.
    dials_held_back,
    /// Handshakes that were begun by others and not completed.
    handshakes_failed,
    /// Handshakes answered with a Retry because too many were open.
    handshakes_retried,
    /// Connections closed because the other end broke the protocol of links.
    protocol_violations,
    /// Datagrams from the network that are no packets of ours: another version, a short connection id.
    datagrams_dropped_foreign,
    /// Stateless resets to strangers that were not sent.
    resets_suppressed,
    /// Frames queued on links.
    frames_sent,
    /// Bytes of frames queued on links.
    bytes_sent,
    /// Frames given to the inbox.
    frames_received,
    /// Bytes of frames given to the inbox.
    bytes_received,
    /// Frames not queued on a link because its queue was full.
    frames_skipped_queue_full,
    /// Frames not queued on a link because its queue was full for too long and has not drained by half.
    frames_skipped_slow,
    /// Frames not queued on a link because the neighbour had said that it is full for that pair.
    frames_skipped_told_full,
    /// Frames for this node itself that its inbox had no room for.
    frames_skipped_inbox_full,
    /// Frames that were published without a proper header.
    frames_malformed_local,
    /// Frames that were still queued when their link went down.
    frames_dropped_link_down,
    /// Received frames of a pair that was not joined.
    frames_dropped_unsolicited,
    /// Received frames of a joined pair from a neighbour that is not its upstream.
    frames_dropped_wrong_upstream,
    /// Received frames whose ttl was used up.
    frames_dropped_ttl,
    /// Received frames of a kind that has no place where it came.
    frames_dropped_kind,
    /// Received frames that the admission refused.
    frames_dropped_refused,
    /// Received datagrams, and streams of realtime frames, whose header is malformed or does not fit its payload.
    datagrams_dropped_malformed,
    /// Received datagrams that the inbox had no room for.
    datagrams_dropped_inbox_full,
    /// Datagrams sent.
    datagrams_sent,
    /// Realtime frames that were dropped before they were sent: the oldest of a full queue, or their link was lost.
    realtime_dropped_unsent,
    /// Realtime frames that a newer one of their pair has replaced, or whose stream it has ended before all of it was
    /// acknowledged, on either end of a link.
    realtime_superseded,
    /// Received realtime frames that were dropped for newer ones before the layer above took them.
    realtime_dropped_inbox_full,
    /// Times that a lane waited for room in the inbox.
    lanes_stalled,
    /// Lanes closed because no prelude came in time or it made no sense.
    preludes_refused,
    /// Streams for a protocol that nobody accepts here.
    streams_refused_unknown,
    /// Streams refused because the acceptor's queue was full.
    streams_refused_busy,
    /// Streams given to acceptors.
    streams_accepted,
    /// Control messages received.
    control_messages_received,
    /// Control messages sent.
    control_messages_sent,
    /// Joins of neighbours that were refused.
    joins_refused,
    /// Pairs pushed out of a full bucket of equal prefixes.
    joins_bucket_overflow,
    /// Node records that were forged or malformed.
    records_dropped_invalid,
    /// Node records that were too old, or not newer than what is known.
    records_dropped_stale,
    /// Node records that found no place.
    records_dropped_limit,
    /// Node records taken.
    records_taken,
    /// Adverts that the admission refused.
    adverts_dropped_invalid,
    /// Adverts not newer than what is known.
    adverts_dropped_stale,
    /// Adverts that found no place.
    adverts_dropped_limit,
    /// Adverts of a node without a live record.
    adverts_dropped_unknown_node,
    /// Adverts taken.
    adverts_taken,
    /// Nodes found on the local network.
    mdns_found,
    /// Datagrams that were sent through bad weather, a facility of tests; this and the four below are 0 without it.
    weather_datagrams,
    /// Of these, the datagrams that were lost on purpose.
    weather_lost,
    /// Of these, the datagrams that were held back on purpose while others overtook them.
    weather_reordered,
    /// Of these, the datagrams that were sent twice on purpose.
    weather_duplicated,
    /// Received batches that were dropped on purpose above the links.
    weather_batches_dropped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_show_in_the_snapshot_by_name() {
        let counters = Counters::default();
        counters.links_up.one();
        counters.bytes_sent.add(41);
        let metrics = counters.snapshot();
        assert_eq!((metrics.links_up, metrics.bytes_sent, metrics.links_down), (1, 41, 0));
        assert!(metrics.iter().contains(&("bytes_sent", 41)));
    }
}
