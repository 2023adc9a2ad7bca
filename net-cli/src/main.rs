//! The `net` command: a node of a mesh, and what one asks it.

#![forbid(unsafe_code)]

mod access;
mod child;
mod cli;
mod command;
mod control;
mod demo;
mod failure;
mod host;
mod http;
mod output;
mod start;
mod text;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::cli::Cli;
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("NET_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let json = cli.global.json;
    let result = runtime().and_then(|runtime| {
        let result = runtime.block_on(cli.run());
        // A thread may still be reading the terminal; the process does not wait for it.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(code) => code,
        Err(failure) => {
            output::failure(&failure, json);
            failure.exit_code()
        }
    }
}

fn runtime() -> Result<Runtime, Failure> {
    net::runtime().map_err(|error| Failure::new(format!("cannot start: {error}")))
}
