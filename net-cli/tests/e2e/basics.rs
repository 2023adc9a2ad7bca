//! What the README shows, and what comes next.

use rustix::process::Signal;

use crate::harness::{Place, Running};

const WEEK: &str = concat!("@", env!("CARGO_MANIFEST_DIR"), "/data/usgs-earthquakes-2018-week.jsonl");

#[test]
fn sub_and_pub_in_one_directory() {
    let place = Place::new();
    let node = place.node("a");
    let mut sub = node.subscribe(&["quakes/*"]);
    let out = node.run(&["pub", "quakes/ak", r#"{"mag":4.2}"#]).ok();
    assert_eq!(out, "published 1 event, delivered to 1 subscriber\n");
    let line = sub.wait_for("quakes/ak");
    assert!(line.ends_with(r#"quakes/ak {"mag":4.2}"#), "{line}");
    assert!(!line.contains('\x1b'), "no colours where nobody sees them: {line}");
    sub.signal(Signal::INT);
    assert_eq!(sub.end().code, Some(0));
}

#[test]
fn three_commands_of_the_readme_up_sub_pub() {
    let place = Place::new();
    let node = place.node("a");
    let up = node.up();
    let mut sub = node.subscribe(&["**"]);
    node.run(&["pub", "greetings", "hello"]).ok();
    sub.wait_for("greetings hello");
    up.signal(Signal::TERM);
    let up = up.end();
    assert_eq!(up.code, Some(0), "{up:?}");
}

#[test]
fn a_week_of_earthquakes_reaches_a_second_node_whole() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _up = a.up();
    b.join(&a.ticket());
    let mut sub = b.subscribe(&["quakes/*", "--json"]);
    a.wait_for_link();
    let out = a.run(&["pub", "quakes", WEEK, "--channel-field", "net", "--key-field", "id"]).ok();
    assert_eq!(out, "published 1707 events, delivered to 1 subscriber\n");
    sub.wait_for_lines(1707);
    sub.signal(Signal::TERM);
    let out = sub.end().ok();
    let rows: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let keys: std::collections::HashSet<_> = rows.iter().map(|row| row["key"]["text"].to_string()).collect();
    assert_eq!((rows.len(), keys.len()), (1707, 1707));
    let origin = a.run(&["id"]).ok();
    assert!(rows.iter().all(|row| row["origin"] == origin.trim()), "the node signs what its commands publish");
    assert!(rows.iter().all(|row| row["text"].as_str().is_some_and(|text| text.starts_with('{'))));
}

#[test]
fn third_node_joins_while_two_run() {
    let place = Place::new();
    let (a, b, c) = (place.node("a"), place.node("b"), place.node("c"));
    let mut on_a = a.subscribe(&["news"]);
    let ticket = a.ticket();
    b.join(&ticket);
    let mut on_b = b.subscribe(&["news"]);
    b.run(&["pub", "news", "from b"]).ok();
    on_a.wait_for("from b");
    c.join(&ticket);
    // It has linked to a only; a's subscriber and its own are there.
    let mut on_c = c.subscribe(&["news"]);
    c.run(&["pub", "news", "from c"]).ok();
    on_a.wait_for("from c");
    on_c.wait_for("from c");
    a.run(&["pub", "news", "from a"]).ok();
    on_b.wait_for("from a");
    on_c.wait_for("from a");
}

#[test]
fn nodes_find_each_other_in_whichever_order_they_start() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    // The ticket is made while nothing runs: the port is kept for later.
    b.join(&a.ticket());
    let mut on_b = b.subscribe(&["news"]);
    let up = a.up();
    a.run(&["pub", "news", "one", "--linger", "20s"]).ok();
    on_b.wait_for("one");
    // The one who was joined goes and comes back.
    up.signal(Signal::TERM);
    assert_eq!(up.end().code, Some(0));
    let _up = a.up();
    a.run(&["pub", "news", "two", "--linger", "20s"]).ok();
    on_b.wait_for("two");
    // The one who joined goes and comes back.
    on_b.signal(Signal::TERM);
    assert_eq!(on_b.end().code, Some(0));
    let mut on_b = b.subscribe(&["news"]);
    a.run(&["pub", "news", "three", "--linger", "20s"]).ok();
    on_b.wait_for("three");
}

#[test]
fn a_running_node_takes_up_a_ticket() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _a = a.up();
    let ticket = a.ticket();
    b.join(&ticket);
    let _b = b.up();
    let said = b.run(&["join", &ticket]).ok();
    assert!(said.contains("the node that runs here"), "{said}");
    let c = place.node("c");
    let _c = c.start(&["up", "--join", &ticket]).wait_for("is up");
    let doctor = b.run(&["doctor"]);
    assert!(doctor.out.contains("links"), "{doctor:?}");
}

#[test]
fn late_subscriber_gets_what_a_running_node_keeps() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _up = a.up();
    let out = a.run(&["pub", "news", "early"]).ok();
    assert!(out.contains("nobody is subscribed"), "{out}");
    for text in ["1", "2", "3"] {
        a.run(&["pub", "numbers", text]).ok();
    }
    b.join(&a.ticket());
    let early = b.run(&["sub", "news", "--from", "earliest", "--count", "1"]).ok();
    assert!(early.contains("news early"), "{early}");
    let last = b.run(&["sub", "numbers", "--from", "last:2", "--count", "2"]);
    assert!(last.out.contains("numbers 2") && last.out.contains("numbers 3"), "{last:?}");
    let since = b.run(&["sub", "numbers", "--from", "since:1h", "--count", "3"]).ok();
    assert_eq!(since.lines().count(), 3);
    // The cursor that it printed leads on from there.
    let first = b.run(&["sub", "numbers", "--from", "earliest", "--count", "1"]);
    let cursor = first.err.lines().find_map(|line| line.split_once("--from ")).expect("a cursor").1.to_owned();
    let rest = b.run(&["sub", "numbers", "--from", &cursor, "--count", "2"]).ok();
    assert!(rest.contains("numbers 2") && rest.contains("numbers 3"), "{rest}");
}

