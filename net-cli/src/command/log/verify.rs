//! `net log verify`: checksums, chain and signatures, with public keys only.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use net::channel::BatchHash;
use net::identity::EntityId;
use net::redex::{DotRange, Expected, Fault, FaultKind, Log, Verification};
use serde::{Deserialize, Serialize};

use super::rows::origin_name;
use super::target::{Located, Target};
use super::{printed, unreadable};
use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{Look, Output, To};
use crate::text::{count, size};

/// Check a log: every checksum, that each batch continues the one before it, and every signature
///
/// It needs public keys only, and no node. Each fault is named with the events at fault: origin and seqs. The exit code is
/// 1 if there is any. What was cut off at the end leaves no trace in a log: `--expect` finds it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net log verify quakes/ak\n  net log verify quakes/ak --json > yesterday.json\n  net log verify quakes/ak --expect yesterday.json"
)]
pub(super) struct Verify {
    #[command(flatten)]
    target: Target,
    /// Public keys of origins that the log does not know
    #[arg(long, value_name = "PUBLIC_KEY")]
    origin: Vec<EntityId>,
    /// What `net log verify --json` printed before: each origin's events up to there must still be here
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
}

/// How often the line that shows how far it has come is written anew.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Bytes of a file of expectations at most: 65,536 origins have 12 MiB.
const EXPECT_LEN_MAX: u64 = 64 << 20;

/// A fault.
#[derive(Debug, Serialize)]
struct FaultRow {
    #[serde(rename = "type")]
    kind: &'static str,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    /// The seq after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    what: String,
}

/// What was checked.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    #[serde(rename = "type")]
    kind: String,
    channel: String,
    log: String,
    batches: u64,
    events: u64,
    first_offset: u64,
    next_offset: u64,
    faults: u64,
    #[serde(default)]
    restarts: u64,
    heads: Vec<HeadRow>,
}

const SUMMARY: &str = "verified";

/// Where an origin stands.
#[derive(Debug, Serialize, Deserialize)]
struct HeadRow {
    origin: String,
    next: u64,
    hash: String,
}

