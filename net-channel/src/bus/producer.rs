//! One live producer of a channel: events are encoded into the open batch where `publish` is called, and a task
//! seals whatever has gathered and hands it to the links.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use net_identity::{EntityId, Signer};
use net_transport::{Aead, Endpoint, MeshId, NodeId, Pair, Priority, Visibility};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use crate::batch::HEAD_LEN_MAX;
use crate::bus::PublishError;
use crate::bus::acks::Acks;
use crate::bus::environment::Environment;
use crate::bus::metrics::ProducerMetrics;
use crate::bus::receipt::{Ack, BatchAck, Receipt};
use crate::bus::stores::blocking;
use crate::core::{ANSWER_LEN_MAX, Answering, Cached, Fetching, Given, Publisher, SeqRange, Start, Subscriber};
use crate::{
    BATCH_BODY_LEN_MAX, BatchBuilder, BatchHash, ChannelHash, ChannelName, Class, Hlc, HlcClock, PARENTS_MAX, Parent,
    PushError, SealParams, Seek, SenderKey, Store, StoreError, Stored, Tick, TickParams,
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
    /// The most bytes of a body of several events.
    body_len_max: usize,
    staging: Mutex<Staging>,
    wake: Notify,
    room: Notify,
    idle: Notify,
    advert_seq: AtomicU64,
    /// The channel's log, if it is persisted here.
    pub(crate) store: Option<Arc<dyn Store>>,
    /// The origin's next seq in that log when this incarnation began; 0 if it had none.
    logged_next: u64,
    /// On how many other nodes' disks an event must be before it is acknowledged.
    replicas: usize,
    me: NodeId,
    /// Whoever opens the channel to publish takes its place.
    pub(crate) standing_in: bool,
    /// What whoever publishes is told.
    acks: Acks,
}

/// The most bytes of a body of several realtime events: what is lost or replaced at once.
const REALTIME_BODY_LEN_MAX: usize = 64 << 10;
/// So many events in a batch have come together.
const TOGETHER: usize = 4;
/// After so many batches of fewer events an event goes at once, and not after those who are about to publish another.
const FEW_MAX: u32 = 8;
/// How often those who are about to publish are let go first, and how long: another thread that wakes for it takes some 30 µs.
const YIELDS_MAX: usize = 32;
const GATHER_MAX: Duration = Duration::from_micros(100);
/// Events are few beside so many times as many that are awaited from other nodes, and are held at most so long, which tokio's
/// timer makes up to two milliseconds.
const FEW_PART: usize = 4;
const HOLD_MAX: Duration = Duration::from_millis(1);
#[derive(Default)]
struct Staging {
    clock: HlcClock,
    open: VecDeque<Open>,
    /// The builder of a batch that is sealed, with its memory.
    spare: BatchBuilder,
    bytes: usize,
    sealing: bool,
    /// Batches that have their place in the log and are not written.
    storing: usize,
    closed: Option<PublishError>,
}

struct Open {
    builder: BatchBuilder,
    ack: Ending,
    after: Vec<Parent>,
}

/// The ack of a batch that is not sealed; whoever drops it without handing it on has closed the channel.
#[derive(Default)]
struct Ending(Option<Arc<BatchAck>>);

impl Ending {
    fn new() -> Self {
        Self(Some(Arc::default()))
    }

    fn shared(&self) -> Arc<BatchAck> {
        self.0.clone().unwrap_or_default()
    }

    fn fail(mut self, error: PublishError) {
        self.hand_on().complete(Err(error));
    }

