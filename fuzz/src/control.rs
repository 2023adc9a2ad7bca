//! What two neighbours say on a link's control stream.

use net_transport::{NodeKeys, Seed, fuzzing};

/// Reads the input as one message; what must hold of it is asserted where its type is known.
pub fn run(data: &[u8]) -> bool {
    fuzzing::control(data)
}

/// Every message, written by hand as `docs/spec/link.md` has it.
pub fn seeds() -> Vec<Vec<u8>> {
    let pair = [[1; 32], [2; 32]].concat();
    let address = [&[0; 10][..], &[0xff, 0xff, 127, 0, 0, 1], &9000u16.to_le_bytes()].concat();
    let hello = |dial: &[u8], linked: u8| [&[0, 1][..], &[1; 8], dial, &[4, linked], &address].concat();
    // A record that can be read; nobody has signed it.
    let binding = NodeKeys::from_seed(&Seed::new([1; 32])).binding().to_bytes();
    let record = [&[0; 64][..], &[1, 0x80, 1], &binding, &[1; 8], &[9], &[3, 7, 0, 0], &[18], &address].concat();
    let record_len = [u8::try_from(record.len() % 128).expect("7 bits") | 0x80, 1];
    assert!((128..256).contains(&record.len()) || record.len() / 128 == 1, "the length above is of two bytes");
    let with_pair = |kind: u8, rest: &[u8]| [&[kind], &pair[..], rest].concat();
    vec![
        hello(&[3], 1),
        hello(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], 0),
        [&[1, 0xac, 2][..], &record_len, &record].concat(),
        [&[2, 3][..], b"any"].concat(),
        with_pair(3, &[]),
        with_pair(4, &[&[16][..], &[7; 16]].concat()),
        with_pair(5, &[]),
        with_pair(6, &[1]),
        with_pair(6, &[255]),
        with_pair(7, &[]),
        with_pair(8, &[]),
        vec![9],
    ]
}
