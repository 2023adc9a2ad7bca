//! What a log holds, as `net sub` prints what comes.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use net::redex::{DotRange, EventItem, Log, LogEvent, ReadError};
use net::transport::ShortId;
use serde::Serialize;

use crate::command::subscribe::event_line;
use crate::control::protocol::{Blob, EventRow, HeaderRow, ParentRow};
use crate::output::Output;
use crate::text::count;

/// An item of a log.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum LogRow {
    Event {
        offset: u64,
        #[serde(flatten)]
        event: EventRow,
    },
    /// Events `from..to` of the origin are there and cannot be read here.
    Sealed { offset: u64, channel: String, origin: String, from: u64, to: u64, why: String },
    /// Events `from..to` of the origin were superseded, and their bodies given up.
    Compacted { offset: u64, channel: String, origin: String, from: u64, to: u64 },
    /// Damage on the disk took what stood from `offset` to before `next_offset`.
    Damaged {
        offset: u64,
        next_offset: u64,
        channel: String,
        /// Whose events that were, as far as can be told.
        lost: Vec<LostRow>,
    },
    /// What stood before `first` was given up.
    Trimmed { channel: String, first: u64 },
}

/// Events `from..to` of an origin that damage took.
#[derive(Debug, Serialize)]
pub(super) struct LostRow {
    origin: String,
    from: u64,
    to: u64,
    /// Whether more than the damaged bytes themselves says so.
    certain: bool,
}

/// Why printing a log stopped before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// It cannot be written where it should go.
    Output(io::Error),
    /// The log cannot be read.
    Log(ReadError),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Log(error)
    }
}

/// Makes rows of a log's items.
pub(super) struct Rows<'a> {
    pub(super) log: &'a Log,
    pub(super) channel: &'a str,
}

impl Rows<'_> {
    /// The row of an item; nothing for kinds of item that this program does not know.
    pub(super) fn of(&self, item: &EventItem) -> Option<LogRow> {
        let channel = self.channel.to_owned();
        Some(match item {
            EventItem::Event(event) => LogRow::Event { offset: event.offset(), event: self.event(event) },
            EventItem::Sealed { offsets, dots, why } => LogRow::Sealed {
                offset: offsets.start,
                channel,
                origin: origin_name(self.log, &dots.origin),
                from: dots.first,
                to: dots.last.saturating_add(1),
                why: why.to_string(),
            },
            EventItem::Compacted { offsets, dots } => LogRow::Compacted {
                offset: offsets.start,
                channel,
                origin: origin_name(self.log, &dots.origin),
                from: dots.first,
                to: dots.last.saturating_add(1),
            },
            EventItem::Hole(hole) => LogRow::Damaged {
                offset: hole.offsets.start,
                next_offset: hole.offsets.end,
                channel,
                lost: hole.dots.iter().map(|dots| self.lost(dots)).collect(),
            },
            EventItem::Trimmed { first } => LogRow::Trimmed { channel, first: *first },
            _ => return None,
        })
    }

    fn lost(&self, dots: &DotRange) -> LostRow {
        LostRow {
            origin: origin_name(self.log, &dots.origin),
            from: dots.first,
            to: dots.last.saturating_add(1),
            certain: dots.certain,
        }
    }

    fn event(&self, event: &LogEvent) -> EventRow {
        let (parts, seal, origin) = (event.get(), event.batch().seal(), event.origin().to_string());
        let header = |(name, value): (&str, &[u8])| HeaderRow { name: name.to_owned(), value: Blob::new(value) };
        let parent = |parent: &net::channel::Parent| ParentRow { origin: parent.origin.to_string(), seq: parent.seq };
        EventRow {
            channel: self.channel.to_owned(),
            // Whom the origin speaks for stands in its advert, which a log does not hold.
            entity: origin.clone(),
            origin,
            seq: parts.seq,
            time_ms: parts.time.unix_ms(),
            late: false,
            payload: Blob::new(parts.payload),
            key: parts.key.map(Blob::new),
            headers: parts.headers.iter().map(header).collect(),
            parents: seal.parents().iter().map(parent).collect(),
        }
    }
}

