//! The subscriber's side, as a value: what is subscribed, from whom, how far, and what has to be said to whom.
//!
//! The caller feeds in adverts, joins, frames, messages and time; it carries out the [`Action`]s that come out. One
//! rule covers late joining, a lost frame, a slow application and a reconnection alike: a *track* knows the next seq
//! it wants, holds what lies beyond, and fetches what lies between.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use net_identity::EntityId;
use net_transport::{HEADER_LEN, Header, MeshId, NodeId, Pair, ShortId};

use crate::core::Cursor;
use crate::core::item::{Fork, Gap, Item, Restart, Source};
use crate::core::message::{Message, SeqRange, Start};
use crate::{
    BatchError, BatchHash, ChannelHash, ChannelName, Class, EventBatch, KeyGrant, KeyId, Pattern, SealedBatch,
    SenderKey,
};

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

/// Bounds of this node's subscriptions.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that wait for one subscription's application.
    pub queue_bytes_max: usize,
    /// Batches held beyond a gap, for one origin.
    pub held_batches_max: usize,
    /// Bytes held beyond a gap, for one origin.
    pub held_bytes_max: usize,
    /// (Channel, origin) pairs that this node follows.
    pub feeds_max: usize,
    /// Adverts of other nodes that this node remembers.
    pub adverts_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes_max: 8 << 20,
            held_batches_max: 512,
            held_bytes_max: 2 << 20,
            feeds_max: 65_536,
            adverts_max: 131_072,
        }
    }
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

/// What is handed to an application: whole batches, and what is not an event.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Events of one batch, from the one at `skip` on.
    Batch {
        /// Whose.
        source: Arc<Source>,
        /// The batch; shared by all subscriptions of this node that get it.
        batch: Arc<EventBatch>,
        /// How many of its first events are not for this subscription.
        skip: u16,
        /// Bytes that it counts for in a subscription's queue.
        cost: usize,
    },
    /// A gap, a restart.
    Item(Item),
}

impl Delivery {
    /// Bytes that it counts for in a subscription's queue.
    #[must_use]
    pub fn cost(&self) -> usize {
        match self {
            Self::Batch { cost, .. } => *cost,
            Self::Item(_) => 256,
        }
    }
}

/// Counters of everything that was refused, repeated or repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Batches delivered, counted once for each subscription.
    pub batches: u64,
    /// Events delivered, counted once for each subscription.
    pub events: u64,
    /// Batches that had been delivered already.
    pub duplicates: u64,
    /// Frames that are no batch of the format.
    pub malformed: u64,
    /// Batches whose signature, hash or origin does not verify.
    pub unverified: u64,
    /// Batches that verify and do not continue the chain of what was delivered.
    pub forked: u64,
    /// Batches that verify and cannot be opened.
    pub unopened: u64,
    /// Grants that are not the origin's, or not for this node.
    pub grants_refused: u64,
    /// Batches dropped because too much was held; they are fetched when it is their turn.
    pub overflowed: u64,
    /// Ranges fetched from origins.
    pub fetches: u64,
    /// Gaps told to applications.
    pub gaps: u64,
    /// Restarts told to applications.
    pub restarts: u64,
    /// Adverts and feeds refused because a table was full.
    pub refused_full: u64,
    /// Messages from a node that has no business sending them.
    pub unexpected: u64,
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
}

/// All subscriptions of one node.
#[derive(Debug)]
pub struct Subscriptions {
    me: NodeId,
    mesh: MeshId,
    limits: Limits,
    known: BTreeMap<Pair, Known>,
    feeds: BTreeMap<Pair, Feed>,
    by_prefix: HashMap<(u64, ShortId), Vec<Pair>>,
    subs: BTreeMap<SubId, Sub>,
    timers: BTreeSet<(Instant, Pair)>,
    actions: VecDeque<Action>,
    next_id: u64,
    /// Subscribe messages without an answer yet.
    asked: BTreeMap<u64, (Pair, SubId)>,
    counters: Counters,
}

