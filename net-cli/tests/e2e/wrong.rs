//! What people get wrong: the exit code, what is said, and what to try next.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Node, Place, check};

#[test]
fn commands_that_are_typed_wrongly() {
    let place = Place::new();
    let node = place.node("a");
    // Arguments, what is said, what to try. All of these end with 2 and leave nothing behind.
    let wrong: &[(&[&str], &str, &str)] = &[
        (&[], "Usage: net", "net demo"),
        (&["frobnicate"], "unrecognized subcommand", "--help"),
        (&["subb", "x"], "unrecognized subcommand", "sub"),
        (&["pub"], "<CHANNEL>", "--help"),
        (&["pub", "two words", "x"], "is no channel", "net pub quakes/ak"),
        (&["pub", "a//b", "x"], "is no channel", "net pub quakes/ak"),
        (&["pub", "", "x"], "is no channel", "net pub quakes/ak"),
        (&["pub", "a/../b", "x"], "is no channel", "net pub quakes/ak"),
        (&["pub", "/a", "x"], "is no channel", "net pub quakes/ak"),
        (&["pub", "quakes/*", "x"], "is no channel", "net pub quakes/ak"),
        (&["pub", "a", "x", "--rate", "0"], "invalid value '0'", "--help"),
        (&["pub", "a", "x", "--linger", "soon"], "invalid value 'soon'", "--help"),
        (&["pub", "a", "x", "--frequency", "9"], "unexpected argument", "--help"),
        (&["sub"], "<PATTERN>", "--help"),
        (&["sub", "a//b"], "is no pattern", "net sub 'quakes/*'"),
        (&["sub", "a b"], "is no pattern", "net sub 'quakes/*'"),
        (&["sub", "a", "b", "c"], "unexpected argument", "--help"),
        (&["sub", "a", "--from", "yesterday"], "earliest, live, last:N", "last:10"),
        (&["sub", "a", "--from", "last:0"], "no number of events", "last:10"),
        (&["sub", "a", "--from", "since:soon"], "no time", "15m"),
        (&["sub", "a", "--from", "cursor:xyz"], "not a cursor", "net-cursor1"),
        (&["sub", "a", "--count", "0"], "invalid value '0'", "--help"),
        (&["sub", "a", "--count", "many"], "invalid value 'many'", "--help"),
        (&["sub", "a", "--resume", "../x"], "no name for a position", "--resume billing"),
        (&["sub", "a", "--filter", "mag >"], "mag >\n       ^", "net sub --help"),
        (&["sub", "a", "--filter", "near(place)"], "near(place)\n  ^^^^", "mag > 4"),
        (&["join"], "<TICKET>", "--help"),
        (&["join", "hello"], "begins with \"net1\"", "net ticket"),
        (&["join", "net1!!!"], "character", "net ticket"),
        (&["join", "net1abcdefgh"], "copy it again", "net ticket"),
        (&["up", "--join", "hello"], "begins with \"net1\"", "net ticket"),
        (&["up", "--listen", "nowhere"], "invalid value 'nowhere'", "--help"),
        (&["--dir", "", "up"], "a value is required for '--dir", "--help"),
        (&["channels", "a//b"], "is no pattern", "net sub"),
        (&["completions"], "<SHELL>", "--help"),
        (&["completions", "tcsh"], "invalid value 'tcsh'", "bash"),
        (&["up", "--keep", "a b"], "`a b` is no pattern", "quakes/*"),
        (&["demo", "--sabotage", "nicely"], "invalid value 'nicely'", "forge"),
        (&["demo-role"], "part of `net demo`", "net demo"),
        (&["bench"], "requires a subcommand", "pub, latency, log"),
        (&["bench", "rpc"], "unrecognized subcommand", "--help"),
        (&["bench-subscriber"], "part of `net bench`", "net bench pub"),
        (&["bench", "pub", "--size", "0"], "events of 0 bytes cannot be measured", "--size 1KiB"),
        (&["bench", "pub", "--size", "2MiB"], "16 B to 1 MiB", "--size 1KiB"),
        (&["bench", "pub", "--size", "64,large"], "`large` is no size", "--size 1KiB"),
        (&["bench", "pub", "--secs", "0"], "`0` is no time to measure", "--secs 2"),
        (&["bench", "pub", "--rounds", "0"], "0 is not in 1..=100", "--help"),
        (&["bench", "pub", "--subscribers", "0"], "0 is not in 1..=32", "--help"),
        (&["bench", "latency", "--rate", "0"], "0 is not in 1..=1000000", "--help"),
        (&["bench", "latency", "--size", "15"], "events of 15 bytes cannot be measured", "--size 1KiB"),
        (&["bench", "log", "--secs", "forever"], "`forever` is no time to measure", "--secs 2"),
    ];
    for (args, says, next) in wrong {
        check(&node.run(args), 2, says, next);
    }
    assert!(!node.dir.exists(), "a command that is not understood makes nothing");
}