#[test]
fn resume_goes_on_where_it_stood_also_after_kill_9() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _up = a.up();
    for text in ["1", "2", "3", "4"] {
        a.run(&["pub", "numbers", text]).ok();
    }
    b.join(&a.ticket());
    let args = ["sub", "numbers", "--from", "earliest", "--resume", "mine"];
    let first = b.run(&[&args[..], &["--count", "2"]].concat()).ok();
    assert!(first.contains("numbers 1") && first.contains("numbers 2"), "{first}");
    let mut second = b.start(&args);
    second.wait_for("numbers 3");
    second.wait_for("numbers 4");
    // The position is written soon, not at once: wait until it says that it is past everything.
    let bookmark = b.dir.join("cursor-mine");
    let before = std::fs::read(&bookmark).expect("written by the first");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while std::fs::read(&bookmark).expect("it stays") == before {
        assert!(std::time::Instant::now() < deadline, "the position is not written");
        std::thread::yield_now();
    }
    second.kill();
    // Its node has not noticed yet that the subscriber is gone, and would wait for it.
    a.run(&["pub", "numbers", "5", "--linger", "10ms"]);
    let third = b.run(&[&args[..], &["--count", "1"]].concat()).ok();
    assert!(third.contains("numbers 5"), "{third}");
}

#[test]
fn publisher_that_is_killed_and_restarted_is_heard_again() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let up = a.up();
    b.join(&a.ticket());
    let mut sub = b.subscribe(&["news"]);
    a.run(&["pub", "news", "before", "--linger", "20s"]).ok();
    sub.wait_for("news before");
    up.kill();
    let _up = a.up();
    a.run(&["pub", "news", "after", "--linger", "20s"]).ok();
    sub.wait_for("news after");
}

#[test]
fn subscriber_that_is_killed_and_restarted_hears_again() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _up = a.up();
    b.join(&a.ticket());
    let mut sub = b.subscribe(&["news"]);
    a.run(&["pub", "news", "before", "--linger", "20s"]).ok();
    sub.wait_for("news before");
    sub.kill();
    let mut sub = b.subscribe(&["news"]);
    a.run(&["pub", "news", "after", "--linger", "20s"]).ok();
    sub.wait_for("news after");
}

