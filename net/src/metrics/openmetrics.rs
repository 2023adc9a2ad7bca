//! OpenMetrics 1.0: <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use net_channel::{FilterCounters, ProducerMetrics, SubscriptionMetrics};
use net_transport::{PeerInfo, PeerState};

use super::Metrics;

/// The most links, producers and subscriptions, each, that have series of their own.
const SERIES_MAX: usize = 500;

/// The metrics as text, with its end.
pub(super) fn text(metrics: &Metrics) -> String {
    let mut text = Text(String::new());
    text.family("net_node", "info", "", "Which node this is");
    text.sample("net_node_info", &[("node", &metrics.node)], 1);
    transport(&mut text, metrics);
    links(&mut text, &metrics.peers);
    for (name, value) in metrics.channel.counters_by_name() {
        text.counter(&format!("net_channel_{name}"), "", &words(name), &[(&[], value)]);
    }
    let held = [(&[][..], metrics.channel.held_batches as u64)];
    text.gauge("net_channel_held_batches", "batches", "Batches that wait for what is missing before them", &held);
    let held = [(&[][..], metrics.channel.held_bytes as u64)];
    text.gauge("net_channel_held_bytes", "bytes", "Bytes of the batches that wait", &held);
    producers(&mut text, &metrics.channel.producers);
    subscriptions(&mut text, &metrics.channel.subscriptions);
    let linked = metrics.peers.iter().filter(|peer| matches!(peer.state, PeerState::Linked { .. })).count();
    let omitted = |all: usize| all.saturating_sub(SERIES_MAX) as u64;
    text.gauge(
        "net_metrics_omitted",
        "",
        "What has no series of its own because there is too much",
        &[
            (&[("kind", &"links")], omitted(linked)),
            (&[("kind", &"producers")], omitted(metrics.channel.producers.len())),
            (&[("kind", &"subscriptions")], omitted(metrics.channel.subscriptions.len())),
        ],
    );
    text.0.push_str("# EOF\n");
    text.0
}

/// Counters whose name ends with a cause become one family with the cause as a label.
fn transport(text: &mut Text, metrics: &Metrics) {
    let mut by_cause: BTreeMap<String, Vec<(&str, u64)>> = BTreeMap::new();
    for (name, value) in metrics.transport.iter() {
        let verb = ["_dropped_", "_skipped_", "_refused_"]
            .into_iter()
            .find_map(|verb| name.split_once(verb).map(|n| (n, verb)));
        match verb {
            Some(((what, cause), verb)) => {
                let family = format!("net_transport_{what}{}", verb.trim_end_matches('_'));
                by_cause.entry(family).or_default().push((cause, value));
            }
            None => match name.strip_prefix("bytes_") {
                Some(verb) => {
                    let family = format!("net_transport_{verb}_bytes");
                    text.counter(&family, "bytes", &words(name), &[(&[], value)]);
                }
                None => text.counter(&format!("net_transport_{name}"), "", &words(name), &[(&[], value)]),
            },
        }
    }
    for (family, causes) in by_cause {
        let help = format!("{}, by cause", words(family.trim_start_matches("net_transport_")));
        text.family(&family, "counter", "", &help);
        for (cause, value) in causes {
            text.sample(&format!("{family}_total"), &[("cause", &cause)], value);
        }
    }
}

fn links(text: &mut Text, peers: &[PeerInfo]) {
    let linked = peers.iter().filter(|peer| matches!(peer.state, PeerState::Linked { .. })).count() as u64;
    text.gauge(
        "net_peers",
        "",
        "Nodes that are neighbours, and nodes that are to be",
        &[(&[("state", &"linked")], linked), (&[("state", &"dialing")], peers.len() as u64 - linked)],
    );
    /// Of a link: round-trip time in seconds, bytes queued, frames and bytes sent, frames and bytes received, frames
    /// dropped, frames skipped.
    type Link = (f64, [u64; 7]);
    let links: Vec<(&PeerInfo, Link)> = peers
        .iter()
        .filter_map(|peer| match &peer.state {
            PeerState::Linked {
                rtt,
                queued_bytes,
                frames_sent,
                bytes_sent,
                frames_received,
                bytes_received,
                frames_dropped,
                frames_skipped,
                ..
            } => Some((
                peer,
                (
                    rtt.as_secs_f64(),
                    [
                        *queued_bytes as u64,
                        *frames_sent,
                        *bytes_sent,
                        *frames_received,
                        *bytes_received,
                        *frames_dropped,
                        *frames_skipped,
                    ],
                ),
            )),
            _ => None,
        })
        .take(SERIES_MAX)
        .collect();
    text.family("net_link_rtt_seconds", "gauge", "seconds", "Round-trip time of a link");
    for (peer, (rtt, _)) in &links {
        text.sample("net_link_rtt_seconds", &[("node", &peer.node)], rtt);
    }
    for (at, (name, kind, unit, help)) in [
        ("net_link_queued_bytes", "gauge", "bytes", "Bytes of frames queued for a link"),
        ("net_link_sent_frames", "counter", "frames", "Frames queued for a link so far"),
        ("net_link_sent_bytes", "counter", "bytes", "Bytes of frames queued for a link so far"),
        ("net_link_received_frames", "counter", "frames", "Frames taken from a link so far"),
        ("net_link_received_bytes", "counter", "bytes", "Bytes of frames taken from a link so far"),
        ("net_link_dropped_frames", "counter", "frames", "Frames of a link that were dropped"),
        ("net_link_skipped_frames", "counter", "frames", "Frames not queued for a link that was full or slow"),
    ]
    .into_iter()
    .enumerate()
    {
        text.family(name, kind, unit, help);
        let sample = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        for (peer, (_, values)) in &links {
            text.sample(&sample, &[("node", &peer.node)], values[at]);
        }
    }
}

