//! The task that drives a node's subscriptions, and what it shares with the handles.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use net_identity::Signer;
use net_transport::{Endpoint, Event, Frame, FrameReceiver, NodeId, Pair, PeerState};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::bus::environment::Environment;
use crate::bus::events::{EventSource, NodeEvent};
use crate::bus::metrics::{BusMetrics, SubscriptionMetrics};
use crate::bus::producer::{Producer, lock};
use crate::bus::quota::Served;
use crate::bus::stores::Stores;
use crate::bus::streams;
use crate::bus::subscription::Queue;
use crate::core::{
    Action, Counters, Cursor, Delivery, From, Given, Known, Message, Order, SeqRange, Source, SubId, Subscriptions,
};
use crate::{Advert, FloorFile, Pattern};

/// What the hub, the handles and the streams share.
pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) environment: Environment,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) given: Arc<Given>,
    pub(crate) producers: Mutex<HashMap<Pair, Arc<Producer>>>,
    /// What subscribers on other nodes have here.
    pub(crate) served: Served,
    /// For whoever watches the node.
    pub(crate) events: EventSource,
    pub(crate) grants: broadcast::Sender<(NodeId, Arc<Vec<u8>>)>,
    pub(crate) floor: Mutex<Option<FloorFile>>,
    pub(crate) cursors: Option<PathBuf>,
    pub(crate) stores: Stores,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) reports: Reports,
    pub(crate) next_sub: AtomicU64,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// What applications took and which subscriptions they dropped; told without waiting, because `poll` and `drop` cannot.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pub(crate) taken: Mutex<BTreeSet<SubId>>,
    pub(crate) dropped: Mutex<Vec<SubId>>,
    pub(crate) notify: Notify,
}

/// What handles ask of the hub.
pub(crate) enum Command {
    Subscribe {
        sub: SubId,
        pattern: Pattern,
        from: From,
        order: Order,
        queue: Arc<Queue>,
        made: oneshot::Sender<()>,
    },
    /// A subscription that keeps batches.
    Keep {
        sub: SubId,
        pattern: Pattern,
        from: Cursor,
        queue: Arc<Queue>,
        made: oneshot::Sender<()>,
    },
    /// What a keeper has on its disk.
    Stored {
        sub: SubId,
        pair: Pair,
        run: SeqRange,
    },
    Advert(Bytes),
    /// A proof of equivocation that a neighbour passes on.
    Proof {
        from: NodeId,
        body: BytesMut,
    },
    Known {
        answer: oneshot::Sender<Vec<(Pair, Known)>>,
    },
    Counters {
        answer: oneshot::Sender<Counters>,
    },
    Metrics {
        answer: oneshot::Sender<BusMetrics>,
    },
    Lag {
        sub: SubId,
        answer: oneshot::Sender<Vec<(Arc<Source>, u64)>>,
    },
}

/// What comes from the streams that this node opened.
pub(crate) enum PeerInput {
    Message { from: NodeId, body: BytesMut },
    Lost { node: NodeId },
}

pub(crate) struct Hub {
    inner: Arc<Inner>,
    subscriptions: Subscriptions,
    queues: BTreeMap<SubId, Arc<Queue>>,
    outboxes: BTreeMap<NodeId, mpsc::Sender<Vec<u8>>>,
    inputs: mpsc::Sender<PeerInput>,
}

pub(crate) struct HubInputs {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) frames: FrameReceiver,
}

/// Messages that wait for one stream.
const OUTBOX_LEN: usize = 16_384;
const INPUTS_LEN: usize = 64;
const FRAMES_AT_ONCE: usize = 64;

