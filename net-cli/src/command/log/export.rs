//! `net log export`: a log as a file of events, or of batches.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use net::redex::{EventItem, Found, Log, Start};
use serde::Serialize;

use super::rows::{RowPrinter, Rows, Stop};
use super::target::Target;
use super::unreadable;
use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{Output, is_reader_gone};
use crate::text::{count, size};

/// Write a log to a file, or `-` for the standard output
///
/// As `jsonl`: what `net log read --json` prints, a line each. As `batches`: the signed and sealed batches one after the
/// other, as they were on the wire; each begins with its 64-byte header, whose bytes 4 to 7 say how many follow. The file
/// appears when it is whole, and only its owner may read it. The exit code is 1 if something could not be exported as it
/// was: damage, or events without a key.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net log export quakes/ak quakes.jsonl\n  net log export quakes/ak - | jq .text\n  net log export quakes/ak quakes.batches --format batches"
)]
pub(super) struct Export {
    #[command(flatten)]
    target: Target,
    /// Where to: a file that is not there yet, or `-`
    file: PathBuf,
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON lines, of opened events
    Jsonl,
    /// Sealed batches, as they were on the wire
    Batches,
}

const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What was exported.
#[derive(Debug, Default, Serialize)]
struct Exported {
    events: u64,
    batches: u64,
    bytes: u64,
    /// Events that could not be opened.
    sealed: u64,
    /// Events whose bodies compaction has taken.
    compacted: u64,
    /// Events that damage took.
    damaged: u64,
}

impl Export {
    pub(super) fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let located = self.target.locate(global)?;
        let to_stdout = self.file.as_os_str() == "-";
        if !to_stdout && !self.force && self.file.exists() {
            return Err(Failure::new(format!("{} is there already", self.file.display()))
                .next("another name, or `--force` to replace it"));
        }
        let log = located.open(&output)?;
        let job = Job { log: &log, channel: located.name(&log), format: self.format, output };
        let result = if to_stdout {
            job.write(io::stdout().lock(), false).map(|(exported, _)| exported)
        } else {
            job.write_file(&self.file, self.force)
        };
        output.progress_done();
        let exported = match result {
            Ok(exported) => exported,
            Err(Stop::Output(error)) if to_stdout && is_reader_gone(&error) => return Ok(ExitCode::SUCCESS),
            Err(Stop::Output(error)) => {
                return Err(Failure::new(format!("cannot write {}: {error}", self.file.display()))
                    .next("another place with room, where you may write"));
            }
            Err(Stop::Log(error)) => return Err(unreadable(&error)),
        };
        self.report(&output, &exported, to_stdout)
    }

    fn report(&self, output: &Output, exported: &Exported, to_stdout: bool) -> Result<ExitCode, Failure> {
        let Exported { events, bytes, sealed, compacted, damaged, .. } = *exported;
        let said = format!("exported {} ({})", count(events, "event"), size(bytes));
        match (to_stdout, output.json()) {
            // The standard output has the events.
            (true, _) => output.note(said),
            (false, true) => output.record(exported)?,
            (false, false) => output.line(format!("{said} to {}", self.file.display()))?,
        }
        if compacted > 0 {
            output.note(format_args!("{} had been superseded and compacted", count(compacted, "event")));
        }
        if sealed > 0 {
            output.warn(format_args!("{} could not be opened here and stand there as sealed", count(sealed, "event")));
        }
        if damaged > 0 {
            output.warn(format_args!("{} damaged on the disk and not exported", count(damaged, "event")));
        }
        Ok(if sealed + damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

struct Job<'a> {
    log: &'a Log,
    channel: String,
    format: Format,
    output: Output,
}

impl Job<'_> {
    /// Writes beside the file and puts that in its place when it is whole; only its owner may read it.
    fn write_file(&self, path: &Path, force: bool) -> Result<Exported, Stop> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
        let file = tempfile::Builder::new().prefix(name).suffix(".tmp").tempfile_in(dir)?;
        let (exported, file) = self.write(file, true)?;
        file.as_file().sync_all()?;
        let placed = if force { file.persist(path) } else { file.persist_noclobber(path) };
        placed.map_err(|error| error.error)?;
        Ok(exported)
    }

    fn write<W: Write>(&self, out: W, progress: bool) -> Result<(Exported, W), Stop> {
        let mut progress = progress.then(Instant::now);
        let mut told = |exported: &Exported| {
            if let Some(shown) = &mut progress
                && shown.elapsed() >= PROGRESS_EVERY
            {
                *shown = Instant::now();
                let end = self.log.next_offset() - self.log.first_offset();
                self.output.progress(format_args!("exported {} of {end}", count(exported.events, "event")));
            }
        };
        match self.format {
            Format::Jsonl => self.events(out, &mut told),
            Format::Batches => self.batches(out, &mut told),
        }
    }

    fn events<W: Write>(&self, out: W, told: &mut dyn FnMut(&Exported)) -> Result<(Exported, W), Stop> {
        let mut exported = Exported::default();
        let mut printer = RowPrinter::new(self.output, true, Counted { out, bytes: 0 });
        let rows = Rows { log: self.log, channel: &self.channel };
        let mut batch = None;
        for item in self.log.events(Start::Earliest)? {
            let item = item?;
            match &item {
                EventItem::Event(event) => {
                    exported.events += 1;
                    let first = event.offset() - (event.get().seq - event.batch().seal().seq());
                    exported.batches += u64::from(batch.replace(first) != Some(first));
                }
                EventItem::Sealed { offsets, .. } => exported.sealed += offsets.end - offsets.start,
                EventItem::Compacted { offsets, .. } => exported.compacted += offsets.end - offsets.start,
                EventItem::Hole(hole) => exported.damaged += hole.offsets.end - hole.offsets.start,
                _ => {}
            }
            if let Some(row) = rows.of(&item) {
                printer.print(&row)?;
            }
            told(&exported);
        }
        let Counted { out, bytes } = printer.into_inner()?;
        Ok((Exported { bytes, ..exported }, out))
    }

    fn batches<W: Write>(&self, out: W, told: &mut dyn FnMut(&Exported)) -> Result<(Exported, W), Stop> {
        let mut exported = Exported::default();
        let mut out = BufWriter::new(out);
        for found in self.log.read(Start::Earliest)? {
            match found? {
                // Without its body it is no batch that anybody takes.
                Found::Batch(batch) if batch.is_compacted() => {
                    exported.compacted += batch.next_offset() - batch.offset()
                }
                Found::Batch(batch) => {
                    out.write_all(batch.frame())?;
                    exported.events += batch.next_offset() - batch.offset();
                    exported.batches += 1;
                    exported.bytes += batch.frame().len() as u64;
                }
                Found::Hole(hole) => exported.damaged += hole.offsets.end - hole.offsets.start,
                _ => {}
            }
            told(&exported);
        }
        let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((exported, out))
    }
}

/// Counts what goes through it.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