fn producers(text: &mut Text, producers: &[ProducerMetrics]) {
    let producers = &producers[..producers.len().min(SERIES_MAX)];
    let mut each = |name: &str, kind: &str, unit: &str, help: &str, value: fn(&ProducerMetrics) -> u64| {
        text.family(name, kind, unit, help);
        let sample = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        for producer in producers {
            text.sample(&sample, &[("channel", &producer.channel)], value(producer));
        }
    };
    each("net_producer_events", "counter", "events", "Events sealed since the channel was opened", |p| p.events);
    each("net_producer_next_seq", "gauge", "", "The seq that the next event gets", |p| p.next_seq);
    each("net_producer_queued_bytes", "gauge", "bytes", "Bytes of events that wait to be sealed", |p| {
        p.queued_bytes as u64
    });
    each("net_producer_cached_bytes", "gauge", "bytes", "Bytes of batches kept for late subscribers", |p| {
        p.cached_bytes as u64
    });
    each("net_producer_subscribers", "gauge", "", "Nodes that are subscribed", |p| p.subscribers as u64);
    each("net_producer_complete", "gauge", "", "Nodes that have been handed everything sealed so far", |p| {
        p.complete as u64
    });
    each("net_producer_lag_events", "gauge", "events", "Events that the slowest subscriber lacks", |p| p.lag_max);
}

fn subscriptions(text: &mut Text, subscriptions: &[SubscriptionMetrics]) {
    let subscriptions = &subscriptions[..subscriptions.len().min(SERIES_MAX)];
    text.family("net_subscription_lag_events", "gauge", "events", "Events known to exist and not handed over");
    for subscription in subscriptions {
        let labels: &[(&str, &dyn Display)] = &[("id", &subscription.id), ("pattern", &subscription.pattern)];
        text.sample("net_subscription_lag_events", labels, subscription.lag_total());
    }
    text.family("net_subscription_filtered_events", "counter", "events", "What a filter said of events, by result");
    for subscription in subscriptions.iter().filter(|subscription| subscription.filter.is_some()) {
        let FilterCounters { matched, unmatched, missing, wrong_type, unreadable, too_costly, .. } =
            subscription.filtered;
        for (result, events) in [
            ("matched", matched),
            ("unmatched", unmatched),
            ("missing", missing),
            ("wrong_type", wrong_type),
            ("unreadable", unreadable),
            ("too_costly", too_costly),
        ] {
            let labels: &[(&str, &dyn Display)] =
                &[("id", &subscription.id), ("pattern", &subscription.pattern), ("result", &result)];
            text.sample("net_subscription_filtered_events_total", labels, events);
        }
    }
}

/// `frames_sent` as people read it.
fn words(name: &str) -> String {
    let mut words = name.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

struct Text(String);

impl Text {
    fn counter(&mut self, name: &str, unit: &str, help: &str, samples: &[(Labels<'_>, u64)]) {
        self.family(name, "counter", unit, help);
        samples.iter().for_each(|(labels, value)| self.sample(&format!("{name}_total"), labels, value));
    }

    fn gauge(&mut self, name: &str, unit: &str, help: &str, samples: &[(Labels<'_>, u64)]) {
        self.family(name, "gauge", unit, help);
        samples.iter().for_each(|(labels, value)| self.sample(name, labels, value));
    }

    /// The lines that come before the samples of a family. A unit is the end of the family's name.
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        debug_assert!(unit.is_empty() || name.ends_with(&format!("_{unit}")), "{name} does not end with {unit}");
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {}", Escaped(&help));
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, Escaped(value));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

/// Text within quotes.
struct Escaped<'a>(&'a dyn Display);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text(String::new());
        text.gauge("net_x", "", "says \"\\\"\nand goes on", &[(&[("pattern", &"a\"b\\c\nd"), ("id", &7)], 3)]);
        assert_eq!(
            text.0,
            "# TYPE net_x gauge\n# HELP net_x says \\\"\\\\\\\"\\nand goes on\nnet_x{pattern=\"a\\\"b\\\\c\\nd\",id=\"7\"} 3\n"
        );
    }
}
