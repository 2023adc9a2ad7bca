//! The origin's side of the end-to-end protocol: who subscribed, who has received what, who gets which key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use net_identity::{SignError, Signer};
use net_transport::{NodeId, Pair};

use crate::core::message::{ANSWER_LEN_MAX, Message, RANGES_PER_FETCH_MAX, RefusedWhy, SeqRange, Start};
use crate::core::{Cache, Cached};
use crate::{BatchHash, ChannelHash, Class, KeyGrant, SenderKey};

/// The most nodes that one producer serves.
pub const SUBSCRIBERS_MAX: usize = 4_096;
/// The most subscriptions of one node to one producer.
const SUBSCRIPTIONS_PER_NODE_MAX: usize = 1_024;
/// Sender keys are replaced when they are this old.
pub const KEY_AGE_MAX: Duration = Duration::from_secs(3600);
/// The most keys that are kept to be granted; what older ones sealed cannot be opened by who comes later.
const KEYS_MAX: usize = 200;
/// How long a grant is good for, in seconds: longer than its key is used for sealing.
const GRANT_LIFE_SECS: u64 = 7 * 24 * 3600;

/// One producer as its subscribers see it: its cache, its keys, its subscribers.
#[derive(Debug)]
pub struct Publisher {
    pair: Pair,
    incarnation: u64,
    next: u64,
    class: Class,
    /// Hash of the last batch; zero before the first.
    head: BatchHash,
    cache: Cache,
    keys: Vec<Key>,
    subscribers: BTreeMap<NodeId, Subscriber>,
    /// When the next Tick is due, and how many have been sent since the last batch.
    tick: Option<(Instant, usize)>,
}

#[derive(Debug)]
struct Key {
    key: SenderKey,
    first_seq: u64,
    since: Instant,
}

/// What a producer knows of one subscribing node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriber {
    /// Its subscriptions: id and first seq.
    subscriptions: BTreeMap<u64, u64>,
    /// All events below this have been handed to its subscriptions.
    received: u64,
}

impl Subscriber {
    /// All events below this seq have been handed to the node's subscriptions.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }
}

/// How long after the last batch its Ticks come: a lost last batch is missed soon.
const TICKS_AFTER: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];
/// How often Ticks come after those.
const TICK_EVERY: Duration = Duration::from_secs(30);

/// How long a [`Start::Live`] may have been under way without losing what was published meanwhile.
const LIVE_SLACK: Duration = Duration::from_millis(250);

impl Publisher {
    /// A producer that starts an incarnation at this seq with this sender key.
    #[must_use]
    pub fn new(
        pair: Pair,
        class: Class,
        incarnation: u64,
        key: SenderKey,
        now: Instant,
        cache_bytes_max: usize,
    ) -> Self {
        Self {
            pair,
            incarnation,
            next: incarnation,
            class,
            head: BatchHash::ZERO,
            cache: Cache::new(cache_bytes_max),
            keys: vec![Key { key, first_seq: incarnation, since: now }],
            subscribers: BTreeMap::new(),
            tick: None,
        }
    }

    /// Hash of the last batch, which the next one names as the one before it; zero before the first.
    #[must_use]
    pub fn head(&self) -> BatchHash {
        self.head
    }

    /// When [`Self::take_tick`] wants to be called.
    #[must_use]
    pub fn poll_tick(&self) -> Option<Instant> {
        self.tick.map(|(at, _)| at)
    }

    /// The last seq and the hash of its batch, if a Tick that says so is due and somebody is there to hear it.
    pub fn take_tick(&mut self, now: Instant) -> Option<(u64, BatchHash)> {
        let (_, sent) = self.tick.filter(|(at, _)| *at <= now)?;
        let after = TICKS_AFTER.get(sent + 1).map_or(TICK_EVERY, |at| *at - TICKS_AFTER[sent]);
        self.tick = Some((now + after, (sent + 1).min(TICKS_AFTER.len())));
        (!self.subscribers.is_empty()).then(|| (self.next - 1, self.head))
    }

    /// The seq that the next event gets.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// First seq of this incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The key that seals now.
    #[must_use]
    pub fn key(&self) -> &SenderKey {
        &self.keys.last().expect("there is always a key").key
    }

