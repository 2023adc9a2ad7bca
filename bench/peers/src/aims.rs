//! The bars: how much of a peer's figure ours is to reach, and whether it does.

use std::fmt::Write as _;

use net_bench::Quartiles;
use serde_json::{Value, json};

use crate::drivers::Driver;
use crate::series::Measured;
use crate::suites::{Metric, Suite};

/// Ours to a peer in one scenario.
#[derive(Clone, Copy, Debug)]
struct Aim {
    suite: Suite,
    scenario: &'static str,
    metric: Metric,
    peer: Driver,
    /// The ratio that is to be reached, or, where less is better, not to be exceeded.
    bar: f64,
}

/// Who says so.
const SOURCE: &str = "design";

/// Pairs of runs without which there is no verdict.
const PAIRS_MIN: usize = 7;

/// How much worse than the bar the quartile on the bad side may be.
const SPREAD: f64 = 0.1;

#[rustfmt::skip]
const AIMS: &[Aim] = {
    use Driver::{Jetstream, JetstreamAlways, NatsTls, Redis, ZenohTls};
    use Metric::{P50, P99, PerSec};
    use Suite::{Durable, Fan, Latency, Pub, Replay};
    const fn aim(suite: Suite, scenario: &'static str, metric: Metric, peer: Driver, bar: f64) -> Aim {
        Aim { suite, scenario, metric, peer, bar }
    }
    &[
        aim(Pub, "64 B", PerSec, ZenohTls, 1.5),
        aim(Pub, "1 KiB", PerSec, ZenohTls, 0.9),
        aim(Pub, "64 KiB", PerSec, ZenohTls, 0.9),
        aim(Pub, "64 B", PerSec, NatsTls, 3.0),
        aim(Pub, "1 KiB", PerSec, NatsTls, 3.0),
        aim(Pub, "64 KiB", PerSec, NatsTls, 1.5),
        aim(Fan, "1→4, 64 B", PerSec, ZenohTls, 1.5),
        aim(Fan, "1→4, 1 KiB", PerSec, ZenohTls, 1.0),
        aim(Latency, "64 B", P50, ZenohTls, 1.0),
        aim(Latency, "64 B", P99, ZenohTls, 1.2),
        aim(Durable, "64 in flight", PerSec, JetstreamAlways, 10.0),
        aim(Durable, "64 in flight", PerSec, Jetstream, 1.0),
        aim(Replay, "256 B", PerSec, Jetstream, 2.0),
        aim(Replay, "256 B", PerSec, Redis, 2.0),
    ]
};

impl Aim {
    /// Ours to the peer, round by round.
    fn ratios(&self, measured: &[Measured]) -> Vec<f64> {
        let here = |m: &&Measured| m.suite == self.suite && m.scenario.name == self.scenario;
        let Some(measured) = measured.iter().find(here) else { return Vec::new() };
        let (ours, peer) = (measured.runs.get(&self.peer.opponent()), measured.runs.get(&self.peer));
        ours.zip(peer).map_or_else(Vec::new, |(ours, peer)| ours.ratios(peer, self.metric))
    }

    /// The quartile on the bad side, and how far it may go.
    fn quartile(&self, ratio: &Quartiles) -> (f64, f64) {
        if self.metric.less_is_better() {
            (ratio.high, self.bar * (1.0 + SPREAD))
        } else {
            (ratio.low, self.bar * (1.0 - SPREAD))
        }
    }

    fn verdict(&self, ratios: &[f64]) -> &'static str {
        if ratios.is_empty() {
            return "not measured";
        }
        let ratio = Quartiles::of(ratios);
        let reaches = |value: f64, bar: f64| if self.metric.less_is_better() { value <= bar } else { value >= bar };
        let (quartile, bar) = self.quartile(&ratio);
        match (reaches(ratio.median, self.bar) && reaches(quartile, bar), ratios.len() >= PAIRS_MIN) {
            (_, false) => "too few pairs",
            (true, true) => "met",
            (false, true) => "**not met**",
        }
    }
}

/// The aims of the suites that were measured, each with what was reached.
fn reached(measured: &[Measured]) -> impl Iterator<Item = (&'static Aim, Vec<f64>)> {
    let of = |aim: &&Aim| measured.iter().any(|m| m.suite == aim.suite);
    AIMS.iter().filter(of).map(|aim| (aim, aim.ratios(measured)))
}

/// The aims and the verdicts.
pub(crate) fn table(measured: &[Measured]) -> String {
    let mut table = format!(
        "\n## Aims\n\nSource of the bars: {SOURCE}. A bar is met if the median of at least {PAIRS_MIN} pairs reaches it and the \
         quartile on the bad side (the lower of a rate, the upper of a latency) is at most {:.0} % beyond it.\n\n\
         | suite | scenario | peer | bar | median ratio | quartile that counts | pairs | |\n|---|---|---|---:|---:|---:|---:|---|\n",
        SPREAD * 100.0
    );
    for (aim, ratios) in reached(measured) {
        let figures = if ratios.is_empty() {
            "– | –".to_owned()
        } else {
            let ratio = Quartiles::of(&ratios);
            let (quartile, limit) = aim.quartile(&ratio);
            format!("{:.2} | {quartile:.2} (limit {limit:.2})", ratio.median)
        };
        let sign = if aim.metric.less_is_better() { "≤" } else { "≥" };
        let _ = writeln!(
            table,
            "| {} | {}{} | {} | {sign} {} × | {figures} | {} | {} |",
            aim.suite.name(),
            aim.scenario,
            aim.metric.suffix(),
            aim.peer.name(),
            aim.bar,
            ratios.len(),
            aim.verdict(&ratios),
        );
    }
    table
}

/// The same as JSON.
pub(crate) fn json(measured: &[Measured]) -> Vec<Value> {
    let row = |(aim, ratios): (&Aim, Vec<f64>)| {
        json!({
            "suite": aim.suite.name(),
            "scenario": aim.scenario,
            "metric": aim.metric.name(),
            "peer": aim.peer.name(),
            "bar": aim.bar,
            "source": SOURCE,
            "verdict": aim.verdict(&ratios).trim_matches('*'),
            "ratios": ratios,
        })
    };
    reached(measured).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_aim_is_of_a_scenario_in_which_both_take_part() {
        for aim in AIMS {
            assert!(aim.suite.scenarios(1).iter().any(|s| s.name == aim.scenario), "{aim:?}");
            assert!(aim.peer.takes_part(aim.suite) && aim.peer.opponent().takes_part(aim.suite), "{aim:?}");
        }
    }

    #[test]
    fn a_verdict_needs_the_median_the_quartile_and_enough_pairs() {
        let rate = Aim { suite: Suite::Pub, scenario: "64 B", metric: Metric::PerSec, peer: Driver::Nats, bar: 2.0 };
        let latency = Aim { metric: Metric::P50, ..rate };
        let spread = |worst: f64| [worst, worst, 2.0, 2.0, 2.0, 2.0, 2.0];
        assert_eq!(rate.verdict(&[]), "not measured");
        assert_eq!(rate.verdict(&[9.0; 6]), "too few pairs");
        assert_eq!((rate.verdict(&[2.0; 7]), latency.verdict(&[2.0; 7])), ("met", "met"));
        assert_eq!((rate.verdict(&[1.99; 7]), latency.verdict(&[2.01; 7])), ("**not met**", "**not met**"));
        assert_eq!((rate.verdict(&spread(1.7)), rate.verdict(&spread(1.5))), ("met", "**not met**"));
        assert_eq!((latency.verdict(&spread(2.3)), latency.verdict(&spread(2.5))), ("met", "**not met**"));
    }
}
