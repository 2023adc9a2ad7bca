//! The delivery buffer by hand: its bounds, and waits that must have an end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use net_channel::core::{Delivery, DeliveryBuffer, GAP_AFTER, Held, Limits};
use net_channel::{BatchHash, ChannelHash, ChannelName, Class, EventBatch, Order, Parent, SenderKey, SeqRange, Source};
use net_identity::EntityId;
use net_transport::{MeshId, NodeKeys, Pair, Seed};

use crate::world::Craft;

const MESH: MeshId = MeshId([7; 32]);

fn name() -> ChannelName {
    ChannelName::parse("c").expect("a name")
}

fn craft(origin: u8, seq: u64, incarnation: u64) -> Craft {
    Craft {
        mesh: MESH,
        channel: name().hash(&MESH),
        signer: NodeKeys::from_seed(&Seed::new([origin; 32])),
        key: SenderKey::new([1; 32]),
        seq,
        incarnation,
        prev: BatchHash::ZERO,
        parents: vec![],
        realtime: false,
        salt: [0; 16],
        unix_ms: 1,
    }
}

fn origin(origin: u8) -> EntityId {
    EntityId::from_bytes(*craft(origin, 1, 1).signer.id().as_bytes())
}

fn source(number: u8) -> Arc<Source> {
    let ChannelHash(channel) = name().hash(&MESH);
    let origin = origin(number);
    Arc::new(Source { channel: name(), origin, entity: origin, pair: Pair { channel, origin: *origin.as_bytes() } })
}

fn open(craft: &Craft, payload: &[u8]) -> Held {
    let batch = craft.seal(&[payload]);
    let entity = batch.seal().origin();
    Held::Open(EventBatch::new(name(), entity, batch.open(&craft.key).expect("it opens")))
}

fn locked(craft: &Craft, payload: &[u8]) -> Held {
    Held::Locked(Box::new(craft.seal(&[payload]).into_parts().0))
}

fn parent(number: u8, seq: u64) -> Parent {
    Parent { origin: origin(number).short(), seq, hash: [0; 8] }
}

/// Everything that can be delivered now: seqs of events.
fn events(buffer: &mut DeliveryBuffer, now: Instant) -> Vec<u64> {
    let mut seqs = vec![];
    while let Some(delivery) = buffer.next(now) {
        if let Delivery::Batch { batch, .. } = delivery {
            seqs.extend(batch.events().map(|event| event.seq()));
        }
    }
    seqs
}

#[test]
fn what_is_delivered_late_is_bounded_while_nobody_takes_it() {
    let (now, limits) = (Instant::now(), Limits { held_bytes_max: 10_000, ..Limits::default() });
    let mut buffer = DeliveryBuffer::new(now, Order::Causal, limits.clone());
    let line = buffer.add(now, source(1), Class::Reliable, Some(100));
    // A restart names all that lies between the incarnations.
    buffer.handle_covered(line, 1_000_000);
    buffer.offer(now, line, open(&craft(1, 1_000_000, 1_000_000), b"a new life"));
    assert_eq!(events(&mut buffer, now), [1_000_000]);
    let payload = [0; 1_000];
    for seq in 100..200 {
        buffer.offer(now, line, open(&craft(1, seq, 100), &payload));
    }
    let mut bytes = 0;
    while let Some(delivery) = buffer.next(now) {
        bytes += delivery.cost();
    }
    assert!(bytes > 5_000 && bytes < limits.held_bytes_max + 2_000, "{bytes} bytes");
    // What was refused may still come.
    buffer.offer(now, line, open(&craft(1, 199, 100), &payload));
    assert_eq!(events(&mut buffer, now), [199]);
}

#[test]
fn a_channel_is_bounded_also_when_its_largest_origin_has_nothing_to_give_up() {
    let now = Instant::now();
    let limits = Limits { channel_bytes_max: 50_000, ..Limits::default() };
    let mut buffer = DeliveryBuffer::new(now, Order::Causal, limits.clone());
    let first = buffer.add(now, source(1), Class::Reliable, Some(5));
    buffer.offer(now, first, locked(&craft(1, 5, 5), &[0; 40_000]));
    for number in 2..40 {
        // Origins that never say where to begin.
        let line = buffer.add(now, source(number), Class::Reliable, None);
        buffer.offer(now, line, open(&craft(number, 9, 9), &[0; 5_000]));
    }
    assert!(buffer.held().1 <= limits.channel_bytes_max, "{:?}", buffer.held());
}

