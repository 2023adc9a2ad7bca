//! The page, the JSON and what the figures are figures of.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::aims;
use crate::drivers::Driver;
use crate::series::{Measured, Runs};
use crate::servers::{Program, dotted};
use crate::suites::{Metric, Suite};

/// What was measured and how.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) measured: Vec<Measured>,
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Drivers that were asked for and could not take part at all, with the reason.
    pub(crate) missing: Vec<(Driver, String)>,
}

/// Machine, build and versions.
pub(crate) fn settings(
    programs: &[Program],
    secs: f64,
    rounds: usize,
    records: u64,
    data: &Path,
) -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let commit = std::env::var("NET_COMMIT").unwrap_or_else(|_| "not said".to_owned());
    let mut settings = vec![
        ("commit", commit),
        ("cpu", field(&read("/proc/cpuinfo"), "model name")),
        ("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        ("memory", field(&read("/proc/meminfo"), "MemTotal")),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load before", read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()),
        ("data on", file_system(data)),
        ("rustc", first_line("rustc", &["--version"])),
        (
            "build",
            if cfg!(debug_assertions) { "debug: these figures mean nothing" } else { "release, thin LTO" }.to_owned(),
        ),
        ("target features", target_features()),
        ("network", "loopback, every role a process of its own".to_owned()),
        ("a run", format!("{secs} s; rounds {rounds}, every driver once a round, order reversed every other round")),
        ("a replay", format!("{records} records")),
    ];
    for program in programs {
        let version = program.version.as_ref().map_or_else(|why| format!("not here: {why}"), |version| dotted(version));
        settings.push((program.name, version));
    }
    settings.push(("crates", crate_versions()));
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("PEERS_")) {
        settings.push(("tuning", format!("{name}={value}")));
    }
    settings
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| "not here".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

fn target_features() -> String {
    match option_env!("RUSTFLAGS") {
        Some(flags) if !flags.is_empty() => flags.to_owned(),
        _ => "the target's defaults".to_owned(),
    }
}

/// The kind of file system, because a sync costs nothing on some.
fn file_system(path: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(path) else { return "unknown".to_owned() };
    match stat.f_type {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs: appends say nothing about a disk".to_owned(),
        0x794c_7630 => "overlay".to_owned(),
        other => format!("file system {other:#x}"),
    }
}

/// Versions of the peers' crates as locked.
fn crate_versions() -> String {
    let lock = include_str!("../../Cargo.lock");
    let mut names: Vec<_> = <Driver as clap::ValueEnum>::value_variants().iter().filter_map(|d| d.krate()).collect();
    names.extend(["rustls", "ring", "quinn", "tokio"]);
    names.sort_unstable();
    names.dedup();
    let version = |name: &str| {
        let at = lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")))?;
        at.lines().find_map(|line| line.strip_prefix("version = \"")).map(|v| v.trim_end_matches('"').to_owned())
    };
    names.iter().map(|name| format!("{name} {}", version(name).unwrap_or_default())).collect::<Vec<_>>().join(", ")
}

impl Report {
    /// Suites in the order in which they were measured, each with its rows.
    pub(crate) fn suites(&self) -> Vec<(Suite, Vec<&Measured>)> {
        let of = |suite| (suite, self.measured.iter().filter(|m| m.suite == suite).collect::<Vec<_>>());
        Suite::ALL.into_iter().map(of).filter(|(_, measured)| !measured.is_empty()).collect()
    }

    /// The page.
    pub(crate) fn markdown(&self, chart: Option<&str>) -> String {
        let mut page = "# Against the peers\n\nMedians (quartiles) of runs in turn on one machine; × is ours to the peer within rounds. \
             Compare ratios, not absolutes: those differ from machine to machine and from minute to minute.\n"
            .to_owned();
        page += &aims::table(&self.measured);
        for (suite, measured) in self.suites() {
            let _ = write!(page, "\n## {}\n\n", suite.title());
            page += &table(&measured);
        }
        if let Some(chart) = chart {
            let _ = write!(page, "\n![{chart}]({chart})\n");
        }
        page += "\n## What took part\n\n";
        for driver in self.drivers() {
            let _ = writeln!(page, "- **{}**: {}", driver.name(), driver.about());
        }
        page += "\n## What did not\n\n";
        if self.absences().is_empty() {
            page += "Everything did.\n";
        }
        for absence in self.absences() {
            let _ = writeln!(page, "- {absence}");
        }
        page += "\n## Settings\n\n| | |\n|---|---|\n";
        for (name, value) in &self.settings {
            let _ = writeln!(page, "| {name} | {value} |");
        }
        page
    }

    fn drivers(&self) -> Vec<Driver> {
        let some = |runs: &Runs| runs.figures.iter().any(Option::is_some);
        let mut drivers: Vec<_> =
            self.measured.iter().flat_map(|m| m.runs.iter().filter(|(_, runs)| some(runs)).map(|(d, _)| *d)).collect();
        drivers.sort_unstable();
        drivers.dedup();
        drivers
    }

