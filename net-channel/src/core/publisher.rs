//! The origin's side of the end-to-end protocol: who subscribed, who has received what, who gets which key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use net_identity::{SignError, Signer};
use net_transport::{NodeId, Pair};

use crate::core::message::{ANSWER_LEN_MAX, Message, RefusedWhy, SeqRange, Start};
use crate::core::{Cache, Cached};
use crate::{ChannelHash, KeyGrant, SenderKey};

/// The most nodes that one producer serves.
pub const SUBSCRIBERS_MAX: usize = 4_096;
/// The most subscriptions of one node to one producer.
const SUBSCRIPTIONS_PER_NODE_MAX: usize = 1_024;
/// Sender keys are replaced when they are this old.
pub const KEY_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long a grant is good for, in seconds: longer than its key is used for sealing.
const GRANT_LIFE_SECS: u64 = 7 * 24 * 3600;

/// One producer as its subscribers see it: its cache, its keys, its subscribers.
#[derive(Debug)]
pub struct Publisher {
    pair: Pair,
    incarnation: u64,
    next: u64,
    cache: Cache,
    keys: Vec<Key>,
    subscribers: BTreeMap<NodeId, Subscriber>,
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

/// How long a [`Start::Live`] may have been under way without losing what was published meanwhile.
const LIVE_SLACK: Duration = Duration::from_secs(1);

impl Publisher {
    /// A producer that starts an incarnation at this seq with this sender key.
    #[must_use]
    pub fn new(pair: Pair, incarnation: u64, key: SenderKey, now: Instant, cache_bytes_max: usize) -> Self {
        Self {
            pair,
            incarnation,
            next: incarnation,
            cache: Cache::new(cache_bytes_max),
            keys: vec![Key { key, first_seq: incarnation, since: now }],
            subscribers: BTreeMap::new(),
        }
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
        self.keys.drain(..keep_from);
        Ok(grants)
    }

    /// Takes a batch that has just been sealed; it is in the cache before any link carries it.
    pub fn sealed(&mut self, batch: Cached) {
        debug_assert_eq!(batch.range.from, self.next);
        self.next = batch.range.to;
        self.cache.push(batch);
    }

    /// The nodes that are subscribed now.
    #[must_use]
    pub fn subscribers(&self) -> &BTreeMap<NodeId, Subscriber> {
        &self.subscribers
    }

    /// How many subscribed nodes have been handed all events below `seq`.
    #[must_use]
    pub fn received(&self, seq: u64) -> usize {
        self.subscribers.values().filter(|s| s.received >= seq).count()
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
            Message::Fetch { id, range, .. } if self.subscribers.contains_key(&from) => Ok(vec![self.fetch(id, range)]),
            // Whoever has not subscribed is told nothing.
            Message::Fetch { .. } => Ok(vec![]),
            Message::Received { next, .. } => {
                if let Some(subscriber) = self.subscribers.get_mut(&from) {
                    // A claim beyond what exists would count events as received that are still to come.
                    subscriber.received = subscriber.received.max(next.min(self.next));
                }
                Ok(vec![])
            }
            Message::Subscribed { .. } | Message::Refused { .. } | Message::Grant { .. } | Message::Batches { .. } => {
                Ok(vec![])
            }
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
        answers.push(Message::Subscribed { id, start, next, incarnation }.encode());
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
        let first = self.cache.first().unwrap_or(self.next);
        match start {
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

    fn fetch(&self, id: u64, asked: SeqRange) -> Vec<u8> {
        let to = asked.to.min(self.next);
        let range = SeqRange { from: asked.from, to };
        let mut frames = Vec::new();
        let mut covered = to.max(asked.from);
        for batch in self.cache.range(range) {
            if !frames.is_empty() && frames.len() + batch.frame.len() > ANSWER_LEN_MAX as usize {
                covered = batch.range.from;
                break;
            }
            frames.extend_from_slice(&batch.frame);
        }
        Message::Batches { id, pair: self.pair, covered, frames: &frames }.encode()
    }
}
