//! Bits that flip on the disk: each is noticed, and costs the batch it hit and no other.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use net_redex::{FaultKind, Found, Log};
use net_transport::{HEADER_LEN, Header};

use crate::budget::budget;
use crate::support::{Origin, batches, config, read_all, stored};

const SEGMENT: &str = "0000000000000000.seg";
const FIRST_PAGE_LEN: usize = 4096;
const RECORD_HEADER_LEN: usize = 32;
/// In the frame: the one field that is not signed, and stored as zero.
const TTL: usize = 3;
/// In the frame: how many events there are.
const EVENTS: Range<usize> = 40..42;

/// A closed log of batches of different sizes, and where their records stand in its segment.
struct Sample {
    dir: tempfile::TempDir,
    origin: Origin,
    frames: Vec<Vec<u8>>,
    records: Vec<Range<usize>>,
    clean: Vec<u8>,
    id: [u8; 16],
}

impl Sample {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::open(dir.path(), config()).expect("a new log");
        let mut origin = Origin::new(1);
        let frames: Vec<_> = (0..24_u8).map(|i| origin.batch(&[&vec![i; usize::from(i) * 40], b"x"])).collect();
        let (mut records, mut at) = (Vec::new(), FIRST_PAGE_LEN);
        for frame in &frames {
            let _ack = log.append(frame).wait().expect("room");
            let end = at + (RECORD_HEADER_LEN + frame.len()).next_multiple_of(64);
            records.push(at..end);
            at = end;
        }
        let id = log.id().0;
        log.close().expect("closed");
        let clean = std::fs::read(dir.path().join(SEGMENT)).expect("there");
        Self { dir, origin, frames, records, clean, id }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A bit of some record, and which record, from a number.
    fn choose(&self, random: u64) -> (usize, usize) {
        let bits = (self.records[0].start * 8)..(self.records[self.records.len() - 1].end * 8);
        let bit = bits.start + usize::try_from(random % bits.len() as u64).expect("below a length");
        (bit, self.records.iter().position(|record| record.contains(&(bit / 8))).expect("records have no gaps"))
    }

    fn open_with(&self, bit: usize, repair: impl Fn(&mut [u8])) -> Log {
        // What is behind the records never changes.
        let mut bytes = self.clean[..self.records[self.records.len() - 1].end].to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let record = self.records.iter().find(|record| record.contains(&(bit / 8))).expect("a record");
        repair(&mut bytes[record.clone()]);
        let file = std::fs::OpenOptions::new().write(true).open(self.path().join(SEGMENT)).expect("there");
        file.write_all_at(&bytes, 0).expect("writable");
        Log::open(self.path(), config().read_only()).expect("one bit does not keep a log from opening")
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 20
}

#[test]
fn flipped_bits_on_the_disk_are_named_and_cost_the_batch_they_hit_and_no_other() {
    let (sample, mut state) = (Sample::new(), 1);
    for _ in 0..budget(150, 10_000) {
        let (bit, hit) = sample.choose(random(&mut state));
        let log = sample.open_with(bit, |_| ());
        assert_eq!(log.recovery().torn, None, "bit {bit}: what was synced is never cut");
        let all = read_all(&log);
        assert_eq!(all.len(), sample.frames.len(), "bit {bit}");
        for (i, (found, frame)) in all.iter().zip(&sample.frames).enumerate() {
            match found {
                Found::Batch(batch) if i != hit => assert_eq!(batch.frame(), stored(frame), "bit {bit}"),
                Found::Hole(hole) if i == hit => {
                    assert_eq!(hole.offsets, 2 * hit as u64..2 * hit as u64 + 2, "bit {bit}");
                }
                other => panic!("bit {bit} of batch {hit}, at {i}: {other:?}"),
            }
        }
        let faults = log.verify(&[sample.origin.key.id()], &[]).expect("readable").faults;
        assert_eq!(faults[0].what, FaultKind::Damaged, "bit {bit}");
        assert_eq!(faults[0].offset, 2 * hit as u64, "bit {bit}");
    }
}

#[test]
fn flipped_bits_with_checksums_made_right_are_found_by_the_signature_and_named() {
    let (sample, mut state) = (Sample::new(), 2);
    let mut flipped = 0;
    for _ in 0..budget(150, 10_000) {
        let (bit, hit) = sample.choose(random(&mut state));
        let within = bit / 8 - sample.records[hit].start;
        // In the record's header, in the padding, and where the frame says how long it is, a checksum that is right
        // makes another record of it or none; the test above has those.
        let frame = RECORD_HEADER_LEN..RECORD_HEADER_LEN + sample.frames[hit].len();
        if !frame.contains(&within) || within == RECORD_HEADER_LEN + TTL {
            continue;
        }
        flipped += 1;
        let log = sample.open_with(bit, |record| make_right(record, sample.frames[hit].len(), &sample.id));
        let faults = log.verify(&[sample.origin.key.id()], &[]).expect("readable").faults;
        let first = &faults.first().unwrap_or_else(|| panic!("bit {within} of batch {hit} goes unnoticed"));
        let (sound, seq) = (first.dots.filter(|_| first.offset == 2 * hit as u64), 1000 + 2 * hit as u64);
        // Where the flipped bit is one of the dot itself, the batch after it shows which is missing.
        let named = sound.is_some_and(|dots| dots.first == seq) || first.offset.abs_diff(2 * hit as u64) <= 2;
        assert!(named, "bit {within} of batch {hit}: {faults:?}");
        // A count of events that is a lie, and has a right checksum, says that the batches behind it are out of place.
        let is_count = EVENTS.contains(&(within - RECORD_HEADER_LEN));
        assert!(is_count || batches_beside(&log) + 2 >= sample.frames.len(), "bit {within} of batch {hit}");
    }
    assert!(flipped > 100, "{flipped} bits");
}

/// Batches that are there, whatever stands between them.
fn batches_beside(log: &Log) -> usize {
    read_all(log).iter().filter(|found| matches!(found, Found::Batch(_))).count()
}

/// What someone with the format page would do: both checksums of a record, made right again.
fn make_right(record: &mut [u8], frame_len: usize, id: &[u8; 16]) {
    let body = crc32c::crc32c(&record[RECORD_HEADER_LEN..]);
    record[8..12].copy_from_slice(&body.to_le_bytes());
    record[4..8].fill(0);
    let header = crc32c::crc32c_append(crc32c::crc32c(id), &record[..RECORD_HEADER_LEN]);
    record[4..8].copy_from_slice(&header.to_le_bytes());
    assert!(frame_len >= HEADER_LEN && record.len() >= RECORD_HEADER_LEN + frame_len);
}

#[test]
fn checksums_made_right_over_a_sound_record_are_those_it_had() {
    let sample = Sample::new();
    let mut record = sample.clean[sample.records[3].clone()].to_vec();
    make_right(&mut record, sample.frames[3].len(), &sample.id);
    assert_eq!(record, sample.clean[sample.records[3].clone()], "or the test above would prove nothing");
    let header = Header::parse(&record[RECORD_HEADER_LEN..]).expect("a frame");
    assert_eq!(header.seq(), 1006);
    assert_eq!(batches(&Log::open(sample.path(), config().read_only()).expect("opens")).len(), 24);
}
