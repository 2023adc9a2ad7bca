//! What a subscriber's node and an origin's node say to each other.

use net_channel::SeqRange;
use net_channel::core::{MESSAGE_LEN_MAX, Message, RefusedWhy, Start};
use net_transport::Pair;

/// Decodes the input; an accepted message is written and read again as the same.
pub fn run(data: &[u8]) -> bool {
    let Ok(message) = Message::decode(data) else { return false };
    assert!(data.len() <= MESSAGE_LEN_MAX);
    let written = message.encode();
    let (len, body) = written.split_first_chunk().expect("a length comes first");
    assert_eq!(u32::from_le_bytes(*len) as usize, body.len(), "the length is wrong");
    // Numbers may come longer than they need be; they are written as short as can be.
    assert!(body.len() <= data.len(), "a message grows when it is written");
    assert_eq!(Message::decode(body).as_ref(), Ok(&message), "a message is read differently from how it was written");
    for cut in [0, body.len() / 2, body.len() - 1] {
        assert!(Message::decode(&body[..cut]).is_err(), "a part of a message is a message");
    }
    if let Message::Fetch { ranges, .. } = message {
        for range in ranges {
            assert_eq!(range.is_empty(), range.from >= range.to);
            assert!(range.is_empty() || range.from + range.len() == range.to);
        }
    }
    true
}

/// Every message, with every start and every refusal.
pub fn seeds() -> Vec<Vec<u8>> {
    let pair = Pair { channel: [1; 32], origin: [2; 32] };
    let starts = [Start::Live { ago_ms: 5 }, Start::Earliest, Start::Last(300), Start::Since(1 << 40), Start::Seq(1)];
    let refusals = [RefusedWhy::NotHere, RefusedWhy::NotAllowed, RefusedWhy::TooMany];
    let others = [
        Message::Unsubscribe { id: 1, pair },
        Message::Fetch { id: u64::MAX, pair, ranges: vec![SeqRange { from: 3, to: u64::MAX }], len_max: 1 << 20 },
        Message::Stored { pair, range: SeqRange { from: 3, to: 4 } },
        Message::Received { pair, next: 9 },
        Message::Subscribed { id: 1, start: 2, next: 3, incarnation: 1, kept_from: 1 },
        Message::Grant { pair, grant: b"grant" },
        Message::Batches { id: 9, pair, covered: 7, next: 8, kept_from: 2, more: true, frames: b"frames" },
        Message::Equivocation { proof: b"proof" },
    ];
    let starts = starts.map(|start| Message::Subscribe { id: 1, pair, start });
    let refusals = refusals.map(|why| Message::Refused { id: 1, why });
    let all = starts.iter().chain(&refusals).chain(&others);
    all.map(|message| message.encode()[4..].to_vec()).collect()
}
