//! One directory, one node: whoever is left goes on.

use std::collections::HashSet;

use rustix::process::Signal;

use crate::harness::{Node, Place, Running};

/// Two nodes: `a` with a node process and an attached subscriber, `b` which publishes.
fn attached(place: &Place) -> (Node, Running, Running, Node, Running) {
    let (a, b) = (place.node("a"), place.node("b"));
    let up_b = b.up();
    a.join(&b.ticket());
    let up_a = a.up();
    let sub = a.subscribe(&["numbers"]);
    (a, up_a, sub, b, up_b)
}

fn numbers(sub: Running) -> Vec<u32> {
    sub.signal(Signal::TERM);
    let out = sub.end().ok();
    out.lines().map(|line| line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")).collect()
}

fn publish(node: &Node, range: std::ops::Range<u32>) {
    let mut publish = node.start_fed(&["pub", "numbers", "-", "--linger", "20s"]);
    range.for_each(|n| publish.feed(&format!("{n}\n")));
    publish.end_of_input();
    publish.end().ok();
}

fn takes_over(signal: Signal) {
    let place = Place::new();
    let (_a, up_a, mut sub, b, _up_b) = attached(&place);
    publish(&b, 0..100);
    sub.wait_for("numbers 99");
    up_a.signal(signal);
    sub.wait_for_err("going on without it");
    // Published while nobody is linked, or somebody is again: both must arrive.
    publish(&b, 100..200);
    sub.wait_for("numbers 199");
    assert_eq!(numbers(sub), (0..200).collect::<Vec<_>>(), "each once, in order");
}

#[test]
fn attached_subscriber_goes_on_without_loss_or_duplicate_after_kill_9() {
    takes_over(Signal::KILL);
}

#[test]
fn attached_subscriber_goes_on_without_loss_or_duplicate_after_sigterm() {
    takes_over(Signal::TERM);
}

#[test]
fn live_subscriber_that_takes_over_is_not_given_what_was_before_it() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let up_b = b.up();
    b.run(&["pub", "numbers", "1"]).ok();
    a.join(&b.ticket());
    let up_a = a.up();
    let mut sub = a.subscribe(&["numbers"]);
    up_a.kill();
    sub.wait_for_err("going on without it");
    b.run(&["pub", "numbers", "2", "--linger", "20s"]).ok();
    sub.wait_for("numbers 2");
    assert_eq!(numbers(sub), [2]);
    drop(up_b);
}

#[test]
fn attached_publisher_sends_again_what_was_not_confirmed() {
    let place = Place::new();
    let (a, b) = (place.node("a"), place.node("b"));
    let up = a.up();
    b.join(&a.ticket());
    let mut sub = b.subscribe(&["numbers"]);
    let mut publish = a.start_fed(&["pub", "numbers", "-", "--linger", "50s"]);
    (0..100).for_each(|n| publish.feed(&format!("{n}\n")));
    sub.wait_for("numbers 99");
    up.kill();
    (100..200).for_each(|n| publish.feed(&format!("{n}\n")));
    publish.end_of_input();
    let ended = publish.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    sub.wait_for("numbers 199");
    let seen = numbers(sub);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 200, "nothing is lost");
}

#[test]
fn up_stands_by_and_takes_over() {
    let place = Place::new();
    let node = place.node("a");
    let first = node.up();
    let mut second = node.start(&["up"]);
    second.wait_for("standing by");
    let mut sub = node.subscribe(&["news"]);
    first.kill();
    // Either of the two may become the node now; the other attaches to it.
    second.wait_for_err("taking over");
    let took_over = second.wait_for("node").contains("is up");
    sub.wait_for_err("going on without it");
    node.run(&["pub", "news", "hello"]).ok();
    sub.wait_for("news hello");
    second.signal(Signal::TERM);
    assert_eq!(second.end().code, Some(0));
    if took_over {
        sub.wait_for_err("going on without it");
    }
    // Of the node, the subscriber is left.
    node.run(&["pub", "news", "again"]).ok();
    sub.wait_for("news again");
}

#[test]
fn node_keeps_its_identity_and_port_over_kill_9() {
    let place = Place::new();
    let node = place.node("a");
    let id = node.run(&["id"]).ok();
    let up = node.up();
    let ticket = node.ticket();
    up.kill();
    let _up = node.up();
    assert_eq!(node.run(&["id"]).ok(), id);
    assert_eq!(node.ticket(), ticket, "same mesh, same key, same address");
}
