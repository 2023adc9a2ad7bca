//! One round of `net bench log`: events are appended to a log, and read again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use net::identity::EntityKey;
use net::redex::{Entropy, EventItem, Log, LogConfig, Start, Writer};

use super::tally::{Payload, number_of};
use crate::failure::{Failure, chain};

/// What is done on a thread that may block.
pub(super) struct Work {
    /// Where the log is made, again and again.
    pub(super) dir: PathBuf,
    pub(super) size: usize,
    pub(super) stop: Arc<AtomicBool>,
}

/// One round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) events: u64,
    pub(super) appends_per_s: f64,
    pub(super) replay_per_s: f64,
}

impl Work {
    /// A log of its own: what is appended is read again, and given up.
    pub(super) fn round(&self, waiting: usize, secs: Duration) -> Result<Round, Failure> {
        let config = LogConfig::default().ring_secret(Entropy::system().bytes());
        let log = Log::open(&self.dir, config.clone()).map_err(|error| failed(&error))?;
        let writer = log.writer(Arc::new(EntityKey::generate())).map_err(|error| failed(&error))?;
        let began = Instant::now();
        let events = self.append(&writer, waiting, began + secs)?;
        let appends_per_s = rate(events, began.elapsed());
        self.go_on()?;
        drop(writer);
        log.close().map_err(|error| failed(&error))?;
        let log = Log::open(&self.dir, config).map_err(|error| failed(&error))?;
        let began = Instant::now();
        let found = self.replay(&log)?;
        let replay_per_s = rate(events, began.elapsed());
        found.check(events)?;
        drop(log);
        std::fs::remove_dir_all(&self.dir)?;
        Ok(Round { events, appends_per_s, replay_per_s })
    }

    /// Appends until the time is over, so many at a time; how many were acknowledged as durable.
    fn append(&self, writer: &Writer, waiting: usize, end: Instant) -> Result<u64, Failure> {
        let next = AtomicU64::new(0);
        let one = || {
            let mut payload = Payload::new(self.size);
            while Instant::now() < end && !self.stopped() {
                let event = payload.event(next.fetch_add(1, Ordering::Relaxed), 0);
                if !writer.append(event).map_err(|error| failed(&error))?.is_durable() {
                    return Err(invalid("an append was acknowledged that is not on the disk"));
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..waiting).map(|_| std::thread::Builder::new().spawn_scoped(scope, one)).collect();
            // All are waited for, whatever becomes of one.
            let ended = threads.into_iter().map(|thread| {
                let ended = thread?.join();
                Ok::<_, Failure>(ended.unwrap_or_else(|_| Err(Failure::new("a thread that appends has failed"))))
            });
            ended.collect::<Vec<_>>().into_iter().try_for_each(|ended| ended?)
        })?;
        Ok(next.into_inner())
    }

    /// Reads everything again.
    fn replay(&self, log: &Log) -> Result<Found, Failure> {
        let mut found = Found::default();
        for item in log.events(Start::Earliest).map_err(|error| failed(&error))? {
            match item.map_err(|error| failed(&error))? {
                EventItem::Event(event) => found.add(number_of(event.payload()).unwrap_or(u64::MAX)),
                other => return Err(invalid(&format!("behind {} events the log has {other:?}", found.events))),
            }
            self.go_on()?;
        }
        Ok(found)
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.stopped() { Err(Failure::new("interrupted")) } else { Ok(()) }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Which events there are, in whichever order: their number, and a sum of hashes of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    events: u64,
    sum: u64,
}

impl Found {
    fn add(&mut self, number: u64) {
        self.events += 1;
        self.sum = self.sum.wrapping_add(mix(number));
    }

    /// Whether these are the first so many, each once.
    fn check(self, appended: u64) -> Result<(), Failure> {
        let mut all = Self::default();
        (0..appended).for_each(|number| all.add(number));
        if self == all {
            return Ok(());
        }
        let found = self.events;
        Err(invalid(&format!("{appended} events were acknowledged, and {found} are in the log, not each of them once")))
    }
}

/// The finalizer of splitmix64: other numbers have other sums.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(format!("the log cannot be written or read: {}", chain(error)))
        .next("see that the disk has room and is well, or take another: `net bench log --dir DIRECTORY`")
}

fn invalid(why: &str) -> Failure {
    Failure::new(format!("this run is not valid and has no figures: {why}"))
        .next("the same command again; if it stays so, look at the disk: `dmesg`")
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(events: u64, time: Duration) -> f64 {
    events as f64 / time.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(numbers: &[u64]) -> Found {
        let mut found = Found::default();
        numbers.iter().for_each(|number| found.add(*number));
        found
    }

    #[test]
    fn each_event_once_in_whichever_order_counts() {
        assert_eq!(found(&[2, 0, 1]).check(3), Ok(()));
        assert_eq!(found(&[]).check(0), Ok(()));
    }

    #[test]
    fn event_that_is_missing_or_there_twice_does_not_count() {
        // The last has the count and the sum of 0, 1 and 2.
        for numbers in [&[0, 1][..], &[0, 1, 2, 3], &[0, 1, 1], &[0, 0, 3]] {
            let failure = found(numbers).check(3).expect_err("not 0, 1 and 2");
            assert!(failure.message.contains("3 events were acknowledged"), "{failure:?}");
        }
    }

    #[test]
    fn round_appends_reads_again_and_leaves_nothing() {
        let within = tempfile::tempdir().expect("a directory");
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work { dir: within.path().join("log"), size: 256, stop: stop.clone() };
        let round = work.round(4, Duration::from_millis(20)).expect("a round");
        assert!(round.events > 0 && round.appends_per_s > 0.0 && round.replay_per_s > 0.0, "{round:?}");
        assert!(!work.dir.exists());
        stop.store(true, Ordering::Relaxed);
        assert!(work.round(4, Duration::from_secs(3_600)).is_err_and(|failure| failure.message == "interrupted"));
    }
}
