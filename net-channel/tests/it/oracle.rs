//! Who knows everything: what was published after what, and whether what a subscription was handed agrees with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use net_channel::core::Delivery;
use net_channel::{GapWhy, Item, SeqRange};
use net_transport::Pair;

/// Of each origin the newest event that is a cause; all before it are causes too.
pub type Clock = BTreeMap<Pair, u64>;

/// One published event. Its causes are the event of its origin before it and what its origin had been given since that
/// one. What came before those are causes of theirs.
#[derive(Clone, Debug)]
pub struct Published {
    pub payload: Vec<u8>,
    pub causes: Clock,
}

/// Everything that was ever published.
#[derive(Debug, Default)]
pub struct Ledger {
    pub events: BTreeMap<Pair, BTreeMap<u64, Published>>,
    /// Where an origin signed two batches for one place: from which seq on, up to which incarnation.
    pub disputed: BTreeMap<Pair, SeqRange>,
}

impl Ledger {
    pub fn publish(&mut self, pair: Pair, seq: u64, event: Published) {
        let before = self.events.entry(pair).or_default().insert(seq, event);
        assert!(before.is_none() || self.is_disputed(&pair, seq), "seq {seq} was used twice");
    }

    pub fn is_disputed(&self, pair: &Pair, seq: u64) -> bool {
        self.disputed.get(pair).is_some_and(|range| (range.from..range.to).contains(&seq))
    }

    pub fn seqs(&self, pair: &Pair, range: SeqRange) -> impl Iterator<Item = u64> {
        let events = self.events.get(pair).filter(|_| !range.is_empty());
        events.into_iter().flat_map(move |events| events.range(range.from..range.to).map(|(seq, _)| *seq))
    }
}

/// What the mesh can say about one subscription at one moment.
pub trait Facts {
    /// Does the subscriber's node know of this producer?
    fn knows(&self, pair: &Pair) -> bool;
    /// The seq with which the origin said that the subscription begins.
    fn start(&self, pair: &Pair) -> Option<u64>;
    /// Does the origin's node have one of these events now?
    fn has(&self, pair: &Pair, range: SeqRange) -> bool;
    /// For how long on end the origin's node could be reached, at most, within the last five seconds.
    fn reachable(&self, pair: &Pair) -> Duration;
}

/// Checks one subscription, item by item.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    /// Behind the last event of each origin that was delivered or passed over.
    next: BTreeMap<Pair, u64>,
    named: BTreeMap<Pair, BTreeSet<u64>>,
    delivered: BTreeMap<Pair, BTreeSet<u64>>,
    forks: BTreeSet<Pair>,
    /// Whether causes of other origins must come first.
    causal: bool,
}

/// A live origin is asked again within a second or so, and answers: whoever could reach it that long had no gap to tell.
const REACHABLE: Duration = Duration::from_secs(3);

impl Witness {
    /// Of a subscription that begins at these positions.
    pub fn new(causal: bool, next: BTreeMap<Pair, u64>) -> Self {
        Self { causal, next, ..Self::default() }
    }

    pub fn take(&mut self, ledger: &Ledger, facts: &impl Facts, delivery: &Delivery) -> Result<(), String> {
        match delivery {
            Delivery::Batch { source, batch, skip, late, .. } => {
                for event in batch.events().skip(usize::from(*skip)) {
                    let seq = event.seq();
                    let is_late = late.iter().any(|range| (range.from..range.to).contains(&seq));
                    self.event(ledger, facts, source.pair, seq, event.payload(), is_late)?;
                }
                Ok(())
            }
            Delivery::Item(item) => self.item(ledger, facts, item),
            Delivery::Sealed { .. } | Delivery::Key { .. } => {
                Err("an application was handed what is for a keeper".into())
            }
        }
    }

    fn event(
        &mut self,
        ledger: &Ledger,
        facts: &impl Facts,
        pair: Pair,
        seq: u64,
        payload: &[u8],
        late: bool,
    ) -> Result<(), String> {
        let published = ledger.events.get(&pair).and_then(|events| events.get(&seq));
        let published = published.ok_or_else(|| format!("{seq} was never published"))?;
        let disputed = ledger.is_disputed(&pair, seq);
        if published.payload != payload && !disputed {
            return Err(format!("{seq} was never published like this"));
        }
        if !self.delivered.entry(pair).or_default().insert(seq) {
            return Err(format!("{seq} came twice"));
        }
        let was_named = self.named.entry(pair).or_default().remove(&seq);
        if late != was_named {
            return Err(format!("{seq} is marked late: {late}, a gap had named it: {was_named}"));
        }
        let next = self.next.get(&pair).copied().or_else(|| facts.start(&pair)).unwrap_or(seq);
        if late && seq < next {
            return Ok(());
        }
        if seq != next {
            return Err(format!("{seq} came where {next} was to come"));
        }
        self.next.insert(pair, seq + 1);
        if self.causal && !disputed && !late {
            for (other, cause) in published.causes.iter().filter(|(other, _)| **other != pair) {
                self.accounted(ledger, facts, other, *cause).map_err(|why| format!("{seq} came before {why}"))?;
            }
        }
        Ok(())
    }

    /// Is every event of this origin up to `cause` delivered, named, or none of this subscription's?
    fn accounted(&self, ledger: &Ledger, facts: &impl Facts, pair: &Pair, cause: u64) -> Result<(), String> {
        let named = |seq: &u64| self.named.get(pair).is_some_and(|named| named.contains(seq));
        if !facts.knows(pair) || named(&cause) || ledger.is_disputed(pair, cause) {
            return Ok(());
        }
        let Some(next) = self.next.get(pair).copied().or_else(|| facts.start(pair)) else {
            return Err(format!("its cause {cause} of an origin of which nothing has come yet"));
        };
        let missing = ledger.seqs(pair, SeqRange { from: next, to: cause + 1 });
        let missing = missing.into_iter().find(|seq| !named(seq) && !ledger.is_disputed(pair, *seq));
        missing.map_or(Ok(()), |seq| Err(format!("its cause {seq} (of those up to {cause}, {next} is next)")))
    }

