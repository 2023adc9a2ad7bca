//! Causal delivery: the events of one subscription in one channel, none before its causes.
//!
//! Each origin has a [`Line`] that keeps its own order. This buffer keeps the order between them: a batch whose parents
//! are not there waits until they are, or until waiting for them has an end. The rules: `docs/spec/delivery.md`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_transport::ShortId;

use crate::core::item::{Gap, GapWhy, Item, Source};
use crate::core::line::{CLAIM_MAX, Delivery, GAP_AFTER, Held, Line, Offered, Step};
use crate::core::{Limits, SeqRange};
use crate::mutants::mutant;
use crate::{Class, Dot, Equivocation, Parent};

/// What waits for somebody who waits looks again this long after that one's time is up.
const AFTER_OTHERS: Duration = Duration::from_millis(1);

/// In which order a subscription gets the events of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// None before its causes: events of other origins that its origin had seen.
    #[default]
    Causal,
    /// Each origin's in its own order, and otherwise as they arrive.
    Arrival,
}

/// Which of a buffer's origins.
pub type LineId = usize;

/// The events of one subscription in one channel that wait for their turn.
///
/// A value: its caller feeds in what arrives, and takes out what can be delivered.
#[derive(Debug)]
pub struct DeliveryBuffer {
    order: Order,
    limits: Limits,
    lines: Vec<Slot>,
    by_origin: HashMap<ShortId, Vec<LineId>>,
    /// Lines that may have something to deliver.
    dirty: VecDeque<LineId>,
    out: VecDeque<Delivery>,
    out_bytes: usize,
    timers: BTreeSet<(Instant, LineId)>,
    /// Time before this does not count as waiting: nothing could be delivered then.
    floor: Instant,
    held: usize,
    held_bytes: usize,
    dropped: u64,
    /// Lines whose origin is to be asked where it stands, with the end of what others name of it as causes.
    queries: BTreeMap<LineId, u64>,
    /// Lines for which there may be something to ask.
    needy: BTreeSet<LineId>,
}

#[derive(Debug)]
struct Slot {
    line: Line,
    is_dirty: bool,
    deadline: Option<Instant>,
    /// The next batch of this origin, if it waits for its causes.
    blocked: Option<Blocked>,
    /// Lines whose next batch waits for a seq of this one.
    waiters: BTreeSet<(u64, LineId)>,
}

/// A batch that waits for its causes.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    seq: u64,
    since: Instant,
    /// Whose event it waits for first.
    on: LineId,
}

/// What a batch finds of its causes.
enum Causes {
    /// They are there, except for these, which are not waited for.
    There(Vec<(LineId, u64, GapWhy)>),
    /// One is not, and is waited for.
    Waits { line: LineId, seq: u64, until: Instant },
}

impl DeliveryBuffer {
    /// A buffer without origins.
    #[must_use]
    pub fn new(now: Instant, order: Order, limits: Limits) -> Self {
        Self {
            order,
            limits,
            lines: vec![],
            by_origin: HashMap::new(),
            dirty: VecDeque::new(),
            out: VecDeque::new(),
            out_bytes: 0,
            timers: BTreeSet::new(),
            floor: now,
            held: 0,
            held_bytes: 0,
            dropped: 0,
            queries: BTreeMap::new(),
            needy: BTreeSet::new(),
        }
    }

    /// A further origin of the channel. Its events begin at `next` if the application knows of that position, else
    /// where [`Self::begin`] says.
    pub fn add(&mut self, now: Instant, source: Arc<Source>, class: Class, next: Option<u64>) -> LineId {
        let id = self.lines.len();
        self.by_origin.entry(source.origin.short()).or_default().push(id);
        self.lines.push(Slot {
            line: Line::new(now, source, class, next),
            is_dirty: false,
            deadline: None,
            blocked: None,
            waiters: BTreeSet::new(),
        });
        id
    }

    /// The origin says where the subscription begins, if no position is known.
    pub fn begin(&mut self, id: LineId, start: u64) {
        self.lines[id].line.begin(start);
        self.wake_waiters(id, u64::MAX);
        self.mark(id);
    }

    /// The origin says where it stands: its next seq, in an incarnation that began at `incarnation`; it keeps nothing
    /// below `kept_from`. It was asked at `asked_at`.
    pub fn handle_told(&mut self, id: LineId, next: u64, incarnation: u64, kept_from: u64, asked_at: Instant) {
        self.lines[id].line.told(next, incarnation, kept_from, asked_at);
        // What it denies is not waited for any longer.
        self.wake_waiters(id, u64::MAX);
        self.mark(id);
    }

