//! The demo proves what it says, and fails when it should.

use serde_json::Value;

use crate::harness::Place;

fn report(args: &[&str]) -> (Option<i32>, Value) {
    let place = Place::new();
    let ended = place.node("unused").run(&[&["demo", "--json"], args].concat());
    let report = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert!(!place.node("unused").dir.exists(), "the demo leaves the node of this machine alone");
    (ended.code, report)
}

#[test]
fn demo_holds_what_it_promises() {
    let (code, report) = report(&[]);
    assert_eq!(code, Some(0), "{report:#}");
    let expected = [
        ("quakes", 1707),
        ("alerts", 85),
        ("channels", 12),
        ("delivered", 1792),
        ("missing", 0),
        ("duplicates", 0),
        ("unverified", 0),
        ("late", 298),
        ("late_quakes", 297),
        ("late_alerts", 1),
        ("alerts_before_quake", 0),
        ("gaps", 0),
    ];
    for (name, value) in expected {
        assert_eq!(report[name], value, "{name}: {report:#}");
    }
    let happened =
        ["datagrams", "datagrams_lost", "datagrams_reordered", "datagrams_duplicated", "batches_dropped", "fetches"];
    for name in happened {
        assert!(report[name].as_u64().is_some_and(|n| n > 0), "{name}: {report:#}");
    }
    // The second of the producers has every second of the earthquakes, on all channels but one.
    let expected = [("durable", 853), ("events", 853), ("logs", 11), ("faults", 0)];
    for (name, value) in expected {
        assert_eq!(report["killed"][name], value, "{name}: {report:#}");
    }
    assert!(report["killed"]["batches"].as_u64().is_some_and(|n| (11..=853).contains(&n)), "{report:#}");
    let replays = &report["replays"];
    assert_eq!((&replays["channel"], &replays["same_bytes"]), (&"quakes/us".into(), &true.into()), "{report:#}");
    assert_eq!(replays["events"], serde_json::json!([252, 252]), "{report:#}");
    assert_eq!(
        (replays["digests"][0].as_str().map(str::len), &replays["digests"][0]),
        (Some(64), &replays["digests"][1])
    );
    assert_eq!(report["processes"], 8);
    assert!(report["checks"].as_array().is_some_and(|checks| checks.len() >= 11));
}

fn caught(how: &str, by: &str) {
    let (code, report) = report(&["--sabotage", how]);
    assert_eq!(code, Some(1), "{report:#}");
    let names: Vec<&str> = report["caught_by"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&by), "{how} was caught by {names:?}");
}

#[test]
fn lost_event_is_caught() {
    caught("lose", "each event once");
}

#[test]
fn repeated_event_is_caught() {
    caught("twice", "each event once");
}

#[test]
fn swapped_events_are_caught() {
    caught("swap", "order of each origin");
}

#[test]
fn forged_batches_are_caught() {
    caught("forge", "sender verified");
}

#[test]
fn unsigned_batches_are_caught() {
    caught("unsign", "sender verified");
}

#[test]
fn byte_that_rots_on_the_disk_of_the_killed_producer_is_caught() {
    let (code, report) = report(&["--sabotage", "rot"]);
    assert_eq!((code, &report["caught_by"][0]), (Some(1), &"log outlives kill -9".into()), "{report:#}");
    assert!(report["killed"]["faults"].as_u64() >= Some(1), "{report:#}");
    assert!(report["killed"]["first_fault"].as_str().is_some_and(|says| says.starts_with("quakes/us ")), "{report:#}");
    // Damage costs what it hit: all other events were replayed as before, and those are not said to be there.
    assert_eq!((&report["delivered"], &report["replays"]["same_bytes"]), (&1792.into(), &false.into()), "{report:#}");
}
