//! Channels that are kept: by who publishes, and by others.

use std::path::Path;
use std::time::Duration;

use net::channel::{Ack, Delivered, OpenChannelError, PersistError};
use net::redex::{Found, Log, LogConfig, Start, SyncPolicy};
use net::state::StateDir;
use net::{Builder, From, Item, Node, Subscription};

const DEADLINE: Duration = Duration::from_secs(60);

fn builder() -> Builder {
    Node::builder().mdns(false).listen("127.0.0.1:0".parse().expect("an address"))
}

async fn start(dir: &Path) -> Node {
    builder().dir(dir).start().await.expect("starts")
}

/// The payloads of the next `n` events; anything else that comes fails the test.
async fn take(events: &mut Subscription, n: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    while payloads.len() < n {
        let item = tokio::time::timeout(DEADLINE, events.next()).await;
        let item = item.unwrap_or_else(|_| panic!("nothing after {payloads:?}")).expect("open").expect("goes on");
        match item {
            Item::Event(event) => payloads.push(String::from_utf8(event.payload().to_vec()).expect("text")),
            other => panic!("{other} after {:?}", payloads.last()),
        }
    }
    payloads
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn publish(channel: &net::Channel, range: std::ops::Range<u32>) -> Vec<Ack> {
    let mut receipts = Vec::new();
    for n in range {
        receipts.push(channel.publish(n.to_string()).await.expect("room"));
    }
    let mut acks = Vec::new();
    for receipt in receipts {
        acks.push(tokio::time::timeout(DEADLINE, receipt).await.expect("in time").expect("stored"));
    }
    acks
}

/// The frames of a log, one after the other.
fn frames(dir: &Path, channel: &str) -> Vec<Vec<u8>> {
    let state = StateDir::open(dir).expect("a state directory");
    let name = net::channel::ChannelName::parse(channel).expect("a name");
    let log = Log::open(net::logs::path(&state, &name), LogConfig::default().read_only()).expect("a log");
    assert!(log.verify(&log.origins(), &[]).expect("readable").faults.is_empty());
    let reader = log.read(Start::Earliest).expect("readable");
    reader
        .map(|found| match found.expect("readable") {
            Found::Batch(batch) => batch.frame().to_vec(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_as_durable_is_replayed_after_a_restart() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("a");
    let node = start(&dir).await;
    let channel = node.channel("x").persist(LogConfig::default()).open().await.expect("opens");
    let acks = publish(&channel, 0..100).await;
    let expected: Vec<Ack> = (0..100).map(|offset| Ack::Durable { offset }).collect();
    assert_eq!(acks, expected);
    node.close().await;

    let node = start(&dir).await;
    let channel = node.channel("x").persist(LogConfig::default()).open().await.expect("opens");
    assert_eq!(publish(&channel, 100..101).await, [Ack::Durable { offset: 100 }]);
    let late = builder().ephemeral().ticket(node.ticket()).start().await.expect("starts");
    let mut events = late.subscribe("x").from(From::Earliest).await.expect("a pattern");
    assert_eq!(take(&mut events, 101).await, numbers(0..101));
    let mut last = late.subscribe("x").from(From::Last(3)).await.expect("a pattern");
    assert_eq!(take(&mut last, 3).await, numbers(98..101));
    // Live follows history without a seam.
    publish(&channel, 101..110).await;
    assert_eq!(take(&mut events, 9).await, numbers(101..110));
    node.close().await;
    late.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_producer_goes_on_in_the_eyes_of_its_subscribers() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("a");
    let mut node = start(&dir).await;
    let subscriber = builder().dir(temporary.path().join("b")).ticket(node.ticket()).start().await.expect("starts");
    let mut events = subscriber.subscribe("x").from(From::Earliest).await.expect("a pattern");
    for round in 0..3 {
        let channel = node.channel("x").persist(LogConfig::default()).open().await.expect("opens");
        publish(&channel, round * 10..round * 10 + 10).await;
        assert_eq!(take(&mut events, 10).await, numbers(round * 10..round * 10 + 10));
        // What nobody has heard of when it ends is in the log.
        node.close().await;
        node = start(&dir).await;
    }
    node.close().await;
    subscriber.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_beyond_memory_comes_from_the_log() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let node = start(&temporary.path().join("a")).await;
    let config = LogConfig::default().sync(SyncPolicy::None).segment_bytes(256 << 10);
    let channel = node.channel("x").cache_bytes(0).persist(config).open().await.expect("opens");
    let acks = publish(&channel, 0..20_000).await;
    assert_eq!(acks.last(), Some(&Ack::Buffered { offset: 19_999 }));
    let late = builder().ephemeral().ticket(node.ticket()).start().await.expect("starts");
    let mut events = late.subscribe("x").from(From::Earliest).await.expect("a pattern");
    assert_eq!(take(&mut events, 20_000).await, numbers(0..20_000));
    let mut last = late.subscribe("x").from(From::Last(5_000)).await.expect("a pattern");
    assert_eq!(take(&mut last, 5_000).await, numbers(15_000..20_000));
    node.close().await;
    late.close().await;
}

/// A burst makes large batches, and none is larger than a segment.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_fits_into_small_segments() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let node = start(&temporary.path().join("a")).await;
    for segment_bytes in [64 << 10, 256 << 10] {
        let config = LogConfig::default().sync(SyncPolicy::None).segment_bytes(segment_bytes);
        let channel = node.channel(&format!("x/{segment_bytes}")).persist(config).open().await.expect("opens");
        let mut receipts = Vec::new();
        for _ in 0..2_000 {
            receipts.push(channel.publish([7; 1_000]).await.expect("there is room"));
        }
        for (offset, receipt) in (0..).zip(receipts) {
            assert_eq!(receipt.await.expect("stored"), Ack::Buffered { offset });
        }
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_whose_segments_are_too_small_for_others_says_so() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let a = start(&temporary.path().join("a")).await;
    let b = builder().dir(temporary.path().join("b")).ticket(a.ticket()).start().await.expect("starts");
    let keeper = b.keep("**", LogConfig::default().segment_bytes(256 << 10)).await.expect("a pattern");
    let _channel = a.channel("x").open().await.expect("opens");
    let mut events = b.events();
    let failure = loop {
        if let Some(failure) = keeper.channels().first().and_then(|kept| kept.failure.clone()) {
            break failure;
        }
        let _ = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
    };
    assert!(failure.contains("segment"), "{failure}");
    a.close().await;
    b.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_has_the_bytes_of_the_producer_and_says_so() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir_a, dir_b) = (temporary.path().join("a"), temporary.path().join("b"));
    let a = start(&dir_a).await;
    let b = builder().dir(&dir_b).ticket(a.ticket()).start().await.expect("starts");
    let keeper = b.keep("quakes/*", LogConfig::default()).await.expect("a pattern");
    let opening = a.channel("quakes/ak").persist(LogConfig::default()).replicas(1);
    let channel = opening.open().await.expect("opens");
    let acks = publish(&channel, 0..500).await;
    assert!(acks.iter().all(|ack| *ack == Ack::Replicated { n: 1 }), "{acks:?}");
    let kept = keeper.channels();
    assert_eq!((kept.len(), kept[0].events, kept[0].failure.clone()), (1, 500, None));
    assert_eq!(channel.keepers(), [b.id()]);
    a.close().await;
    b.close().await;
    let kept = frames(&dir_b, "quakes/ak");
    assert!(!kept.is_empty() && kept == frames(&dir_a, "quakes/ak"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_goes_on_where_its_log_ends() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir_a, dir_b) = (temporary.path().join("a"), temporary.path().join("b"));
    let a = start(&dir_a).await;
    let channel = a.channel("x").replicas(1).open().await.expect("opens");
    for round in 0..3 {
        let b = builder().dir(&dir_b).ticket(a.ticket()).start().await.expect("starts");
        let _keeper = b.keep("**", LogConfig::default()).await.expect("a pattern");
        let acks = publish(&channel, round * 100..round * 100 + 100).await;
        assert!(acks.iter().all(|ack| *ack == Ack::Replicated { n: 1 }), "{acks:?}");
        b.close().await;
    }
    let kept = frames(&dir_b, "x");
    let seqs = kept.iter().map(|frame| {
        let header = net::transport::Header::parse(frame).expect("a frame");
        (header.seq(), header.seq() + u64::from(header.events()))
    });
    let seqs: Vec<_> = seqs.collect();
    assert!(seqs.windows(2).all(|pair| pair[0].1 == pair[1].0), "each event once: {seqs:?}");
    assert_eq!(seqs.last().map(|(_, end)| end - seqs[0].0), Some(300));
    a.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_without_a_keeper_is_acknowledged_with_what_is_true() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let a = start(&temporary.path().join("a")).await;
    let channel = a.channel("x").persist(LogConfig::default()).replicas(2).open().await.expect("opens");
    let receipt = channel.publish("lonely").await.expect("room");
    assert_eq!(
        tokio::time::timeout(DEADLINE, receipt).await.expect("in time").expect("stored"),
        Ack::Durable { offset: 0 }
    );
    a.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_keeps_persists_what_it_publishes_itself() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("a");
    let a = start(&dir).await;
    let keeper = a.keep("kept/*", LogConfig::default()).await.expect("a pattern");
    let channel = a.channel("kept/x").open().await.expect("opens");
    assert_eq!(publish(&channel, 0..3).await.last(), Some(&Ack::Durable { offset: 2 }));
    let other = a.channel("other").open().await.expect("opens");
    assert!(matches!(publish(&other, 0..1).await[..], [Ack::Sent { .. }]));
    let Delivered { subscribers, complete } = channel.wait_for_delivery(DEADLINE).await;
    assert_eq!((subscribers, complete, keeper.channels().len()), (1, 1, 1));
    a.close().await;
    let events: u64 = frames(&dir, "kept/x")
        .iter()
        .map(|frame| u64::from(net::transport::Header::parse(frame).expect("a frame").events()))
        .sum();
    assert_eq!(events, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_keepers_of_one_pattern_one_may_end() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let a = start(&temporary.path().join("a")).await;
    let first = a.keep("kept/*", LogConfig::default()).await.expect("a pattern");
    let _second = a.keep("kept/*", LogConfig::default()).await.expect("a pattern");
    drop(first);
    let channel = a.channel("kept/x").open().await.expect("opens");
    assert_eq!(publish(&channel, 0..3).await.last(), Some(&Ack::Durable { offset: 2 }));
    a.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_directory_keeps_nothing_and_says_so() {
    let a = builder().ephemeral().start().await.expect("starts");
    let opened = a.channel("x").persist(LogConfig::default()).open().await;
    assert!(matches!(opened, Err(OpenChannelError::Persist(PersistError::NoDirectory))));
    let kept = a.keep("x", LogConfig::default()).await.expect_err("there is no directory");
    assert!(kept.to_string().contains("start it in a directory"), "{kept}");
    a.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_another_has_is_named_with_who_has_it() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("a");
    let a = start(&dir).await;
    let state = StateDir::open(&dir).expect("a state directory");
    let name = net::channel::ChannelName::parse("x").expect("a name");
    let held = Log::open(net::logs::path(&state, &name), LogConfig::default()).expect("a new log");
    let error = a.channel("x").persist(LogConfig::default()).open().await.expect_err("the log is taken");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(held);
    // What the system says is part of what is said.
    std::fs::write(dir.join("logs/y"), "").expect("written");
    let error = a.channel("y").persist(LogConfig::default()).open().await.expect_err("a file is there");
    assert!(error.to_string().contains("os error"), "{error}");
    a.close().await;
}

/// Flips a byte in the middle of the frame of this batch of a closed log.
fn damage(dir: &Path, channel: &str, batch: usize) {
    let frame = frames(dir, channel).swap_remove(batch);
    let state = StateDir::open(dir).expect("a state directory");
    let name = net::channel::ChannelName::parse(channel).expect("a name");
    let segment = net::logs::path(&state, &name).join(format!("{:016x}.seg", 0));
    let mut bytes = std::fs::read(&segment).expect("readable");
    let at = bytes.windows(frame.len()).position(|bytes| bytes == frame).expect("it is there");
    bytes[at + frame.len() / 2] ^= 1;
    std::fs::write(&segment, bytes).expect("writable");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rot_took_from_a_log_is_told_to_who_comes_late() {
    for damaged in 0..4 {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = temporary.path().join("a");
        let node = start(&dir).await;
        let channel = node.channel("x").persist(LogConfig::default()).open().await.expect("opens");
        for n in 0..4 {
            publish(&channel, n..n + 1).await;
        }
        node.close().await;
        damage(&dir, "x", damaged);
        let node = start(&dir).await;
        let channel = node.channel("x").persist(LogConfig::default()).open().await.expect("opens");
        publish(&channel, 4..5).await;
        let late = builder().ephemeral().ticket(node.ticket()).start().await.expect("starts");
        let mut events = late.subscribe("x").from(From::Earliest).await.expect("a pattern");
        let (mut seen, mut told) = (vec![], 0);
        while seen.last().map(String::as_str) != Some("4") {
            let item = tokio::time::timeout(DEADLINE, events.next()).await.expect("in time");
            match item.expect("open").expect("it goes on") {
                Item::Event(event) => seen.push(String::from_utf8(event.payload().to_vec()).expect("text")),
                Item::Gap(_) | Item::Restart(_) | Item::Trimmed(_) => told += 1,
                other => panic!("{other}"),
            }
        }
        let expected: Vec<String> = (0..5).filter(|n| *n != damaged).map(|n| n.to_string()).collect();
        assert_eq!((seen, told), (expected, 1), "batch {damaged} is damaged");
        node.close().await;
        late.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_keeps_gives_its_own_history_when_it_is_back_before_it_publishes() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("a");
    for round in 0..3 {
        let a = start(&dir).await;
        let _keeper = a.keep("kept/*", LogConfig::default()).await.expect("a pattern");
        let late = builder().ephemeral().ticket(a.ticket()).start().await.expect("starts");
        let mut events = late.subscribe("kept/*").from(From::Earliest).await.expect("a pattern");
        assert_eq!(take(&mut events, round as usize).await, numbers(0..round));
        // Whoever publishes has the channel as it was asked for.
        let channel = a.channel("kept/x").replicas(1).open().await.expect("opens");
        let lonely = channel.publish(round.to_string()).await.expect("room");
        assert_eq!(take(&mut events, 1).await, numbers(round..round + 1));
        drop(lonely);
        a.close().await;
        late.close().await;
    }
}