    /// Everything that is not in the tables, and runs that do not count, with the reason.
    fn absences(&self) -> Vec<String> {
        let mut absences: Vec<_> =
            self.missing.iter().map(|(driver, why)| format!("**{}**: {why}", driver.name())).collect();
        for measured in &self.measured {
            for (driver, runs) in &measured.runs {
                let place = format!("**{}**, {} {}", driver.name(), measured.suite.name(), measured.scenario.name);
                if let Some(why) = &runs.absent
                    && !self.missing.iter().any(|(missing, _)| missing == driver)
                {
                    absences.push(format!("{place}: {why}"));
                }
                if let Some(why) = runs.faults.first() {
                    let (bad, all) = (runs.faults.len(), runs.figures.iter().flatten().count() + runs.faults.len());
                    absences.push(format!("{place}: {bad} of {all} runs do not count: {why}"));
                }
            }
        }
        absences
    }

    /// All of it, every run included.
    pub(crate) fn json(&self) -> Value {
        let settings: serde_json::Map<String, Value> =
            self.settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let missing: Vec<_> =
            self.missing.iter().map(|(driver, why)| json!({ "driver": driver.name(), "why": why })).collect();
        let results: Vec<_> = self.measured.iter().flat_map(results).collect();
        json!({ "settings": settings, "missing": missing, "aims": aims::json(&self.measured), "results": results })
    }
}

fn results(measured: &Measured) -> Vec<Value> {
    let mut results = Vec::new();
    for (driver, runs) in &measured.runs {
        for metric in metrics(measured) {
            let values: Vec<_> = runs.figures.iter().map(|f| f.as_ref().and_then(|f| f.get(&metric))).collect();
            let ours = measured.ours(*driver);
            let ratio = ours.and_then(|(_, ours)| ours.ratio(runs, metric));
            results.push(json!({
                "suite": measured.suite.name(),
                "scenario": measured.scenario.name,
                "driver": driver.name(),
                "metric": metric.name(),
                "rounds": measured.rounds,
                "runs": values,
                "quartiles": runs.quartiles(metric).map(|q| q.json()),
                "ours": ours.map(|(driver, _)| driver.name()),
                "ours_to_this": ratio.map(|q| q.json()),
                "faults": runs.faults,
                "absent": runs.absent,
            }));
        }
    }
    results
}

/// The metrics that any run of this has.
pub(crate) fn metrics(measured: &Measured) -> Vec<Metric> {
    let all = measured.runs.values().flat_map(|runs| runs.figures.iter().flatten());
    let mut metrics: Vec<_> = all.flat_map(|figures| figures.keys().copied()).collect();
    metrics.sort_unstable();
    metrics.dedup();
    metrics
}

/// One suite: a row for each driver, a column for each scenario and metric, and the ratio under the figure.
fn table(measured: &[&Measured]) -> String {
    let columns: Vec<(&Measured, Metric)> =
        measured.iter().flat_map(|m| metrics(m).into_iter().map(move |metric| (*m, metric))).collect();
    let mut drivers: Vec<_> = measured.iter().flat_map(|m| m.runs.keys().copied()).collect();
    drivers.sort_unstable();
    drivers.dedup();
    let mut table = "| |".to_owned();
    for (measured, metric) in &columns {
        let _ = write!(table, " {}{} |", measured.scenario.name, metric.suffix());
    }
    table += "\n|---|";
    table += &"---:|".repeat(columns.len());
    table += "\n";
    for driver in drivers {
        let _ = write!(table, "| {} |", driver.name());
        for (measured, metric) in &columns {
            let _ = write!(table, " {} |", cell(measured, driver, *metric));
        }
        table += "\n";
    }
    table
}

fn cell(measured: &Measured, driver: Driver, metric: Metric) -> String {
    let Some(runs) = measured.runs.get(&driver) else { return "–".to_owned() };
    let Some(quartiles) = runs.quartiles(metric) else { return "–".to_owned() };
    let mut cell = format!("{} ({}–{})", short(quartiles.median), short(quartiles.low), short(quartiles.high));
    if !runs.faults.is_empty() {
        let _ = write!(cell, " [{} bad]", runs.faults.len());
    }
    if let Some((name, ratio)) =
        measured.ours(driver).and_then(|(ours, of)| Some((ours.name(), of.ratio(runs, metric)?)))
    {
        let _ = write!(cell, "; {name} ×{:.2} ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high);
    }
    cell
}

/// A figure with three digits.
pub(crate) fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e4 => (v / 1e3, " k"),
        v => (v, ""),
    };
    match value {
        v if unit.is_empty() && v >= 1e3 => format!("{v:.0}"),
        v if v >= 100.0 => format!("{v:.0}{unit}"),
        v if v >= 10.0 => format!("{v:.1}{unit}"),
        v => format!("{v:.2}{unit}"),
    }
}
