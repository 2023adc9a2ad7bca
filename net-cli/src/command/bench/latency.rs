//! `net bench latency`: how long an event is on its way.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use net::Channel;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::figures::Basis;
use super::mesh::{Run, Stage, now_ns};
use super::spread::Spread;
use super::tally::Payload;
use super::{parse_event_size, parse_secs, unless_interrupted};
use crate::failure::{Failure, chain};
use crate::output::{Look, Output, To, printed};
use crate::text::{count, number, size, table};

/// Measure how long an event is on its way from a publisher to a subscriber
///
/// Both are processes of their own on the loopback interface, and read one clock: from the call of `publish` until the
/// subscriber has the event in hand. Sealing, signing, sending, verifying and opening are inside. The first quarter of a
/// second does not count. Timers tick once a millisecond: at more than 1000 events a second, several leave at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net bench latency\n  net bench latency --rate 100 --size 1KiB\n  net bench latency --secs 30 --json"
)]
pub(super) struct Latency {
    /// Events a second
    #[arg(long, value_name = "EVENTS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Bytes of an event
    #[arg(long, value_name = "SIZE", default_value = "64", value_parser = parse_event_size)]
    size: usize,
    /// Seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_secs)]
    secs: Duration,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    #[serde(flatten)]
    basis: Basis,
    /// Bytes of an event.
    size: usize,
    /// As asked for.
    rate: u32,
    /// As it was.
    events_per_s: f64,
    secs: f64,
    /// Events that were measured.
    events: u64,
    latency_us: Quantiles,
    histogram: Vec<Bar>,
}

/// Microseconds.
#[derive(Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

/// Events that took so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Bar {
    from_us: u64,
    /// Nothing beyond the last edge.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_us: Option<u64>,
    events: u64,
}

/// The part of a second that comes before what is measured.
const WARM_UP: Duration = Duration::from_millis(250);
/// Less than this part of the rate that was asked for is worth a word.
const RATE_REACHED: f64 = 0.95;

impl Latency {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, Failure> {
        let report = unless_interrupted(output, "net bench latency", self.measure(output)).await?;
        if report.events_per_s < f64::from(self.rate) * RATE_REACHED {
            let reached = number(report.events_per_s);
            output.warn(format_args!("only {reached} events/s were published, not the {} asked for", self.rate));
        }
        printed(if output.json() { output.record(&report) } else { report.print(output) }, ExitCode::SUCCESS)
    }

    async fn measure(&self, output: &Output) -> Result<Report, Failure> {
        output.progress(format_args!("{} for {} s", size(self.size as u64), self.secs.as_secs_f64()));
        let warm_up = u64::from(self.rate) * u64::from(WARM_UP.subsec_millis()) / 1_000;
        let stage = Stage::start(1, self.size, Some(warm_up)).await?;
        let began = Instant::now();
        let mut took = Duration::ZERO;
        let publish = async |channel: &Channel| {
            // A task of the runtime, as in servers: a thread beside it is woken once more for each event.
            let pacing = pace(channel.clone(), self.size, self.rate, WARM_UP + self.secs);
            let published = tokio::spawn(pacing).await;
            took = began.elapsed();
            published.unwrap_or_else(|error| Err(Failure::new(format!("the publisher has failed: {error}"))))
        };
        let Run { published, outcomes } = stage.run(publish).await?;
        let spread = outcomes.into_iter().find_map(|outcome| outcome.latencies).unwrap_or_default();
        if spread.count() == 0 {
            return Err(Failure::new("no event was published after the first quarter of a second")
                .next("`net bench latency` with more --secs, or another --rate"));
        }
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let events_per_s = published as f64 / took.as_secs_f64();
        Ok(Report {
            bench: "latency",
            basis: Basis::here(),
            size: self.size,
            rate: self.rate,
            events_per_s,
            secs: self.secs.as_secs_f64(),
            events: spread.count(),
            latency_us: Quantiles {
                p50: micros(spread.quantile(500)),
                p90: micros(spread.quantile(900)),
                p99: micros(spread.quantile(990)),
                max: micros(spread.max()),
            },
            histogram: bars(&spread),
        })
    }
}

impl Report {
    fn print(&self, output: &Output) -> io::Result<()> {
        let (rate, secs) = (self.rate, self.secs);
        output.line(&self.basis.machine)?;
        output.line("a publisher and a subscriber, each a process of its own, over QUIC on loopback, one clock")?;
        output.line("events sealed, signed by their origin, and verified before they are handed out")?;
        output.line(format_args!("{} at {rate} events/s for {secs} s: one way, in µs\n", size(self.size as u64)))?;
        let Quantiles { p50, p90, p99, max } = self.latency_us;
        let heads = ["p50", "p90", "p99", "max"].map(str::to_owned).to_vec();
        let values = [p50, p90, p99, max].map(|us| format!("{us:.0}")).to_vec();
        table(&[heads, values]).iter().try_for_each(|line| output.line(format_args!("  {line}")))?;
        output.line("")?;
        draw(&self.histogram).iter().try_for_each(|line| output.line(format_args!("  {line}")))?;
        let valid = output.paint(To::Out, Look::Good, "valid");
        output.line(format_args!(
            "\n{valid}: {} measured, no gap, no duplicate, all verified",
            count(self.events, "event")
        ))
    }
}

