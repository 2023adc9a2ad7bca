//! `net bench` measures what it says, leaves nothing behind, and has no figures of runs that are not whole.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Node, Place, Running, check};

/// Runs it where it may write, and sees that it leaves nothing there.
#[track_caller]
fn report(args: &[&str]) -> Value {
    let place = Place::new();
    let mut command = place.node("unused").command(&[&["bench"], args, &["--json"]].concat());
    command.current_dir(place.path()).env_remove("NET_DIR");
    let ended = Running::spawn(command).end();
    assert!(is_empty(place.path()), "{ended:?}");
    let out = ended.ok();
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    let machine = &report["machine"];
    assert!(machine["cpus"].as_u64() >= Some(1), "{report:#}");
    assert_eq!(machine["version"], env!("CARGO_PKG_VERSION"));
    for promise in ["sealed", "signed", "verified", "valid"] {
        assert_eq!(report[promise], true, "{promise}: {report:#}");
    }
    report
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).expect("it is there").next().is_none()
}

#[track_caller]
fn is_spread(quartiles: &Value) {
    let at = |name: &str| quartiles[name].as_f64().unwrap_or_else(|| panic!("{name}: {quartiles}"));
    assert!(0.0 < at("q1") && at("q1") <= at("median") && at("median") <= at("q3"), "{quartiles}");
}

#[test]
fn events_are_counted_at_subscribers_in_processes_of_their_own() {
    let report = report(&["pub", "--size", "16,1KiB", "--secs", "0.1", "--rounds", "2"]);
    assert_eq!((&report["bench"], &report["subscribers"], &report["rounds"]), (&"pub".into(), &1.into(), &2.into()));
    let results = report["results"].as_array().expect("rows");
    let sizes: Vec<_> = results.iter().map(|row| row["size"].as_u64()).collect();
    assert_eq!(sizes, [Some(16), Some(1024)]);
    for row in results {
        is_spread(&row["events_per_s"]);
        is_spread(&row["mb_per_s"]);
        assert!(row["events"].as_u64() > Some(0), "{row}");
    }
}

#[test]
fn run_with_several_subscribers_is_whole_or_has_no_figures() {
    let place = Place::new();
    let args = ["bench", "pub", "--size", "64", "--subscribers", "3", "--secs", "0.1", "--rounds", "1", "--json"];
    let ended = place.node("unused").run(&args);
    // Whoever is much slower than the others is not waited for, and which machine is slow is not for this test to say.
    if ended.code == Some(1) {
        return check(&ended, 1, "this run is not valid and has no figures", "fewer --subscribers");
    }
    let report: Value = serde_json::from_str(&ended.ok()).expect("JSON");
    let events = report["results"][0]["events"].as_u64().expect("a count");
    assert!(events > 0 && events.is_multiple_of(3), "each of three has had each: {report:#}");
}

#[test]
fn latencies_are_in_order_and_each_event_is_in_one_bar() {
    let report = report(&["latency", "--rate", "500", "--secs", "0.2"]);
    let latency = &report["latency_us"];
    let quantiles = ["p50", "p90", "p99", "max"].map(|name| latency[name].as_f64().expect("a figure"));
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{latency}");
    let events = report["events"].as_u64().expect("a count");
    assert!(events > 0 && report["events_per_s"].as_f64() > Some(0.0), "{report:#}");
    let bars = report["histogram"].as_array().expect("bars");
    assert_eq!(bars.iter().filter_map(|bar| bar["events"].as_u64()).sum::<u64>(), events, "{report:#}");
}

#[test]
fn appends_are_durable_and_read_again() {
    let report = report(&["log", "--secs", "0.1", "--rounds", "2"]);
    assert_eq!(report["sync"], "group");
    let results = report["results"].as_array().expect("rows");
    let waiting: Vec<_> = results.iter().map(|row| row["waiting"].as_u64()).collect();
    assert_eq!(waiting, [Some(1), Some(64), Some(256)]);
    for row in results {
        for figure in ["appends_per_s", "mb_per_s", "replay_events_per_s"] {
            is_spread(&row[figure]);
        }
        assert!(row["ack"].is_string() && row["events"].as_u64() > Some(0), "{row}");
    }
}

