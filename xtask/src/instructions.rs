//! `cargo xtask bench instructions`: how many instructions the hot paths take for an event, against a table.
//!
//! Counts do not depend on what else the machine does, so that a loss of a few percent shows where a clock would not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::run::{aloud, cargo, output};
use crate::workspace::Workspace;

/// Where the table is, in the folder of the workspace.
const TABLE: &str = "bench/instructions.toml";

/// How many percent more than in the table are let pass, for a path that has nothing else in the table.
const TOLERANCE_PERCENT: f64 = 3.0;

/// What is committed.
#[derive(Debug, Default, Deserialize)]
struct Table {
    compiler: String,
    paths: BTreeMap<String, Known>,
}

/// One path of the table.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Known {
    instructions: f64,
    tolerance_percent: f64,
}

/// Counts, prints, and fails if a path takes more than the table lets it; `--bless` writes the table.
pub(crate) fn run(ws: &Workspace, arguments: &[String]) -> Result<()> {
    let bless = match arguments {
        [] => false,
        [only] if only == "--bless" => true,
        _ => bail!("the only option is --bless"),
    };
    if Command::new("valgrind").arg("--version").output().is_err() {
        bail!("valgrind is not here, and nothing else counts instructions: install it (apt-get install valgrind)");
    }
    let (bench, target, file) = (ws.root.join("bench"), ws.target.join("bench"), ws.root.join(TABLE));
    let build = ["build", "--release", "--locked", "--package", "net-bench-instructions", "--target-dir"];
    aloud(cargo(&bench).args(build).arg(&target))?;
    let counts = count_all(&target.join("release/instructions"))?;
    let compiler = output(Command::new("rustc").arg("--version").current_dir(&bench))?.trim().to_owned();
    let table: Table = match std::fs::read_to_string(&file) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("read {TABLE}"))?,
        Err(_) if bless => Table::default(),
        Err(error) => return Err(error).context(format!("read {TABLE}; --bless writes it")),
    };
    let rows = compared(&table, &counts);
    println!("{:<28} {:>12} {:>12} {:>8}", "instructions per event", "table", "now", "");
    for row in &rows {
        println!("{}", row.line);
    }
    if bless {
        std::fs::write(&file, written(&table, &compiler, &counts)).with_context(|| format!("write {TABLE}"))?;
        println!("{TABLE} is written");
        return Ok(());
    }
    if table.compiler != compiler {
        println!("the table is of {}, this is {compiler}: a difference may be the compiler's", table.compiler);
    }
    let failed = rows.iter().filter(|row| !row.is_good).count();
    ensure!(failed == 0, "{failed} of the paths are not as {TABLE} says; if that is as it must be, --bless");
    Ok(())
}

/// Instructions per event of each path, in the order of the program's list.
fn count_all(program: &Path) -> Result<Vec<(String, f64)>> {
    let list = output(&mut Command::new(program))?;
    let mut counts = Vec::new();
    for line in list.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().context("a path has a name, a number of times and events");
        let (path, times, events) = (word()?, word()?.parse::<u64>()?, word()?.parse::<u64>()?);
        let (once, twice) = (count(program, path, times)?, count(program, path, 2 * times)?);
        ensure!(twice > once, "{path}: {times} times take {once} instructions, twice as many {twice}");
        counts.push((path.to_owned(), (twice - once) as f64 / (times * events) as f64));
    }
    Ok(counts)
}

/// Instructions of a whole run.
fn count(program: &Path, path: &str, times: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).args([path, &times.to_string()]);
    let done = command.output().context("start valgrind")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{path} under valgrind failed ({}): {said}", done.status);
    collected(&said).with_context(|| format!("{path}: valgrind says no count: {said}"))
}

/// The count in callgrind's last words.
fn collected(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

struct Row {
    line: String,
    is_good: bool,
}

/// Each path beside the table; what is in one of them only is not good either.
fn compared(table: &Table, counts: &[(String, f64)]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (path, now) in counts {
        let (before, verdict, is_good) = match table.paths.get(path) {
            None => ("–".to_owned(), "is not in the table".to_owned(), false),
            Some(known) => {
                let percent = (now / known.instructions - 1.0) * 100.0;
                let is_good = percent <= known.tolerance_percent;
                let note = match percent {
                    _ if !is_good => format!(" too many, {:+} % may be", known.tolerance_percent),
                    p if p < -known.tolerance_percent => " fewer: --bless holds on to it".to_owned(),
                    _ => String::new(),
                };
                (format!("{:.1}", known.instructions), format!("{percent:+.1} %{note}"), is_good)
            }
        };
        rows.push(Row { line: format!("{path:<28} {before:>12} {now:>12.1} {verdict:>8}"), is_good });
    }
    for (path, known) in table.paths.iter().filter(|(path, _)| counts.iter().all(|(now, _)| now != *path)) {
        let line = format!("{path:<28} {:>12.1} {:>12} is no path any more", known.instructions, "–");
        rows.push(Row { line, is_good: false });
    }
    rows
}

/// The table with these counts; tolerances stay.
fn written(table: &Table, compiler: &str, counts: &[(String, f64)]) -> String {
    let mut text =
        "# Instructions that each hot path takes for an event or a frame, and how many percent more are let pass.\n\
         # Written by `cargo xtask bench instructions --bless`; tolerances are set by hand and stay.\n"
            .to_owned();
    let _ = writeln!(text, "compiler = {compiler:?}\n\n[paths]");
    for (path, now) in counts {
        let tolerance = table.paths.get(path).map_or(TOLERANCE_PERCENT, |known| known.tolerance_percent);
        let _ = writeln!(text, "{path} = {{ instructions = {now:.1}, tolerance_percent = {tolerance:.1} }}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(instructions: f64, tolerance_percent: f64) -> Table {
        let paths = BTreeMap::from([("seal".to_owned(), Known { instructions, tolerance_percent })]);
        Table { compiler: "rustc 1".to_owned(), paths }
    }

    #[test]
    fn more_than_the_tolerance_and_paths_without_a_partner_are_not_good() {
        let good = |now: &[(&str, f64)]| {
            let counts: Vec<_> = now.iter().map(|(path, now)| ((*path).to_owned(), *now)).collect();
            compared(&table(100.0, 3.0), &counts).iter().map(|row| row.is_good).collect::<Vec<_>>()
        };
        assert_eq!(good(&[("seal", 102.9)]), [true]);
        assert_eq!(good(&[("seal", 50.0)]), [true]);
        assert_eq!(good(&[("seal", 103.1)]), [false]);
        assert_eq!(good(&[("seal", 100.0), ("new", 1.0)]), [true, false]);
        assert_eq!(good(&[]), [false]);
    }

    #[test]
    fn what_is_written_is_read_again_and_keeps_tolerances() {
        let counts = [("seal".to_owned(), 12.34), ("open".to_owned(), 5.0)];
        let read: Table = toml::from_str(&written(&table(100.0, 7.5), "rustc 2", &counts)).expect("a table");
        assert_eq!(read.compiler, "rustc 2");
        assert!((read.paths["seal"].instructions - 12.3).abs() < 1e-9);
        assert!((read.paths["seal"].tolerance_percent - 7.5).abs() < 1e-9);
        assert!((read.paths["open"].tolerance_percent - TOLERANCE_PERCENT).abs() < 1e-9);
    }

    #[test]
    fn the_count_stands_in_the_last_words_of_callgrind() {
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 12345\n==7==\n"), Some(12_345));
        assert_eq!(collected("valgrind: cannot"), None);
    }
}
