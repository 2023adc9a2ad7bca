//! The index of a segment: as it came, and with its checksums put right.

use net_redex::fuzzing::{index, make_pages};

/// Reads the input as an index.
pub fn run(data: &[u8]) -> bool {
    index(data) | index(&make_pages(data))
}

/// The index of the golden files, with its checksums and without.
pub fn seeds() -> Vec<Vec<u8>> {
    let golden = include_bytes!("../../net-redex/tests/data/v1/0000000000000000.idx");
    let mut unsealed = golden.to_vec();
    for page in unsealed.chunks_exact_mut(4096) {
        page[4092..].fill(0);
    }
    vec![golden.to_vec(), unsealed]
}
