//! One origin's events in one subscription: in order, each once, and what cannot be had is named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::item::{Fork, Gap, GapWhy, Item, Restart, Sealed, SealedWhy, Source, Trimmed};
use crate::core::ranges::Ranges;
use crate::core::{Limits, RANGES_PER_FETCH_MAX, SeqRange};
use crate::mutants::mutant;
use crate::{BatchHash, Class, Equivocation, EventBatch, SealedBatch, SenderKey, VerifiedSeal};

/// How long an event waits for what is missing before it while nothing moves: then a gap says so, and it is delivered.
pub const GAP_AFTER: Duration = Duration::from_secs(5);

/// How far beyond what an origin has told the causes may lie that are asked for, or named whole, on somebody else's word.
pub(super) const CLAIM_MAX: u64 = 1 << 20;
/// Incarnations of one origin that are quarantined apart; after one more, the origin is.
const QUARANTINES_MAX: usize = 4;

/// A verified batch that waits for its turn.
#[derive(Clone, Debug)]
pub enum Held {
    /// Opened.
    Open(Arc<EventBatch>),
    /// Its key has not come yet.
    Locked(Box<VerifiedSeal>),
    /// It will not be opened.
    Shut(Box<VerifiedSeal>, SealedWhy),
    /// It is wanted as it is.
    Sealed(Box<SealedBatch>),
}

impl Held {
    /// What is proved of it.
    #[must_use]
    pub fn seal(&self) -> &VerifiedSeal {
        match self {
            Self::Open(batch) => batch.open().seal(),
            Self::Locked(seal) | Self::Shut(seal, _) => seal,
            Self::Sealed(batch) => batch.seal(),
        }
    }

    fn range(&self) -> SeqRange {
        SeqRange { from: self.seal().seq(), to: self.seal().next_seq() }
    }

    /// Bytes of the frame it came in.
    fn cost(&self) -> usize {
        net_transport::HEADER_LEN + self.seal().header().payload_len()
    }
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
        /// Seqs that a gap has named before. Empty, without an allocation, for nearly all.
        late: Vec<SeqRange>,
        /// Bytes that it counts for in a subscription's queue.
        cost: usize,
    },
    /// A batch as its origin sealed it, for whoever keeps it.
    Sealed {
        /// Whose.
        source: Arc<Source>,
        /// The batch.
        batch: Box<SealedBatch>,
        /// Bytes that it counts for in a subscription's queue.
        cost: usize,
    },
    /// A key that opens batches, for whoever keeps them.
    Key {
        /// Whose.
        source: Arc<Source>,
        /// The first seq that it may have sealed.
        first_seq: u64,
        /// The key.
        key: SenderKey,
    },
    /// A gap, a restart.
    Item(Item),
}

impl Delivery {
    /// Bytes that it counts for in a subscription's queue.
    #[must_use]
    pub fn cost(&self) -> usize {
        match self {
            Self::Batch { cost, .. } | Self::Sealed { cost, .. } => *cost,
            Self::Item(_) | Self::Key { .. } => 256,
        }
    }
}

/// What became of a batch that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It waits for its turn, which may have come.
    Held,
    /// It was delivered before, or is held already.
    Duplicate,
}

/// What comes next on a line.
pub(super) enum Step {
    /// Nothing, until something arrives.
    Idle,
    /// Nothing, until something arrives or this time has come.
    Wait(Instant),
    /// Something to tell.
    Item(Item),
    /// The first batch held is the next of its origin. Whether its causes are there is not for the line to say.
    Ready,
}

