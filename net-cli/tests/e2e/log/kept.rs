//! Logs as a node makes them.

use std::time::Duration;

use net::redex::LogConfig;
use net::{Builder, Node};

use super::rows;
use crate::harness::Place;

const DEADLINE: Duration = Duration::from_secs(60);

fn builder() -> Builder {
    Node::builder().mdns(false).listen("127.0.0.1:0".parse().expect("an address"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_nodes_published_is_read_beside_the_node_that_keeps_it_and_after_it() {
    let place = Place::new();
    let net = place.node("a");
    let node = builder().dir(&net.dir).start().await.expect("starts");
    let _keeper = node.keep("quakes/*", LogConfig::default()).await.expect("a pattern");
    let other = builder().ephemeral().ticket(node.ticket()).start().await.expect("starts");
    let theirs = other.channel("quakes/ak").open().await.expect("opens");
    assert!(theirs.wait_for_subscribers(1, DEADLINE).await);
    let ours = node.channel("quakes/ak").persist(LogConfig::default()).open().await.expect("opens");
    for n in 0..5 {
        ours.publish(format!("ours {n}")).await.expect("room").await.expect("stored");
        theirs.publish(format!("theirs {n}")).await.expect("room").await.expect("published");
    }

    let (run, follow) = (net.clone(), ["log", "read", "quakes/ak", "--follow", "--count", "10", "--json"]);
    let followed = tokio::task::spawn_blocking(move || run.run(&follow).ok()).await.expect("no panic");
    let texts = |origin: &str| -> Vec<String> {
        let of = rows(&followed).into_iter().filter(|row| row["origin"] == origin);
        of.map(|row| row["text"].as_str().expect("text").to_owned()).collect()
    };
    let numbered = |who: &str| (0..5).map(|n| format!("{who} {n}")).collect::<Vec<_>>();
    assert_eq!(texts(&node.bus().origin().to_string()), numbered("ours"));
    assert_eq!(texts(&other.bus().origin().to_string()), numbered("theirs"));
    let pid = std::process::id();
    let busy = net.run(&["log", "trim", "quakes/ak", "--keep-events", "1"]);
    assert!(busy.code == Some(1) && busy.err.contains(&format!("process {pid} writes the log")), "{busy:?}");

    node.close().await;
    other.close().await;
    assert_eq!(net.run(&["log", "read", "quakes/ak", "--json"]).ok(), followed);
    let out = net.run(&["log", "verify", "quakes/ak"]).ok();
    assert!(out.starts_with("quakes/ak: checksums, chain and signatures hold: 10 events"), "{out}");
    let out = net.run(&["log", "ls"]).ok();
    assert!(out.contains("quakes/ak      10") && out.lines().count() == 2, "{out}");
}
