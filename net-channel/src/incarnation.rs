//! Where an incarnation begins, so that no (key, seq) is ever used twice.
//!
//! Every start of a producer is a new incarnation. Its first seq is above whatever an earlier start can have used: the
//! clock in nanoseconds, the highest of its own seqs that the disk or others can prove, and a floor that is raised on
//! disk *before* the first batch is sealed. Each of the three alone survives what kills the other two.

use std::path::{Path, PathBuf};

use net_identity::secret_file::{self, SecretFileError};

use crate::context;
use crate::cursor::Reader;
use crate::mutants::mutant;

/// How far above its first seq an incarnation raises the floor: more events than one start will ever publish.
pub const FLOOR_STEP: u64 = 1 << 40;

const MAGIC: [u8; 8] = *b"netflo\0\x01";

/// There are no seqs left above those that were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no seq is left above {highest}: the origin needs a new key")]
pub struct SeqsExhausted {
    /// The highest that was used, or the floor.
    pub highest: u64,
}

/// The first seq of a new incarnation: max(`now_unix_ns`, `highest_known` + 1, `floor`), at least 1.
///
/// `highest_known` is the highest seq of this origin in this channel that is *proved* to be used, by the own log or by a
/// batch or Tick that verifies; 0 if none is known.
///
/// # Errors
/// [`SeqsExhausted`] if less than [`FLOOR_STEP`] seqs would be left.
pub fn first_seq(now_unix_ns: u64, highest_known: u64, floor: u64) -> Result<u64, SeqsExhausted> {
    let (highest_known, floor) = if mutant("reuse_seq") { (0, 0) } else { (highest_known, floor) };
    let first = now_unix_ns.max(highest_known.saturating_add(1)).max(floor).max(1);
    if first > u64::MAX - FLOOR_STEP {
        return Err(SeqsExhausted { highest: highest_known.max(floor) });
    }
    Ok(first)
}

/// What the floor must at least be before the first batch of an incarnation is sealed.
#[must_use]
pub fn floor_after(first_seq: u64) -> u64 {
    first_seq.saturating_add(FLOOR_STEP)
}

/// Why the floor could not be read or raised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FloorError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file is not as this program writes it.
    #[error("{path} is damaged: if this machine's clock is right, remove the file", path = .0.display())]
    Damaged(PathBuf),
    /// There is no room above.
    #[error(transparent)]
    Exhausted(#[from] SeqsExhausted),
}

/// The floor of one node, in a file: one for all its channels and producers.
///
/// One process uses it at a time; whoever opens it holds the node's lock.
#[derive(Debug)]
pub struct FloorFile {
    path: PathBuf,
    floor: u64,
}

impl FloorFile {
    /// Reads the floor; it is 0 if there is no file yet.
    ///
    /// # Errors
    /// [`FloorError::File`], [`FloorError::Damaged`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FloorError> {
        let path = path.into();
        let floor = match secret_file::read(&path) {
            Ok(bytes) => decode(&bytes).ok_or_else(|| FloorError::Damaged(path.clone()))?,
            Err(SecretFileError::Missing(_)) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { path, floor })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The floor as it is on the disk.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Begins an incarnation: decides its first seq and raises the floor above it.
    ///
    /// # Errors
    /// [`FloorError`]; nothing may be sealed then.
    ///
    /// # Durability
    /// The new floor is on the disk when this returns.
    pub fn begin(&mut self, now_unix_ns: u64, highest_known: u64) -> Result<u64, FloorError> {
        let first = first_seq(now_unix_ns, highest_known, self.floor)?;
        self.raise(floor_after(first))?;
        Ok(first)
    }

    /// Raises the floor; a lower one changes nothing.
    ///
    /// # Errors
    /// [`FloorError::File`].
    ///
    /// # Durability
    /// The floor is on the disk when this returns.
    pub fn raise(&mut self, floor: u64) -> Result<(), FloorError> {
        if floor > self.floor {
            secret_file::replace(&self.path, &encode(floor))?;
            self.floor = floor;
        }
        Ok(())
    }
}

/// `magic 8 ‖ floor u64 ‖ the first 8 bytes of a hash of the floor`.
fn encode(floor: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&floor.to_le_bytes());
    bytes[16..].copy_from_slice(&checksum(floor));
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(bytes);
    let magic: [u8; 8] = reader.array()?;
    let floor = reader.u64()?;
    let sum: [u8; 8] = reader.array()?;
    reader.end()?;
    (magic == MAGIC && sum == checksum(floor)).then_some(floor)
}

fn checksum(floor: u64) -> [u8; 8] {
    let hash = blake3::derive_key(context::FLOOR_FILE, &floor.to_le_bytes());
    std::array::from_fn(|i| hash[i])
}