#[test]
fn batches_beyond_the_bound_in_number_are_given_up_by_who_holds_most_of_them() {
    let now = Instant::now();
    let limits = Limits { channel_batches_max: 20, ..Limits::default() };
    let mut buffer = DeliveryBuffer::new(now, Order::Causal, limits);
    let honest = buffer.add(now, source(1), Class::Reliable, Some(5));
    buffer.offer(now, honest, open(&craft(1, 7, 5), &[0; 20_000]));
    let many = buffer.add(now, source(2), Class::Reliable, Some(5));
    for seq in 0..40 {
        buffer.offer(now, many, open(&craft(2, 10 + 2 * seq, 5), b"tiny"));
    }
    assert_eq!((buffer.held().0, buffer.is_behind(honest), buffer.is_behind(many)), (20, false, true));
}

#[test]
fn nobody_waits_for_a_wait_that_is_over() {
    let now = Instant::now();
    let mut buffer = DeliveryBuffer::new(now, Order::Causal, Limits::default());
    let [liar, silent, honest] = [1, 2, 3].map(|n| buffer.add(now, source(n), Class::Reliable, Some(5)));
    // The liar's next event waits for one of an origin that says nothing.
    let waiting = Craft { parents: vec![parent(2, 6)], ..craft(1, 5, 5) };
    buffer.offer(now, liar, open(&waiting, b"waits"));
    buffer.offer(now, silent, open(&craft(2, 7, 5), b"beyond a hole"));
    assert!(events(&mut buffer, now).is_empty());
    // It is found out, and goes on in another incarnation, of which an honest one has heard.
    let proof = {
        let seals = [waiting.seal(&[b"waits"]), waiting.seal(&[b"is another"])];
        net_channel::Equivocation::between(&MESH, seals[0].seal(), seals[1].seal()).unwrap()
    };
    buffer.handle_equivocation(liar, Arc::new(proof));
    buffer.handle_exists(liar, 1_000, 900);
    buffer.offer(now, honest, open(&Craft { parents: vec![parent(1, 950)], ..craft(3, 5, 5) }, b"honest"));
    events(&mut buffer, now);
    let later = now + GAP_AFTER + Duration::from_millis(10);
    buffer.handle_timeout(later);
    assert!(events(&mut buffer, later).contains(&5), "five seconds are enough");
}

#[test]
fn what_a_source_gave_and_there_was_no_room_for_is_asked_for_again() {
    let now = Instant::now();
    let mut buffer = DeliveryBuffer::new(now, Order::Causal, Limits::default());
    let line = buffer.add(now, source(1), Class::Reliable, Some(1));
    buffer.handle_exists(line, 10, 1);
    buffer.handle_asked(line);
    buffer.handle_no_room(line, 5);
    buffer.handle_covered(line, 10);
    assert_eq!(buffer.missing(line), [SeqRange { from: 5, to: 10 }]);
    assert!(buffer.is_behind(line));
}

