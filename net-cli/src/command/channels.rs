//! `net channels`: who produces what.

use std::io;
use std::process::ExitCode;

use clap::Args;
use net::channel::Pattern;

use crate::access::Access;
use crate::cli::Global;
use crate::command::{look_around, unexpected};
use crate::control::protocol::{KeepRow, KeptRow, Reply, Request, Takers};
use crate::failure::Failure;
use crate::output::{Look, Output, To};

/// Show the channels that are produced in the mesh and by whom, and those that this node keeps
///
/// A node keeps channels as long as `net up --keep` runs in its directory; `net log` shows what it has stored.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net channels\n  net channels 'quakes/*'")]
pub(crate) struct Channels {
    /// Only channels that match
    #[arg(default_value = "**")]
    pattern: String,
}

impl Channels {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let (output, options) = (global.output(), global.node()?);
        let pattern = super::subscribe::parse_pattern(&self.pattern)?;
        let mut access = Access::attach(&options).await?;
        look_around(&access).await;
        let reply = access.ask(&options, Request::Channels).await;
        access.close().await;
        let Reply::Channels { producers: mut rows, mut keeps } = reply? else { return Err(unexpected()) };
        rows.retain(|row| matches(&pattern, &row.channel));
        keeps.iter_mut().for_each(|keep| keep.channels.retain(|kept| matches(&pattern, &kept.channel)));
        if output.json() {
            for row in &rows {
                output.record(row)?;
            }
            for keep in &keeps {
                output.record(keep)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let width = rows.iter().map(|row| row.channel.len()).max().unwrap_or(0).min(60);
        for row in &rows {
            let name = output.paint(To::Out, Look::Name, format!("{:<width$}", row.channel));
            let entity = if row.entity == row.origin { String::new() } else { format!("  for {}", row.entity) };
            let takers = row.takers.as_ref().map_or_else(String::new, takers);
            output.line(format!("{name}  {}{entity}{takers}", row.origin))?;
        }
        if rows.is_empty() {
            output.note(format!("nothing that matches is produced now: `{} pub CHANNEL TEXT` publishes", global.net()));
        }
        keeps.iter().try_for_each(|keep| print_keep(&output, keep))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print_keep(output: &Output, keep: &KeepRow) -> io::Result<()> {
    output.line(format!("this node keeps {}", output.paint(To::Out, Look::Name, &keep.keeps)))?;
    let width = keep.channels.iter().map(|kept| kept.channel.len()).max().unwrap_or(0).min(60);
    for KeptRow { channel, events, failure } in &keep.channels {
        let name = output.paint(To::Out, Look::Name, format!("{channel:<width$}"));
        let stored = format!("{events} {} stored", if *events == 1 { "event" } else { "events" });
        let state = match failure {
            None => output.paint(To::Out, Look::Good, stored),
            Some(failure) => output.paint(To::Out, Look::Bad, format!("{stored}, and now it fails: {failure}")),
        };
        output.line(format!("  {name}  {state}"))?;
    }
    Ok(())
}

fn matches(pattern: &Pattern, channel: &str) -> bool {
    channel.parse().is_ok_and(|name| pattern.matches(&name))
}

/// Who takes a channel of this node, and whether somebody is behind.
fn takers(takers: &Takers) -> String {
    let subscribers = match takers.subscribers {
        1 => "1 subscriber".to_owned(),
        n => format!("{n} subscribers"),
    };
    match takers.lag_max {
        0 => format!("  {subscribers}"),
        lag => format!("  {subscribers}, the slowest lacks {lag} events"),
    }
}