/// The public key of an origin, if the log knows it; otherwise its short id.
pub(super) fn origin_name(log: &Log, short: &ShortId) -> String {
    let known = log.origin(short);
    known.map_or_else(|| short.to_string(), |origin| origin.to_string())
}

/// Prints rows; what it has printed is seen after [`RowPrinter::flush`] at the latest.
pub(super) struct RowPrinter<W: Write> {
    output: Output,
    json: bool,
    out: BufWriter<W>,
    /// For people: how many events in a row are not there to be printed, by channel, origin and reason. One line tells of
    /// many batches.
    withheld: BTreeMap<(String, String, Withheld), u64>,
}

/// Why an event that is there is not printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Withheld {
    Compacted,
    Sealed(String),
}

const BUFFER_LEN: usize = 64 << 10;
/// Origins and reasons that are counted before they are told.
const WITHHELD_MAX: usize = 1_024;

impl<W: Write> RowPrinter<W> {
    /// For people, or as JSON lines.
    pub(super) fn new(output: Output, json: bool, out: W) -> Self {
        Self { output, json, out: BufWriter::with_capacity(BUFFER_LEN, out), withheld: BTreeMap::new() }
    }

    pub(super) fn print(&mut self, row: &LogRow) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.out, row)?;
            return self.out.write_all(b"\n");
        }
        let (events, channel, origin, why) = match row {
            LogRow::Event { event, .. } => {
                self.tell_withheld()?;
                return writeln!(self.out, "{}", event_line(&self.output, event));
            }
            LogRow::Sealed { channel, origin, from, to, why, .. } => {
                (to - from, channel, origin, Withheld::Sealed(why.clone()))
            }
            LogRow::Compacted { channel, origin, from, to, .. } => (to - from, channel, origin, Withheld::Compacted),
            LogRow::Damaged { .. } | LogRow::Trimmed { .. } => {
                self.flush()?;
                warn(&self.output, row);
                return Ok(());
            }
        };
        *self.withheld.entry((channel.clone(), origin.clone(), why)).or_default() += events;
        if self.withheld.len() > WITHHELD_MAX { self.tell_withheld() } else { Ok(()) }
    }

    /// Says what was not printed since the last event.
    fn tell_withheld(&mut self) -> io::Result<()> {
        if self.withheld.is_empty() {
            return Ok(());
        }
        // It is to stand behind what was read before it.
        self.out.flush()?;
        for ((channel, origin, why), events) in std::mem::take(&mut self.withheld) {
            let events = count(events, "event");
            match why {
                Withheld::Compacted => {
                    self.output
                        .note(format_args!("{channel}: {events} of {origin} superseded by later ones and compacted"));
                }
                Withheld::Sealed(why) => {
                    self.output.warn(format_args!("{channel}: {events} of {origin} cannot be read: {why}"))
                }
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.tell_withheld()?;
        self.out.flush()
    }

    /// What it wrote to, with everything written.
    pub(super) fn into_inner(mut self) -> io::Result<W> {
        self.flush()?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Says what is lost, which is never printed with the events.
fn warn(output: &Output, row: &LogRow) {
    match row {
        LogRow::Damaged { offset, next_offset, channel, lost } => {
            for LostRow { origin, from, to, certain } in lost {
                let perhaps = if *certain { "" } else { ", as far as the damaged bytes tell" };
                let events = count(to - from, "event");
                output
                    .warn(format_args!("{channel}: {events} of {origin} from {from} on damaged on the disk{perhaps}"));
            }
            if lost.is_empty() {
                let events = count(next_offset.saturating_sub(*offset), "event");
                output.warn(format_args!(
                    "{channel}: {events} at offset {offset} damaged on the disk; nothing tells whose"
                ));
            }
        }
        LogRow::Trimmed { channel, first } => {
            output.warn(format_args!("{channel}: the log keeps its events from offset {first} on"));
        }
        LogRow::Event { .. } | LogRow::Sealed { .. } | LogRow::Compacted { .. } => {}
    }
}
