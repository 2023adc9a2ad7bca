//! What arrives at a node's subscriptions: frames, Ticks, answers, keys, proofs. Only what verifies changes anything.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use net_identity::EntityId;
use net_transport::{HEADER_LEN, Header, Kind, NodeId, Pair};

use crate::core::item::{SealedWhy, Source};
use crate::core::line::{Delivery, Held, Offered};
use crate::core::message::{Message, SeqRange};
use crate::core::subscriptions::{ASK_TIMEOUT, Action, REPORT_EVERY, SubId, Subscriptions, Take};
use crate::mutants::mutant;
use crate::{
    BatchError, ChannelHash, Class, Equivocation, EventBatch, KeyGrant, SealedBatch, SealedView, SenderKey, Tick,
    TickError,
};

/// An origin's answer to a request.
pub(super) struct Answer<'a> {
    pub(super) id: u64,
    pub(super) covered: u64,
    pub(super) next: u64,
    pub(super) kept_from: u64,
    pub(super) more: bool,
    pub(super) frames: &'a [u8],
}

impl Subscriptions {
    /// A frame that came live. `frame` is the whole frame, header checked.
    pub fn handle_frame(&mut self, now: Instant, mut frame: Bytes) {
        let Ok(header) = Header::parse(&frame) else {
            self.counters.malformed += 1;
            return;
        };
        let Some(pairs) = self.by_prefix.get(&(header.channel(), header.origin())) else {
            self.counters.unexpected += 1;
            return;
        };
        let is_tick = header.kind() == Kind::Tick;
        let mut others = pairs.clone();
        let Some(mut pair) = others.pop() else { return };
        // Two pairs with the same hints are told apart by the signature. Only the last one tried gets the bytes
        // themselves: a batch whose bytes nobody else holds is opened where it lies.
        loop {
            let last = others.is_empty();
            let bytes = if last { std::mem::take(&mut frame) } else { frame.clone() };
            let result = if is_tick { self.handle_tick(now, pair, &bytes) } else { self.arrive(now, pair, bytes) };
            match (result, others.pop()) {
                (Ok(()), _) => return,
                (Err(_), Some(other)) => pair = other,
                (Err(refused), None) => return self.count_refused(&refused),
            }
        }
    }

    fn count_refused(&mut self, refused: &Refused) {
        match refused {
            Refused::Unwanted => self.counters.duplicates += 1,
            Refused::Unverified => self.counters.unverified += 1,
            Refused::Malformed => self.counters.malformed += 1,
        }
    }

    /// A live batch, perhaps of this pair.
    fn arrive(&mut self, now: Instant, pair: Pair, frame: Bytes) -> Result<(), Refused> {
        let view = SealedView::parse(&frame)?;
        let range = range_of(view.header());
        let feed = &self.feeds[&pair];
        let wanted = feed
            .sessions
            .iter()
            .any(|(sub, session)| self.subs[sub].channels[&pair.channel].buffer.wants(session.line, range));
        // One that nobody wants is worth a look only if it may contradict what was delivered.
        if !wanted && (!feed.overlaps_recent(range) || feed.is_recent(view.hash())) {
            return Err(Refused::Unwanted);
        }
        let sealed = self.verify(&pair, frame)?;
        self.take(now, pair, sealed, None);
        self.drain_all(now, pair);
        Ok(())
    }

    fn verify(&self, pair: &Pair, frame: Bytes) -> Result<SealedBatch, Refused> {
        let feed = &self.feeds[pair];
        let sealed = SealedBatch::verify(frame, &self.mesh, &ChannelHash(pair.channel), &feed.verifier)?;
        // What its origin's advert says of the channel holds for every batch.
        let class = if sealed.seal().is_realtime() { Class::Realtime } else { Class::Reliable };
        if class == feed.class { Ok(sealed) } else { Err(Refused::Malformed) }
    }

