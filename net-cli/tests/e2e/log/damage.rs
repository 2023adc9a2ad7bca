//! Verification, damage, torn ends, keys that are missing, logs of others.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use net::redex::{Found, Log, LogConfig, Start};

use super::{Keeper, check, rows, signer, used, write, writer};

fn segment(log: &Path, base: u64) -> PathBuf {
    log.join(format!("{base:016x}.seg"))
}

/// Flips a bit in the middle of the batch that begins at this offset, and gives the seq of its first event.
fn flip(log: &Path, offset: u64) -> u64 {
    let (frame, seq) = {
        let log = Log::open(log, LogConfig::default().read_only()).expect("readable");
        let found = log.read(Start::Offset(offset)).expect("readable").next().expect("there").expect("readable");
        let Found::Batch(batch) = found else { panic!("a batch: {found:?}") };
        (batch.frame().to_vec(), batch.header().seq())
    };
    let path = segment(log, 0);
    let bytes = fs::read(&path).expect("ours");
    let at = bytes.windows(frame.len()).position(|window| window == frame).expect("it is in there") + frame.len() / 2;
    let file = fs::File::options().write(true).open(&path).expect("ours");
    file.write_all_at(&[bytes[at] ^ 4], at as u64).expect("ours");
    seq
}

#[test]
fn sound_log_verifies_without_keys_and_wherever_it_lies() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 12);
    let out = keeper.node.run(&["log", "verify", "quakes/ak"]).ok();
    assert_eq!(out, "quakes/ak: checksums, chain and signatures hold: 12 events in 12 batches, 1 origin\n");
    let path = keeper.path("quakes/ak").display().to_string();
    let stranger = keeper.place.node("stranger");
    let ended = stranger.run(&["log", "verify", &path]);
    assert_eq!((ended.out.as_str(), ended.err.as_str()), (out.as_str(), ""));
    assert!(!stranger.dir.exists());
    let [row] = &rows(&keeper.node.run(&["log", "verify", "quakes/ak", "--json"]).ok())[..] else { panic!("one row") };
    assert_eq!((&row["type"], &row["events"], &row["faults"]), (&"verified".into(), &12.into(), &0.into()));
    assert_eq!(row["heads"][0]["origin"], signer().id().to_string());
}

#[test]
fn flipped_bit_is_found_and_the_event_at_fault_named() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 12);
    let seq = flip(&keeper.path("quakes/ak"), 5);
    let ended = keeper.node.run(&["log", "verify", "quakes/ak"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let dot = format!("FAULT offset 5: {}:{seq}", signer().id());
    let fault = ended.out.lines().next().expect("a line");
    assert!(fault.starts_with(&dot) && fault.contains("damaged on the disk"), "{ended:?}");
    let found = rows(&keeper.node.run(&["log", "verify", "quakes/ak", "--json"]).out);
    assert_eq!((&found[0]["type"], &found[0]["offset"], &found[0]["from"]), (&"fault".into(), &5.into(), &seq.into()));
    let summary = found.last().expect("a summary");
    assert!(summary["faults"].as_u64() >= Some(1) && summary["events"].as_u64() >= Some(10), "{summary}");

    // It costs that event and no other, and that is said.
    let ended = keeper.node.run(&["log", "read", "quakes/ak"]);
    assert_eq!((ended.code, ended.out.lines().count()), (Some(0), 11), "{ended:?}");
    assert!(ended.err.contains("1 event") && ended.err.contains("damaged on the disk"), "{ended:?}");
    let found = rows(&keeper.node.run(&["log", "read", "quakes/ak", "--json"]).ok());
    assert_eq!((found.len(), &found[5]["type"], &found[5]["offset"]), (12, &"damaged".into(), &5.into()));
    assert_eq!((&found[5]["lost"][0]["from"], &found[5]["lost"][0]["to"]), (&seq.into(), &(seq + 1).into()));
    let ended = keeper.node.run(&["log", "export", "quakes/ak", "-"]);
    assert_eq!((ended.code, rows(&ended.out)), (Some(1), found));
    assert!(ended.err.contains("1 event damaged"), "{ended:?}");
}

#[test]
fn cut_history_is_found_by_what_was_expected() {
    let keeper = Keeper::new();
    keeper.fill("a", 12);
    let copy = keeper.place.path().join("copy");
    copy_dir(&keeper.path("a"), &copy);
    let log = keeper.open("a");
    write(&writer(&log), 12..14);
    log.close().expect("closed");
    let expected = keeper.place.path().join("expected.json");
    fs::write(&expected, keeper.node.run(&["log", "verify", "a", "--json"]).ok()).expect("ours");
    let expected = expected.display().to_string();
    keeper.node.run(&["log", "verify", "a", "--expect", &expected]).ok();
    let copy = copy.display().to_string();
    let out = keeper.node.run(&["log", "verify", &copy]).ok();
    assert!(out.starts_with("a: checksums"), "a copy of one's own is known by whatever name: {out}");
    let stranger = keeper.place.node("stranger").run(&["log", "verify", &copy]).ok();
    assert!(stranger.starts_with('#'), "and a stranger's by its hash: {stranger}");
    let ended = keeper.node.run(&["log", "verify", &copy, "--expect", &expected]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.contains("the end is missing"), "{ended:?}");
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).expect("ours");
    for entry in fs::read_dir(from).expect("ours") {
        let entry = entry.expect("ours");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("ours");
    }
}

