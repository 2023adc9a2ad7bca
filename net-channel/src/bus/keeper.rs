//! Keeping channels: whatever any producer publishes on them goes into this node's logs, as it was sealed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use net_identity::EntityId;
use net_transport::Pair;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::batch::HEAD_LEN_MAX;
use crate::bus::channel::ChannelOptions;
use crate::bus::hub::Command;
use crate::bus::producer::lock;
use crate::bus::selection::Selection;
use crate::bus::stores::{PersistError, blocking};
use crate::bus::subscription::Queue;
use crate::bus::{Bus, NodeEvent};
use crate::core::{Delivery, SeqRange, Source, SubId};
use crate::{BATCH_BODY_LEN_MAX, ChannelName, NameError, OpenStore, Pattern, Store, StoreError, StoreFuture, Stored};

/// Batches of one channel that are on their way to the disk.
const STORING_MAX: usize = 4_096;
/// The most channels of one keeper: each has a log of its own, and anybody may say that there is a channel.
pub const KEPT_CHANNELS_MAX: usize = 1_024;
/// How long after a log has failed it is opened again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Channels that this node keeps. Dropping it ends the keeping; what is stored stays.
///
/// A keeper is a subscriber that stores: it begins where its log ends, or with the earliest event that can be had, in
/// causal order, and tells each producer what is on its disk.
#[derive(Debug)]
pub struct Keeper {
    number: u64,
    bus: Bus,
    kept: Arc<Kept>,
    _running: DropGuard,
}

/// One channel that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptChannel {
    /// Its name.
    pub name: ChannelName,
    /// Events in its log, whoever has put them there; none while the log is not open.
    pub events: u64,
    /// Why nothing is stored at the moment; it is tried again every five seconds.
    pub failure: Option<String>,
}

/// The most bytes of a batch of several events.
const BATCH_LEN_MAX: usize = HEAD_LEN_MAX + BATCH_BODY_LEN_MAX;

/// A log that others' batches do not fit into.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a batch of others may have {BATCH_LEN_MAX} bytes, and the log takes {limit}: give it larger segments")]
struct TooSmall {
    limit: usize,
}

/// Why channels are not kept.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The pattern is not one.
    #[error(transparent)]
    Pattern(#[from] NameError),
    /// There can be no logs.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
}

type Kept = Mutex<BTreeMap<ChannelName, Keeps>>;

/// How keeping a channel goes.
#[derive(Debug, Default)]
struct Keeps {
    store: Option<Weak<dyn Store>>,
    failure: Option<String>,
}

impl Bus {
    /// Keeps every channel that matches, whoever produces it and whenever it appears, in the node's directory. Channels
    /// that this node opens from now on are persisted, as by [`crate::ChannelBuilder::persist`].
    ///
    /// # Errors
    /// [`KeepError`]. Of more than [`KEPT_CHANNELS_MAX`] channels, those that appear last are not kept
    /// ([`NodeEvent::KeepRefused`]). A log that cannot be opened or written is told by [`Keeper::channels`], and tried again.
    #[expect(clippy::unused_async, reason = "it spawns tasks, so it must be called in a runtime")]
    pub async fn keep(&self, pattern: &str, config: impl OpenStore + 'static) -> Result<Keeper, KeepError> {
        let pattern = Pattern::open(pattern, &self.inner.endpoint.id())?;
        if self.inner.cancel.is_cancelled() {
            return Err(KeepError::Closed);
        }
        if !self.inner.stores.has_dir() {
            return Err(PersistError::NoDirectory.into());
        }
        let config: Arc<dyn OpenStore> = Arc::new(config);
        let number = self.inner.next_sub.fetch_add(1, Ordering::Relaxed) + 1;
        self.inner.stores.keep(number, pattern.clone(), config.clone());
        let (kept, running) = (Arc::<Kept>::default(), self.inner.cancel.child_token());
        let keeping = Keeping { bus: self.clone(), pattern, config, kept: kept.clone() };
        let token = running.clone();
        self.inner.tasks.spawn(async move { token.clone().run_until_cancelled(keeping.run(token)).await });
        Ok(Keeper { number, bus: self.clone(), kept, _running: running.drop_guard() })
    }
}

impl Keeper {
    /// What is kept.
    #[must_use]
    pub fn channels(&self) -> Vec<KeptChannel> {
        let kept = lock(&self.kept);
        let channel = |(name, keeps): (&ChannelName, &Keeps)| {
            let store = keeps.store.as_ref().and_then(Weak::upgrade);
            let events = store.map_or(0, |store| store.events());
            KeptChannel { name: name.clone(), events, failure: keeps.failure.clone() }
        };
        kept.iter().map(channel).collect()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.bus.inner.stores.forget(self.number);
    }
}

struct Keeping {
    bus: Bus,
    pattern: Pattern,
    config: Arc<dyn OpenStore>,
    kept: Arc<Kept>,
}

