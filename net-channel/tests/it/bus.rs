//! Publish and subscribe between nodes on real sockets.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net_channel::{
    Bus, BusConfig, CursorFileError, Event, From, Item, NodeEvent, OpenGate, Parent, Publish, PublishError,
    SubscribeError, Subscription,
};
use net_transport::{Endpoint, EndpointConfig, Mesh, MeshId, NodeKeys, Peer, Psk, Seed};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) bus: Bus,
    keys: NodeKeys,
}

impl Node {
    async fn start(number: u8, known: Vec<Peer>) -> Self {
        Self::start_with(number, known, |_| {}).await
    }

    pub(crate) async fn start_with(number: u8, known: Vec<Peer>, configure: impl FnOnce(&mut BusConfig)) -> Self {
        let keys = NodeKeys::from_seed(&Seed::new([number; 32]));
        let mesh = Mesh::new(MeshId([1; 32]), 0, Psk::new([2; 32]));
        let gate = Arc::new(OpenGate::new(mesh.id()));
        let mut config = EndpointConfig::listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.known = known;
        let (endpoint, inbox) = Endpoint::bind(keys.clone(), mesh, gate, config).await.expect("bind");
        let mut bus_config = BusConfig::new(Arc::new(keys.clone()));
        configure(&mut bus_config);
        let bus = Bus::start(endpoint.clone(), inbox, bus_config).await.expect("start");
        Self { endpoint, bus, keys }
    }

    pub(crate) fn peer(&self) -> Peer {
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
    assert!(matches!(refused, Err(PublishError::TooLarge { limit, .. }) if limit == 1 << 20));
}

#[cfg(feature = "filter")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filter_hands_out_what_matches_and_moves_past_the_rest() {
    let a = Node::start(11, vec![]).await;
    let channel = a.bus.channel("quakes/ak").open().await.unwrap();
    let mut strong = a.bus.subscribe("quakes/*").filter("mag > 4").from(From::Earliest).await.unwrap();
    for payload in ["{\"mag\":3}", "no json", "{}", "{\"mag\":\"5\"}", "{\"mag\":4.5}", "{\"mag\":1}"] {
        channel.publish(payload).await.unwrap();
    }
    assert_eq!(event(&mut strong).await.payload(), b"{\"mag\":4.5}");
    channel.publish("{\"mag\":9}").await.unwrap();
    assert_eq!(event(&mut strong).await.payload(), b"{\"mag\":9}");
    let counters = strong.filtered();
    assert_eq!((counters.matched, counters.unmatched), (2, 2));
    assert_eq!((counters.missing, counters.wrong_type, counters.unreadable), (1, 1, 1));
    // What was passed over is behind the cursor, and counts as received.
    let delivered = channel.wait_for_delivery(DEADLINE).await;
    assert_eq!((delivered.subscribers, delivered.complete), (1, 1));
    let cursor = strong.cursor();
    let mut rest = a.bus.subscribe("quakes/*").from(From::Cursor(cursor)).await.unwrap();
    channel.publish("last").await.unwrap();
    assert_eq!(event(&mut rest).await.payload(), b"last");
    let metrics = a.bus.metrics().await;
    let subscription = &metrics.subscriptions[0];
    assert_eq!((subscription.pattern.as_str(), subscription.filter.as_deref()), ("quakes/*", Some("mag > 4")));
    assert_eq!((metrics.producers[0].events, metrics.producers[0].subscribers), (8, 1));
}

#[cfg(feature = "filter")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filter_passes_over_many_events_without_keeping_other_tasks_from_running() {
    let a = Node::start(12, vec![]).await;
    let channel = a.bus.channel("n").open().await.unwrap();
    let mut last = a.bus.subscribe("n").filter("body == 19999").await.unwrap();
    for n in 0..20_000 {
        channel.publish(n.to_string()).await.unwrap();
    }
    assert_eq!(event(&mut last).await.payload(), b"19999");
    // With `try_next` too, which does not come back.
    let mut again = a.bus.subscribe("n").from(From::Earliest).filter("body == 19999").await.unwrap();
    let found = timeout(DEADLINE, async {
        loop {
            match again.try_next() {
                Some(item) => break item,
                None => tokio::task::yield_now().await,
            }
        }
    });
    assert_eq!(found.await.expect("in time").event().expect("an event").payload(), b"19999");
}

