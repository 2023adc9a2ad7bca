//! What it costs a producer: encoding, sealing and signing events of 64 bytes.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use net_channel::{BatchBuilder, BatchHash, ChannelName, Hlc, SealParams, SenderKey};
use net_identity::EntityKey;
use net_transport::MeshId;

const PAYLOAD: [u8; 64] = [7; 64];

fn fill(builder: &mut BatchBuilder, events: usize) {
    for i in 0..events {
        builder.push(black_box(&PAYLOAD), None, &[], Hlc(i as u64)).expect("they fit");
    }
}

fn seal(c: &mut Criterion) {
    let mesh = MeshId([1; 32]);
    let channel = ChannelName::parse("bench/channel").expect("a good name").hash(&mesh);
    let (signer, sender_key) = (EntityKey::from_secret(&[2; 32]), SenderKey::new([3; 32]));
    let params = SealParams {
        incarnation: 1_000,
        prev: BatchHash([4; 32]),
        ..SealParams::first(&mesh, &channel, &signer, &sender_key, 2_000, [5; 16])
    };

    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(740));
    group.bench_function("push 740 x 64 B", |b| {
        let mut builder = BatchBuilder::new();
        b.iter(|| {
            builder.clear();
            fill(&mut builder, 740);
            builder.len_bytes()
        });
    });
    group.bench_function("push and seal 740 x 64 B", |b| {
        let mut builder = BatchBuilder::new();
        b.iter(|| {
            fill(&mut builder, 740);
            builder.seal(black_box(&params)).expect("it can be sealed")
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("push and seal 1 x 64 B", |b| {
        let mut builder = BatchBuilder::new();
        b.iter(|| {
            fill(&mut builder, 1);
            builder.seal(black_box(&params)).expect("it can be sealed")
        });
    });
    group.bench_function("push and seal 1 x 64 KiB", |b| {
        let payload = vec![7; 64 << 10];
        b.iter_batched(
            BatchBuilder::new,
            |mut builder| {
                builder.push(black_box(&payload), None, &[], Hlc(0)).expect("it fits");
                builder.seal(black_box(&params)).expect("it can be sealed")
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, seal);
criterion_main!(benches);
