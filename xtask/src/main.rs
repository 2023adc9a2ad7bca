//! Checks, tests, simulations, fuzzing and benchmarks of this workspace: `cargo xtask --help`.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program speaks on its terminal")]

mod bench;
mod check;
mod docs;
mod e2e;
mod fuzz;
mod instructions;
mod layers;
mod left_out;
mod mutants;
mod run;
mod sim;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Checks, tests, simulations, fuzzing and benchmarks of this workspace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Format, clippy with warnings as errors, layers, docs.
    Check,
    /// Every test that needs nothing but the toolchain; names what was left out at the end.
    Test(test::Args),
    /// Every simulation, with many seeds or one.
    Sim(sim::Args),
    /// Every fuzz target for some seconds, after its corpus was checked.
    Fuzz(fuzz::Args),
    /// The benchmarks of the crates, and `link` against a peer in the same run.
    Bench(bench::Args),
    /// Whole programs as they are used: `e2e cli` types what a newcomer types, `e2e crash` kills and corrupts a log.
    E2e(e2e::Args),
    /// Who may depend on whom, by layers.toml.
    Layers,
    /// Documentation without warnings, links that lead somewhere, a README and an example for each crate.
    Docs,
    /// Seeded bugs, each of which a test must find.
    Mutants(mutants::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = Workspace::find().and_then(|ws| match cli.command {
        Command::Check => check::run(&ws),
        Command::Test(args) => test::run(&ws, &args),
        Command::Sim(args) => sim::run(&ws, &args),
        Command::Fuzz(args) => fuzz::run(&ws, &args),
        Command::Bench(args) => bench::run(&ws, &args),
        Command::E2e(args) => e2e::run(&ws, &args),
        Command::Layers => layers::run(&ws),
        Command::Docs => docs::run(&ws),
        Command::Mutants(args) => mutants::run(&ws, &args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
