use super::*;
use crate::Seed;

const MESH: MeshId = MeshId([5; 32]);
const UNIX_MS: u64 = 1_700_000_000_000;

/// A directory with its surroundings: the clock, the counters and what came out.
struct World {
    directory: Directory,
    start: Instant,
    now: Instant,
    counters: Counters,
    out: Vec<Output>,
}

fn keys(n: u8) -> NodeKeys {
    NodeKeys::from_seed(&Seed::new([n; 32]))
}

fn id(n: u8) -> NodeId {
    keys(n).id()
}

fn record(n: u8, boot: u8, seq: u64) -> Bytes {
    let keys = keys(n);
    let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 9000 + u16::from(n)))];
    NodeRecord { binding: *keys.binding(), boot: [boot; 8], seq, addresses, subnet: [0; 4] }.sign(&keys, &MESH)
}

fn advert(node: u8, key: u8, seq: u64) -> (AdvertId, Vec<u8>) {
    (AdvertId { node: id(node), key: [key; 32], seq }, format!("{node} {key} {seq}").into_bytes())
}

impl World {
    fn new(limits: Limits) -> Self {
        let now = Instant::now() + Duration::from_secs(1000);
        let directory = Directory::new(now, UNIX_MS, keys(0), MESH, [9; 8], [0; 4], limits);
        Self { directory, start: now, now, counters: Counters::default(), out: Vec::new() }
    }

    fn linked(nodes: &[u8]) -> Self {
        let mut world = Self::new(Limits::default());
        for n in nodes {
            world.directory.handle_link_up(id(*n), &mut world.out);
            world.record(*n, 0, &record(*n, 1, 1));
            world.sent(*n);
        }
        nodes.iter().for_each(|n| drop(world.sent(*n)));
        world.out.clear();
        world
    }

    fn record(&mut self, from: u8, age_ms: u32, bytes: &[u8]) {
        let Ok(unverified) = UnverifiedRecord::parse(bytes) else { return self.counters.records_dropped_invalid.one() };
        let Some(news) = self.directory.is_news(&id(from), age_ms, &unverified, &self.counters) else { return };
        match unverified.verify(&MESH, news.known.as_ref()) {
            Ok(record) => self.verified(from, age_ms, record, bytes),
            Err(_) => self.counters.records_dropped_invalid.one(),
        }
    }

    fn verified(&mut self, from: u8, age_ms: u32, record: NodeRecord, bytes: &[u8]) {
        let record = (record, Bytes::copy_from_slice(bytes));
        self.directory.handle_record(self.now, &id(from), age_ms, record, &self.counters, &mut self.out);
    }

    fn advert(&mut self, from: u8, (advert, bytes): &(AdvertId, Vec<u8>)) {
        self.directory.handle_advert(&id(from), advert, bytes, &self.counters, &mut self.out);
    }

    fn sent(&mut self, to: u8) -> Vec<Item> {
        std::iter::from_fn(|| self.directory.poll_send(&id(to), self.now)).collect()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        let unix_ms = UNIX_MS + u64::try_from((self.now - self.start).as_millis()).expect("a test is short");
        self.directory.handle_timeout(self.now, unix_ms, &mut self.out);
    }

    fn knows(&self, n: u8) -> bool {
        self.directory.nodes.contains_key(&id(n))
    }
}

#[test]
fn neighbours_are_introduced_to_each_other() {
    let mut w = World::new(Limits::default());
    w.directory.handle_link_up(id(1), &mut w.out);
    w.record(1, 0, &record(1, 1, 1));
    w.advert(1, &advert(1, 7, 1));
    w.sent(1);
    w.directory.handle_link_up(id(2), &mut w.out);
    let sent = w.sent(2);
    assert_eq!(sent.len(), 3, "own record, the record of 1 and its advert: {sent:?}");
    assert!(matches!(&sent[2], Item::Advert(bytes) if bytes == "1 7 1"));
    w.record(2, 0, &record(2, 1, 1));
    assert!(matches!(&w.sent(1)[..], [Item::Record { record: bytes, .. }] if *bytes == record(2, 1, 1)));
    // A change goes to the others, and not back to where it came from.
    w.advert(2, &advert(2, 8, 1));
    assert!(matches!(&w.sent(1)[..], [Item::Advert(bytes)] if bytes == "2 8 1"));
    assert_eq!(w.sent(2), []);
}