/// One origin's events, from the next one on.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) source: Arc<Source>,
    pub(super) class: Class,
    /// Is `next` known? Not before the origin has said where a subscription begins.
    pub(super) started: bool,
    /// Has anything been delivered to this subscription?
    fresh: bool,
    /// The next seq to deliver.
    pub(super) next: u64,
    /// Hash of the last batch delivered; none after a break.
    head: Option<BatchHash>,
    /// First seq of the origin's present incarnation, as far as it has told.
    origin_incarnation: u64,
    /// Seqs below this exist, or existed: the origin has said so with its signature or over its own connection.
    target: u64,
    /// All that can be had below this has been offered.
    covered: u64,
    /// The source keeps nothing below this.
    kept_from: u64,
    held: BTreeMap<u64, (Instant, Held)>,
    pub(super) held_bytes: usize,
    /// The lowest seq that was dropped for want of room since the last request was made.
    dropped_from: Option<u64>,
    /// Something was dropped for want of room and has not come again.
    pub(super) behind: bool,
    /// Named in a gap, and not delivered.
    named: Ranges,
    /// The incarnations of which nothing more is delivered, and from which seq on.
    quarantine: BTreeMap<u64, u64>,
    /// When it last got further.
    pub(super) moved_at: Instant,
    /// What the origin said last of where it stands: its next seq, and when it was asked.
    pub(super) told: Option<(u64, Instant)>,
    /// It was waited for in vain, and has not been heard of since.
    pub(super) silent: bool,
}

impl Line {
    /// A line that begins where the origin says, or at the position `next` that the application knows of.
    pub(super) fn new(now: Instant, source: Arc<Source>, class: Class, next: Option<u64>) -> Self {
        Self {
            source,
            class,
            started: next.is_some(),
            fresh: true,
            next: next.unwrap_or(0),
            head: None,
            origin_incarnation: 0,
            target: 0,
            covered: 0,
            kept_from: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            dropped_from: None,
            behind: false,
            named: Ranges::default(),
            quarantine: BTreeMap::new(),
            moved_at: now,
            told: None,
            silent: false,
        }
    }

    /// The origin begins the line here, if nothing else did.
    pub(super) fn begin(&mut self, start: u64) {
        if !self.started {
            (self.started, self.next) = (true, start);
        }
    }

    /// The origin says that its next seq is `next`, in an incarnation that began at `incarnation`, and that it keeps
    /// nothing below `kept_from`. It was asked at `asked_at`.
    pub(super) fn told(&mut self, next: u64, incarnation: u64, kept_from: u64, asked_at: Instant) {
        self.exists(next, incarnation);
        self.kept_from = kept_from;
        self.told = Some((next, asked_at));
    }

    /// Seqs below `target` exist.
    pub(super) fn exists(&mut self, target: u64, incarnation: u64) {
        self.silent = false;
        self.target = self.target.max(target);
        self.origin_incarnation = self.origin_incarnation.max(incarnation);
    }

    /// All that the source has below `covered` has been offered.
    pub(super) fn cover(&mut self, covered: u64) {
        let covered = self.dropped_from.map_or(covered, |seq| covered.min(seq));
        self.covered = self.covered.max(covered);
    }

    /// There is no room for what the source gave of this seq and beyond: it is asked for again.
    pub(super) fn drop_from(&mut self, seq: u64) {
        self.covered = self.covered.min(seq);
        self.dropped_from = Some(self.dropped_from.map_or(seq, |before| before.min(seq)));
        self.behind = true;
    }

    /// A source is asked from the beginning again: what another said before does not bind it.
    pub(super) fn uncover(&mut self) {
        self.silent = false;
        self.covered = 0;
    }

    /// Is there use for a batch of these seqs?
    pub(super) fn wants(&self, range: SeqRange) -> bool {
        !self.started || range.to > self.next || self.named.within(range).next().is_some()
    }

    /// A verified batch. One that a gap has named comes back at once, to be delivered late, if there is room for that.
    pub(super) fn offer(&mut self, now: Instant, held: Held, room: bool) -> (Offered, Option<Delivery>) {
        let range = held.range();
        self.exists(range.to, held.seal().incarnation());
        if self.is_quarantined(held.seal()) || self.held.contains_key(&range.from) {
            return (Offered::Duplicate, None);
        }
        if self.started && range.to <= self.next && !mutant("skip_dedup") {
            let late = if room { self.late(held) } else { None };
            return (if late.is_some() { Offered::Held } else { Offered::Duplicate }, late);
        }
        if self.class == Class::Realtime && range.from < self.next {
            return (Offered::Duplicate, None);
        }
        self.held_bytes += held.cost();
        self.held.insert(range.from, (now, held));
        (Offered::Held, None)
    }

