//! What the demo proved and measured.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::demo::Sabotage;
use crate::demo::checks::Check;
use crate::demo::messages::{Published, Seen};
use crate::demo::offline::Verified;
use crate::demo::weather::Storm;
use crate::output::{Look, Output, To};

/// What the processes do, for people.
const ABOUT: &str = "  \
  two publish, one answers strong quakes with alerts, one checks everything, one comes late; then one of the two
  is killed and comes back, and two replay what it has on its disk. Their sockets lose, reorder and duplicate
  datagrams, and a quarter of its batches is taken from the one that checks\n";

/// The outcome of a demo; with `--json` it is printed as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) ok: bool,
    processes: usize,
    quakes: u64,
    alerts: u64,
    channels: u64,
    delivered: u64,
    missing: u64,
    duplicates: u64,
    unverified: u64,
    /// Events that the late subscriber got.
    late: u64,
    late_quakes: u64,
    late_alerts: u64,
    /// Alerts that were delivered before their earthquake.
    alerts_before_quake: u64,
    /// What all sockets did to datagrams on purpose, and what was done about it.
    #[serde(flatten)]
    storm: Storm,
    /// What the producer that was killed has left on its disk.
    killed: Killed,
    /// What was replayed when it had come back.
    replays: Replays,
    checks: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sabotage: Option<Sabotage>,
    /// The checks that failed, by name.
    caught_by: Vec<String>,
    rates: Rates,
    seconds: f64,
}

/// What happened until a producer was killed.
pub(crate) struct Run {
    pub(crate) published: Vec<Published>,
    pub(crate) alerts: u64,
    pub(crate) seen: Seen,
    pub(crate) late: Seen,
    pub(crate) at_consumer: Storm,
    /// On all processes together.
    pub(crate) everywhere: Storm,
}

/// How a producer was killed and came back.
pub(crate) struct Comeback {
    pub(crate) verified: Verified,
    /// The channel that was replayed.
    pub(crate) channel: String,
    pub(crate) replays: Vec<Seen>,
}

#[derive(Debug, Serialize)]
struct Killed {
    /// Events that it was told are on its disk.
    durable: u64,
    #[serde(flatten)]
    verified: Verified,
}

#[derive(Debug, Serialize)]
struct Replays {
    channel: String,
    /// Events of each replay.
    events: Vec<u64>,
    /// Whether all of them, and the first run, have the same bytes.
    same_bytes: bool,
    /// BLAKE3 of each of them.
    digests: Vec<String>,
}

/// What was measured; small figures, for a small input.
#[derive(Debug, Serialize)]
struct Rates {
    published_per_s: u64,
    delivered_per_s: u64,
    acknowledged_ms: f64,
    replay_ms: f64,
}

impl Report {
    pub(crate) fn new(run: Run, comeback: Comeback, sabotage: Option<Sabotage>, took: Duration) -> Self {
        let Run { published, alerts, seen, late, at_consumer, everywhere } = run;
        let mut checks = seen.checks;
        let delivered = seen.quakes + seen.alerts;
        checks.push(acknowledged(&published));
        checks.push(replayed(&late));
        checks.push(Storm::check(&at_consumer, &everywhere));
        let killed =
            Killed { durable: published.last().map_or(0, |killed| killed.durable), verified: comeback.verified };
        checks.push(killed.check(published.last().map_or(0, |killed| killed.events)));
        let processes = published.len() + 4 + comeback.replays.len();
        let replays = Replays::new(comeback.channel, &comeback.replays, &seen.digests);
        checks.push(replays.check(&comeback.replays));
        let caught_by: Vec<String> = checks.iter().filter(|check| !check.ok).map(|check| check.name.clone()).collect();
        let publishing = published.iter().map(|p| p.publishing_us).max().unwrap_or(0);
        let events: u64 = published.iter().map(|p| p.events).sum();
        let acknowledged = published.iter().map(|p| p.acknowledged_us).max().unwrap_or(0);
        Self {
            ok: caught_by.is_empty(),
            // Who publishes, answers, checks, comes late, comes back, and replays.
            processes,
            quakes: seen.quakes,
            alerts,
            channels: seen.channels,
            delivered,
            missing: seen.missing,
            duplicates: seen.duplicates,
            unverified: seen.unverified,
            late: late.quakes + late.alerts,
            late_quakes: late.quakes,
            late_alerts: late.alerts,
            alerts_before_quake: seen.alerts_first,
            storm: everywhere,
            killed,
            replays,
            checks,
            sabotage,
            caught_by,
            rates: Rates {
                published_per_s: per_second(events, publishing),
                delivered_per_s: per_second(delivered, seen.receiving_us),
                acknowledged_ms: millis(acknowledged),
                replay_ms: millis(late.receiving_us),
            },
            seconds: took.as_secs_f64(),
        }
    }

