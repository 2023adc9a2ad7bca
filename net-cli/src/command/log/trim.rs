//! `net log trim`: gives up the beginning of a log.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use net::redex::{Log, ReadError, SegmentInfo, Start};
use serde::Serialize;

use super::read::offset;
use super::target::Target;
use super::{printed, unreadable};
use crate::cli::Global;
use crate::failure::{Failure, chain};
use crate::output::Output;
use crate::start::since;
use crate::text::{count, parse_size, size, time};

/// Give up the beginning of a log
///
/// Whole segments go, the oldest first: as many as can without giving up more than was said. With --dry-run it only says
/// which, also while a process writes the log. To keep a log short while it grows, give its writer a retention instead.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net log trim quakes/ak --keep-age 30d --dry-run\n  net log trim quakes/ak --keep-bytes 10GiB\n  net log trim quakes/ak --before offset:100000\n  net log trim quakes/ak --before 2026-01-31T00:00:00Z"
)]
pub(super) struct Trim {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    what: What,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

/// What is to go, or to stay.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Give up what stands before offset:N, or was stored before a time: 2h (ago), 2026-01-31T12:00:00Z
    #[arg(long, value_name = "PLACE")]
    before: Option<Before>,
    /// Keep about this many bytes on the disk, such as 64MiB; the segment being written stays
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    keep_bytes: Option<u64>,
    /// Keep at least this many events
    #[arg(long, value_name = "EVENTS")]
    keep_events: Option<u64>,
    /// Keep what was stored within this time, such as 30d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    keep_age: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Offset(u64),
    /// Unix milliseconds.
    Time(u64),
}

impl FromStr for Before {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("offset:") {
            return offset(text).map(Self::Offset);
        }
        let time = text.strip_prefix("since:").unwrap_or(text);
        since(time, SystemTime::now()).map(Self::Time).map_err(|error| format!("{error}; or an offset, `offset:100`"))
    }
}

/// What goes and what stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Plan {
    segments: usize,
    events: u64,
    /// Bytes of files.
    bytes: u64,
    /// The first offset that stays.
    first_offset: u64,
    next_offset: u64,
    #[serde(skip)]
    next: Option<SegmentInfo>,
}

impl Plan {
    /// What goes if everything before an offset is to go.
    fn new(segments: &[SegmentInfo], first_offset: u64, before: u64) -> Self {
        let next_offset = segments.last().map_or(first_offset, |segment| segment.next_offset);
        let goes = |segment: &&SegmentInfo| segment.next_offset <= before && segment.last.is_some();
        let gone: Vec<_> = segments.iter().take_while(goes).collect();
        let first_kept = gone.last().map_or(first_offset, |segment| segment.next_offset);
        Self {
            segments: gone.len(),
            events: first_kept.saturating_sub(first_offset),
            bytes: gone.iter().map(|segment| segment.file_bytes).sum(),
            first_offset: first_kept,
            next_offset,
            next: segments.get(gone.len()).copied(),
        }
    }
}

impl What {
    /// The offset before which everything may go.
    fn offset(&self, log: &Log, segments: &[SegmentInfo]) -> Result<u64, ReadError> {
        let at_time = |ms: u64| Ok(log.read(Start::Time(ms.saturating_mul(1_000_000)))?.place().offset);
        if let Some(age) = self.keep_age {
            let limit = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
            let limit = limit.duration_since(UNIX_EPOCH).unwrap_or_default();
            return at_time(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        }
        Ok(match (self.before, self.keep_bytes, self.keep_events) {
            (Some(Before::Offset(offset)), ..) => offset,
            (Some(Before::Time(ms)), ..) => at_time(ms)?,
            (None, Some(bytes), _) => kept_from(segments, bytes),
            (None, None, events) => log.next_offset().saturating_sub(events.unwrap_or(u64::MAX)),
        })
    }
}

/// The base of the first segment that stays if the files may have so many bytes; the last one stays in any case.
fn kept_from(segments: &[SegmentInfo], bytes: u64) -> u64 {
    let mut total: u64 = segments.iter().map(|segment| segment.file_bytes).sum();
    let first = segments.iter().find(|segment| {
        let fits = total <= bytes || !segment.sealed;
        total -= segment.file_bytes;
        fits
    });
    first.map_or(0, |segment| segment.base)
}

impl Trim {
    pub(super) fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let located = self.target.locate(global)?;
        let log = if self.dry_run { located.open(&output)? } else { located.open_to_change(&output)? };
        let segments = log.segments().map_err(|error| unreadable(&error))?;
        let before = self.what.offset(&log, &segments).map_err(|error| unreadable(&error))?;
        let plan = Plan::new(&segments, log.first_offset(), before);
        if !self.dry_run {
            let failed = |error| {
                Failure::new(format!("the log was not trimmed, or not as far: {}", chain(&error)))
                    .next("the same command again")
            };
            if plan.segments > 0 {
                log.trim(plan.first_offset).map_err(failed)?;
            }
            log.close().map_err(failed)?;
        }
        printed(self.report(&output, &plan), ExitCode::SUCCESS)
    }

    fn report(&self, output: &Output, plan: &Plan) -> std::io::Result<()> {
        if output.json() {
            let mut value = serde_json::to_value(plan)?;
            value["dry_run"] = self.dry_run.into();
            return output.record(&value);
        }
        let Plan { segments, events, bytes, first_offset, next_offset, next } = *plan;
        if segments == 0 {
            return output.line(nothing(next));
        }
        let (verb, stay) = if self.dry_run { ("would give up", "would stay") } else { ("gave up", "stay") };
        let gone = format!("{} with {} ({})", count(segments as u64, "segment"), count(events, "event"), size(bytes));
        let left = count(next_offset - first_offset, "event");
        output.line(format!("{verb} {gone}; {left} {stay}, from offset {first_offset} on"))
    }
}

/// Why nothing goes.
fn nothing(oldest: Option<SegmentInfo>) -> String {
    let Some(SegmentInfo { base, next_offset, last: Some(last), sealed, .. }) = oldest else {
        return "nothing to give up: the log is empty".to_owned();
    };
    let segment = format!("offsets {base}..{next_offset}, written until {}", time(last));
    if sealed {
        format!("nothing to give up: segments go whole, and of the oldest one ({segment}) something is to be kept")
    } else {
        format!("nothing to give up: segments go whole, and there is one, that is being written ({segment})")
    }
}