#[test]
fn input_that_cannot_be_published() {
    let place = Place::new();
    let node = place.node("a");
    let large = place.path().join("large");
    std::fs::write(&large, vec![b'x'; (1 << 20) + 1]).expect("written");
    let large = format!("@{}", large.display());
    let wrong: &[(&[&str], &str, &str)] = &[
        (&["pub", "a", "@/nonexistent/file"], "cannot read /nonexistent/file", "net pub CHANNEL @FILE"),
        (&["pub", "a", "@/"], "line 1 cannot be read", "net pub CHANNEL @FILE"),
        (&["pub", "a", "no json", "--key-field", "id"], "line 1 is no JSON", "without --key-field"),
        (&["pub", "a", "no json", "--channel-field", "id"], "line 1 is no JSON", "without --key-field"),
        (&["pub", "a", r#"{"net":"x"}"#, "--channel-field", "nett"], "no field `nett`", "it has net"),
        (&["pub", "a", "[]", "--key-field", "id"], "no field `id`", "it has no fields"),
        (&["pub", "a", r#"{"net":"a b"}"#, "--channel-field", "net"], "line 1: `a/a b` is no channel", "net pub"),
        (&["pub", "a", r#"{"k":{}}"#, "--key-field", "k"], "neither text nor a number", "another field"),
        (&["pub", "a", &large], "more than 1048576 bytes", "divide it"),
    ];
    for (args, says, next) in wrong {
        check(&node.run(&[*args, &["--linger", "10ms"][..]].concat()), 1, says, next);
    }
}

#[test]
fn what_was_read_before_the_bad_line_is_published_and_counted() {
    let place = Place::new();
    let node = place.node("a");
    let mut sub = node.subscribe(&["a"]);
    let file = place.path().join("lines");
    std::fs::write(&file, "{\"id\":1}\n{\"id\":2}\nnonsense\n{\"id\":4}\n").expect("written");
    let ended = node.run(&["pub", "a", &format!("@{}", file.display()), "--key-field", "id"]);
    check(&ended, 1, "line 3 is no JSON", "without --key-field");
    assert!(ended.err.contains("2 events were published before"), "{ended:?}");
    sub.wait_for("{\"id\":1}");
    sub.wait_for("{\"id\":2}");
}

/// A node that has been used, so that all its files are there.
fn used(place: &Place) -> Node {
    let node = place.node("a");
    node.run(&["pub", "a", "x"]).ok();
    node
}

#[test]
fn directory_that_others_may_enter() {
    let place = Place::new();
    let node = used(&place);
    std::fs::set_permissions(&node.dir, Permissions::from_mode(0o755)).expect("ours");
    let chmod = format!("chmod 700 {}", node.dir.display());
    for args in [&["up"][..], &["sub", "a"], &["pub", "a", "x"], &["id"], &["ticket"], &["peers"]] {
        check(&node.run(args), 1, "mode 0755", &chmod);
    }
    let doctor = node.run(&["doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    assert!(doctor.out.contains("BAD") && doctor.out.contains(&chmod), "{doctor:?}");
    // What it says helps.
    std::fs::set_permissions(&node.dir, Permissions::from_mode(0o700)).expect("ours");
    node.run(&["id"]).ok();
}

#[test]
fn secrets_that_others_may_read() {
    for name in ["seed", "mesh", "peers"] {
        let place = Place::new();
        let (node, other) = (used(&place), place.node("b"));
        node.join(&node.ticket());
        assert!(!other.dir.exists());
        let file = node.dir.join(name);
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("ours");
        check(&node.run(&["up"]), 1, "mode 0644", &format!("chmod 600 {}", file.display()));
        let doctor = node.run(&["doctor"]);
        assert!(doctor.code == Some(1) && doctor.out.contains("chmod 600"), "{doctor:?}");
    }
}

#[test]
fn damaged_files_are_named() {
    for name in ["seed", "mesh", "peers"] {
        let place = Place::new();
        let node = used(&place);
        node.join(&node.ticket());
        let file = node.dir.join(name);
        let mut bytes = std::fs::read(&file).expect("there");
        bytes.truncate(bytes.len() - 1);
        std::fs::write(&file, &bytes).expect("ours");
        check(&node.run(&["pub", "a", "x"]), 1, &format!("{} is damaged", file.display()), "mv ");
    }
}

#[test]
fn directory_that_is_none_or_too_long_for_a_socket() {
    let place = Place::new();
    let file = place.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let node = place.node("file");
    check(&node.run(&["up"]), 1, "is not a directory", "--dir DIRECTORY");
    let long = place.node(&"x".repeat(120));
    check(&long.run(&["sub", "a"]), 1, "this system allows", "shorter directory");
    let unwritable = place.node("no/such/place");
    std::fs::write(place.path().join("no"), "x").expect("written");
    check(&unwritable.run(&["up"]), 1, "cannot", "net doctor");
}

#[test]
fn ticket_of_another_mesh() {
    let place = Place::new();
    let (a, b) = (used(&place), place.node("b"));
    b.run(&["pub", "a", "x"]).ok();
    let (ticket_a, ticket_b) = (a.ticket(), b.ticket());
    check(&a.run(&["join", &ticket_b]), 1, "another mesh", "join --replace TICKET");
    check(&a.run(&["up", "--join", &ticket_b]), 1, "another mesh", "join --replace TICKET");
    let up = a.up();
    check(&a.run(&["join", &ticket_b]), 1, "another mesh", "stop process");
    check(&a.run(&["join", "--replace", &ticket_b]), 1, "another mesh", "stop process");
    drop(up);
    // A running node is not replaced; one that has stopped is, if it is asked for.
    let said = a.run(&["join", "--replace", &ticket_b]).ok();
    assert!(said.contains("left the old mesh"), "{said}");
    check(&a.run(&["join", &ticket_a]), 1, "another mesh", "--replace");
    let again = a.run(&["join", &ticket_b]).ok();
    assert!(again.contains("a member already"), "{again}");
    let mut sub = b.subscribe(&["a"]);
    a.run(&["pub", "a", "in the new mesh", "--linger", "20s"]).ok();
    sub.wait_for("in the new mesh");
}

#[test]
fn ticket_from_a_file_that_is_not_there_and_ticket_that_lost_a_letter() {
    let place = Place::new();
    let (a, b) = (used(&place), place.node("b"));
    check(&b.run(&["join", "@/nonexistent"]), 1, "cannot read /nonexistent", "net ticket > FILE");
    let ticket = a.ticket();
    check(&b.run(&["join", &ticket[..ticket.len() - 1]]), 2, "copy it again", "net ticket");
    let mut changed = ticket.clone();
    let last = if changed.pop() == Some('a') { 'b' } else { 'a' };
    changed.push(last);
    check(&b.run(&["join", &changed]), 2, "copy it again", "net ticket");
    // A terminal may have broken it into lines; it is read all the same.
    let broken = format!("  {}\n{}\n", &ticket[..40], &ticket[40..]);
    let file = place.path().join("ticket");
    std::fs::write(&file, broken).expect("written");
    b.join(&format!("@{}", file.display()));
}

#[test]
fn two_subscribers_of_one_bookmark() {
    let place = Place::new();
    let node = place.node("a");
    let first = node.subscribe(&["a", "--resume", "mine"]);
    check(&node.run(&["sub", "a", "--resume", "mine"]), 1, "another `net sub --resume mine`", "another name");
    drop(first);
    std::fs::write(node.dir.join("cursor-bad"), "nonsense").expect("ours");
    std::fs::set_permissions(node.dir.join("cursor-bad"), Permissions::from_mode(0o600)).expect("ours");
    check(&node.run(&["sub", "a", "--resume", "bad"]), 1, "is damaged", "rm ");
}

#[test]
fn address_that_is_not_ours() {
    let place = Place::new();
    let node = place.node("a");
    // 203.0.113.0/24 is for documentation (RFC 5737): no machine has it.
    check(&node.run(&["up", "--listen", "203.0.113.7:4711"]), 1, "203.0.113.7:4711", "--listen 0.0.0.0:0");
}

#[test]
fn programs_get_errors_they_can_read() {
    let place = Place::new();
    let node = place.node("a");
    let ended = node.run(&["--json", "pub", "a//b", "x"]);
    assert_eq!(ended.code, Some(2));
    let error: serde_json::Value = serde_json::from_str(&ended.err).expect("JSON");
    assert!(error["error"].as_str().is_some_and(|e| e.contains("is no channel")), "{error}");
    assert!(error["next"].as_str().is_some_and(|n| n.contains("net pub")), "{error}");
}

#[test]
fn port_of_last_time_that_is_taken_is_noted_and_lived_with() {
    let place = Place::new();
    let node = used(&place);
    let port: u16 = std::fs::read_to_string(node.dir.join("port")).expect("there").trim().parse().expect("a port");
    let _taken = std::net::UdpSocket::bind(("127.0.0.1", port)).expect("free now");
    let mut up = node.up();
    up.wait_for_err(&format!("port {port} of last time is taken"));
}
