//! `cargo xtask sim`: the simulations, with many seeds or one.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::run::{cargo, has, lines, output, say};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds each simulation runs.
    #[arg(long, default_value_t = 200)]
    seeds: u32,
    /// Runs this seed alone, to see a failure again.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Only simulations whose name contains this.
    name: Option<String>,
}

/// Runs every test whose name begins with `sim_`.
pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let nextest = has(&ws.root, "nextest");
    let mut command = cargo(&ws.root);
    if nextest {
        command.args([
            "nextest",
            "run",
            "--profile",
            "sim",
            "--workspace",
            "--all-features",
            "--locked",
            "--no-fail-fast",
        ]);
        // Simulations print how many faults they injected: a run without faults proves little.
        command.args(["--success-output", "final", "-E"]);
        let named = args.name.as_ref().map_or_else(String::new, |name| format!(" and test({name})"));
        command.arg(format!("test(/(^|::)sim_/){named}"));
    } else {
        command.args(["test", "--workspace", "--all-features", "--locked", "--no-fail-fast", "--tests", "--"]);
        command.args(["--nocapture", args.name.as_deref().unwrap_or("sim_")]);
    }
    match args.seed {
        Some(seed) => command.env("NET_SIM_SEED", seed.to_string()).env_remove("NET_SIM_SEEDS"),
        None => command.env("NET_SIM_SEEDS", args.seeds.to_string()).env_remove("NET_SIM_SEED"),
    };
    let mut seen = Seen::default();
    let code = lines(&mut command, |line| {
        seen.line(line);
        say(line);
    })?;
    if code == Some(0) && (nextest || seen.ran > 0) {
        return Ok(());
    }
    if code == Some(NO_TESTS) || code == Some(0) {
        bail!("no simulation was found: tests whose name begins with sim_");
    }
    let commit =
        output(std::process::Command::new("git").current_dir(&ws.root).args(["rev-parse", "--short=12", "HEAD"]))
            .unwrap_or_else(|_| "unknown".into());
    let commit = commit.trim();
    for seed in &seen.seeds {
        say(&format!("failed with seed {seed} at commit {commit}: cargo xtask sim --seed {seed}"));
    }
    bail!("a simulation failed at commit {commit}");
}

/// What nextest exits with when the filter matches no test.
const NO_TESTS: i32 = 4;

/// What the output told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Seeds that failure messages named.
    seeds: BTreeSet<u64>,
    /// Simulations that `cargo test` ran.
    ran: u32,
}

impl Seen {
    fn line(&mut self, line: &str) {
        for (at, mark) in line.match_indices("NET_SIM_SEED=") {
            let digits = &line[at + mark.len()..];
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            self.seeds.extend(digits[..end].parse::<u64>());
        }
        if line.starts_with("test ") && line.contains("sim_") {
            self.ran += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_found_in_failure_messages() {
        let mut seen = Seen::default();
        seen.line("panicked: lost an event; NET_SIM_SEED=17, step 4");
        seen.line("again NET_SIM_SEED=18446744073709551615");
        seen.line("NET_SIM_SEED= and NET_SIM_SEEDS=5 name no seed");
        seen.line("test it::sim_partition ... FAILED");
        assert_eq!(seen, Seen { seeds: BTreeSet::from([17, u64::MAX]), ran: 1 });
    }
}
