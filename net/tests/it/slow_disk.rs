//! A keeper whose disk takes its time.

use std::sync::Arc;
use std::time::Duration;

use net::Node;
use net::channel::{
    BatchHash, Cursor, Delivered, OpenStore, Seek, SenderKey, SeqRange, Store, StoreError, StoreFuture, StorePlace,
    Stored,
};
use net::identity::EntityId;
use net::redex::LogConfig;
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(60);

/// Makes logs that say of nothing that it is stored before the gate is open.
#[derive(Debug)]
struct Gated {
    config: LogConfig,
    open: watch::Receiver<bool>,
}

#[derive(Debug)]
struct GatedLog {
    log: Arc<dyn Store>,
    open: watch::Receiver<bool>,
}

impl OpenStore for Gated {
    fn open(&self, place: &StorePlace) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(GatedLog { log: self.config.open(place)?, open: self.open.clone() }))
    }
}

impl Store for GatedLog {
    fn enqueue<'a>(&'a self, frame: &'a [u8]) -> StoreFuture<'a, StoreFuture<'static, Stored>> {
        Box::pin(async move {
            let (stored, mut open) = (self.log.enqueue(frame).await?, self.open.clone());
            let gated: StoreFuture<'static, Stored> = Box::pin(async move {
                open.wait_for(|open| *open).await.expect("the test goes on");
                stored.await
            });
            Ok(gated)
        })
    }

    fn head(&self, origin: &EntityId) -> Option<(u64, BatchHash)> {
        self.log.head(origin)
    }

    fn run(&self, origin: &EntityId) -> Option<SeqRange> {
        self.log.run(origin)
    }

    fn seek(&self, origin: &EntityId, to: Seek) -> Result<Option<u64>, StoreError> {
        self.log.seek(origin, to)
    }

    fn read(&self, of: &EntityId, range: SeqRange, len_max: usize, frames: &mut Vec<u8>) -> Result<u64, StoreError> {
        self.log.read(of, range, len_max, frames)
    }

    fn cursor(&self) -> Cursor {
        self.log.cursor()
    }

    fn keys(&self, origin: &EntityId) -> Vec<(u64, SenderKey)> {
        self.log.keys(origin)
    }

    fn add_origin(&self, origin: &EntityId) -> Result<(), StoreError> {
        self.log.add_origin(origin)
    }

    fn add_key(&self, origin: &EntityId, first_seq: u64, key: &SenderKey) -> Result<(), StoreError> {
        self.log.add_key(origin, first_seq, key)
    }

    fn is_open(&self) -> bool {
        self.log.is_open()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.log.close()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_has_an_event_when_it_is_on_its_disk() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let builder = || Node::builder().mdns(false).listen("127.0.0.1:0".parse().expect("an address"));
    let a = builder().dir(temporary.path().join("a")).start().await.expect("starts");
    let b = builder().dir(temporary.path().join("b")).ticket(a.ticket()).start().await.expect("starts");
    let (gate, open) = watch::channel(false);
    let _keeper = b.bus().keep("**", Gated { config: LogConfig::default(), open }).await.expect("a pattern");
    let channel = a.channel("x").open().await.expect("opens");
    assert!(channel.wait_for_subscribers(1, DEADLINE).await);
    channel.publish("one").await.expect("room");
    // It has been handed the event long before this time is over.
    let meanwhile = channel.wait_for_delivery(Duration::from_secs(2)).await;
    assert_eq!((meanwhile, channel.keepers()), (Delivered { subscribers: 1, complete: 0 }, vec![]));
    gate.send_replace(true);
    assert_eq!(channel.wait_for_delivery(DEADLINE).await, Delivered { subscribers: 1, complete: 1 });
    assert_eq!(channel.keepers(), [b.id()]);
    a.close().await;
    b.close().await;
}
