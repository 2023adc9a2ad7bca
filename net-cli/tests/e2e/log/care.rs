//! Exporting, trimming and compacting.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use net::redex::{Log, LogConfig};
use net::transport::{HEADER_LEN, Header};

use super::{Keeper, check, name, rows, write, writer};

#[test]
fn exported_lines_are_those_of_read() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 12);
    let file = keeper.place.path().join("quakes.jsonl");
    let file = file.display().to_string();
    let read = keeper.node.run(&["log", "read", "quakes/ak", "--json"]).ok();
    let out = keeper.node.run(&["log", "export", "quakes/ak", &file]).ok();
    assert!(out.starts_with("exported 12 events (") && out.contains(&file), "{out}");
    assert_eq!(fs::read_to_string(&file).expect("made"), read);
    let ended = keeper.node.run(&["log", "export", "quakes/ak", "-"]);
    assert_eq!(ended.out, read);
    assert!(ended.err.starts_with("exported 12 events"), "{ended:?}");

    check(&keeper.node.run(&["log", "export", "quakes/ak", &file]), 1, "is there already", "--force");
    fs::write(&file, "old").expect("ours");
    let [row] = &rows(&keeper.node.run(&["log", "export", "quakes/ak", &file, "--force", "--json"]).ok())[..] else {
        panic!("one row")
    };
    let expected = (&12.into(), &12.into(), &0.into(), &read.len().into());
    assert_eq!((&row["events"], &row["batches"], &row["sealed"], &row["bytes"]), expected);
    assert_eq!(fs::read_to_string(&file).expect("made"), read);
    assert_eq!(fs::metadata(&file).expect("made").permissions().mode() & 0o777, 0o600, "it has what was sealed");
    let beside = fs::read_dir(keeper.place.path()).expect("ours").filter_map(Result::ok);
    assert!(beside.into_iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".tmp")));
    check(
        &keeper.node.run(&["log", "export", "quakes/ak", "/nowhere/x"]),
        1,
        "cannot write /nowhere/x",
        "another place",
    );
}

#[test]
fn exported_batches_make_the_same_log_elsewhere() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 12);
    let file = keeper.place.path().join("quakes.batches");
    keeper.node.run(&["log", "export", "quakes/ak", &file.display().to_string(), "--format", "batches"]).ok();

    // Another log of the node takes them, one by one.
    let copy = keeper.place.path().join("quakes+ak");
    let mesh = keeper.state.mesh().expect("ours").expect("made").id();
    let config = LogConfig::default().channel(mesh, name("quakes/ak").hash(&mesh));
    let log = Log::open(&copy, config).expect("a new log");
    let bytes = fs::read(&file).expect("made");
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let len = HEADER_LEN + Header::parse(rest).expect("a header").payload_len();
        let (frame, behind) = rest.split_at(len);
        assert!(log.append(frame).wait().expect("a batch").is_durable());
        rest = behind;
    }
    log.close().expect("closed");
    let origin = super::signer().id().to_string();
    let copy = copy.display().to_string();
    let out = keeper.node.run(&["log", "verify", "quakes/ak"]).ok();
    assert_eq!(keeper.node.run(&["log", "verify", &copy, "--origin", &origin]).ok(), out);
    let unknown = keeper.node.run(&["log", "verify", &copy]);
    assert!(unknown.code == Some(1) && unknown.err.contains("--origin PUBLIC_KEY"), "{unknown:?}");
}

