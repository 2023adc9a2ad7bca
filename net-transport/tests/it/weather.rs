//! Links on real sockets in bad weather.

use net_transport::{EndpointConfig, Fanout, Weather};

use crate::link_kit::{DEADLINE, Node, frame, loopback, pair};

const FRAMES: u64 = 2_000;

fn in_weather(weather: Weather) -> EndpointConfig {
    let mut config = loopback();
    config.weather = Some(weather);
    config
}

/// Two linked nodes in this weather, with a pair of the first that the second has joined.
async fn joined(weather: impl Fn(u64) -> Weather) -> (Node, Node) {
    let mut a = Node::with(1, in_weather(weather(1))).await;
    let mut b = Node::with(2, in_weather(weather(2))).await;
    b.dial(&a);
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
    a.endpoint.serve(pair(1));
    b.endpoint.join(pair(1), a.id());
    b.joined(pair(1)).await;
    a.joiners(pair(1), 1).await;
    (a, b)
}

#[tokio::test]
async fn links_repair_what_the_weather_does_to_datagrams() {
    let (a, mut b) = joined(|seed| Weather { loss: 0.05, reorder: 0.05, duplicate: 0.05, batches: 0.0, seed }).await;
    for seq in 0..FRAMES {
        a.endpoint.room(&pair(1)).await;
        assert_eq!(a.endpoint.publish(&pair(1), frame(pair(1), seq, 1_000)), Fanout { links: 1, skipped: 0 });
    }
    for seq in 0..FRAMES {
        assert_eq!(b.frame().await.header().seq(), seq);
    }
    let metrics = a.metrics();
    // At the largest packets of a link: with segments offloaded it would be a tenth of that.
    assert!(metrics.weather_datagrams >= FRAMES / 7, "each segment is a datagram of its own: {metrics:?}");
    assert!(metrics.weather_lost > metrics.weather_datagrams / 100, "{metrics:?}");
    assert!(metrics.weather_reordered > 0 && metrics.weather_duplicated > 0, "{metrics:?}");
    assert_eq!(b.metrics().weather_batches_dropped, 0);
}

#[tokio::test]
async fn batches_that_the_weather_drops_are_counted_and_the_others_come_in_order() {
    let (a, mut b) = joined(|seed| Weather { batches: 0.25, seed, ..Weather::default() }).await;
    for seq in 0..FRAMES {
        a.endpoint.room(&pair(1)).await;
        a.endpoint.publish(&pair(1), frame(pair(1), seq, 100));
    }
    let counted = async {
        let mut seqs = Vec::new();
        while seqs.len() as u64 + b.metrics().weather_batches_dropped < FRAMES {
            seqs.push(b.frame().await.header().seq());
        }
        seqs
    };
    let seqs = tokio::time::timeout(DEADLINE, counted).await.expect("all come or are dropped");
    assert!(seqs.is_sorted());
    let dropped = b.metrics().weather_batches_dropped;
    assert!((FRAMES / 5..FRAMES / 3).contains(&dropped), "{dropped}");
    assert_eq!(b.metrics().frames_dropped_refused, dropped);
}
