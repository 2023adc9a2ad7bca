//! How values are spread: counted in fixed memory, however many there are.

use serde::{Deserialize, Serialize};

/// Steps within a power of two are so many bits fine: a value is known to less than 1 %.
const FINE_BITS: u32 = 8;
const FINE: u64 = 1 << FINE_BITS;

/// Values, as counts of logarithmic steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// By [`step`]; as long as the largest value needs, at most 7,424.
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

/// The step of a value: below [`FINE`] each value has its own.
fn step(value: u64) -> usize {
    let octave = (value | 1).ilog2().saturating_sub(FINE_BITS - 1);
    let place = u64::from(octave) * (FINE / 2) + (value >> octave);
    usize::try_from(place).expect("at most 64 octaves")
}

/// The smallest value of a step.
fn value_of(step: usize) -> u64 {
    let step = step as u64;
    let octave = (step / (FINE / 2)).saturating_sub(1);
    (step - octave * (FINE / 2)) << octave
}

impl Spread {
    pub(super) fn add(&mut self, value: u64) {
        let step = step(value);
        if self.counts.len() <= step {
            self.counts.resize(step + 1, 0);
        }
        self.counts[step] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// How many values there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The largest value; 0 if there is none.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The value that this part of all values, of 1,000, does not exceed, to 1 %; 0 if there is none.
    pub(super) fn quantile(&self, permille: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(permille)).div_ceil(1_000).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen >= rank
        });
        // The whole step is meant, to its end: that of the last step is the largest number there is, and 0 the next one.
        reached.map_or(0, |step| value_of(step + 1).wrapping_sub(1).min(self.max))
    }

    /// How many values are in each of these ranges, to 1 %: below the first edge, between two, and from the last on.
    pub(super) fn between(&self, edges: &[u64]) -> Vec<u64> {
        let mut sums = vec![0; edges.len() + 1];
        for (step, count) in self.counts.iter().enumerate() {
            sums[edges.partition_point(|edge| *edge <= value_of(step))] += count;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: impl IntoIterator<Item = u64>) -> Spread {
        let mut spread = Spread::default();
        values.into_iter().for_each(|value| spread.add(value));
        spread
    }

    #[test]
    fn steps_follow_each_other_and_hold_their_values_to_one_percent() {
        for value in (0..100_000).chain([u64::MAX / 3, u64::MAX - 1, u64::MAX]) {
            let step = step(value);
            let first = value_of(step);
            assert!(first <= value && value - first <= value / 100, "{value} is in the step from {first} on");
            assert!(step < 7_424, "{step}");
        }
        assert!((0..step(u64::MAX)).all(|step| value_of(step) < value_of(step + 1)));
    }

    #[test]
    fn quantiles_are_of_the_sorted_values() {
        let values = spread((1..=100).rev());
        assert_eq!([500, 900, 990, 1_000].map(|permille| values.quantile(permille)), [50, 90, 99, 100]);
        assert_eq!((values.count(), values.max()), (100, 100));
        let large = spread([1_000_000, 2_000_000, 3_000_000]).quantile(500);
        assert!((2_000_000..2_020_000).contains(&large), "{large}");
        assert_eq!(spread([7]).quantile(0), 7);
        assert_eq!(spread([]).quantile(500), 0);
    }

    #[test]
    fn the_largest_value_of_all_is_counted_too() {
        let values = spread([0, u64::MAX]);
        assert_eq!((values.quantile(500), values.quantile(1_000)), (0, u64::MAX));
    }

    #[test]
    fn ranges_take_all_values_once() {
        let values = spread([1, 9, 10, 19, 20, 1_000]);
        assert_eq!(values.between(&[10, 20]), [2, 2, 2]);
        assert_eq!(spread([]).between(&[10]), [0, 0]);
    }
}