#[test]
fn trim_gives_up_what_its_dry_run_said() {
    let keeper = Keeper::new();
    // Two a segment: 0..2, 2..4, 4..6, 6..8, and 8..9 is being written.
    keeper.fill_large("big", 9, |n| n.to_string());
    let trim = |args: &[&str]| keeper.node.run(&[&["log", "trim", "big"], args].concat()).ok();
    let before = keeper.node.run(&["log", "stat", "big"]).ok();
    for (args, says) in [
        (&["--before", "offset:1"][..], "nothing to give up: segments go whole, and of the oldest one (offsets 0..2, "),
        (&["--before", "offset:5"], "would give up 2 segments with 4 events"),
        (&["--before", "offset:99"], "would give up 5 segments with 9 events"),
        (&["--before", "2h"], "nothing to give up"),
        (&["--before", "2999-01-01T00:00:00Z"], "would give up 5 segments with 9 events"),
        (&["--keep-events", "4"], "would give up 2 segments with 4 events"),
        (&["--keep-events", "0"], "would give up 5 segments with 9 events"),
        (&["--keep-age", "1h"], "nothing to give up"),
        (&["--keep-age", "0s"], "would give up 5 segments with 9 events"),
        (&["--keep-bytes", "1TiB"], "nothing to give up"),
        (&["--keep-bytes", "1"], "would give up 4 segments with 8 events"),
    ] {
        let out = trim(&[args, &["--dry-run"]].concat());
        assert!(out.starts_with(says), "{args:?}: {out}");
    }
    assert_eq!(keeper.node.run(&["log", "stat", "big"]).ok(), before, "nothing has gone");

    let out = trim(&["--before", "offset:5"]);
    assert!(
        out.starts_with("gave up 2 segments with 4 events") && out.contains("5 events stay, from offset 4 on"),
        "{out}"
    );
    assert_eq!(keeper.node.run(&["log", "read", "big"]).ok().lines().count(), 5);
    let ended = keeper.node.run(&["log", "read", "big", "--from", "offset:0"]);
    assert!(ended.err.contains("the log keeps its events from offset 4 on"), "{ended:?}");
    keeper.node.run(&["log", "verify", "big"]).ok();
    let [row] = &rows(&trim(&["--keep-events", "0", "--json"]))[..] else { panic!("one row") };
    assert_eq!((&row["events"], &row["first_offset"], &row["dry_run"]), (&5.into(), &9.into(), &false.into()));
    assert!(trim(&["--keep-events", "0"]).contains("the log is empty"));
    assert!(keeper.node.run(&["log", "ls"]).ok().contains("9..9"));
}

#[test]
fn compaction_frees_what_was_superseded_and_the_log_still_verifies() {
    let keeper = Keeper::new();
    keeper.fill_large("states", 9, |n| format!("sensor {}", n % 2));
    let bytes = |out: &str| rows(out)[0]["file_bytes"].as_u64().expect("a number");
    let before = bytes(&keeper.node.run(&["log", "stat", "states", "--json"]).ok());
    let out = keeper.node.run(&["log", "compact", "states"]).ok();
    assert!(out.starts_with("compacted 7 superseded events in 7 batches, 4 segments rewritten: "), "{out}");
    assert!(bytes(&keeper.node.run(&["log", "stat", "states", "--json"]).ok()) < before - 7 * 30_000);
    let out = keeper.node.run(&["log", "verify", "states"]).ok();
    assert!(out.contains("checksums, chain and signatures hold: 9 events in 9 batches"), "{out}");
    let ended = keeper.node.run(&["log", "read", "states"]);
    assert_eq!((ended.code, ended.out.lines().count()), (Some(0), 2), "{}", ended.err);
    let gone = format!("states: 7 events of {} superseded by later ones and compacted\n", super::signer().id());
    assert_eq!(ended.err, gone, "one line for all of them");
    let out = keeper.node.run(&["log", "compact", "states"]).ok();
    assert!(out.starts_with("nothing to compact"), "{out}");
    let [row] = &rows(&keeper.node.run(&["log", "compact", "states", "--json"]).ok())[..] else { panic!("one row") };
    assert_eq!((&row["events"], &row["bytes"]), (&0.into(), &0.into()));
    let file = keeper.place.path().join("states.batches").display().to_string();
    let ended = keeper.node.run(&["log", "export", "states", &file, "--format", "batches"]);
    assert!(ended.code == Some(0) && ended.err.contains("7 events had been superseded"), "{ended:?}");
}

#[test]
fn log_that_a_process_writes_is_read_and_not_changed() {
    let keeper = Keeper::new();
    let log = keeper.open("a");
    write(&writer(&log), 0..5);
    log.tend();
    let pid = std::process::id();
    for args in [&["log", "compact", "a"][..], &["log", "trim", "a", "--keep-events", "1"]] {
        check(&keeper.node.run(args), 1, &format!("process {pid} writes the log a"), &format!("kill {pid}"));
    }
    assert_eq!(keeper.node.run(&["log", "read", "a"]).ok().lines().count(), 5);
    keeper.node.run(&["log", "verify", "a"]).ok();
    keeper.node.run(&["log", "export", "a", "-"]).ok();
    assert!(keeper.node.run(&["log", "trim", "a", "--keep-events", "0", "--dry-run"]).ok().contains("5 events"));
    assert_eq!((log.first_offset(), log.next_offset()), (0, 5));
}
