//! What a broken or hostile program of the same user does to the control socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::{Node, Place};

fn say(node: &Node, line: &[u8]) -> String {
    let mut stream = UnixStream::connect(node.dir.join("control")).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    // The other end may hang up before it has read all: that is an answer too.
    let _ = stream.write_all(line);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn socket_is_for_its_owner_alone() {
    let place = Place::new();
    let node = place.node("a");
    let _up = node.up();
    let metadata = std::fs::metadata(node.dir.join("control")).expect("there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o777, 0o600);
    for entry in std::fs::read_dir(&node.dir).expect("ours") {
        let entry = entry.expect("ours");
        let mode = entry.metadata().expect("there").mode();
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.path());
    }
}

#[test]
fn nonsense_on_the_socket_is_refused_and_the_node_goes_on() {
    let place = Place::new();
    let node = place.node("a");
    let _up = node.up();
    let newer = say(&node, b"{\"version\":3,\"request\":{\"op\":\"ticket\"}}\n");
    assert!(newer.contains("version 2") && newer.contains("refused"), "{newer}");
    let patterns = vec!["\"a\""; 65].join(",");
    let keeps_too_much = format!("{{\"version\":2,\"request\":{{\"op\":\"keep\",\"patterns\":[{patterns}]}}}}\n");
    let nonsense: &[&[u8]] = &[
        keeps_too_much.as_bytes(),
        b"{\"version\":2,\"request\":{\"op\":\"keep\",\"patterns\":[\"a b\"]}}\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"version\":2,\"request\":{\"op\":\"reboot\"}}\n",
        b"{\"version\":2,\"request\":{\"op\":\"subscribe\",\"pattern\":7}}\n",
        b"{\"version\":2,\"request\":{\"op\":\"subscribe\",\"pattern\":\"a//b\",\"start\":\"live\"}}\n",
        b"{\"version\":2,\"request\":{\"op\":\"join\",\"ticket\":\"net1\"}}\n",
        b"{\"version\":2,\"request\":{\"op\":\"publish\"}}\n{\"event\":{\"channel\":\"a//b\",\"payload\":{\"text\":\"x\"}}}\n",
        b"{\"version\":2,\"request\":{\"op\":\"publish\"}}\n{\"event\":{\"channel\":\"a\",\"payload\":{\"base64\":\"!\"}}}\n",
    ];
    for line in nonsense {
        let answer = say(&node, line);
        assert!(answer.contains("refused"), "{:?}: {answer}", String::from_utf8_lossy(line));
    }
    let mut endless = UnixStream::connect(node.dir.join("control")).expect("it listens");
    let chunk = vec![b'a'; 1 << 20];
    // It hangs up before anybody has sent a hundred of these.
    let sent = (0..100).take_while(|_| endless.write_all(&chunk).is_ok()).count();
    assert!(sent < 100, "an endless line is not read for ever");
    let mut sub = node.subscribe(&["a"]);
    node.run(&["pub", "a", "well"]).ok();
    sub.wait_for("a well");
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    let place = Place::new();
    let node = place.node("a");
    let _up = node.up();
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(node.dir.join("control")).expect("it listens")).collect();
    node.run(&["id"]).ok();
    assert!(node.run(&["ticket"]).ok().starts_with("net1"));
    drop(silent);
}

#[test]
fn process_that_holds_the_directory_and_does_not_answer_is_named() {
    let place = Place::new();
    let node = place.node("a");
    node.run(&["id"]).ok();
    let lock = std::fs::OpenOptions::new().write(true).open(node.dir.join("LOCK")).expect("there");
    lock.try_lock().expect("nobody runs");
    let doctor = node.run(&["doctor"]);
    assert!(doctor.code == Some(1) && doctor.out.contains("does not answer"), "{doctor:?}");
    let ended = node.run(&["pub", "a", "x"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("does not answer") && ended.err.contains("kill "), "{ended:?}");
}

#[test]
fn socket_left_behind_by_a_killed_node_is_in_nobodys_way() {
    let place = Place::new();
    let node = place.node("a");
    node.up().kill();
    assert!(node.dir.join("control").exists(), "it was killed, so it cleaned nothing up");
    let mut sub = node.subscribe(&["a"]);
    node.run(&["pub", "a", "x"]).ok();
    sub.wait_for("a x");
}

#[test]
fn secrets_stay_out_of_what_is_printed() {
    let place = Place::new();
    let node = place.node("a");
    let mut command = node.command(&["up"]);
    command.env("NET_LOG", "trace");
    let mut up = crate::harness::Running::spawn(command);
    up.wait_for("is up");
    let ticket = node.ticket();
    node.run(&["pub", "a", "x"]).ok();
    up.signal(rustix::process::Signal::TERM);
    let ended = up.end();
    let mut seed = Vec::new();
    std::fs::File::open(node.dir.join("seed")).and_then(|mut f| f.read_to_end(&mut seed)).expect("there");
    let hex: String = seed.iter().map(|b| format!("{b:02x}")).collect();
    let all = format!("{}{}", ended.out, ended.err);
    assert!(!all.contains(&ticket) && !all.contains(&hex), "a secret was logged");
}