#[test]
fn node_that_is_no_neighbour_is_reported_and_not_passed_on() {
    let mut w = World::linked(&[1, 2]);
    w.record(1, 0, &record(3, 1, 1));
    w.advert(1, &advert(3, 7, 1));
    assert!(matches!(&w.out[0], Output::Introduced(peer) if peer.node() == id(3)));
    assert!(matches!(&w.out[1], Output::Event(Event::Advert { node, .. }) if *node == id(3)));
    assert_eq!(w.sent(2), []);
    // Once it is a neighbour, it is.
    w.directory.handle_link_up(id(3), &mut w.out);
    assert_eq!(w.sent(2).len(), 2);
}

#[test]
fn own_record_is_refreshed_with_rising_seq() {
    let mut w = World::linked(&[1]);
    let mut last = 0;
    for _ in 0..5 {
        w.wait(RECORD_REFRESH);
        let sent = w.sent(1);
        let [Item::Record { age_ms, record: bytes }] = &sent[..] else { panic!("one record a refresh: {sent:?}") };
        let seq = UnverifiedRecord::parse(bytes).expect("our own").seq();
        assert!(seq > last && *age_ms < 20_000);
        last = seq;
        w.record(1, 0, &record(1, 1, seq));
        w.out.clear();
    }
    // A wall clock that jumps back does not take the seq with it.
    w.now += RECORD_REFRESH;
    w.directory.handle_timeout(w.now, 5, &mut w.out);
    let sent = w.sent(1);
    let Some(Item::Record { record, .. }) = sent.first() else { panic!("a refresh: {sent:?}") };
    assert_eq!(UnverifiedRecord::parse(record).expect("our own").seq(), last + 1);
}

#[test]
fn record_runs_out_and_takes_its_adverts_with_it() {
    let mut w = World::linked(&[1]);
    w.record(1, 0, &record(3, 1, 1));
    w.advert(1, &advert(3, 7, 1));
    w.out.clear();
    w.wait(RECORD_AGE_MAX - Duration::from_millis(1));
    assert!(w.knows(3));
    w.wait(Duration::from_millis(1));
    assert!(!w.knows(3));
    assert!(w.out.contains(&Output::Event(Event::AdvertsGone { node: id(3) })));
    assert!(w.out.contains(&Output::Gone(id(3))));
    w.advert(1, &advert(3, 7, 2));
    assert_eq!(w.counters.adverts_dropped_unknown_node.value(), 1);
}

#[test]
fn nothing_returns_from_the_dead() {
    let mut w = World::linked(&[1, 2]);
    let old = record(3, 1, 10);
    w.record(1, 0, &old);
    w.wait(RECORD_AGE_MAX);
    // A hostile neighbour says that it is fresh.
    w.record(2, 0, &old);
    w.record(2, 0, &record(3, 1, 9));
    assert!(!w.knows(3));
    assert_eq!(w.counters.records_dropped_stale.value(), 2);
    w.record(2, 0, &record(3, 1, 11));
    assert!(w.knows(3));
    // After an hour without news it is forgotten.
    w.wait(SEQ_REMEMBERED);
    assert!(w.directory.remembered.is_empty() && w.directory.forget.is_empty());
}

#[test]
fn stale_record_is_not_taken_and_age_grows_on_the_way() {
    let mut w = World::linked(&[1, 2]);
    w.record(1, 60_000, &record(3, 1, 1));
    assert!(!w.knows(3));
    w.record(1, 40_000, &record(1, 1, 2));
    w.wait(Duration::from_secs(5));
    let sent = w.sent(2);
    assert!(matches!(&sent[..], [Item::Record { age_ms: 45_001, .. }]), "{sent:?}");
    w.directory.links.get_mut(&id(2)).expect("linked").records.insert(id(1));
    w.now += Duration::from_secs(15);
    assert_eq!(w.sent(2), [], "it is too old to be sent");
}

