//! `cargo xtask test`: every test that needs nothing but the toolchain.

use std::process::Command;

use anyhow::{Result, bail};

use crate::left_out::{self, LeftOut};
use crate::run::{cargo, has, lines, say};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Only tests of this crate.
    #[arg(long, short)]
    package: Option<String>,
}

/// What this command never runs, and how to run it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("simulations with many seeds (here each runs with a few)", "cargo xtask sim --seeds 200"),
    ("processes that are killed and stopped, for minutes (here each for seconds)", "cargo xtask e2e faults"),
    ("fuzzing, and the check of its corpora", "cargo xtask fuzz --secs 10"),
    ("seeded bugs", "cargo xtask mutants"),
    ("the log's crashes and flipped bits with their full budgets", "cargo xtask e2e crash"),
    ("benchmarks", "cargo xtask bench"),
];

/// Runs the documentation's tests, then all others, and lists what was left out before the runner's closing lines.
pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let list = LeftOut::new(&ws.target)?;
    let mut failed = Vec::new();
    let scope = args.package.as_ref().map_or_else(|| vec!["--workspace"], |name| vec!["--package", name]);

    let runner = if has(&ws.root, "nextest") {
        // nextest does not run the tests in documentation.
        let has_library = |name: &str| {
            ws.package(name).is_none_or(|package| package.targets.iter().any(|target| target.kind.contains("lib")))
        };
        if args.package.as_deref().is_none_or(has_library) {
            let mut doc = tests(ws, &list, &["test", "--doc", "--all-features", "--locked"]);
            doc.args(&scope);
            if let Some(filter) = &args.filter {
                doc.args(["--", filter]);
            }
            if lines(&mut doc, say)? != Some(0) {
                failed.push("documentation");
            }
        }
        let mut all = tests(ws, &list, &["nextest", "run", "--all-features", "--locked", "--no-fail-fast"]);
        all.args(&scope);
        if let Some(filter) = &args.filter {
            all.arg(filter).arg("--no-tests=pass");
        }
        all
    } else {
        say("cargo-nextest is not installed: cargo test runs the tests, one binary after the other");
        let mut all = tests(ws, &list, &["test", "--all-features", "--locked", "--no-fail-fast"]);
        all.args(&scope);
        all.args(&args.filter);
        all
    };
    let mut closing = Closing::default();
    let mut runner = runner;
    if lines(&mut runner, |line| closing.line(line, say))? != Some(0) {
        failed.push("tests");
    }
    report(&list)?;
    closing.end(say);
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(" and "));
    }
    Ok(())
}

fn tests(ws: &Workspace, list: &LeftOut, args: &[&str]) -> Command {
    let mut command = cargo(&ws.root);
    command.args(args).env(left_out::VARIABLE, list.value());
    command
}

fn report(list: &LeftOut) -> Result<()> {
    let reported = list.read()?;
    say("");
    if reported.is_empty() {
        say("left out: no test");
    } else {
        say(&format!("left out: {}, which the counts below include", reported.len()));
        for line in reported {
            say(&format!("  {line}"));
        }
    }
    say("not part of this command:");
    for (what, how) in ELSEWHERE {
        say(&format!("  {what}: {how}"));
    }
    say("");
    Ok(())
}

/// Holds the runner's closing lines back, so that they end the output, each printed once and as it came.
#[derive(Debug, Default)]
struct Closing {
    held: Vec<String>,
}

impl Closing {
    /// Takes a line; prints what has turned out not to be the end.
    fn line(&mut self, line: &str, mut print: impl FnMut(&str)) {
        let plain = without_colours(line);
        let plain = plain.trim_start();
        let opens = plain.starts_with("────") || plain.starts_with("Summary [") || plain.starts_with("test result:");
        // The rule above nextest's summary stays with it.
        let rule_then_summary = plain.starts_with("Summary [") && self.held.len() == 1;
        if opens && !rule_then_summary {
            self.held.drain(..).for_each(|line| print(&line));
        }
        if opens || !self.held.is_empty() {
            self.held.push(line.to_owned());
        } else {
            print(line);
        }
        // `cargo test` goes on to the next binary after each result: what follows it is no end yet.
        if self.held.len() > LINES_MAX {
            self.held.drain(..).for_each(|line| print(&line));
        }
    }

    fn end(self, mut print: impl FnMut(&str)) {
        self.held.iter().for_each(|line| print(line));
    }
}

/// nextest lists every failed test after its summary: as many lines are held back.
const LINES_MAX: usize = 10_000;

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // A colour is ESC [ digits m.
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn check(input: &[&str], streamed: &[&str], last: &[&str]) {
        let out = RefCell::new(Vec::new());
        let print = |line: &str| out.borrow_mut().push(line.to_owned());
        let mut closing = Closing::default();
        input.iter().for_each(|line| closing.line(line, print));
        assert_eq!(out.take(), streamed);
        closing.end(print);
        assert_eq!(out.take(), last);
    }

    #[test]
    fn nextest_summary_with_its_rule_and_failures_comes_last() {
        check(
            &["PASS a", "────────────", "\u{1b}[1m  Summary\u{1b}[0m [0.1s] 2 tests run", "FAIL b"],
            &["PASS a", "────────────", "\u{1b}[1m  Summary\u{1b}[0m [0.1s] 2 tests run", "FAIL b"][..1],
            &["────────────", "\u{1b}[1m  Summary\u{1b}[0m [0.1s] 2 tests run", "FAIL b"],
        );
    }

    #[test]
    fn a_rule_without_a_summary_is_printed_when_the_next_comes() {
        check(&["────", "x", "────", "Summary [1s]"], &["────", "x"], &["────", "Summary [1s]"]);
    }

    #[test]
    fn only_the_last_result_of_cargo_test_is_held() {
        check(
            &["test a ... ok", "test result: ok. 1 passed", "Running b", "test result: ok. 2 passed"],
            &["test a ... ok", "test result: ok. 1 passed", "Running b"],
            &["test result: ok. 2 passed"],
        );
    }
}
