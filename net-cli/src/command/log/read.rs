//! `net log read`: prints the events of a log.

use std::io;
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use net::Cursor;
use net::redex::{EventItem, Log, Start as LogStart};
use net::transport::Pair;
use tokio_util::sync::CancellationToken;

use super::rows::{RowPrinter, Rows, Stop};
use super::target::{Located, Target};
use super::unreadable;
use crate::cli::Global;
use crate::failure::Failure;
use crate::host::interrupted;
use crate::output::{Output, is_reader_gone};
use crate::start::Start;

/// Print the events of a log
///
/// They look as `net sub` prints them. Each batch is verified before its events are shown; what cannot be shown is named.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net log read quakes/ak\n  net log read quakes/ak --from last:10 --follow\n  net log read quakes/ak --from since:2h --json\n  net log read ./backup/quakes+ak --from offset:100 --count 5"
)]
pub(super) struct Read {
    #[command(flatten)]
    target: Target,
    /// Where to begin: earliest, offset:N, last:N, since:15m (when it was stored), cursor:… (of `net sub` too), live
    #[arg(long, value_name = "WHERE", default_value = "earliest")]
    from: Begin,
    /// End after so many events
    #[arg(long, value_name = "EVENTS")]
    count: Option<NonZeroU64>,
    /// Go on with what is stored from now on; Ctrl-C ends
    #[arg(long)]
    follow: bool,
}

/// How often a log that is followed is asked whether there is more: a process that writes it says so once a second.
const POLL: Duration = Duration::from_millis(200);
/// The longest cursor that is printed at the end, in bytes.
const CURSOR_SHOWN_MAX: usize = 1_024;

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Begin {
    Offset(u64),
    Start(Start),
}

impl FromStr for Begin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, _) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "offset" => offset(text).map(Self::Offset),
            "earliest" | "live" | "last" | "since" | "cursor" => text.parse().map(Self::Start),
            _ if text.starts_with("net-cursor") => text.parse().map(Self::Start),
            _ => Err("it is one of earliest, offset:N, last:N, since:T, cursor:…, live; for example `last:10` or \
                      `offset:0`"
                .to_owned()),
        }
    }
}

/// The offset in `offset:N`.
pub(super) fn offset(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("offset:").and_then(|n| n.parse().ok());
    number.ok_or_else(|| format!("`{text}` is no offset, try `offset:100`"))
}

impl Begin {
    fn into_start(self, log: &Log) -> LogStart {
        match self {
            Self::Offset(offset) => LogStart::Offset(offset),
            Self::Start(Start::Earliest) => LogStart::Earliest,
            Self::Start(Start::Live) => LogStart::Latest,
            Self::Start(Start::Last(n)) => {
                LogStart::Offset(log.next_offset().saturating_sub(n).max(log.first_offset()))
            }
            Self::Start(Start::Since(ms)) => LogStart::Time(ms.saturating_mul(1_000_000)),
            Self::Start(Start::Cursor(cursor)) => LogStart::Cursor(cursor),
        }
    }
}

/// Why reading paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// As many events as were wanted, or a signal.
    Done,
    /// Nobody reads any more.
    Gone,
    /// There is no more now.
    AtEnd,
}

struct Reading {
    output: Output,
    channel: String,
    printer: RowPrinter<io::StdoutLock<'static>>,
    left: Option<u64>,
    /// Events before it are not wanted: batches that it cuts in two are read whole.
    known: Cursor,
    /// Up to where each origin was printed.
    cursor: Cursor,
    /// Where reading goes on.
    offset: u64,
    cancel: CancellationToken,
}

impl Read {
    pub(super) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let located = self.target.locate(global)?;
        // Before the log is opened: what is written meanwhile is seen the next time.
        let mut stamp = stamp(&located);
        let log = located.open(&output)?;
        let known =
            if let Begin::Start(Start::Cursor(cursor)) = &self.from { cursor.clone() } else { Cursor::default() };
        let mut reading = Reading {
            output,
            channel: located.name(&log),
            printer: RowPrinter::new(output, output.json(), io::stdout().lock()),
            left: self.count.map(NonZeroU64::get),
            cursor: known.clone(),
            known,
            offset: if let Begin::Offset(offset) = self.from { offset } else { 0 },
            cancel: if self.follow { cancelled_by_signal() } else { CancellationToken::new() },
        };
        let mut pause = reading.read(&log, self.from.into_start(&log))?;
        if !self.follow && pause == Pause::AtEnd && log.recovery().beside_writer {
            let writer = located.writer();
            output.note(format_args!("{writer} writes this log; of the last second something may be missing here"));
        }
        while self.follow && pause == Pause::AtEnd {
            if reading.cancel.run_until_cancelled(tokio::time::sleep(POLL)).await.is_none() {
                pause = Pause::Done;
                break;
            }
            let now = self::stamp(&located);
            if now != stamp {
                stamp = now;
                pause = reading.read(&located.open(&output)?, LogStart::Offset(reading.offset))?;
            }
        }
        if pause == Pause::Done {
            reading.say_where();
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A token that SIGINT and SIGTERM cancel. Without it they end the process, which is as well where nothing is left to say.
fn cancelled_by_signal() -> CancellationToken {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        interrupted().await;
        token.cancel();
    });
    cancel
}

