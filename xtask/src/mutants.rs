//! `cargo xtask mutants`: seeded bugs, each of which a test must find.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::run::{cargo, lines, say};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only mutants whose name contains this.
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    mutant: Vec<Mutant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// What `NET_MUTANT` is set to.
    name: String,
    /// Whose tests run.
    package: String,
    /// Which of them: those whose name contains this.
    filter: String,
}

/// Runs each mutant's tests without it, which must pass, and with it, which must fail.
pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let text = fs::read_to_string(ws.root.join("mutants.toml")).context("read mutants.toml")?;
    let table: Table = toml::from_str(&text).context("understand mutants.toml")?;
    if table.mutant.is_empty() {
        println!("mutants: none are listed in mutants.toml, so nothing was run");
        return Ok(());
    }
    let chosen: Vec<_> =
        table.mutant.iter().filter(|mutant| args.name.as_ref().is_none_or(|part| mutant.name.contains(part))).collect();
    if chosen.is_empty() {
        bail!("no mutant of that name is listed in mutants.toml");
    }
    let mut report = Vec::new();
    let mut survivors = 0;
    for mutant in chosen {
        let control = tests(ws, mutant, None)?;
        if control.code != Some(0) || control.passed == 0 {
            bail!(
                "{}: without the mutant its tests must pass and be at least one (filter {:?})",
                mutant.name,
                mutant.filter
            );
        }
        let with = tests(ws, mutant, Some(&mutant.name))?;
        match with.killer() {
            Some(test) => report.push(format!("killed    {}: by {test}", mutant.name)),
            None => {
                survivors += 1;
                report.push(format!("SURVIVED  {}: no test with {:?} in its name failed", mutant.name, mutant.filter));
            }
        }
    }
    report.iter().for_each(|line| say(line));
    if survivors > 0 {
        bail!("{survivors} of {} mutants survived", report.len());
    }
    say(&format!("mutants: all {} killed", report.len()));
    Ok(())
}

/// `cargo test` rather than nextest: its output is the same on every machine, and a build that fails is told from a
/// test that fails by the names of the latter.
fn tests(ws: &Workspace, mutant: &Mutant, active: Option<&str>) -> Result<Outcome> {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command: Command = cargo(&ws.root);
    command
        .args(["test", "--package", &mutant.package, "--all-features", "--locked", "--no-fail-fast", "--tests"])
        .args(["--", &mutant.filter])
        .env("RUSTFLAGS", format!("{flags} --cfg mutants"))
        // A folder of its own, or each run would rebuild everything that the other commands built.
        .env("CARGO_TARGET_DIR", ws.target.join("mutants"));
    match active {
        Some(name) => command.env("NET_MUTANT", name),
        None => command.env_remove("NET_MUTANT"),
    };
    let mut outcome = Outcome::default();
    outcome.code = lines(&mut command, |line| {
        outcome.line(line);
        say(line);
    })?;
    Ok(outcome)
}

/// What a run of tests told.
#[derive(Debug, Default)]
struct Outcome {
    code: Option<i32>,
    passed: usize,
    failed: Vec<String>,
}

impl Outcome {
    fn line(&mut self, line: &str) {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else {
            return;
        };
        match result {
            "ok" => self.passed += 1,
            "FAILED" => self.failed.push(name.to_owned()),
            _ => {}
        }
    }

    /// The test that found the bug. A run that failed without naming a test (it did not build, it crashed) found nothing.
    fn killer(&self) -> Option<&str> {
        if self.code == Some(0) { None } else { self.failed.first().map(String::as_str) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: i32, text: &str) -> Outcome {
        let mut outcome = Outcome { code: Some(code), ..Outcome::default() };
        text.lines().for_each(|line| outcome.line(line));
        outcome
    }

    #[test]
    fn the_first_failed_test_is_the_killer() {
        let run =
            outcome(101, "test a::b ... ok\ntest a::c ... FAILED\ntest d ... FAILED\ntest result: FAILED. 1 passed");
        assert_eq!((run.passed, run.killer()), (1, Some("a::c")));
    }

    #[test]
    fn a_build_that_fails_kills_nothing() {
        assert_eq!(outcome(101, "error[E0425]: cannot find value").killer(), None);
        assert_eq!(outcome(0, "test a ... ok").killer(), None);
    }

    #[test]
    fn the_table_of_this_workspace_is_understood() {
        let table: Table = toml::from_str(include_str!("../../mutants.toml")).expect("a sound table");
        assert!(table.mutant.iter().all(|mutant| !mutant.filter.is_empty()));
    }
}