    /// Takes a verified batch in, for one subscription or for all, opened if its key is here.
    fn take(&mut self, now: Instant, pair: Pair, sealed: SealedBatch, only: Option<SubId>) {
        let mesh = self.mesh;
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        if let Some(proof) = feed.remember(&mesh, sealed.seal()) {
            self.take_proof(now, pair, Arc::new(proof));
        }
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        let all = feed.sessions.keys().copied().filter(|sub| only.is_none_or(|only| only == *sub));
        let (keepers, readers): (Vec<SubId>, Vec<SubId>) = all.partition(|sub| self.subs[sub].take == Take::Batches);
        for sub in keepers {
            self.offer(now, pair, sub, Held::Sealed(Box::new(sealed.clone())));
        }
        if readers.is_empty() {
            return;
        }
        let limits = &self.limits;
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        let sealed_seq = sealed.seal().seq();
        let held = match feed.key(&sealed.seal().key_id()) {
            Some(key) => open(&feed.source, sealed, key),
            None => {
                let held = Held::Locked(Box::new(sealed.seal().clone()));
                let room = match feed.class {
                    Class::Reliable => feed.lock(now, sealed, limits.held_batches_max, limits.held_bytes_max),
                    Class::Realtime => {
                        feed.keyless_since.get_or_insert(now);
                        false
                    }
                };
                if !room {
                    self.no_room(pair, sealed_seq, &readers);
                    return;
                }
                held
            }
        };
        for sub in readers {
            self.offer(now, pair, sub, held.clone());
        }
    }

    fn offer(&mut self, now: Instant, pair: Pair, sub: SubId, held: Held) {
        let line = self.session(&pair, sub).line;
        let buffer = self.buffer(sub, &pair.channel);
        let duplicate = buffer.offer(now, line, held) == Offered::Duplicate;
        let dropped = buffer.take_dropped();
        self.counters.duplicates += u64::from(duplicate);
        self.counters.overflowed += dropped;
    }

    /// A verified batch whose key is not here and for which there is no room: it is asked for again.
    fn no_room(&mut self, pair: Pair, seq: u64, subs: &[SubId]) {
        self.counters.overflowed += 1;
        for sub in subs {
            let line = self.session(&pair, *sub).line;
            self.buffer(*sub, &pair.channel).handle_no_room(line, seq);
        }
    }

    /// Delivers what can be delivered now to everybody who follows a pair.
    fn drain_all(&mut self, now: Instant, pair: Pair) {
        let subs: Vec<SubId> = self.feeds[&pair].sessions.keys().copied().collect();
        for sub in subs {
            self.drain(now, sub, pair.channel);
        }
        self.tell_full(pair);
        self.schedule(pair);
    }

    /// A Tick: how far its origin has come.
    fn handle_tick(&mut self, now: Instant, pair: Pair, frame: &[u8]) -> Result<(), Refused> {
        let header = Header::parse(frame).map_err(|_| Refused::Malformed)?;
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        let last_seq = header.seq();
        // The origin wants to know how far everybody is, whether the Tick tells something or not.
        if feed.report_at.is_none() {
            feed.report_at = Some(feed.reported_at.map_or(now, |at| now.max(at + REPORT_EVERY)));
        }
        let known = feed.hash_of_last(last_seq);
        let told = feed.sessions.iter().any(|(sub, session)| {
            let buffer = &self.subs[sub].channels[&pair.channel].buffer;
            last_seq >= buffer.position(session.line).saturating_add(buffer.lag(session.line))
        });
        let contradicts = known.is_some_and(|hash| frame.get(HEADER_LEN + 8..HEADER_LEN + 40) != Some(&hash.0));
        if !told && !contradicts || mutant("drop_tick") {
            self.schedule(pair);
            return Ok(());
        }
        let (channel, origin) = (ChannelHash(pair.channel), EntityId::from_bytes(pair.origin));
        let tick = Tick::verify(frame, &self.mesh, &channel, &origin)?;
        self.counters.ticks += 1;
        let feed = &self.feeds[&pair];
        let sessions: Vec<_> = feed.sessions.iter().map(|(sub, session)| (*sub, session.line)).collect();
        for (sub, line) in sessions {
            let buffer = self.buffer(sub, &pair.channel);
            if contradicts {
                buffer.handle_contradiction(line, tick.last_seq, tick.incarnation);
            } else {
                buffer.handle_exists(line, tick.last_seq + 1, tick.incarnation);
            }
        }
        self.drain_all(now, pair);
        Ok(())
    }

