//! The key ring of a log: as it came, and with the checksum of its clear part put right.

use net_redex::fuzzing::key_ring;

/// What the golden key ring was sealed with.
const SECRET: [u8; 32] = [9; 32];

/// Reads the input as a key ring; and as one whose clear part has no checksum and whose ring is empty.
pub fn run(data: &[u8]) -> bool {
    let mut clear = data.to_vec();
    clear.extend_from_slice(&crc32c::crc32c(data).to_le_bytes());
    key_ring(data, &SECRET) | key_ring(&clear, &SECRET)
}

/// A clear part without its checksum, and a whole one.
pub fn seeds() -> Vec<Vec<u8>> {
    let golden = include_bytes!("../../net-redex/tests/data/v1/keys");
    let clear = golden[..12 + 32].to_vec();
    let mut whole = clear.clone();
    whole.extend_from_slice(&crc32c::crc32c(&clear).to_le_bytes());
    vec![clear, whole]
}