#[test]
fn people_are_told_the_settings_the_figures_and_that_they_are_valid() {
    let place = Place::new();
    let node = place.node("unused");
    let dir = place.path().to_str().expect("text");
    let publish = node.run(&["bench", "pub", "--size", "64", "--secs", "0.1", "--rounds", "1"]).ok();
    let latency = node.run(&["bench", "latency", "--secs", "0.1"]).ok();
    let log = node.run(&["bench", "log", "--dir", dir, "--secs", "0.05", "--rounds", "1"]).ok();
    for (out, parts) in [
        (publish, ["1 subscriber", "1 round of 0.1 s", "events/s", "no gap, no duplicate, all verified"]),
        (latency, ["1000 events/s", "p99", "█", "no gap, no duplicate, all verified"]),
        (log, [dir, "256", "an ack means", "each once and verified"]),
    ] {
        assert!(out.starts_with("net ") && out.contains("valid: "), "{out}");
        assert!(out.contains("sealed, signed") && out.contains("CPU") && !out.contains('\x1b'), "{out}");
        parts.iter().for_each(|part| assert!(out.contains(part), "{part}: {out}"));
    }
    assert!(is_empty(place.path()), "nothing is left, and no node was asked");
}

#[test]
fn directory_that_cannot_be_written() {
    let place = Place::new();
    let node = place.node("a");
    let file = place.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let missing = place.path().join("missing");
    let (file, missing) = (file.to_str().expect("text"), missing.to_str().expect("text"));
    let mkdir = format!("mkdir -p {missing}");
    check(&node.run(&["bench", "log", "--dir", missing]), 1, &format!("cannot write in {missing}"), &mkdir);
    check(&node.run(&["--dir", missing, "bench", "log"]), 1, "no such directory", &mkdir);
    check(&node.run(&["bench", "log", "--dir", file]), 1, "not a directory", "net bench log --dir DIRECTORY");
}

#[test]
fn log_that_is_interrupted_is_removed() {
    let place = Place::new();
    let dir = place.path().to_str().expect("text");
    let log = place.node("unused").start(&["bench", "log", "--dir", dir, "--secs", "60"]);
    crate::harness::until("it writes", || !is_empty(place.path()));
    log.signal(Signal::INT);
    check(&log.end(), 1, "interrupted", "net bench log");
    assert!(is_empty(place.path()), "nothing is left");
}

/// A benchmark whose subscriber is there, and the process of that.
#[cfg(target_os = "linux")]
fn two_processes(node: &Node, args: &[&str]) -> (Running, rustix::process::Pid) {
    let bench = node.start(&[&["bench"], args, &["--secs", "60"]].concat());
    let mut child = None;
    crate::harness::until("there is a subscriber", || {
        child = child_of(bench.pid());
        child.is_some()
    });
    (bench, child.expect("just found"))
}

/// The process that has this one as its parent.
#[cfg(target_os = "linux")]
fn child_of(parent: rustix::process::Pid) -> Option<rustix::process::Pid> {
    let processes = std::fs::read_dir("/proc").expect("there is one").flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program is in parentheses, and may have some itself; state and parent follow.
        let parent_pid = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (rustix::process::Pid::from_raw(parent_pid) == Some(parent)).then(|| rustix::process::Pid::from_raw(pid))?
    })
}

#[cfg(target_os = "linux")]
#[test]
fn both_processes_end_when_the_first_is_interrupted_or_killed() {
    let place = Place::new();
    let node = place.node("unused");
    for command in ["pub", "latency"] {
        // Both hold the pipes that are read here to their ends: so this returns when both have ended.
        let (bench, _) = two_processes(&node, &[command]);
        bench.signal(Signal::INT);
        check(&bench.end(), 1, "interrupted", &format!("net bench {command}"));
        let (mut bench, _) = two_processes(&node, &[command]);
        bench.kill_now();
        let ended = bench.end();
        assert_eq!((ended.code, ended.out.as_str()), (None, ""), "{ended:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn subscriber_that_is_killed_leaves_no_figures() {
    let place = Place::new();
    let (bench, subscriber) = two_processes(&place.node("unused"), &["pub"]);
    rustix::process::kill_process(subscriber, Signal::KILL).expect("it runs");
    check(&bench.end(), 1, "a process of the benchmark ended early", "NET_LOG=debug");
}
