//! `net sub`: prints events as they come.

use std::io;
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use net::channel::{CursorFile, Filter, Pattern};
use net::state::StateDir;
use net::transport::MeshId;
use tokio::time::Instant;

use crate::access::{Access, NodeOptions};
use crate::cli::Global;
use crate::command::position::{Bookmark, Position};
use crate::command::unexpected;
use crate::control::protocol::{EventRow, ItemRow, Reply, Request};
use crate::failure::{Failure, chain};
use crate::host::interrupted;
use crate::output::{Look, Output, To, is_reader_gone};
use crate::start::{Start, TIME_MS_MAX};

/// Print the events of all channels that match, as they come
///
/// `*` stands for one segment of a channel's name, `**` for any number. The shell must not see them: quote the pattern.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net sub 'quakes/*'\n  net sub '**' --from earliest --json\n  net sub 'quakes/*' --filter 'mag >= 4.5 || place.contains(\"Alaska\")'\n  net sub 'quakes/ak' --from last:10 --count 10\n  net sub 'orders/**' --resume billing"
)]
pub(crate) struct Subscribe {
    /// The channels, for example 'quakes/*'
    pattern: String,
    /// Where to begin: earliest, live, last:N, since:15m, since:2026-01-31T12:00:00Z, cursor:…
    #[arg(long, value_name = "WHERE", default_value = "live")]
    from: Start,
    /// Print only the events that match, in CEL: 'mag > 4', 'key == "ak" && size < 1000', 'body.at.lat > 60'
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "EVENTS")]
    count: Option<NonZeroU64>,
    /// Keep the position under this name in the directory, and go on there next time; --from counts the first time
    #[arg(long, value_name = "NAME", value_parser = bookmark_name)]
    resume: Option<String>,
}

/// The longest cursor that is printed when a subscription ends, in bytes: longer ones are for `--resume`.
const CURSOR_SHOWN_MAX: usize = 1_024;

/// Why the reading of one node's answers ended.
enum End {
    /// As many events as were wanted, a signal, or nobody who reads.
    Done,
    /// The node has ended.
    NodeGone,
}

struct Printer<'a> {
    output: Output,
    position: Position,
    bookmark: Option<Bookmark>,
    left: Option<u64>,
    pattern: &'a str,
    filter: Option<&'a str>,
}

impl Subscribe {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        parse_pattern(&self.pattern)?;
        if let Some(filter) = &self.filter {
            Filter::parse(filter)?;
        }
        let options = global.node()?;
        let mut access = Access::attach(&options).await?;
        let result = self.print(&options, output, &mut access).await;
        access.close().await;
        result.map(|()| ExitCode::SUCCESS)
    }

    async fn print(&self, options: &NodeOptions, output: Output, access: &mut Access) -> Result<(), Failure> {
        let dir = StateDir::open(&options.dir)?;
        let (bookmark, resumed) = match &self.resume {
            Some(name) => {
                let (bookmark, cursor) = Bookmark::open(&dir, name)?;
                (Some(bookmark), cursor)
            }
            None => (None, None),
        };
        let start = resumed.map_or_else(|| self.from.clone(), Start::Cursor);
        let position = Position::new(mesh_of(&dir)?, start);
        let left = self.count.map(NonZeroU64::get);
        let mut printer =
            Printer { output, position, bookmark, left, pattern: &self.pattern, filter: self.filter.as_deref() };
        let mut start = printer.position.start();
        let mut stop = std::pin::pin!(interrupted());
        loop {
            match printer.read(access, start, stop.as_mut()).await? {
                End::Done => return printer.end(),
                End::NodeGone if access.is_host() => {
                    return Err(Failure::new("the node has stopped").next("the same command again"));
                }
                End::NodeGone => {}
            }
            output.note("the process that was the node has ended: going on without it");
            *access = tokio::select! {
                biased;
                () = &mut stop => return printer.end(),
                access = Access::attach(options) => access?,
            };
            start = printer.position.go_on();
        }
    }
}

