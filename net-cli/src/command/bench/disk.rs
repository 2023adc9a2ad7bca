//! Where a benchmark writes: a directory that is gone afterwards, and which file system it is on.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::failure::Failure;

/// A directory of its own, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    dir: TempDir,
    /// In which directory it is.
    pub(super) within: PathBuf,
    /// The kind of file system, where the system tells.
    pub(super) file_system: Option<String>,
}

impl Place {
    /// A new directory in this one; without one, in the current directory, or where the system has its temporary files
    /// if that cannot be written.
    ///
    /// # Errors
    /// [`Failure`] if no directory can be made there.
    pub(super) fn new(within: Option<&Path>) -> Result<Self, Failure> {
        let (within, made) = match within {
            Some(within) => (within.to_owned(), make(within)),
            None => {
                let here = PathBuf::from(".");
                make(&here).map_or_else(
                    |_| (std::env::temp_dir(), make(&std::env::temp_dir())),
                    |made| (here.clone(), Ok(made)),
                )
            }
        };
        let dir = made.map_err(|error| cannot(&within, &error))?;
        // As it is named from anywhere, and as the table of mounts names it.
        let within = within.canonicalize()?;
        let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let file_system = file_system(&mounts, &within);
        Ok(Self { dir, within, file_system })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn make(within: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("net-bench-").tempdir_in(within)
}

fn cannot(within: &Path, error: &io::Error) -> Failure {
    let dir = within.display();
    if !within.exists() {
        return Failure::new(format!("cannot write in {dir}: there is no such directory"))
            .next(format!("`mkdir -p {dir}`, or one that is there: `net bench log --dir .`"));
    }
    // The name of what was to be made there is of no interest.
    Failure::new(format!("cannot write in {dir}: no file can be made there ({})", error.kind()))
        .next("a directory that you may write, on the disk in question: `net bench log --dir DIRECTORY`")
}

/// The kind of file system that a path without links is on, by the table of mounts of Linux (proc_pid_mountinfo(5)).
fn file_system(mounts: &[u8], path: &Path) -> Option<String> {
    let mounted = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let at = unescape(fields.nth(4)?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let at = Path::new(OsStr::from_bytes(&at));
        path.starts_with(at).then(|| (at.components().count(), String::from_utf8_lossy(kind).into_owned()))
    };
    // Of several at one place the last hides the others.
    mounts.split(|byte| *byte == b'\n').filter_map(mounted).max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// Blanks and the like are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
29 27 0:26 / /data rw - btrfs /dev/vdb rw
30 27 0:27 / /data rw - xfs /dev/vdc rw
31 29 0:28 / /data/a\\040disk rw master:2 propagate_from:3 - tmpfs tmpfs rw
nonsense
";

    #[test]
    fn file_system_is_that_of_the_deepest_mount_and_of_the_last_there() {
        for (path, kind) in [
            ("/", "ext4"),
            ("/home/me", "ext4"),
            ("/database", "ext4"),
            ("/data", "xfs"),
            ("/data/x/y", "xfs"),
            ("/data/a disk/x", "tmpfs"),
        ] {
            assert_eq!(file_system(MOUNTS.as_bytes(), Path::new(path)).as_deref(), Some(kind), "{path}");
        }
        assert_eq!(file_system(b"", Path::new("/")), None);
        assert_eq!(file_system(MOUNTS.as_bytes(), Path::new("relative")), None);
    }

    #[test]
    fn what_only_looks_like_an_escape_stays() {
        for (field, plain) in [("a\\040b", "a b"), ("\\", "\\"), ("\\09", "\\09"), ("\\777", "\\777"), ("", "")] {
            assert_eq!(unescape(field.as_bytes()), plain.as_bytes(), "{field}");
        }
    }

    #[test]
    fn directory_is_made_and_gone_afterwards() {
        let within = tempfile::tempdir().expect("a directory");
        let place = Place::new(Some(within.path())).expect("it can be written");
        let path = place.path().to_owned();
        std::fs::write(path.join("file"), b"x").expect("it can be written");
        drop(place);
        assert_eq!(std::fs::read_dir(within.path()).expect("it stays").count(), 0, "{}", path.display());
    }
}