#[derive(Debug)]
struct Sub {
    pattern: Pattern,
    from: From,
    since: Instant,
    /// Bytes delivered and not yet taken by the application.
    queued: usize,
    full: bool,
    pairs: BTreeSet<Pair>,
    /// Those that have more to deliver or to fetch than the queue had room for.
    blocked: BTreeSet<Pair>,
}

/// One (channel, origin) that somebody here subscribes to.
#[derive(Debug)]
struct Feed {
    source: Arc<Source>,
    node: NodeId,
    joined: bool,
    join_sent_at: Instant,
    /// How long the join took: a round trip to the origin's node.
    round_trip: Duration,
    join_again_at: Option<Instant>,
    keys: BTreeMap<KeyId, SenderKey>,
    /// Verified batches whose key has not come yet.
    keyless: VecDeque<(Instant, SealedBatch)>,
    keyless_bytes: usize,
    tracks: BTreeMap<SubId, Track>,
    full: bool,
    reported: u64,
    report_at: Option<Instant>,
    reported_at: Option<Instant>,
    due: Option<Instant>,
}

/// How far one subscription is in one origin's events.
#[derive(Debug)]
struct Track {
    phase: Phase,
    /// Where to begin, until the origin has said which seq that is.
    start: Option<Start>,
    /// Whether `next` is a position that the application knows of, so that it must hear of a break before it.
    seen: bool,
    next: u64,
    head: Option<BatchHash>,
    incarnation: u64,
    origin_incarnation: u64,
    /// Seqs below this exist, or existed.
    target: u64,
    /// All that can be had below this has been offered.
    covered: u64,
    held: BTreeMap<u64, Arc<EventBatch>>,
    held_bytes: usize,
    /// The fetch under way: its id, what was asked, and until when an answer is waited for.
    fetch: Option<(u64, SeqRange, Instant)>,
    quarantined: bool,
    /// The id of the last subscribe message.
    asked_as: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Asked { id: u64, deadline: Instant },
    Refused { again_at: Instant },
    Running { id: u64 },
}

