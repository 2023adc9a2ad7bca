//! `net bench log`: durable appends to a log on a disk, and reading them again.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde::Serialize;

use super::appends::{Round, Work};
use super::disk::Place;
use super::figures::{Basis, Quartiles, megabytes};
use super::{Rounds, parse_event_size, unless_interrupted};
use crate::failure::Failure;
use crate::output::{Look, Output, To, printed};
use crate::text::{count, number, size, table};

/// Measure durable appends to a log on a disk, and reading them again
///
/// The log is in a new directory within the current one, or in that of --dir, and is removed afterwards. Each of those that
/// wait appends one event and goes on when it is told that this is on the disk; all that wait meanwhile share one batch, one
/// signature and one sync. Then the log is opened anew and replayed from its first event on, out of the system's memory: a
/// signature is verified for each batch, so for each event where one waits at a time.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net bench log\n  net bench log --dir /var/lib\n  net bench log --size 1KiB --rounds 9 --json"
)]
pub(super) struct Log {
    /// Where to write: the disk that is measured [default: the current directory, or the system's for temporary files]
    #[arg(id = "dir", long, env = "NET_DIR", value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Bytes of an event
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = parse_event_size)]
    size: usize,
    #[command(flatten)]
    rounds: Rounds,
}

/// How many wait at a time.
const WAITING: [usize; 3] = [1, 64, 256];

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    #[serde(flatten)]
    basis: Basis,
    dir: PathBuf,
    file_system: Option<String>,
    /// Bytes of an event.
    size: usize,
    rounds: u32,
    secs: f64,
    sync: &'static str,
    results: Vec<Row>,
}

/// The figures for so many that wait.
#[derive(Debug, Serialize)]
struct Row {
    waiting: usize,
    ack: &'static str,
    /// Events of all rounds together.
    events: u64,
    appends_per_s: Quartiles,
    mb_per_s: Quartiles,
    replay_events_per_s: Quartiles,
}

impl Log {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut place, mut task) = (None, None);
        let measured = unless_interrupted(output, "net bench log", async {
            // Made here, where Ctrl-C does not end the process any more: it is removed in any case.
            let place = place.insert(Place::new(self.dir.as_deref())?);
            let work = Work { dir: place.path().join("log"), size: self.size, stop: stop.clone() };
            let (rounds, output) = (self.rounds, *output);
            let task = task.insert(tokio::task::spawn_blocking(move || measure(&work, rounds, &output)));
            let rows = task.await.unwrap_or_else(|error| Err(Failure::new(error.to_string())))?;
            Ok(self.report(place, rows))
        });
        let report = measured.await;
        if let Some(task) = task.filter(|task| !task.is_finished()) {
            // The directory can go when nobody writes there any more.
            stop.store(true, Ordering::Relaxed);
            let _ = task.await;
        }
        let report = report?;
        printed(if output.json() { output.record(&report) } else { report.print(output) }, ExitCode::SUCCESS)
    }

    fn report(&self, place: &Place, results: Vec<Row>) -> Report {
        Report {
            bench: "log",
            basis: Basis::here(),
            dir: place.within.clone(),
            file_system: place.file_system.clone(),
            size: self.size,
            rounds: self.rounds.rounds,
            secs: self.rounds.secs.as_secs_f64(),
            sync: "group",
            results,
        }
    }
}

impl Report {
    fn print(&self, output: &Output) -> io::Result<()> {
        output.line(&self.basis.machine)?;
        let kind = self.file_system.as_ref().map_or_else(String::new, |kind| format!(" ({kind})"));
        output.line(format_args!("a log in {}{kind}, removed afterwards", self.dir.display()))?;
        output.line("events sealed, signed by their origin, and verified when they are read again")?;
        let rounds = count(self.rounds.into(), "round");
        let size = size(self.size as u64);
        output.line(format_args!("events of {size}, {rounds} of {} s each: median and quartiles\n", self.secs))?;
        let heads = ["waiting", "appends/s", "", "MB/s", "replay/s", "acknowledged after"];
        let mut cells = vec![heads.map(str::to_owned).to_vec()];
        for row in &self.results {
            let appends = &row.appends_per_s;
            cells.push(vec![
                row.waiting.to_string(),
                number(appends.median),
                appends.range(),
                number(row.mb_per_s.median),
                number(row.replay_events_per_s.median),
                row.ack.to_owned(),
            ]);
        }
        table(&cells).iter().try_for_each(|line| output.line(format_args!("  {line}")))?;
        let means = match &self.file_system {
            Some(kind) if IN_MEMORY.contains(&kind.as_str()) => {
                format!("nothing, for {kind} is in memory: `net bench log --dir DIRECTORY` takes the disk in question")
            }
            _ => "on the disk: fdatasync has returned after the event was written".to_owned(),
        };
        output.line(format_args!("\nan ack means {means}"))?;
        let events = self.results.iter().map(|row| row.events).sum();
        let valid = output.paint(To::Out, Look::Good, "valid");
        output.line(format_args!(
            "{valid}: {} acknowledged, and read again, each once and verified",
            count(events, "event")
        ))
    }
}

/// File systems for which a sync costs nothing and a power cut everything.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Measures round after round, for as many as are to wait.
fn measure(work: &Work, Rounds { rounds, secs }: Rounds, output: &Output) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for waiting in WAITING {
        let mut results: Vec<Round> = Vec::new();
        for round in 1..=rounds {
            let last = results.last().map(|round| format!(", {} appends/s", number(round.appends_per_s)));
            let last = last.unwrap_or_default();
            output.progress(format_args!("{waiting} at a time, round {round} of {rounds}{last}"));
            results.push(work.round(waiting, secs)?);
        }
        let appends_per_s = Quartiles::of(results.iter().map(|round| round.appends_per_s));
        rows.push(Row {
            waiting,
            ack: if waiting == 1 { "a sync of its own" } else { "a shared sync" },
            events: results.iter().map(|round| round.events).sum(),
            appends_per_s,
            mb_per_s: appends_per_s.times(megabytes(work.size)),
            replay_events_per_s: Quartiles::of(results.iter().map(|round| round.replay_per_s)),
        });
    }
    Ok(rows)
}
