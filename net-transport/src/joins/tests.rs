use super::*;

type Out = Vec<Output<u8>>;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn pair(n: u8) -> Pair {
    Pair { channel: [n; 32], origin: [n; 32] }
}

struct World {
    joins: Joins<u8>,
    counters: Counters,
}

impl World {
    fn new() -> Self {
        Self { joins: Joins::new(node(0), 3), counters: Counters::default() }
    }

    fn run(&mut self, f: impl FnOnce(&mut Joins<u8>, &Counters, &mut Out)) -> Out {
        let mut out = Vec::new();
        f(&mut self.joins, &self.counters, &mut out);
        out
    }

    fn linked(mut self, n: u8) -> Self {
        self.run(|j, _, out| j.handle_link_up(node(n), n, out));
        self
    }
}

fn joiners(n: u8, takers: usize) -> Output<u8> {
    Output::Event(Event::Joiners { pair: pair(n), takers })
}

#[test]
fn join_of_a_served_pair_is_answered_with_the_path() {
    let mut w = World::new().linked(1);
    w.run(|j, _, out| j.serve(pair(7), out));
    let out = w.run(|j, c, out| j.handle_join(&node(1), pair(7), c, out));
    let path = vec![node(0).short()];
    assert_eq!(out, [Output::Send(1, JoinMessage::Joined(pair(7), path)), joiners(7, 1)]);
    assert_eq!(w.joins.served(&pair(7)).map(|s| s.takers.len()), Some(1));
}

#[test]
fn join_of_anything_else_is_refused_and_counted() {
    let mut w = World::new().linked(1);
    let out = w.run(|j, c, out| j.handle_join(&node(1), pair(7), c, out));
    assert_eq!(out, [Output::Send(1, JoinMessage::Unjoined(pair(7), UnjoinReason::NotServed))]);
    assert_eq!(w.counters.joins_refused.value(), 1);
}

#[test]
fn joins_of_one_neighbour_are_bounded() {
    let mut w = World::new().linked(1).linked(2);
    for n in 0..5 {
        w.run(|j, _, out| j.serve(pair(n), out));
    }
    for n in 0..3 {
        w.run(|j, c, out| j.handle_join(&node(1), pair(n), c, out));
    }
    let out = w.run(|j, c, out| j.handle_join(&node(1), pair(3), c, out));
    assert_eq!(out, [Output::Send(1, JoinMessage::Unjoined(pair(3), UnjoinReason::TooMany))]);
    // One that is there may be said again, and another neighbour has its own bound.
    let again = w.run(|j, c, out| j.handle_join(&node(1), pair(2), c, out));
    assert!(matches!(again[0], Output::Send(1, JoinMessage::Joined(..))));
    let other = w.run(|j, c, out| j.handle_join(&node(2), pair(3), c, out));
    assert!(matches!(other[0], Output::Send(2, JoinMessage::Joined(..))));
}

#[test]
fn join_from_its_own_upstream_is_refused() {
    let mut w = World::new().linked(1);
    w.run(|j, _, out| j.serve(pair(7), out));
    w.run(|j, c, out| j.join(pair(7), node(1), c, out));
    let out = w.run(|j, c, out| j.handle_join(&node(1), pair(7), c, out));
    assert_eq!(out, [Output::Send(1, JoinMessage::Unjoined(pair(7), UnjoinReason::Loop))]);
}

#[test]
fn join_waits_for_the_link_and_is_said_again_on_each() {
    let mut w = World::new();
    assert_eq!(w.run(|j, c, out| j.join(pair(7), node(1), c, out)), []);
    for link in [1, 11] {
        let out = w.run(|j, _, out| j.handle_link_up(node(1), link, out));
        assert_eq!(out, [Output::Send(link, JoinMessage::Join(pair(7))), Output::Send(link, JoinMessage::Synced)]);
    }
}

#[test]
fn join_is_live_with_joined_once_and_ends_with_the_link() {
    let mut w = World::new().linked(1);
    w.run(|j, c, out| j.join(pair(7), node(1), c, out));
    let joined = |w: &mut World| w.run(|j, _, out| j.handle_joined(&node(1), pair(7), &[node(1).short()], out));
    assert_eq!(joined(&mut w), [Output::Event(Event::Joined { pair: pair(7), node: node(1) })]);
    assert_eq!(joined(&mut w), []);
    let out = w.run(|j, _, out| j.handle_link_down(&node(1), out));
    let reason = UnjoinReason::LinkDown;
    assert_eq!(out, [Output::Event(Event::Unjoined { pair: pair(7), node: node(1), reason })]);
}