const REJOIN_AFTER: Duration = Duration::from_secs(1);
/// A stream ends whenever its connection is replaced, so it is opened again soon.
const REASK_AFTER: Duration = Duration::from_millis(50);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_millis(250);
const KEYLESS_TIMEOUT: Duration = Duration::from_secs(5);
const KEYS_MAX: usize = 256;

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
        let feeds = state.pairs.iter().filter_map(|pair| self.feeds.get(pair));
        feeds
            .filter_map(|feed| {
                let track = feed.tracks.get(&sub)?;
                Some((feed.source.clone(), track.target.saturating_sub(track.next)))
            })
            .collect()
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
    pub fn subscribe(&mut self, now: Instant, sub: SubId, pattern: Pattern, from: From) {
        let state =
            Sub { pattern, from, since: now, queued: 0, full: false, pairs: BTreeSet::new(), blocked: BTreeSet::new() };
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
        for pair in state.pairs {
            let Some(feed) = self.feeds.get_mut(&pair) else { continue };
            if let Some(Track { phase: Phase::Running { id } | Phase::Asked { id, .. }, .. }) = feed.tracks.remove(&sub)
            {
                let message = Message::Unsubscribe { id, pair }.encode();
                self.actions.push_back(Action::Send { to: feed.node, message });
            }
            if feed.tracks.is_empty() {
                self.drop_feed(&pair);
            } else {
                self.tell_full(pair);
                self.schedule(pair);
            }
        }
    }

    /// A producer's advert, verified; `known` is nothing when the producer has closed or its node is gone.
    pub fn handle_advert(&mut self, now: Instant, pair: Pair, known: Option<Known>) {
        let Some(known) = known else {
            // What was subscribed stays: the producer may come back, and the application's position with it.
            self.known.remove(&pair);
            return;
        };
        if self.known.len() >= self.limits.adverts_max && !self.known.contains_key(&pair) {
            self.counters.refused_full += 1;
            return;
        }
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
            if moved {
                self.idle_tracks(pair);
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
        let subs: Vec<SubId> = feed.tracks.keys().copied().collect();
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
        self.idle_tracks(pair);
    }

    /// The end-to-end stream to a node broke; what was asked on it is asked again.
    pub fn handle_peer_lost(&mut self, now: Instant, node: &NodeId) {
        let pairs: Vec<Pair> = self.feeds.iter().filter(|(_, f)| f.node == *node).map(|(p, _)| *p).collect();
        for pair in pairs {
            self.idle_tracks(pair);
            let feed = self.feeds.get_mut(&pair).expect("it was listed above");
            if feed.joined {
                let again_at = now + REASK_AFTER;
                feed.tracks.values_mut().for_each(|track| track.phase = Phase::Refused { again_at });
            }
            self.schedule(pair);
        }
    }

    /// A frame that came live. `frame` is the whole frame, header checked.
    pub fn handle_frame(&mut self, now: Instant, frame: Bytes) {
        let Ok(header) = Header::parse(&frame) else {
            self.counters.malformed += 1;
            return;
        };
        let end = header.seq().saturating_add(u64::from(header.events()));
        let Some(pairs) = self.by_prefix.get(&(header.channel(), header.origin())) else {
            self.counters.unexpected += 1;
            return;
        };
        let wanted = |pair: &Pair| {
            let feed = self.feeds.get(pair).expect("the index names feeds that exist");
            feed.tracks.values().any(|track| track.wants(end))
        };
        if !pairs.iter().any(wanted) {
            self.counters.duplicates += 1;
            return;
        }
        let pairs = pairs.clone();
        // Two pairs with the same hints are told apart by the signature.
        let mut refused = BatchError::Origin;
        for pair in pairs {
            match self.verify(&pair, frame.clone()) {
                Ok(sealed) => {
                    drop(frame);
                    self.open(now, pair, sealed, None);
                    self.schedule(pair);
                    return;
                }
                Err(error) => refused = error,
            }
        }
        self.count_refused(refused);
    }

    /// A message of another node's publisher.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, message: &Message<'_>) {
        match *message {
            Message::Subscribed { id, start, next, incarnation } => {
                self.handle_subscribed(now, from, id, start, next, incarnation);
            }
            Message::Refused { id, .. } => {
                if let Some((pair, sub)) = self.answered(&from, id) {
                    let track = self.track(&pair, sub);
                    track.phase = Phase::Refused { again_at: now + REJOIN_AFTER };
                    self.schedule(pair);
                }
            }
            Message::Grant { pair, grant } => self.handle_grant(now, &from, pair, grant),
            Message::Batches { id, pair, covered, frames } => {
                self.handle_batches(now, &from, id, pair, covered, frames);
            }
            Message::Subscribe { .. }
            | Message::Unsubscribe { .. }
            | Message::Fetch { .. }
            | Message::Received { .. } => self.counters.unexpected += 1,
        }
    }

    /// The application of a subscription took deliveries of this cost, in bytes.
    pub fn handle_taken(&mut self, now: Instant, sub: SubId, bytes: usize) {
        let limit = self.limits.queue_bytes_max;
        let Some(state) = self.subs.get_mut(&sub) else { return };
        state.queued = state.queued.saturating_sub(bytes);
        if state.full && state.queued <= limit / 2 {
            state.full = false;
            let pairs: Vec<Pair> = state.pairs.iter().copied().collect();
            for pair in pairs {
                self.tell_full(pair);
            }
        }
        let state = self.subs.get_mut(&sub).expect("it was there above");
        if state.queued <= limit / 2 {
            for pair in std::mem::take(&mut state.blocked) {
                self.advance(now, pair, sub);
                self.schedule(pair);
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, pair)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(feed) = self.feeds.get_mut(&pair) else { continue };
            feed.due = None;
            self.handle_due(now, pair);
            self.schedule(pair);
        }
    }

    /// Whether the subscription has been handed everything that was published on the origins it follows, as far as
    /// they have told. (For positions of cursors see the application's side.)
    #[must_use]
    pub fn is_caught_up(&self, sub: SubId) -> bool {
        self.lag(sub).iter().all(|(_, lag)| *lag == 0)
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
            self.feeds.insert(pair, Feed::new(now, source, known.node));
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
        feed.tracks.insert(sub, Track::new(start));
        if feed.joined {
            self.ask(now, pair, sub);
        }
        self.schedule(pair);
    }

    fn drop_feed(&mut self, pair: &Pair) {
        let Some(feed) = self.feeds.remove(pair) else { return };
        if let Some(due) = feed.due {
            self.timers.remove(&(due, *pair));
        }
        if let Some(pairs) = self.by_prefix.get_mut(&pair.prefix()) {
            pairs.retain(|p| p != pair);
            if pairs.is_empty() {
                self.by_prefix.remove(&pair.prefix());
            }
        }
        self.actions.push_back(Action::Unjoin { pair: *pair });
    }

    /// Subscribes end to end, where the track stands now.
    fn ask(&mut self, now: Instant, pair: Pair, sub: SubId) {
        let id = self.next_id;
        self.next_id += 1;
        let since = self.subs.get(&sub).expect("a track's subscription exists").since;
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        let track = feed.tracks.get_mut(&sub).expect("the caller looked it up");
        let start = match track.start {
            Some(Start::Live { .. }) => {
                // The message itself travels too: without the round trip, what is published while it is under way
                // would count as published before.
                let ago = now.saturating_duration_since(since) + feed.round_trip;
                Start::Live { ago_ms: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX).saturating_add(1) }
            }
            Some(start) => start,
            None => Start::Seq(track.next),
        };
        let before = track.asked_as.replace(id);
        self.asked.insert(id, (pair, sub));
        track.phase = Phase::Asked { id, deadline: now + ASK_TIMEOUT };
        track.fetch = None;
        let message = Message::Subscribe { id, pair, start }.encode();
        self.actions.push_back(Action::Send { to: feed.node, message });
        // After the new one, so that this node never counts as gone in between.
        if let Some(before) = before {
            self.asked.remove(&before);
            let message = Message::Unsubscribe { id: before, pair }.encode();
            self.actions.push_back(Action::Send { to: feed.node, message });
        }
    }

    fn idle_tracks(&mut self, pair: Pair) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        for track in feed.tracks.values_mut() {
            track.phase = Phase::Idle;
            track.fetch = None;
        }
        self.schedule(pair);
    }

    /// What was asked with this id, if it was asked of this node and nothing has been asked for the track since.
    fn answered(&mut self, from: &NodeId, id: u64) -> Option<(Pair, SubId)> {
        let (pair, sub) = self.asked.remove(&id)?;
        let feed = self.feeds.get(&pair).filter(|feed| feed.node == *from)?;
        let track = feed.tracks.get(&sub)?;
        matches!(track.phase, Phase::Asked { id: asked, .. } if asked == id).then_some((pair, sub))
    }

    fn track(&mut self, pair: &Pair, sub: SubId) -> &mut Track {
        let feed = self.feeds.get_mut(pair).expect("the caller looked it up");
        feed.tracks.get_mut(&sub).expect("the caller looked it up")
    }

    fn handle_subscribed(&mut self, now: Instant, from: NodeId, id: u64, start: u64, next: u64, incarnation: u64) {
        let Some((pair, sub)) = self.answered(&from, id) else {
            self.counters.unexpected += 1;
            return;
        };
        let track = self.track(&pair, sub);
        track.phase = Phase::Running { id };
        track.origin_incarnation = incarnation;
        track.covered = 0;
        if track.start.take().is_some() {
            track.next = start;
        }
        track.target = track.target.max(next);
        self.advance(now, pair, sub);
        self.schedule(pair);
    }

    fn handle_grant(&mut self, now: Instant, from: &NodeId, pair: Pair, bytes: &[u8]) {
        let Some(feed) = self.feeds.get_mut(&pair).filter(|feed| feed.node == *from) else {
            self.counters.unexpected += 1;
            return;
        };
        // Whether a grant has ended is for those who keep keys: this one has just come from its origin.
        let grant = KeyGrant::verify(bytes, &self.me, 0);
        let of_pair = |g: &KeyGrant| g.channel.0 == pair.channel && *g.origin.as_bytes() == pair.origin;
        let Some(grant) = grant.ok().filter(of_pair) else {
            self.counters.grants_refused += 1;
            return;
        };
        if feed.keys.len() >= KEYS_MAX {
            // Keys are never reused, so one that has opened nothing lately is the one to go; any will do here,
            // because a batch whose key is missing makes the subscription ask again.
            feed.keys.pop_first();
        }
        feed.keys.insert(grant.sender_key.key_id(), grant.sender_key);
        let waiting = std::mem::take(&mut feed.keyless);
        feed.keyless_bytes = 0;
        for (_, sealed) in waiting {
            self.open(now, pair, sealed, None);
        }
        self.schedule(pair);
    }

    fn handle_batches(&mut self, now: Instant, from: &NodeId, id: u64, pair: Pair, covered: u64, frames: &[u8]) {
        let feed = self.feeds.get(&pair).filter(|feed| feed.node == *from);
        let asked = |track: &Track| track.fetch.is_some_and(|(asked, ..)| asked == id);
        let Some(sub) = feed.and_then(|f| f.tracks.iter().find(|(_, t)| asked(t)).map(|(sub, _)| *sub)) else {
            self.counters.unexpected += 1;
            return;
        };
        let Some((_, asked_range, _)) = self.track(&pair, sub).fetch else { return };
        let mut rest = frames;
        while !rest.is_empty() {
            let Ok(header) = Header::parse(rest) else {
                self.counters.malformed += 1;
                break;
            };
            let len = HEADER_LEN + header.payload_len();
            let Some((frame, after)) = rest.split_at_checked(len) else {
                self.counters.malformed += 1;
                break;
            };
            rest = after;
            let end = header.seq().saturating_add(u64::from(header.events()));
            if header.seq() >= asked_range.to || end <= asked_range.from {
                // Not what was asked for: it would be held without the bound on what comes unasked.
                self.counters.unexpected += 1;
                continue;
            }
            match self.verify(&pair, Bytes::copy_from_slice(frame)) {
                Ok(sealed) => self.open(now, pair, sealed, Some(sub)),
                Err(error) => self.count_refused(error),
            }
        }
        let track = self.track(&pair, sub);
        if covered <= asked_range.from {
            // An answer that says nothing is as good as none: the deadline of the fetch asks again.
            self.counters.unexpected += 1;
            return;
        }
        track.fetch = None;
        track.covered = track.covered.max(covered.min(asked_range.to));
        self.advance(now, pair, sub);
        self.schedule(pair);
    }

    fn verify(&self, pair: &Pair, frame: Bytes) -> Result<SealedBatch, BatchError> {
        SealedBatch::verify(frame, &self.mesh, &ChannelHash(pair.channel), &EntityId::from_bytes(pair.origin))
    }

    fn count_refused(&mut self, error: BatchError) {
        match error {
            BatchError::Channel | BatchError::Origin | BatchError::BodyHash | BatchError::Signature => {
                self.counters.unverified += 1;
            }
            _ => self.counters.malformed += 1,
        }
    }

    /// Opens a verified batch and offers it to one track or to all.
    fn open(&mut self, now: Instant, pair: Pair, sealed: SealedBatch, only: Option<SubId>) {
        let limits = &self.limits;
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        let Some(key) = feed.keys.get(&sealed.seal().key_id()) else {
            let len = sealed.frame().len();
            if feed.keyless.len() < limits.held_batches_max && feed.keyless_bytes + len <= limits.held_bytes_max {
                feed.keyless_bytes += len;
                feed.keyless.push_back((now, sealed));
            } else {
                self.counters.overflowed += 1;
            }
            return;
        };
        let Ok(open) = sealed.open_in_place(key) else {
            self.counters.unopened += 1;
            return;
        };
        let batch = EventBatch::new(feed.source.channel.clone(), feed.source.entity, open);
        let subs: Vec<SubId> = match only {
            Some(sub) => vec![sub],
            None => feed.tracks.keys().copied().collect(),
        };
        for sub in subs {
            let track = feed.tracks.get_mut(&sub).expect("it was listed above");
            match track.offer(&batch, limits, only.is_some()) {
                Offered::Held => {}
                Offered::Duplicate => self.counters.duplicates += 1,
                Offered::Overflow => self.counters.overflowed += 1,
            }
        }
        let subs: Vec<SubId> = feed.tracks.keys().copied().collect();
        for sub in subs {
            self.advance(now, pair, sub);
        }
    }

    /// Delivers what can be delivered, then fetches what is missing.
    fn advance(&mut self, now: Instant, pair: Pair, sub: SubId) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        let Some(track) = feed.tracks.get_mut(&sub) else { return };
        let state = self.subs.get_mut(&sub).expect("a track's subscription exists");
        if !matches!(track.phase, Phase::Running { .. }) || track.quarantined {
            return;
        }
        while state.queued < self.limits.queue_bytes_max {
            let Some(delivery) = track.next_delivery(&feed.source, &mut self.counters) else { break };
            if let Delivery::Batch { batch, skip, .. } = &delivery {
                self.counters.batches += 1;
                self.counters.events += u64::from(batch.open().seal().events() - skip);
                if feed.report_at.is_none() {
                    feed.report_at = Some(feed.reported_at.map_or(now, |at| now.max(at + REPORT_EVERY)));
                }
            }
            state.queued += delivery.cost();
            self.actions.push_back(Action::Deliver { sub, delivery });
        }
        let limit = self.limits.queue_bytes_max;
        let missing = track.missing();
        if state.queued > limit / 2 && (missing.is_some() || !track.held.is_empty()) {
            state.blocked.insert(pair);
        } else if let Some(range) = missing
            && track.fetch.is_none()
        {
            let id = self.next_id;
            self.next_id += 1;
            track.fetch = Some((id, range, now + ASK_TIMEOUT));
            self.counters.fetches += 1;
            let message = Message::Fetch { id, pair, range }.encode();
            self.actions.push_back(Action::Send { to: feed.node, message });
        }
        if !state.full && state.queued >= limit / 4 * 3 {
            state.full = true;
            let pairs: Vec<Pair> = state.pairs.iter().copied().collect();
            for pair in pairs {
                self.tell_full(pair);
            }
        }
    }

    /// Tells upstream when all takers of a pair here have become full, or one has room again.
    fn tell_full(&mut self, pair: Pair) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        let full = feed.tracks.keys().all(|sub| self.subs.get(sub).is_some_and(|sub| sub.full));
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
            feed.report_at = None;
            feed.reported_at = Some(now);
            let running = feed.tracks.values().filter(|t| matches!(t.phase, Phase::Running { .. }));
            if let Some(next) = running.map(|track| track.next).min()
                && next > feed.reported
            {
                feed.reported = next;
                let message = Message::Received { pair, next }.encode();
                self.actions.push_back(Action::Send { to: feed.node, message });
            }
        }
        let mut ask = vec![];
        if feed.keyless.front().is_some_and(|(at, _)| *at + KEYLESS_TIMEOUT <= now) {
            // The grant did not come: what waits for it is dropped here and fetched after asking again.
            feed.keyless.clear();
            feed.keyless_bytes = 0;
            ask.extend(feed.tracks.keys().copied());
        }
        for (sub, track) in &mut feed.tracks {
            match track.phase {
                Phase::Asked { deadline: at, .. } | Phase::Refused { again_at: at } if at <= now => ask.push(*sub),
                _ if track.fetch.is_some_and(|(.., deadline)| deadline <= now) => ask.push(*sub),
                _ => {}
            }
        }
        ask.sort_unstable();
        ask.dedup();
        if feed.joined {
            for sub in ask {
                self.ask(now, pair, sub);
            }
        }
    }

    fn schedule(&mut self, pair: Pair) {
        let Some(feed) = self.feeds.get_mut(&pair) else { return };
        let due = feed.next_due();
        if due != feed.due {
            if let Some(old) = feed.due {
                self.timers.remove(&(old, pair));
            }
            if let Some(new) = due {
                self.timers.insert((new, pair));
            }
            feed.due = due;
        }
    }
}

