//! First pages: the two slots of a log's manifest, and that of a segment; as they came, and with their checksums right.

use net_redex::fuzzing::{make_pages, pages};

/// Reads the input as a manifest and as a segment's first page.
pub fn run(data: &[u8]) -> bool {
    pages(data) | pages(&make_pages(data))
}

/// The manifest and the segment of the golden files, and the former without its checksum.
pub fn seeds() -> Vec<Vec<u8>> {
    let manifest = include_bytes!("../../net-redex/tests/data/v1/MANIFEST");
    let segment = include_bytes!("../../net-redex/tests/data/v1/0000000000000000.seg");
    let used = |page: &[u8]| page[..144].to_vec();
    vec![manifest.to_vec(), segment[..4096].to_vec(), used(manifest), used(segment), used(&manifest[4096..])]
}
