//! What causal order costs a subscriber: batches of five origins that name each other as causes, verified and opened, one in
//! twenty of them out of order, through the buffer that puts them in order.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use net_channel::core::{Delivery, DeliveryBuffer, Held, Limits};
use net_channel::{
    BatchBuilder, BatchHash, ChannelName, Class, EventBatch, Hlc, Order, Parent, SealParams, SealedBatch, SenderKey,
    Source,
};
use net_identity::EntityKey;
use net_transport::{MeshId, Pair};

const ORIGINS: usize = 5;
const FIRST_SEQ: u64 = 1_000;

/// Batches in an order that respects their causes, each with its origin's number, then one in twenty displaced.
fn arrivals(batches: usize, events: usize) -> (Vec<Arc<Source>>, Vec<(usize, Held)>) {
    let (mesh, name) = (MeshId([1; 32]), ChannelName::parse("bench/channel").expect("a good name"));
    let channel = name.hash(&mesh);
    let (signers, key): (Vec<EntityKey>, _) = (
        (0..ORIGINS).map(|n| EntityKey::from_secret(&[u8::try_from(n).expect("few") + 1; 32])).collect(),
        SenderKey::new([3; 32]),
    );
    let source = |signer: &EntityKey| {
        let pair = Pair { channel: channel.0, origin: *signer.id().as_bytes() };
        Arc::new(Source { channel: name.clone(), origin: signer.id(), entity: signer.id(), pair })
    };
    let mut heads: Vec<(u64, BatchHash)> = vec![(FIRST_SEQ, BatchHash::ZERO); ORIGINS];
    let mut arrivals = Vec::with_capacity(batches);
    for n in 0..batches {
        let origin = n % ORIGINS;
        let (seq, prev) = heads[origin];
        // What the origin was given since its last batch: the newest of each other origin.
        let others = (0..ORIGINS).filter(|other| *other != origin && heads[*other].0 > FIRST_SEQ);
        let parents: Vec<Parent> = others
            .map(|other| Parent {
                origin: signers[other].id().short(),
                seq: heads[other].0 - 1,
                hash: heads[other].1.short(),
            })
            .collect();
        let mut builder = BatchBuilder::new();
        for _ in 0..events {
            builder.push(&[7; 64], None, &[], Hlc(n as u64)).expect("they fit");
        }
        let params = SealParams {
            incarnation: FIRST_SEQ,
            prev,
            parents: &parents,
            ..SealParams::first(&mesh, &channel, &signers[origin], &key, seq, [5; 16])
        };
        let sealed: SealedBatch = builder.seal(&params).expect("it can be sealed");
        heads[origin] = (sealed.seal().next_seq(), sealed.hash());
        let open = sealed.open_in_place(&key).expect("it opens");
        arrivals.push((origin, Held::Open(EventBatch::new(name.clone(), signers[origin].id(), open))));
    }
    for n in (0..batches.saturating_sub(40)).step_by(20) {
        arrivals[n..n + 17].rotate_left(1);
    }
    (signers.iter().map(source).collect(), arrivals)
}

/// Puts all of them through a buffer and counts what is delivered.
fn deliver(now: Instant, sources: &[Arc<Source>], arrivals: Vec<(usize, Held)>, order: Order) -> usize {
    let mut buffer = DeliveryBuffer::new(now, order, Limits::default());
    let lines: Vec<_> =
        sources.iter().map(|source| buffer.add(now, source.clone(), Class::Reliable, Some(FIRST_SEQ))).collect();
    let mut events = 0;
    for (origin, held) in arrivals {
        buffer.offer(now, lines[origin], held);
        while let Some(delivery) = buffer.next(now) {
            if let Delivery::Batch { batch, .. } = black_box(delivery) {
                events += usize::from(batch.open().seal().events());
            }
        }
    }
    events
}

fn delivery(c: &mut Criterion) {
    let now = Instant::now();
    let mut group = c.benchmark_group("delivery");
    for (batches, events) in [(4_000, 1), (1_000, 16), (200, 256)] {
        let (sources, batches) = arrivals(batches, events);
        let total = batches.len() * events;
        assert_eq!(deliver(now, &sources, batches.clone(), Order::Causal), total, "everything is delivered");
        group.throughput(Throughput::Elements(total as u64));
        for (name, order) in [("causal", Order::Causal), ("arrival", Order::Arrival)] {
            group.bench_function(format!("{name}, {events} events a batch, 5 % out of order"), |b| {
                b.iter_batched(
                    || batches.clone(),
                    |batches| deliver(now, &sources, batches, order),
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, delivery);
criterion_main!(benches);