#[test]
fn torn_end_is_no_fault_and_is_cut_by_whoever_writes() {
    let keeper = Keeper::new();
    let log = Log::open(keeper.path("b"), keeper.config("b").without_threads()).expect("a log");
    let writer = writer(&log);
    write(&writer, 0..3);
    log.tend();
    // Above the last checkpoint; then the power goes, and of the last sectors nothing has reached the disk.
    let large = "x".repeat(4_000);
    assert!(writer.append(&*large).expect("room").is_durable());
    let path = keeper.path("torn");
    copy_dir(&keeper.path("b"), &path);
    let bytes = fs::read(segment(&path, 0)).expect("ours");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("something was written");
    let file = fs::File::options().write(true).open(segment(&path, 0)).expect("ours");
    file.write_all_at(&[0; 2_048], (end - 2_047) as u64).expect("ours");
    let path = path.display().to_string();

    let ended = keeper.node.run(&["log", "read", &path]);
    assert_eq!((ended.code, ended.out.lines().count(), ended.err.as_str()), (Some(0), 3, ""), "{ended:?}");
    let ended = keeper.node.run(&["log", "verify", &path]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("an interrupted write at offset 3 is no fault"), "{ended:?}");
    assert!(keeper.node.run(&["log", "stat", &path]).ok().contains("an interrupted write at offset 3"));
    let ended = keeper.node.run(&["log", "trim", &path, "--before", "offset:0"]);
    assert!(ended.code == Some(0) && ended.err.contains("offset 3 was cut off"), "{ended:?}");
    assert_eq!(keeper.node.run(&["log", "verify", &path]).err, "");
}

#[test]
fn log_of_another_node_is_read_as_far_as_it_opens() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 4);
    let stranger = keeper.place.node("stranger");
    used(&stranger);
    let path = keeper.path("quakes/ak").display().to_string();
    let ended = stranger.run(&["log", "read", &path]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.err.contains("the key ring is another node's"), "{ended:?}");
    let sealed = format!("quakes/ak: 4 events of {} cannot be read: the key ring does not hold key", signer().id());
    assert!(ended.err.contains(&sealed) && ended.err.lines().count() == 2, "one line for all of them: {ended:?}");
    let found = rows(&stranger.run(&["log", "read", &path, "--json"]).ok());
    assert!(found.len() == 4 && found.iter().all(|row| row["type"] == "sealed" && row["why"].is_string()), "{found:?}");
    assert!(stranger.run(&["log", "stat", &path]).ok().contains("sealed: the ring opens"));
    stranger.run(&["log", "verify", &path]).ok();
    let ended = stranger.run(&["log", "export", &path, "-"]);
    assert!(ended.code == Some(1) && ended.err.contains("4 events could not be opened"), "{ended:?}");
    // Batches need no keys.
    assert_eq!(
        stranger.run(&["log", "export", &path, &format!("{path}.batches"), "--format", "batches"]).code,
        Some(0)
    );
}

#[test]
fn compaction_without_keys_says_whose_directory_has_them() {
    let keeper = Keeper::new();
    keeper.fill_large("big", 5, |_| "same".to_owned());
    let stranger = keeper.place.node("stranger");
    let path = keeper.path("big").display().to_string();
    let before = keeper.node.run(&["log", "stat", "big"]).ok();
    check(&stranger.run(&["log", "compact", &path]), 1, "its keys are not known", "net --dir DIRECTORY log compact");
    assert_eq!(keeper.node.run(&["log", "stat", "big"]).ok(), before, "nothing was changed");
}

#[test]
fn log_of_another_mesh_is_not_taken_for_this_nodes() {
    let keeper = Keeper::new();
    keeper.fill("quakes/ak", 2);
    let other = keeper.place.node("other");
    let state = used(&other);
    fs::create_dir(other.dir.join("logs")).expect("ours");
    let path = net::logs::path(&state, &super::name("quakes/ak"));
    copy_dir(&keeper.path("quakes/ak"), &path);
    for args in [&["log", "read", "quakes/ak"][..], &["log", "verify", "quakes/ak"], &["log", "compact", "quakes/ak"]] {
        check(
            &other.run(args),
            1,
            "holds a log of another channel or mesh",
            &format!("net log stat {}", path.display()),
        );
    }
    let ended = other.run(&["log", "ls"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains("quakes/ak: "), "{ended:?}");
    // What it says helps.
    assert!(other.run(&["log", "stat", &path.display().to_string()]).ok().contains("0..2, 2 events"));
}

#[test]
fn log_without_a_sound_manifest_is_said_to_have_none() {
    let keeper = Keeper::new();
    keeper.fill("a", 2);
    fs::remove_file(keeper.path("a").join("MANIFEST")).expect("ours");
    check(&keeper.node.run(&["log", "read", "a"]), 1, "no sound manifest", "net log trim");
    // What it says helps.
    keeper.node.run(&["log", "trim", "a", "--before", "offset:0"]).ok();
    assert_eq!(keeper.node.run(&["log", "read", "a"]).ok().lines().count(), 2);
}