/// `rate` events a second, evenly, each with the time at which `publish` was called; how many.
async fn pace(channel: Channel, size: usize, rate: u32, time: Duration) -> Result<u64, Failure> {
    let end = tokio::time::Instant::now() + time;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut payload, mut events) = (Payload::new(size), 0);
    // The tick that comes after the end is not waited for: at one a second that is a second.
    while let Ok(now) = tokio::time::timeout_at(end, ticks.tick()).await
        && now < end
    {
        channel.publish(payload.event(events, now_ns())).await.map_err(|error| Failure::new(chain(&error)))?;
        events += 1;
    }
    Ok(events)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// Steps of each power of ten, from fine to coarse.
const STEPS: [&[u64]; 3] = [&[10, 15, 20, 30, 50, 70], &[10, 20, 50], &[10]];
/// Powers of ten: from ten microseconds to ten seconds; what is above or below has a bar of its own.
const DECADES: u32 = 6;
/// Bars at most, which the coarsest steps do not exceed.
const BARS_MAX: usize = 12;
/// Characters of the longest bar.
const BAR_LEN: u64 = 40;

/// As fine as there is room for, from the first step with an event to the last.
fn bars(spread: &Spread) -> Vec<Bar> {
    let mut candidates = STEPS.map(|steps| bars_of(spread, steps)).into_iter();
    candidates.find(|bars| bars.len() <= BARS_MAX).unwrap_or_default()
}

fn bars_of(spread: &Spread, steps: &[u64]) -> Vec<Bar> {
    let decade = |power| steps.iter().map(move |step| step * 10_u64.pow(power));
    let edges_us: Vec<u64> = (0..DECADES).flat_map(decade).chain([10 * 10_u64.pow(DECADES)]).collect();
    let edges_ns: Vec<u64> = edges_us.iter().map(|us| us * 1_000).collect();
    let bar = |(index, events): (usize, u64)| Bar {
        from_us: index.checked_sub(1).map_or(0, |below| edges_us[below]),
        to_us: edges_us.get(index).copied(),
        events,
    };
    let bars = spread.between(&edges_ns).into_iter().enumerate().map(bar);
    let mut bars: Vec<Bar> = bars.skip_while(|bar| bar.events == 0).collect();
    bars.truncate(bars.iter().rposition(|bar| bar.events > 0).map_or(0, |last| last + 1));
    bars
}

fn draw(bars: &[Bar]) -> Vec<String> {
    let most = bars.iter().map(|bar| bar.events).max().unwrap_or(0).max(1);
    let total = bars.iter().map(|bar| bar.events).sum::<u64>().max(1);
    let ranges: Vec<String> = bars
        .iter()
        .map(|bar| match bar.to_us {
            Some(to) => format!("{} to {to}", bar.from_us),
            None => format!("{} and more", bar.from_us),
        })
        .collect();
    let width = ranges.iter().map(String::len).max().unwrap_or(0);
    let line = |(bar, range): (&Bar, &String)| {
        let len = usize::try_from((bar.events * BAR_LEN).div_ceil(most)).unwrap_or(0);
        // In hundredths of a percent.
        let part = bar.events * 10_000 / total;
        format!("{range:>width$}  {:>3}.{:02} %  {}", part / 100, part % 100, "█".repeat(len)).trim_end().to_owned()
    };
    bars.iter().zip(&ranges).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(us: impl IntoIterator<Item = u64>) -> Spread {
        let mut spread = Spread::default();
        us.into_iter().for_each(|us| spread.add(us * 1_000));
        spread
    }

    #[test]
    fn bars_go_from_the_fastest_event_to_the_slowest() {
        let bars = bars(&spread([55, 60, 160, 40]));
        let bar = |from_us, to_us, events| Bar { from_us, to_us: Some(to_us), events };
        assert_eq!(bars, [bar(30, 50, 1), bar(50, 70, 2), bar(70, 100, 0), bar(100, 150, 0), bar(150, 200, 1)]);
        assert_eq!(draw(&bars)[0], format!("  30 to 50   25.00 %  {}", "█".repeat(20)));
        assert_eq!(draw(&bars)[2], " 70 to 100    0.00 %");
    }

    #[test]
    fn a_long_tail_makes_coarser_bars_and_no_event_is_left_out() {
        let edges = |bars: &[Bar]| bars.iter().map(|bar| (bar.from_us, bar.events)).collect::<Vec<_>>();
        let some = bars(&spread([55, 60, 160, 9_000]));
        let coarse = [(50, 2), (100, 1), (200, 0), (500, 0), (1_000, 0), (2_000, 0), (5_000, 1)];
        assert_eq!(edges(&some), coarse);
        let all = bars(&spread([0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, u64::MAX / 1_000]));
        assert_eq!((all.len(), all.iter().map(|bar| bar.events).sum::<u64>()), (8, 10));
        assert_eq!(all.last().map(|bar| (bar.from_us, bar.to_us)), Some((10_000_000, None)));
        assert!(draw(&all)[7].trim_start().starts_with("10000000 and more"), "{:?}", draw(&all));
    }

    #[test]
    fn no_event_has_no_bars() {
        assert_eq!(draw(&bars(&Spread::default())), Vec::<String>::new());
    }
}