#[test]
fn commands_that_start_at_the_same_instant_all_succeed() {
    let place = Place::new();
    let node = place.node("a");
    let commands: Vec<Running> = (0..8)
        .map(|i| match i % 4 {
            0 => node.start(&["id"]),
            1 => node.start(&["pub", "news", "hello", "--linger", "100ms"]),
            2 => node.start(&["ticket"]),
            _ => node.start(&["channels"]),
        })
        .collect();
    for command in commands {
        let ended = command.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let ids: Vec<_> = (0..3).map(|_| node.run(&["id"]).ok()).collect();
    assert!(ids.iter().all(|id| id == &ids[0]));
}

#[test]
fn lines_from_the_standard_input_go_as_they_come() {
    let place = Place::new();
    let node = place.node("a");
    let mut sub = node.subscribe(&["log"]);
    let mut publish = node.start_fed(&["pub", "log", "-"]);
    publish.feed("first\n");
    sub.wait_for("log first");
    publish.feed("second\nthird");
    sub.wait_for("log second");
    publish.end_of_input();
    sub.wait_for("log third");
    assert_eq!(publish.end().ok(), "published 3 events, delivered to 1 subscriber\n");
}

#[test]
fn reader_that_goes_ends_the_subscription_quietly() {
    let place = Place::new();
    let node = place.node("a");
    let _up = node.up();
    let mut command = node.command(&["sub", "news"]);
    let mut sub =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("starts");
    drop(sub.stdout.take());
    let mut said = std::io::BufReader::new(sub.stderr.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).expect("it says that it subscribed");
    assert!(line.contains("subscribed"), "{line}");
    node.run(&["pub", "news", "hello"]).ok();
    assert_eq!(sub.wait().expect("it ends").code(), Some(0));
}

#[test]
fn bytes_that_are_no_text_arrive_as_they_are() {
    let place = Place::new();
    let node = place.node("a");
    let sub = node.subscribe(&["raw", "--count", "2", "--json"]);
    let file = place.path().join("raw");
    std::fs::write(&file, b"\xff\x00\x01\nplain\n").expect("written");
    node.run(&["pub", "raw", &format!("@{}", file.display())]).ok();
    let out = sub.end().ok();
    let rows: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows[0]["base64"], "/wAB");
    assert_eq!(rows[1]["text"], "plain");
}

#[test]
fn peers_channels_and_doctor_show_what_is_there() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let _a = a.up();
    a.run(&["pub", "quakes/ak", "hello"]).ok();
    b.join(&a.ticket());
    let mut sub = b.subscribe(&["quakes/*", "--from", "earliest"]);
    sub.wait_for("hello");
    let (id_a, id_b) = (a.run(&["id"]).ok(), b.run(&["id"]).ok());
    let peers = a.run(&["peers"]).ok();
    assert!(peers.contains(id_b.trim()) && peers.contains("linked, RTT"), "{peers}");
    let channels = b.run(&["channels", "quakes/*"]).ok();
    assert!(channels.contains("quakes/ak") && channels.contains(id_a.trim()), "{channels}");
    assert_eq!(b.run(&["channels", "other/*"]).ok(), "");
    let rows = b.run(&["peers", "--json"]).ok();
    let row: serde_json::Value = serde_json::from_str(rows.lines().next().expect("a row")).expect("JSON");
    assert_eq!(row["node"], id_a.trim());
    let doctor = b.run(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    assert!(doctor.out.contains("1 up"), "{doctor:?}");
}

#[test]
fn default_directory_is_private_and_below_the_platforms() {
    let place = Place::new();
    let node = place.node("unused");
    let mut command = node.command(&["id"]);
    command.env_remove("NET_DIR");
    let ended = Running::spawn(command).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let dir = place.path().join("net/default");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&dir).expect("it was made"));
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn completions_and_help_are_there_for_every_command() {
    let place = Place::new();
    let node = place.node("a");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(node.run(&["completions", shell]).ok().contains("doctor"), "{shell}");
    }
    for command in [
        "up",
        "pub",
        "sub",
        "ticket",
        "join",
        "id",
        "peers",
        "channels",
        "doctor",
        "log",
        "bench",
        "demo",
        "completions",
    ] {
        let help = node.run(&[command, "--help"]).ok();
        assert!(help.contains("Examples:") && help.contains(&format!("net {command}")), "{help}");
    }
    assert!(!node.dir.exists(), "help makes nothing");
}
