//! Runs in turn, and what they say together.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use net_bench::Quartiles;

use crate::drivers::Driver;
use crate::run::{Bench, Figures, Preloaded};
use crate::suites::{Metric, Scenario, Suite};

/// After so many failures without a success a driver is left out of a scenario.
const FAILURES_MAX: usize = 2;

/// All runs of one driver in one scenario, by round.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) figures: Vec<Option<Figures>>,
    /// Why the runs that do not count do not.
    pub(crate) faults: Vec<String>,
    /// Why there are none, if there cannot be any.
    pub(crate) absent: Option<String>,
}

/// One scenario, all drivers.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) suite: Suite,
    pub(crate) scenario: Scenario,
    pub(crate) runs: BTreeMap<Driver, Runs>,
    /// Rounds that fitted into the time.
    pub(crate) rounds: usize,
}

impl Measured {
    /// Which of ours this peer is compared with, and its runs: the one that does what the peer does, if it was measured.
    pub(crate) fn ours(&self, peer: Driver) -> Option<(Driver, &Runs)> {
        let ours = |driver: &Driver| driver.is_ours() && !peer.is_ours();
        let proper = self.runs.get_key_value(&peer.opponent());
        let found = proper.into_iter().chain(&self.runs).find(|(driver, _)| ours(driver));
        found.map(|(driver, runs)| (*driver, runs))
    }
}

impl Runs {
    /// Median and quartiles of the runs that count.
    pub(crate) fn quartiles(&self, metric: Metric) -> Option<Quartiles> {
        let values: Vec<f64> = self.figures.iter().flatten().filter_map(|f| f.get(&metric).copied()).collect();
        (!values.is_empty()).then(|| Quartiles::of(&values))
    }

    /// The ratios within the rounds in which both count.
    pub(crate) fn ratios(&self, to: &Self, metric: Metric) -> Vec<f64> {
        let pairs = self.figures.iter().zip(&to.figures);
        pairs.filter_map(|(a, b)| Some(a.as_ref()?.get(&metric)? / b.as_ref()?.get(&metric)?)).collect()
    }

    /// Their median and quartiles.
    pub(crate) fn ratio(&self, to: &Self, metric: Metric) -> Option<Quartiles> {
        let ratios = self.ratios(to, metric);
        (!ratios.is_empty()).then(|| Quartiles::of(&ratios))
    }

    fn hopeless(&self) -> bool {
        self.absent.is_some() || (self.faults.len() >= FAILURES_MAX && self.figures.iter().all(Option::is_none))
    }
}