    /// The batch has its place: from here on others acknowledge it.
    fn hand_on(&mut self) -> Arc<BatchAck> {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(ack) = self.0.take() {
            ack.complete(Err(PublishError::Closed));
        }
    }
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
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) logged_next: u64,
    pub(crate) replicas: usize,
    pub(crate) me: NodeId,
    pub(crate) standing_in: bool,
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
            store,
            logged_next,
            replicas,
            me,
            standing_in,
        } = making;
        let of_class = match class {
            Class::Reliable => BATCH_BODY_LEN_MAX,
            Class::Realtime => REALTIME_BODY_LEN_MAX,
        };
        let of_store =
            store.as_ref().map_or(BATCH_BODY_LEN_MAX, |store| store.batch_len_max().saturating_sub(HEAD_LEN_MAX));
        let body_len_max = of_class.min(of_store);
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
            staging: Mutex::new(Staging { spare: BatchBuilder::with_limit(body_len_max), ..Staging::default() }),
            body_len_max,
            wake: Notify::new(),
            room: Notify::new(),
            idle: Notify::new(),
            advert_seq: AtomicU64::new(0),
            store,
            logged_next,
            replicas,
            me,
            standing_in,
            acks: Acks::default(),
        }
    }

    /// What an event names as its causes, checked here, so that nothing refuses the batch when it is sealed. Events of
    /// this origin are causes in any case.
    fn causes(&self, after: &[Parent]) -> Result<Vec<Parent>, PublishError> {
        if after.is_empty() {
            return Ok(Vec::new());
        }
        let own = self.origin.short();
        let after: Vec<Parent> = after.iter().copied().filter(|parent| parent.origin != own).collect();
        let sound = after.iter().all(|parent| !matches!(parent.seq, 0 | u64::MAX));
        let allowed = self.class == Class::Reliable || after.is_empty();
        if sound && allowed && after.len() <= PARENTS_MAX { Ok(after) } else { Err(PublishError::Causes) }
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
        let after = self.causes(record.after)?;
        let time = staging.clock.tick(self.environment.unix_ms());
        let (was_empty, before) = (staging.open.is_empty(), staging.bytes);
        let pushed = match staging.open.back_mut() {
            // Explicit causes belong to a batch of their own, so that they are not claimed for its neighbours.
            Some(open) if after.is_empty() && open.after.is_empty() => open.push(&record, time)?,
            _ => None,
        };
        let (index, cost) = match pushed {
            Some(pushed) => pushed,
            None => {
                let builder = std::mem::replace(&mut staging.spare, BatchBuilder::with_limit(self.body_len_max));
                let mut open = Open { builder, ack: Ending::new(), after };
                let pushed = open.push(&record, time)?.expect("an empty batch takes one event of any legal size");
                staging.open.push_back(open);
                pushed
            }
        };
        staging.bytes = before + cost;
        let batch = staging.open.back().expect("an event was just pushed into it").ack.shared();
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

    /// Waits until everything queued before has been sealed, handed to the links, and stored here if it is to be.
    pub(crate) async fn flush(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let staging = self.staging();
                let failed = matches!(staging.closed, Some(PublishError::Seal(_) | PublishError::Store(_)));
                if staging.open.is_empty() && !staging.sealing && staging.storing == 0 || failed {
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
        // Whoever waits for them is told that the channel is closed.
        staging.open.clear();
    }

    /// The task: seals and sends until the producer is closed and its queue empty.
    pub(crate) async fn run(self: Arc<Self>, endpoint: Endpoint, given: Arc<Given>) {
        let (mut few, mut batches) = (FEW_MAX, 0_u64);
        loop {
            if !self.is_staged(&endpoint).await {
                return;
            }
            let mut expected = self.acks.take_told();
            if few < FEW_MAX {
                // Many have come together lately. Whoever was just told how its event fared is taken to publish another.
                if let Some(held) = self.hold_back().await {
                    expected = held + self.acks.take_told();
                }
                self.gather(expected).await;
            }
            // Room is waited for before the batch is taken, so that it grows meanwhile, and right before it is sent, so
            // that many producers on one link do not all take the same room.
            endpoint.room(&self.pair).await;
            let Some(open) = self.take_staged() else { continue };
            let Open { mut builder, mut ack, after } = open;
            let bytes = builder.len_bytes();
            batches += 1;
            few = if builder.events() < TOGETHER { few.saturating_add(1) } else { 0 };
            match self.carry(&mut builder, after, ack.shared(), &endpoint, &given).await {
                Ok(()) => drop(ack.hand_on()),
                Err(error) => {
                    ack.fail(error.clone());
                    // What is not sealed or stored leaves a hole that nothing later may jump over.
                    self.fail(error);
                }
            }
            let mut staging = self.staging();
            staging.sealing = false;
            staging.bytes = staging.bytes.saturating_sub(bytes);
            builder.clear();
            staging.spare = builder;
            let room = staging.bytes <= self.queue_bytes_max / 4 * 3;
            let waiting_room = staging.bytes < self.queue_bytes_max;
            drop(staging);
            // All when there is room for many events; one now and then, so that nobody starves beside those who never wait.
            if room {
                self.room.notify_waiters();
            } else if waiting_room && batches.is_multiple_of(8) {
                self.room.notify_one();
            }
            self.idle.notify_waiters();
        }
    }

    /// Waits with a few events while many wait for others to be stored elsewhere, within bounds: those many come back with
    /// more, and one signature and one sync are for all. Left alone, the few would always be a batch behind. Says
    /// how many were held back, if any were.
    async fn hold_back(&self) -> Option<usize> {
        let until = Instant::now() + HOLD_MAX;
        let mut held = None;
        loop {
            let settled = self.acks.settled();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let (events, no_more) = self.staged();
            if no_more || events >= self.acks.waiting() / FEW_PART {
                return held;
            }
            held = Some(events);
            if tokio::time::timeout_at(until, settled).await.is_err() {
                return held;
            }
        }
    }

    /// Lets those who are about to publish do so first, so that one signature is for all: at least once, and until as many
    /// have come as are expected, within bounds.
    async fn gather(&self, expected: usize) {
        let until = Instant::now() + GATHER_MAX;
        for _ in 0..YIELDS_MAX {
            tokio::task::yield_now().await;
            let (events, no_more) = self.staged();
            if events >= expected || no_more || Instant::now() >= until {
                return;
            }
        }
    }

    /// Events that wait to be sealed, and whether no more can come now.
    fn staged(&self) -> (usize, bool) {
        let staging = self.staging();
        let events = staging.open.iter().map(|open| open.builder.events()).sum();
        (events, staging.bytes >= self.queue_bytes_max || staging.closed.is_some())
    }

    /// Seals a batch, gives it its place in the log, sends it, and sees to it that it is acknowledged.
    async fn carry(
        self: &Arc<Self>,
        builder: &mut BatchBuilder,
        after: Vec<Parent>,
        ack: Arc<BatchAck>,
        endpoint: &Endpoint,
        given: &Given,
    ) -> Result<(), PublishError> {
        self.renew_key().await?;
        let (batch, hash) = self.seal(builder, after, given)?;
        let (range, frame) = (batch.range, batch.frame.clone());
        // In the log before any link has it, so that whoever kills this process cannot take it back.
        let storing = match &self.store {
            Some(store) => {
                let expected =
                    if range.from == lock(&self.publisher).incarnation() { self.logged_next } else { range.from };
                let storing = store.enqueue(&frame, Some(expected)).await.map_err(PublishError::Store)?;
                self.staging().storing += 1;
                Some(storing)
            }
            None => None,
        };
        lock(&self.publisher).sealed(batch, hash);
        let fanout = endpoint.publish(&self.pair, frame);
        match storing {
            None => self.acknowledge(range, ack, Ack::Sent { links: fanout.links }),
            Some(storing) => {
                let producer = self.clone();
                tokio::spawn(async move { producer.finish(range, ack, storing.await) });
            }
        }
        Ok(())
    }

    /// A batch has been written to the log, or not.
    fn finish(&self, range: SeqRange, ack: Arc<BatchAck>, stored: Result<Stored, StoreError>) {
        match stored {
            Ok(Stored { offset, durable }) => {
                lock(&self.publisher).set_stored_below(range.to);
                let reached = if durable { Ack::Durable { offset } } else { Ack::Buffered { offset } };
                self.acknowledge(range, ack, reached);
            }
            Err(error) => {
                ack.complete(Err(PublishError::Store(error.clone())));
                self.fail(PublishError::Store(error));
            }
        }
        self.staging().storing -= 1;
        self.idle.notify_waiters();
    }

    /// Takes no more events; whoever waits is told why.
    fn fail(&self, error: PublishError) {
        let mut staging = self.staging();
        for open in staging.open.drain(..) {
            open.ack.fail(error.clone());
        }
        staging.bytes = 0;
        staging.closed = Some(error);
        drop(staging);
        self.wake.notify_one();
        self.room.notify_waiters();
        self.idle.notify_waiters();
    }

    /// Acknowledges a batch of which this is true, at once or when enough nodes have stored it.
    fn acknowledge(&self, range: SeqRange, ack: Arc<BatchAck>, reached: Ack) {
        if self.replicas == 0 {
            return self.acks.tell(&ack, range, reached);
        }
        self.acks.wait_for_others(range, ack, reached);
        self.settle(range);
    }

    /// A node says that it has stored events: acknowledges the batches that are on enough disks now.
    pub(crate) fn note_stored(&self, from: &NodeId, range: SeqRange) {
        let news = lock(&self.publisher).note_stored(from, range);
        if let Some(news) = news {
            self.settle(news);
        }
    }

    /// Acknowledges the batches of these seqs that enough nodes have stored.
    fn settle(&self, range: SeqRange) {
        let publisher = lock(&self.publisher);
        self.acks.settle(range, self.replicas, |range| publisher.replicas(range, &self.me));
    }

    /// The task that acknowledges with what is true of them the batches that have waited long enough.
    pub(crate) async fn give_up_in_time(self: Arc<Self>) {
        self.acks.give_up_in_time().await;
    }

    /// Acknowledges all batches with what is true of them; nobody is waited for any more.
    pub(crate) fn end_waiting(&self) {
        self.acks.end();
    }

    /// Whether this producer waits for other nodes to store events.
    pub(crate) fn is_replicating(&self) -> bool {
        self.replicas > 0
    }

    /// Whether no event waits to be stored on other nodes.
    pub(crate) fn is_replicated(&self) -> bool {
        self.acks.is_empty()
    }

    /// Seals with a new key if the one before is old. It is kept before anything is sealed with it, or a crash could leave
    /// batches that nobody can open.
    async fn renew_key(&self) -> Result<(), PublishError> {
        let now = Instant::now().into_std();
        let first_seq = {
            let publisher = lock(&self.publisher);
            if !publisher.key_is_old(now) {
                return Ok(());
            }
            publisher.next()
        };
        let key = SenderKey::new(self.environment.random());
        if let Some(store) = self.store.clone() {
            let (origin, key) = (self.origin, key.clone());
            let kept = blocking(move || store.add_key(&origin, first_seq, &key));
            kept.await.map_err(PublishError::Store)?;
        }
        let unix_secs = self.environment.unix_ms() / 1000;
        let grants = lock(&self.publisher).rotate(key, now, unix_secs, &*self.signer).map_err(PublishError::seal)?;
        for (node, grant) in grants {
            // Nobody listens when the last subscriber has just gone.
            let _ = self.grants.send((node, Arc::new(grant)));
        }
        Ok(())
    }

    /// Notes how far back the log goes now, and finds a start in it that memory does not know. Nothing if the log cannot be
    /// read now: whoever asked has to ask again.
    pub(crate) async fn look_up(&self, start: Start, unix_ms: u64) -> Option<Start> {
        let Some(store) = self.store.clone() else { return Some(start) };
        let seek = lock(&self.publisher).seek(start, Instant::now().into_std(), unix_ms);
        let origin = self.origin;
        let looked = blocking(move || {
            let first = store.seek(&origin, Seek::First)?;
            let found = seek.map(|seek| if seek == Seek::First { Ok(first) } else { store.seek(&origin, seek) });
            Ok((first, found.transpose()?.flatten()))
        });
        match looked.await {
            Ok((first, found)) => {
                lock(&self.publisher).set_stored_from(first);
                Some(found.map_or(start, Start::Seq))
            }
            Err(error) => {
                tracing::error!(channel = %self.name, %error, "the log cannot be read");
                None
            }
        }
    }

    /// The next answer to a request: from the log what memory does not have any more.
    pub(crate) async fn next_answer(&self, fetch: &mut Fetching) -> Option<Vec<u8>> {
        let answering = lock(&self.publisher).answer(fetch);
        let (range, store) = match (answering, self.store.clone()) {
            (Answering::Answer(answer), _) => return Some(answer),
            (Answering::Read(range), Some(store)) => (range, store),
            (Answering::Read(_) | Answering::Done, _) => return None,
        };
        let origin = self.origin;
        let read = blocking(move || {
            let mut frames = Vec::new();
            let covered = store.read(&origin, range, ANSWER_LEN_MAX as usize, &mut frames)?;
            Ok((covered, frames))
        });
        match read.await {
            Ok((covered, frames)) => {
                // What is in neither was never stored, and never will be.
                let covered = if covered <= range.from { range.to } else { covered };
                Some(lock(&self.publisher).answer_with(fetch, covered, &frames))
            }
            Err(error) => {
                // Whoever asked asks again.
                tracing::error!(channel = %self.name, %error, "the log cannot be read");
                None
            }
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

    fn seal(
        &self,
        builder: &mut BatchBuilder,
        after: Vec<Parent>,
        given: &Given,
    ) -> Result<(Cached, BatchHash), PublishError> {
        let unix_ms = self.environment.unix_ms();
        let realtime = self.class == Class::Realtime;
        let room = PARENTS_MAX - after.len().min(PARENTS_MAX);
        let (mut parents, cut) =
            if realtime { (vec![], false) } else { given.take_parents(&self.pair.channel, &self.origin, room) };
        // Two origins whose short ids clash have room for one parent; a batch names each short id once.
        parents.sort_unstable_by_key(|parent| (parent.origin, std::cmp::Reverse(parent.seq)));
        parents.dedup_by_key(|parent| parent.origin);
        for after in after {
            match parents.iter_mut().find(|parent| parent.origin == after.origin) {
                // An origin's later event has its earlier ones as causes.
                Some(parent) if parent.seq >= after.seq => {}
                Some(parent) => *parent = after,
                None => parents.push(after),
            }
        }
        let events = builder.events();
        let now = Instant::now().into_std();
        let publisher = lock(&self.publisher);
        let seq = publisher.next();
        let incarnation = publisher.incarnation();
        let sealed = builder.seal(&SealParams {
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
            aead: Aead::fastest_here(),
            cap: [0; 4],
        });
        let sealed = sealed.map_err(PublishError::seal)?;
        let range = SeqRange { from: seq, to: seq + events as u64 };
        let batch = Cached { range, sealed_at: now, unix_ms, frame: sealed.frame().clone() };
        Ok((batch, sealed.hash()))
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
