//! `net bench pub`: how many events go through.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use net::Channel;
use serde::Serialize;

use super::figures::{Basis, Quartiles, megabytes};
use super::mesh::Stage;
use super::tally::{Outcome, Payload};
use super::{Rounds, parse_event_size, unless_interrupted};
use crate::failure::{Failure, chain};
use crate::output::{Look, Output, To, printed};
use crate::text::{count, number, size, table};

/// Measure how many events a second go from a publisher to subscribers
///
/// Publisher and subscribers are processes of their own on the loopback interface. The publisher calls `publish` for one
/// event after the other; each subscriber counts what it has been handed, from the first event to the last. Sizes are those
/// of payloads, and MB/s of payloads too.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net bench pub\n  net bench pub --size 1KiB --subscribers 4\n  net bench pub --size 64,1KiB --secs 5 --rounds 9 --json"
)]
pub(super) struct Publish {
    /// Bytes of an event, for example 64 or 1KiB; several are measured one after the other
    #[arg(
        long,
        value_name = "SIZE",
        value_delimiter = ',',
        default_value = "64,1KiB,64KiB",
        value_parser = parse_event_size
    )]
    size: Vec<usize>,
    /// Processes that subscribe
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    subscribers: u8,
    #[command(flatten)]
    rounds: Rounds,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    #[serde(flatten)]
    basis: Basis,
    subscribers: u8,
    rounds: u32,
    secs: f64,
    results: Vec<Row>,
}

/// The figures of one size.
#[derive(Debug, Serialize)]
struct Row {
    /// Bytes of an event.
    size: usize,
    /// Events that all subscribers of all rounds together had.
    events: u64,
    /// Of each subscriber.
    events_per_s: Quartiles,
    mb_per_s: Quartiles,
}

/// Bytes that are published between two looks at the clock, and events at most.
const STRIDE_BYTES: usize = 16 << 10;
const STRIDE_EVENTS_MAX: usize = 64;

impl Publish {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, Failure> {
        let results = unless_interrupted(output, "net bench pub", self.measure(output)).await?;
        printed(self.report(output, results), ExitCode::SUCCESS)
    }

    async fn measure(&self, output: &Output) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        for bytes in &self.size {
            let (mut events, mut rates) = (0, Vec::new());
            for round in 1..=self.rounds.rounds {
                let last = rates.last().map_or_else(String::new, |rate| format!(", {} events/s", number(*rate)));
                output.progress(format_args!("{}, round {round} of {}{last}", size(*bytes as u64), self.rounds.rounds));
                let outcomes = self.round(*bytes).await?;
                events += outcomes.iter().map(|outcome| outcome.received).sum::<u64>();
                let rate: f64 = outcomes.iter().map(Outcome::rate).sum();
                rates.push(rate / f64::from(self.subscribers));
            }
            let events_per_s = Quartiles::of(rates);
            rows.push(Row { size: *bytes, events, events_per_s, mb_per_s: events_per_s.times(megabytes(*bytes)) });
        }
        Ok(rows)
    }

    /// Nodes and processes of its own, so that no round profits from the one before.
    async fn round(&self, size: usize) -> Result<Vec<Outcome>, Failure> {
        let stage = Stage::start(usize::from(self.subscribers), size, None).await?;
        let run = stage.run(async |channel| flood(channel, size, self.rounds.secs).await).await?;
        Ok(run.outcomes)
    }

    fn report(self, output: &Output, results: Vec<Row>) -> io::Result<()> {
        let Rounds { rounds, secs } = self.rounds;
        let report = Report {
            bench: "pub",
            basis: Basis::here(),
            subscribers: self.subscribers,
            rounds,
            secs: secs.as_secs_f64(),
            results,
        };
        if output.json() { output.record(&report) } else { report.print(output) }
    }
}

impl Report {
    fn print(&self, output: &Output) -> io::Result<()> {
        let subscribers = count(self.subscribers.into(), "subscriber");
        let rounds = count(self.rounds.into(), "round");
        output.line(&self.basis.machine)?;
        output.line(format_args!("a publisher and {subscribers}, each a process of its own, over QUIC on loopback"))?;
        output.line("events sealed, signed by their origin, and verified before they are handed out")?;
        output.line(format_args!("{rounds} of {} s: median and quartiles, counted at the receiver\n", self.secs))?;
        let each = if self.subscribers == 1 { "" } else { ", each" };
        let mut cells = vec![vec!["size".to_owned(), format!("events/s{each}"), String::new(), format!("MB/s{each}")]];
        for row in &self.results {
            let (events, bytes) = (&row.events_per_s, &row.mb_per_s);
            cells.push(vec![size(row.size as u64), number(events.median), events.range(), number(bytes.median)]);
        }
        table(&cells).iter().try_for_each(|line| output.line(format_args!("  {line}")))?;
        let events = self.results.iter().map(|row| row.events).sum();
        let valid = output.paint(To::Out, Look::Good, "valid");
        output.line(format_args!("\n{valid}: {}, no gap, no duplicate, all verified", count(events, "event")))
    }
}

/// One call of `publish` after the other until the time is over; how many.
async fn flood(channel: &Channel, size: usize, time: Duration) -> Result<u64, Failure> {
    let stride = (STRIDE_BYTES / size).clamp(1, STRIDE_EVENTS_MAX);
    let (mut payload, mut events) = (Payload::new(size), 0);
    let end = Instant::now() + time;
    while Instant::now() < end {
        for _ in 0..stride {
            channel.publish(payload.event(events, 0)).await.map_err(|error| Failure::new(chain(&error)))?;
            events += 1;
        }
        // Whoever presses Ctrl-C is heard, and a subscriber that ends.
        tokio::task::yield_now().await;
    }
    channel.flush().await;
    Ok(events)
}