    pub(crate) fn print(&self, output: &Output) -> io::Result<()> {
        let strong = |text: &str| output.paint(To::Out, Look::Strong, text);
        output.line(strong(&format!(
            "{} processes on this machine, one mesh, no broker: a week of real earthquakes",
            self.processes
        )))?;
        output.line(ABOUT)?;
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &self.checks {
            let mark = match check.ok {
                true => output.paint(To::Out, Look::Good, "ok    "),
                false => output.paint(To::Out, Look::Bad, "FAILED"),
            };
            output.line(format!("  {mark}  {:<width$}  {}", check.name, check.says))?;
        }
        let Rates { published_per_s, delivered_per_s, acknowledged_ms, replay_ms } = self.rates;
        output.line(format!(
            "\n  measured here: {published_per_s} events/s published, {delivered_per_s} events/s checked; all \
             acknowledged after {acknowledged_ms:.1} ms; replay of {} events in {replay_ms:.1} ms; {:.1} s in all",
            self.late, self.seconds
        ))?;
        match (self.sabotage, self.ok) {
            (None, true) => output.line(strong("  everything held")),
            (None, false) => output.line(strong(&format!("  FAILED: {}", self.caught_by.join(", ")))),
            (Some(_), false) => {
                output.line(strong(&format!("  the sabotage was caught by: {}", self.caught_by.join(", "))))
            }
            (Some(_), true) => output.line(strong("  the sabotage went UNNOTICED")),
        }
    }
}

impl Killed {
    /// Whether all that it published is on its disk, as it signed it.
    fn check(&self, published: u64) -> Check {
        let Self { durable, verified: Verified { logs, batches, events, faults, first_fault } } = self;
        let ok = *faults == 0 && events == durable && *events == published;
        let found = format!("{events} events in {batches} batches of {logs} logs");
        let says = match first_fault {
            Some(first) if *faults == 1 => format!("a fault: {first}; {found} are sound"),
            Some(first) => format!("{faults} faults, the first: {first}; {found} are sound"),
            None if ok => {
                format!("{found} verified offline, with public keys only, 0 faults; all were acknowledged as durable")
            }
            None => format!("{found}; {durable} of {published} were acknowledged as durable"),
        };
        Check { name: "log outlives kill -9".to_owned(), ok, says }
    }
}

impl Replays {
    fn new(channel: String, replays: &[Seen], first: &BTreeMap<String, String>) -> Self {
        let digest = |seen: &BTreeMap<String, String>| seen.get(&channel).cloned().unwrap_or_default();
        let digests: Vec<String> = replays.iter().map(|replay| digest(&replay.digests)).collect();
        let same_bytes = digests.iter().all(|one| !one.is_empty() && *one == digest(first));
        let events = replays.iter().map(|replay| replay.quakes + replay.alerts).collect();
        Self { channel, events, same_bytes, digests }
    }

    fn check(&self, replays: &[Seen]) -> Check {
        let mut faults = replays.iter().flat_map(|replay| &replay.checks).filter(|check| !check.ok);
        let (channel, events) = (&self.channel, self.events.first().copied().unwrap_or(0));
        let (says, ok) = match faults.next() {
            Some(fault) => (format!("{channel}: {}", fault.says), false),
            None if self.same_bytes => (
                format!("{events} events of {channel} twice, the same bytes as before; no alert before its quake"),
                true,
            ),
            None => (format!("{channel}: other bytes than in the first run"), false),
        };
        Check { name: "replayed after restart".to_owned(), ok, says }
    }
}

fn acknowledged(published: &[Published]) -> Check {
    let channels: u64 = published.iter().map(|p| p.channels).sum();
    let behind: u64 = published.iter().map(|p| p.unacknowledged).sum();
    let says = match behind {
        0 => format!("both subscribers told the producers so, for all {channels} pairs of producer and channel"),
        _ => format!("{behind} of {channels} pairs of producer and channel were not acknowledged by both subscribers"),
    };
    Check { name: "delivery acknowledged".to_owned(), ok: behind == 0, says }
}

fn replayed(late: &Seen) -> Check {
    let faults: Vec<&str> = late.checks.iter().filter(|check| !check.ok).map(|check| check.says.as_str()).collect();
    let says = match faults.first() {
        None => format!("{} earthquakes and {} alerts of quakes/ak, from the first on", late.quakes, late.alerts),
        Some(first) => (*first).to_owned(),
    };
    Check { name: "late subscriber has all".to_owned(), ok: faults.is_empty(), says }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn millis(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn per_second(events: u64, us: u64) -> u64 {
    events.saturating_mul(1_000_000) / us.max(1)
}
