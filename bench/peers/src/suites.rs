//! What is measured: the suites and their scenarios.

use crate::drivers::Driver;
use crate::role::Job;

/// A group of scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// One publisher, one subscriber: events a second at 64 B, 1 KiB and 64 KiB.
    Pub,
    /// One publisher, four subscribers: events a second and subscriber at 64 B and 1 KiB.
    Fan,
    /// One-way latency of 64 B at 1,000 events a second.
    Latency,
    /// Acknowledged appends of 256 B a second, with 1, 64 and 256 unacknowledged at a time.
    Durable,
    /// Reading records of 256 B from the first on: 1,000,000 of them, if no other number is given.
    Replay,
}

impl Suite {
    pub(crate) const ALL: [Self; 5] = [Self::Pub, Self::Fan, Self::Latency, Self::Durable, Self::Replay];

    /// The name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pub => "pub",
            Self::Fan => "fan",
            Self::Latency => "latency",
            Self::Durable => "durable",
            Self::Replay => "replay",
        }
    }

    /// What its figures are.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Pub => "Publish to one subscriber, events/s received",
            Self::Fan => "Publish to four subscribers, events/s received by each",
            Self::Latency => "One-way latency at 1,000 events/s, µs",
            Self::Durable => "Durable append of 256 B, acknowledged records/s",
            Self::Replay => "Replay of records of 256 B from the first on, records/s",
        }
    }

    /// Whether this is a peer beside which ours is run, back to back.
    pub(crate) fn is_reference(self, driver: Driver) -> bool {
        match self {
            Self::Pub | Self::Fan | Self::Latency => driver == Driver::ZenohTls,
            Self::Durable => matches!(driver, Driver::Jetstream | Driver::Okaywal),
            Self::Replay => matches!(driver, Driver::Jetstream | Driver::Redis | Driver::Okaywal),
        }
    }

    /// Its scenarios. `records` is the length of a replay.
    pub(crate) fn scenarios(self, records: u64) -> Vec<Scenario> {
        let scenario = |name: String, job, payload_len, subscribers| Scenario { name, job, payload_len, subscribers };
        let sizes = [("64 B", 64), ("1 KiB", 1 << 10), ("64 KiB", 64 << 10)];
        match self {
            Self::Pub => sizes.map(|(name, len)| scenario(name.to_owned(), Job::Throughput, len, 1)).into(),
            Self::Fan => sizes[..2]
                .iter()
                .map(|(name, len)| scenario(format!("1→4, {name}"), Job::Throughput, *len, 4))
                .collect(),
            Self::Latency => vec![scenario("64 B".to_owned(), Job::Latency { per_sec: 1_000 }, 64, 1)],
            Self::Durable => [1, 64, 256]
                .map(|in_flight| scenario(format!("{in_flight} in flight"), Job::Append { in_flight }, 256, 0))
                .into(),
            Self::Replay => vec![scenario("256 B".to_owned(), Job::Replay { records }, 256, 0)],
        }
    }
}

/// One thing that is measured of every driver.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) job: Job,
    pub(crate) payload_len: usize,
    pub(crate) subscribers: usize,
}

impl Scenario {
    /// Appends in flight, where there are any.
    pub(crate) fn in_flight(&self) -> Option<usize> {
        match self.job {
            Job::Append { in_flight } => Some(in_flight),
            _ => None,
        }
    }
}

/// What a run yields: a name and whether less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    PerSec,
    P50,
    P99,
}

impl Metric {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PerSec => "per_sec",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
        }
    }

    /// A suffix that tells the metrics of one scenario apart.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::PerSec => "",
            Self::P50 => ", p50",
            Self::P99 => ", p99",
        }
    }

    pub(crate) fn less_is_better(self) -> bool {
        self != Self::PerSec
    }
}