/// The order of a round: each of ours beside the peer that counts; every other round the other way round.
fn order(drivers: &[Driver], suite: Suite, round: usize) -> Vec<Driver> {
    let mut order = drivers.to_vec();
    order.sort_by_key(|driver| (driver.opponent(), !driver.is_ours(), !suite.is_reference(*driver)));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Measures one scenario, `rounds` times each driver in turn, but no longer than `max`.
pub(crate) async fn measure(
    bench: &Bench,
    suite: Suite,
    scenario: Scenario,
    drivers: &[(Driver, Option<String>)],
    rounds: usize,
    max: Duration,
) -> Result<Measured> {
    let mut runs: BTreeMap<Driver, Runs> = BTreeMap::new();
    let mut preloaded: BTreeMap<Driver, Preloaded> = BTreeMap::new();
    for (driver, absent) in drivers {
        let cannot = driver.cannot(scenario.payload_len, scenario.in_flight()).map(str::to_owned);
        let mut all = Runs { absent: absent.clone().or(cannot), ..Runs::default() };
        if suite == Suite::Replay && all.absent.is_none() {
            eprintln!("  {}: preparing", driver.name());
            match bench.preload(*driver, &scenario).await {
                Ok(records) => drop(preloaded.insert(*driver, records)),
                Err(error) => all.absent = Some(format!("{error:#}")),
            }
        }
        runs.insert(*driver, all);
    }
    let begin = Instant::now();
    let mut done = 0;
    for round in 0..rounds {
        let per_round = if round == 0 { Duration::ZERO } else { begin.elapsed() / u32::try_from(round)? };
        if round > 0 && begin.elapsed() + per_round > max {
            eprintln!("  {round} of {rounds} rounds fitted into {} s", max.as_secs());
            break;
        }
        for driver in order(&drivers.iter().map(|(driver, _)| *driver).collect::<Vec<_>>(), suite, round) {
            let Some(all) = runs.get_mut(&driver) else { continue };
            if all.hopeless() {
                all.figures.push(None);
                continue;
            }
            let run = match preloaded.get(&driver) {
                Some(records) => bench.replay(driver, &scenario, records).await,
                None if suite == Suite::Replay => bail!("{} was not prepared", driver.name()),
                None => bench.run(driver, &scenario).await,
            };
            match &run {
                Ok(figures) => {
                    let said: Vec<_> = figures.iter().map(|(m, value)| format!("{} {value:.0}", m.name())).collect();
                    eprintln!("  {} {} round {}: {}", scenario.name, driver.name(), round + 1, said.join(", "));
                }
                Err(error) => {
                    eprintln!("  {} {} round {}: does not count: {error:#}", scenario.name, driver.name(), round + 1);
                    all.faults.push(format!("{error:#}"));
                }
            }
            all.figures.push(run.ok());
        }
        done = round + 1;
    }
    Ok(Measured { suite, scenario, runs, rounds: done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_the_reference_are_neighbours_in_every_round() {
        let drivers = [Driver::Nats, Driver::ZenohTls, Driver::Redis, Driver::Ours];
        let even = order(&drivers, Suite::Pub, 0);
        assert_eq!(even[..2], [Driver::Ours, Driver::ZenohTls]);
        let odd = order(&drivers, Suite::Pub, 1);
        assert_eq!(odd[2..], [Driver::ZenohTls, Driver::Ours]);
        let drivers =
            [Driver::Ours, Driver::Redex, Driver::RedisAlways, Driver::Jetstream, Driver::Fjall, Driver::Okaywal];
        let both = order(&drivers, Suite::Durable, 0);
        assert_eq!(both[..2], [Driver::Ours, Driver::Jetstream]);
        assert_eq!(both[3..5], [Driver::Redex, Driver::Okaywal]);
    }

    #[test]
    fn a_peer_is_compared_with_the_one_of_ours_that_does_the_same() {
        let measured = |drivers: &[Driver]| Measured {
            suite: Suite::Durable,
            scenario: Suite::Durable.scenarios(1).remove(0),
            runs: drivers.iter().map(|driver| (*driver, Runs::default())).collect(),
            rounds: 0,
        };
        let ours = |drivers: &[Driver], peer| measured(drivers).ours(peer).map(|(driver, _)| driver);
        let all = [Driver::Ours, Driver::Redex, Driver::Jetstream, Driver::Okaywal];
        assert_eq!(ours(&all, Driver::Jetstream), Some(Driver::Ours));
        assert_eq!(ours(&all, Driver::Okaywal), Some(Driver::Redex));
        assert_eq!(ours(&all, Driver::Redex), None);
        assert_eq!(ours(&all[1..], Driver::Jetstream), Some(Driver::Redex));
        assert_eq!(ours(&all[2..], Driver::Jetstream), None);
    }

    #[test]
    fn a_ratio_is_taken_within_rounds_in_which_both_count() {
        let runs = |values: &[Option<f64>]| Runs {
            figures: values.iter().map(|v| v.map(|v| Figures::from([(Metric::PerSec, v)]))).collect(),
            ..Runs::default()
        };
        let (ours, peer) = (runs(&[Some(4.0), None, Some(9.0)]), runs(&[Some(2.0), Some(1.0), Some(3.0)]));
        let ratio = ours.ratio(&peer, Metric::PerSec).expect("two rounds count");
        assert!((ratio.median - 2.5).abs() < 1e-9);
    }
}