/// What changes whenever there may be more to read: whoever writes a log notes there how far it has synced.
fn stamp(located: &Located) -> Vec<u8> {
    // If it cannot be read, opening says why.
    std::fs::read(located.path.join("MANIFEST")).unwrap_or_default()
}

impl Reading {
    /// Prints what there is now from this place on.
    fn read(&mut self, log: &Log, start: LogStart) -> Result<Pause, Failure> {
        match self.print(log, start) {
            Ok(pause) => Ok(pause),
            Err(Stop::Output(error)) if is_reader_gone(&error) => Ok(Pause::Gone),
            Err(Stop::Output(error)) => Err(error.into()),
            Err(Stop::Log(error)) => Err(unreadable(&error)),
        }
    }

    fn print(&mut self, log: &Log, start: LogStart) -> Result<Pause, Stop> {
        let channel = self.channel.clone();
        let rows = Rows { log, channel: &channel };
        for item in log.events(start)? {
            if self.cancel.is_cancelled() {
                self.printer.flush()?;
                return Ok(Pause::Done);
            }
            let item = item?;
            if !self.pass(log, &item) {
                continue;
            }
            if let Some(row) = rows.of(&item) {
                self.printer.print(&row)?;
            }
            if let (EventItem::Event(_), Some(left)) = (&item, &mut self.left) {
                *left -= 1;
                if *left == 0 {
                    self.printer.flush()?;
                    return Ok(Pause::Done);
                }
            }
        }
        self.printer.flush()?;
        self.offset = self.offset.max(log.next_offset());
        Ok(Pause::AtEnd)
    }

    /// Moves behind an item; says whether it is wanted.
    fn pass(&mut self, log: &Log, item: &EventItem) -> bool {
        let (origin, next) = match item {
            EventItem::Event(event) => (event.origin(), event.get().seq.saturating_add(1)),
            EventItem::Sealed { dots, .. } | EventItem::Compacted { dots, .. } => match log.origin(&dots.origin) {
                Some(origin) => (origin, dots.last.saturating_add(1)),
                None => return true,
            },
            _ => return true,
        };
        let pair = Pair { channel: log.channel().0, origin: *origin.as_bytes() };
        let wanted = self.known.next(&pair).is_none_or(|known| known < next);
        if self.cursor.next(&pair).is_none_or(|at| at < next) {
            self.cursor.set(pair, next);
        }
        wanted
    }

    /// Says how to go on from here.
    fn say_where(&self) {
        let text = self.cursor.to_string();
        if !self.cursor.is_empty() && text.len() <= CURSOR_SHOWN_MAX {
            self.output.note(format_args!("to go on from here: --from cursor:{text}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_read_and_anything_else_refused_with_an_example() {
        assert_eq!("offset:7".parse(), Ok(Begin::Offset(7)));
        assert_eq!("earliest".parse(), Ok(Begin::Start(Start::Earliest)));
        assert_eq!("live".parse(), Ok(Begin::Start(Start::Live)));
        assert_eq!("last:3".parse(), Ok(Begin::Start(Start::Last(3))));
        assert_eq!("since:5000".parse(), Ok(Begin::Start(Start::Since(5000))));
        let cursor = Cursor::default();
        assert_eq!(cursor.to_string().parse(), Ok(Begin::Start(Start::Cursor(cursor.clone()))));
        assert_eq!(format!("cursor:{cursor}").parse(), Ok(Begin::Start(Start::Cursor(cursor))));
        for text in ["", "first", "offset", "offset:", "offset:-1", "offset:x", "last:0", "since:soon", "cursor:x"] {
            assert!(text.parse::<Begin>().is_err(), "{text}");
        }
        assert!("first".parse::<Begin>().is_err_and(|e| e.contains("offset:0")));
    }
}