#[cfg(feature = "filter")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_that_a_filter_keeps_back_is_no_cause() {
    let a = Node::start(13, vec![]).await;
    let b = Node::start(14, vec![a.peer()]).await;
    let on_a = a.bus.channel("talk").open().await.unwrap();
    let on_b = b.bus.channel("talk").open().await.unwrap();
    let origin = a.bus.origin().to_string();
    let wanted = format!("origin == '{origin}' && body.n == 2");
    let mut some = b.bus.subscribe("talk").filter(&wanted).await.unwrap();
    let mut sub_a = a.bus.subscribe("talk").filter(&format!("origin != '{origin}'")).await.unwrap();
    assert!(on_a.wait_for_subscribers(2, DEADLINE).await && on_b.wait_for_subscribers(2, DEADLINE).await);
    on_a.publish("{\"n\":1}").await.unwrap();
    on_a.publish("{\"n\":2}").await.unwrap();
    let given = event(&mut some).await;
    assert_eq!(given.payload(), b"{\"n\":2}");
    on_b.publish("first").await.unwrap();
    assert_eq!(event(&mut sub_a).await.parents()[..], [given.as_parent()]);
    // It comes, is read, and is handed to nobody.
    on_a.publish("{\"n\":3}").await.unwrap();
    on_a.wait_for_delivery(DEADLINE).await;
    let read = timeout(DEADLINE, async {
        while some.filtered().unmatched < 3 {
            assert!(some.try_next().is_none());
            tokio::task::yield_now().await;
        }
    });
    read.await.expect("in time");
    on_b.publish("second").await.unwrap();
    assert!(event(&mut sub_a).await.parents().is_empty());
}