/// Four origins and one that is gone: `b` waits for the one that is gone, `a` and `d` for `b`, and what `b` says next for `a`,
/// which waits for `d`. In whatever order they are looked at, only what is gone is named.
#[test]
fn a_wait_that_has_just_ended_is_no_part_of_a_circle() {
    let now = Instant::now();
    // Causes are looked at in the order of their origins' short ids: `a` waits for `b` before it waits for `d`.
    let mut numbers = [1, 2, 3, 4];
    numbers.sort_by_key(|n| origin(*n).short());
    let [gone, a, b, d] = numbers;
    let with = |number, seq, parents| Craft { parents, ..craft(number, seq, 5) };
    let chained = |prev: &Craft, craft: Craft| Craft { prev: prev.seal(&[b"event"]).hash(), ..craft };
    let first = with(b, 5, vec![parent(gone, 5)]);
    let second = chained(&first, with(b, 6, vec![parent(a, 5)]));
    let batches = [with(a, 5, vec![parent(b, 5), parent(d, 5)]), first, second, with(d, 5, vec![parent(b, 5)])];
    for turn in 0..24 {
        let mut numbers = vec![gone, a, b, d];
        let mut rest = turn;
        let order: Vec<u8> = (1..=4)
            .rev()
            .map(|n| {
                let at = rest % n;
                rest /= n;
                numbers.remove(at)
            })
            .collect();
        let mut buffer = DeliveryBuffer::new(now, Order::Causal, Limits::default());
        let lines: std::collections::BTreeMap<u8, _> =
            order.iter().map(|n| (*n, buffer.add(now, source(*n), Class::Reliable, Some(5)))).collect();
        buffer.handle_exists(lines[&gone], 6, 5);
        for number in &order {
            for craft in
                batches.iter().filter(|craft| EntityId::from_bytes(*craft.signer.id().as_bytes()) == origin(*number))
            {
                buffer.offer(now, lines[number], open(craft, b"event"));
            }
        }
        assert!(events(&mut buffer, now).is_empty());
        let (mut seen, mut gaps) = (0, vec![]);
        for ms in 0..100 {
            let later = now + GAP_AFTER + Duration::from_millis(ms);
            buffer.handle_timeout(later);
            while let Some(delivery) = buffer.next(later) {
                match delivery {
                    Delivery::Batch { .. } => seen += 1,
                    Delivery::Item(item) => gaps.push(item.to_string()),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((seen, gaps.len()), (4, 1), "{order:?}: {gaps:?}");
    }
}

#[test]
fn who_says_nothing_is_waited_for_once() {
    let now = Instant::now();
    let mut buffer = DeliveryBuffer::new(now, Order::Causal, Limits::default());
    let [gone, living] = [1, 2].map(|n| buffer.add(now, source(n), Class::Reliable, Some(5)));
    buffer.handle_exists(gone, 6, 5);
    let mut prev = BatchHash::ZERO;
    for seq in 5..15 {
        let craft = Craft { parents: vec![parent(1, seq)], prev, ..craft(2, seq, 5) };
        prev = craft.seal(&[b"event"]).hash();
        buffer.offer(now, living, open(&craft, b"event"));
    }
    assert!(events(&mut buffer, now).is_empty());
    let later = now + GAP_AFTER + Duration::from_millis(1);
    buffer.handle_timeout(later);
    assert_eq!(events(&mut buffer, later), (5..15).collect::<Vec<_>>());
    // Once it is heard of again, it is waited for again.
    buffer.handle_exists(gone, 20, 5);
    let craft = Craft { parents: vec![parent(1, 18)], prev, ..craft(2, 15, 5) };
    buffer.offer(later, living, open(&craft, b"event"));
    assert!(events(&mut buffer, later).is_empty());
}

#[test]
fn nobody_waits_for_what_lies_before_an_incarnation_that_is_not_heard() {
    let now = Instant::now();
    let mut buffer = DeliveryBuffer::new(now, Order::Causal, Limits::default());
    let [liar, honest] = [1, 2].map(|n| buffer.add(now, source(n), Class::Reliable, Some(5)));
    // It started again at 900, and signed two batches for 950.
    let proof = {
        let seals = [b"one", b"two"].map(|payload| craft(1, 950, 900).seal(&[payload]));
        net_channel::Equivocation::between(&MESH, seals[0].seal(), seals[1].seal()).unwrap()
    };
    buffer.handle_exists(liar, 1_000, 900);
    buffer.handle_equivocation(liar, Arc::new(proof));
    // It has nothing any more of what it had published before.
    buffer.handle_covered(liar, 1_000);
    buffer.offer(now, honest, open(&Craft { parents: vec![parent(1, 6)], ..craft(2, 5, 5) }, b"honest"));
    assert_eq!(events(&mut buffer, now), [5]);
}
