//! A small set of seqs, as ranges.

use crate::core::SeqRange;

/// Seqs as sorted ranges that do not touch. Bounded: beyond [`RANGES_MAX`] the lowest go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<SeqRange>);

/// The most ranges of one set.
pub(crate) const RANGES_MAX: usize = 256;

impl Ranges {
    /// Adds the seqs of a range.
    pub(crate) fn insert(&mut self, range: SeqRange) {
        if range.is_empty() {
            return;
        }
        let begin = self.0.partition_point(|r| r.to < range.from);
        let end = self.0.partition_point(|r| r.from <= range.to);
        let merged =
            self.0[begin..end].iter().fold(range, |a, b| SeqRange { from: a.from.min(b.from), to: a.to.max(b.to) });
        self.0.splice(begin..end, [merged]);
        if self.0.len() > RANGES_MAX {
            self.0.remove(0);
        }
    }

    /// Whether it has all seqs of a range.
    pub(crate) fn holds(&self, range: SeqRange) -> bool {
        self.within(range).next() == Some(range)
    }

    /// Takes the seqs of a range out, and gives those that were in.
    pub(crate) fn take(&mut self, range: SeqRange) -> Vec<SeqRange> {
        let taken: Vec<SeqRange> = self.within(range).collect();
        if !taken.is_empty() {
            let cut = |r: &SeqRange| {
                let before = SeqRange { from: r.from, to: r.to.min(range.from) };
                let after = SeqRange { from: r.from.max(range.to), to: r.to };
                [before, after].into_iter().filter(|r| !r.is_empty())
            };
            self.0 = self.0.iter().flat_map(cut).collect();
        }
        taken
    }

    /// The parts of its ranges that lie in a range.
    pub(crate) fn within(&self, range: SeqRange) -> impl Iterator<Item = SeqRange> {
        let begin = self.0.partition_point(|r| r.to <= range.from);
        self.0[begin..]
            .iter()
            .take_while(move |r| r.from < range.to)
            .map(move |r| SeqRange { from: r.from.max(range.from), to: r.to.min(range.to) })
            .filter(|r| !r.is_empty())
    }

    /// The parts of a range that are not in the set.
    pub(crate) fn without(&self, range: SeqRange) -> Vec<SeqRange> {
        let mut from = range.from;
        let mut outside = Vec::new();
        for inside in self.within(range) {
            outside.push(SeqRange { from, to: inside.from });
            from = inside.to;
        }
        outside.push(SeqRange { from, to: range.to });
        outside.retain(|r| !r.is_empty());
        outside
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.within(SeqRange { from: seq, to: seq.saturating_add(1) }).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = SeqRange> {
        (0u64..40, 0u64..8).prop_map(|(from, len)| SeqRange { from, to: from + len })
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_plain_set(steps in prop::collection::vec((any::<bool>(), range()), 0..40), asked in range()) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (insert, range) in steps {
                if insert {
                    ranges.insert(range);
                    model.extend(range.from..range.to);
                } else {
                    let taken: Vec<u64> = ranges.take(range).iter().flat_map(|r| r.from..r.to).collect();
                    let expected: Vec<u64> = model.range(range.from..range.to).copied().collect();
                    prop_assert_eq!(&taken, &expected);
                    model.retain(|seq| !(range.from..range.to).contains(seq));
                }
                prop_assert!(ranges.0.windows(2).all(|w| w[0].to < w[1].from));
            }
            let all: Vec<u64> = ranges.0.iter().flat_map(|r| r.from..r.to).collect();
            prop_assert_eq!(all, model.iter().copied().collect::<Vec<_>>());
            let outside: Vec<u64> = ranges.without(asked).iter().flat_map(|r| r.from..r.to).collect();
            prop_assert_eq!(outside, (asked.from..asked.to).filter(|s| !model.contains(s)).collect::<Vec<_>>());
            prop_assert!((0..60).all(|seq| ranges.contains(seq) == model.contains(&seq)));
        }
    }

    #[test]
    fn a_set_of_too_many_ranges_forgets_the_lowest() {
        let mut ranges = Ranges::default();
        for n in 0..=RANGES_MAX as u64 {
            ranges.insert(SeqRange { from: 3 * n, to: 3 * n + 1 });
        }
        assert!(!ranges.contains(0) && ranges.contains(3));
        assert_eq!(ranges.0.len(), RANGES_MAX);
    }
}