impl Verify {
    pub(super) fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let expected = match &self.expect {
            Some(path) => expected(path)?,
            None => Vec::new(),
        };
        let located = self.target.locate(global)?;
        let log = located.open(&output)?;
        let mut progress = Progress::new(output, &log)?;
        let report = log.verify_with_progress(&self.origin, &expected, |bytes| progress.at(bytes));
        output.progress_done();
        let report = report.map_err(|error| unreadable(&error))?;
        let sound = report.faults.is_empty();
        let result = print(&output, &located, &log, &report);
        beside(&output, &located, &log, &report);
        printed(result, if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The line that shows how far it has come.
struct Progress {
    output: Output,
    total: u64,
    started: Instant,
    shown: Instant,
}

impl Progress {
    fn new(output: Output, log: &Log) -> Result<Self, Failure> {
        let segments = log.segments().map_err(|error| unreadable(&error))?;
        let now = Instant::now();
        Ok(Self { output, total: segments.iter().map(|segment| segment.bytes).sum(), started: now, shown: now })
    }

    fn at(&mut self, bytes: u64) {
        if self.shown.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.shown = Instant::now();
        let rate = u128::from(bytes) * 1000 / self.started.elapsed().as_millis().max(1);
        let rate = size(u64::try_from(rate).unwrap_or(u64::MAX));
        self.output.progress(format_args!("checked {} of {}, {rate}/s", size(bytes), size(self.total)));
    }
}

fn print(output: &Output, located: &Located, log: &Log, report: &Verification) -> io::Result<()> {
    let channel = located.name(log);
    let faults = report.faults.len() as u64 + report.more_faults;
    if output.json() {
        for fault in &report.faults {
            output.record(&FaultRow {
                kind: "fault",
                offset: fault.offset,
                origin: fault.dots.map(|dots| origin_name(log, &dots.origin)),
                from: fault.dots.map(|dots| dots.first),
                to: fault.dots.map(|dots| dots.last.saturating_add(1)),
                what: fault.what.to_string(),
            })?;
        }
        let head =
            |head: &Expected| HeadRow { origin: head.origin.to_string(), next: head.next, hash: head.hash.to_string() };
        return output.record(&Summary {
            kind: SUMMARY.to_owned(),
            channel,
            log: log.id().to_string(),
            batches: report.batches,
            events: report.events,
            first_offset: log.first_offset(),
            next_offset: log.next_offset(),
            faults,
            restarts: report.restarts,
            heads: report.heads.iter().map(head).collect(),
        });
    }
    for fault in &report.faults {
        output.line(format!("{} {}", output.paint(To::Out, Look::Bad, "FAULT"), named(log, fault)))?;
    }
    if report.more_faults > 0 {
        output.line(format!("and {} more", count(report.more_faults, "fault")))?;
    }
    let events = format!("{} in {}", count(report.events, "event"), count(report.batches, "batch"));
    let origins = count(report.heads.len() as u64, "origin");
    output.line(match faults {
        0 => {
            let good = output.paint(To::Out, Look::Good, "checksums, chain and signatures hold");
            // A producer without a log of its own names no batch before its first.
            let restarts = match report.restarts {
                0 => String::new(),
                n => format!(", {}", count(n, "restart")),
            };
            format!("{channel}: {good}: {events}, {origins}{restarts}")
        }
        n => {
            let bad = output.paint(To::Out, Look::Bad, count(n, "fault"));
            format!("{channel}: {bad}; {} of {origins} sound", count(report.events, "event"))
        }
    })
}

/// A fault, with the event or events at fault as origin and seqs.
fn named(log: &Log, fault: &Fault) -> String {
    let Fault { offset, what, .. } = fault;
    match fault.dots {
        Some(DotRange { origin, first, last, certain, .. }) => {
            let seqs = if first == last { first.to_string() } else { format!("{first}..={last}") };
            let perhaps = if certain { "" } else { " (as far as the damaged bytes tell)" };
            format!("offset {offset}: {}:{seqs}{perhaps}: {what}", origin_name(log, &origin))
        }
        None => format!("offset {offset}: {what}"),
    }
}

/// What else there is to know of a result.
fn beside(output: &Output, located: &Located, log: &Log, report: &Verification) {
    if let Some(torn) = &log.recovery().torn {
        output.note(format_args!(
            "an interrupted write at offset {} is no fault: it is cut off when the log is next written",
            torn.offset
        ));
    }
    if log.recovery().beside_writer {
        output.note(format_args!(
            "{} writes this log: what it stored in the last second may not be in this",
            located.writer()
        ));
    }
    if report.faults.iter().any(|fault| fault.what == FaultKind::UnknownOrigin) {
        output.note("  next: `--origin PUBLIC_KEY` for origins that the log does not know");
    }
}

/// What an earlier verification saw.
fn expected(path: &Path) -> Result<Vec<Expected>, Failure> {
    let wrong = |what: String| {
        Failure::usage(format!("{}: {what}", path.display()))
            .next("a file that `net log verify CHANNEL --json > FILE` has made")
    };
    let len = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if len > EXPECT_LEN_MAX {
        return Err(wrong("too long for a result of `net log verify`".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    parse_expected(&text).ok_or_else(|| wrong("not a result of `net log verify`".to_owned()))
}

fn parse_expected(text: &str) -> Option<Vec<Expected>> {
    let summary = text.lines().rev().find_map(|line| serde_json::from_str::<Summary>(line).ok())?;
    let head = |row: HeadRow| {
        let hash = data_encoding::HEXLOWER.decode(row.hash.as_bytes()).ok()?;
        Some(Expected { origin: row.origin.parse().ok()?, next: row.next, hash: BatchHash(hash.try_into().ok()?) })
    };
    summary.heads.into_iter().map(head).collect()
}
