//! Publish and subscribe between nodes on real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use net_channel::{Bus, BusConfig, Event, From, Item, OpenGate, Publish, Subscription};
use net_transport::{Endpoint, EndpointConfig, Mesh, MeshId, NodeKeys, Peer, Psk, Seed};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

struct Node {
    endpoint: Endpoint,
    bus: Bus,
    keys: NodeKeys,
}

impl Node {
    async fn start(number: u8, known: Vec<Peer>) -> Self {
        let keys = NodeKeys::from_seed(&Seed::new([number; 32]));
        let mesh = Mesh::new(MeshId([1; 32]), 0, Psk::new([2; 32]));
        let gate = Arc::new(OpenGate::new(mesh.id()));
        let mut config = EndpointConfig::listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.known = known;
        let (endpoint, inbox) = Endpoint::bind(keys.clone(), mesh, gate, config).await.expect("bind");
        let bus = Bus::start(endpoint.clone(), inbox, BusConfig::new(Arc::new(keys.clone()))).await.expect("start");
        Self { endpoint, bus, keys }
    }

    fn peer(&self) -> Peer {
        Peer { binding: *self.keys.binding(), addresses: self.endpoint.addresses() }
    }
}

async fn event(subscription: &mut Subscription) -> Event {
    match timeout(DEADLINE, subscription.next()).await.expect("an event in time").expect("open").expect("fine") {
        Item::Event(event) => event,
        other => panic!("{other:?} instead of an event"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_travel_between_two_nodes() {
    let a = Node::start(1, vec![]).await;
    let b = Node::start(2, vec![a.peer()]).await;
    let channel = a.bus.channel("quakes/ak").open().await.unwrap();
    let mut subscription = b.bus.subscribe("quakes/*").await.unwrap();
    assert!(channel.wait_for_subscribers(1, DEADLINE).await);
    let receipt = channel.publish_with(Publish::new("4.2").key("ak").header("unit", "mw")).await.unwrap();
    let event = event(&mut subscription).await;
    assert_eq!(event.payload(), b"4.2");
    assert_eq!(event.key(), Some(&b"ak"[..]));
    assert_eq!(event.headers().value("unit"), Some(&b"mw"[..]));
    assert_eq!(event.channel().as_str(), "quakes/ak");
    assert_eq!(event.origin(), a.bus.origin());
    assert_eq!(event.dot(), receipt.dot().await.unwrap());
    let delivered = channel.wait_for_delivery(DEADLINE).await;
    assert_eq!((delivered.subscribers, delivered.complete), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_events_arrive_once_and_in_order_under_back_pressure() {
    const EVENTS: u64 = 200_000;
    let a = Node::start(3, vec![]).await;
    let b = Node::start(4, vec![a.peer()]).await;
    let channel = a.bus.channel("numbers").open().await.unwrap();
    let mut subscription = b.bus.subscribe("numbers").await.unwrap();
    assert!(channel.wait_for_subscribers(1, DEADLINE).await);
    let publisher = tokio::spawn(async move {
        for i in 0..EVENTS {
            channel.publish(i.to_le_bytes()).await.unwrap();
        }
        channel
    });
    for i in 0..EVENTS {
        assert_eq!(event(&mut subscription).await.payload(), i.to_le_bytes());
    }
    publisher.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_subscribes_to_itself_and_late_ones_read_history() {
    let a = Node::start(5, vec![]).await;
    let channel = a.bus.channel("self").open().await.unwrap();
    let mut own = a.bus.subscribe("**").await.unwrap();
    for i in 0..10u8 {
        channel.publish([i]).await.unwrap();
    }
    for i in 0..10u8 {
        assert_eq!(event(&mut own).await.payload(), [i]);
    }
    let b = Node::start(6, vec![a.peer()]).await;
    let mut late = b.bus.subscribe("self").from(From::Earliest).await.unwrap();
    for i in 0..10u8 {
        assert_eq!(event(&mut late).await.payload(), [i]);
    }
    let cursor = late.cursor();
    drop(late);
    channel.publish([10]).await.unwrap();
    let mut resumed = b.bus.subscribe("self").from(From::Cursor(cursor)).await.unwrap();
    assert_eq!(event(&mut resumed).await.payload(), [10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_application_was_given_is_a_cause_of_what_it_publishes() {
    let a = Node::start(7, vec![]).await;
    let b = Node::start(8, vec![a.peer()]).await;
    let on_a = a.bus.channel("talk").open().await.unwrap();
    let on_b = b.bus.channel("talk").open().await.unwrap();
    let mut sub_b = b.bus.subscribe("talk").await.unwrap();
    let mut sub_a = a.bus.subscribe("talk").await.unwrap();
    assert!(on_a.wait_for_subscribers(2, DEADLINE).await && on_b.wait_for_subscribers(2, DEADLINE).await);
    on_a.publish("question").await.unwrap();
    let question = event(&mut sub_b).await;
    assert!(question.parents().is_empty());
    on_b.publish("answer").await.unwrap();
    let mut answer = event(&mut sub_a).await;
    if answer.payload() == b"question" {
        answer = event(&mut sub_a).await;
    }
    assert_eq!(answer.payload(), b"answer");
    assert_eq!(answer.parents()[..], [question.as_parent()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mebibyte_passes_and_one_byte_more_does_not() {
    let a = Node::start(9, vec![]).await;
    let b = Node::start(10, vec![a.peer()]).await;
    let channel = a.bus.channel("big").open().await.unwrap();
    let mut subscription = b.bus.subscribe("big").await.unwrap();
    assert!(channel.wait_for_subscribers(1, DEADLINE).await);
    channel.publish(vec![7; 1 << 20]).await.unwrap();
    assert_eq!(event(&mut subscription).await.payload(), vec![7; 1 << 20]);
    let refused = channel.publish(vec![7; (1 << 20) + 1]).await;
    assert!(matches!(refused, Err(net_channel::PublishError::TooLarge { limit, .. }) if limit == 1 << 20));
}
