//! Delivery in the simulated mesh: by hand for each rule, then with everything at once for many seeds.

use std::time::Duration;

use net_channel::{Cursor, From};

use crate::oracle::{Seen, check_complete};
use crate::world::{Faults, World};

const SECOND: Duration = Duration::from_secs(1);

fn events(seen: &[Seen]) -> usize {
    seen.iter().filter(|item| matches!(item, Seen::Event(..))).count()
}

#[test]
fn a_live_subscriber_gets_every_event_once_and_in_order() {
    let mut w = World::new(1, 2);
    let pair = w.open(0, "a/b");
    w.subscribe(1, 1, "a/*", From::Live);
    w.run_for(SECOND);
    for i in 0..100u32 {
        w.publish(0, "a/b", &[&i.to_le_bytes(), b"second"]);
        w.run_for(Duration::from_millis(1));
    }
    w.run_for(SECOND);
    check_complete(&w.ledger.events[&pair], &w.seen(1, 1, &pair)).unwrap();
    assert_eq!(events(&w.seen(1, 1, &pair)), 200);
    assert_eq!(w.counters(1).fetches, 0, "nothing was lost, so nothing is fetched");
    assert_eq!(w.received(0, "a/b"), (1, 1));
}

#[test]
fn a_late_subscriber_gets_history_and_then_live_without_seam() {
    let mut w = World::new(2, 2);
    let pair = w.open(0, "c");
    for i in 0..50u32 {
        w.publish(0, "c", &[&i.to_le_bytes()]);
    }
    w.subscribe(1, 1, "c", From::Earliest);
    for i in 50..100u32 {
        w.publish(0, "c", &[&i.to_le_bytes()]);
        w.run_for(Duration::from_micros(300));
    }
    w.run_for(SECOND);
    check_complete(&w.ledger.events[&pair], &w.seen(1, 1, &pair)).unwrap();
}

#[test]
fn last_n_begins_n_events_before_the_end_also_within_a_batch() {
    let mut w = World::new(3, 2);
    let pair = w.open(0, "c");
    for _ in 0..10 {
        w.publish(0, "c", &[b"a", b"b", b"c", b"d"]);
    }
    w.subscribe(1, 1, "c", From::Last(6));
    w.run_for(SECOND);
    let seqs: Vec<u64> = w.ledger.events[&pair].keys().copied().collect();
    let seen: Vec<u64> = w
        .seen(1, 1, &pair)
        .iter()
        .filter_map(|s| if let Seen::Event(seq, _) = s { Some(*seq) } else { None })
        .collect();
    assert_eq!(seen, seqs[34..]);
}

#[test]
fn a_live_subscription_does_not_get_what_was_published_before_it() {
    let mut w = World::new(4, 2);
    let pair = w.open(0, "c");
    w.publish(0, "c", &[b"old"]);
    w.run_for(SECOND);
    w.subscribe(1, 1, "c", From::Live);
    w.publish(0, "c", &[b"new"]);
    w.run_for(SECOND);
    let seen = w.seen(1, 1, &pair);
    assert_eq!(seen.len(), 1, "what was published after subscribing counts, also before the join was through");
    assert!(matches!(&seen[0], Seen::Event(_, payload) if payload == b"new"));
}

#[test]
fn a_producer_that_appears_later_is_read_from_its_first_event() {
    let mut w = World::new(5, 3);
    w.subscribe(2, 1, "x/**", From::Live);
    w.run_for(SECOND * 5);
    let a = w.open(0, "x/1");
    w.publish(0, "x/1", &[b"first"]);
    let b = w.open(1, "x/2");
    w.publish(1, "x/2", &[b"first", b"second"]);
    w.run_for(SECOND);
    for pair in [a, b] {
        check_complete(&w.ledger.events[&pair], &w.seen(2, 1, &pair)).unwrap();
    }
}

#[test]
fn lost_frames_are_fetched_and_come_in_order() {
    let mut w = World::new(6, 2);
    let pair = w.open(0, "c");
    w.subscribe(1, 1, "c", From::Live);
    w.run_for(SECOND);
    w.faults = Faults { loss: 30, reorder: 30, duplicate: 10 };
    for i in 0..300u32 {
        w.publish(0, "c", &[&i.to_le_bytes()]);
        w.run_for(Duration::from_millis(1));
    }
    w.faults = Faults::default();
    w.publish(0, "c", &[b"last"]);
    w.run_for(SECOND * 3);
    check_complete(&w.ledger.events[&pair], &w.seen(1, 1, &pair)).unwrap();
    assert!(w.totals.dropped > 20 && w.counters(1).fetches > 0 && w.totals.gaps == 0);
}