impl Keeping {
    /// Finds the channels, those that are known and those that appear.
    async fn run(self, running: CancellationToken) {
        let mut events = self.bus.events();
        match self.bus.inner.stores.logged().await {
            Ok(names) => names.iter().for_each(|name| self.begin(name, &running)),
            Err(error) => tracing::error!(%error, "the logs of before are not looked at"),
        }
        loop {
            for info in self.bus.channels().await {
                self.begin(&info.name, &running);
            }
            loop {
                match events.next().await {
                    Some(NodeEvent::ProducerUp { channel, .. }) => self.begin(&channel, &running),
                    Some(NodeEvent::Missed { .. }) => break,
                    Some(_) => {}
                    None => return,
                }
            }
        }
    }

    fn begin(&self, name: &ChannelName, running: &CancellationToken) {
        if !self.pattern.matches(name) {
            return;
        }
        {
            let mut kept = lock(&self.kept);
            if kept.contains_key(name) {
                return;
            }
            if kept.len() >= KEPT_CHANNELS_MAX {
                tracing::warn!(channel = %name, "not kept: a keeper has at most {KEPT_CHANNELS_MAX} channels");
                self.bus.inner.events.send(NodeEvent::KeepRefused { channel: name.clone() });
                return;
            }
            kept.insert(name.clone(), Keeps::default());
        }
        let (bus, config, kept) = (self.bus.clone(), self.config.clone(), self.kept.clone());
        let (name, running) = (name.clone(), running.clone());
        let keep = async move {
            loop {
                let error = match keep_channel(&bus, &name, config.clone(), &kept).await {
                    Ok(()) => return,
                    Err(error) => error.to_string(),
                };
                tracing::error!(channel = %name, error, "a channel is not kept at the moment");
                note(&kept, &name, |keeps| keeps.failure = Some(error));
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        };
        self.bus.inner.tasks.spawn(async move { running.run_until_cancelled(keep).await });
    }
}

fn note(kept: &Kept, name: &ChannelName, change: impl FnOnce(&mut Keeps)) {
    if let Some(keeps) = lock(kept).get_mut(name) {
        change(keeps);
    }
}

/// Stores one channel until the node is closed, or its log fails.
async fn keep_channel(
    bus: &Bus,
    name: &ChannelName,
    config: Arc<dyn OpenStore>,
    kept: &Kept,
) -> Result<(), PersistError> {
    let failed = |error| PersistError::Store { channel: name.clone(), error };
    let store = bus.inner.stores.open(bus.inner.endpoint.mesh(), name, config).await?;
    if store.batch_len_max() < BATCH_LEN_MAX {
        // Better no log than one with holes where others had much to say.
        return Err(failed(StoreError::refused(TooSmall { limit: store.batch_len_max() })));
    }
    let (from, me) = (store.clone(), bus.inner.signer.id());
    let (cursor, runs, is_mine) = blocking(move || {
        let cursor = from.cursor();
        let run = |(pair, _): (&Pair, u64)| Some((*pair, from.run(&EntityId::from_bytes(pair.origin))?));
        let runs: BTreeMap<Pair, SeqRange> = cursor.iter().filter_map(run).collect();
        Ok((cursor, runs, from.head(&me).is_some()))
    })
    .await
    .map_err(failed)?;
    // What this node published before can be had from it again.
    let standing_in = ChannelOptions { standing_in: true, ..ChannelOptions::default() };
    if is_mine && let Err(error) = bus.open_producer(name.as_str(), standing_in).await {
        tracing::warn!(channel = %name, %error, "what is in the log is not given to others");
    }
    let pattern = Pattern::open(name.as_str(), &bus.inner.endpoint.id()).expect("a name is a pattern");
    let queue = Arc::new(Queue::new(name.to_string(), Selection::default()));
    let Ok(sub) = bus.make_keeping(pattern, cursor, queue.clone()).await else { return Ok(()) };
    let _ended = EndOnDrop { bus, sub, queue: &queue };
    note(kept, name, |keeps| *keeps = Keeps { store: Some(Arc::downgrade(&store)), failure: None });
    for (pair, run) in &runs {
        bus.tell_stored(sub, *pair, *run).await;
    }
    let (placed, storing) = mpsc::channel(STORING_MAX);
    let report = Reporting { bus, sub, queue: &queue, runs };
    let (placing, reporting) = (place(bus, sub, &store, &queue, placed), report.run(storing));
    tokio::try_join!(placing, reporting).map_err(failed)?;
    Ok(())
}

/// A batch that has its place in the log.
struct Placed {
    pair: Pair,
    range: SeqRange,
    cost: usize,
    /// Nothing if the log had it already.
    stored: Option<StoreFuture<'static, Stored>>,
}

/// Gives each batch that comes its place in the log.
async fn place(
    bus: &Bus,
    sub: SubId,
    store: &Arc<dyn Store>,
    queue: &Queue,
    placed: mpsc::Sender<Placed>,
) -> Result<(), StoreError> {
    // Where each origin stands; nothing for one that the log cannot take.
    let mut origins: BTreeMap<Pair, Option<u64>> = BTreeMap::new();
    while let Some(deliveries) = poll_fn(|cx| queue.poll_take(cx)).await {
        for delivery in deliveries {
            let cost = delivery.cost();
            match delivery {
                Delivery::Sealed { source, batch, .. } => {
                    let pair = source.pair;
                    if let Entry::Vacant(entry) = origins.entry(pair) {
                        let (store, origin) = (store.clone(), source.origin);
                        let known = blocking(move || store.add_origin(&origin)).await;
                        entry.insert(if passed_over(&source, known)? { None } else { Some(0) });
                    }
                    let Some(end) = origins[&pair] else {
                        queue.add_taken(cost);
                        continue;
                    };
                    let range = SeqRange { from: batch.seal().seq(), to: batch.seal().next_seq() };
                    // What follows a batch must not be placed without it.
                    let expected = (range.from == end).then_some(end);
                    let stored = match store.enqueue(batch.frame(), expected).await {
                        Ok(stored) => Some(stored),
                        // Whoever stored it says so.
                        Err(StoreError::Duplicate) => None,
                        Err(error) => {
                            passed_over(&source, Err(error))?;
                            None
                        }
                    };
                    if stored.is_some() {
                        origins.insert(pair, Some(end.max(range.to)));
                    }
                    if placed.send(Placed { pair, range, cost, stored }).await.is_err() {
                        return Ok(());
                    }
                }
                Delivery::Key { source, first_seq, key } => {
                    let (store, origin) = (store.clone(), source.origin);
                    let kept = blocking(move || store.add_key(&origin, first_seq, &key)).await;
                    passed_over(&source, kept)?;
                    queue.add_taken(cost);
                }
                // What is missing is missing in the log too, where the seqs say so.
                Delivery::Item(_) | Delivery::Batch { .. } => queue.add_taken(cost),
            }
        }
        bus.report_taken(sub);
    }
    Ok(())
}

/// Whether the log cannot take this, though it can take others.
fn passed_over(source: &Source, result: Result<(), StoreError>) -> Result<bool, StoreError> {
    match result {
        Ok(()) => Ok(false),
        Err(StoreError::Refused(error)) => {
            tracing::warn!(channel = %source.channel, origin = %source.origin, %error, "not kept");
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Tells the producers what is stored.
struct Reporting<'a> {
    bus: &'a Bus,
    sub: SubId,
    queue: &'a Queue,
    runs: BTreeMap<Pair, SeqRange>,
}

impl Reporting<'_> {
    async fn run(mut self, mut storing: mpsc::Receiver<Placed>) -> Result<(), StoreError> {
        let mut next = storing.recv().await;
        while next.is_some() {
            let mut news = BTreeSet::new();
            // What one sync has stored is told in one message.
            while let Some(placed) = &mut next {
                if let Some(stored) = &mut placed.stored {
                    let stored = match poll_once(stored).await {
                        Poll::Ready(stored) => stored?,
                        Poll::Pending if news.is_empty() => stored.as_mut().await?,
                        Poll::Pending => break,
                    };
                    let (pair, range) = (placed.pair, placed.range);
                    if self.note(pair, range, stored.durable).await {
                        news.insert(pair);
                    }
                }
                self.queue.add_taken(placed.cost);
                next = storing.try_recv().ok();
            }
            for pair in news {
                self.bus.tell_stored(self.sub, pair, self.runs[&pair]).await;
            }
            self.bus.report_taken(self.sub);
            if next.is_none() {
                next = storing.recv().await;
            }
        }
        Ok(())
    }

    /// A batch is stored; says whether there is something to tell. What is not on the disk is not told.
    async fn note(&mut self, pair: Pair, range: SeqRange, durable: bool) -> bool {
        if !durable {
            return false;
        }
        let run = self.runs.entry(pair).or_insert(SeqRange { from: range.from, to: range.from });
        if range.from == run.to {
            run.to = range.to;
        } else if range.to == run.from {
            run.from = range.from;
        } else if range.to <= run.from {
            // It came late, and fills a hole of before.
            self.bus.tell_stored(self.sub, pair, range).await;
        } else {
            *run = range;
        }
        true
    }
}

/// What a future gives now, if it gives something.
async fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx))).await
}

struct EndOnDrop<'a> {
    bus: &'a Bus,
    sub: SubId,
    queue: &'a Queue,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.queue.close();
        self.bus.report_dropped(self.sub);
    }
}

impl Bus {
    /// The last events of an origin that are on the disk without one missing.
    async fn tell_stored(&self, sub: SubId, pair: Pair, run: SeqRange) {
        // The hub is gone when the node was closed; then nobody wants to know.
        let _ = self.inner.commands.send(Command::Stored { sub, pair, run }).await;
    }
}