    pub(super) fn handle_grant(&mut self, now: Instant, from: &NodeId, pair: Pair, bytes: &[u8]) {
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
        let (source, key) = (feed.source.clone(), grant.sender_key);
        feed.add_key(key.clone());
        let keepers = feed.sessions.keys().copied().filter(|sub| self.subs[sub].take == Take::Batches);
        for sub in keepers.collect::<Vec<_>>() {
            let delivery = Delivery::Key { source: source.clone(), first_seq: grant.first_seq, key: key.clone() };
            self.deliver_key(pair, sub, key.key_id(), delivery);
        }
        let feed = self.feeds.get_mut(&pair).expect("it was there above");
        for sealed in feed.unlock(|_, sealed| sealed.seal().key_id() == key.key_id()) {
            let held = open(&source, sealed, &key);
            self.unlock(pair, &held);
        }
        self.drain_all(now, pair);
    }

    /// Gives up on batches that have been here since before `asked_at` and whose key the origin has not given since.
    pub(super) fn shut_locked(&mut self, pair: Pair, asked_at: Instant) {
        let feed = self.feeds.get_mut(&pair).expect("the caller looked it up");
        feed.keyless_since = None;
        for sealed in feed.unlock(|at, _| *at <= asked_at) {
            let why = SealedWhy::NoKey(sealed.seal().key_id());
            self.unlock(pair, &Held::Shut(Box::new(sealed.into_parts().0), why));
        }
    }

    /// A batch that was held locked is opened, or will not be.
    fn unlock(&mut self, pair: Pair, held: &Held) {
        let sessions: Vec<_> = self.feeds[&pair].sessions.iter().map(|(sub, session)| (*sub, session.line)).collect();
        for (sub, line) in sessions {
            self.buffer(sub, &pair.channel).handle_unlocked(line, held.clone());
        }
    }

    pub(super) fn handle_batches(&mut self, now: Instant, from: &NodeId, pair: Pair, answer: &Answer<'_>) {
        let feed = self.feeds.get_mut(&pair).filter(|feed| feed.node == *from);
        let asked = feed.and_then(|feed| {
            let mut sessions = feed.sessions.iter_mut();
            sessions.find(|(_, s)| s.fetch.as_ref().is_some_and(|fetch| fetch.id == answer.id))
        });
        let Some((&sub, session)) = asked else {
            self.counters.unexpected += 1;
            return;
        };
        let line = session.line;
        // It stays where it is until all of the answer is in: nothing else is asked for meanwhile.
        let Some(fetch) = session.fetch.clone() else { return };
        let mut rest = answer.frames;
        while let Some((frame, after)) = split_frame(rest) {
            rest = after;
            let range = range_of(Header::parse(frame).expect("it was parsed to be split off"));
            if !fetch.ranges.iter().any(|asked| range.from < asked.to && asked.from < range.to) {
                // Not what was asked for: it would be held without the bound on what comes unasked.
                self.counters.unexpected += 1;
                continue;
            }
            match self.verify(&pair, Bytes::copy_from_slice(frame)) {
                Ok(sealed) => {
                    self.take(now, pair, sealed, Some(sub));
                    self.drain(now, sub, pair.channel);
                }
                Err(refused) => self.count_refused(&refused),
            }
        }
        self.counters.malformed += u64::from(!rest.is_empty());
        let buffer = self.buffer(sub, &pair.channel);
        buffer.handle_told(line, answer.next, 0, answer.kept_from, fetch.sent_at);
        if let (Some(first), Some(last)) = (fetch.ranges.first(), fetch.ranges.last()) {
            // Beyond its last event a source has nothing: what was known to exist there cannot be had, and what is only
            // claimed to exist may still be published.
            let covered = if answer.covered >= answer.next { answer.next.max(fetch.known) } else { answer.covered };
            if covered <= first.from && answer.next > first.from {
                // An answer that says nothing is as good as none: the deadline of the request asks again.
                self.counters.unexpected += 1;
                self.drain_all(now, pair);
                return;
            }
            buffer.handle_covered(line, covered.min(last.to));
        }
        match &mut self.session(&pair, sub).fetch {
            // The rest is on its way.
            Some(fetch) if answer.more => fetch.deadline = now + ASK_TIMEOUT,
            fetch => *fetch = None,
        }
        self.drain_all(now, pair);
        self.fetch(now, sub, pair);
    }

