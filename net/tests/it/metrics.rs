//! Figures and events of a node.

use std::collections::BTreeSet;
use std::time::Duration;

use net::{From, Node, NodeEvent};

const DEADLINE: Duration = Duration::from_secs(20);

async fn pair_of_nodes() -> (Node, Node) {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let a = Node::builder().ephemeral().mdns(false).listen(listen).start().await.expect("a");
    let b = Node::builder().ephemeral().mdns(false).listen(listen).ticket(a.ticket()).start().await.expect("b");
    (a, b)
}

/// Reads the format strictly: what a scraper may rely on.
fn check(text: &str) -> Vec<(String, f64)> {
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    let (mut families, mut family, mut kind) = (BTreeSet::new(), "", "");
    let mut samples = Vec::new();
    let mut seen = BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            (family, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(family.starts_with("net_") && matches!(kind, "counter" | "gauge" | "info"), "{line}");
            assert!(families.insert(family), "{family} is there twice");
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a name and a unit");
            assert!(name == family && family.ends_with(unit), "{line}");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.starts_with(family) && rest.len() > family.len() + 1, "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let name = series.split('{').next().unwrap_or_default();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            assert_eq!(name, format!("{family}{suffix}"), "{line}");
            assert!(seen.insert(series), "{series} is there twice");
            samples.push((series.to_owned(), value.parse().expect("a number")));
        }
    }
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_figure_is_in_the_text_and_the_text_is_openmetrics() {
    let (a, b) = pair_of_nodes().await;
    let channel = a.channel("quakes/ak").open().await.unwrap();
    let mut subscription = b.subscribe("quakes/*").from(From::Earliest).filter("mag > 4").await.unwrap();
    assert!(channel.wait_for_subscribers(1, DEADLINE).await);
    channel.publish("{\"mag\":1}").await.unwrap();
    channel.publish("{\"mag\":5}").await.unwrap();
    tokio::time::timeout(DEADLINE, subscription.next()).await.unwrap();
    channel.wait_for_delivery(DEADLINE).await;
    let (of_a, of_b) = (a.metrics().await, b.metrics().await);
    let (text_a, text_b) = (check(&of_a.to_openmetrics()), check(&of_b.to_openmetrics()));
    let value = |samples: &[(String, f64)], series: &str| {
        samples.iter().find(|(s, _)| s == series).unwrap_or_else(|| panic!("{series} of {samples:#?}")).1
    };
    assert_eq!(value(&text_a, "net_producer_events_total{channel=\"quakes/ak\"}"), 2.0);
    assert_eq!(value(&text_a, "net_producer_subscribers{channel=\"quakes/ak\"}"), 1.0);
    assert_eq!(value(&text_a, "net_producer_lag_events{channel=\"quakes/ak\"}"), 0.0);
    assert!(value(&text_a, "net_producer_cached_bytes{channel=\"quakes/ak\"}") > 0.0);
    assert_eq!(value(&text_a, "net_peers{state=\"linked\"}"), 1.0);
    assert_eq!(value(&text_b, "net_channel_events_delivered_total"), 2.0);
    assert_eq!(value(&text_b, "net_subscription_lag_events{id=\"1\",pattern=\"quakes/*\"}"), 0.0);
    let filtered = |result: &str| {
        format!("net_subscription_filtered_events_total{{id=\"1\",pattern=\"quakes/*\",result=\"{result}\"}}")
    };
    assert_eq!((value(&text_b, &filtered("matched")), value(&text_b, &filtered("unmatched"))), (1.0, 1.0));
    let link = format!("net_link_received_frames_total{{node=\"{}\"}}", a.id());
    assert!(value(&text_b, &link) >= 1.0);
    assert_eq!(value(&text_b, "net_transport_frames_dropped_total{cause=\"unsolicited\"}"), 0.0);
    assert!(value(&text_a, "net_transport_sent_bytes_total") > 0.0);
    // No counter is forgotten: each of the transport's has a series.
    let series = |samples: &[(String, f64)]| samples.iter().filter(|(s, _)| s.starts_with("net_transport_")).count();
    assert_eq!(series(&text_a), of_a.transport.iter().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_on_a_node_is_told_to_whoever_watches() {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let a = Node::builder().ephemeral().mdns(false).listen(listen).start().await.expect("a");
    let mut events = a.events();
    let mut next = async |wanted: fn(&NodeEvent) -> bool| {
        let found = async {
            loop {
                match events.next().await {
                    Some(event) if wanted(&event) => return Some(event),
                    Some(_) => {}
                    None => return None,
                }
            }
        };
        tokio::time::timeout(DEADLINE, found).await.expect("in time")
    };
    let b = Node::builder().ephemeral().mdns(false).listen(listen).ticket(a.ticket()).start().await.expect("b");
    let up = next(|event| matches!(event, NodeEvent::PeerUp { .. })).await;
    assert!(matches!(up, Some(NodeEvent::PeerUp { node }) if node == b.id()), "{up:?}");
    let _subscription = a.subscribe("talk").await.unwrap();
    let channel = b.channel("talk").open().await.unwrap();
    let up = next(|event| matches!(event, NodeEvent::ProducerUp { .. })).await;
    assert!(matches!(&up, Some(NodeEvent::ProducerUp { channel, .. }) if channel.as_str() == "talk"), "{up:?}");
    assert!(next(|event| matches!(event, NodeEvent::Joined { .. })).await.is_some());
    channel.close().await;
    assert!(next(|event| matches!(event, NodeEvent::ProducerDown { .. })).await.is_some());
    b.close().await;
    assert!(next(|event| matches!(event, NodeEvent::PeerDown { .. })).await.is_some());
    a.close().await;
    assert!(next(|_| false).await.is_none(), "a closed node tells that nothing more comes");
    assert!(a.events().next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_events_too_slowly_is_told_how_many_are_missed() {
    let a = Node::builder().ephemeral().mdns(false).start().await.expect("a");
    let mut events = a.events();
    for n in 0..700 {
        let channel = a.channel(&format!("n/{n}")).open().await.unwrap();
        channel.close().await;
    }
    // The last of them has gone through once it is not known any more.
    let known = tokio::time::timeout(DEADLINE, async {
        while !a.channels().await.is_empty() {
            tokio::task::yield_now().await;
        }
    });
    known.await.expect("in time");
    let first = events.next().await;
    assert!(matches!(first, Some(NodeEvent::Missed { events: 376 })), "{first:?}");
    assert!(matches!(events.next().await, Some(NodeEvent::ProducerUp { .. } | NodeEvent::ProducerDown { .. })));
}
