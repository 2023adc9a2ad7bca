//! The subscriber's side, as a value: what is subscribed, from whom, how far, and what has to be said to whom.
//!
//! The caller feeds in adverts, joins, frames, messages and time; it carries out the [`Action`]s that come out. One
//! rule covers late joining, a lost frame, a slow application and a reconnection alike: a line knows the next seq it
//! wants, holds what lies beyond, and asks for what lies between ([`DeliveryBuffer`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_identity::EntityId;
use net_transport::{MeshId, NodeId, Pair, ShortId};

use crate::core::arrivals::Answer;
use crate::core::delivery::{DeliveryBuffer, Order};
use crate::core::feed::{Feed, Fetch, KEYS_MAX, Phase, Session};
use crate::core::item::Source;
use crate::core::line::Delivery;
use crate::core::message::{Message, SeqRange, Start};
use crate::core::{Counters, Cursor, Limits};
use crate::mutants::mutant;
use crate::{ChannelName, Class, Equivocation, KeyId, Pattern};

/// Names a subscription of this node.
pub type SubId = u64;

/// Where a subscription begins.
#[derive(Clone, Debug, Default)]
pub enum From {
    /// With what is published after the subscription was made (for an origin that appears later: its first event).
    #[default]
    Live,
    /// With the oldest events that can be had.
    Earliest,
    /// With the last `n` events of each origin.
    Last(u64),
    /// With the first batch sealed at or after this unix time in milliseconds.
    Since(u64),
    /// Where a cursor points; origins that it does not name are read from their earliest event.
    Cursor(Cursor),
}

/// As what a subscription takes what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// As events: batches are opened.
    Events,
    /// As batches, to keep them: they stay sealed, and the keys come apart from them.
    Batches,
}

/// What the caller has to do.
#[derive(Debug)]
pub enum Action {
    /// Send an encoded message to this node, end to end.
    Send {
        /// To whom; may be this node itself.
        to: NodeId,
        /// With its length in front.
        message: Vec<u8>,
    },
    /// Send an encoded message to every neighbour.
    SendAll {
        /// With its length in front.
        message: Vec<u8>,
    },
    /// Ask this node for the live frames of the pair.
    Join {
        /// Which frames.
        pair: Pair,
        /// The origin's node, as its advert names it.
        node: NodeId,
    },
    /// Stop that.
    Unjoin {
        /// Which frames.
        pair: Pair,
    },
    /// All who take this pair here are full, or have room again.
    Full {
        /// Which pair.
        pair: Pair,
        /// Full, or room again.
        full: bool,
    },
    /// Hand this to the application; report its cost with [`Subscriptions::handle_taken`] when it has been taken.
    Deliver {
        /// To which subscription.
        sub: SubId,
        /// What.
        delivery: Delivery,
    },
}

/// A producer that this node knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The channel's name.
    pub name: ChannelName,
    /// Where its origin runs.
    pub node: NodeId,
    /// For whom the origin speaks.
    pub entity: EntityId,
    /// Reliable or realtime.
    pub class: Class,
    /// Which of the origin's adverts says so: a later one has a higher number.
    pub seq: u64,
}

/// All subscriptions of one node.
#[derive(Debug)]
pub struct Subscriptions {
    pub(super) me: NodeId,
    pub(super) mesh: MeshId,
    pub(super) limits: Limits,
    pub(super) known: BTreeMap<Pair, Known>,
    pub(super) feeds: BTreeMap<Pair, Feed>,
    pub(super) by_prefix: HashMap<(u64, ShortId), Vec<Pair>>,
    pub(super) subs: BTreeMap<SubId, Sub>,
    timers: BTreeSet<(Instant, Timer)>,
    pub(super) actions: VecDeque<Action>,
    pub(super) next_id: u64,
    /// Subscribe messages without an answer yet.
    asked: BTreeMap<u64, (Pair, SubId)>,
    pub(super) proofs: BTreeMap<Pair, Vec<Arc<Equivocation>>>,
    pub(super) counters: Counters,
}

#[derive(Debug)]
pub(super) struct Sub {
    pattern: Pattern,
    from: From,
    order: Order,
    pub(super) take: Take,
    since: Instant,
    /// Bytes delivered and not yet taken by the application.
    queued: usize,
    full: bool,
    pairs: BTreeSet<Pair>,
    pub(super) channels: BTreeMap<[u8; 32], Channel>,
    /// Channels that have more to deliver than the queue had room for.
    stalled: BTreeSet<[u8; 32]>,
    /// Those for which nothing more is asked until the queue has room.
    blocked: BTreeSet<Pair>,
}