    /// Seqs below `target` exist, in an incarnation that began at `incarnation`: a Tick says so.
    pub fn handle_exists(&mut self, id: LineId, target: u64, incarnation: u64) {
        self.lines[id].line.exists(target, incarnation);
        self.mark(id);
    }

    /// Everything that the source has below `covered` has been offered.
    pub fn handle_covered(&mut self, id: LineId, covered: u64) {
        self.lines[id].line.cover(covered);
        self.mark(id);
    }

    /// Another source is asked, from the beginning.
    pub fn handle_new_source(&mut self, id: LineId) {
        self.lines[id].line.uncover();
    }

    /// Nothing could be delivered or asked for until now, so nothing has been waited for either.
    pub fn handle_resumed(&mut self, now: Instant) {
        self.floor = now;
    }

    /// The origin was started again with its channel in another class.
    pub fn set_class(&mut self, id: LineId, class: Class) {
        self.lines[id].line.class = class;
        self.wake_waiters(id, u64::MAX);
        self.mark(id);
    }

    /// Is there use for a batch of these seqs?
    #[must_use]
    pub fn wants(&self, id: LineId, range: SeqRange) -> bool {
        self.lines[id].line.wants(range)
    }

    /// A verified batch of this origin. Beyond the limits, what lies furthest ahead is dropped, and asked for later.
    pub fn offer(&mut self, now: Instant, id: LineId, held: Held) -> Offered {
        let before = self.measure(id);
        let room = self.out_bytes < self.limits.held_bytes_max;
        let (offered, late) = self.lines[id].line.offer(now, held, room);
        self.account(id, before);
        if let Some(late) = late {
            self.put(late);
        }
        if offered == Offered::Held {
            self.shrink(id);
            self.mark(id);
        }
        offered
    }

    /// A batch that was offered locked has been opened, or will not be.
    pub fn handle_unlocked(&mut self, id: LineId, held: Held) {
        self.lines[id].line.unlock(held);
        self.mark(id);
    }

    /// The origin signed two different batches for one place.
    pub fn handle_equivocation(&mut self, id: LineId, proof: Arc<Equivocation>) {
        if self.lines[id].line.is_barred(proof.incarnation()) {
            return;
        }
        let before = self.measure(id);
        let seq = proof.seq();
        let item = self.lines[id].line.fork(seq, Some(proof));
        self.account(id, before);
        self.put(Delivery::Item(item));
        self.wake_waiters(id, u64::MAX);
        self.mark(id);
    }

    /// The origin's Tick names another batch than the one that was delivered as its last, so it signed two.
    pub fn handle_contradiction(&mut self, id: LineId, seq: u64, incarnation: u64) {
        if self.lines[id].line.is_barred(incarnation) {
            return;
        }
        self.lines[id].line.exists(seq, incarnation);
        let before = self.measure(id);
        let item = self.lines[id].line.fork(seq, None);
        self.account(id, before);
        self.put(Delivery::Item(item));
        self.wake_waiters(id, u64::MAX);
    }