#[test]
fn forged_records_are_refused() {
    let mut w = World::linked(&[1]);
    let mut bad = record(3, 1, 1).to_vec();
    *bad.last_mut().expect("not empty") ^= 1;
    w.record(1, 0, &bad);
    w.record(1, 0, &[]);
    w.record(1, 0, &[0; 5000]);
    assert!(!w.knows(3));
    assert_eq!(w.counters.records_dropped_invalid.value(), 3);
    // A forged one leaves no trace that would keep the true one out.
    w.record(1, 0, &record(3, 1, 1));
    assert!(w.knows(3));
}

#[test]
fn record_of_this_node_is_never_taken() {
    let mut w = World::linked(&[1]);
    w.record(1, 0, &record(0, 1, u64::MAX));
    assert!(w.out.is_empty() && !w.knows(0));
}

#[test]
fn records_of_very_many_nodes_are_bounded_for_each_neighbour_and_in_all() {
    let mut w = World::new(Limits { nodes: 400, ..Limits::default() });
    for n in 1..=5 {
        w.directory.handle_link_up(id(n), &mut w.out);
        w.record(n, 0, &record(n, 1, 1));
    }
    let stranger = |n: u32| {
        let mut seed = [0xee; 32];
        seed[..4].copy_from_slice(&n.to_le_bytes());
        let keys = NodeKeys::from_seed(&Seed::new(seed));
        let binding = *keys.binding();
        NodeRecord { binding, boot: [0; 8], seq: 1, addresses: Vec::new(), subnet: [0; 4] }.sign(&keys, &MESH)
    };
    for n in 0..200 {
        w.record(1, 0, &stranger(n));
    }
    // Its own record counts as one that it brought.
    assert_eq!(w.directory.nodes.len(), 100 + 4);
    assert_eq!(w.counters.records_dropped_limit.value(), 200 - 99);
    for n in 200..700 {
        w.record(2 + u8::try_from(n % 4).expect("small"), 0, &stranger(n));
    }
    assert_eq!(w.directory.nodes.len(), 400);
    // A neighbour's own record always finds a place.
    w.directory.handle_link_up(id(6), &mut w.out);
    w.record(6, 0, &record(6, 1, 1));
    assert!(w.knows(6));
    // A link that goes and comes back gives no new share.
    w.directory.handle_link_down(&id(1));
    w.directory.handle_link_up(id(1), &mut w.out);
    assert_eq!(w.directory.brought[&id(1)].nodes, 100);
    // And all is given back when it runs out: those of neighbours after they have gone.
    w.wait(RECORD_AGE_MAX);
    assert_eq!((w.directory.nodes.len(), w.directory.brought.len()), (6, 6));
    (1..=6).for_each(|n| w.directory.handle_link_down(&id(n)));
    w.wait(Duration::ZERO);
    assert!(w.directory.nodes.is_empty() && w.directory.brought.is_empty());
}

#[test]
fn restarted_node_loses_its_adverts_at_once() {
    let mut w = World::linked(&[1]);
    w.advert(1, &advert(1, 7, 5));
    w.out.clear();
    w.record(1, 0, &record(1, 2, 2));
    assert_eq!(w.out[0], Output::Event(Event::AdvertsGone { node: id(1) }));
    // Its new self begins where it likes.
    w.advert(1, &advert(1, 7, 1));
    assert_eq!(w.counters.adverts_taken.value(), 2);
}

#[test]
fn older_and_equal_adverts_are_dropped_and_newer_replace() {
    let mut w = World::linked(&[1, 2]);
    w.advert(1, &advert(1, 7, 5));
    w.advert(2, &advert(1, 7, 5));
    w.advert(2, &advert(1, 7, 4));
    assert_eq!(w.counters.adverts_dropped_stale.value(), 2);
    assert!(w.directory.holds_advert(&advert(1, 7, 5).1));
    w.advert(1, &advert(1, 7, 6));
    assert!(!w.directory.holds_advert(&advert(1, 7, 5).1));
    assert_eq!(w.directory.adverts, 1);
}