    /// A batch that lies behind `next`: what of it a gap named is delivered after all.
    fn late(&mut self, held: Held) -> Option<Delivery> {
        let range = held.range();
        let named = self.named.within(range).last()?;
        if named.to != range.to || matches!(held, Held::Locked(_) | Held::Shut(..)) {
            return None;
        }
        self.named.take(range);
        let (source, cost) = (self.source.clone(), held.cost());
        match held {
            Held::Open(batch) => {
                let skip = u16::try_from(named.from - range.from).expect("a batch has at most 4,096 events");
                Some(Delivery::Batch { source, batch, skip, late: vec![named], cost })
            }
            Held::Sealed(batch) => Some(Delivery::Sealed { source, batch, cost }),
            Held::Locked(_) | Held::Shut(..) => None,
        }
    }

    /// Drops what lies furthest ahead while the line holds more than it may, or `over` says that all of them do. It is
    /// fetched when its turn comes; the next batch of the origin is never dropped.
    pub(super) fn shrink(&mut self, limits: &Limits, over: bool) -> bool {
        let too_much = self.held.len() > limits.held_batches_max || self.held_bytes > limits.held_bytes_max || over;
        let Some((&seq, _)) = self.held.last_key_value().filter(|(seq, _)| too_much && **seq > self.next) else {
            return false;
        };
        let (_, (_, dropped)) = self.held.pop_last().expect("it was looked at above");
        self.held_bytes -= dropped.cost();
        self.drop_from(seq);
        true
    }

    /// Does it hold something that may be dropped?
    pub(super) fn can_shrink(&self) -> bool {
        self.held.last_key_value().is_some_and(|(seq, _)| *seq > self.next)
    }

    pub(super) fn held_len(&self) -> usize {
        self.held.len()
    }

    /// Opens what was locked, or gives up on opening it.
    pub(super) fn unlock(&mut self, held: Held) {
        let place = self.held.get_mut(&held.seal().seq()).map(|(_, place)| place);
        if let Some(place) =
            place.filter(|place| matches!(place, Held::Locked(seal) if seal.hash() == held.seal().hash()))
        {
            *place = held;
        }
    }

    /// Is everything that is known to exist here or delivered?
    pub(super) fn is_complete(&self) -> bool {
        let end = self.end();
        self.held.is_empty() && self.next.max(self.covered) >= end || self.holes_up_to(end).next().is_none()
    }

    /// Seqs below this are to be delivered, as far as is known.
    pub(super) fn end(&self) -> u64 {
        self.stop().map_or(self.target, |from| self.target.min(from))
    }

    /// What to ask a source for: always what is missing before the first batch held, and the rest, up to what is known
    /// or `claimed` to exist, while there is room.
    pub(super) fn missing(&self, limits: &Limits, claimed: u64) -> Vec<SeqRange> {
        if mutant("no_repair") || self.class == Class::Realtime || !self.started {
            return vec![];
        }
        let roomy = self.held.len() < limits.held_batches_max / 2 && self.held_bytes < limits.held_bytes_max / 2;
        let first_held = self.held.first_key_value().map_or(u64::MAX, |(seq, _)| *seq);
        let claimed = if self.is_stopped() { 0 } else { claimed };
        let holes = self.holes_up_to(self.end().max(claimed));
        holes.take_while(|hole| roomy || hole.to <= first_held).take(RANGES_PER_FETCH_MAX).collect()
    }

    /// A request has been made for what is missing now.
    pub(super) fn asked(&mut self) {
        self.dropped_from = None;
    }

    fn holes_up_to(&self, end: u64) -> impl Iterator<Item = SeqRange> {
        let mut from = self.next.max(self.covered);
        let held = self.held.values().map(|(_, held)| held.range());
        held.chain([SeqRange { from: end, to: end }]).filter_map(move |range| {
            let hole = SeqRange { from, to: range.from };
            from = from.max(range.to);
            (!hole.is_empty()).then_some(hole)
        })
    }

