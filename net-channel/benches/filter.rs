//! Filters on real events: a week of earthquakes, in batches as they come; and the worst that a filter can do to one.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use net_channel::{BatchBuilder, ChannelName, Event, EventBatch, Filter, Hlc, PushError, SealParams, SenderKey};
use net_identity::EntityKey;
use net_transport::MeshId;

const QUAKES: &str = include_str!("../../net-cli/data/usgs-earthquakes-2018-week.jsonl");

fn batch(mut builder: BatchBuilder) -> Vec<Event> {
    let (mesh, signer, sender_key) = (MeshId([1; 32]), EntityKey::from_secret(&[2; 32]), SenderKey::new([3; 32]));
    let name = ChannelName::parse("quakes/ak").expect("a good name");
    let channel = name.hash(&mesh);
    let params = SealParams::first(&mesh, &channel, &signer, &sender_key, 2_000, [5; 16]);
    let sealed = builder.seal(&params).expect("it can be sealed");
    let open = sealed.open(&sender_key).expect("the right key");
    EventBatch::new(name, signer.id(), open).events().collect()
}

fn events<'a>(payloads: impl IntoIterator<Item = &'a str>) -> Vec<Event> {
    let mut events = Vec::new();
    let mut builder = BatchBuilder::new();
    for payload in payloads {
        let push = |builder: &mut BatchBuilder| builder.push(payload.as_bytes(), Some(b"ak"), &[], Hlc(1));
        if push(&mut builder) == Err(PushError::Full) {
            events.extend(batch(std::mem::replace(&mut builder, BatchBuilder::new())));
            push(&mut builder).expect("an empty batch takes any event");
        }
    }
    events.extend(batch(builder));
    events
}

fn typical(c: &mut Criterion) {
    let events = events(QUAKES.lines());
    let mut group = c.benchmark_group("filter");
    group.throughput(Throughput::Elements(events.len() as u64));
    for (what, filter, expected) in [
        ("key", "key == 'ak' && size < 4096", 1_707),
        ("field", "mag > 4", 123),
        ("text", "mag > 2.5 && place.contains('Alaska') && type == 'earthquake'", 87),
    ] {
        let filter = Filter::parse(filter).expect("a filter");
        let matching = || events.iter().filter(|event| filter.matches(black_box(event)) == Ok(true)).count();
        assert_eq!(matching(), expected, "{filter}");
        group.bench_function(what, |b| b.iter(matching));
    }
    group.finish();
}

fn hostile(c: &mut Criterion) {
    let payload =
        format!(r#"{{"a":[{}0],"s":"{}","t":"{}"}}"#, "0,".repeat(8_000), "x".repeat(20_000), "xé".repeat(6_000));
    let events = events([&*payload]);
    let mut group = c.benchmark_group("filter_worst");
    group.sample_size(20);
    for (what, filter) in [
        ("read", "s == a"),
        ("text", "a.all(x, s == s && s == s)"),
        ("search", "a.all(x, !s.contains('xxxxxxxxxxxxxxxxxy'))"),
        ("grow_text", "a.map(x, s + s + s + s).size() > 0"),
        ("grow_list", "a.map(x, a + a).size() > 0"),
        ("steps", "a.all(x, x+x+x+x+x+x+x+x+x+x+x+x+x+x+x+x == 0)"),
        ("origin", "a.all(x, origin == origin)"),
        ("headers", "a.all(x, headers == headers)"),
        ("pattern", "a.all(x, !s.matches('(x|xx)+[0-9]'))"),
        ("pattern_states", "a.all(x, !s.matches('[xy]*x[xy]{60}[0-9]'))"),
        // With a word boundary in text that is not ASCII the fast engines give up.
        ("pattern_slow", r"a.all(x, !t.matches('(\\bx|\\B[é-ü]|[a-zé])*[0-9]'))"),
        ("pattern_slowest", r"a.all(x, !t.matches('((\\bx|\\B[é-ü]|[a-zé]){1,9}){1,9}[0-9]'))"),
    ] {
        let filter = Filter::parse(filter).unwrap_or_else(|e| panic!("{e}"));
        group.bench_function(what, |b| b.iter(|| filter.matches(black_box(&events[0]))));
    }
    group.finish();
}

criterion_group!(benches, typical, hostile);
criterion_main!(benches);
