//! `net log`: the logs of this directory's node, read and looked after without it.

mod compact;
mod export;
mod ls;
mod read;
mod rows;
mod stat;
mod target;
mod trim;
mod verify;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use net::redex::ReadError;

use crate::cli::Global;
use crate::failure::{Failure, chain};
use crate::output::printed;

/// Read, check and look after the logs on this node's disk
///
/// A log holds the events of one channel. It is named by the channel, or by the path of its directory, which begins with
/// `/` or `.`. What only reads works while the node runs, and shows what that has synced: about a second behind. `trim` and
/// `compact` need a log that no process writes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net log ls\n  net log read quakes/ak --from last:10\n  net log verify quakes/ak\n  net log stat ./backup/quakes+ak"
)]
pub(crate) struct Log {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ls::Ls),
    Stat(stat::Stat),
    Read(read::Read),
    Verify(verify::Verify),
    Export(export::Export),
    Trim(trim::Trim),
    Compact(compact::Compact),
}

impl Log {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Ls(command) => command.run(global),
            Command::Stat(command) => command.run(global),
            Command::Read(command) => command.run(global).await,
            Command::Verify(command) => command.run(global),
            Command::Export(command) => command.run(global),
            Command::Trim(command) => command.run(global),
            Command::Compact(command) => command.run(global),
        }
    }
}

/// Why the disk gave no answer.
fn unreadable(error: &ReadError) -> Failure {
    Failure::new(chain(error)).next("the same command again; if that fails too, look at the disk: `dmesg`")
}