impl Printer<'_> {
    /// Subscribes at whoever is the node and prints until it ends.
    async fn read(
        &mut self,
        access: &Access,
        start: Start,
        mut stop: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Result<End, Failure> {
        let said = format!("subscribed to {} from {start}", self.pattern);
        let request =
            Request::Subscribe { pattern: self.pattern.to_owned(), start, filter: self.filter.map(str::to_owned) };
        let Some(mut connection) = access.open(request).await else { return Ok(End::NodeGone) };
        loop {
            let due = self.bookmark.as_ref().and_then(|bookmark| bookmark.due(self.position.cursor()));
            let reply = tokio::select! {
                biased;
                () = stop.as_mut() => return Ok(End::Done),
                () = sleep_until(due) => {
                    self.save()?;
                    continue;
                }
                reply = connection.next() => reply?,
            };
            match reply {
                Some(Reply::Subscribed) => {
                    self.output.note(format_args!("{said}; Ctrl-C ends"));
                    if let Access::Host(host) = access {
                        host.node().notes().iter().for_each(|note| self.output.note(note));
                    }
                }
                Some(Reply::Item(item)) => match self.item(&item) {
                    Ok(true) => {}
                    Ok(false) => return Ok(End::Done),
                    Err(error) if is_reader_gone(&error) => return Ok(End::Done),
                    Err(error) => return Err(error.into()),
                },
                Some(_) => return Err(unexpected()),
                None => return Ok(End::NodeGone),
            }
        }
    }

    /// Prints an item; false when that was the last that is wanted.
    fn item(&mut self, item: &ItemRow) -> io::Result<bool> {
        if !self.position.pass(item) {
            return Ok(true);
        }
        if self.output.json() {
            self.output.record(item)?;
        } else {
            self.text(item)?;
        }
        if let (ItemRow::Event(_), Some(left)) = (item, &mut self.left) {
            *left -= 1;
        }
        Ok(self.left != Some(0))
    }

    fn text(&self, item: &ItemRow) -> io::Result<()> {
        let output = &self.output;
        match item {
            ItemRow::Event(event) => return output.line(event_line(output, event)),
            ItemRow::Gap { channel, origin, from, to, why, .. } => {
                let lost = to.saturating_sub(*from);
                output.warn(format_args!("{channel}: {lost} events of {origin} {why}"));
            }
            ItemRow::Sealed { channel, origin, from, to, why } => {
                let sealed = to.saturating_sub(*from);
                output.warn(format_args!("{channel}: {sealed} events of {origin} cannot be read: {why}"));
            }
            ItemRow::Trimmed { channel, origin, asked, first } => {
                output
                    .warn(format_args!("{channel}: {origin} keeps its events from {first} on, {asked} was asked for"));
            }
            ItemRow::Restart { channel, origin, .. } => {
                output.note(format_args!("{channel}: {origin} was started again; what lay between may be lost"));
            }
            ItemRow::Equivocation { channel, origin, .. } => {
                output.warn(format_args!("{channel}: {origin} signed two histories; nothing more of it is taken"));
            }
        }
        Ok(())
    }

    /// Says how to go on from here.
    fn end(&mut self) -> Result<(), Failure> {
        self.save()?;
        let cursor = self.position.cursor();
        let text = cursor.to_string();
        if self.bookmark.is_none() && !cursor.is_empty() && text.len() <= CURSOR_SHOWN_MAX {
            self.output.note(format_args!("to go on from here: --from cursor:{text}"));
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Failure> {
        match &mut self.bookmark {
            Some(bookmark) => bookmark.save(self.position.cursor()),
            None => Ok(()),
        }
    }
}

/// An event for people, on one line.
pub(crate) fn event_line(output: &Output, event: &EventRow) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(event.time_ms.min(TIME_MS_MAX));
    let time = humantime::format_rfc3339_millis(at).to_string();
    // The time of the day, in UTC: the date is the same for most that is printed together.
    let time = output.paint(To::Out, Look::Dim, time.get(11..23).unwrap_or(&time));
    let channel = output.paint(To::Out, Look::Name, &event.channel);
    let mut line = format!("{time} {channel} {}", visible(&event.payload.to_string()));
    let headers = event.headers.iter().map(|header| visible(&format!("{}={}", header.name, header.value)));
    let beside: Vec<String> = event.key.iter().map(|key| visible(&format!("key={key}"))).chain(headers).collect();
    if !beside.is_empty() {
        line.push_str(&output.paint(To::Out, Look::Dim, format!("  ({})", beside.join(", "))));
    }
    line
}

/// What others published, without the characters with which it could take over the terminal.
fn visible(text: &str) -> String {
    let commands = |c: char| c.is_control() && c != '\t';
    if !text.contains(commands) {
        return text.to_owned();
    }
    let escape = |c: char| if commands(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

pub(crate) fn parse_pattern(text: &str) -> Result<Pattern, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(format!("`{text}` is no pattern: {}", chain(&error)))
            .next("patterns look like 'quakes/*' or 'vehicles/**': `net sub 'quakes/*'`")
    })
}

fn mesh_of(dir: &StateDir) -> Result<MeshId, Failure> {
    // Whoever is the node has written it before it listened.
    let missing = || Failure::new("the directory has lost its mesh").next("`net doctor` looks at the directory");
    Ok(dir.mesh()?.ok_or_else(missing)?.id())
}

fn bookmark_name(text: &str) -> Result<String, String> {
    CursorFile::check_name(text).map_err(|error| format!("{error}, for example `--resume billing`"))?;
    Ok(text.to_owned())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_text_cannot_command_the_terminal() {
        assert_eq!(visible("a\u{1b}[2J\rb\u{9b}c\td"), "a\\u{1b}[2J\\rb\\u{9b}c\td");
    }

    #[test]
    fn time_of_a_clock_that_is_ten_thousand_years_ahead_is_printed() {
        let last = UNIX_EPOCH + Duration::from_millis(TIME_MS_MAX);
        assert_eq!(humantime::format_rfc3339_millis(last).to_string(), "9999-12-31T23:59:59.999Z");
    }
}