    /// The next thing to deliver, if there is one now.
    pub fn next(&mut self, now: Instant) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.out.pop_front() {
                self.out_bytes -= delivery.cost();
                return Some(delivery);
            }
            let id = self.dirty.pop_front()?;
            self.lines[id].is_dirty = false;
            self.work(now, id);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Looks again at what has waited long enough; [`Self::next`] gives what comes of it.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            self.lines[id].deadline = None;
            self.mark(id);
        }
    }

    /// An origin of which there may be something to ask, each once until something about it changes.
    pub fn poll_needy(&mut self) -> Option<LineId> {
        self.needy.pop_first()
    }

    /// Of which channel and origin a line is.
    #[must_use]
    pub fn source(&self, id: LineId) -> &Arc<Source> {
        &self.lines[id].line.source
    }

    /// What to ask a source of this origin for.
    #[must_use]
    pub fn missing(&self, id: LineId) -> Vec<SeqRange> {
        let line = &self.lines[id].line;
        // What is only said to exist is asked for too, so that one answer settles it, unless it lies far off.
        let claimed = self.queries.get(&id).filter(|to| to.saturating_sub(line.end()) <= CLAIM_MAX);
        line.missing(&self.limits, claimed.copied().unwrap_or(0))
    }

    /// The origin is being asked, for what is missing and where it stands.
    pub fn handle_asked(&mut self, id: LineId) {
        self.lines[id].line.asked();
        self.queries.remove(&id);
    }

    /// Whether an event waits to know if the origin has published one of its causes.
    #[must_use]
    pub fn is_queried(&self, id: LineId) -> bool {
        self.queries.contains_key(&id)
    }

    /// The next seq to deliver; 0 as long as no origin has said where to begin.
    #[must_use]
    pub fn position(&self, id: LineId) -> u64 {
        self.lines[id].line.next
    }

    /// Seqs below this are known to exist.
    #[must_use]
    pub fn target(&self, id: LineId) -> u64 {
        self.lines[id].line.end()
    }

    /// How many seqs are known to exist and not delivered.
    #[must_use]
    pub fn lag(&self, id: LineId) -> u64 {
        let line = &self.lines[id].line;
        if line.started { line.end().saturating_sub(line.next) } else { 0 }
    }

    /// Whether something of this origin had to be dropped for want of room and has not come again.
    #[must_use]
    pub fn is_behind(&self, id: LineId) -> bool {
        self.lines[id].line.behind
    }

    /// Batches that wait, and their bytes.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.held, self.held_bytes)
    }

    /// How many batches have been dropped for want of room since this was asked last.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// There was no room for a batch that a source gave: it is asked for again.
    pub fn handle_no_room(&mut self, id: LineId, seq: u64) {
        self.lines[id].line.drop_from(seq);
        self.dropped += 1;
    }

    fn put(&mut self, delivery: Delivery) {
        self.out_bytes += delivery.cost();
        self.out.push_back(delivery);
    }

    fn mark(&mut self, id: LineId) {
        if !std::mem::replace(&mut self.lines[id].is_dirty, true) {
            self.dirty.push_back(id);
        }
    }

    fn measure(&self, id: LineId) -> (usize, usize) {
        (self.lines[id].line.held_len(), self.lines[id].line.held_bytes)
    }

    fn account(&mut self, id: LineId, (held, bytes): (usize, usize)) {
        let (held_now, bytes_now) = self.measure(id);
        self.held = self.held + held_now - held;
        self.held_bytes = self.held_bytes + bytes_now - bytes;
    }

    fn is_over(&self) -> bool {
        self.held > self.limits.channel_batches_max || self.held_bytes > self.limits.channel_bytes_max
    }

    /// Drops what is too much: of the line that has just grown, and if all together hold too much, of the largest.
    fn shrink(&mut self, id: LineId) {
        let limits = self.limits.clone();
        let before = self.measure(id);
        while self.lines[id].line.shrink(&limits, false) {
            self.dropped += 1;
        }
        self.account(id, before);
        while self.is_over() {
            // By what there is too much of.
            let by_bytes = self.held_bytes > self.limits.channel_bytes_max;
            let size = |id: &LineId| {
                let line = &self.lines[*id].line;
                if by_bytes { line.held_bytes } else { line.held_len() }
            };
            let lines = (0..self.lines.len()).filter(|id| self.lines[*id].line.can_shrink());
            let Some(largest) = lines.max_by_key(size) else { return };
            let before = self.measure(largest);
            self.lines[largest].line.shrink(&limits, true);
            self.account(largest, before);
            self.dropped += 1;
        }
    }

    /// Puts into `out` what a line can deliver now: at most one batch, so that a caller without room can stop.
    fn work(&mut self, now: Instant, id: LineId) {
        let before = self.measure(id);
        let step = self.lines[id].line.step(now, self.floor);
        self.account(id, before);
        if !matches!(step, Step::Ready) {
            // What waited for its causes is gone, or is not the next any more.
            self.lines[id].blocked = None;
        }
        let until = match step {
            Step::Idle => None,
            Step::Wait(until) => Some(until),
            Step::Item(item) => {
                self.put(Delivery::Item(item));
                self.moved(id);
                None
            }
            Step::Ready => match self.causes(now, id) {
                Causes::There(missing) => {
                    self.name(id, missing);
                    let before = self.measure(id);
                    let delivery = self.lines[id].line.deliver(now);
                    self.account(id, before);
                    self.put(delivery);
                    self.moved(id);
                    None
                }
                Causes::Waits { line, seq, until } => {
                    self.lines[line].waiters.insert((seq, id));
                    Some(until)
                }
            },
        };
        let line = &mut self.lines[id].line;
        if line.is_complete() {
            line.behind = false;
        } else {
            self.needy.insert(id);
        }
        self.set_deadline(id, until);
    }

    /// A line has got further: it may have more, and others may have waited for it.
    fn moved(&mut self, id: LineId) {
        self.lines[id].blocked = None;
        let next = self.lines[id].line.next;
        self.wake_waiters(id, next);
        self.mark(id);
    }

    /// Looks again at those that wait for a seq below `below`.
    fn wake_waiters(&mut self, id: LineId, below: u64) {
        while let Some(&(seq, waiter)) = self.lines[id].waiters.first().filter(|(seq, _)| *seq < below) {
            self.lines[id].waiters.remove(&(seq, waiter));
            self.mark(waiter);
        }
    }

    fn set_deadline(&mut self, id: LineId, until: Option<Instant>) {
        let before = std::mem::replace(&mut self.lines[id].deadline, until);
        if before != until {
            if let Some(before) = before {
                self.timers.remove(&(before, id));
            }
            if let Some(until) = until {
                self.timers.insert((until, id));
            }
        }
    }

    /// Looks for the causes of a line's next batch.
    fn causes(&mut self, now: Instant, id: LineId) -> Causes {
        let seal = self.lines[id].line.ready();
        if self.order == Order::Arrival || seal.parents().is_empty() || mutant("deliver_early") {
            return Causes::There(vec![]);
        }
        let (seq, parents) = (seal.seq(), seal.parents().clone());
        let since = match self.lines[id].blocked {
            Some(blocked) if blocked.seq == seq => blocked.since,
            _ => now,
        };
        let mut missing = vec![];
        for parent in parents.iter() {
            match self.cause(now, since, id, parent) {
                Cause::There => {}
                Cause::Missing(line, why) => missing.push((line, parent.seq, why)),
                Cause::Waits { line, until } => {
                    self.lines[id].blocked = Some(Blocked { seq, since, on: line });
                    return Causes::Waits { line, seq: parent.seq, until };
                }
            }
        }
        Causes::There(missing)
    }

    /// One cause of a batch that has waited since then.
    fn cause(&mut self, now: Instant, since: Instant, id: LineId, parent: &Parent) -> Cause {
        // An origin that nobody knows here is not waited for, nor is one of a realtime channel.
        let Some(lines) = self.by_origin.get(&parent.origin) else { return Cause::There };
        let is_there = |line: &&LineId| {
            let other = &self.lines[**line].line;
            **line == id || other.class == Class::Realtime || other.is_there(parent.seq)
        };
        let Some(&waited) = lines.first().filter(|_| !lines.iter().any(|line| is_there(&line))) else {
            return Cause::There;
        };
        let line = &self.lines[waited].line;
        if line.is_cut_off(parent.seq) {
            return Cause::Missing(waited, GapWhy::Unavailable);
        }
        let unconfirmed = line.started && parent.seq >= line.end();
        if unconfirmed && line.told.is_some_and(|(next, asked_at)| parent.seq >= next && since <= asked_at) {
            return Cause::Missing(waited, GapWhy::Denied);
        }
        // One that was waited for in vain, and has answered nothing for as long, is not waited for again.
        let is_gone = line.silent && line.told.is_none_or(|(_, asked_at)| asked_at + GAP_AFTER <= now);
        let mut until = if is_gone { now } else { line.moved_at.max(self.floor).max(since) + GAP_AFTER };
        let other = &self.lines[waited];
        let looks_again = other.is_dirty || other.deadline.is_some();
        if other.blocked.is_some() && looks_again && !self.waits_for(waited, id) {
            // It waits itself, and not for this one: it comes first, with or without what it waits for.
            until = until.max(other.deadline.map_or(now, |at| at.max(now)) + AFTER_OTHERS);
            self.mark(waited);
        }
        if now >= until {
            return Cause::Missing(waited, GapWhy::Unreachable);
        }
        if unconfirmed {
            let claimed = self.queries.entry(waited).or_default();
            *claimed = (*claimed).max(parent.seq.saturating_add(1));
            self.needy.insert(waited);
        }
        Cause::Waits { line: waited, until }
    }

    /// Does the next batch of one line wait for another line, at once or through others?
    fn waits_for(&self, line: LineId, other: LineId) -> bool {
        let mut on = line;
        for _ in 0..self.lines.len() {
            match self.lines[on].blocked {
                // What it waited for may have come: it looks again first.
                Some(_) if self.lines[on].is_dirty => return false,
                Some(blocked) if blocked.on == other => return true,
                Some(blocked) => on = blocked.on,
                None => return false,
            }
        }
        // A circle without the other: it is broken where it closes.
        false
    }

    /// Names the causes that the next batch of a line is delivered without.
    fn name(&mut self, id: LineId, missing: Vec<(LineId, u64, GapWhy)>) {
        let before = Dot { origin: self.lines[id].line.source.origin, seq: self.lines[id].line.ready().seq() };
        for (id, seq, why) in missing {
            let line = &mut self.lines[id].line;
            let source = line.source.clone();
            for range in line.name(seq, why) {
                let gap = Gap { source: source.clone(), range, why, before: Some(before) };
                self.put(Delivery::Item(Item::Gap(gap)));
            }
            self.wake_waiters(id, seq.saturating_add(1));
        }
    }
}

/// One cause of a batch.
enum Cause {
    There,
    Missing(LineId, GapWhy),
    Waits { line: LineId, until: Instant },
}