impl Feed {
    fn new(now: Instant, source: Arc<Source>, node: NodeId) -> Self {
        Self {
            source,
            node,
            joined: false,
            join_sent_at: now,
            round_trip: Duration::ZERO,
            join_again_at: None,
            keys: BTreeMap::new(),
            keyless: VecDeque::new(),
            keyless_bytes: 0,
            tracks: BTreeMap::new(),
            full: false,
            reported: 0,
            report_at: None,
            reported_at: None,
            due: None,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let tracks = self.tracks.values().flat_map(|track| {
            let phase = match track.phase {
                Phase::Asked { deadline: at, .. } | Phase::Refused { again_at: at } if self.joined => Some(at),
                _ => None,
            };
            [phase, track.fetch.map(|(.., at)| at)]
        });
        let keyless = self.keyless.front().map(|(at, _)| *at + KEYLESS_TIMEOUT);
        tracks.chain([self.join_again_at, self.report_at, keyless]).flatten().min()
    }
}

/// Bytes of the frame that a batch came in.
fn frame_len(batch: &EventBatch) -> usize {
    HEADER_LEN + batch.open().seal().header().payload_len()
}

enum Offered {
    Held,
    Duplicate,
    Overflow,
}

impl Track {
    /// A track that begins where the origin finds `Ok(start)`, or at the seq `Err(next)` that a cursor names.
    fn new(start: Result<Start, u64>) -> Self {
        Self {
            phase: Phase::Idle,
            start: start.ok(),
            seen: start.is_err(),
            next: start.err().unwrap_or(0),
            head: None,
            incarnation: 0,
            origin_incarnation: 0,
            target: 0,
            covered: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            fetch: None,
            quarantined: false,
            asked_as: None,
        }
    }