#[test]
fn adverts_are_bounded_for_each_node_and_in_all() {
    let mut w = World::new(Limits { adverts_per_node: 3, adverts: 12, ..Limits::default() });
    for n in 1..=5 {
        w.directory.handle_link_up(id(n), &mut w.out);
        w.record(n, 0, &record(n, 1, 1));
        for key in 0..5 {
            w.advert(n, &advert(n, key, 1));
        }
    }
    assert_eq!(w.directory.adverts, 12);
    assert_eq!(w.counters.adverts_dropped_limit.value(), 4 * 2 + 5);
    // One that is there can still be replaced.
    w.advert(1, &advert(1, 0, 2));
    assert_eq!(w.counters.adverts_taken.value(), 13);
    let too_long = (advert(1, 9, 1).0, vec![0; ADVERT_LEN_MAX + 1]);
    w.advert(1, &too_long);
    assert_eq!(w.counters.adverts_dropped_invalid.value(), 1);
}

#[test]
fn own_adverts_go_to_all_neighbours_and_to_new_ones() {
    let mut w = World::linked(&[1]);
    w.directory.advertise([1; 32], Bytes::from_static(b"a"), &mut w.out).expect("small");
    w.directory.advertise([1; 32], Bytes::from_static(b"b"), &mut w.out).expect("small");
    assert_eq!(w.sent(1), [Item::Advert(Bytes::from_static(b"b"))]);
    w.directory.handle_link_up(id(2), &mut w.out);
    assert!(w.sent(2).contains(&Item::Advert(Bytes::from_static(b"b"))));
    let too_long = w.directory.advertise([2; 32], vec![0; ADVERT_LEN_MAX + 1].into(), &mut w.out);
    assert_eq!(too_long, Err(AdvertError::TooLong(ADVERT_LEN_MAX + 1)));
}

#[test]
fn link_that_is_gone_is_passed_on_no_more() {
    let mut w = World::linked(&[1, 2]);
    w.advert(1, &advert(1, 7, 1));
    w.directory.handle_link_down(&id(1));
    assert_eq!(w.sent(2), []);
    w.directory.handle_left(&id(1), [1; 8], &mut w.out);
    assert!(w.out.contains(&Output::Event(Event::AdvertsGone { node: id(1) })));
}

#[test]
fn new_addresses_are_told_at_once() {
    let mut w = World::linked(&[1]);
    let address = SocketAddr::from(([10, 0, 0, 1], 5));
    w.directory.set_addresses(w.now, UNIX_MS, vec![address], &mut w.out);
    let sent = w.sent(1);
    let Some(Item::Record { record, .. }) = sent.first() else { panic!("a record: {sent:?}") };
    let record = UnverifiedRecord::parse(record).expect("our own").verify(&MESH, None).expect("our own");
    assert_eq!(record.addresses, [address]);
    w.directory.set_addresses(w.now, UNIX_MS, vec![address], &mut w.out);
    assert_eq!(w.sent(1), []);
}

#[test]
fn timeout_is_the_next_thing_that_happens() {
    let mut w = World::linked(&[1]);
    assert_eq!(w.directory.poll_timeout(), w.now + RECORD_REFRESH);
    w.record(1, 55_000, &record(3, 1, 1));
    assert_eq!(w.directory.poll_timeout(), w.now + Duration::from_secs(5));
}