    /// What comes next. Called again until it is idle or waits.
    pub(super) fn step(&mut self, now: Instant, floor: Instant) -> Step {
        if !self.started {
            return Step::Idle;
        }
        loop {
            let Some((&seq, (arrived, held))) = self.held.first_key_value() else { return self.trailing() };
            let (seal, arrived) = (held.seal(), *arrived);
            if seal.next_seq() <= self.next && !mutant("skip_dedup") || self.is_quarantined(seal) {
                self.pop();
                continue;
            }
            let follows = self.head == Some(seal.prev());
            if seq < self.next && self.head.is_some() && !mutant("skip_dedup") {
                return Step::Item(self.fork(seq, None));
            }
            let breaks = seq > self.next || seal.is_first() && self.head.is_some();
            if breaks && !(seal.is_first() && follows) {
                let hole = self.next < seq && self.covered < seq && self.class == Class::Reliable;
                let until = self.moved_at.max(floor).max(arrived) + GAP_AFTER;
                if hole && now < until {
                    return Step::Wait(until);
                }
                return Step::Item(self.pass_over(hole));
            }
            if self.head.is_some() && !follows && !mutant("skip_dedup") {
                return Step::Item(self.fork(seq, None));
            }
            return if matches!(held, Held::Locked(_)) { Step::Idle } else { Step::Ready };
        }
    }

    /// The batch that [`Step::Ready`] speaks of.
    pub(super) fn ready(&self) -> &VerifiedSeal {
        self.held.first_key_value().expect("a batch is ready").1.1.seal()
    }

    /// Takes that batch.
    pub(super) fn deliver(&mut self, now: Instant) -> Delivery {
        let held = self.pop();
        let (range, seal) = (held.range(), held.seal());
        let passed = self.next.clamp(range.from, range.to);
        let mut late = self.named.take(range);
        // What lies behind `next` is delivered only if a gap named all of it.
        let named_again = late.first().is_some_and(|first| first.from == range.from && first.to >= passed);
        let from = if named_again { range.from } else { passed };
        late.retain(|r| r.to > from);
        self.next = range.to;
        self.fresh = false;
        self.moved_at = now;
        // In a realtime channel batches are lost, so there is no chain to hold them to.
        self.head = (self.class == Class::Reliable).then(|| seal.hash());
        let (source, cost) = (self.source.clone(), held.cost());
        match held {
            Held::Open(batch) => {
                let skip = u16::try_from(from - range.from).expect("a batch has at most 4,096 events");
                Delivery::Batch { source, batch, skip, late, cost }
            }
            Held::Locked(seal) => {
                let why = SealedWhy::NoKey(seal.key_id());
                Delivery::Item(Item::Sealed(Sealed { source, range: SeqRange { from, to: range.to }, why }))
            }
            Held::Sealed(batch) => Delivery::Sealed { source, batch, cost },
            Held::Shut(_, why) => {
                Delivery::Item(Item::Sealed(Sealed { source, range: SeqRange { from, to: range.to }, why }))
            }
        }
    }

    /// Is this seq delivered, or not to be waited for by others: passed over, before the start, or named?
    pub(super) fn is_there(&self, seq: u64) -> bool {
        self.started && seq < self.next || self.named.contains(seq)
    }

    /// Will nothing of this seq be delivered, because the origin contradicted itself before it?
    pub(super) fn is_cut_off(&self, seq: u64) -> bool {
        self.is_stopped() && seq >= self.end()
    }

    /// Tells what is not waited for, up to this seq, which others name as a cause, and remembers it as named.
    ///
    /// What only others say of this origin must not touch its events that are still to come: of what lies far beyond all
    /// that it has told, the one seq alone is named, and of what it denies nothing is remembered.
    pub(super) fn name(&mut self, seq: u64, why: GapWhy) -> Vec<SeqRange> {
        let cause = SeqRange { from: seq, to: seq.saturating_add(1) };
        self.silent |= why == GapWhy::Unreachable;
        if why == GapWhy::Denied {
            return vec![cause];
        }
        let before = if self.started { self.next.min(seq) } else { seq };
        let known = if seq.saturating_sub(self.end()) > CLAIM_MAX { self.end().clamp(before, seq) } else { seq };
        let mut ranges = self.named.without(SeqRange { from: before, to: known });
        ranges.extend(self.named.without(cause));
        ranges.iter().for_each(|range| self.named.insert(*range));
        ranges
    }

