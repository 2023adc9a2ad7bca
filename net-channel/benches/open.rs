//! What it costs a subscriber: verifying, opening and reading events of 64 bytes.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use net_channel::{
    BatchBuilder, BatchHash, ChannelHash, ChannelName, Event, EventBatch, Hlc, SealParams, SealedBatch, SealedView,
    SenderKey,
};
use net_identity::EntityKey;
use net_transport::MeshId;

struct Bench {
    mesh: MeshId,
    name: ChannelName,
    channel: ChannelHash,
    signer: EntityKey,
    sender_key: SenderKey,
}

impl Bench {
    fn new() -> Self {
        let mesh = MeshId([1; 32]);
        let name = ChannelName::parse("bench/channel").expect("a good name");
        Self {
            channel: name.hash(&mesh),
            mesh,
            name,
            signer: EntityKey::from_secret(&[2; 32]),
            sender_key: SenderKey::new([3; 32]),
        }
    }

    fn batch(&self, events: usize) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        for i in 0..events {
            builder.push(&[7; 64], None, &[], Hlc(i as u64)).expect("they fit");
        }
        let params = SealParams {
            incarnation: 1_000,
            prev: BatchHash([4; 32]),
            ..SealParams::first(&self.mesh, &self.channel, &self.signer, &self.sender_key, 2_000, [5; 16])
        };
        builder.seal(&params).expect("it can be sealed")
    }

    fn verify(&self, frame: Bytes) -> SealedBatch {
        SealedBatch::verify(frame, &self.mesh, &self.channel, &self.signer.id()).expect("it verifies")
    }
}

fn open(c: &mut Criterion) {
    let bench = Bench::new();
    let origin = bench.signer.id();
    let mut group = c.benchmark_group("open");
    for events in [740_u64, 1] {
        let batch = bench.batch(usize::try_from(events).expect("small"));
        let frame = batch.frame().to_vec();
        group.throughput(Throughput::Elements(events));
        group.bench_function(format!("verify {events} x 64 B"), |b| {
            b.iter(|| {
                let view = SealedView::parse(black_box(&frame)).expect("it parses");
                view.verify(&bench.mesh, &bench.channel, &origin).expect("it verifies")
            });
        });
        group.bench_function(format!("open in place {events} x 64 B"), |b| {
            b.iter_batched(
                || bench.verify(Bytes::from(frame.clone())),
                |batch| batch.open_in_place(&bench.sender_key).expect("it opens"),
                BatchSize::SmallInput,
            );
        });
    }
    group.throughput(Throughput::Elements(740));
    let open = bench.batch(740).open(&bench.sender_key).expect("it opens");
    group.bench_function("read 740 events borrowed", |b| {
        b.iter(|| black_box(&open).events().map(|e| e.payload.len() as u64 + e.seq + e.time.0).sum::<u64>());
    });
    let shared = EventBatch::new(bench.name.clone(), origin, open);
    group.bench_function("take 740 owned events and read them", |b| {
        let mut taken: Vec<Event> = Vec::with_capacity(740);
        b.iter(|| {
            taken.clear();
            taken.extend(black_box(&shared).events());
            taken.iter().map(|e| e.payload().len() as u64 + e.seq()).sum::<u64>()
        });
    });
    group.bench_function("take 740 payloads as Bytes", |b| {
        let mut taken: Vec<Bytes> = Vec::with_capacity(740);
        b.iter(|| {
            taken.clear();
            taken.extend(black_box(&shared).events().map(|e| e.payload_bytes()));
            taken.len()
        });
    });
    group.finish();
}

criterion_group!(benches, open);
criterion_main!(benches);
