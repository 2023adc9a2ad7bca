//! `net up --keep`: what is published is on a disk, and everybody is told the truth about it.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Node, Place, Running};

const STORED: &str = "published 1 event, stored here; nobody is subscribed\n";
const NOWHERE: &str = "published 1 event; nobody is subscribed, and nothing keeps this channel\n";

const DEADLINE: Duration = Duration::from_secs(60);

fn keep(node: &Node, pattern: &str) -> Running {
    let mut up = node.start(&["up", "--keep", pattern]);
    up.wait_for(&format!("keeps {pattern} in {}", node.dir.join("logs").display()));
    up
}

fn publish(node: &Node, channel: &str, text: &str) -> String {
    node.run(&["pub", channel, text]).ok()
}

/// Asks until it is so.
#[track_caller]
fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to be so");
    }
}

#[test]
fn what_is_kept_is_there_after_kill_9() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let up = keep(&a, "quakes/*");
    assert_eq!(publish(&a, "quakes/ak", "one"), STORED);
    assert_eq!(publish(&a, "other", "one"), NOWHERE);
    b.join(&a.ticket());
    up.kill();
    let read = a.run(&["log", "read", "quakes/ak"]).ok();
    assert!(read.ends_with("quakes/ak one\n"), "{read}");
    let _up = keep(&a, "quakes/*");
    assert_eq!(publish(&a, "quakes/ak", "two"), STORED);
    let sub = b.run(&["sub", "quakes/ak", "--from", "earliest", "--count", "2"]).ok();
    let texts: Vec<&str> = sub.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(texts, ["one", "two"]);
}

#[test]
fn another_process_that_is_the_node_keeps_meanwhile() {
    let place = Place::new();
    let node = place.node("a");
    let up = node.up();
    // Its producer is there before the channel is kept.
    assert_eq!(publish(&node, "quakes/ak", "early"), NOWHERE);
    let mut guest = keep(&node, "quakes/*");
    assert_eq!(publish(&node, "quakes/ak", "one"), STORED);
    assert_eq!(publish(&node, "quakes/us", "one"), STORED);
    up.kill();
    guest.wait_for_err("taking over");
    guest.wait_for("keeps quakes/*");
    assert_eq!(publish(&node, "quakes/ak", "two"), STORED);
    guest.terminated();
    let read = node.run(&["log", "read", "quakes/ak"]).ok();
    let texts: Vec<&str> = read.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(texts, ["early", "one", "two"]);
}

#[test]
fn keeping_ends_with_the_command_that_asked_for_it() {
    let place = Place::new();
    let node = place.node("a");
    let _up = node.up();
    let (first, second) = (keep(&node, "quakes/*"), keep(&node, "quakes/*"));
    first.terminated();
    assert_eq!(publish(&node, "quakes/ak", "x"), STORED);
    second.terminated();
    until(|| !node.run(&["channels"]).ok().contains("keeps"));
    assert_eq!(publish(&node, "quakes/us", "x"), NOWHERE);
}

#[test]
fn subscribers_and_other_keepers_are_told_apart_from_the_disk_here() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _a = keep(&a, "quakes/*");
    let mut sub = a.subscribe(&["quakes/*"]);
    assert_eq!(publish(&a, "quakes/ak", "one"), "published 1 event, stored here, delivered to 1 subscriber\n");
    sub.signal(Signal::TERM);
    sub.wait_for("quakes/ak one");
    sub.end().ok();
    b.join(&a.ticket());
    let _b = keep(&b, "**");
    b.wait_for_link();
    // A keeper is a subscriber, and says a moment later that it has stored what it was handed.
    let delivered = "published 1 event, stored here, delivered to 1 subscriber";
    let mut events = 0;
    until(|| {
        let said = publish(&a, "quakes/us", "two");
        assert!(said.starts_with(delivered), "{said}");
        events += 1;
        said == format!("{delivered}, stored on 1 other node\n")
    });
    until(|| {
        let row = a.run(&["pub", "other", "three", "--json"]).ok();
        let row: serde_json::Value = serde_json::from_str(&row).expect("JSON");
        let figures = ["published", "stored", "subscribers", "delivered"].map(|name| row[name].as_u64());
        assert_eq!(figures, [Some(1), Some(0), Some(1), Some(1)], "{row}");
        row["keepers"] == 1
    });
    let stored = format!("{events} {} stored", if events == 1 { "event" } else { "events" });
    until(|| {
        let channels = a.run(&["channels", "quakes/us"]).ok();
        assert!(channels.contains("  1 subscriber\n"), "{channels}");
        channels.contains(&format!("this node keeps quakes/*\n  quakes/us  {stored}\n"))
    });
    let rows = b.run(&["channels", "quakes/us", "--json"]).ok();
    let row: serde_json::Value = serde_json::from_str(rows.lines().last().expect("a row")).expect("JSON");
    assert_eq!((&row["keeps"], &row["channels"][0]["events"]), (&"**".into(), &events.into()), "{rows}");
}

#[test]
fn failing_log_is_told_once_and_tried_again() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _a = a.up();
    b.join(&a.ticket());
    let mut keeper = keep(&b, "quakes/*");
    b.wait_for_link();
    let in_the_way = b.dir.join("logs/quakes+ak");
    std::fs::create_dir_all(b.dir.join("logs")).expect("ours");
    std::fs::write(&in_the_way, "").expect("ours");
    publish(&a, "quakes/ak", "one");
    let said = keeper.wait_for_err("quakes/ak is not kept at the moment");
    assert!(said.contains("quakes+ak") && said.contains("os error"), "{said}");
    let channels = b.run(&["channels"]).ok();
    assert!(channels.contains("0 events stored, and now it fails: "), "{channels}");
    // What this node itself would publish there is refused, not lost.
    let refused = b.run(&["pub", "quakes/ak", "mine"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("os error") && refused.err.contains("net log stat quakes/ak"), "{refused:?}");
    std::fs::remove_file(&in_the_way).expect("ours");
    keeper.wait_for_err("quakes/ak is kept again");
    assert_eq!(publish(&b, "quakes/ak", "mine"), "published 1 event, stored here; nobody is subscribed\n");
    keeper.signal(Signal::TERM);
    let ended = keeper.end();
    assert_eq!(ended.err.matches("not kept").count(), 1, "{ended:?}");
    let read = b.run(&["log", "read", "quakes/ak"]).ok();
    assert!(read.contains("one") && read.contains("mine"), "{read}");
}
