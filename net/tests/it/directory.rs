//! What a node keeps, and who may use it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use net::state::StateError;
use net::{From, Item, Node, StartError};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

async fn node(dir: &Path) -> Result<Node, StartError> {
    Node::builder().dir(dir).mdns(false).listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_identity_mesh_and_peers() {
    let place = tempfile::tempdir().unwrap();
    let first = node(&place.path().join("a")).await.unwrap();
    let (id, mesh) = (first.id(), first.endpoint().mesh());
    let second = Node::builder()
        .dir(place.path().join("b"))
        .mdns(false)
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .ticket(first.ticket())
        .start()
        .await
        .unwrap();
    assert_eq!(second.endpoint().mesh(), mesh);
    let channel = first.channel("kept").open().await.unwrap();
    let mut events = second.subscribe("kept").await.unwrap();
    assert!(channel.wait_for_subscribers(1, DEADLINE).await);
    channel.publish("one").await.unwrap();
    let item = timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&item, Item::Event(event) if event.payload() == b"one"), "{item:?}");
    first.close().await;
    second.close().await;

    // Started again, without a ticket: the same node in the same mesh, and it finds the other by itself.
    let first = node(&place.path().join("a")).await.unwrap();
    assert_eq!((first.id(), first.endpoint().mesh()), (id, mesh));
    let second = node(&place.path().join("b")).await.unwrap();
    let channel = first.channel("kept").open().await.unwrap();
    let mut events = second.subscribe("kept").from(From::Earliest).await.unwrap();
    assert!(channel.wait_for_subscribers(1, DEADLINE).await, "a remembered peer is dialled");
    channel.publish("two").await.unwrap();
    let item = timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&item, Item::Event(event) if event.payload() == b"two"), "{item:?}");
}

#[tokio::test]
async fn a_directory_has_one_node_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let first = node(place.path().join("a").as_path()).await.unwrap();
    let refused = node(place.path().join("a").as_path()).await;
    assert!(matches!(refused, Err(StartError::State(StateError::Locked { .. }))), "{refused:?}");
    first.close().await;
    drop(first);
    node(place.path().join("a").as_path()).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_that_others_may_enter_is_refused_with_the_command_that_mends_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("a");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = node(&dir).await.unwrap_err().to_string();
    assert!(error.contains("chmod 700"), "{error}");
}