#[test]
fn path_with_this_node_in_it_is_refused() {
    let mut w = World::new().linked(1);
    w.run(|j, c, out| j.join(pair(7), node(1), c, out));
    let path = [node(9).short(), node(0).short(), node(1).short()];
    let out = w.run(|j, _, out| j.handle_joined(&node(1), pair(7), &path, out));
    let reason = UnjoinReason::Loop;
    assert_eq!(
        out,
        [
            Output::Send(1, JoinMessage::Unjoin(pair(7))),
            Output::Event(Event::Unjoined { pair: pair(7), node: node(1), reason })
        ]
    );
    assert_eq!(w.joins.solicited(&node(1), &pair(7).prefix()), Solicited::No);
}

#[test]
fn only_the_upstream_of_a_joined_pair_may_send_its_frames() {
    let mut w = World::new().linked(1).linked(2);
    let prefix = pair(7).prefix();
    assert_eq!(w.joins.solicited(&node(1), &prefix), Solicited::No);
    w.run(|j, c, out| j.join(pair(7), node(1), c, out));
    assert_eq!(w.joins.solicited(&node(1), &prefix), Solicited::Yes);
    assert_eq!(w.joins.solicited(&node(2), &prefix), Solicited::WrongUpstream);
    w.run(|j, c, out| j.join(pair(7), node(2), c, out));
    assert_eq!(w.joins.solicited(&node(1), &prefix), Solicited::WrongUpstream);
    w.run(|j, _, out| j.unjoin(&pair(7), out));
    assert_eq!(w.joins.solicited(&node(2), &prefix), Solicited::No);
}

#[test]
fn answers_of_others_than_the_upstream_are_ignored() {
    let mut w = World::new().linked(1).linked(2);
    w.run(|j, c, out| j.join(pair(7), node(1), c, out));
    assert_eq!(w.run(|j, _, out| j.handle_joined(&node(2), pair(7), &[node(2).short()], out)), []);
    assert_eq!(w.run(|j, _, out| j.handle_unjoined(&node(2), pair(7), UnjoinReason::NotServed, out)), []);
}

#[test]
fn clashing_prefixes_share_a_bucket_of_four() {
    let mut w = World::new().linked(1);
    // Same first 8 bytes of the channel, same origin, other channels.
    let clash = |n: u8| {
        let mut channel = [7; 32];
        channel[31] = n;
        Pair { channel, origin: [7; 32] }
    };
    for n in 0..5 {
        w.run(|j, c, out| j.join(clash(n), node(1), c, out));
    }
    assert_eq!(w.counters.joins_bucket_overflow.value(), 1);
    for n in 0..4 {
        w.run(|j, _, out| j.unjoin(&clash(n), out));
        assert_eq!(w.joins.solicited(&node(1), &clash(0).prefix()), Solicited::Yes);
    }
    w.run(|j, _, out| j.unjoin(&clash(4), out));
    assert_eq!(w.joins.solicited(&node(1), &clash(0).prefix()), Solicited::No);
    assert!(w.joins.by_prefix.is_empty());
}

#[test]
fn own_pair_is_joined_without_a_link_in_either_order() {
    let mut w = World::new();
    assert_eq!(w.run(|j, c, out| j.join(pair(7), node(0), c, out)), []);
    let joined = || Output::Event(Event::Joined { pair: pair(7), node: node(0) });
    assert_eq!(w.run(|j, _, out| j.serve(pair(7), out)), [joined(), joiners(7, 1)]);
    let out = w.run(|j, _, out| j.unserve(&pair(7), out));
    let reason = UnjoinReason::NotServed;
    assert_eq!(out[0], Output::Event(Event::Unjoined { pair: pair(7), node: node(0), reason }));
    assert_eq!(w.run(|j, _, out| j.serve(pair(7), out)), [joined(), joiners(7, 1)]);
    assert_eq!(w.run(|j, _, out| j.unjoin(&pair(7), out)), [joiners(7, 0)]);
}

