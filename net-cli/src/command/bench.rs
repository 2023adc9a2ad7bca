//! `net bench`: how fast this is on this machine, with what was measured and how.

mod appends;
mod disk;
mod figures;
mod latency;
mod log;
mod mesh;
mod publish;
mod spread;
pub(crate) mod subscriber;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use self::tally::EVENT_LEN_MIN;
use crate::cli::Global;
use crate::failure::Failure;
use crate::host::interrupted;
use crate::output::Output;
use crate::text::parse_size;

/// Measure how fast this is on this machine
///
/// Everything runs with the defaults that programs get: events sealed, signed and verified. What is measured is made for the
/// measurement and leaves nothing behind; the node of this directory is not asked. A run in which an event is missing, comes
/// twice or does not verify has no figures: the exit code is 1 then. Figures of two machines, or of one that is busy with
/// something else, do not compare.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net bench pub\n  net bench latency\n  net bench log --dir /var/lib")]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pub(publish::Publish),
    Latency(latency::Latency),
    Log(log::Log),
}

impl Bench {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        match self.command {
            Command::Pub(command) => command.run(&output).await,
            Command::Latency(command) => command.run(&output).await,
            Command::Log(command) => command.run(&output).await,
        }
    }
}

/// How long is measured, and how often.
#[derive(Clone, Copy, Debug, Args)]
struct Rounds {
    /// Rounds; what is printed is their median, and the quartiles
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each round
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_secs)]
    secs: Duration,
}

/// Seconds that can be measured: in less, starting is all there is.
const SECS_MIN: f64 = 0.05;
const SECS_MAX: f64 = 3_600.0;

fn parse_secs(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(secs) if (SECS_MIN..=SECS_MAX).contains(&secs) => Ok(Duration::from_secs_f64(secs)),
        _ => Err(format!("`{text}` is no time to measure: {SECS_MIN} to {SECS_MAX} seconds, try `--secs 2`")),
    }
}

fn parse_event_size(text: &str) -> Result<usize, String> {
    let bytes = parse_size(text).map_err(|error| format!("{error}, try `--size 1KiB`"))?;
    match usize::try_from(bytes) {
        Ok(bytes) if (EVENT_LEN_MIN..=net::channel::EVENT_LEN_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!("events of {bytes} bytes cannot be measured: {EVENT_LEN_MIN} B to 1 MiB, try `--size 1KiB`")),
    }
}

/// Does the work until it is done or somebody does not want to wait. Dropping it ends its processes.
async fn unless_interrupted<T>(
    output: &Output,
    command: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    if cfg!(debug_assertions) {
        output.warn("built for debugging: the figures are many times too low; build with --release");
    }
    let result = tokio::select! {
        biased;
        () = interrupted() => Err(Failure::new("interrupted").next(format!("`{command}` again, for fewer --secs"))),
        result = work => result,
    };
    output.progress_done();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_an_event_can_have() {
        assert_eq!(parse_event_size("64"), Ok(64));
        assert_eq!(parse_event_size("1KiB"), Ok(1_024));
        assert_eq!(parse_event_size("1MiB"), Ok(1 << 20));
        for text in ["0", "15", "1048577", "99999999999999999999", "large", ""] {
            assert!(parse_event_size(text).is_err_and(|error| error.contains("--size 1KiB")), "{text}");
        }
    }

    #[test]
    fn seconds_are_finite_and_not_none() {
        assert_eq!(parse_secs("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_secs("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "NaN", "inf", "1e9", "soon", ""] {
            assert!(parse_secs(text).is_err_and(|error| error.contains("--secs 2")), "{text}");
        }
    }
}