    /// A proof that somebody passes on.
    pub(super) fn handle_proof(&mut self, now: Instant, bytes: &[u8]) {
        let claim = Equivocation::claim_of(bytes).filter(|(pair, _)| self.known.contains_key(pair));
        let Some((pair, incarnation)) = claim else {
            self.counters.unexpected += 1;
            return;
        };
        // Few for each pair are enough, so that a liar costs its readers a few signatures and not a thousand.
        if !self.is_news(&pair, incarnation) {
            return;
        }
        match Equivocation::verify(bytes, &self.mesh) {
            Ok(proof) => self.take_proof(now, pair, Arc::new(proof)),
            Err(_) => self.counters.unverified += 1,
        }
    }

    /// A new neighbour hears of all proofs, so that whoever comes later is told too.
    pub fn handle_neighbour(&mut self, node: NodeId) {
        let mut bytes = 0;
        for proof in self.proofs.values().flatten() {
            let message = Message::Equivocation { proof: &proof.to_bytes() }.encode();
            bytes += message.len();
            if bytes > PROOFS_AT_ONCE_BYTES_MAX {
                return;
            }
            self.actions.push_back(Action::Send { to: node, message });
        }
    }

    /// Is no proof of this incarnation known, and are there not so many that the origin is barred altogether?
    fn is_news(&self, pair: &Pair, incarnation: u64) -> bool {
        self.proofs.get(pair).is_none_or(|known| {
            known.len() < PROOFS_PER_PAIR_MAX && known.iter().all(|proof| proof.incarnation() != incarnation)
        })
    }

    /// Tells a proof to the subscriptions, keeps it, and passes it on; if one of that incarnation is known, nothing.
    fn take_proof(&mut self, now: Instant, pair: Pair, proof: Arc<Equivocation>) {
        if !self.is_news(&pair, proof.incarnation()) {
            return;
        }
        if self.proofs.len() < self.limits.proofs_max || self.proofs.contains_key(&pair) {
            let message = Message::Equivocation { proof: &proof.to_bytes() }.encode();
            self.actions.push_back(Action::SendAll { message });
            self.proofs.entry(pair).or_default().push(proof.clone());
        } else {
            // It is not passed on; what this node sees itself it acts on all the same.
            self.counters.refused_full += 1;
        }
        let Some(feed) = self.feeds.get(&pair) else { return };
        let sessions: Vec<_> = feed.sessions.iter().map(|(sub, session)| (*sub, session.line)).collect();
        for (sub, line) in sessions {
            self.buffer(sub, &pair.channel).handle_equivocation(line, proof.clone());
            self.drain(now, sub, pair.channel);
        }
    }
}

/// The most proofs of one origin in one channel, each of another incarnation.
const PROOFS_PER_PAIR_MAX: usize = 4;
/// The most bytes of proofs that a new neighbour is sent.
const PROOFS_AT_ONCE_BYTES_MAX: usize = 1 << 20;

/// Why a frame changes nothing.
enum Refused {
    /// Nobody here waits for it.
    Unwanted,
    /// It is not of the format, or not as its origin's advert says.
    Malformed,
    /// Its origin did not sign it, or not this.
    Unverified,
}

impl From<BatchError> for Refused {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Channel | BatchError::Origin | BatchError::BodyHash | BatchError::Signature => Self::Unverified,
            _ => Self::Malformed,
        }
    }
}

impl From<TickError> for Refused {
    fn from(error: TickError) -> Self {
        match error {
            TickError::Channel | TickError::Origin | TickError::Signature => Self::Unverified,
            _ => Self::Malformed,
        }
    }
}

fn open(source: &Source, sealed: SealedBatch, key: &SenderKey) -> Held {
    match sealed.open_in_place(key) {
        Ok(open) => Held::Open(EventBatch::new(source.channel.clone(), source.entity, open)),
        Err(unopened) => Held::Shut(Box::new(unopened.seal), SealedWhy::Malformed),
    }
}

fn range_of(header: &Header) -> SeqRange {
    SeqRange { from: header.seq(), to: header.seq().saturating_add(u64::from(header.events())) }
}

/// The first frame of several, and what follows it.
fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = Header::parse(bytes).ok()?;
    bytes.split_at_checked(HEADER_LEN + header.payload_len())
}