    /// The origin signed two batches for one place, from this seq on.
    pub(super) fn fork(&mut self, seq: u64, proof: Option<Arc<Equivocation>>) -> Item {
        let incarnation = match &proof {
            Some(proof) => proof.incarnation(),
            None => self.held.get(&seq).map_or(self.origin_incarnation, |(_, held)| held.seal().incarnation()),
        };
        // One that contradicts itself again and again is not heard any more.
        let barred = self.quarantine.len() >= QUARANTINES_MAX;
        let (incarnation, seq) = if barred { (u64::MAX, self.next) } else { (incarnation, seq) };
        let from = self.quarantine.entry(incarnation).or_insert(seq);
        *from = (*from).min(seq);
        let quarantine = std::mem::take(&mut self.quarantine);
        self.held.retain(|_, (_, held)| !is_quarantined(&quarantine, held.seal()));
        self.quarantine = quarantine;
        self.held_bytes = self.held.values().map(|(_, held)| held.cost()).sum();
        Item::Equivocation(Fork { source: self.source.clone(), seq, proof })
    }

    /// Is nothing more of this incarnation delivered?
    pub(super) fn is_barred(&self, incarnation: u64) -> bool {
        self.quarantine.contains_key(&incarnation) || self.quarantine.contains_key(&u64::MAX)
    }

    fn is_quarantined(&self, seal: &VerifiedSeal) -> bool {
        is_quarantined(&self.quarantine, seal)
    }

    /// From which seq on nothing is delivered of the incarnation that the origin is in.
    fn stop(&self) -> Option<u64> {
        self.quarantine.get(&u64::MAX).or_else(|| self.quarantine.get(&self.origin_incarnation)).copied()
    }

    /// Is the incarnation that the origin is in quarantined?
    fn is_stopped(&self) -> bool {
        self.stop().is_some()
    }

    fn pop(&mut self) -> Held {
        let (_, (_, held)) = self.held.pop_first().expect("the caller has seen it");
        self.held_bytes -= held.cost();
        held
    }

    /// Nothing before the first batch held can be had: goes on with it, and says what is missing.
    fn pass_over(&mut self, unanswered: bool) -> Item {
        let (&seq, (_, held)) = self.held.first_key_value().expect("the caller has seen it");
        let (seal, source) = (held.seal(), self.source.clone());
        self.head = None;
        if seal.incarnation() > self.next || seal.is_first() {
            let last_seen = self.next.saturating_sub(1);
            self.next = self.next.max(seal.incarnation());
            let prev = if seal.is_first() { seal.prev() } else { BatchHash::ZERO };
            let lost = SeqRange { from: last_seen + 1, to: self.next };
            self.named.insert(lost);
            return Item::Restart(Restart { source, last_seen, incarnation: self.next, prev });
        }
        let why = match self.class {
            Class::Realtime => GapWhy::Realtime,
            Class::Reliable if unanswered => GapWhy::Unreachable,
            Class::Reliable => self.why_not_kept(),
        };
        self.gap(seq, why)
    }

    /// Seqs of the present incarnation that exist, cannot be had, and have nothing after them yet.
    fn trailing(&mut self) -> Step {
        let covered = if self.is_stopped() { self.covered.min(self.end()) } else { self.covered };
        // A new incarnation says itself where it begins, unless it is not heard.
        if covered <= self.next || self.next < self.origin_incarnation && !self.is_stopped() {
            return Step::Idle;
        }
        self.head = None;
        let why = self.why_not_kept();
        Step::Item(self.gap(covered, why))
    }

    fn why_not_kept(&self) -> GapWhy {
        if self.kept_from > self.next { GapWhy::Trimmed } else { GapWhy::Unavailable }
    }

    /// Goes on at `to` and names what lies before it.
    fn gap(&mut self, to: u64, why: GapWhy) -> Item {
        let (source, asked) = (self.source.clone(), self.next);
        let range = SeqRange { from: asked, to };
        self.next = to;
        if self.class == Class::Reliable {
            self.named.insert(range);
        }
        if std::mem::take(&mut self.fresh) && why == GapWhy::Trimmed {
            return Item::Trimmed(Trimmed { source, asked, first: to });
        }
        Item::Gap(Gap { source, range, why, before: None })
    }
}

/// Does the batch lie where its origin contradicted itself, or beyond?
fn is_quarantined(quarantine: &BTreeMap<u64, u64>, seal: &VerifiedSeal) -> bool {
    quarantine.contains_key(&u64::MAX)
        || quarantine.get(&seal.incarnation()).is_some_and(|from| seal.next_seq() > *from)
}
