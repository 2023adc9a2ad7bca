//! One live producer of a channel: events are encoded into the open batch where `publish` is called, and a task
//! seals whatever has gathered and hands it to the links.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use net_identity::{EntityId, Signer};
use net_transport::{Endpoint, MeshId, NodeId, Pair, Priority, Visibility};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use crate::bus::PublishError;
use crate::bus::environment::Environment;
use crate::bus::metrics::ProducerMetrics;
use crate::bus::receipt::{Ack, BatchAck, Receipt};
use crate::core::{Cached, Given, Publisher, SeqRange, Subscriber};
use crate::{
    BatchBuilder, ChannelHash, ChannelName, Class, Hlc, HlcClock, PARENTS_MAX, Parent, PushError, SealParams,
    SenderKey, Tick, TickParams,
};

/// Everything of a producer that its handles, its task and the streams of its subscribers share.
pub(crate) struct Producer {
    pub(crate) name: ChannelName,
    pub(crate) pair: Pair,
    pub(crate) origin: EntityId,
    pub(crate) publisher: Mutex<Publisher>,
    pub(crate) class: Class,
    pub(crate) signer: Arc<dyn Signer>,
    /// Woken when subscribers come, go, or have received more.
    pub(crate) progress: Notify,
    /// Where grants of new keys go; the streams of subscribers listen.
    grants: broadcast::Sender<(NodeId, Arc<Vec<u8>>)>,
    environment: Environment,
    mesh: MeshId,
    visibility: Visibility,
    priority: Priority,
    queue_bytes_max: usize,
    staging: Mutex<Staging>,
    wake: Notify,
    room: Notify,
    idle: Notify,
    advert_seq: AtomicU64,
}

#[derive(Default)]
struct Staging {
    clock: HlcClock,
    open: VecDeque<Open>,
    bytes: usize,
    sealing: bool,
    closed: Option<PublishError>,
}

struct Open {
    builder: BatchBuilder,
    ack: Arc<BatchAck>,
    after: Vec<Parent>,
}

/// One event as it is handed in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'a str, &'a [u8])],
    pub(crate) after: &'a [Parent],
}

/// How a producer is made.
pub(crate) struct Making {
    pub(crate) name: ChannelName,
    pub(crate) pair: Pair,
    pub(crate) class: Class,
    pub(crate) publisher: Publisher,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) grants: broadcast::Sender<(NodeId, Arc<Vec<u8>>)>,
    pub(crate) environment: Environment,
    pub(crate) mesh: MeshId,
    pub(crate) visibility: Visibility,
    pub(crate) priority: Priority,
    pub(crate) queue_bytes_max: usize,
}

impl Producer {
    pub(crate) fn new(making: Making) -> Self {
        let Making {
            name,
            pair,
            class,
            publisher,
            signer,
            grants,
            environment,
            mesh,
            visibility,
            priority,
            queue_bytes_max,
        } = making;
        Self {
            name,
            pair,
            class,
            origin: signer.id(),
            publisher: Mutex::new(publisher),
            signer,
            progress: Notify::new(),
            grants,
            environment,
            mesh,
            visibility,
            priority,
            queue_bytes_max,
            staging: Mutex::default(),
            wake: Notify::new(),
            room: Notify::new(),
            idle: Notify::new(),
            advert_seq: AtomicU64::new(0),
        }
    }

    /// Puts an event in the queue, or says that the queue is full.
    pub(crate) fn try_publish(&self, record: Record<'_>) -> Result<Receipt, PublishError> {
        let mut guard = self.staging();
        let staging = &mut *guard;
        if let Some(error) = &staging.closed {
            return Err(error.clone());
        }
        if staging.bytes >= self.queue_bytes_max {
            return Err(PublishError::QueueFull { limit: self.queue_bytes_max });
        }
        let time = staging.clock.tick(self.environment.unix_ms());
        let (was_empty, before) = (staging.open.is_empty(), staging.bytes);
        let pushed = match staging.open.back_mut() {
            // Explicit causes belong to a batch of their own, so that they are not claimed for its neighbours.
            Some(open) if record.after.is_empty() && open.after.is_empty() => open.push(&record, time)?,
            _ => None,
        };
        let (index, cost) = match pushed {
            Some(pushed) => pushed,
            None => {
                let mut open = Open { builder: BatchBuilder::new(), ack: Arc::default(), after: record.after.to_vec() };
                let pushed = open.push(&record, time)?.expect("an empty batch takes one event of any legal size");
                staging.open.push_back(open);
                pushed
            }
        };
        staging.bytes = before + cost;
        let batch = staging.open.back().expect("an event was just pushed into it").ack.clone();
        drop(guard);
        if was_empty {
            self.wake.notify_one();
        }
        Ok(Receipt { origin: self.origin, index: index as u64, batch })
    }

