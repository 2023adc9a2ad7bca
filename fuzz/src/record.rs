//! Records of a log's segment: as they came, and with their checksums put right.

use net_redex::fuzzing::{make_records, record_seed, records};

use crate::world::World;

/// Reads the input as the records of a segment, and as what records with right checksums are made of.
pub fn run(data: &[u8]) -> bool {
    let as_they_came = records(data);
    let made = make_records(data);
    let whole = records(&made);
    // A write that was interrupted, and a bit that has rotted, in any place.
    if let Some(cut) = data.first().map(|byte| made.len() * usize::from(*byte) / 256) {
        let _ = records(&made[..cut]);
        let mut torn = made;
        torn[cut..].iter_mut().take(512).for_each(|byte| *byte = 0);
        let _ = records(&torn);
    }
    as_they_came || whole
}

/// A record, two of them, one whose body is gone, and one that begins behind a gap.
pub fn seeds() -> Vec<Vec<u8>> {
    let frames = World::new().chain(2);
    let events = |frame: &[u8]| u64::from(net_transport::Header::parse(frame).expect("a frame").events());
    let (first, second) = (&frames[0], &frames[1]);
    let one = record_seed(0, 1, first);
    let two = [one.clone(), record_seed(events(first), 0, second)].concat();
    let head = net_channel::SealedView::parse(first).expect("a batch").head_len();
    let compacted = record_seed(0, 2, &first[..head]);
    let behind_a_gap = [one.clone(), record_seed(events(first) + 9, 1, second)].concat();
    let raw = make_records(&two);
    vec![one, two, compacted, behind_a_gap, raw]
}
