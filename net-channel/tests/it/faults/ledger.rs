//! What was delivered, and what was excused.

use std::time::{Duration, Instant};

use net_channel::core::SeqRange;

/// The seqs of one origin's channel, as a subscriber was handed them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In the order in which they came; neighbours in one.
    runs: Vec<SeqRange>,
    excused: Vec<SeqRange>,
    pub(super) gaps: u64,
    pub(super) restarts: u64,
    last: Option<Instant>,
    pub(super) longest_pause: Duration,
}

impl Ledger {
    pub(super) fn got(&mut self, range: SeqRange, at: Instant) {
        match self.runs.last_mut() {
            Some(last) if last.to == range.from => last.to = range.to,
            _ => self.runs.push(range),
        }
        if let Some(last) = self.last.replace(at) {
            self.longest_pause = self.longest_pause.max(at.saturating_duration_since(last));
        }
    }

    pub(super) fn excuse(&mut self, range: SeqRange, why: &str) {
        self.excused.push(range);
        match why {
            "gap" => self.gaps += range.len(),
            _ => self.restarts += 1,
        }
    }

    /// Whether this seq has come or has been excused.
    pub(super) fn covers(&self, seq: u64) -> bool {
        covers(&self.runs, seq) || covers(&self.excused, seq)
    }

    pub(super) fn events(&self) -> u64 {
        self.runs.iter().map(SeqRange::len).sum()
    }

    /// Whether all came in ascending order.
    pub(super) fn in_order(&self) -> bool {
        self.runs.windows(2).all(|pair| pair[0].to <= pair[1].from)
    }

    /// Events that came more than once.
    pub(super) fn duplicates(&self) -> u64 {
        let mut runs = self.runs.clone();
        runs.sort_unstable_by_key(|run| run.from);
        let (mut end, mut twice) = (0, 0);
        for run in runs {
            twice += run.to.min(end).saturating_sub(run.from);
            end = end.max(run.to);
        }
        twice
    }

    /// Of these seqs, how many did not come, and how many of those were not excused either.
    pub(super) fn lost(&self, sent: &[u64]) -> (u64, u64) {
        let (runs, excused) = (sorted(&self.runs), sorted(&self.excused));
        let lost: Vec<_> = sent.iter().filter(|seq| !runs.covers(**seq)).collect();
        let untold = lost.iter().filter(|seq| !excused.covers(***seq)).count();
        (lost.len() as u64, untold as u64)
    }
}

fn covers(ranges: &[SeqRange], seq: u64) -> bool {
    // From the end: what is asked for is mostly recent.
    ranges.iter().rev().any(|range| (range.from..range.to).contains(&seq))
}

/// Ranges by their begin, none inside another.
struct Sorted(Vec<SeqRange>);

fn sorted(ranges: &[SeqRange]) -> Sorted {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable_by_key(|range| (range.from, std::cmp::Reverse(range.to)));
    let mut end = 0;
    ranges.retain(|range| {
        let reaches_further = range.to > end;
        end = end.max(range.to);
        reaches_further
    });
    Sorted(ranges)
}

impl Sorted {
    fn covers(&self, seq: u64) -> bool {
        let behind = self.0.partition_point(|range| range.from <= seq);
        self.0[..behind].last().is_some_and(|range| seq < range.to)
    }
}

/// Median and worst.
pub(super) fn median_and_worst(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

#[test]
fn ledger_tells_losses_duplicates_and_disorder_apart() {
    let now = Instant::now();
    let range = |from, to| SeqRange { from, to };
    let mut ledger = Ledger::default();
    ledger.got(range(1, 5), now);
    ledger.got(range(5, 9), now);
    ledger.excuse(range(9, 12), "gap");
    ledger.got(range(14, 20), now);
    assert!(ledger.in_order());
    assert_eq!((ledger.events(), ledger.duplicates(), ledger.gaps), (14, 0, 3));
    assert_eq!(ledger.lost(&[1, 8, 9, 11, 12, 13, 14, 19, 20]), (5, 3));
    assert!(ledger.covers(10) && !ledger.covers(12));
    ledger.got(range(18, 22), now);
    assert!(!ledger.in_order());
    assert_eq!(ledger.duplicates(), 2);
}