    fn wants(&self, end: u64) -> bool {
        end > self.next
    }

    fn offer(&mut self, batch: &Arc<EventBatch>, limits: &Limits, asked_for: bool) -> Offered {
        if self.quarantined
            || batch.open().seal().next_seq() <= self.next
            || self.held.contains_key(&batch.open().seal().seq())
        {
            return Offered::Duplicate;
        }
        self.target = self.target.max(batch.open().seal().next_seq());
        self.held_bytes += frame_len(batch);
        self.held.insert(batch.open().seal().seq(), batch.clone());
        // What lies furthest ahead is dropped first: it is fetched when its turn comes. What was asked for is next.
        let mut overflow = false;
        while !asked_for
            && self.held.len() > 1
            && (self.held.len() > limits.held_batches_max || self.held_bytes > limits.held_bytes_max)
        {
            let (_, last) = self.held.pop_last().expect("there are two or more");
            self.held_bytes -= frame_len(&last);
            overflow = true;
        }
        if overflow { Offered::Overflow } else { Offered::Held }
    }

    /// The range to fetch, if something is missing before what is held or known to exist.
    fn missing(&self) -> Option<SeqRange> {
        let to = self.held.first_key_value().map_or(self.target, |(seq, _)| *seq);
        let from = self.next.max(self.covered);
        (from < to).then_some(SeqRange { from, to })
    }

