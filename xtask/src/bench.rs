//! `cargo xtask bench`: the crates' own benchmarks, and the comparisons in `bench/`.

use anyhow::{Result, bail};

use crate::instructions;
use crate::run::{aloud, cargo, output};
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which one; without a name they are listed.
    name: Option<String>,
    /// Handed on to the benchmark.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Programs of the workspace `bench/`, the package each is in, and what it does: ours against a peer, in the same run.
const COMPARISONS: &[(&str, &str, &str)] = &[
    ("link", "net-bench", "bulk goodput of a stream of an endpoint against quinn with rustls and the same cipher"),
    (
        "peers",
        "net-bench-peers",
        "events, latency, appends and replay against other systems: pub fan latency durable replay",
    ),
];

/// The guard that counts instead of taking the time.
const INSTRUCTIONS: &str = "instructions";

/// What takes part in appends and replays beside the log.
const EMBEDDED: &str = "redex,okaywal,fjall,redb,device-preallocated,jetstream,jetstream-always";

/// Runs the benchmark of that name, or lists them all.
pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let ours: Vec<(&str, &str)> = ws
        .packages
        .iter()
        .flat_map(|package| package.targets.iter().map(move |target| (package.name.as_str(), target)))
        .filter(|(_, target)| target.kind.contains("bench"))
        .map(|(package, target)| (package, target.name.as_str()))
        .collect();
    let Some(name) = &args.name else {
        for (package, name) in &ours {
            println!("{name:<12} a hot function of {package}");
        }
        for (name, _, what) in COMPARISONS {
            println!("{name:<12} {what}");
        }
        println!("{INSTRUCTIONS:<12} how many instructions the hot paths take, against bench/instructions.toml");
        return Ok(());
    };
    if name == INSTRUCTIONS {
        return instructions::run(ws, &args.rest);
    }
    if let Some((_, package, _)) = COMPARISONS.iter().find(|(known, _, _)| known == name) {
        let mut command = cargo(&ws.root.join("bench"));
        command
            .args(["run", "--release", "--locked", "--quiet", "--package", package, "--bin", name, "--target-dir"])
            .arg(ws.target.join("bench"))
            .env("NET_BENCH_OUT", ws.target.join("bench"));
        return aloud(command.arg("--").args(&args.rest).env("NET_COMMIT", commit(ws)));
    }
    let mut found = false;
    for (package, _) in ours.iter().filter(|(_, known)| known == name) {
        found = true;
        let mut command = cargo(&ws.root);
        command.args(["bench", "--package", package, "--bench", name, "--all-features", "--locked", "--"]);
        aloud(command.args(&args.rest))?;
        if name == "log" && args.rest.is_empty() {
            // The log is measured against its disk above, and against other embedded stores here.
            let peers = ["durable", "replay", "--drivers", EMBEDDED].map(str::to_owned).to_vec();
            run(ws, &Args { name: Some("peers".to_owned()), rest: peers })?;
        }
    }
    if !found {
        bail!("there is no benchmark {name:?}: `cargo xtask bench` lists them");
    }
    Ok(())
}

/// What the figures are figures of.
fn commit(ws: &Workspace) -> String {
    output(std::process::Command::new("git").current_dir(&ws.root).args([
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]))
    .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}
