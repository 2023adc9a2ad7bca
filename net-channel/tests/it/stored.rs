//! Producers and keepers over a store that is driven by hand: what fails, what is late, what is refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use net_channel::{
    Ack, BatchHash, Bus, Channel, Cursor, Keeper, OpenStore, PublishError, Seek, SenderKey, SeqRange, Store,
    StoreError, StoreFuture, StorePlace, Stored,
};
use net_identity::EntityId;
use net_transport::{Header, Peer};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bus::Node;

const DEADLINE: Duration = Duration::from_secs(20);

/// What became of a batch, told by the test.
type Verdict = oneshot::Sender<Result<Stored, StoreError>>;

#[derive(Debug, Default)]
struct Hand {
    /// Batches with their place, oldest first: first seq, seq after the last, what was expected.
    placed: Vec<(u64, u64, Option<u64>)>,
    verdicts: Vec<Verdict>,
    heads: BTreeMap<EntityId, u64>,
    keys: Vec<(EntityId, u64)>,
    offset: u64,
}

/// A store that says nothing by itself, unless `at_once`.
#[derive(Clone, Debug, Default)]
struct Fake {
    hand: Arc<Mutex<Hand>>,
    at_once: Arc<AtomicBool>,
    refuses_keys: Arc<AtomicBool>,
}

impl Fake {
    fn hand(&self) -> std::sync::MutexGuard<'_, Hand> {
        self.hand.lock().expect("sound")
    }

    fn stores_at_once(self) -> Self {
        self.at_once.store(true, Ordering::Relaxed);
        self
    }

    async fn placed(&self, n: usize) {
        let all = async {
            while self.hand().placed.len() < n {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, all).await.expect("batches come");
    }

    fn decide(&self, result: Result<Stored, StoreError>) {
        let verdict = self.hand().verdicts.remove(0);
        verdict.send(result).expect("somebody waits for it");
    }
}

impl OpenStore for Fake {
    fn open(&self, _: &StorePlace) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Store for Fake {
    fn enqueue<'a>(&'a self, frame: &'a [u8], expected: Option<u64>) -> StoreFuture<'a, StoreFuture<'static, Stored>> {
        Box::pin(async move {
            let header = Header::parse(frame).expect("a frame");
            let (send, verdict) = oneshot::channel();
            let mut hand = self.hand();
            let end = header.seq() + u64::from(header.events());
            hand.placed.push((header.seq(), end, expected));
            let stored = Stored { offset: hand.offset, durable: true };
            hand.offset += u64::from(header.events());
            if self.at_once.load(Ordering::Relaxed) {
                send.send(Ok(stored)).expect("it is here");
            } else {
                hand.verdicts.push(send);
            }
            let stored: StoreFuture<'static, Stored> =
                Box::pin(async move { verdict.await.unwrap_or_else(|gone| Err(StoreError::new(gone))) });
            Ok(stored)
        })
    }

    fn events(&self) -> u64 {
        self.hand().offset
    }

    fn head(&self, origin: &EntityId) -> Option<(u64, BatchHash)> {
        Some((*self.hand().heads.get(origin)?, BatchHash([7; 32])))
    }

    fn run(&self, _: &EntityId) -> Option<SeqRange> {
        None
    }

    fn seek(&self, _: &EntityId, _: Seek) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    fn read(&self, _: &EntityId, range: SeqRange, _: usize, _: &mut Vec<u8>) -> Result<u64, StoreError> {
        Ok(range.to)
    }

    fn cursor(&self) -> Cursor {
        Cursor::default()
    }

    fn keys(&self, _: &EntityId) -> Vec<(u64, SenderKey)> {
        vec![]
    }

    fn add_origin(&self, _: &EntityId) -> Result<(), StoreError> {
        Ok(())
    }

    fn add_key(&self, origin: &EntityId, first_seq: u64, _: &SenderKey) -> Result<(), StoreError> {
        self.hand().keys.push((*origin, first_seq));
        if self.refuses_keys.load(Ordering::Relaxed) { Err(StoreError::refused("no room for keys")) } else { Ok(()) }
    }

