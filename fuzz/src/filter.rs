//! A filter, and a payload that it is evaluated on.

use net_channel::{BatchBuilder, EventBatch, Filter, Hlc, SealParams};

use crate::world::World;

/// Ends the filter in the input; the payload follows.
const END: u8 = 0;

/// Reads the input up to its first zero as a filter, and evaluates it on the rest as payload, key and header.
pub fn run(data: &[u8]) -> bool {
    let (text, payload) = match data.iter().position(|byte| *byte == END) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"{}"[..]),
    };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let filter = match Filter::parse(text) {
        Ok(filter) => filter,
        Err(error) => {
            assert!(text.get(error.span()).is_some(), "{error}: not in the text");
            assert!(error.pointer().lines().count() <= 2 && !error.to_string().is_empty());
            return false;
        }
    };
    let key = &payload[..payload.len().min(1_024)];
    let world = World::new();
    let mut builder = BatchBuilder::new();
    if builder.push(payload, Some(key), &[("h", key)], Hlc(1)).is_err() {
        return true;
    }
    let params = SealParams::first(&world.mesh, &world.channel, &world.signer, &world.sender_key, 1, [0; 16]);
    let sealed = builder.seal(&params).expect("it can be sealed");
    let open = sealed.open(&world.sender_key).expect("the key that sealed it");
    let event = EventBatch::new(world.name.clone(), world.origin, open).event(0).expect("one was sealed");
    // Whatever it is: it ends, and is the same the second time.
    assert_eq!(filter.matches(&event), filter.matches(&event));
    true
}

/// Filters with each part of the language.
pub fn seeds() -> Vec<Vec<u8>> {
    let payload = r#"{"mag":5.3,"place":"x","tags":["deep","sea"],"at":{"lat":-7.8},"n":null,"b":true}"#;
    [
        "mag > 4 && place.contains('x')",
        "body.mag == mag || body['mag'] != 1u && -mag < 0x1F",
        "tags.all(t, t.size() > 2) && tags.map(t, t != 'sea', t + '!') == ['deep!']",
        "tags.filter(t, t in ['a', r'\\b']).exists_one(x, x.matches('^[a-z]+$'))",
        "has(at.lat) ? {'a': 1}.a == 1.5e3 : !(key == b'\\xff') // and so on",
        "channel.startsWith('a') && origin.endsWith(\"b\") && headers.h != null && time - size > 1 % 2 * 3 / 4",
        "int('4') == 4 && double(4) == 4.0 && size(body) == 6 && tags[0] == '''deep''' && matches(place, 'x')",
        "tags.exists(t, t == '\\u00e9\\n\\101') && b",
    ]
    .iter()
    .map(|filter| [filter.as_bytes(), &[END], payload.as_bytes()].concat())
    .collect()
}
