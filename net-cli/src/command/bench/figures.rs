//! What was measured, on what, for people and for programs.

use std::num::NonZeroUsize;

use serde::Serialize;

use crate::text::number;

/// The machine and the program: no figure is without them.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    version: &'static str,
    build: &'static str,
    cpus: usize,
    os: &'static str,
    arch: &'static str,
}

impl Machine {
    pub(super) fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            // Those that this process may use.
            cpus: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
        }
    }
}

/// What holds of all figures: a run of which it does not hold has none.
#[derive(Debug, Serialize)]
pub(super) struct Basis {
    pub(super) machine: Machine,
    sealed: bool,
    signed: bool,
    verified: bool,
    /// Every event came once and in order.
    valid: bool,
}

impl Basis {
    pub(super) fn here() -> Self {
        Self { machine: Machine::this(), sealed: true, signed: true, verified: true, valid: true }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, build, cpus, os, arch } = self;
        let noun = if *cpus == 1 { "CPU" } else { "CPUs" };
        write!(f, "net {version} ({build} build), {cpus} {noun}, {os} {arch}")
    }
}

/// The median of some rounds and the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Quartiles {
    /// A quarter of the rounds are below.
    q1: f64,
    pub(super) median: f64,
    /// Three quarters of the rounds are below.
    q3: f64,
}

impl Quartiles {
    /// Of these rounds, interpolated between neighbours; nothing of none.
    pub(super) fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = rounds.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        // In quarters of a place, so that no fraction has to be rounded.
        let at = |quarters: usize| {
            let place = sorted.len().saturating_sub(1) * quarters;
            let value = |index: usize| sorted.get(index).or_else(|| sorted.last()).copied().unwrap_or_default();
            let (below, above) = (value(place / 4), value(place / 4 + 1));
            let fraction = [0.0, 0.25, 0.5, 0.75][place % 4];
            below + (above - below) * fraction
        };
        Self { q1: at(1), median: at(2), q3: at(3) }
    }

    /// The same in another unit.
    pub(super) fn times(self, factor: f64) -> Self {
        Self { q1: self.q1 * factor, median: self.median * factor, q3: self.q3 * factor }
    }

    /// The quartiles in parentheses, for a column beside the median; nothing if they are one, as of one round.
    pub(super) fn range(&self) -> String {
        if self.q1 < self.q3 { format!("({} to {})", number(self.q1), number(self.q3)) } else { String::new() }
    }
}

/// Megabytes in so many bytes.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(super) fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated_and_order_does_not_matter() {
        assert_eq!(Quartiles::of([5.0, 1.0, 3.0, 2.0, 4.0]), Quartiles { q1: 2.0, median: 3.0, q3: 4.0 });
        assert_eq!(Quartiles::of([1.0, 2.0]), Quartiles { q1: 1.25, median: 1.5, q3: 1.75 });
        assert_eq!(Quartiles::of([7.0]), Quartiles { q1: 7.0, median: 7.0, q3: 7.0 });
        assert_eq!(Quartiles::of([]), Quartiles { q1: 0.0, median: 0.0, q3: 0.0 });
        assert_eq!(Quartiles::of([7.0]).range(), "");
        assert_eq!(Quartiles::of([1.0, 2.0]).times(4.0).range(), "(5.00 to 7.00)");
    }
}
