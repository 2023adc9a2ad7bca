//! Filters, positions in time, and what a node shows of itself.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{Place, Running};

#[test]
fn filter_prints_only_what_matches() {
    let place = Place::new();
    let node = place.node("a");
    let _up = node.up();
    for (key, payload) in [("ak", r#"{"mag":3}"#), ("ak", r#"{"mag":5}"#), ("ci", r#"{"mag":6}"#), ("ci", "no json")] {
        let file = place.path().join("event");
        std::fs::write(&file, payload).expect("written");
        node.run(&["pub", &format!("quakes/{key}"), &format!("@{}", file.display()), "--linger", "10ms"]).ok();
    }
    let args = ["sub", "quakes/*", "--from", "earliest", "--count", "1", "--filter"];
    let strong = node.run(&[&args[..], &["mag > 4 && channel != 'quakes/ci'"]].concat()).ok();
    assert!(strong.contains(r#"quakes/ak {"mag":5}"#), "{strong}");
    let unreadable = node.run(&[&args[..], &["size == 7"]].concat()).ok();
    assert!(unreadable.contains("quakes/ci no json"), "{unreadable}");
}

#[test]
fn since_takes_a_date_and_a_duration() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _up = a.up();
    a.run(&["pub", "numbers", "1"]);
    a.run(&["pub", "numbers", "2"]);
    b.join(&a.ticket());
    let read = |from: &str, count: &str| b.run(&["sub", "numbers", "--json", "--from", from, "--count", count]).ok();
    let both: Vec<serde_json::Value> =
        read("earliest", "2").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let time_ms = both[1]["time_ms"].as_u64().expect("a time");
    let date = humantime_of(time_ms);
    for from in [format!("since:{time_ms}"), format!("since:{date}")] {
        let first: serde_json::Value = serde_json::from_str(read(&from, "1").trim()).expect("JSON");
        assert_eq!(first["text"], "2", "{from}");
    }
    for from in ["since:10m", "since:2020-01-31T12:00:00Z", "since:2020-01-31 12:00:00"] {
        let first: serde_json::Value = serde_json::from_str(read(from, "1").trim()).expect("JSON");
        assert_eq!(first["text"], "1", "{from}");
    }
}

/// As a person would write it.
fn humantime_of(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms)).to_string()
}

fn scrape(up: &mut Running) -> String {
    let line = up.wait_for_err("metrics at http://");
    let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once("/metrics")).expect("an address").0;
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

#[test]
fn metrics_are_served_by_the_node_and_by_who_stands_by() {
    let place = Place::new();
    let node = place.node("a");
    let mut up = node.start(&["up", "--metrics", "0"]);
    node.run(&["pub", "quakes/ak", "x", "--linger", "10ms"]).ok();
    let _sub = node.subscribe(&["quakes/*"]);
    let answer = scrape(&mut up);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("# EOF\n"), "{answer}");
    let mut standing_by = node.start(&["up", "--metrics", "127.0.0.1:0"]);
    let answer = scrape(&mut standing_by);
    assert!(answer.contains("net_subscription_lag_events{id=\"1\",pattern=\"quakes/*\"} 0\n"), "{answer}");
    let taken = node.run(&["up", "--metrics", "203.0.113.7:9464"]);
    assert!(taken.code == Some(1) && taken.err.contains("cannot serve metrics at 203.0.113.7:9464"), "{taken:?}");
}

#[test]
fn doctor_and_channels_say_who_takes_what() {
    let place = Place::new();
    let node = place.node("a");
    let _up = node.up();
    let _sub = node.subscribe(&["quakes/*"]);
    let out = node.run(&["pub", "quakes/ak", "x"]).ok();
    assert!(out.contains("delivered to 1 subscriber"), "{out}");
    let doctor = node.run(&["doctor"]);
    assert!(doctor.out.contains("drops") && doctor.out.contains("lag "), "{doctor:?}");
}
