//! Measures Net against other systems: the same load, processes apart, in turn, counted where it arrives.

#![forbid(unsafe_code)]

mod aims;
mod chart;
mod drivers;
mod load;
mod report;
mod role;
mod run;
mod series;
mod servers;
mod suites;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum as _};
use serde_json::json;

use crate::drivers::Driver;
use crate::report::Report;
use crate::run::Bench;
use crate::servers::Program;
use crate::suites::Suite;

/// Runs Net and its peers in turn with the same load and says how they compare.
///
/// Servers run on loopback, with their data in a temporary directory, and end with this program. What is not here is
/// installed from Debian if this is root (said when it happens; `--no-install` forbids it), else named in the report.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Options {
    /// What to measure; everything if nothing is named.
    suites: Vec<Suite>,
    /// Which systems; all that take part in the suite if none is named.
    #[arg(long, value_delimiter = ',')]
    drivers: Vec<Driver>,
    /// Rounds; each system is run once in each, in turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds for which a publisher or appender works in one run.
    #[arg(long, default_value_t = 2.0)]
    secs: f64,
    /// Records of a replay.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// The most seconds a suite takes; rounds that do not fit are left out, and that is said.
    #[arg(long, default_value_t = 600)]
    budget: u64,
    /// Prints JSON with every run in place of the page.
    #[arg(long)]
    json: bool,
    /// Where `peers.md`, `peers.svg` and `peers.json` are written.
    #[arg(long, env = "NET_BENCH_OUT", default_value = "target/bench")]
    out: PathBuf,
    /// Where data is put while it is measured; a disk, not memory. The system's directory for temporary files if not said.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Never installs a server.
    #[arg(long)]
    no_install: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("guard") => servers::guard(&arguments[2..]),
        Some("role") => role_main(arguments.get(2).context("a role needs its spec")?),
        _ => runner_main(Options::parse()),
    }
}

/// One process of a run, with the runtime that an application has by default; a keeper has that of the `net` command.
fn role_main(spec: &str) -> Result<()> {
    let spec: role::Spec = serde_json::from_str(spec)?;
    // One provider for every peer that does TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match spec.role {
        #[cfg(feature = "ours")]
        role::Role::Node => ::net::runtime()?,
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
    };
    let played = runtime.block_on(role::play(spec));
    if let Err(error) = &played {
        role::say("error", &json!(format!("{error:#}")));
    }
    // The input is still being read by a thread that nothing can interrupt.
    std::process::exit(i32::from(played.is_err()));
}

fn runner_main(options: Options) -> Result<()> {
    // One thread: the processes end when the thread that started them does.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = runner(&options) => done,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminated.recv() => anyhow::bail!("terminated"),
        }
    })
}

async fn runner(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0 && options.secs > 0.0 && options.records > 0, "nothing to measure");
    let suites = if options.suites.is_empty() { Suite::ALL.to_vec() } else { options.suites.clone() };
    let wanted = |driver: &Driver| options.drivers.is_empty() || options.drivers.contains(driver);
    let all: Vec<Driver> = Driver::value_variants()
        .iter()
        .copied()
        .filter(|driver| wanted(driver) && suites.iter().any(|suite| driver.takes_part(*suite)))
        .collect();
    let mut needed: Vec<_> = all.iter().filter_map(|driver| driver.server()).map(|kind| kind.program()).collect();
    needed.sort_unstable();
    needed.dedup();
    let programs: Vec<_> = needed.into_iter().map(|name| Program::find(name, !options.no_install)).collect();
    let missing: Vec<_> = all.iter().filter_map(|driver| Some((*driver, absent(*driver, &programs)?))).collect();

    let data = options.data.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new().prefix("net-bench-").tempdir_in(&data)?;
    let tls = tls::TlsFiles::make(dir.path())?;
    let settings = report::settings(&programs, options.secs, options.rounds, options.records, dir.path());
    let bench = Bench { dir, tls, secs: options.secs };

    let mut measured = Vec::new();
    for suite in suites {
        eprintln!("{}", suite.title());
        let drivers: Vec<_> = all
            .iter()
            .filter(|driver| driver.takes_part(suite))
            .map(|driver| (*driver, missing.iter().find(|(m, _)| m == driver).map(|(_, why)| why.clone())))
            .collect();
        let scenarios = suite.scenarios(options.records);
        let max = Duration::from_secs(options.budget) / u32::try_from(scenarios.len())?;
        for scenario in scenarios {
            measured.push(series::measure(&bench, suite, scenario, &drivers, options.rounds, max).await?);
        }
    }
    let report = Report { measured, settings, missing };
    std::fs::create_dir_all(&options.out)?;
    let page = report.markdown(Some("peers.svg"));
    std::fs::write(options.out.join("peers.md"), &page)?;
    std::fs::write(options.out.join("peers.svg"), chart::svg(&report))?;
    let json = serde_json::to_string_pretty(&report.json())?;
    std::fs::write(options.out.join("peers.json"), &json)?;
    println!("{}", if options.json { json } else { page });
    Ok(())
}

/// Why a driver cannot take part, if it cannot.
fn absent(driver: Driver, programs: &[Program]) -> Option<String> {
    if driver == Driver::Ours && !cfg!(feature = "ours") {
        return Some("built without the feature ours".to_owned());
    }
    let kind = driver.server()?;
    let program = programs.iter().find(|program| program.name == kind.program())?;
    match &program.version {
        Ok(version) => kind.lacks(version),
        Err(why) => Some(format!("not measurable here: {why}")),
    }
}