#[test]
fn unserve_tells_all_takers() {
    let mut w = World::new().linked(1).linked(2);
    w.run(|j, _, out| j.serve(pair(7), out));
    for n in [1, 2] {
        w.run(|j, c, out| j.handle_join(&node(n), pair(7), c, out));
    }
    let out = w.run(|j, _, out| j.unserve(&pair(7), out));
    let unjoined = |n| Output::Send(n, JoinMessage::Unjoined(pair(7), UnjoinReason::NotServed));
    assert_eq!(out, [unjoined(1), unjoined(2), Output::RoomChanged]);
    assert_eq!(w.run(|j, _, out| j.handle_unjoin(&node(1), &pair(7), out)), []);
}

#[test]
fn new_connection_keeps_takers_until_synced_and_drops_those_not_said_again() {
    let mut w = World::new().linked(1);
    for n in [7, 8] {
        w.run(|j, _, out| j.serve(pair(n), out));
        w.run(|j, c, out| j.handle_join(&node(1), pair(n), c, out));
    }
    w.run(|j, _, out| j.handle_link_up(node(1), 11, out));
    assert_eq!(w.joins.served(&pair(8)).map(|s| s.takers[0].link), Some(11));
    w.run(|j, c, out| j.handle_join(&node(1), pair(7), c, out));
    let out = w.run(|j, _, out| j.handle_synced(&node(1), out));
    assert_eq!(out, [joiners(8, 0), Output::RoomChanged]);
    assert_eq!(w.joins.served(&pair(7)).map(|s| s.takers.len()), Some(1));
}

#[test]
fn full_is_told_once_and_again_on_a_new_connection() {
    let mut w = World::new().linked(1);
    w.run(|j, c, out| j.join(pair(7), node(1), c, out));
    assert_eq!(w.run(|j, _, out| j.set_full(&pair(7), true, out)), [Output::Send(1, JoinMessage::Full(pair(7)))]);
    assert_eq!(w.run(|j, _, out| j.set_full(&pair(7), true, out)), []);
    let out = w.run(|j, _, out| j.handle_link_up(node(1), 11, out));
    assert!(out.contains(&Output::Send(11, JoinMessage::Full(pair(7)))));
    let out = w.run(|j, _, out| j.set_full(&pair(7), false, out));
    assert_eq!(out, [Output::Send(11, JoinMessage::Room(pair(7)))]);
}

#[test]
fn full_of_a_neighbour_marks_its_taker_only() {
    let mut w = World::new().linked(1).linked(2);
    w.run(|j, _, out| j.serve(pair(7), out));
    for n in [1, 2] {
        w.run(|j, c, out| j.handle_join(&node(n), pair(7), c, out));
    }
    w.run(|j, _, out| j.handle_full(&node(2), &pair(7), true, out));
    let full = |w: &World| w.joins.served(&pair(7)).map(|s| s.takers.iter().map(|t| t.full).collect::<Vec<_>>());
    assert_eq!(full(&w), Some(vec![false, true]));
    // Joining again starts afresh.
    w.run(|j, c, out| j.handle_join(&node(2), pair(7), c, out));
    assert_eq!(full(&w), Some(vec![false, false]));
}

#[test]
fn refused_join_is_made_again_by_join_and_by_a_new_connection() {
    let mut w = World::new().linked(1);
    w.run(|j, c, out| j.join(pair(7), node(1), c, out));
    let refuse =
        |w: &mut World| w.run(|j, _, out| j.handle_unjoined(&node(1), pair(7), UnjoinReason::NotServed, out)).len();
    assert_eq!((refuse(&mut w), refuse(&mut w)), (1, 0));
    let join = Output::Send(1, JoinMessage::Join(pair(7)));
    assert_eq!(w.run(|j, c, out| j.join(pair(7), node(1), c, out)), [join]);
    assert_eq!(w.run(|j, c, out| j.join(pair(7), node(1), c, out)), []);
    assert_eq!(refuse(&mut w), 1);
    let out = w.run(|j, _, out| j.handle_link_up(node(1), 11, out));
    assert_eq!(out[0], Output::Send(11, JoinMessage::Join(pair(7))));
}
