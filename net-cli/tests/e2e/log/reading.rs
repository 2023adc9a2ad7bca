//! Listing, showing and printing logs.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;

use super::{Keeper, check, rows, write, writer};
use crate::harness::Place;

#[test]
fn no_logs_is_said_with_what_makes_one_and_nothing_is_made() {
    let place = Place::new();
    let node = place.node("a");
    let ended = node.run(&["log", "ls"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
    assert!(ended.err.contains("no logs in") && ended.err.contains("net up --keep"), "{ended:?}");
    assert!(!node.dir.exists());
    let keeper = Keeper::new();
    assert!(keeper.node.run(&["log", "ls"]).err.contains("no logs in"));
    assert!(!keeper.node.dir.join("logs").exists());
}

#[test]
fn logs_are_listed_with_what_they_hold() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 12);
    keeper.fill_large("big", 5, |n| n.to_string());
    keeper.open("empty").close().expect("closed");
    std::fs::create_dir(keeper.node.dir.join("logs/no log")).expect("ours");
    let out = keeper.node.run(&["log", "ls"]).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(lines[0].starts_with("channel    events"), "{out}");
    assert!(lines[1].starts_with("big") && lines[1].contains("0..5"), "{out}");
    assert!(lines[3].starts_with("quakes/ak      12") && lines[3].contains("0..12"), "{out}");
    assert!(lines.iter().all(|line| line.len() <= 80), "it fits a terminal: {out}");
    let rows = rows(&keeper.node.run(&["log", "ls", "--json"]).ok());
    let [big, empty, quakes] = &rows[..] else { panic!("three logs: {rows:?}") };
    assert_eq!((&big["segments"], &big["origins"], &big["events"]), (&3.into(), &1.into(), &5.into()));
    assert!(
        big["oldest_ms"].as_u64() <= big["newest_ms"].as_u64() && big["oldest_ms"].as_u64() > Some(1_700_000_000_000)
    );
    assert_eq!((&empty["events"], empty.get("oldest_ms")), (&0.into(), None));
    assert_eq!(
        (&quakes["channel"], &quakes["next_offset"], &quakes["holes"]),
        (&"quakes/ak".into(), &12.into(), &0.into())
    );
}

#[test]
fn everything_about_a_log_is_shown_by_name_and_by_path() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 12);
    let out = keeper.node.run(&["log", "stat", "quakes/ak"]).ok();
    let origin = super::signer().id().to_string();
    for part in ["quakes/ak", "0..12, 12 events", "in 1 segment", "none now", &origin, "none that opening came by"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let path = keeper.path("quakes/ak");
    assert_eq!(keeper.node.run(&["log", "stat", &path.display().to_string()]).ok(), out);
    let mut relative = keeper.node.command(&["log", "stat", "./quakes+ak"]);
    relative.current_dir(keeper.node.dir.join("logs"));
    assert_eq!(crate::harness::Running::spawn(relative).end().ok(), out);
    let [row] = &rows(&keeper.node.run(&["log", "stat", "quakes/ak", "--json"]).ok())[..] else { panic!("one row") };
    assert_eq!((&row["origins"][0]["origin"], &row["origins"][0]["keys"]), (&origin.into(), &1.into()));
    assert_eq!((&row["ring_open"], &row["segments"][0]["next_offset"]), (&true.into(), &12.into()));
}

#[test]
fn events_are_printed_as_sub_prints_them() {
    let keeper = Keeper::new();
    keeper.fill_large("big", 1, |_| "the key".to_owned());
    keeper.fill("quakes/ak", 3);
    let out = keeper.node.run(&["log", "read", "quakes/ak"]).ok();
    let texts: Vec<&str> = out.lines().map(|line| &line[12..]).collect();
    assert_eq!(texts, [" quakes/ak event 0", " quakes/ak event 1", " quakes/ak event 2"], "{out}");
    let big = keeper.node.run(&["log", "read", "big"]).ok();
    assert!(big.ends_with("  (key=the key)\n"), "{}", &big[big.len() - 40..]);
    let rows = rows(&keeper.node.run(&["log", "read", "quakes/ak", "--json"]).ok());
    let origin = super::signer().id().to_string();
    for (n, row) in rows.iter().enumerate() {
        assert_eq!((&row["type"], &row["offset"], &row["channel"]), (&"event".into(), &n.into(), &"quakes/ak".into()));
        assert_eq!((&row["text"], &row["origin"]), (&format!("event {n}").into(), &origin.clone().into()));
        assert!(row["seq"].is_u64() && row["time_ms"].is_u64(), "{row}");
    }
}

