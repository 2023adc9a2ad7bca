//! Nodes that are built, closed, and built again.

use std::time::Duration;

use net::state::StateError;
use net::{Builder, From, Node, StartError};

const DEADLINE: Duration = Duration::from_secs(60);

fn builder() -> Builder {
    Node::builder().mdns(false).listen("127.0.0.1:0".parse().expect("an address"))
}

async fn next(events: &mut net::Subscription) -> String {
    let item = tokio::time::timeout(DEADLINE, events.next()).await.expect("in time");
    let event = item.expect("open").expect("it goes on").event().expect("an event");
    String::from_utf8(event.payload().to_vec()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_meet_by_ticket() {
    let alice = builder().ephemeral().start().await.expect("starts");
    let bob = builder().ephemeral().ticket(alice.ticket()).start().await.expect("starts");
    let mut events = bob.subscribe("quakes/*").from(From::Earliest).await.expect("a pattern");
    let channel = alice.channel("quakes/ak").open().await.expect("a name");
    channel.publish("hello").await.expect("room");
    assert_eq!(next(&mut events).await, "hello");
    alice.close().await;
    bob.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_of_a_directory_is_the_same_again() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("node");
    let first = builder().dir(&dir).start().await.expect("starts");
    let (id, ticket) = (first.id(), first.ticket());
    assert!(matches!(builder().dir(&dir).start().await, Err(StartError::State(StateError::Locked { .. }))));
    first.close().await;
    let second = builder().dir(&dir).start().await.expect("the lock is free when close returns");
    assert_eq!((second.id(), second.ticket()), (id, ticket), "same key, mesh and port");
    assert!(second.notes().is_empty());
    second.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_remembered() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir_a, dir_b) = (temporary.path().join("a"), temporary.path().join("b"));
    let a = builder().dir(&dir_a).start().await.expect("starts");
    let b = builder().dir(&dir_b).ticket(a.ticket()).start().await.expect("starts");
    b.close().await;
    // No ticket this time.
    let b = builder().dir(&dir_b).start().await.expect("starts");
    let mut events = b.subscribe("news").from(From::Earliest).await.expect("a pattern");
    a.channel("news").open().await.expect("a name").publish("again").await.expect("room");
    assert_eq!(next(&mut events).await, "again");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_of_another_mesh_is_refused_and_changes_nothing() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("node");
    let node = builder().dir(&dir).start().await.expect("starts");
    let mesh = node.endpoint().mesh();
    node.close().await;
    let other = builder().ephemeral().start().await.expect("starts");
    let refused = builder().dir(&dir).ticket(other.ticket()).start().await;
    assert!(matches!(refused, Err(StartError::OtherMesh { .. })));
    let node = builder().dir(&dir).start().await.expect("starts");
    assert_eq!(node.endpoint().mesh(), mesh);
    node.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_node_lets_go_of_its_directory() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("node");
    drop(builder().dir(&dir).start().await.expect("starts"));
    let again = async {
        loop {
            match builder().dir(&dir).start().await {
                Err(StartError::State(StateError::Locked { .. })) => tokio::task::yield_now().await,
                started => break started.expect("starts"),
            }
        }
    };
    let node = tokio::time::timeout(DEADLINE, again).await.expect("in time");
    node.close().await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_bear_the_signers_name() {
    let key = std::sync::Arc::new(net::identity::EntityKey::generate());
    let node = builder().ephemeral().signer(key.clone()).start().await.expect("starts");
    let mut events = node.subscribe("news").from(From::Earliest).await.expect("a pattern");
    node.channel("news").open().await.expect("a name").publish("signed").await.expect("room");
    let item = tokio::time::timeout(DEADLINE, events.next()).await.expect("in time");
    let event = item.expect("open").expect("it goes on").event().expect("an event");
    assert_eq!(event.origin(), key.id());
    assert_ne!(net::NodeId::from(event.origin()), node.id());
    node.close().await;
}
