//! Incarnations: where the seqs of a producer begin, so that no (key, seq) is ever used twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::context;

/// How far above the first seq of a new incarnation the floor is set: no producer lives so long.
pub const FLOOR_STEP: u64 = 1 << 40;

/// First seq of a new incarnation: the greatest of the wall clock in nanoseconds, one more than every own seq that is
/// known, and the floor.
#[must_use]
pub fn first_seq(unix_ns: u64, highest_known: u64, floor: u64) -> u64 {
    unix_ns.max(highest_known.saturating_add(1)).max(floor)
}

/// What the floor must be on disk before a producer that begins at this seq seals its first batch.
#[must_use]
pub fn floor_after(first_seq: u64) -> u64 {
    first_seq.saturating_add(FLOOR_STEP)
}

/// The floor of one node, on disk: text of one number and a checksum.
#[derive(Debug)]
pub struct FloorFile {
    path: PathBuf,
    floor: u64,
}

/// Why the floor cannot be read or written. No producer may start then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloorError {
    /// The file system refused.
    #[error("cannot use the floor file {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The file is damaged.
    #[error(
        "the floor file {path} is damaged: without it seqs could be reused; restore it, or start with a new identity"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The numbers have come to their end.
    #[error("no seqs are left for this origin: start with a new identity")]
    Exhausted,
}

impl FloorFile {
    /// The floor file at this path; a missing one is a floor of 0.
    ///
    /// # Errors
    /// [`FloorError`] if it cannot be read or is damaged.
    pub fn open(path: PathBuf) -> Result<Self, FloorError> {
        let io = |source| FloorError::Io { path: path.clone(), source };
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(256).read_to_string(&mut text).map_err(io)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self { path, floor: 0 }),
            Err(error) => return Err(io(error)),
        }
        let floor = text.trim_end().split_once(' ').and_then(|(floor, sum)| {
            let floor = floor.parse().ok()?;
            (sum == checksum(floor)).then_some(floor)
        });
        match floor {
            Some(floor) => Ok(Self { path, floor }),
            None => Err(FloorError::Damaged { path }),
        }
    }

    /// The first seq of an incarnation that begins now. When this returns, the floor above it is on disk.
    ///
    /// # Errors
    /// [`FloorError`]; no batch may be sealed then.
    pub fn begin(&mut self, unix_ns: u64) -> Result<u64, FloorError> {
        let first = first_seq(unix_ns, 0, self.floor);
        let floor = floor_after(first);
        if floor >= u64::MAX / 2 {
            return Err(FloorError::Exhausted);
        }
        self.write(floor).map_err(|source| FloorError::Io { path: self.path.clone(), source })?;
        self.floor = floor;
        Ok(first)
    }

    fn write(&self, floor: u64) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{floor} {}", checksum(floor))?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    }
}

fn checksum(floor: u64) -> String {
    let hash = blake3::derive_key(context::FLOOR_FILE, &floor.to_le_bytes());
    net_transport::base32_encode(&hash[..8])
}
