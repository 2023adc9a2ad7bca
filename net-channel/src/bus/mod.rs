//! Publish and subscribe on the links of a node: the shell around [`crate::core`].

mod acks;
mod channel;
mod environment;
mod events;
mod gate;
mod hub;
mod keeper;
mod metrics;
mod producer;
mod quota;
mod receipt;
mod resume;
mod selection;
mod stores;
mod streams;
mod subscription;
mod typed;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use net_identity::{EntityId, SignError, Signer};
use net_transport::{Endpoint, Inbox, NodeId, Pair, Visibility};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

pub use channel::{Channel, ChannelBuilder, Delivered, Publish};
pub use environment::Environment;
pub use events::{NodeEvent, NodeEvents};
pub use gate::OpenGate;
pub use keeper::{KEPT_CHANNELS_MAX, KeepError, Keeper, KeptChannel};
pub use metrics::{BusMetrics, ProducerMetrics, SubscriptionMetrics};
pub use quota::QuotaCounters;
pub use receipt::{Ack, Acked, Receipt};
pub use selection::FilterCounters;
pub use stores::PersistError;
pub use subscription::{SubscribeBuilder, SubscribeError, Subscription};
pub use typed::{PublishValueError, TypedChannel, TypedItem, TypedSubscription};

use crate::bus::channel::ChannelOptions;
use crate::bus::events::EventSource;
use crate::bus::hub::{Command, Hub, HubInputs, Inner, Reports};
use crate::bus::producer::{Making, Producer, lock};
use crate::bus::quota::Served;
use crate::bus::stores::{Stores, blocking};
use crate::bus::subscription::Queue;
use crate::core::{
    Counters, Cursor, From, Given, Known, Limits, Order, PROTOCOL, Publisher, Source, SubId, Subscriptions,
};
use crate::{
    Advert, BatchHash, ChannelName, Class, CursorFile, FloorError, FloorFile, NameError, Pattern, PushError, SealError,
    SenderKey, SeqsExhausted, Store, StoreError, first_seq,
};

/// How a bus runs.
#[non_exhaustive]
pub struct BusConfig {
    /// The key that signs this node's batches; one process at one place holds it.
    pub signer: Arc<dyn Signer>,
    /// For whom the origin speaks; the origin itself if nothing is given.
    pub entity: Option<EntityId>,
    /// The file that keeps seqs from being reused after a crash. Without one, only the wall clock does: for origins
    /// whose key is never used again.
    pub floor: Option<PathBuf>,
    /// The directory in which the positions of subscriptions are kept that are resumed by name.
    pub cursors: Option<PathBuf>,
    /// The directory of the logs of channels that are persisted or kept.
    pub logs: Option<PathBuf>,
    /// What the keys in those logs are encrypted under. Without it they are in memory only, and what was published before
    /// a restart cannot be opened after it.
    pub logs_secret: Option<Zeroizing<[u8; 32]>>,
    /// Bounds of the subscriptions.
    pub limits: Limits,
    /// Wall clock and randomness.
    pub environment: Environment,
}

impl BusConfig {
    /// The defaults, for an origin with this key.
    #[must_use]
    pub fn new(signer: Arc<dyn Signer>) -> Self {
        Self {
            signer,
            entity: None,
            floor: None,
            cursors: None,
            logs: None,
            logs_secret: None,
            limits: Limits::default(),
            environment: Environment::default(),
        }
    }
}

impl std::fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BusConfig")
            .field("origin", &self.signer.id())
            .field("floor", &self.floor)
            .finish_non_exhaustive()
    }
}

/// Publish and subscribe on one node. A cheap handle.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
    entity: EntityId,
}

/// Why a bus did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The file that keeps seqs from being reused cannot be used.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// Another bus runs on this endpoint.
    #[error("another bus runs on this endpoint")]
    Taken,
}

/// Why a channel was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenChannelError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The file that keeps seqs from being reused cannot be written.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// No seqs are left for this origin.
    #[error(transparent)]
    Exhausted(#[from] SeqsExhausted),
    /// The origin's key cannot sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The origin's key signs what it cannot verify.
    #[error("the signer does not sign with the key that it names")]
    Key,
    /// The channel has no log, and was to be persisted.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
}