#[test]
fn same_json_as_sub_but_for_the_offset() {
    let keeper = Keeper::new();
    keeper.fill("a", 1);
    let mut logged = rows(&keeper.node.run(&["log", "read", "a", "--json"]).ok()).remove(0);
    let mut sub = keeper.node.subscribe(&["a", "--json"]);
    keeper.node.run(&["pub", "a", "event 0"]).ok();
    let came = rows(&sub.wait_for("event 0")).remove(0);
    let fields = |row: &serde_json::Value| row.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    logged.as_object_mut().expect("an object").remove("offset");
    assert_eq!(fields(&logged), fields(&came));
    assert_eq!(logged["text"], came["text"]);
}

#[test]
fn reading_begins_and_ends_where_it_is_told() {
    let keeper = Keeper::new();
    keeper.fill("a", 10);
    let read = |args: &[&str]| {
        let ended = keeper.node.run(&[&["log", "read", "a"], args].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let numbers =
            ended.out.lines().map(|line| line.rsplit(' ').next().expect("a number").parse().expect("a number"));
        (numbers.collect::<Vec<u32>>(), ended.err)
    };
    assert_eq!(read(&[]), ((0..10).collect(), String::new()));
    assert_eq!(read(&["--from", "offset:7"]).0, [7, 8, 9]);
    assert_eq!(read(&["--from", "offset:99"]).0, [0; 0]);
    assert_eq!(read(&["--from", "last:2"]).0, [8, 9]);
    assert_eq!(read(&["--from", "last:99"]).0.len(), 10);
    assert_eq!(read(&["--from", "live"]).0, [0; 0]);
    assert_eq!(read(&["--from", "since:1h"]).0.len(), 10);
    assert_eq!(read(&["--from", "since:2999-01-01T00:00:00Z"]).0, [0; 0]);
    let (first, said) = read(&["--count", "4"]);
    assert_eq!(first, [0, 1, 2, 3]);
    let cursor = said.trim().rsplit("--from ").next().expect("how to go on");
    assert!(cursor.starts_with("cursor:net-cursor1"), "{said}");
    assert_eq!(read(&["--from", cursor]).0, [4, 5, 6, 7, 8, 9]);
}

#[test]
fn cursor_in_the_middle_of_a_batch_repeats_nothing() {
    let keeper = Keeper::new();
    let log = keeper.open("a");
    let writer = writer(&log);
    let events: Vec<String> = (0..6).map(|n| format!("event {n}")).collect();
    assert!(writer.append_all(events.iter().map(String::as_str)).expect("room").is_some());
    drop(writer);
    log.close().expect("closed");
    let first = keeper.node.run(&["log", "read", "a", "--count", "2"]);
    let cursor = first.err.trim().rsplit("--from ").next().expect("how to go on").to_owned();
    let rest = keeper.node.run(&["log", "read", "a", "--from", &cursor]).ok();
    let texts: Vec<&str> = rest.lines().map(|line| &line[15..]).collect();
    assert_eq!(texts, ["event 2", "event 3", "event 4", "event 5"]);
}

#[test]
fn log_is_followed_while_another_process_writes_it() {
    let keeper = Keeper::new();
    keeper.fill("a", 2);
    // At first nobody has it open.
    let mut follow = keeper.node.start(&["log", "read", "a", "--follow"]);
    follow.wait_for("event 1");
    let log = keeper.open("a");
    let writer = writer(&log);
    write(&writer, 2..5);
    follow.wait_for("event 4");
    write(&writer, 5..40);
    follow.wait_for("event 39");
    drop(writer);
    log.close().expect("closed");
    let log = keeper.open("a");
    write(&super::writer(&log), 40..41);
    follow.wait_for("event 40");
    follow.signal(Signal::TERM);
    let ended = follow.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let numbers: Vec<u32> =
        ended.out.lines().map(|line| line.rsplit(' ').next().expect("a number").parse().expect("a number")).collect();
    assert_eq!(numbers, (0..41).collect::<Vec<_>>(), "each once, in order");
    assert!(ended.err.contains("to go on from here: --from cursor:net-cursor1"), "{ended:?}");
}

#[test]
fn follower_of_the_end_ends_after_so_many_events() {
    let keeper = Keeper::new();
    let log = keeper.open("a");
    let writer = writer(&log);
    write(&writer, 0..3);
    log.tend();
    let mut follow = keeper.node.start(&["log", "read", "a", "--from", "last:1", "--follow", "--count", "3"]);
    follow.wait_for("event 2");
    write(&writer, 3..9);
    let out = follow.end().ok();
    assert_eq!(out.lines().count(), 3, "{out}");
    assert!(out.ends_with("event 4\n"), "{out}");
}

#[test]
fn reader_beside_a_writer_is_told_that_more_may_come() {
    let keeper = Keeper::new();
    let log = keeper.open("a");
    write(&writer(&log), 0..3);
    log.tend();
    let ended = keeper.node.run(&["log", "read", "a"]);
    assert_eq!(ended.out.lines().count(), 3, "{ended:?}");
    let pid = std::process::id();
    assert!(ended.err.contains(&format!("process {pid} writes this log")), "{ended:?}");
    let out = keeper.node.run(&["log", "stat", "a"]).ok();
    assert!(out.contains(&format!("process {pid}")), "{out}");
    assert!(keeper.node.run(&["log", "ls", "--json"]).ok().contains("\"open\":true"));
}

#[test]
fn output_that_nobody_reads_to_its_end_is_no_error() {
    let keeper = Keeper::new();
    keeper.fill_large("big", 20, |n| n.to_string());
    for args in [&["log", "read", "big"][..], &["log", "read", "big", "--follow"], &["log", "export", "big", "-"]] {
        let mut command = keeper.node.command(args);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut first = String::new();
        BufReader::with_capacity(64, process.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
        let ended = process.wait_with_output().expect("it ends");
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{args:?}");
    }
}

#[test]
fn logs_that_are_not_there_and_names_that_are_none() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 1);
    let empty = keeper.place.path().join("empty");
    std::fs::create_dir(&empty).expect("ours");
    let empty = empty.display().to_string();
    for command in ["stat", "read", "verify", "compact"] {
        let run = |log: &str| keeper.node.run(&["log", command, log]);
        check(&run("quakes/nn"), 1, "there is no log of quakes/nn", "net log ls");
        check(&run(&empty), 1, "holds no log", "net log ls");
        check(&run("./nowhere"), 1, "holds no log", "net log ls");
        check(&run("logs/quakes+ak"), 2, "is no channel", "paths begin with");
        check(&run("quakes/*"), 2, "is no channel", "net log stat");
        check(&run(""), 2, "is no channel", "net log stat");
    }
    let place = Place::new();
    let nobody = place.node("nobody");
    check(&nobody.run(&["log", "read", "quakes/ak"]), 1, "there is no log", "net log ls");
    assert!(!nobody.dir.exists(), "looking makes nothing");
    // Arguments, what is said, what to try.
    let wrong: &[(&[&str], &str, &str)] = &[
        (&["log"], "subcommands: ls, stat, read", "--help"),
        (&["log", "list"], "unrecognized subcommand", "--help"),
        (&["log", "read"], "<CHANNEL>", "--help"),
        (&["log", "read", "quakes/ak", "--from", "yesterday"], "earliest, offset:N", "last:10"),
        (&["log", "read", "quakes/ak", "--from", "offset:x"], "no offset", "offset:100"),
        (&["log", "read", "quakes/ak", "--count", "0"], "invalid value '0'", "--help"),
        (&["log", "verify", "quakes/ak", "--origin", "me"], "invalid value 'me'", "--help"),
        (&["log", "verify", "quakes/ak", "--expect", "/nowhere"], "/nowhere", "--json > FILE"),
        (&["log", "verify", "quakes/ak", "--expect", "/dev/null"], "not a result", "--json > FILE"),
        (&["log", "export", "quakes/ak"], "<FILE>", "--help"),
        (&["log", "export", "quakes/ak", "-", "--format", "csv"], "invalid value 'csv'", "batches"),
        (&["log", "trim", "quakes/ak"], "--keep-bytes", "--help"),
        (&["log", "trim", "quakes/ak", "--keep-events", "1", "--keep-age", "1d"], "cannot be used with", "--help"),
        (&["log", "trim", "quakes/ak", "--keep-bytes", "much"], "is no size", "64MiB"),
        (&["log", "trim", "quakes/ak", "--keep-age", "long"], "invalid value 'long'", "--help"),
        (&["log", "trim", "quakes/ak", "--before", "noon"], "no time", "offset:100"),
    ];
    for (args, says, next) in wrong {
        check(&keeper.node.run(args), 2, says, next);
    }
}

#[test]
fn every_part_of_the_command_has_help_with_an_example() {
    let place = Place::new();
    let node = place.node("a");
    for command in ["ls", "stat", "read", "verify", "export", "trim", "compact"] {
        let help = node.run(&["log", command, "--help"]).ok();
        assert!(help.contains("Examples:") && help.contains(&format!("log {command}")), "{help}");
    }
    assert!(!node.dir.exists());
}
