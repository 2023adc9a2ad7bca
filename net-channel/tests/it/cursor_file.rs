//! Positions in files: whole, bounded, one owner at a time.

use std::fs;

use net_channel::{Cursor, CursorFile, CursorFileError};
use net_transport::Pair;

fn cursor(positions: u32) -> Cursor {
    let mut cursor = Cursor::default();
    for n in 0..positions {
        let mut channel = [0; 32];
        channel[..4].copy_from_slice(&n.to_le_bytes());
        cursor.set(Pair { channel, origin: [9; 32] }, u64::MAX - u64::from(n));
    }
    cursor
}

#[test]
fn largest_position_round_trips_and_one_larger_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = CursorFile::open(directory.path(), "all").unwrap();
    assert_eq!(file.saved(), None);
    let largest = cursor(65_536);
    file.save(&largest).unwrap();
    assert!(matches!(file.save(&cursor(65_537)), Err(CursorFileError::TooLarge(65_537))));
    drop(file);
    assert_eq!(CursorFile::open(directory.path(), "all").unwrap().saved(), Some(&largest));
}

#[test]
fn name_has_one_owner_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let first = CursorFile::open(directory.path(), "a").unwrap();
    assert!(matches!(CursorFile::open(directory.path(), "a"), Err(CursorFileError::InUse(_))));
    assert!(CursorFile::open(directory.path(), "b").is_ok());
    drop(first);
    assert!(CursorFile::open(directory.path(), "a").is_ok());
}

#[test]
fn every_damage_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cursor-a");
    CursorFile::open(directory.path(), "a").unwrap().save(&cursor(2)).unwrap();
    let whole = fs::read(&path).unwrap();
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        CursorFile::open(directory.path(), "a").map(|_| ())
    };
    for len in 0..whole.len() {
        assert!(matches!(open(&whole[..len]), Err(CursorFileError::Damaged(_))), "{len} bytes");
    }
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let version = bit / 8 == 7 && damaged[7] > whole[7];
        let result = open(&damaged);
        assert!(
            if version {
                matches!(result, Err(CursorFileError::Version(_)))
            } else {
                matches!(result, Err(CursorFileError::Damaged(_)))
            },
            "bit {bit}"
        );
    }
    assert!(matches!(open(&[&whole[..], &[0]].concat()), Err(CursorFileError::Damaged(_))));
    assert!(open(&whole).is_ok());
    assert!(matches!(open(&vec![0; 8 << 20]), Err(CursorFileError::File(_))), "larger than any that is written");
}

#[cfg(unix)]
#[test]
fn file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    CursorFile::open(directory.path(), "a").unwrap().save(&cursor(1)).unwrap();
    for name in ["cursor-a", "cursor-a.lock"] {
        let mode = fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