/// Why an event was not published.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Payload, key and headers together are too large.
    #[error("an event of {len} bytes, the limit is {limit}: publish larger things in parts")]
    TooLarge {
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// Its key or its headers are not as they must be.
    #[error(transparent)]
    Refused(PushError),
    /// Its causes are more than 255, one of them is no event, or the channel is realtime.
    #[error("at most 255 causes, each an event that was received, and none in a realtime channel")]
    Causes,
    /// The queue is full.
    #[error("the queue of this channel is full ({limit} bytes): await `publish`, or try again later")]
    QueueFull {
        /// Bytes the queue holds.
        limit: usize,
    },
    /// The channel or the node was closed.
    #[error("the channel is closed")]
    Closed,
    /// The batch could not be sealed, for example because the key is out of reach.
    #[error("the batch could not be sealed: {0}")]
    Seal(String),
    /// The batch could not be stored. Nothing more is published on this handle: open the channel again, which opens its
    /// log again.
    #[error("the batch could not be stored, so the channel was closed: {0}")]
    Store(StoreError),
}

impl PublishError {
    fn seal(error: impl std::fmt::Display) -> Self {
        Self::Seal(error.to_string())
    }
}

impl std::convert::From<PushError> for PublishError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::TooLarge { len, limit } => Self::TooLarge { len, limit },
            error => Self::Refused(error),
        }
    }
}

impl std::convert::From<SealError> for PublishError {
    fn from(error: SealError) -> Self {
        Self::seal(error)
    }
}

/// A producer that this node knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    /// The channel's name.
    pub name: ChannelName,
    /// The key that signs.
    pub origin: EntityId,
    /// For whom the origin speaks.
    pub entity: EntityId,
    /// Where it runs.
    pub node: NodeId,
    /// Reliable or realtime.
    pub class: Class,
}

/// How long closing waits for subscribers that are full.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const COMMANDS_LEN: usize = 1_024;
const GRANTS_LEN: usize = 4_096;

