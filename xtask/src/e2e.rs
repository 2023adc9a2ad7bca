//! `cargo xtask e2e`: whole programs, as they are used.

use anyhow::{Result, bail};

use crate::run::{aloud, cargo, lines, say};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, clap::Subcommand)]
enum Suite {
    /// Types what a newcomer types: one, two and three nodes in any order, killed and restarted, and what people get wrong.
    Cli {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Real processes on bad sockets, killed and stopped, with the full budget: seven minutes.
    Faults {
        /// Only tests whose name begins with this.
        filter: Option<String>,
    },
    /// The log's faults with their full budgets: a process of 64 writers killed 1,000 times, every bit of 1 MiB flipped,
    /// 10,000 bits with signatures, power cuts at every call.
    Crash,
}

/// So many ways to get it wrong are typed at least.
const WRONG_USES_MIN: usize = 25;

pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    match &args.suite {
        Suite::Cli { filter } => cli(ws, filter.as_deref()),
        Suite::Faults { filter } => faults(ws, filter.as_deref()),
        Suite::Crash => crash(ws),
    }
}

/// One test after the other, so that the commands it types can be read along.
fn cli(ws: &Workspace, filter: Option<&str>) -> Result<()> {
    let mut command = cargo(&ws.root);
    command.args(["test", "--locked", "--package", "net-cli", "--test", "e2e", "--"]);
    command.args(["--nocapture", "--test-threads=1"]).args(filter);
    let mut wrong_uses = 0;
    let code = lines(&mut command, |line| {
        wrong_uses += usize::from(line.contains(WRONG_USE));
        say(line);
    })?;
    if code != Some(0) {
        bail!("a command did not do what it should: see above");
    }
    say(&format!("wrong uses: {wrong_uses}, each with its exit code, its message and the next command to try"));
    if filter.is_none() && wrong_uses < WRONG_USES_MIN {
        bail!("{wrong_uses} wrong uses were typed, it should be {WRONG_USES_MIN} at least");
    }
    Ok(())
}

/// One test after the other, so that they do not take the cores from each other.
fn faults(ws: &Workspace, filter: Option<&str>) -> Result<()> {
    let mut command = cargo(&ws.root);
    command.args(["test", "--locked", "--package", "net-channel", "--all-features", "--test", "it", "--"]);
    command.args(["--nocapture", "--test-threads=1"]).arg(format!("faults::{}", filter.unwrap_or_default()));
    command.env("NET_FAULTS", "full");
    let mut figures = Vec::new();
    let code = lines(&mut command, |line| {
        figures.extend(line.split_once(FIGURE).map(|(_, figure)| figure.to_owned()));
        say(line);
    })?;
    say("");
    figures.iter().for_each(|figure| say(figure));
    if code != Some(0) {
        bail!("something was lost, came twice or stood still: see above");
    }
    if figures.is_empty() {
        bail!("no test of that name");
    }
    Ok(())
}

/// How the tests begin the line of a figure.
const FIGURE: &str = "faults: ";

/// The tests that have a budget, with all of it.
fn crash(ws: &Workspace) -> Result<()> {
    let mut command = cargo(&ws.root);
    command
        .args(["test", "--release", "--package", "net-redex", "--all-features", "--locked", "--lib", "--test", "it"])
        .args(["--", "--nocapture", "crash::", "rot::", "sim::", "walk::"])
        .env("NET_REDEX_BUDGET", "full");
    aloud(&mut command)
}

/// How the tests begin the line of a wrong use.
const WRONG_USE: &str = "wrong use: ";