/// One channel of a subscription.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) buffer: DeliveryBuffer,
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Feed(Pair),
    Channel(SubId, [u8; 32]),
}

const REJOIN_AFTER: Duration = Duration::from_secs(1);
/// A stream ends whenever its connection is replaced, so it is opened again soon.
const REASK_AFTER: Duration = Duration::from_millis(50);
/// An origin that appears after the subscription is read from its first event; on a busy machine the question for it is
/// under way for a while.
const APPEARED_SLACK: Duration = Duration::from_secs(1);
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const REPORT_EVERY: Duration = Duration::from_millis(250);
/// A timer that is this late means that the process, not the mesh, stood still: nobody was waited for meanwhile.
const STOOD_STILL: Duration = Duration::from_secs(1);

impl Subscriptions {
    /// No subscriptions yet.
    #[must_use]
    pub fn new(me: NodeId, mesh: MeshId, limits: Limits) -> Self {
        Self {
            me,
            mesh,
            limits,
            known: BTreeMap::new(),
            feeds: BTreeMap::new(),
            by_prefix: HashMap::new(),
            subs: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            next_id: 1,
            asked: BTreeMap::new(),
            proofs: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The producers that this node knows of.
    pub fn known(&self) -> impl Iterator<Item = (&Pair, &Known)> {
        self.known.iter()
    }

    /// How far behind each origin a subscription is, in events that are known to exist.
    #[must_use]
    pub fn lag(&self, sub: SubId) -> Vec<(Arc<Source>, u64)> {
        let Some(state) = self.subs.get(&sub) else { return vec![] };
        let feeds = state.pairs.iter().filter_map(|pair| self.feeds.get(pair).map(|feed| (pair, feed)));
        feeds
            .filter_map(|(pair, feed)| {
                let line = feed.sessions.get(&sub)?.line;
                Some((feed.source.clone(), state.channels[&pair.channel].buffer.lag(line)))
            })
            .collect()
    }

    /// Batches that wait for what is missing before them, in all subscriptions, and their bytes.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        let channels = self.subs.values().flat_map(|sub| sub.channels.values());
        channels.map(|channel| channel.buffer.held()).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }

    /// The proofs that this origin signed two batches for one place, of each of its incarnations that this node knows of.
    #[must_use]
    pub fn proofs(&self, pair: &Pair) -> &[Arc<Equivocation>] {
        self.proofs.get(pair).map_or(&[], Vec::as_slice)
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A new subscription. It finds producers that are known now and those that appear later.
    pub fn subscribe(&mut self, now: Instant, sub: SubId, pattern: Pattern, from: From, order: Order) {
        self.subscribe_as(now, sub, pattern, from, order, Take::Events);
    }

    /// A new subscription that keeps batches: [`Self::handle_stored`] says what is on the disk.
    pub fn keep(&mut self, now: Instant, sub: SubId, pattern: Pattern, from: Cursor) {
        self.subscribe_as(now, sub, pattern, From::Cursor(from), Order::Causal, Take::Batches);
    }

    fn subscribe_as(&mut self, now: Instant, sub: SubId, pattern: Pattern, from: From, order: Order, take: Take) {
        let state = Sub {
            pattern,
            from,
            order,
            take,
            since: now,
            queued: 0,
            full: false,
            pairs: BTreeSet::new(),
            channels: BTreeMap::new(),
            stalled: BTreeSet::new(),
            blocked: BTreeSet::new(),
        };
        let pairs: Vec<Pair> =
            self.known.iter().filter(|(_, known)| state.pattern.matches(&known.name)).map(|(p, _)| *p).collect();
        self.subs.insert(sub, state);
        for pair in pairs {
            self.follow(now, sub, pair);
        }
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, sub: SubId) {
        let Some(state) = self.subs.remove(&sub) else { return };
        for (channel, Channel { due, .. }) in &state.channels {
            if let Some(due) = due {
                self.timers.remove(&(*due, Timer::Channel(sub, *channel)));
            }
        }
        for pair in state.pairs {
            let Some(feed) = self.feeds.get_mut(&pair) else { continue };
            if let Some(Session { asked_as: Some(id), .. }) = feed.sessions.remove(&sub) {
                self.asked.remove(&id);
                let message = Message::Unsubscribe { id, pair }.encode();
                self.actions.push_back(Action::Send { to: feed.node, message });
            }
            if feed.sessions.is_empty() {
                self.drop_feed(&pair);
            } else {
                self.tell_full(pair);
                self.schedule(pair);
            }
        }
    }

    /// A producer's advert that says that it has closed, verified. One that is older than what is known changes nothing.
    pub fn handle_closed(&mut self, pair: Pair, seq: u64) {
        if self.known.get(&pair).is_some_and(|known| known.seq < seq) {
            self.known.remove(&pair);
        }
    }

    /// A producer's advert, verified; `known` is nothing when its node is gone. One that is older than what is known, on
    /// whatever node, changes nothing.
    pub fn handle_advert(&mut self, now: Instant, pair: Pair, known: Option<Known>) {
        let Some(known) = known else {
            // What was subscribed stays: the producer may come back, and the application's position with it.
            self.known.remove(&pair);
            return;
        };
        if self.known.get(&pair).is_some_and(|before| before.seq > known.seq) {
            return;
        }
        if self.known.len() >= self.limits.adverts_max && !self.known.contains_key(&pair) {
            self.counters.refused_full += 1;
            return;
        }
        let is_newer = self.known.get(&pair).is_none_or(|before| before.seq < known.seq);
        if let Some(feed) = self.feeds.get_mut(&pair) {
            let moved = feed.node != known.node;
            if moved {
                feed.node = known.node;
                feed.joined = false;
                self.actions.push_back(Action::Unjoin { pair });
            }
            if !feed.joined {
                // The producer has just said that it is there: a join that was refused before is tried at once.
                feed.join_again_at = None;
                feed.join_sent_at = now;
                self.actions.push_back(Action::Join { pair, node: known.node });
            }
            let changed = std::mem::replace(&mut feed.class, known.class) != known.class;
            let sessions: Vec<_> = feed.sessions.iter().map(|(sub, session)| (*sub, session.line)).collect();
            for (sub, line) in sessions.into_iter().filter(|_| changed) {
                self.buffer(sub, &pair.channel).set_class(line, known.class);
            }
            if moved {
                self.interrupt(pair, Phase::Idle);
            } else if is_newer && self.feeds[&pair].joined {
                // A producer that was opened again on its node knows nothing of who had subscribed to the one before.
                let subs: Vec<SubId> = self.feeds[&pair].sessions.keys().copied().collect();
                subs.into_iter().for_each(|sub| self.ask(now, pair, sub));
            }
            self.schedule(pair);
        }
        let matching: Vec<SubId> =
            self.subs.iter().filter(|(_, sub)| sub.pattern.matches(&known.name)).map(|(id, _)| *id).collect();
        self.known.insert(pair, known);
        for sub in matching {
            self.follow(now, sub, pair);
        }
    }

    /// The live frames of a pair flow from now on.
    pub fn handle_joined(&mut self, now: Instant, pair: Pair) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        if !feed.joined {
            feed.round_trip = now.saturating_duration_since(feed.join_sent_at);
        }
        feed.joined = true;
        feed.join_again_at = None;
        let subs: Vec<SubId> = feed.sessions.keys().copied().collect();
        for sub in subs {
            self.ask(now, pair, sub);
        }
        self.schedule(pair);
    }

    /// The live frames of a pair do not flow any more, or the join was refused.
    pub fn handle_unjoined(&mut self, now: Instant, pair: Pair) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        feed.joined = false;
        feed.join_again_at = Some(now + REJOIN_AFTER);
        self.interrupt(pair, Phase::Idle);
    }