    /// Whether the key is due for replacement.
    #[must_use]
    pub fn key_is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.keys.last().expect("there is always a key").since) >= KEY_AGE_MAX
    }

    /// Seals with `key` from the next seq on, and returns the grants that every subscriber needs for it, encoded.
    ///
    /// # Errors
    /// [`SignError`] if the origin's key cannot sign; then the old key stays.
    pub fn rotate(
        &mut self,
        key: SenderKey,
        now: Instant,
        unix_secs: u64,
        signer: &dyn Signer,
    ) -> Result<Vec<(NodeId, Vec<u8>)>, SignError> {
        let new = Key { key, first_seq: self.next, since: now };
        let grants = self
            .subscribers
            .keys()
            .map(|node| Ok((*node, self.grant(node, &new, unix_secs, signer)?)))
            .collect::<Result<Vec<_>, SignError>>()?;
        self.keys.push(new);
        // A key whose every batch has left the cache opens nothing that this node can still give.
        let oldest = self.cache.first().unwrap_or(self.next);
        let keep_from = self.keys.iter().rposition(|k| k.first_seq <= oldest).unwrap_or(0);
        let too_many = self.keys.len().saturating_sub(KEYS_MAX);
        self.keys.drain(..keep_from.max(too_many));
        Ok(grants)
    }

    /// Takes a batch that has just been sealed; it is in the cache before any link carries it.
    pub fn sealed(&mut self, batch: Cached, hash: BatchHash) {
        debug_assert_eq!(batch.range.from, self.next);
        self.next = batch.range.to;
        self.head = hash;
        if self.class == Class::Reliable {
            self.tick = Some((batch.sealed_at + TICKS_AFTER[0], 0));
        }
        self.cache.push(batch);
    }

    /// The nodes that are subscribed now.
    #[must_use]
    pub fn subscribers(&self) -> &BTreeMap<NodeId, Subscriber> {
        &self.subscribers
    }

    /// How many subscriptions the node has.
    #[must_use]
    pub fn subscriptions_of(&self, node: &NodeId) -> usize {
        self.subscribers.get(node).map_or(0, |subscriber| subscriber.subscriptions.len())
    }

    /// How many subscribed nodes have been handed all events below `seq`.
    #[must_use]
    pub fn received(&self, seq: u64) -> usize {
        self.subscribers.values().filter(|s| s.received >= seq).count()
    }

    /// Whether this node can give a batch with a seq of this range.
    #[must_use]
    pub fn has(&self, range: SeqRange) -> bool {
        self.cache.range(range).next().is_some()
    }

    /// Bytes in the cache.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.cache.len_bytes()
    }

    /// Forgets a node whose connection ended; it subscribes again when it is back.
    pub fn handle_gone(&mut self, node: &NodeId) -> bool {
        self.subscribers.remove(node).is_some()
    }

    /// Handles one message of a subscriber and returns the encoded answers, in the order they must be sent.
    ///
    /// # Errors
    /// [`SignError`] if a grant could not be signed; nothing has changed then.
    pub fn handle(
        &mut self,
        from: NodeId,
        message: &Message<'_>,
        now: Instant,
        unix_secs: u64,
        signer: &dyn Signer,
    ) -> Result<Vec<Vec<u8>>, SignError> {
        match *message {
            Message::Subscribe { id, start, .. } => self.subscribe(from, id, start, now, unix_secs, signer),
            Message::Unsubscribe { id, .. } => {
                if let Some(subscriber) = self.subscribers.get_mut(&from) {
                    subscriber.subscriptions.remove(&id);
                    if subscriber.subscriptions.is_empty() {
                        self.subscribers.remove(&from);
                    }
                }
                Ok(vec![])
            }
            Message::Fetch { id, ref ranges, .. } if self.subscribers.contains_key(&from) => Ok(self.fetch(id, ranges)),
            // Whoever has not subscribed is told nothing.
            Message::Fetch { .. } => Ok(vec![]),
            Message::Received { next, .. } => {
                if let Some(subscriber) = self.subscribers.get_mut(&from) {
                    // A claim beyond what exists would count events as received that are still to come.
                    subscriber.received = subscriber.received.max(next.min(self.next));
                }
                Ok(vec![])
            }
            Message::Subscribed { .. }
            | Message::Refused { .. }
            | Message::Grant { .. }
            | Message::Batches { .. }
            | Message::Equivocation { .. } => Ok(vec![]),
        }
    }

    fn subscribe(
        &mut self,
        from: NodeId,
        id: u64,
        start: Start,
        now: Instant,
        unix_secs: u64,
        signer: &dyn Signer,
    ) -> Result<Vec<Vec<u8>>, SignError> {
        let known = self.subscribers.get(&from);
        if known.is_none() && self.subscribers.len() >= SUBSCRIBERS_MAX
            || known.is_some_and(|s| s.subscriptions.len() >= SUBSCRIPTIONS_PER_NODE_MAX)
        {
            return Ok(vec![Message::Refused { id, why: RefusedWhy::TooMany }.encode()]);
        }
        let start = self.resolve(start, now);
        let mut answers = Vec::with_capacity(self.keys.len() + 1);
        for (i, key) in self.keys.iter().enumerate() {
            // A key is needed if something it sealed lies at or after the start.
            let used_up_to = self.keys.get(i + 1).map_or(u64::MAX, |next| next.first_seq);
            if used_up_to > start {
                let grant = self.grant(&from, key, unix_secs, signer)?;
                answers.push(grant);
            }
        }
        let (next, incarnation) = (self.next, self.incarnation);
        answers.push(Message::Subscribed { id, start, next, incarnation, kept_from: self.kept_from() }.encode());
        let subscriber = self.subscribers.entry(from).or_default();
        subscriber.subscriptions.insert(id, start);
        subscriber.received = subscriber.received.max(start.min(next));
        Ok(answers)
    }

    fn grant(&self, node: &NodeId, key: &Key, unix_secs: u64, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let grant = KeyGrant {
            channel: ChannelHash(self.pair.channel),
            origin: signer.id(),
            first_seq: key.first_seq,
            sender_key: key.key.clone(),
            not_after: unix_secs + GRANT_LIFE_SECS,
        };
        let grant = grant.sign(node, signer)?;
        Ok(Message::Grant { pair: self.pair, grant: &grant }.encode())
    }

    fn resolve(&self, start: Start, now: Instant) -> u64 {
        let first = self.kept_from();
        match start {
            // Nothing of a realtime channel is given again.
            _ if self.class == Class::Realtime => self.next,
            Start::Earliest => first,
            Start::Last(n) => self.next.saturating_sub(n).max(first),
            Start::Seq(seq) => seq.min(self.next),
            Start::Since(ms) => self.cache.first_not(|b| b.unix_ms < ms).map_or(self.next, |b| b.range.from),
            Start::Live { ago_ms } => {
                // The question was under way for a while, on busy machines a long one: an event of the moment of
                // subscribing that was published before it is better than one published after it that is missed.
                let ago = Duration::from_millis(ago_ms).saturating_add(LIVE_SLACK);
                // An instant before this machine's clock began is before everything that was sealed.
                let Some(since) = now.checked_sub(ago) else { return first };
                self.cache.first_not(|b| b.sealed_at < since).map_or(self.next, |b| b.range.from)
            }
        }
    }

    /// Answers a request: whole batches, in order, up to a bound in bytes. One that breaks the format is not answered.
    fn fetch(&self, id: u64, asked: &[SeqRange]) -> Vec<Vec<u8>> {
        let ordered = asked.windows(2).all(|pair| pair[0].to <= pair[1].from);
        if asked.len() > RANGES_PER_FETCH_MAX || !ordered || asked.iter().any(SeqRange::is_empty) {
            return vec![];
        }
        let mut frames = Vec::new();
        let mut covered = asked.last().map_or(0, |last| last.to).min(self.next);
        let mut sent = 0;
        'all: for range in asked {
            // A batch that two ranges touch is sent once.
            for batch in self.cache.range(SeqRange { from: range.from.max(sent), to: range.to }) {
                if !frames.is_empty() && frames.len() + batch.frame.len() > ANSWER_LEN_MAX as usize {
                    covered = batch.range.from;
                    break 'all;
                }
                frames.extend_from_slice(&batch.frame);
                sent = batch.range.to;
            }
        }
        // What lies beyond the last event is not said to be missing; what lies before the first asked seq was not asked.
        let covered = asked.first().map_or(0, |first| covered.max(first.from));
        let (next, kept_from) = (self.next, self.kept_from());
        vec![Message::Batches { id, pair: self.pair, covered, next, kept_from, frames: &frames }.encode()]
    }

    fn kept_from(&self) -> u64 {
        self.cache.first().unwrap_or(self.next)
    }
}