    fn is_open(&self) -> bool {
        true
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A node that may keep logs: the hand-driven ones need no directory.
async fn start(number: u8, known: Vec<Peer>) -> (Bus, Peer) {
    let node = Node::start_with(number, known, |config| config.logs = Some("nowhere".into())).await;
    let peer = node.peer();
    (node.bus, peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_waits_until_the_batch_is_stored_and_numbers_its_events() {
    let (a, _) = start(60, vec![]).await;
    let fake = Fake::default();
    let channel = a.channel("x").persist(fake.clone()).open().await.unwrap();
    let receipts: Vec<_> = [channel.try_publish("one").unwrap(), channel.try_publish("two").unwrap()].into();
    fake.placed(1).await;
    let mut waiting = Box::pin(receipts.into_iter().next_back().unwrap().into_future());
    assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err(), "nothing is stored yet");
    while fake.hand().offset < 2 {
        tokio::task::yield_now().await;
    }
    let batches = fake.hand().verdicts.len() as u64;
    for batch in 0..batches {
        fake.decide(Ok(Stored { offset: 40 + batch, durable: batch % 2 == 1 || batches == 1 }));
    }
    let ack = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert_eq!(ack, Ack::Durable { offset: 41 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_stored_is_not_acknowledged_and_nothing_follows_it() {
    let (a, _) = start(61, vec![]).await;
    let fake = Fake::default();
    let channel = a.channel("x").persist(fake.clone()).open().await.unwrap();
    let first = channel.publish("one").await.unwrap();
    fake.placed(1).await;
    let second = channel.publish("two").await.unwrap();
    fake.placed(2).await;
    {
        let hand = fake.hand();
        assert_eq!(hand.placed[0].2, Some(0), "the log has nothing of this origin");
        assert_eq!(hand.placed[1].2, Some(hand.placed[0].1), "and then what came before");
    }
    fake.decide(Err(StoreError::new("the disk is gone")));
    assert!(matches!(timeout(DEADLINE, first.into_future()).await.unwrap(), Err(PublishError::Store(_))));
    while channel.publish("three").await.is_ok() {
        tokio::task::yield_now().await;
    }
    fake.decide(Err(StoreError::new("the disk is gone")));
    assert!(matches!(timeout(DEADLINE, second.into_future()).await.unwrap(), Err(PublishError::Store(_))));
    let error = channel.publish("four").await.unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    timeout(DEADLINE, a.close()).await.expect("a failed log does not keep the node from closing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_receipt_ends_when_the_node_is_closed_though_the_disk_says_nothing() {
    let (a, _) = start(62, vec![]).await;
    let fake = Fake::default();
    let channel = a.channel("x").persist(fake.clone()).replicas(1).open().await.unwrap();
    let late = channel.publish("stored late").await.unwrap();
    fake.placed(1).await;
    timeout(DEADLINE, a.close()).await.expect("closing has an end");
    fake.decide(Ok(Stored { offset: 3, durable: true }));
    assert_eq!(timeout(DEADLINE, late.into_future()).await.unwrap().unwrap(), Ack::Durable { offset: 3 });
    assert!(matches!(channel.publish("more").await, Err(PublishError::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_counted_when_a_keeper_has_stored_and_not_before() {
    let (a, peer) = start(63, vec![]).await;
    let (b, _) = start(64, vec![peer]).await;
    let fake = Fake::default();
    let _keeper = b.keep("*", fake.clone()).await.unwrap();
    let channel = a.channel("x").replicas(1).open().await.unwrap();
    let mut waiting = Box::pin(channel.publish("one").await.unwrap().into_future());
    fake.placed(1).await;
    // It has the batch, and has said that it was received; that is not enough.
    let delivered = channel.wait_for_delivery(DEADLINE).await;
    assert_eq!(delivered.complete, 1);
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    fake.decide(Ok(Stored { offset: 0, durable: true }));
    assert_eq!(timeout(DEADLINE, waiting).await.unwrap().unwrap(), Ack::Replicated { n: 1 });
    // What is written and not on the disk does not count.
    let loose = channel.publish("two").await.unwrap();
    fake.placed(2).await;
    fake.decide(Ok(Stored { offset: 1, durable: false }));
    let ack = timeout(DEADLINE, loose.into_future()).await.unwrap().unwrap();
    assert!(matches!(ack, Ack::Sent { .. }), "{ack:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_goes_on_when_the_log_takes_no_key_of_an_origin() {
    let (a, peer) = start(65, vec![]).await;
    let (b, _) = start(66, vec![peer]).await;
    let fake = Fake::default().stores_at_once();
    fake.refuses_keys.store(true, Ordering::Relaxed);
    let keeper = b.keep("*", fake.clone()).await.unwrap();
    let channel = a.channel("x").replicas(1).open().await.unwrap();
    for _ in 0..3 {
        let receipt = channel.publish("kept").await.unwrap();
        assert_eq!(timeout(DEADLINE, receipt.into_future()).await.unwrap().unwrap(), Ack::Replicated { n: 1 });
    }
    assert_eq!(keeper.channels()[0].failure, None);
    assert!(fake.hand().keys.iter().any(|(origin, _)| *origin == a.origin()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_channel_with_keepers_closes() {
    let (a, peer) = start(67, vec![]).await;
    let (b, _) = start(68, vec![peer]).await;
    let _keeper = b.keep("*", Fake::default().stores_at_once()).await.unwrap();
    for round in 0..20 {
        let channel = a.channel(&format!("x{round}")).replicas(1).open().await.unwrap();
        assert!(channel.wait_for_subscribers(1, DEADLINE).await);
        let receipts: Vec<_> = (0..200).map(|n: u32| channel.try_publish(n.to_string()).unwrap()).collect();
        timeout(DEADLINE, channel.close()).await.expect("closing and acknowledging do not wait for each other");
        for receipt in receipts {
            let ack = timeout(DEADLINE, receipt.into_future()).await.unwrap().unwrap();
            assert_eq!(ack, Ack::Replicated { n: 1 });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ended_elsewhere_is_gone_on_with_and_never_a_seq_is_used_again() {
    let (a, _) = start(69, vec![]).await;
    let fake = Fake::default().stores_at_once();
    let far = u64::MAX >> 1;
    fake.hand().heads.insert(a.origin(), far);
    let channel = a.channel("x").persist(fake.clone()).open().await.unwrap();
    let dot = channel.publish("one").await.unwrap().dot().await.unwrap();
    assert!(dot.seq >= far, "{dot:?}");
    assert_eq!(fake.hand().placed[0].2, Some(far));
}

/// A producer of `x` that waits for one other node, and that node, which keeps what is there in `fake`.
async fn kept_by_another(seeds: [u8; 2], fake: &Fake) -> (Channel, [Bus; 2], Keeper) {
    let (a, peer) = start(seeds[0], vec![]).await;
    let (b, _) = start(seeds[1], vec![peer]).await;
    let keeper = b.keep("*", fake.clone()).await.expect("a store");
    let channel = a.channel("x").replicas(1).open().await.expect("a channel");
    assert!(channel.wait_for_subscribers(1, DEADLINE).await);
    (channel, [a, b], keeper)
}

/// So many tasks that each publish an event and wait for it, all at once.
async fn publish_and_wait(channel: &Channel, many: u64) -> Vec<JoinHandle<Result<Ack, PublishError>>> {
    let publish = || channel.try_publish("one of many").expect("there is room");
    let tasks = (0..many).map(|_| tokio::spawn(publish().into_future())).collect();
    tokio::task::yield_now().await;
    tasks
}

#[tokio::test]
async fn few_events_wait_for_many_to_be_stored_and_then_go_with_more() {
    const MANY: u64 = 20;
    let fake = Fake::default();
    let (channel, _nodes, _keeper) = kept_by_another([70, 71], &fake).await;
    // They are held for two milliseconds at most, which a busy machine may be too slow for.
    let mut went_together = 0;
    for _ in 0..50 {
        let placed = fake.hand().placed.len();
        let mut tasks = publish_and_wait(&channel, MANY).await;
        fake.placed(placed + 1).await;
        let few = channel.try_publish("late").unwrap();
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        fake.decide(Ok(Stored { offset: 0, durable: true }));
        timeout(DEADLINE, tasks.pop().expect("many")).await.unwrap().unwrap().unwrap();
        tasks.extend(publish_and_wait(&channel, MANY).await);
        fake.placed(placed + 2).await;
        let (from, to, _) = fake.hand().placed[placed + 1];
        went_together += u32::from(to - from == MANY + 1);
        while fake.hand().placed.last().is_some_and(|(_, to, _)| *to < from + MANY + 1) {
            tokio::task::yield_now().await;
        }
        while !fake.hand().verdicts.is_empty() {
            fake.decide(Ok(Stored { offset: 0, durable: true }));
        }
        timeout(DEADLINE, few.into_future()).await.unwrap().unwrap();
        for task in tasks {
            timeout(DEADLINE, task).await.unwrap().unwrap().unwrap();
        }
    }
    assert!(went_together > 0);
}

#[tokio::test]
async fn few_events_do_not_wait_for_ever_for_many_that_nobody_stores() {
    let fake = Fake::default();
    let (channel, _nodes, _keeper) = kept_by_another([72, 73], &fake).await;
    let _tasks = publish_and_wait(&channel, 100).await;
    fake.placed(1).await;
    channel.publish("few").await.unwrap();
    fake.placed(2).await;
    timeout(DEADLINE, channel.flush()).await.expect("it is on its way");
}

#[tokio::test]
async fn few_events_do_not_wait_for_many_that_nobody_waits_for() {
    let fake = Fake::default();
    let (channel, _nodes, _keeper) = kept_by_another([74, 75], &fake).await;
    let mut at_once = 0;
    for _ in 0..50 {
        for _ in 0..20 {
            drop(channel.try_publish("one of many").unwrap());
        }
        let placed = fake.hand().placed.len();
        fake.placed(placed + 1).await;
        let begun = Instant::now();
        channel.publish("late").await.unwrap();
        channel.flush().await;
        at_once += u32::from(begun.elapsed() < Duration::from_micros(900));
    }
    assert!(at_once > 25, "{at_once} of 50 were not held");
}
