//! What came out, as a table: on the terminal, and in `link.md` where the outcome of benchmarks is kept.

use std::path::PathBuf;
use std::{env, fmt::Write as _, fs};

use anyhow::{Context as _, Result};
use net_bench::{Quartiles, version_of};
use serde_json::{Value, json};

use crate::{Args, Kind, Row};

/// What the figures are figures of.
pub(crate) struct Machine {
    commit: String,
    cores: usize,
    /// Processes that wanted a core, on average over the minute before and at the end.
    load: (f64, f64),
}

impl Machine {
    pub(crate) fn now() -> Result<Self> {
        Ok(Self {
            commit: env::var("NET_COMMIT").unwrap_or_else(|_| "unknown".into()),
            cores: std::thread::available_parallelism()?.get(),
            load: (load(), 0.0),
        })
    }

    pub(crate) fn ended(&mut self) {
        self.load.1 = load();
    }

    /// Others wanted its cores before the benchmark began.
    fn was_busy(&self) -> bool {
        self.load.0 > 0.5
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

pub(crate) fn as_json(rows: &[Row], machine: &Machine, args: &Args) -> Value {
    let mut out = json!({
        "bench": "link", "unit": "MB/s", "commit": machine.commit, "cores": machine.cores, "mtu": args.mtu,
        "mib": args.mib, "load_before": machine.load.0, "load_after": machine.load.1,
        "quinn": version_of("quinn"), "quinn-proto": version_of("quinn-proto"), "rustls": version_of("rustls"),
        "ring": version_of("ring"),
    });
    for row in rows {
        out[row.kind.name()] = json!({
            "runs": row.runs.iter().map(|run| run.rate).collect::<Vec<_>>(),
            "of": row.of(|run| run.rate).json(),
            "send_ns_per_kb": row.of(|run| run.send_cpu).json(),
            "receive_ns_per_kb": row.of(|run| run.receive_cpu).json(),
            "ratios": row.ratios, "ratio": Quartiles::of(&row.ratios).json(),
            "core_ratios": row.core_ratios, "core_ratio": Quartiles::of(&row.core_ratios).json(),
        });
    }
    out
}

pub(crate) fn as_table(rows: &[Row], machine: &Machine, args: &Args) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "# link at {}\n", machine.commit)?;
    writeln!(
        out,
        "One stream, {} MiB counted at the receiver after a warm-up, MTU up to {}, {} rounds, {}; load {} before, {} after.\n",
        args.mib,
        args.mtu,
        args.pairs,
        if machine.cores >= 2 { "a core for each process" } else { "both processes on one core" },
        machine.load.0,
        machine.load.1,
    )?;
    writeln!(
        out,
        "| over | MB/s | of the peer, in the same round | by core time | ns of a core for each KB to send | to receive |"
    )?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|")?;
    for row in rows {
        let (rate, ratio) = (row.of(|run| run.rate), Quartiles::of(&row.ratios));
        let (send, receive) = (row.of(|run| run.send_cpu), row.of(|run| run.receive_cpu));
        let core = Quartiles::of(&row.core_ratios);
        let (name, says) = (row.kind.name(), row.kind.says());
        writeln!(out, "| {name}: {says} | {rate} | {ratio:.3} | {core:.3} | {send} | {receive} |")?;
    }
    writeln!(
        out,
        "\nMedian and quartiles; ratios are taken within each round, whose runs follow one another. That by core time"
    )?;
    writeln!(
        out,
        "compares what the busier process took of its core for each KB, which others that want the core do not change."
    )?;
    if machine.was_busy() {
        writeln!(out, "Others used the machine: these are no figures of record.")?;
    }
    if args.pairs < 7 || rows.iter().all(|row| row.kind != Kind::Ours) {
        writeln!(out, "Fewer than 7 rounds, or without an endpoint: no figures of record.")?;
    }
    Ok(out)
}

/// Keeps the table; says where.
pub(crate) fn keep(table: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(env::var_os("NET_BENCH_OUT").unwrap_or_else(|| "target/bench".into()));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join("link.md");
    fs::write(&path, table).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