    /// Waits until the queue has room, and puts the event in it. Cancel-safe: cancelled, the event is not queued.
    pub(crate) async fn publish(&self, record: Record<'_>) -> Result<Receipt, PublishError> {
        loop {
            match self.try_publish(record) {
                Err(PublishError::QueueFull { .. }) => {}
                result => return result,
            }
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.staging().bytes >= self.queue_bytes_max {
                room.await;
            }
        }
    }

    /// Waits until everything queued before has been sealed and handed to the links.
    pub(crate) async fn flush(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let staging = self.staging();
                if staging.open.is_empty() && !staging.sealing || matches!(staging.closed, Some(PublishError::Seal(_)))
                {
                    return;
                }
            }
            idle.await;
        }
    }

    /// The version of this producer's next advert: the wall clock, and more than the one before.
    pub(crate) fn next_advert_seq(&self, unix_ms: u64) -> u64 {
        let before = self.advert_seq.fetch_max(unix_ms, Ordering::Relaxed);
        if before < unix_ms { unix_ms } else { self.advert_seq.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// Whether it takes no more events.
    pub(crate) fn is_closed(&self) -> bool {
        self.staging().closed.is_some()
    }

    /// Takes no more events; what is queued is still sealed and sent.
    pub(crate) fn close(&self) {
        let mut staging = self.staging();
        staging.closed.get_or_insert(PublishError::Closed);
        drop(staging);
        self.wake.notify_one();
        self.room.notify_waiters();
    }

    /// Gives up what is queued and not sealed; whoever waits for it is told.
    pub(crate) fn abandon(&self) {
        let mut staging = self.staging();
        staging.bytes = 0;
        for open in staging.open.drain(..) {
            open.ack.complete(Err(PublishError::Closed));
        }
    }

    /// The task: seals and sends until the producer is closed and its queue empty.
    pub(crate) async fn run(self: Arc<Self>, endpoint: Endpoint, given: Arc<Given>) {
        loop {
            if !self.is_staged(&endpoint).await {
                return;
            }
            // Room is waited for before the batch is taken, so that it grows meanwhile, and right before it is sent, so
            // that many producers on one link do not all take the same room.
            endpoint.room(&self.pair).await;
            let Some(open) = self.take_staged() else { continue };
            let (bytes, ack) = (open.builder.len_bytes(), open.ack.clone());
            let result = self.seal(open, &given);
            let result = result.map(|(seq, frame)| {
                let fanout = endpoint.publish(&self.pair, frame);
                (seq, Ack::Sent { links: fanout.links })
            });
            let failed = result.as_ref().err().cloned();
            ack.complete(result);
            let mut staging = self.staging();
            staging.sealing = false;
            staging.bytes = staging.bytes.saturating_sub(bytes);
            if let Some(error) = failed {
                // A batch that cannot be sealed leaves a hole that nothing later may jump over.
                for open in staging.open.drain(..) {
                    open.ack.complete(Err(error.clone()));
                }
                staging.bytes = 0;
                staging.closed = Some(error);
            }
            drop(staging);
            self.room.notify_waiters();
            self.idle.notify_waiters();
        }
    }

    /// Takes the next batch to seal.
    fn take_staged(&self) -> Option<Open> {
        let mut staging = self.staging();
        let open = staging.open.pop_front();
        staging.sealing = open.is_some();
        open
    }

    /// Waits for a batch to seal; says whether there will be one. As long as there is none, Ticks say how far this
    /// producer has come.
    async fn is_staged(&self, endpoint: &Endpoint) -> bool {
        loop {
            {
                let staging = self.staging();
                if !staging.open.is_empty() || staging.closed.is_some() {
                    return !staging.open.is_empty();
                }
            }
            let tick_at = lock(&self.publisher).poll_tick().map(Instant::from_std);
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = sleep_until(tick_at) => {
                    if let Some(tick) = self.tick() {
                        endpoint.publish(&self.pair, tick);
                    }
                }
            }
        }
    }

    /// A Tick, if one is due and somebody is there to hear it.
    fn tick(&self) -> Option<Bytes> {
        let mut publisher = lock(&self.publisher);
        let (last_seq, last_hash) = publisher.take_tick(Instant::now().into_std())?;
        let tick = Tick::sign(&TickParams {
            mesh: &self.mesh,
            channel: &ChannelHash(self.pair.channel),
            signer: &*self.signer,
            last_seq,
            last_hash,
            incarnation: publisher.incarnation(),
            unix_ms: self.environment.unix_ms(),
            visibility: self.visibility,
            priority: self.priority,
            subnet: [0; 4],
            cap: [0; 4],
        });
        // A key out of reach is told to whoever publishes next.
        tick.ok()
    }

    fn seal(&self, mut open: Open, given: &Given) -> Result<(u64, Bytes), PublishError> {
        let unix_ms = self.environment.unix_ms();
        let realtime = self.class == Class::Realtime;
        let mut causes = if realtime { vec![] } else { given.take_parents(&self.pair.channel, &self.origin) };
        let cut = causes.len() + open.after.len() > PARENTS_MAX;
        if cut {
            causes.sort_unstable_by_key(|(time, _)| std::cmp::Reverse(*time));
            causes.truncate(PARENTS_MAX.saturating_sub(open.after.len()));
        }
        let mut parents: Vec<Parent> = causes.into_iter().map(|(_, parent)| parent).collect();
        // Two origins whose short ids clash have room for one parent; a batch names each short id once.
        parents.sort_unstable_by_key(|parent| (parent.origin, std::cmp::Reverse(parent.seq)));
        parents.dedup_by_key(|parent| parent.origin);
        for after in open.after.drain(..) {
            match parents.iter_mut().find(|parent| parent.origin == after.origin) {
                // An origin's later event has its earlier ones as causes.
                Some(parent) if parent.seq >= after.seq => {}
                Some(parent) => *parent = after,
                None => parents.push(after),
            }
        }
        let events = open.builder.events();
        let now = Instant::now().into_std();
        let mut publisher = lock(&self.publisher);
        if publisher.key_is_old(now) {
            let key = SenderKey::new(self.environment.random());
            let unix_secs = unix_ms / 1000;
            let grants = publisher.rotate(key, now, unix_secs, &*self.signer).map_err(PublishError::seal)?;
            for (node, grant) in grants {
                // Nobody listens when the last subscriber has just gone.
                let _ = self.grants.send((node, Arc::new(grant)));
            }
        }
        let seq = publisher.next();
        let incarnation = publisher.incarnation();
        let sealed = open.builder.seal(&SealParams {
            mesh: &self.mesh,
            channel: &ChannelHash(self.pair.channel),
            signer: &*self.signer,
            sender_key: publisher.key(),
            seq,
            incarnation,
            prev: publisher.head(),
            parents: &parents,
            parents_cut: cut,
            salt: self.environment.random(),
            visibility: self.visibility,
            priority: self.priority,
            realtime,
            subnet: [0; 4],
            cap: [0; 4],
        });
        let sealed = sealed.map_err(PublishError::seal)?;
        let range = SeqRange { from: seq, to: seq + events as u64 };
        publisher.sealed(Cached { range, sealed_at: now, unix_ms, frame: sealed.frame().clone() }, sealed.hash());
        Ok((seq, sealed.into_parts().1))
    }

    fn staging(&self) -> MutexGuard<'_, Staging> {
        lock(&self.staging)
    }

    /// Nodes that have been handed everything sealed so far, of those subscribed now.
    pub(crate) fn received(&self) -> (usize, usize) {
        let publisher = lock(&self.publisher);
        (publisher.received(publisher.next()), publisher.subscribers().len())
    }

    /// This producer in figures.
    pub(crate) fn metrics(&self) -> ProducerMetrics {
        let queued_bytes = self.staging().bytes;
        let publisher = lock(&self.publisher);
        let (next_seq, first) = (publisher.next(), publisher.incarnation());
        let slowest = publisher.subscribers().values().map(Subscriber::received).min().unwrap_or(next_seq);
        ProducerMetrics {
            channel: self.name.clone(),
            events: next_seq - first,
            next_seq,
            queued_bytes,
            cached_bytes: publisher.cached_bytes(),
            subscribers: publisher.subscribers().len(),
            complete: publisher.received(next_seq),
            // Whoever begins with history has been handed nothing of this incarnation.
            lag_max: next_seq - slowest.clamp(first, next_seq),
        }
    }

    /// Waits until this holds of the publisher, or the time is over; says whether it holds.
    pub(crate) async fn wait(&self, until: impl Fn(&Publisher) -> bool, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if until(&lock(&self.publisher)) {
                return true;
            }
            if tokio::time::timeout_at(deadline, progress).await.is_err() {
                return until(&lock(&self.publisher));
            }
        }
    }
}

impl Open {
    /// The index of the event and the bytes of the batch it added, or nothing if the batch has no room for it.
    fn push(&mut self, record: &Record<'_>, time: Hlc) -> Result<Option<(usize, usize)>, PublishError> {
        let before = self.builder.len_bytes();
        match self.builder.push(record.payload, record.key, record.headers, time) {
            Ok(index) => Ok(Some((index, self.builder.len_bytes() - before))),
            Err(PushError::Full) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("name", &self.name).finish_non_exhaustive()
    }
}