#[cfg(feature = "filter")]
#[tokio::test]
async fn filter_that_is_none_is_refused_with_its_place() {
    let a = Node::start(15, vec![]).await;
    let error = a.bus.subscribe("x").filter("mag > ").await.map(|_| ()).expect_err("no filter");
    let SubscribeError::Filter(error) = error else { panic!("{error}") };
    assert_eq!(error.pointer(), "mag > \n      ^");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscription_is_resumed_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let cursors = |config: &mut BusConfig| config.cursors = Some(directory.path().to_owned());
    let a = Node::start(16, vec![]).await;
    let channel = a.bus.channel("orders").open().await.unwrap();
    for i in 0..10u8 {
        channel.publish([i]).await.unwrap();
    }
    let b = Node::start_with(17, vec![a.peer()], cursors).await;
    let billing = || b.bus.subscribe("orders").from(From::Earliest).resume("billing");
    let mut first = billing().await.unwrap();
    for i in 0..4u8 {
        assert_eq!(event(&mut first).await.payload(), [i]);
    }
    let in_use = billing().await.map(|_| ()).expect_err("the name is in use");
    assert!(matches!(&in_use, SubscribeError::Resume(e) if matches!(**e, CursorFileError::InUse(_))), "{in_use}");
    drop(first);
    let mut second = billing().await.unwrap();
    for i in 4..7u8 {
        assert_eq!(event(&mut second).await.payload(), [i]);
    }
    // Other names, and subscriptions without one, are not affected.
    let mut other = b.bus.subscribe("orders").from(From::Earliest).resume("audit").await.unwrap();
    assert_eq!(event(&mut other).await.payload(), [0]);
    b.bus.close().await;
    drop(second);
    b.endpoint.close().await;
    let c = Node::start_with(18, vec![a.peer()], cursors).await;
    let mut third = c.bus.subscribe("orders").resume("billing").await.unwrap();
    assert_eq!(event(&mut third).await.payload(), [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_of_a_subscription_that_waits_is_saved_without_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let a = Node::start_with(19, vec![], |config| config.cursors = Some(directory.path().to_owned())).await;
    let channel = a.bus.channel("orders").open().await.unwrap();
    let mut subscription = a.bus.subscribe("orders").resume("billing").await.unwrap();
    channel.publish("one").await.unwrap();
    let given = event(&mut subscription).await;
    // It waits for the next item, so it is done with the first.
    let waiting = tokio::spawn(async move { subscription.next().await.is_none() });
    let path = directory.path().join("cursor-billing");
    let saved = timeout(DEADLINE, async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    });
    saved.await.expect("saved in time");
    waiting.abort();
    assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
    let file = net_channel::CursorFile::open(directory.path(), "billing").unwrap();
    let positions: Vec<u64> = file.saved().unwrap().iter().map(|(_, next)| next).collect();
    assert_eq!(positions, [given.seq() + 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_that_was_being_worked_on_in_a_panic_comes_again() {
    let directory = tempfile::tempdir().unwrap();
    let a = Node::start_with(20, vec![], |config| config.cursors = Some(directory.path().to_owned())).await;
    let channel = a.bus.channel("orders").open().await.unwrap();
    channel.publish("one").await.unwrap();
    let mut subscription = a.bus.subscribe("orders").from(From::Earliest).resume("billing").await.unwrap();
    let panics = tokio::spawn(async move {
        let given = event(&mut subscription).await;
        std::panic::panic_any(given);
    });
    assert!(panics.await.is_err_and(|error| error.is_panic()));
    let mut again = a.bus.subscribe("orders").from(From::Earliest).resume("billing").await.unwrap();
    assert_eq!(event(&mut again).await.payload(), b"one");
}

#[tokio::test]
async fn position_needs_a_directory_and_a_name() {
    let directory = tempfile::tempdir().unwrap();
    let a = Node::start(21, vec![]).await;
    assert!(matches!(a.bus.subscribe("x").resume("billing").await.map(|_| ()), Err(SubscribeError::NoDirectory)));
    let b = Node::start_with(22, vec![], |config| config.cursors = Some(directory.path().to_owned())).await;
    for name in ["", ".", "..", ".hidden", "a/b", "../x", "a b", "\u{e9}", "x.lock", &"n".repeat(65)] {
        let error = b.bus.subscribe("x").resume(name).await.map(|_| ()).expect_err(name);
        assert!(
            matches!(&error, SubscribeError::Resume(e) if matches!(**e, CursorFileError::Name(_))),
            "{name}: {error}"
        );
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_opens_too_many_streams_is_refused_and_others_are_served() {
    let a = Node::start(23, vec![]).await;
    let b = Node::start(24, vec![a.peer()]).await;
    let c = Node::start(25, vec![a.peer()]).await;
    let mut events = a.bus.events();
    let channel = a.bus.channel("news").open().await.unwrap();
    let mut reader = c.bus.subscribe("news").await.unwrap();
    let _other = b.bus.subscribe("news").await.unwrap();
    assert!(channel.wait_for_subscribers(2, DEADLINE).await);
    // One is open for its subscription.
    let mut open = vec![];
    for _ in 0..16 {
        open.push(b.endpoint.open_bi(&a.endpoint.id(), net_channel::core::PROTOCOL).await.unwrap());
    }
    let refused = timeout(DEADLINE, async {
        loop {
            if let Some(NodeEvent::StreamRefused { node }) = events.next().await {
                return node;
            }
        }
    });
    assert_eq!(refused.await.expect("in time"), b.endpoint.id());
    assert_eq!(a.bus.metrics().await.quotas.streams_refused, 1);
    channel.publish("still here").await.unwrap();
    assert_eq!(event(&mut reader).await.payload(), b"still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_subscribes_too_often_at_one_producer_is_refused() {
    let a = Node::start(26, vec![]).await;
    let b = Node::start(27, vec![a.peer()]).await;
    let mut events = a.bus.events();
    let channel = a.bus.channel("news").open().await.unwrap();
    let mut subscriptions = vec![];
    for _ in 0..1_025 {
        subscriptions.push(b.bus.subscribe("news").await.unwrap());
    }
    let refused = timeout(DEADLINE, async {
        loop {
            if let Some(NodeEvent::SubscriptionRefused { node }) = events.next().await {
                return node;
            }
        }
    });
    assert_eq!(refused.await.expect("in time"), b.endpoint.id());
    assert!(a.bus.metrics().await.quotas.subscriptions_refused >= 1);
    channel.publish("for the others").await.unwrap();
    assert_eq!(event(&mut subscriptions[0]).await.payload(), b"for the others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn causes_that_no_batch_can_name_are_refused_with_their_event_and_the_channel_goes_on() {
    let a = Node::start(31, vec![]).await;
    let mut subscription = a.bus.subscribe("c").from(From::Earliest).await.unwrap();
    let (channel, realtime) =
        (a.bus.channel("c").open().await.unwrap(), a.bus.channel("r").realtime().open().await.unwrap());
    channel.publish("one").await.unwrap();
    let own = event(&mut subscription).await.as_parent();
    let other = |seq, n: u8| Parent { origin: net_transport::ShortId([n; 8]), seq, hash: [0; 8] };
    let refused = [
        channel.publish_with(Publish::new("x").after([other(0, 1)])).await,
        channel.publish_with(Publish::new("x").after([other(u64::MAX, 1)])).await,
        channel.publish_with(Publish::new("x").after((0..=255).map(|n| other(1, n)))).await,
        realtime.publish_with(Publish::new("x").after([other(1, 1)])).await,
    ];
    assert!(refused.iter().all(|result| matches!(result, Err(PublishError::Causes))), "{refused:?}");
    // An event of one's own is a cause in any case.
    channel.publish_with(Publish::new("two").after([own])).await.unwrap().await.unwrap();
    realtime.publish("three").await.unwrap().await.unwrap();
    assert_eq!(event(&mut subscription).await.payload(), b"two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_opened_again_after_the_clock_was_set_back_uses_no_seq_twice() {
    let clock = Arc::new(AtomicU64::new(2_000_000_000_000_000_000));
    let shown = clock.clone();
    let a = Node::start_with(32, vec![], move |config| {
        let random = net_channel::Environment::default();
        config.environment = net_channel::Environment::new(
            move || shown.load(Ordering::Relaxed),
            move |bytes| bytes.iter_mut().for_each(|byte| [*byte] = random.random()),
        );
    })
    .await;
    let channel = a.bus.channel("c").open().await.unwrap();
    let before = channel.publish("one").await.unwrap().dot().await.unwrap();
    channel.close().await;
    clock.store(1_000_000_000_000_000_000, Ordering::Relaxed);
    let channel = a.bus.channel("c").open().await.unwrap();
    let after = channel.publish("two").await.unwrap().dot().await.unwrap();
    assert!(after.seq > before.seq, "{after} after {before}");
}

#[tokio::test]
async fn subscription_that_nobody_waited_for_is_dropped() {
    let a = Node::start(33, vec![]).await;
    for _ in 0..50 {
        let mut making = std::pin::pin!(a.bus.subscribe("c").into_future());
        // Asked for, and given up before the answer.
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(making.as_mut().poll(cx).is_ready())).await;
        assert!(!polled);
    }
    // One that is waited for is made after them.
    let kept = a.bus.subscribe("c").await.unwrap();
    let dropped = async {
        while a.bus.metrics().await.subscriptions.len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, dropped).await.expect("only what is kept is left");
    drop(kept);
}

/// Those who never wait put an event in the queue as soon as there is room for one.
#[tokio::test]
async fn publisher_that_waits_is_not_starved_by_one_that_never_does() {
    let a = Node::start(27, vec![]).await;
    let channel = a.bus.channel("c").open().await.unwrap();
    let greedy = channel.clone();
    let filling = tokio::spawn(async move {
        loop {
            while greedy.try_publish([7; 64 << 10]).is_ok() {}
            tokio::task::yield_now().await;
        }
    });
    while channel.try_publish([7; 64 << 10]).is_ok() {}
    timeout(DEADLINE, channel.publish("mine")).await.expect("its turn comes").unwrap();
    filling.abort();
}

/// Whoever was just told how its event fared publishes the next one: all of them share a batch, and a signature.
#[tokio::test]
async fn those_who_were_told_together_share_the_next_batch() {
    const TASKS: usize = 16;
    const ROUNDS: usize = 50;
    let a = Node::start(29, vec![]).await;
    let channel = a.bus.channel("c").open().await.unwrap();
    let mut subscription = a.bus.subscribe("c").await.unwrap();
    assert!(channel.wait_for_subscribers(1, DEADLINE).await);
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let channel = channel.clone();
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    channel.publish("mine").await.unwrap().await.unwrap();
                    for _ in 0..n {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    let mut batches = HashSet::new();
    for _ in 0..TASKS * ROUNDS {
        batches.insert(event(&mut subscription).await.batch().open().seal().seq());
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(batches.len() <= 2 * ROUNDS, "{} batches of {} events", batches.len(), TASKS * ROUNDS);
}

/// What is lost or replaced at once of a realtime channel stays small, however many events come together.
#[tokio::test]
async fn batches_of_a_burst_are_large_and_those_of_realtime_channels_are_not() {
    let a = Node::start(28, vec![]).await;
    for (realtime, expected) in [(false, 256 << 10..=512 << 10), (true, 32 << 10..=64 << 10)] {
        let opening = a.bus.channel(if realtime { "r" } else { "c" });
        let channel = if realtime { opening.realtime() } else { opening }.open().await.unwrap();
        let mut subscription = a.bus.subscribe(channel.name().as_str()).await.unwrap();
        assert!(channel.wait_for_subscribers(1, DEADLINE).await);
        for _ in 0..1_000 {
            channel.try_publish([7; 1_000]).expect("there is room");
        }
        let largest = event(&mut subscription).await.batch().open().plaintext().len();
        assert!(expected.contains(&largest), "realtime {realtime}: {largest}");
    }
}
