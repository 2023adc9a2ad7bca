//! `cargo xtask e2e`: programs of ours run as a whole, from outside.

use anyhow::Result;

use crate::run::{aloud, cargo};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The log's faults with their full budgets: a process of 64 writers killed 1,000 times, every bit of 1 MiB flipped,
    /// 10,000 bits with signatures, power cuts at every call.
    Crash,
}

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    match args.what {
        What::Crash => crash(ws),
    }
}

/// The tests that have a budget, with all of it.
fn crash(ws: &Workspace) -> Result<()> {
    let mut command = cargo(&ws.root);
    command
        .args(["test", "--release", "--package", "net-redex", "--all-features", "--locked", "--lib", "--test", "it"])
        .args(["--", "--nocapture", "crash::", "rot::", "sim::", "walk::"])
        .env("NET_REDEX_BUDGET", "full");
    aloud(&mut command)
}
