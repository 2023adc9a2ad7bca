//! Incarnations: no seq is used twice, whichever of clock, log and floor is lost.

use std::os::unix::fs::PermissionsExt;

use net_channel::{FLOOR_STEP, FloorError, FloorFile, first_seq, floor_after};
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000_000_000_000;

#[test]
fn the_first_seq_is_above_all_that_is_known() {
    assert_eq!(first_seq(NOW, 5, 7), Ok(NOW));
    assert_eq!(first_seq(1, 5, 3), Ok(6));
    assert_eq!(first_seq(1, 5, 7), Ok(7));
    assert_eq!(first_seq(0, 0, 0), Ok(1));
}

#[test]
fn seqs_that_run_out_are_an_error_and_not_a_wrap() {
    assert!(first_seq(NOW, u64::MAX, 0).is_err());
    assert!(first_seq(NOW, 0, u64::MAX).is_err());
    assert!(first_seq(NOW, u64::MAX - FLOOR_STEP - 1, 0).is_ok());
    assert!(first_seq(NOW, u64::MAX - FLOOR_STEP, 0).is_err());
    assert_eq!(floor_after(u64::MAX), u64::MAX);
}

#[test]
fn a_clock_that_falls_back_does_not_repeat_a_seq() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("floor");
    let first = FloorFile::open(&path).expect("no file yet").begin(NOW, 0).expect("it begins");
    assert_eq!(first, NOW);
    // The machine restarts in 1970, without its log.
    let mut floor = FloorFile::open(&path).expect("the file is there");
    assert_eq!(floor.floor(), NOW + FLOOR_STEP);
    let second = floor.begin(0, 0).expect("it begins");
    assert_eq!(second, NOW + FLOOR_STEP);
    assert_eq!(floor.begin(0, 0).expect("a second producer begins"), NOW + 2 * FLOOR_STEP);
}

#[test]
fn a_lower_floor_changes_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("floor");
    let mut floor = FloorFile::open(&path).expect("no file yet");
    floor.raise(100).expect("it is written");
    floor.raise(50).expect("nothing to do");
    assert_eq!((floor.floor(), FloorFile::open(&path).expect("it is there").floor()), (100, 100));
}

#[test]
fn a_damaged_floor_is_refused_and_never_taken_for_none() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("floor");
    FloorFile::open(&path).expect("no file yet").raise(1 << 50).expect("it is written");
    let good = std::fs::read(&path).expect("it is there");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        matches!(FloorFile::open(&path), Err(FloorError::Damaged(_)))
    };
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&bad), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(refused(&good[..len]), "{len} bytes");
    }
    assert!(refused(&[&good[..], &[0]].concat()));
}

#[test]
fn a_floor_that_others_may_write_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("floor");
    FloorFile::open(&path).expect("no file yet").raise(5).expect("it is written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o622)).expect("chmod");
    assert!(matches!(FloorFile::open(&path), Err(FloorError::File(_))));
}

#[test]
fn a_floor_that_cannot_be_written_begins_nothing() {
    let mut floor = FloorFile::open("/nonexistent-directory/floor").expect("no file is a floor of 0");
    assert!(matches!(floor.begin(NOW, 0), Err(FloorError::File(_))));
    assert_eq!(floor.floor(), 0);
}

proptest! {
    #[test]
    fn incarnations_never_meet(starts in prop::collection::vec((any::<u32>(), any::<u32>(), 0..FLOOR_STEP), 1..20)) {
        let (mut floor, mut used) = (0, 0);
        for (clock, known, events) in starts {
            let first = first_seq(clock.into(), known.into(), floor).expect("far from the end");
            prop_assert!(first > used);
            floor = floor_after(first);
            used = first + events - u64::from(events > 0);
        }
    }
}