    /// The end-to-end stream to a node broke; what was asked on it is asked again.
    pub fn handle_peer_lost(&mut self, now: Instant, node: &NodeId) {
        let pairs: Vec<Pair> = self.feeds.iter().filter(|(_, f)| f.node == *node).map(|(p, _)| *p).collect();
        for pair in pairs {
            let joined = self.feeds[&pair].joined;
            self.interrupt(pair, if joined { Phase::Refused { again_at: now + REASK_AFTER } } else { Phase::Idle });
        }
    }

    /// A message of another node.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, message: &Message<'_>) {
        match *message {
            Message::Subscribed { id, start, next, incarnation, kept_from } => {
                self.handle_subscribed(now, from, id, start, next, incarnation, kept_from);
            }
            Message::Refused { id, .. } => {
                if let Some((pair, sub)) = self.answered(&from, id) {
                    self.session(&pair, sub).interrupt(Phase::Refused { again_at: now + REJOIN_AFTER });
                    self.schedule(pair);
                }
            }
            Message::Grant { pair, grant } => self.handle_grant(now, &from, pair, grant),
            Message::Batches { id, pair, covered, next, kept_from, more, frames } => {
                let answer = Answer { id, covered, next, kept_from, more, frames };
                self.handle_batches(now, &from, pair, &answer);
            }
            Message::Equivocation { proof } => self.handle_proof(now, proof),
            Message::Subscribe { .. }
            | Message::Unsubscribe { .. }
            | Message::Fetch { .. }
            | Message::Received { .. }
            | Message::Stored { .. } => self.counters.unexpected += 1,
        }
    }

    /// The application of a subscription took deliveries of this cost, in bytes.
    pub fn handle_taken(&mut self, now: Instant, sub: SubId, bytes: usize) {
        let limit = self.limits.queue_bytes_max;
        let Some(state) = self.subs.get_mut(&sub) else { return };
        state.queued = state.queued.saturating_sub(bytes);
        if state.queued > limit / 2 {
            return;
        }
        let was_full = std::mem::take(&mut state.full);
        let (stalled, blocked) = (std::mem::take(&mut state.stalled), std::mem::take(&mut state.blocked));
        let channels: BTreeSet<[u8; 32]> = stalled.into_iter().chain(blocked.iter().map(|pair| pair.channel)).collect();
        for channel in channels {
            self.buffer(sub, &channel).handle_resumed(now);
            self.drain(now, sub, channel);
        }
        for pair in &blocked {
            self.fetch(now, sub, *pair);
            self.schedule(*pair);
        }
        // After the drains: they may have ended what made a pair full, or filled the queue again.
        let state = self.subs.get(&sub).expect("it was there above");
        let pairs: Vec<Pair> =
            if was_full { state.pairs.iter().copied().collect() } else { blocked.into_iter().collect() };
        pairs.into_iter().for_each(|pair| self.tell_full(pair));
    }

    /// The last events of an origin that a subscription has on the disk without one missing. Its node is told.
    pub fn handle_stored(&mut self, sub: SubId, pair: Pair, run: SeqRange) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        let Some(session) = feed.sessions.get_mut(&sub) else { return };
        session.stored = Some(run);
        // Whoever is not subscribed at the moment says it when it is.
        if matches!(session.phase, Phase::Running { .. }) && !run.is_empty() {
            let message = Message::Stored { pair, range: run }.encode();
            self.actions.push_back(Action::Send { to: feed.node, message });
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.timers.first().is_some_and(|(at, _)| *at + STOOD_STILL < now) {
            let buffers = self.subs.values_mut().flat_map(|sub| sub.channels.values_mut());
            buffers.for_each(|channel| channel.buffer.handle_resumed(now));
        }
        while let Some(&(at, timer)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Feed(pair) => {
                    let feed = self.feeds.get_mut(&pair).expect("the timer of a feed goes with it");
                    feed.due = None;
                    self.handle_due(now, pair);
                    self.schedule(pair);
                }
                Timer::Channel(sub, channel) => {
                    let state = self.subs.get_mut(&sub).expect("the timers of a subscription go with it");
                    let channel_state = state.channels.get_mut(&channel).expect("channels stay");
                    channel_state.due = None;
                    channel_state.buffer.handle_timeout(now);
                    self.drain(now, sub, channel);
                }
            }
        }
    }

    fn follow(&mut self, now: Instant, sub: SubId, pair: Pair) {
        let known = self.known.get(&pair).expect("it was just looked up or inserted");
        if !self.feeds.contains_key(&pair) {
            if self.feeds.len() >= self.limits.feeds_max {
                self.counters.refused_full += 1;
                return;
            }
            let source = Arc::new(Source {
                channel: known.name.clone(),
                origin: EntityId::from_bytes(pair.origin),
                entity: known.entity,
                pair,
            });
            self.actions.push_back(Action::Join { pair, node: known.node });
            self.by_prefix.entry(pair.prefix()).or_default().push(pair);
            self.feeds.insert(pair, Feed::new(now, source, known.class, known.node));
        }
        let state = self.subs.get_mut(&sub).expect("the caller looked it up");
        if !state.pairs.insert(pair) {
            return;
        }
        let start = match &state.from {
            From::Live => Ok(Start::Live { ago_ms: 0 }),
            From::Earliest => Ok(Start::Earliest),
            From::Last(n) => Ok(Start::Last(*n)),
            From::Since(ms) => Ok(Start::Since(*ms)),
            From::Cursor(cursor) => cursor.next(&pair).map_or(Ok(Start::Earliest), Err),
        };
        let feed = self.feeds.get_mut(&pair).expect("it exists or was just made");
        let (order, limits) = (state.order, &self.limits);
        let channel = state
            .channels
            .entry(pair.channel)
            .or_insert_with(|| Channel { buffer: DeliveryBuffer::new(now, order, limits.clone()), due: None });
        let line = channel.buffer.add(now, feed.source.clone(), feed.class, start.err());
        for proof in self.proofs.get(&pair).into_iter().flatten() {
            channel.buffer.handle_equivocation(line, proof.clone());
        }
        let mut session = Session::new(now, line, start.ok());
        session.stored =
            start.err().filter(|_| state.take == Take::Batches).map(|next| SeqRange { from: next, to: next });
        feed.sessions.insert(sub, session);
        if feed.joined {
            self.ask(now, pair, sub);
        }
        self.drain(now, sub, pair.channel);
        self.schedule(pair);
    }

    fn drop_feed(&mut self, pair: &Pair) {
        let Some(feed) = self.feeds.remove(pair) else { return };
        if let Some(due) = feed.due {
            self.timers.remove(&(due, Timer::Feed(*pair)));
        }
        if let Some(pairs) = self.by_prefix.get_mut(&pair.prefix()) {
            pairs.retain(|p| p != pair);
            if pairs.is_empty() {
                self.by_prefix.remove(&pair.prefix());
            }
        }
        self.actions.push_back(Action::Unjoin { pair: *pair });
    }

    /// Subscribes end to end, where the line stands now.
    fn ask(&mut self, now: Instant, pair: Pair, sub: SubId) {
        let id = self.next_id;
        self.next_id += 1;
        let state = self.subs.get(&sub).expect("a session's subscription exists");
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        let session = feed.sessions.get_mut(&sub).expect("the caller looked it up");
        let start = match session.start {
            Some(Start::Live { .. }) => {
                // The message itself travels too: without the round trip, what is published while it is under way
                // would count as published before.
                let appeared = if feed.since > state.since { APPEARED_SLACK } else { Duration::ZERO };
                let ago = now.saturating_duration_since(state.since) + feed.round_trip + appeared;
                Start::Live { ago_ms: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX).saturating_add(1) }
            }
            Some(start) => start,
            None => Start::Seq(state.channels[&pair.channel].buffer.position(session.line)),
        };
        let before = session.asked_as.replace(id);
        session.asked_at = now;
        session.interrupt(Phase::Asked { id, deadline: now + ASK_TIMEOUT });
        self.asked.insert(id, (pair, sub));
        let message = Message::Subscribe { id, pair, start }.encode();
        self.actions.push_back(Action::Send { to: feed.node, message });
        // After the new one, so that this node never counts as gone in between.
        if let Some(before) = before {
            self.asked.remove(&before);
            let message = Message::Unsubscribe { id: before, pair }.encode();
            self.actions.push_back(Action::Send { to: feed.node, message });
        }
    }

    fn interrupt(&mut self, pair: Pair, phase: Phase) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        feed.sessions.values_mut().for_each(|session| session.interrupt(phase));
        self.schedule(pair);
    }

    /// What was asked with this id, if it was asked of this node and nothing has been asked for the session since.
    fn answered(&mut self, from: &NodeId, id: u64) -> Option<(Pair, SubId)> {
        let (pair, sub) = *self.asked.get(&id)?;
        // Only whoever was asked can answer: anybody else could make this node forget its question.
        let feed = self.feeds.get(&pair).filter(|feed| feed.node == *from)?;
        self.asked.remove(&id);
        let session = feed.sessions.get(&sub)?;
        matches!(session.phase, Phase::Asked { id: asked, .. } if asked == id).then_some((pair, sub))
    }

    pub(super) fn session(&mut self, pair: &Pair, sub: SubId) -> &mut Session {
        let feed = self.feeds.get_mut(pair).expect("the caller looked it up");
        feed.sessions.get_mut(&sub).expect("the caller looked it up")
    }

    pub(super) fn buffer(&mut self, sub: SubId, channel: &[u8; 32]) -> &mut DeliveryBuffer {
        let state = self.subs.get_mut(&sub).expect("the caller looked it up");
        &mut state.channels.get_mut(channel).expect("a subscription has the channels of its pairs").buffer
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn handle_subscribed(
        &mut self,
        now: Instant,
        from: NodeId,
        id: u64,
        start: u64,
        next: u64,
        incarnation: u64,
        kept_from: u64,
    ) {
        let Some((pair, sub)) = self.answered(&from, id) else {
            self.counters.unexpected += 1;
            return;
        };
        let session = self.session(&pair, sub);
        session.phase = Phase::Running { id };
        session.start = None;
        let (line, asked_at) = (session.line, session.asked_at);
        let buffer = self.buffer(sub, &pair.channel);
        buffer.begin(line, start);
        buffer.handle_new_source(line);
        buffer.handle_told(line, next, incarnation, kept_from, asked_at);
        // The keys that are needed have come before this answer: what has none by now is not for this node.
        self.shut_locked(pair, asked_at);
        if let Some(run) = self.session(&pair, sub).stored {
            self.handle_stored(sub, pair, run);
        }
        self.drain(now, sub, pair.channel);
        self.fetch(now, sub, pair);
        self.schedule(pair);
    }

    /// Delivers what can be delivered to a subscription in a channel, then asks for what is missing.
    pub(super) fn drain(&mut self, now: Instant, sub: SubId, channel: [u8; 32]) {
        let limit = self.limits.queue_bytes_max;
        let state = self.subs.get_mut(&sub).expect("the caller looked it up");
        let buffer = &mut state.channels.get_mut(&channel).expect("the caller looked it up").buffer;
        if state.queued > limit / 2 {
            // What is missing is not asked for while the application is behind, so it is not missed either.
            buffer.handle_resumed(now);
        }
        let mut touched = BTreeSet::new();
        loop {
            if state.queued >= limit {
                state.stalled.insert(channel);
                break;
            }
            let Some(delivery) = buffer.next(now) else { break };
            state.queued += delivery.cost();
            if let Some(pair) = self.counters.count(&delivery) {
                touched.insert(pair);
                let feed = self.feeds.get_mut(&pair).expect("a line's feed exists");
                if feed.report_at.is_none() {
                    feed.report_at = Some(feed.reported_at.map_or(now, |at| now.max(at + REPORT_EVERY)));
                }
            }
            self.actions.push_back(Action::Deliver { sub, delivery });
        }
        let mut needy = vec![];
        while let Some(line) = buffer.poll_needy() {
            needy.push(buffer.source(line).pair);
        }
        let became_full = !state.full && state.queued >= limit / 4 * 3;
        state.full |= became_full;
        touched.extend(&needy);
        if became_full {
            touched.extend(&state.pairs);
        }
        needy.into_iter().for_each(|pair| self.fetch(now, sub, pair));
        touched.into_iter().for_each(|pair| self.tell_full(pair));
        self.schedule_channel(sub, channel);
    }

    /// Hands a key to a subscription that keeps batches, once. It does not wait for room: nobody gives it again soon.
    pub(super) fn deliver_key(&mut self, pair: Pair, sub: SubId, key: KeyId, delivery: Delivery) {
        let given = &mut self.session(&pair, sub).keys_given;
        if given.len() >= KEYS_MAX || !given.insert(key) {
            return;
        }
        self.subs.get_mut(&sub).expect("the caller looked it up").queued += delivery.cost();
        self.actions.push_back(Action::Deliver { sub, delivery });
    }

    /// Asks the origin for what is missing, unless it is being asked or the application is behind.
    pub(super) fn fetch(&mut self, now: Instant, sub: SubId, pair: Pair) {
        let state = self.subs.get_mut(&sub).expect("the caller looked it up");
        let buffer = &mut state.channels.get_mut(&pair.channel).expect("the caller looked it up").buffer;
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        let session = feed.sessions.get_mut(&sub).expect("the caller looked it up");
        if !matches!(session.phase, Phase::Running { .. }) || session.fetch.is_some() {
            return;
        }
        let ranges = buffer.missing(session.line);
        if ranges.is_empty() && !buffer.is_queried(session.line) {
            return;
        }
        if state.queued > self.limits.queue_bytes_max / 2 {
            state.blocked.insert(pair);
            return;
        }
        buffer.handle_asked(session.line);
        let known = buffer.target(session.line);
        let id = self.next_id;
        self.next_id += 1;
        self.counters.fetches += 1;
        let len_max = self.limits.queue_bytes_max.saturating_sub(state.queued) as u64;
        let message = Message::Fetch { id, pair, ranges: ranges.clone(), len_max }.encode();
        session.fetch = Some(Fetch { id, ranges, known, sent_at: now, deadline: now + ASK_TIMEOUT });
        self.actions.push_back(Action::Send { to: feed.node, message });
        self.schedule(pair);
    }

    /// Tells upstream when all takers of a pair here have become full, or one has room again. One that has to fetch what
    /// it could not hold is full too: what came live meanwhile would have to be fetched as well, without an end.
    pub(super) fn tell_full(&mut self, pair: Pair) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        let is_full = |(sub, session): (&SubId, &Session)| {
            let sub = self.subs.get(sub).expect("a session's subscription exists");
            sub.full || sub.channels[&pair.channel].buffer.is_behind(session.line)
        };
        let full = feed.sessions.iter().all(is_full);
        if full != feed.full {
            feed.full = full;
            self.actions.push_back(Action::Full { pair, full });
        }
    }

    fn handle_due(&mut self, now: Instant, pair: Pair) {
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        if feed.join_again_at.is_some_and(|at| at <= now) {
            feed.join_again_at = None;
            feed.join_sent_at = now;
            self.actions.push_back(Action::Join { pair, node: feed.node });
        }
        if feed.report_at.is_some_and(|at| at <= now) {
            self.report(now, pair);
        }
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        let keys_missing = feed.locked_due().is_some_and(|at| at <= now);
        let is_due = |session: &Session| match session.phase {
            Phase::Asked { deadline: at, .. } | Phase::Refused { again_at: at } if at <= now => true,
            _ => keys_missing || session.fetch.as_ref().is_some_and(|fetch| fetch.deadline <= now),
        };
        let due: Vec<SubId> = feed.sessions.iter().filter(|(_, s)| is_due(s)).map(|(sub, _)| *sub).collect();
        if feed.joined {
            due.into_iter().for_each(|sub| self.ask(now, pair, sub));
        }
    }

    /// Says how far the subscriptions here have come with a pair.
    fn report(&mut self, now: Instant, pair: Pair) {
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        feed.report_at = None;
        feed.reported_at = Some(now);
        let running = feed.sessions.iter().filter(|(_, s)| matches!(s.phase, Phase::Running { .. }));
        let position = |(sub, session): (&SubId, &Session)| {
            let buffer = &self.subs[sub].channels[&pair.channel].buffer;
            let ahead = if mutant("ack_early") { buffer.lag(session.line) } else { 0 };
            buffer.position(session.line) + ahead
        };
        if let Some(next) = running.map(position).min()
            && next > feed.reported
        {
            feed.reported = next;
            let message = Message::Received { pair, next }.encode();
            self.actions.push_back(Action::Send { to: feed.node, message });
        }
    }

    pub(super) fn schedule(&mut self, pair: Pair) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        let due = feed.next_due();
        set_timer(&mut self.timers, &mut feed.due, due, Timer::Feed(pair));
    }

    fn schedule_channel(&mut self, sub: SubId, channel: [u8; 32]) {
        let state = self.subs.get_mut(&sub).expect("the caller looked it up");
        let Channel { buffer, due } = state.channels.get_mut(&channel).expect("the caller looked it up");
        set_timer(&mut self.timers, due, buffer.poll_timeout(), Timer::Channel(sub, channel));
    }
}

fn set_timer(timers: &mut BTreeSet<(Instant, Timer)>, due: &mut Option<Instant>, at: Option<Instant>, timer: Timer) {
    if *due != at {
        if let Some(before) = *due {
            timers.remove(&(before, timer));
        }
        timers.extend(at.map(|at| (at, timer)));
        *due = at;
    }
}