    fn item(&mut self, ledger: &Ledger, facts: &impl Facts, item: &Item) -> Result<(), String> {
        match item {
            Item::Gap(gap) => {
                let pair = gap.source.pair;
                self.legal(ledger, facts, &pair, gap.range, gap.why)?;
                self.name(ledger, &pair, gap.range);
                if gap.before.is_none() {
                    self.pass(&pair, gap.range.from, gap.range.to)?;
                }
            }
            Item::Trimmed(trimmed) => {
                let (pair, range) = (trimmed.source.pair, SeqRange { from: trimmed.asked, to: trimmed.first });
                self.legal(ledger, facts, &pair, range, GapWhy::Trimmed)?;
                self.name(ledger, &pair, range);
                self.pass(&pair, range.from, range.to)?;
            }
            Item::Restart(restart) => {
                let (pair, range) =
                    (restart.source.pair, SeqRange { from: restart.last_seen + 1, to: restart.incarnation });
                self.name(ledger, &pair, range);
                self.pass(&pair, range.from, range.to)?;
            }
            Item::Equivocation(fork) => {
                let pair = fork.source.pair;
                if !ledger.disputed.contains_key(&pair) {
                    return Err("an honest origin is accused".into());
                }
                self.forks.insert(pair);
            }
            other => return Err(format!("{other} was told")),
        }
        Ok(())
    }

    fn pass(&mut self, pair: &Pair, from: u64, to: u64) -> Result<(), String> {
        match self.next.insert(*pair, to) {
            Some(next) if next != from => Err(format!("passed over {from}..{to} where {next} was to come")),
            _ => Ok(()),
        }
    }

    fn name(&mut self, ledger: &Ledger, pair: &Pair, range: SeqRange) {
        let delivered = self.delivered.entry(*pair).or_default();
        let seqs = ledger.seqs(pair, range).filter(|seq| !delivered.contains(seq));
        self.named.entry(*pair).or_default().extend(seqs);
    }

    /// Whether this gap had to be: no source had the events, or none could be reached.
    fn legal(
        &self,
        ledger: &Ledger,
        facts: &impl Facts,
        pair: &Pair,
        range: SeqRange,
        why: GapWhy,
    ) -> Result<(), String> {
        let honest = ledger.seqs(pair, range).any(|seq| !ledger.is_disputed(pair, seq));
        let legal = match why {
            _ if ledger.disputed.contains_key(pair) => true,
            GapWhy::Unreachable => facts.reachable(pair) < REACHABLE,
            GapWhy::Denied => !honest,
            GapWhy::Realtime => true,
            _ => !facts.has(pair, range),
        };
        if legal { Ok(()) } else { Err(format!("a gap {}..{} ({why}) that did not have to be", range.from, range.to)) }
    }

    /// Whether everything that was published has come or been named, up to the end.
    pub fn complete(&self, ledger: &Ledger, facts: &impl Facts, pair: &Pair) -> Result<(), String> {
        if ledger.disputed.contains_key(pair) {
            return if self.forks.contains(pair) { Ok(()) } else { Err("an equivocation was not told".into()) };
        }
        let Some((last, _)) = ledger.events.get(pair).and_then(BTreeMap::last_key_value) else { return Ok(()) };
        match self.next.get(pair).copied().or_else(|| facts.start(pair)) {
            Some(next) if next == last + 1 => Ok(()),
            next => Err(format!("the end, {last}, was not heard: {next:?} is next")),
        }
    }
}

/// One origin's events as a subscription saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Event(u64, Vec<u8>),
    Late(u64, Vec<u8>),
    Gap(SeqRange),
    Restart { last_seen: u64, incarnation: u64 },
    Sealed(SeqRange),
    Equivocation { seq: u64, proved: bool },
    Trimmed { asked: u64, first: u64 },
}

/// What one origin's events must look like to a subscriber that was there from the first: every published event once
/// and in order, and what is missing named by a gap or a restart.
pub fn check_complete(published: &BTreeMap<u64, Published>, seen: &[Seen]) -> Result<(), String> {
    let mut next = None;
    let mut missing: BTreeSet<u64> = published.keys().copied().collect();
    let named = |missing: &mut BTreeSet<u64>, range: SeqRange| {
        missing.retain(|seq| !(range.from..range.to).contains(seq));
    };
    for item in seen {
        match item {
            Seen::Event(seq, payload) => {
                if next.is_some_and(|next| *seq < next) {
                    return Err(format!("{seq} came after {next:?}"));
                }
                next = Some(seq + 1);
                match published.get(seq) {
                    Some(expected) if expected.payload == *payload => {}
                    _ => return Err(format!("{seq} was never published like this")),
                }
                if !missing.remove(seq) {
                    return Err(format!("{seq} came twice"));
                }
            }
            Seen::Late(..) => {}
            Seen::Gap(range) | Seen::Sealed(range) => named(&mut missing, *range),
            Seen::Restart { last_seen, incarnation } => {
                named(&mut missing, SeqRange { from: last_seen + 1, to: *incarnation });
            }
            Seen::Trimmed { asked, first } => named(&mut missing, SeqRange { from: *asked, to: *first }),
            Seen::Equivocation { seq, .. } => return Err(format!("equivocation at {seq}")),
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("{} events missing and not named, first {:?}", missing.len(), missing.first()))
    }
}
