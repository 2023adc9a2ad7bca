//! The origin's side of the end-to-end protocol: who subscribed, who has received what, who gets which key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use net_identity::{SignError, Signer};
use net_transport::{NodeId, Pair};

use crate::core::message::{ANSWER_LEN_MAX, Message, RANGES_PER_FETCH_MAX, RefusedWhy, SeqRange, Start};
use crate::core::ranges::Ranges;
use crate::core::{Cache, Cached};
use crate::{BatchHash, ChannelHash, Class, KeyGrant, Seek, SenderKey};

/// The most nodes that one producer serves.
pub const SUBSCRIBERS_MAX: usize = 4_096;
/// The most subscriptions of one node to one producer.
const SUBSCRIPTIONS_PER_NODE_MAX: usize = 1_024;
/// Sender keys are replaced when they are this old.
pub const KEY_AGE_MAX: Duration = Duration::from_secs(3600);
/// The most keys that are kept to be granted; what older ones sealed cannot be opened by who comes later.
const KEYS_MAX: usize = 4_096;
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
    /// What memory gives up is in a log.
    has_log: bool,
    /// The oldest seq in the log, if it has one.
    stored_from: Option<u64>,
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
    /// What is stored on its disk.
    stored: Ranges,
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
            has_log: false,
            stored_from: None,
            keys: vec![Key { key, first_seq: incarnation, since: now }],
            subscribers: BTreeMap::new(),
            tick: None,
        }
    }

    /// Goes on from a log: `head` is the hash of the last batch in it, `keys` are those that open what it holds.
    #[must_use]
    pub fn with_log(mut self, head: BatchHash, keys: impl IntoIterator<Item = (u64, SenderKey)>) -> Self {
        let since = self.keys[0].since;
        let older = keys.into_iter().filter(|(first_seq, _)| *first_seq < self.incarnation);
        let older = older.map(|(first_seq, key)| Key { key, first_seq, since });
        self.keys.splice(0..0, older.collect::<Vec<_>>());
        self.keys.sort_by_key(|key| key.first_seq);
        self.drop_keys(0);
        self.head = head;
        self.has_log = true;
        self.cache.set_stored_below(self.incarnation);
        self
    }

    /// The oldest seq of this origin that the log holds now.
    pub fn set_stored_from(&mut self, seq: Option<u64>) {
        self.stored_from = seq;
        self.drop_keys(self.kept_from());
    }

    /// Batches below this seq are in the log, so that memory need not keep them.
    pub fn set_stored_below(&mut self, seq: u64) {
        self.cache.set_stored_below(seq);
    }

    /// What has to be looked up in the log to know where this subscription begins; nothing if memory knows.
    #[must_use]
    pub fn seek(&self, start: Start, now: Instant, unix_ms: u64) -> Option<Seek> {
        let oldest = self.cache.range(SeqRange { from: 0, to: u64::MAX }).next();
        let first = oldest.map_or(self.next, |batch| batch.range.from);
        match start {
            _ if self.class == Class::Realtime || !self.has_log => None,
            Start::Earliest => Some(Seek::First),
            Start::Last(n) if n > self.next - first => {
                Some(Seek::Back { before: first, events: n - (self.next - first) })
            }
            Start::Since(ms) if oldest.is_none_or(|batch| batch.unix_ms >= ms) => Some(Seek::Since(ms)),
            Start::Live { ago_ms } => {
                let ago = Duration::from_millis(ago_ms).saturating_add(LIVE_SLACK);
                let in_memory = now.checked_sub(ago).is_some_and(|since| oldest.is_some_and(|b| b.sealed_at < since));
                let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                (!in_memory).then(|| Seek::Since(unix_ms.saturating_sub(ago_ms)))
            }
            Start::Last(_) | Start::Since(_) | Start::Seq(_) => None,
        }
    }

    /// A node says that it has stored events; gives what of that is news.
    pub fn note_stored(&mut self, from: &NodeId, range: SeqRange) -> Option<SeqRange> {
        let subscriber = self.subscribers.get_mut(from)?;
        // What is still to come is not stored anywhere.
        let range = SeqRange { to: range.to.min(self.next), ..range };
        let news = subscriber.stored.without(range);
        subscriber.stored.insert(range);
        Some(SeqRange { from: news.first()?.from, to: news.last()?.to })
    }

    /// How many nodes, this one not counted, have all events of the range on their disks.
    #[must_use]
    pub fn replicas(&self, range: SeqRange, me: &NodeId) -> usize {
        let others = self.subscribers.iter().filter(|(node, _)| *node != me);
        others.filter(|(_, subscriber)| subscriber.stored.holds(range)).count()
    }

    /// The nodes that have all events of this incarnation on their disks.
    pub fn keepers(&self) -> impl Iterator<Item = &NodeId> {
        let all = SeqRange { from: self.incarnation, to: self.next };
        self.subscribers.iter().filter(move |(_, subscriber)| subscriber.stored.holds(all)).map(|(node, _)| node)
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
        self.drop_keys(self.kept_from());
        Ok(grants)
    }

    /// A key whose every batch is gone opens nothing that this node can still give.
    fn drop_keys(&mut self, oldest: u64) {
        let keep_from = self.keys.iter().rposition(|k| k.first_seq <= oldest).unwrap_or(0);
        let too_many = self.keys.len().saturating_sub(KEYS_MAX);
        self.keys.drain(..keep_from.max(too_many));
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
            Message::Fetch { id, ref ranges, len_max, .. } => {
                let mut fetch = self.fetch(&from, id, ranges, len_max);
                let answers = std::iter::from_fn(|| match self.answer(fetch.as_mut()?) {
                    Answering::Answer(answer) => Some(answer),
                    Answering::Read(_) | Answering::Done => None,
                });
                Ok(answers.collect())
            }
            Message::Received { next, .. } => {
                if let Some(subscriber) = self.subscribers.get_mut(&from) {
                    // A claim beyond what exists would count events as received that are still to come.
                    subscriber.received = subscriber.received.max(next.min(self.next));
                }
                Ok(vec![])
            }
            Message::Stored { range, .. } => {
                self.note_stored(&from, range);
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

    /// A request, which is answered step by step. Nothing if it breaks the format, or comes from whoever has not
    /// subscribed: those are told nothing.
    #[must_use]
    pub fn fetch(&self, from: &NodeId, id: u64, asked: &[SeqRange], len_max: u64) -> Option<Fetching> {
        let ordered = asked.windows(2).all(|pair| pair[0].to <= pair[1].from);
        if asked.len() > RANGES_PER_FETCH_MAX || !ordered || asked.iter().any(SeqRange::is_empty) {
            return None;
        }
        let is_subscribed = self.subscribers.contains_key(from);
        is_subscribed.then(|| Fetching { id, asked: asked.to_vec(), len_left: len_max, is_over: false })
    }

    /// How a request goes on: with an answer from memory, or with what has to be read from the log before
    /// [`Self::answer_with`] can be called.
    pub fn answer(&self, fetch: &mut Fetching) -> Answering {
        if fetch.is_over {
            return Answering::Done;
        }
        if let Some(first) = fetch.asked.first().filter(|_| self.has_log) {
            // What memory does not have is in the log, or will never be.
            let to = first.to.min(self.cache.first().unwrap_or(self.next));
            if first.from < to {
                return Answering::Read(SeqRange { from: first.from, to });
            }
        }
        let mut frames = Vec::new();
        let mut covered = fetch.asked.last().map_or(0, |last| last.to).min(self.next);
        let mut sent = 0;
        'all: for range in &fetch.asked {
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
        Answering::Answer(self.answer_with(fetch, covered, &frames))
    }

    /// The next answer to a request, with all that there is of it below `covered`.
    pub fn answer_with(&self, fetch: &mut Fetching, covered: u64, frames: &[u8]) -> Vec<u8> {
        // What lies beyond the last event is not said to be missing; what lies before the first asked seq was not asked.
        let covered = fetch.asked.first().map_or(0, |first| covered.max(first.from));
        fetch.len_left = fetch.len_left.saturating_sub(frames.len() as u64);
        fetch.asked.retain_mut(|range| {
            range.from = range.from.max(covered);
            !range.is_empty()
        });
        fetch.is_over = frames.is_empty()
            || fetch.len_left < ANSWER_LEN_MAX.into()
            || fetch.asked.first().is_none_or(|first| first.from >= self.next);
        let (id, pair, next, kept_from, more) = (fetch.id, self.pair, self.next, self.kept_from(), !fetch.is_over);
        Message::Batches { id, pair, covered, next, kept_from, more, frames }.encode()
    }

    fn kept_from(&self) -> u64 {
        let cached = self.cache.first().unwrap_or(self.next);
        // What of this incarnation is not in memory is in the log.
        let stored = if self.has_log { self.stored_from.or(Some(self.incarnation)) } else { None };
        stored.map_or(cached, |stored| stored.min(cached))
    }
}

/// How answering a request goes on.
#[derive(Debug)]
pub enum Answering {
    /// Send this answer, and go on.
    Answer(Vec<u8>),
    /// Read these seqs from the log, answer with what it gives, and go on.
    Read(SeqRange),
    /// Everything has been answered.
    Done,
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Fetching {
    id: u64,
    /// What has not been answered.
    asked: Vec<SeqRange>,
    len_left: u64,
    is_over: bool,
}
