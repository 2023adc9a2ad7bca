//! Secrets in files: mode `0600`, never half written, never larger than they should be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The most bytes that [`read`] takes: secrets of this project are small.
pub const SECRET_LEN_MAX: usize = 64 << 10;

/// Why a secret could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// Others may read or write the file.
    #[error("{path} has mode {mode:04o}, so others may use the secret in it: run `chmod 600 {path}`", path = .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no such file.
    #[error("{path} does not exist", path = .0.display())]
    Missing(PathBuf),
    /// There is a file already, and it is kept.
    #[error("{path} exists already and is not overwritten", path = .0.display())]
    Exists(PathBuf),
    /// The file is larger than what this project writes there.
    #[error("{path} is larger than what this program writes there", path = .0.display())]
    TooLarge(PathBuf),
    /// The system could not do it.
    #[error("cannot {what} {path}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Reads a secret, if nobody but its owner may.
///
/// # Errors
/// [`SecretFileError::Mode`] if group or others have any right to the file; `Missing`, `TooLarge`, `Io`.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    read_up_to(path, SECRET_LEN_MAX)
}

/// [`read`] with another limit than [`SECRET_LEN_MAX`], for what is no secret and is kept like one.
///
/// # Errors
/// As [`read`].
pub fn read_up_to(path: &Path, len_max: usize) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SecretFileError::Missing(path.to_owned()),
        _ => failed("open", path)(source),
    })?;
    // Asked of the open file, not of the path, which may name another one by now.
    let metadata = file.metadata().map_err(failed("inspect", path))?;
    check_mode(path, &metadata)?;
    if metadata.len() > len_max as u64 {
        return Err(SecretFileError::TooLarge(path.to_owned()));
    }
    // One byte of room more than there is, so that the vector never moves and leaves a copy behind.
    let capacity = usize::try_from(metadata.len()).unwrap_or(len_max).min(len_max) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(len_max as u64 + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() > len_max {
        return Err(SecretFileError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

/// Writes a new secret, mode `0600`. After a crash the file is there whole, or not at all.
///
/// # Errors
/// [`SecretFileError::Exists`] if there is a file of that name, which stays as it is; `Io`.
///
/// # Durability
/// The file and its name are on the disk when this returns.
pub fn create(path: &Path, secret: &[u8]) -> Result<(), SecretFileError> {
    let temporary = Temporary::write(path, secret)?;
    // A link, unlike a rename, never replaces what is there.
    fs::hard_link(&temporary.0, path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => SecretFileError::Exists(path.to_owned()),
        _ => failed("create", path)(source),
    })?;
    drop(temporary);
    sync_directory(path)
}

/// Writes a secret, mode `0600`, in place of the one that may be there. After a crash the file holds one or the other.
///
/// # Errors
/// `Io`; the file is as it was then.
///
/// # Durability
/// The file and its name are on the disk when this returns.
pub fn replace(path: &Path, secret: &[u8]) -> Result<(), SecretFileError> {
    let temporary = Temporary::write(path, secret)?;
    fs::rename(&temporary.0, path).map_err(failed("replace", path))?;
    sync_directory(path)
}

/// A file beside the one that is meant, removed when it is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn write(path: &Path, secret: &[u8]) -> Result<Self, SecretFileError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|source| failed("name a temporary file for", path)(source.into()))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{:016x}.tmp", u64::from_le_bytes(random)));
        let temporary = path.with_file_name(name);

        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary).map_err(failed("create", &temporary))?;
        let temporary = Self(temporary);
        file.write_all(secret).and_then(|()| file.sync_all()).map_err(failed("write", &temporary.0))?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename it is gone already; otherwise a file that stays behind is harmless, being 0600 too.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), SecretFileError> {
    let mode = std::os::unix::fs::MetadataExt::mode(metadata) & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Mode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Elsewhere the directory's rights must do: there are no mode bits to check.
#[cfg(not(unix))]
fn check_mode(_: &Path, _: &fs::Metadata) -> Result<(), SecretFileError> {
    Ok(())
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> Result<(), SecretFileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|d| d.sync_all()).map_err(failed("sync", directory))
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> Result<(), SecretFileError> {
    Ok(())
}

pub(crate) fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SecretFileError + 'a {
    move |source| SecretFileError::Io { what, path: path.to_owned(), source }
}