impl Bus {
    /// Starts a bus on an endpoint, whose admission must know adverts ([`OpenGate`]).
    ///
    /// # Errors
    /// [`StartError`].
    #[expect(clippy::unused_async, reason = "it spawns tasks, so it must be called in a runtime")]
    pub async fn start(endpoint: Endpoint, inbox: Inbox, config: BusConfig) -> Result<Self, StartError> {
        let BusConfig { signer, entity, floor, cursors, logs, logs_secret, limits, environment } = config;
        let mut acceptor = endpoint.accept(PROTOCOL).map_err(|_| StartError::Taken)?;
        let floor = floor.map(FloorFile::open).transpose()?;
        let entity = entity.unwrap_or_else(|| signer.id());
        let (commands, command_inputs) = mpsc::channel(COMMANDS_LEN);
        let subscriptions = Subscriptions::new(endpoint.id(), endpoint.mesh(), limits);
        let inner = Arc::new(Inner {
            endpoint,
            environment,
            signer,
            given: Arc::default(),
            producers: Mutex::default(),
            served: Served::default(),
            events: EventSource::default(),
            grants: broadcast::Sender::new(GRANTS_LEN),
            floor: Mutex::new(floor),
            cursors,
            stores: Stores::new(logs, logs_secret),
            commands,
            reports: Reports::default(),
            next_sub: AtomicU64::new(0),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let inputs = HubInputs { commands: command_inputs, events: inbox.events, frames: inbox.frames };
        Hub::spawn(inner.clone(), subscriptions, inputs);
        let accepting = inner.clone();
        inner.tasks.spawn(async move {
            let cancel = accepting.cancel.clone();
            while let Some(Some(stream)) = cancel.run_until_cancelled(acceptor.next()).await {
                let (inner, cancel) = (accepting.clone(), cancel.clone());
                accepting.tasks.spawn(async move {
                    let serve = streams::run_incoming(inner, stream.node, stream.send, stream.recv);
                    cancel.run_until_cancelled(serve).await
                });
            }
        });
        Ok(Self { inner, entity })
    }

    /// A channel to publish on: `bus.channel("quakes/ak").open().await?`.
    pub fn channel(&self, name: &str) -> ChannelBuilder {
        ChannelBuilder { bus: self.clone(), name: name.to_owned(), options: ChannelOptions::default() }
    }

    /// A subscription to every channel that matches: `bus.subscribe("quakes/*").await?`.
    pub fn subscribe(&self, pattern: &str) -> SubscribeBuilder {
        SubscribeBuilder::new(self.clone(), Pattern::open(pattern, &self.inner.endpoint.id()))
    }

    /// The producers that this node knows of, its own among them.
    pub async fn channels(&self) -> Vec<ChannelInfo> {
        let (answer, known) = oneshot::channel();
        let known = self.ask(Command::Known { answer }, known).await.unwrap_or_default();
        let info = |(pair, known): (Pair, Known)| ChannelInfo {
            name: known.name,
            origin: EntityId::from_bytes(pair.origin),
            entity: known.entity,
            node: known.node,
            class: known.class,
        };
        known.into_iter().map(info).collect()
    }

    /// What this node's subscriptions have seen.
    pub async fn counters(&self) -> Counters {
        let (answer, counters) = oneshot::channel();
        self.ask(Command::Counters { answer }, counters).await.unwrap_or_default()
    }

    /// The key that signs this node's batches.
    #[must_use]
    pub fn origin(&self) -> EntityId {
        self.inner.signer.id()
    }

    /// The links below.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// Seals and sends what is queued on every channel, ends the subscriptions, and stops. The endpoint stays open.
    pub async fn close(&self) {
        let producers: Vec<_> = lock(&self.inner.producers).values().cloned().collect();
        let mut ending = JoinSet::new();
        for producer in producers {
            ending.spawn(async move { end(&producer).await });
        }
        while ending.join_next().await.is_some() {}
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.stores.close().await;
    }

    async fn ask<T>(&self, command: Command, answer: oneshot::Receiver<T>) -> Option<T> {
        self.inner.commands.send(command).await.ok()?;
        let mut answer = answer;
        tokio::select! {
            biased;
            answer = &mut answer => answer.ok(),
            () = self.inner.cancel.cancelled() => None,
        }
    }

    pub(crate) fn given(&self) -> &Given {
        &self.inner.given
    }

    pub(crate) fn report_taken(&self, sub: SubId) {
        lock(&self.inner.reports.taken).insert(sub);
        self.inner.reports.notify.notify_one();
    }

    pub(crate) fn report_dropped(&self, sub: SubId) {
        lock(&self.inner.reports.dropped).push(sub);
        self.inner.reports.notify.notify_one();
    }

    pub(crate) async fn lag(&self, sub: SubId) -> Vec<(Arc<Source>, u64)> {
        let (answer, lag) = oneshot::channel();
        self.ask(Command::Lag { sub, answer }, lag).await.unwrap_or_default()
    }

    pub(crate) async fn make_subscription(
        &self,
        pattern: Pattern,
        from: From,
        order: Order,
        queue: Arc<Queue>,
    ) -> Result<SubId, SubscribeError> {
        let (made, is_made) = oneshot::channel();
        let sub = self.inner.next_sub.fetch_add(1, Ordering::Relaxed) + 1;
        // Whoever stops waiting has dropped a subscription that may have been made.
        let asking = Asking { bus: self, sub: Some(sub) };
        self.ask(Command::Subscribe { sub, pattern, from, order, queue, made }, is_made)
            .await
            .ok_or(SubscribeError::Closed)?;
        asking.done();
        Ok(sub)
    }

    pub(crate) async fn make_keeping(
        &self,
        pattern: Pattern,
        from: Cursor,
        queue: Arc<Queue>,
    ) -> Result<SubId, SubscribeError> {
        let (made, is_made) = oneshot::channel();
        let sub = self.inner.next_sub.fetch_add(1, Ordering::Relaxed) + 1;
        let asking = Asking { bus: self, sub: Some(sub) };
        self.ask(Command::Keep { sub, pattern, from, queue, made }, is_made).await.ok_or(SubscribeError::Closed)?;
        asking.done();
        Ok(sub)
    }

    /// The file of a position that is kept under a name.
    pub(crate) fn cursor_file(&self, name: &str) -> Result<CursorFile, SubscribeError> {
        let directory = self.inner.cursors.as_ref().ok_or(SubscribeError::NoDirectory)?;
        Ok(CursorFile::open(directory, name)?)
    }

    /// Runs a task until it is done or the node is closed.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.inner.cancel.clone();
        self.inner.tasks.spawn(async move { cancel.run_until_cancelled(task).await });
    }

    pub(crate) async fn open_producer(
        &self,
        name: &str,
        options: ChannelOptions,
    ) -> Result<Arc<Producer>, OpenChannelError> {
        let inner = &self.inner;
        if inner.cancel.is_cancelled() {
            return Err(OpenChannelError::Closed);
        }
        let name = ChannelName::open(name, &inner.endpoint.id())?;
        let mesh = inner.endpoint.mesh();
        let pair = Pair { channel: name.hash(&mesh).0, origin: *inner.signer.id().as_bytes() };
        let is_live =
            |producer: &&Arc<Producer>| !producer.is_closed() && (options.standing_in || !producer.standing_in);
        let live = || lock(&inner.producers).get(&pair).filter(is_live).cloned();
        if let Some(producer) = live() {
            return Ok(producer);
        }
        let before = lock(&inner.producers).get(&pair).cloned();
        if let Some(before) = before.filter(|before| before.store.is_some()) {
            before.close();
            // The first batch follows the last of before.
            timeout(CLOSE_TIMEOUT, before.flush()).await.map_err(|_| PersistError::Closing(name.clone()))?;
        }
        let log = self.open_log(&name, &options).await?;
        let used =
            lock(&inner.producers).get(&pair).map_or(0, |closed| lock(&closed.publisher).next().saturating_sub(1));
        let logged = log.as_ref().and_then(|log| log.head).map_or(0, |(next, _)| next.saturating_sub(1));
        let incarnation = self.begin_incarnation(used.max(logged))?;
        let key = SenderKey::new(inner.environment.random());
        if let Some(log) = &log {
            // On the disk before anything is sealed with it.
            let (store, origin, key) = (log.store.clone(), inner.signer.id(), key.clone());
            let kept = blocking(move || store.add_key(&origin, incarnation, &key)).await;
            kept.map_err(|error| PersistError::Store { channel: name.clone(), error })?;
        }
        // A scope of its own, so that the future of `open` can move between threads.
        let (producer, key, advert) = {
            let mut producers = lock(&inner.producers);
            if let Some(producer) = producers.get(&pair).filter(is_live) {
                return Ok(producer.clone());
            }
            let now = tokio::time::Instant::now().into_std();
            let mut publisher =
                Publisher::new(pair, options.class, incarnation, key.clone(), now, options.cache_bytes_max);
            if let Some(log) = &log {
                publisher = publisher.with_log(log.head.map_or(BatchHash::ZERO, |(_, hash)| hash), log.keys.clone());
            }
            let producer = Arc::new(Producer::new(Making {
                name: name.clone(),
                pair,
                class: options.class,
                publisher,
                signer: inner.signer.clone(),
                grants: inner.grants.clone(),
                environment: inner.environment.clone(),
                mesh,
                visibility: options.visibility,
                priority: options.priority,
                queue_bytes_max: options.queue_bytes_max,
                logged_next: log.as_ref().and_then(|log| log.head).map_or(0, |(next, _)| next),
                store: log.map(|log| log.store),
                replicas: options.replicas,
                me: inner.endpoint.id(),
                standing_in: options.standing_in,
            }));
            let (key, advert) = self.advert(&producer, options.visibility, false)?;
            if let Some(before) = producers.insert(pair, producer.clone()) {
                inner.served.forget(&lock(&before.publisher));
            }
            (producer, key, advert)
        };
        inner.given.forget_named(&pair.channel);
        inner.endpoint.serve(pair);
        self.tell(key, advert).await;
        let run = producer.clone().run(inner.endpoint.clone(), inner.given.clone());
        let cancel = inner.cancel.clone();
        inner.tasks.spawn(async move { cancel.run_until_cancelled(run).await });
        if producer.is_replicating() {
            let (cancel, run) = (inner.cancel.clone(), producer.clone().give_up_in_time());
            inner.tasks.spawn(async move { cancel.run_until_cancelled(run).await });
        }
        Ok(producer)
    }

    /// The log of a channel, if it is to be persisted, and where this node's origin stands in it.
    async fn open_log(&self, name: &ChannelName, options: &ChannelOptions) -> Result<Option<OpenLog>, PersistError> {
        let inner = &self.inner;
        let Some(config) = options.persist.clone().or_else(|| inner.stores.kept(name)) else { return Ok(None) };
        let store = inner.stores.open(inner.endpoint.mesh(), name, config).await?;
        let (log, origin) = (store.clone(), inner.signer.id());
        let known = blocking(move || {
            log.add_origin(&origin)?;
            Ok((log.head(&origin), log.keys(&origin)))
        });
        match known.await {
            Ok((head, keys)) => Ok(Some(OpenLog { store, head, keys })),
            Err(error) => Err(PersistError::Store { channel: name.clone(), error }),
        }
    }

    /// Tells the mesh, and the subscriptions of this node, what its producers do.
    async fn tell(&self, key: [u8; 32], advert: Vec<u8>) {
        let advert = Bytes::from(advert);
        if let Err(error) = self.inner.endpoint.advertise(key, advert.clone()) {
            tracing::warn!(%error, "a channel is not advertised");
        }
        // The hub is gone when the node was closed; then nobody here subscribes.
        let _ = self.inner.commands.send(Command::Advert(advert)).await;
    }

    /// The first seq of a new incarnation, above those that are known to be used; the floor is on disk when this returns.
    fn begin_incarnation(&self, used: u64) -> Result<u64, OpenChannelError> {
        let mut floor = lock(&self.inner.floor);
        let unix_ns = self.inner.environment.unix_ns();
        let Some(file) = floor.as_mut() else { return Ok(first_seq(unix_ns, used, 0)?) };
        Ok(file.begin(unix_ns, used)?)
    }

    fn advert(
        &self,
        producer: &Producer,
        visibility: Visibility,
        closed: bool,
    ) -> Result<([u8; 32], Vec<u8>), OpenChannelError> {
        let inner = &self.inner;
        let mesh = inner.endpoint.mesh();
        let advert = Advert {
            name: producer.name.clone(),
            class: producer.class,
            visibility,
            capability: [0; 32],
            origin: producer.origin,
            entity: self.entity,
            node: inner.endpoint.id(),
            seq: producer.next_advert_seq(inner.environment.unix_ms()),
            closed,
        };
        let bytes = advert.sign(&mesh, &*inner.signer)?;
        let verified = Advert::verify(&bytes, &mesh).map_err(|_| OpenChannelError::Key)?;
        Ok((verified.advert_id().key, bytes))
    }

    pub(crate) async fn close_producer(&self, producer: &Arc<Producer>) {
        end(producer).await;
        match self.advert(producer, Visibility::Global, true) {
            Ok((key, advert)) => self.tell(key, advert).await,
            Err(error) => tracing::warn!(%error, "the end of a channel is not advertised"),
        }
    }
}

/// Seals, sends and stores what is queued, as far as its subscribers and keepers take it within a while.
async fn end(producer: &Arc<Producer>) {
    producer.close();
    // A subscriber that takes nothing must not keep this node from ending.
    if timeout(CLOSE_TIMEOUT, producer.flush()).await.is_err() {
        tracing::warn!(channel = %producer.name, "closed before its subscribers took everything");
        producer.abandon();
    }
    producer.wait(|_| producer.is_replicated(), CLOSE_TIMEOUT).await;
    producer.end_waiting();
}

/// The log of a channel, and where this node's origin stands in it.
struct OpenLog {
    store: Arc<dyn Store>,
    head: Option<(u64, BatchHash)>,
    keys: Vec<(u64, SenderKey)>,
}

/// A subscription that is being made, and is dropped unless it is done.
struct Asking<'a> {
    bus: &'a Bus,
    sub: Option<SubId>,
}

impl Asking<'_> {
    fn done(mut self) {
        self.sub = None;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(sub) = self.sub {
            self.bus.report_dropped(sub);
        }
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("node", &self.inner.endpoint.id()).finish_non_exhaustive()
    }
}