#[test]
fn neighbour_that_floods_adverts_leaves_room_for_those_of_others() {
    let mut w = World::new(Limits { adverts_per_node: 8, adverts: 40, ..Limits::default() });
    for n in [1, 2] {
        w.directory.handle_link_up(id(n), &mut w.out);
        w.record(n, 0, &record(n, 1, 1));
    }
    // Nodes that it made up, each with as many adverts as a node may have.
    for made_up in 10..30 {
        w.record(1, 0, &record(made_up, 1, 1));
        for key in 0..8 {
            w.advert(1, &advert(made_up, key, 1));
        }
    }
    assert_eq!(w.directory.adverts, 10, "a quarter of all");
    for key in 0..8 {
        w.advert(2, &advert(2, key, 1));
    }
    assert_eq!(w.directory.adverts, 18);
    assert_eq!(w.directory.brought[&id(2)].adverts, 8);
    // A restarted node gives its part back.
    w.record(2, 0, &record(2, 2, 2));
    assert_eq!((w.directory.adverts, w.directory.brought[&id(2)].adverts), (10, 0));
    // Nor does one that the flooding neighbour spoke of first depend on it.
    w.directory.handle_link_up(id(10), &mut w.out);
    w.record(10, 0, &record(10, 1, 2));
    let ten = w.directory.nodes[&id(10)].adverts.len();
    assert_eq!((w.directory.brought[&id(10)].adverts, w.directory.brought[&id(1)].adverts), (ten, 10 - ten));
    w.advert(10, &advert(10, 0, 2));
    w.advert(10, &advert(10, 8, 1));
    assert_eq!(w.directory.nodes[&id(10)].adverts.len(), 8);
}

#[test]
fn record_that_was_overtaken_while_its_signature_was_checked_is_stale() {
    let mut w = World::linked(&[1, 2]);
    let (old, new) = (record(3, 1, 5), record(3, 1, 6));
    let verified = |bytes: &Bytes| UnverifiedRecord::parse(bytes).and_then(|r| r.verify(&MESH, None)).expect("genuine");
    let slow = UnverifiedRecord::parse(&old).expect("well formed");
    assert!(w.directory.is_news(&id(1), 0, &slow, &w.counters).is_some());
    w.verified(2, 0, verified(&new), &new);
    w.out.clear();
    w.verified(1, 0, verified(&old), &old);
    assert!(w.out.is_empty());
    assert_eq!(w.directory.nodes[&id(3)].record.seq, 6);
    // Nor is it taken from a neighbour that has gone meanwhile.
    w.directory.handle_link_down(&id(1));
    let newer = record(3, 1, 7);
    w.verified(1, 0, verified(&newer), &newer);
    assert_eq!(w.directory.nodes[&id(3)].record.seq, 6);
}

#[test]
fn goodbye_of_an_earlier_life_leaves_the_record_of_the_next() {
    let mut w = World::linked(&[1, 2]);
    w.record(2, 0, &record(1, 2, 2));
    w.directory.handle_link_down(&id(1));
    w.directory.handle_left(&id(1), [1; 8], &mut w.out);
    assert!(w.knows(1));
    w.directory.handle_link_up(id(1), &mut w.out);
    w.record(1, 0, &record(1, 2, 2));
    w.advert(1, &advert(1, 7, 2));
    assert_eq!(w.counters.snapshot().adverts_dropped_unknown_node, 0);
    w.directory.handle_left(&id(1), [2; 8], &mut w.out);
    assert!(!w.knows(1));
}

#[test]
fn what_an_earlier_life_advertised_ends_with_it_also_if_it_came_after_the_record_of_the_next() {
    let mut w = World::linked(&[1, 2]);
    w.record(2, 0, &record(1, 2, 2));
    w.advert(1, &advert(1, 7, 1));
    w.out.clear();
    w.directory.handle_link_down(&id(1));
    w.directory.handle_restart(id(1), &mut w.out);
    assert!(matches!(&w.out[..], [Output::Event(Event::AdvertsGone { node })] if *node == id(1)), "{:?}", w.out);
    w.sent(2);
    w.directory.handle_link_up(id(1), &mut w.out);
    assert!(!w.sent(2).iter().any(|item| matches!(item, Item::Advert(_))), "told nobody of what holds no more");
}

#[test]
fn record_of_a_neighbour_does_not_run_out_while_it_is_one() {
    let mut w = World::linked(&[1, 2]);
    w.advert(1, &advert(1, 7, 1));
    w.wait(RECORD_AGE_MAX * 2);
    assert!(w.knows(1), "its adverts would not be said again");
    assert!(w.directory.poll_timeout() > w.now, "and no timer waits for it");
    w.directory.handle_link_down(&id(1));
    w.wait(Duration::ZERO);
    assert!(!w.knows(1) && w.knows(2));
}