    fn next_delivery(&mut self, source: &Arc<Source>, counters: &mut Counters) -> Option<Delivery> {
        loop {
            let Some((_, batch)) = self.held.first_key_value() else { return self.trailing_gap(source, counters) };
            let batch = batch.clone();
            if batch.open().seal().next_seq() <= self.next {
                self.release(&batch);
                continue;
            }
            let continues = self.head == Some(batch.open().seal().prev());
            let (seq, is_first) = (batch.open().seal().seq(), batch.open().seal().is_first());
            if seq < self.next && self.head.is_some() {
                // It overlaps what was delivered and is not that: the origin signed two batches for one place.
                return Some(self.quarantine(source, seq, counters));
            }
            let breaks = seq > self.next || is_first && self.head.is_some();
            if breaks && !(batch.open().seal().is_first() && continues) {
                if self.next < batch.open().seal().seq() && self.covered < batch.open().seal().seq() {
                    return None;
                }
                let item = self.pass_over(source, &batch, counters);
                match item {
                    Some(item) => return Some(Delivery::Item(item)),
                    None => continue,
                }
            }
            let forked = self.head.is_some() && !continues;
            if forked {
                return Some(self.quarantine(source, seq, counters));
            }
            self.release(&batch);
            let skip = self.next.saturating_sub(batch.open().seal().seq());
            let skip = u16::try_from(skip).expect("a batch that ends after `next` begins at most 1,024 before it");
            self.next = batch.open().seal().next_seq();
            self.seen = true;
            self.head = Some(batch.open().seal().hash());
            self.incarnation = batch.open().seal().incarnation();
            let cost = frame_len(&batch);
            return Some(Delivery::Batch { source: source.clone(), batch, skip, cost });
        }
    }

