//! `cargo xtask fuzz`: libFuzzer on the stable toolchain, over the targets of `fuzz/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::run::{aloud, cargo, lines, output, say};
use crate::workspace::{Package, Workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = 10)]
    secs: u32,
    /// Only checks that each corpus holds inputs that are accepted.
    #[arg(long)]
    check_corpus: bool,
    /// Runs one input of that target again, to see a failure again.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Only this target.
    target: Option<String>,
}

/// The flags that make rustc instrument every crate for libFuzzer: edge counters, tables of their places, comparisons.
/// They are LLVM passes of the stable compiler, not sanitizers, so no nightly is needed.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // The pass and the linker's removal of unused sections do not go together.
    "-Clink-dead-code",
    // Counters are named by module: one module for each crate keeps them together.
    "-Ccodegen-units=1",
];

/// The program with the planted bug.
const SELF_TEST: &str = "self_test";
/// Inputs within which the planted bug must be found; it takes about a tenth.
const SELF_TEST_RUNS: u32 = 5_000_000;
/// Memory of one target, in MiB; inputs are small, so that a decoder that allocates what it is told hits it.
const MEMORY_MIB: u32 = 512;
/// The longest that one input may take, in seconds.
const INPUT_SECS: u32 = 10;

/// Checks the corpora, then the machinery, then runs the targets.
pub(crate) fn run(ws: &Workspace, args: &Args) -> Result<()> {
    let dir = ws.root.join("fuzz");
    let names = targets(&dir)?;
    let chosen: Vec<&String> = names.iter().filter(|name| args.target.as_ref().is_none_or(|t| t == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no such target; there are: {}", names.join(", "));
    }
    let build = ws.target.join("fuzz");
    if args.input.is_none() {
        aloud(cargo(&dir).args(["test", "--release", "--lib", "--locked", "--target-dir"]).arg(&build).args([
            "--",
            "--nocapture",
            "--test-threads=1",
        ]))?;
    }
    if args.check_corpus {
        return Ok(());
    }

    let programs = build_targets(&dir, &build)?;
    if let Some(input) = &args.input {
        return aloud(Command::new(programs.join(chosen[0])).arg(fs::canonicalize(input).context("find the input")?));
    }
    self_test(&programs, &build)?;
    let mut report = Vec::new();
    for name in chosen {
        report.push(fuzz(&dir, &build, &programs, name, args.secs)?);
    }
    report.iter().for_each(|line| say(line));
    Ok(())
}

/// The targets, as `fuzz/Cargo.toml` lists them.
fn targets(dir: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let text = output(cargo(dir).args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("read what cargo metadata printed")?;
    let targets = metadata.packages.into_iter().flat_map(|package| package.targets);
    Ok(targets
        .filter(|target| target.kind.contains("bin") && target.name != SELF_TEST)
        .map(|target| target.name)
        .collect())
}

/// Builds all of them, instrumented, and gives the folder of the programs.
fn build_targets(dir: &Path, build: &Path) -> Result<PathBuf> {
    let version = output(Command::new("rustc").current_dir(dir).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names its host")?;
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    // With --target the flags do not reach build scripts and macros, which run in the compiler and have no libFuzzer.
    aloud(
        cargo(dir)
            .args(["build", "--release", "--bins", "--locked", "--target", host, "--target-dir"])
            .arg(build)
            .env("RUSTFLAGS", format!("{flags} {}", FLAGS.join(" "))),
    )?;
    Ok(build.join(host).join("release"))
}

/// A claim that nothing was found needs a control: the planted bug is found.
fn self_test(programs: &Path, build: &Path) -> Result<()> {
    let artifacts = build.join("self-test");
    fs::create_dir_all(&artifacts).context("create a folder for the planted bug")?;
    let mut command = Command::new(programs.join(SELF_TEST));
    command
        .current_dir(&artifacts)
        .args(["-seed=1", "-max_len=6", "-verbosity=0", &format!("-runs={SELF_TEST_RUNS}")])
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    let mut found = false;
    let code = lines(&mut command, |line| found |= line.contains("the planted bug"))?;
    ensure!(
        found && code != Some(0),
        "the fuzzer missed a planted bug within {SELF_TEST_RUNS} inputs: coverage does not guide it on this toolchain"
    );
    say("self-test: the planted bug was found");
    Ok(())
}

/// Runs one target, and says what it did in a line.
fn fuzz(dir: &Path, build: &Path, programs: &Path, name: &str, secs: u32) -> Result<String> {
    // What libFuzzer finds goes to the first folder; the second is the corpus in git, which it only reads.
    let learnt = build.join("corpus").join(name);
    let artifacts = dir.join("artifacts").join(name);
    fs::create_dir_all(&learnt).context("create a folder for what is learnt")?;
    fs::create_dir_all(&artifacts).context("create a folder for inputs that fail")?;
    let mut command = Command::new(programs.join(name));
    command
        .current_dir(dir)
        .arg(format!("-max_total_time={secs}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-timeout={INPUT_SECS}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&learnt)
        .arg(dir.join("corpus").join(name));
    let mut seen = Seen::default();
    let code = lines(&mut command, |line| {
        seen.line(line);
        say(line);
    })?;
    if code != Some(0) {
        bail!(
            "fuzz target {name} failed: `cargo xtask fuzz --input FILE {name}` with the file named above runs it again"
        );
    }
    ensure!(seen.last_cov > 0, "fuzz target {name} ran without coverage: the flags did not reach it");
    Ok(format!("fuzz {name}: {} inputs in {secs} s, cov {} to {}", seen.runs, seen.first_cov, seen.last_cov))
}

/// What libFuzzer told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    first_cov: u64,
    last_cov: u64,
    runs: u64,
}

impl Seen {
    /// Reads `#123  NEW  cov: 57 ft: 60 …` and `stat::number_of_executed_units: 456`.
    fn line(&mut self, line: &str) {
        let number_after =
            |mark: &str| -> Option<u64> { line.split_once(mark)?.1.split_whitespace().next()?.parse().ok() };
        if let Some(cov) = line.starts_with('#').then(|| number_after("cov: ")).flatten() {
            if self.first_cov == 0 {
                self.first_cov = cov;
            }
            self.last_cov = cov;
        }
        if let Some(runs) = number_after("stat::number_of_executed_units: ") {
            self.runs = runs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_and_runs_are_read_from_what_libfuzzer_prints() {
        let mut seen = Seen::default();
        for line in [
            "INFO: Loaded 1 modules   (1234 inline 8-bit counters): cov: 9",
            "#2\tINITED cov: 57 ft: 60 corp: 2/128b exec/s: 0 rss: 30Mb",
            "#9000\tNEW    cov: 61 ft: 70 corp: 3/192b lim: 128 exec/s: 0 rss: 30Mb L: 64/64 MS: 1 ChangeBit-",
            "stat::number_of_executed_units: 262144",
        ] {
            seen.line(line);
        }
        assert_eq!(seen, Seen { first_cov: 57, last_cov: 61, runs: 262_144 });
    }
}