impl Hub {
    pub(crate) fn spawn(inner: Arc<Inner>, subscriptions: Subscriptions, mut inputs: HubInputs) {
        let (sender, mut peer_inputs) = mpsc::channel(INPUTS_LEN);
        let tasks = inner.tasks.clone();
        let mut hub = Self { inner, subscriptions, queues: BTreeMap::new(), outboxes: BTreeMap::new(), inputs: sender };
        tasks.spawn(async move {
            let cancel = hub.inner.cancel.clone();
            let inner = hub.inner.clone();
            let mut frames: Vec<Frame> = Vec::with_capacity(FRAMES_AT_ONCE);
            loop {
                let timeout = hub.subscriptions.poll_timeout().map(Instant::from_std);
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    // First, so that whoever keeps this node busy cannot make it late.
                    () = sleep_until(timeout) => hub.subscriptions.handle_timeout(now()),
                    Some(command) = inputs.commands.recv() => hub.handle_command(command),
                    Some(event) = inputs.events.recv() => hub.handle_event(event),
                    () = inner.reports.notify.notified() => hub.handle_reports(),
                    Some(input) = peer_inputs.recv() => hub.handle_input(input),
                    n = inputs.frames.recv_many(&mut frames, FRAMES_AT_ONCE) => {
                        if n == 0 {
                            break;
                        }
                        for frame in frames.drain(..) {
                            // Its permit goes back when the frame has been handled, so that what is under way stays bounded.
                            let Frame { bytes, .. } = frame;
                            hub.subscriptions.handle_frame(now(), bytes.freeze());
                        }
                    }
                }
                hub.act();
            }
            for queue in hub.queues.values() {
                queue.close();
            }
            hub.inner.events.close();
        });
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Subscribe { sub, pattern, from, order, queue, made } => {
                self.queues.insert(sub, queue);
                self.subscriptions.subscribe(now(), sub, pattern, from, order);
                // Whoever asked may have gone; what is dropped is reported, after this.
                let _ = made.send(());
            }
            Command::Keep { sub, pattern, from, queue, made } => {
                self.queues.insert(sub, queue);
                self.subscriptions.keep(now(), sub, pattern, from);
                let _ = made.send(());
            }
            Command::Stored { sub, pair, run } => self.subscriptions.handle_stored(sub, pair, run),
            Command::Advert(bytes) => self.handle_advert(&bytes),
            Command::Proof { from, body } => self.handle_input(PeerInput::Message { from, body }),
            // Whoever asked may have gone; then there is nobody to tell.
            Command::Known { answer } => {
                let known = self.subscriptions.known().map(|(pair, known)| (*pair, known.clone())).collect();
                let _ = answer.send(known);
            }
            Command::Counters { answer } => {
                let _ = answer.send(*self.subscriptions.counters());
            }
            Command::Metrics { answer } => {
                let _ = answer.send(self.metrics());
            }
            Command::Lag { sub, answer } => {
                let _ = answer.send(self.subscriptions.lag(sub));
            }
        }
    }

    fn metrics(&self) -> BusMetrics {
        let subscription = |(id, queue): (&SubId, &Arc<Queue>)| SubscriptionMetrics {
            id: *id,
            pattern: queue.pattern.clone(),
            filter: queue.selection.text(),
            filtered: queue.selection.counters(),
            lag: self.subscriptions.lag(*id),
        };
        let (held_batches, held_bytes) = self.subscriptions.held();
        BusMetrics {
            counters: *self.subscriptions.counters(),
            held_batches,
            held_bytes,
            subscriptions: self.queues.iter().map(subscription).collect(),
            ..BusMetrics::default()
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Advert { bytes, .. } => self.handle_advert(&bytes),
            Event::AdvertsGone { node } => {
                let gone: Vec<Pair> =
                    self.subscriptions.known().filter(|(_, known)| known.node == node).map(|(pair, _)| *pair).collect();
                for pair in gone {
                    self.inner.events.send(NodeEvent::ProducerDown { pair });
                    self.subscriptions.handle_advert(now(), pair, None);
                }
            }
            Event::Joined { pair, node } => {
                self.inner.events.send(NodeEvent::Joined { pair, node });
                self.subscriptions.handle_joined(now(), pair);
            }
            Event::Unjoined { pair, node, reason } => {
                self.inner.events.send(NodeEvent::Unjoined { pair, node, reason });
                self.subscriptions.handle_unjoined(now(), pair);
            }
            Event::Slow { pair, node } => self.inner.events.send(NodeEvent::SlowSubscriber { pair, node }),
            Event::LinkUp { node, .. } => {
                self.inner.events.send(NodeEvent::PeerUp { node });
                self.subscriptions.handle_neighbour(node);
            }
            Event::LinkDown { node } => {
                self.inner.events.send(NodeEvent::PeerDown { node });
                self.outboxes.remove(&node);
                self.subscriptions.handle_peer_lost(now(), &node);
            }
            _ => {}
        }
    }

    fn handle_advert(&mut self, bytes: &[u8]) {
        let Ok(verified) = Advert::verify(bytes, &self.inner.endpoint.mesh()) else { return };
        let advert = verified.advert();
        let pair = Pair { channel: verified.channel().0, origin: *advert.origin.as_bytes() };
        if advert.closed {
            self.inner.events.send(NodeEvent::ProducerDown { pair });
            self.subscriptions.handle_closed(pair, advert.seq);
            return;
        }
        let (node, entity, class, seq) = (advert.node, advert.entity, advert.class, advert.seq);
        let known = Known { name: advert.name.clone(), node, entity, class, seq };
        self.inner.events.send(NodeEvent::ProducerUp { channel: known.name.clone(), pair, node, class });
        self.subscriptions.handle_advert(now(), pair, Some(known));
    }

    fn handle_input(&mut self, input: PeerInput) {
        match input {
            PeerInput::Message { from, body } => match Message::decode(&body) {
                Ok(message) => self.subscriptions.handle_message(now(), from, &message),
                Err(error) => {
                    debug!(%from, %error, "closing the stream");
                    self.outboxes.remove(&from);
                }
            },
            PeerInput::Lost { node } => {
                // A newer stream to the node may be there already: then what was lost is asked on that one.
                if self.outboxes.get(&node).is_none_or(mpsc::Sender::is_closed) {
                    self.outboxes.remove(&node);
                    self.subscriptions.handle_peer_lost(now(), &node);
                }
            }
        }
    }

    fn handle_reports(&mut self) {
        let taken = std::mem::take(&mut *lock(&self.inner.reports.taken));
        for sub in taken {
            if let Some(queue) = self.queues.get(&sub) {
                self.subscriptions.handle_taken(now(), sub, queue.take_taken());
            }
        }
        let dropped = std::mem::take(&mut *lock(&self.inner.reports.dropped));
        for sub in dropped {
            self.queues.remove(&sub);
            self.subscriptions.unsubscribe(sub);
        }
    }

    /// Carries out what the subscriptions want done.
    fn act(&mut self) {
        while let Some(action) = self.subscriptions.poll_action() {
            match action {
                Action::Deliver { sub, delivery } => {
                    if let Delivery::Item(item) = &delivery {
                        self.inner.events.send_item(item);
                    }
                    if let Some(queue) = self.queues.get(&sub) {
                        queue.push(delivery);
                    }
                }
                Action::Join { pair, node } => self.inner.endpoint.join(pair, node),
                Action::Unjoin { pair } => self.inner.endpoint.unjoin(&pair),
                Action::Full { pair, full } => self.inner.endpoint.set_full(&pair, full),
                Action::Send { to, message } => self.send(to, message),
                Action::SendAll { message } => {
                    let peers = self.inner.endpoint.peers().into_iter();
                    let linked = peers.filter(|peer| matches!(peer.state, PeerState::Linked { .. }));
                    linked.for_each(|peer| self.send(peer.node, message.clone()));
                }
            }
        }
    }

    fn send(&mut self, to: NodeId, message: Vec<u8>) {
        if !self.outboxes.contains_key(&to) {
            let (outbox, messages) = mpsc::channel(OUTBOX_LEN);
            let (inner, inputs) = (self.inner.clone(), self.inputs.clone());
            if to == self.inner.endpoint.id() {
                // A node that subscribes to its own channels speaks to itself in the same messages.
                self.inner.tasks.spawn(streams::run_local(inner, messages, inputs));
            } else {
                self.inner.tasks.spawn(streams::run_outgoing(inner, to, messages, inputs));
            }
            self.outboxes.insert(to, outbox);
        }
        if self.outboxes[&to].try_send(message).is_err() {
            // The stream is lost, or the peer does not read: what was asked is asked again on a new stream.
            self.outboxes.remove(&to);
            self.subscriptions.handle_peer_lost(now(), &to);
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