    fn quarantine(&mut self, source: &Arc<Source>, seq: u64, counters: &mut Counters) -> Delivery {
        counters.forked += 1;
        self.quarantined = true;
        self.held.clear();
        self.held_bytes = 0;
        Delivery::Item(Item::Equivocation(Fork { source: source.clone(), seq }))
    }

    /// Nothing before this batch can be had: goes on with it, and says what is missing if the application can miss it.
    fn pass_over(&mut self, source: &Arc<Source>, batch: &EventBatch, counters: &mut Counters) -> Option<Item> {
        let source = source.clone();
        if batch.open().seal().incarnation() > self.next || batch.open().seal().is_first() {
            let last_seen = self.next.saturating_sub(1);
            self.head = None;
            self.next = self.next.max(batch.open().seal().incarnation());
            if self.seen {
                counters.restarts += 1;
                let prev = if batch.open().seal().is_first() { batch.open().seal().prev() } else { BatchHash::ZERO };
                return Some(Item::Restart(Restart { source, last_seen, incarnation: self.next, prev }));
            }
            return None;
        }
        counters.gaps += 1;
        let range = SeqRange { from: self.next, to: batch.open().seal().seq() };
        self.head = None;
        self.next = batch.open().seal().seq();
        Some(Item::Gap(Gap { source, range }))
    }

    /// Seqs of the present incarnation that exist, cannot be had, and have nothing after them yet.
    fn trailing_gap(&mut self, source: &Arc<Source>, counters: &mut Counters) -> Option<Delivery> {
        if self.covered <= self.next || self.next < self.origin_incarnation {
            return None;
        }
        let range = SeqRange { from: self.next, to: self.covered };
        self.head = None;
        self.next = self.covered;
        counters.gaps += 1;
        Some(Delivery::Item(Item::Gap(Gap { source: source.clone(), range })))
    }

    fn release(&mut self, batch: &Arc<EventBatch>) {
        if self.held.remove(&batch.open().seal().seq()).is_some() {
            self.held_bytes -= frame_len(batch);
        }
    }
}
