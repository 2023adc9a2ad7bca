//! `net log stat`: everything about one log.

use std::io;
use std::process::ExitCode;

use clap::Args;
use net::redex::{Hole, Log, SegmentInfo};
use serde::Serialize;

use super::rows::origin_name;
use super::target::{Located, Target};
use super::{printed, unreadable};
use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{Look, Output, To};
use crate::text::{count, ms, size, table, time};

/// Show everything about a log: offsets, origins, segments, damage, keys
///
/// How long it is kept is not in the log: that is a setting of whoever writes it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net log stat quakes/ak\n  net log stat quakes/ak --json\n  net log stat ./backup/quakes+ak"
)]
pub(super) struct Stat {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Serialize)]
struct Report {
    channel: String,
    path: std::path::PathBuf,
    log: String,
    /// The public name of the mesh.
    mesh: String,
    first_offset: u64,
    next_offset: u64,
    bytes: u64,
    file_bytes: u64,
    /// Who writes it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<String>,
    /// The first offset of an interrupted write that is cut off when the log is opened for writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    torn: Option<u64>,
    passed_over: Vec<String>,
    holes: Vec<String>,
    /// Whether the key ring opens here.
    ring_open: bool,
    origins: Vec<OriginRow>,
    segments: Vec<SegmentRow>,
}

#[derive(Debug, Serialize)]
struct OriginRow {
    /// Its public key, if the log knows it; otherwise its short id.
    origin: String,
    next_seq: u64,
    /// Its keys in the ring, if that opens.
    keys: Option<usize>,
}

#[derive(Debug, Serialize)]
struct SegmentRow {
    first_offset: u64,
    next_offset: u64,
    bytes: u64,
    file_bytes: u64,
    begun_ms: u64,
    last_ms: Option<u64>,
    sealed: bool,
    #[serde(skip)]
    begun: u64,
    #[serde(skip)]
    last: Option<u64>,
}

impl Stat {
    pub(super) fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let located = self.target.locate(global)?;
        let log = located.open(&output)?;
        let report = Report::of(&located, &log)?;
        let result = if output.json() { output.record(&report) } else { report.print(&output) };
        printed(result, ExitCode::SUCCESS)
    }
}

impl Report {
    fn of(located: &Located, log: &Log) -> Result<Self, Failure> {
        let segments = log.segments().map_err(|error| unreadable(&error))?;
        let keys = log.key_ids();
        let origins = log.next_seqs().into_iter().map(|(short, next_seq)| OriginRow {
            origin: origin_name(log, &short),
            next_seq,
            keys: keys.as_ref().map(|keys| keys.iter().filter(|(of, _)| *of == short).count()),
        });
        let recovery = log.recovery();
        Ok(Self {
            channel: located.name(log),
            path: std::path::absolute(&located.path)?,
            log: log.id().to_string(),
            mesh: net::transport::base32_encode(&log.mesh().hint()),
            first_offset: log.first_offset(),
            next_offset: log.next_offset(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            file_bytes: segments.iter().map(|segment| segment.file_bytes).sum(),
            writer: recovery.beside_writer.then(|| located.writer()),
            torn: recovery.torn.as_ref().map(|torn| torn.offset),
            passed_over: recovery.passed_over.clone(),
            holes: log.holes().iter().map(Hole::to_string).collect(),
            ring_open: keys.is_some(),
            origins: origins.collect(),
            segments: segments.iter().map(SegmentRow::of).collect(),
        })
    }

    fn print(&self, output: &Output) -> io::Result<()> {
        let line = |name: &str, value: &str| {
            output.line(format!("{} {value}", output.paint(To::Out, Look::Dim, format!("{name:<9}"))))
        };
        line("channel", &output.paint(To::Out, Look::Name, &self.channel))?;
        line("path", &self.path.display().to_string())?;
        line("log", &self.log)?;
        line("mesh", &self.mesh)?;
        let events = count(self.next_offset.saturating_sub(self.first_offset), "event");
        line("offsets", &format!("{}..{}, {events}", self.first_offset, self.next_offset))?;
        let files = size(self.file_bytes);
        line(
            "size",
            &format!("{} in {} ({files} on disk)", size(self.bytes), count(self.segments.len() as u64, "segment")),
        )?;
        line(
            "writer",
            &match &self.writer {
                Some(writer) => format!("{writer}; what it stored in the last second may not be shown"),
                None => "none now".to_owned(),
            },
        )?;
        if let Some(offset) = self.torn {
            line("torn", &format!("an interrupted write at offset {offset}: cut off when the log is next written"))?;
        }
        self.passed_over.iter().try_for_each(|what| line("note", what))?;
        if self.holes.is_empty() {
            line("holes", "none that opening came by; `net log verify` reads everything")?;
        }
        self.holes.iter().try_for_each(|hole| line("hole", &output.paint(To::Out, Look::Bad, hole)))?;
        if !self.ring_open {
            line("keys", "sealed: the ring opens with the directory of the node that keeps the log")?;
        }
        let mut rows = vec![vec!["origin".to_owned(), "next seq".to_owned(), "keys".to_owned()]];
        rows.extend(self.origins.iter().map(|row| {
            let keys = row.keys.map_or_else(|| "?".to_owned(), |keys| keys.to_string());
            vec![row.origin.clone(), row.next_seq.to_string(), keys]
        }));
        print_table(output, &rows)?;
        let heads = ["segment", "size", "first stored", "last stored", "state"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(self.segments.iter().map(SegmentRow::cells));
        print_table(output, &rows)
    }
}

/// An empty line and a table, if it has more than its head.
fn print_table(output: &Output, rows: &[Vec<String>]) -> io::Result<()> {
    if rows.len() > 1 {
        output.line("")?;
        let lines = table(rows);
        output.line(output.paint(To::Out, Look::Dim, &lines[0]))?;
        lines[1..].iter().try_for_each(|line| output.line(line))?;
    }
    Ok(())
}

impl SegmentRow {
    fn of(info: &SegmentInfo) -> Self {
        Self {
            first_offset: info.base,
            next_offset: info.next_offset,
            bytes: info.bytes,
            file_bytes: info.file_bytes,
            begun_ms: ms(info.begun),
            last_ms: info.last.map(ms),
            sealed: info.sealed,
            begun: info.begun,
            last: info.last,
        }
    }

    fn cells(&self) -> Vec<String> {
        let state = if self.sealed { "sealed" } else { "active" };
        let known = |at: u64| if at == 0 { "?".to_owned() } else { time(at) };
        let (begun, last) = match self.last {
            Some(last) => (known(self.begun), time(last)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let offsets = format!("{}..{}", self.first_offset, self.next_offset);
        vec![offsets, size(self.bytes), begun, last, state.to_owned()]
    }
}