#[test]
fn events_that_left_the_cache_are_named_in_a_gap() {
    let mut w = World::new(7, 2);
    let pair = w.open(0, "c");
    w.subscribe(1, 1, "c", From::Live);
    w.publish(0, "c", &[b"seen"]);
    w.run_for(SECOND);
    w.cut(0, 1);
    let big = [0; 1_000];
    for _ in 0..200 {
        w.publish(0, "c", &[&big]);
    }
    w.heal();
    w.run_for(SECOND * 5);
    let seen = w.seen(1, 1, &pair);
    check_complete(&w.ledger.events[&pair], &seen).unwrap();
    assert_eq!(w.totals.gaps, 1, "{:?}", seen.iter().filter(|s| !matches!(s, Seen::Event(..))).collect::<Vec<_>>());
    assert!(events(&seen) > 30, "what the cache still has is delivered");
}

#[test]
fn a_restarted_producer_is_told_and_never_reuses_a_seq() {
    let mut w = World::new(8, 2);
    let pair = w.open(0, "c");
    w.subscribe(1, 1, "c", From::Live);
    w.run_for(SECOND);
    w.publish(0, "c", &[b"a", b"b"]);
    w.run_for(SECOND);
    w.crash(0);
    w.run_for(SECOND);
    w.restart(0);
    w.open(0, "c");
    w.publish(0, "c", &[b"c"]);
    w.run_for(SECOND * 5);
    let seen = w.seen(1, 1, &pair);
    check_complete(&w.ledger.events[&pair], &seen).unwrap();
    assert_eq!(events(&seen), 3);
    assert_eq!(w.totals.restarts, 1);
}

#[test]
fn a_clock_that_was_set_back_reuses_no_seq() {
    let mut w = World::new(17, 2);
    w.stopped_clock = Some(1_000_000_000);
    let pair = w.open(0, "c");
    w.subscribe(1, 1, "c", From::Live);
    w.run_for(SECOND);
    w.publish(0, "c", &[b"a", b"b"]);
    w.crash(0);
    w.restart(0);
    w.open(0, "c");
    // The ledger refuses a seq that was used before.
    w.publish(0, "c", &[b"c"]);
    w.run_for(SECOND * 5);
    assert_eq!(w.ledger.events[&pair].len(), 3);
    check_complete(&w.ledger.events[&pair], &w.seen(1, 1, &pair)).unwrap();
}

#[test]
fn a_cursor_of_an_earlier_process_hears_of_the_restart_between() {
    let mut w = World::new(9, 2);
    let pair = w.open(0, "c");
    w.publish(0, "c", &[b"a", b"b"]);
    let next = *w.ledger.events[&pair].keys().last().unwrap() + 1;
    w.crash(0);
    w.restart(0);
    w.open(0, "c");
    w.publish(0, "c", &[b"c"]);
    let mut cursor = Cursor::default();
    cursor.set(pair, next);
    w.subscribe(1, 1, "c", From::Cursor(cursor));
    w.run_for(SECOND * 5);
    let seen = w.seen(1, 1, &pair);
    assert!(
        matches!(seen[..], [Seen::Restart { last_seen, .. }, Seen::Event(..)] if last_seen == next - 1),
        "{seen:?}"
    );
}

#[test]
fn a_slow_application_loses_nothing_and_holds_up_nobody() {
    let mut w = World::new(10, 3);
    let pair = w.open(0, "c");
    w.subscribe(1, 1, "c", From::Live);
    w.subscribe(2, 1, "c", From::Live);
    w.run_for(SECOND);
    w.sleep(1, 1, true);
    for i in 0..200u32 {
        w.publish(0, "c", &[&i.to_le_bytes()]);
        w.run_for(Duration::from_millis(1));
    }
    w.run_for(SECOND);
    assert_eq!(events(&w.seen(2, 1, &pair)), 200);
    assert_eq!(events(&w.seen(1, 1, &pair)), 0);
    w.sleep(1, 1, false);
    w.run_for(SECOND * 2);
    check_complete(&w.ledger.events[&pair], &w.seen(1, 1, &pair)).unwrap();
}

#[test]
fn two_subscriptions_of_one_node_are_served_apart() {
    let mut w = World::new(11, 2);
    let pair = w.open(0, "c");
    for i in 0..20u32 {
        w.publish(0, "c", &[&i.to_le_bytes()]);
    }
    w.run_for(SECOND);
    w.subscribe(1, 1, "c", From::Live);
    w.subscribe(1, 2, "**", From::Earliest);
    w.run_for(SECOND);
    w.publish(0, "c", &[b"new"]);
    w.run_for(SECOND);
    assert_eq!(events(&w.seen(1, 1, &pair)), 1);
    assert_eq!(events(&w.seen(1, 2, &pair)), 21);
}

#[test]
fn a_node_that_subscribes_to_itself_gets_its_own_events() {
    let mut w = World::new(12, 1);
    let pair = w.open(0, "c");
    w.subscribe(0, 1, "c", From::Live);
    w.run_for(SECOND);
    w.publish(0, "c", &[b"mine"]);
    w.run_for(SECOND);
    assert_eq!(events(&w.seen(0, 1, &pair)), 1);
}
