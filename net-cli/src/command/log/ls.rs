//! `net log ls`: the logs of a node.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use net::logs;
use net::redex::Log;
use net::state::StateDir;
use serde::Serialize;

use super::target::Located;
use super::{printed, unreadable};
use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{Look, Output, To};
use crate::text::{ago, ms, size, table};

/// List the logs of this node
///
/// Holes are those that opening comes by: `net log verify` reads everything.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net log ls\n  net --dir /tmp/b log ls --json")]
pub(super) struct Ls {}

/// What a log has.
#[derive(Debug, Serialize)]
struct Row {
    channel: String,
    events: u64,
    /// Bytes of what is stored; the files are longer, because room is made ahead.
    bytes: u64,
    file_bytes: u64,
    segments: usize,
    first_offset: u64,
    next_offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_ms: Option<u64>,
    origins: usize,
    holes: usize,
    /// Whether a process writes it now.
    open: bool,
    #[serde(skip)]
    oldest: Option<u64>,
    #[serde(skip)]
    newest: Option<u64>,
}

impl Ls {
    pub(super) fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let (output, path, net) = (global.output(), global.dir()?, global.net());
        let state = if path.exists() { Some(StateDir::open(&path)?) } else { None };
        let channels = match &state {
            Some(state) => logs::list(state)?,
            None => Vec::new(),
        };
        let (mut rows, mut code) = (Vec::new(), ExitCode::SUCCESS);
        for (state, channel) in state.iter().flat_map(|state| channels.iter().map(move |channel| (state, channel))) {
            let located = Located::of(state, channel.clone(), net.clone());
            match located.open(&output).and_then(|log| row(channel.to_string(), &log)) {
                Ok(row) => rows.push(row),
                Err(failure) => {
                    output.warn(format_args!("{channel}: {}", failure.message));
                    code = ExitCode::FAILURE;
                }
            }
        }
        if channels.is_empty() {
            output.note(format_args!(
                "no logs in {}: `{net} up --keep 'quakes/*'` keeps what is published there",
                path.display()
            ));
        }
        printed(print(&output, &rows), code)
    }
}

fn print(output: &Output, rows: &[Row]) -> std::io::Result<()> {
    if output.json() {
        return rows.iter().try_for_each(|row| output.record(row));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let now = SystemTime::now();
    let heads = ["channel", "events", "size", "segs", "offsets", "oldest", "newest", "origins", "holes"];
    let mut cells = vec![heads.map(str::to_owned).to_vec()];
    let age = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), |at| ago(at, now));
    cells.extend(rows.iter().map(|row| {
        let offsets = format!("{}..{}", row.first_offset, row.next_offset);
        let (oldest, newest) = (age(row.oldest), age(row.newest));
        let numbers = [row.segments, row.origins, row.holes].map(|n| n.to_string());
        let [segments, origins, holes] = numbers;
        let (channel, events) = (row.channel.clone(), row.events.to_string());
        vec![channel, events, size(row.bytes), segments, offsets, oldest, newest, origins, holes]
    }));
    let width = cells.iter().map(|row| row[0].len()).max().unwrap_or(0);
    for (i, line) in table(&cells).iter().enumerate() {
        match line.split_at_checked(width) {
            Some((name, rest)) if i > 0 => output.line(output.paint(To::Out, Look::Name, name) + rest)?,
            _ => output.line(output.paint(To::Out, Look::Dim, line))?,
        }
    }
    Ok(())
}

fn row(channel: String, log: &Log) -> Result<Row, Failure> {
    let segments = log.segments().map_err(|error| unreadable(&error))?;
    let oldest = segments.iter().find(|segment| segment.last.is_some()).map(|segment| segment.begun);
    let newest = segments.iter().filter_map(|segment| segment.last).max();
    let (first_offset, next_offset) = (log.first_offset(), log.next_offset());
    Ok(Row {
        channel,
        events: next_offset.saturating_sub(first_offset),
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        file_bytes: segments.iter().map(|segment| segment.file_bytes).sum(),
        segments: segments.len(),
        first_offset,
        next_offset,
        oldest_ms: oldest.map(ms),
        newest_ms: newest.map(ms),
        origins: log.next_seqs().len(),
        holes: log.holes().len(),
        open: log.recovery().beside_writer,
        oldest,
        newest,
    })
}
