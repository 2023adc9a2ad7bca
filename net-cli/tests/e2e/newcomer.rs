//! The first hour with `net`: one terminal after another, on one, two and three nodes, in any order, and killed at will.

use std::fs;

use crate::harness::{Node, Place, Running};

const WEEK: &str = include_str!("../../data/usgs-earthquakes-2018-week.jsonl");
/// Quakes of the network `ak` in that week.
const QUAKES: usize = 297;

/// The quakes of one network in a file, one a line, as `@FILE`.
fn file(place: &Place) -> String {
    let path = place.path().join("ak.jsonl");
    let lines: Vec<&str> = WEEK.lines().filter(|line| line.contains(r#""net":"ak""#)).collect();
    assert_eq!(lines.len(), QUAKES);
    fs::write(&path, lines.join("\n")).expect("written");
    format!("@{}", path.display())
}

/// Three nodes that know the first one's ticket. Nothing runs yet.
fn three(place: &Place) -> [Node; 3] {
    let nodes = ["a", "b", "c"].map(|name| place.node(name));
    let ticket = nodes[0].ticket();
    nodes[1..].iter().for_each(|node| node.join(&ticket));
    nodes
}

fn listen(node: &Node) -> Running {
    node.subscribe(&["quakes/**"])
}

/// Each node publishes a line, and every subscriber prints all of them.
fn all_hear_all(nodes: &[Node; 3], subs: &mut [Running; 3], round: &str) {
    for (from, node) in nodes.iter().enumerate() {
        let text = format!("{round} from {from}");
        node.run(&["pub", "quakes/ak", &text, "--linger", "20s"]).ok();
        subs.iter_mut().for_each(|sub| drop(sub.wait_for_anywhere(&text)));
    }
}

#[test]
fn file_that_is_published_in_one_terminal_is_printed_in_another() {
    let place = Place::new();
    let node = place.node("a");
    let mut sub = listen(&node);
    let out = node.run(&["pub", "quakes/ak", &file(&place)]).ok();
    assert_eq!(out, "published 297 events, delivered to 1 subscriber\n");
    sub.wait_for_lines(QUAKES);
}

/// Starts the subscribers of three nodes in this order; then the first publishes the file, and later each a line.
fn started_in_order(order: [usize; 3]) {
    let place = Place::new();
    let nodes = three(&place);
    let mut subs: [Option<Running>; 3] = [None, None, None];
    for n in order {
        subs[n] = Some(listen(&nodes[n]));
    }
    let mut subs = subs.map(|sub| sub.expect("each was started"));
    let out = nodes[0].run(&["pub", "quakes/ak", &file(&place), "--linger", "20s"]).ok();
    assert!(out.starts_with("published 297 events, delivered to "), "{out}");
    subs.iter_mut().for_each(|sub| sub.wait_for_lines(QUAKES));
    all_hear_all(&nodes, &mut subs, "one");
    for sub in subs {
        let lines = sub.terminated().lines().count();
        assert_eq!(lines, QUAKES + 3, "{order:?}: each event once");
    }
}

#[test]
fn three_nodes_started_in_the_order_a_b_c() {
    started_in_order([0, 1, 2]);
}

#[test]
fn three_nodes_started_in_the_order_a_c_b() {
    started_in_order([0, 2, 1]);
}

#[test]
fn three_nodes_started_in_the_order_b_a_c() {
    started_in_order([1, 0, 2]);
}

#[test]
fn three_nodes_started_in_the_order_b_c_a() {
    started_in_order([1, 2, 0]);
}

#[test]
fn three_nodes_started_in_the_order_c_a_b() {
    started_in_order([2, 0, 1]);
}

#[test]
fn three_nodes_started_in_the_order_c_b_a() {
    started_in_order([2, 1, 0]);
}

#[test]
fn third_node_joins_while_a_file_is_on_its_way_and_gets_all_of_it() {
    let place = Place::new();
    let (a, b, c) = (place.node("a"), place.node("b"), place.node("c"));
    let mut on_a = listen(&a);
    let ticket = a.ticket();
    b.join(&ticket);
    let mut on_b = listen(&b);
    // It is still being published when the third one comes.
    let publish = a.start(&["pub", "quakes/ak", &file(&place), "--rate", "100", "--linger", "20s"]);
    on_a.wait_for_lines(10);
    on_b.wait_for_lines(10);
    c.join(&ticket);
    let mut on_c = c.subscribe(&["quakes/**", "--from", "earliest"]);
    publish.end().ok();
    for sub in [&mut on_a, &mut on_b, &mut on_c] {
        sub.wait_for_lines(QUAKES);
    }
    for sub in [on_a, on_b, on_c] {
        assert_eq!(sub.terminated().lines().count(), QUAKES, "each event once");
    }
}

/// Kills one of three nodes with `kill -9` and starts it again: all hear all, before and after.
fn killed_and_restarted(victim: usize) {
    let place = Place::new();
    let nodes = three(&place);
    let mut subs = [0, 1, 2].map(|n| listen(&nodes[n]));
    all_hear_all(&nodes, &mut subs, "before");
    let again = |node: &Node, old: &mut Running| {
        old.kill_now();
        *old = listen(node);
    };
    again(&nodes[victim], &mut subs[victim]);
    all_hear_all(&nodes, &mut subs, "after");
    again(&nodes[victim], &mut subs[victim]);
    all_hear_all(&nodes, &mut subs, "again");
}

#[test]
fn first_node_is_killed_and_restarted_and_all_hear_all() {
    killed_and_restarted(0);
}

#[test]
fn second_node_is_killed_and_restarted_and_all_hear_all() {
    killed_and_restarted(1);
}

#[test]
fn third_node_is_killed_and_restarted_and_all_hear_all() {
    killed_and_restarted(2);
}

#[test]
fn all_three_are_killed_and_restarted_in_another_order() {
    let place = Place::new();
    let nodes = three(&place);
    let mut subs = [0, 1, 2].map(|n| listen(&nodes[n]));
    all_hear_all(&nodes, &mut subs, "before");
    subs.iter_mut().for_each(Running::kill_now);
    for n in [2, 0, 1] {
        subs[n] = listen(&nodes[n]);
    }
    all_hear_all(&nodes, &mut subs, "after");
}
