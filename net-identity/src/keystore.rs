//! A directory of keys, one file each.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::secret_file::{self, SecretFileError, failed};
use crate::{EntityId, EntityKey, Passphrase, key_file};

/// The most keys that [`Keystore::list`] reads.
pub const KEYS_MAX: usize = 4096;
/// The most bytes of a key's name.
pub const KEY_NAME_LEN_MAX: usize = 64;

const EXTENSION: &str = "key";

/// A directory of keys: one `0600` file each, optionally sealed under a passphrase.
///
/// Keys have names, which are yours alone: they stand in file names, never in what is signed or sent.
#[derive(Clone, Debug)]
pub struct Keystore {
    directory: PathBuf,
}

/// A key that lies in a keystore. Its id is what the file says; loading the key proves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyEntry {
    /// The name it was created under.
    pub name: String,
    /// Whose key it is.
    pub id: EntityId,
    /// Is a passphrase needed to load it?
    pub sealed: bool,
}

/// Why a keystore did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// A name that would be no plain file name.
    #[error("a key's name has 1 to {KEY_NAME_LEN_MAX} of a-z, A-Z, 0-9, - and _, and {name:?} is none")]
    Name {
        /// What was given.
        name: String,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file is no key, or damaged.
    #[error("{path} is no key file of this version, or damaged: put a copy of it back", path = .0.display())]
    Damaged(PathBuf),
    /// The key is sealed and no passphrase was given.
    #[error("the key {name} is sealed: its passphrase is needed")]
    PassphraseNeeded {
        /// The key.
        name: String,
    },
    /// The passphrase does not open the key, or the file was tampered with.
    #[error("the passphrase does not open the key {name}")]
    WrongPassphrase {
        /// The key.
        name: String,
    },
    /// This build cannot seal or open keys.
    #[error("this build has no passphrases: enable the feature `passphrase` of net-identity")]
    PassphraseUnsupported,
    /// More keys than a keystore may hold.
    #[error("there are more than {KEYS_MAX} keys in {path}", path = .0.display())]
    TooMany(PathBuf),
}

impl Keystore {
    /// The keystore in this directory, which is made (mode `0700`) if it is not there.
    ///
    /// # Errors
    /// [`KeystoreError::File`] if the directory can neither be found nor made.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, KeystoreError> {
        let directory = directory.into();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&directory).map_err(failed("make", &directory))?;
        Ok(Self { directory })
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a new key and stores it, sealed if a passphrase is given.
    ///
    /// # Errors
    /// [`KeystoreError::Name`]; [`KeystoreError::File`], also if there is a key of that name, which is kept.
    ///
    /// # Durability
    /// The key is on the disk when this returns.
    pub fn create(&self, name: &str, passphrase: Option<&Passphrase>) -> Result<EntityKey, KeystoreError> {
        let key = EntityKey::generate();
        self.import(name, &key, passphrase)?;
        Ok(key)
    }

    /// Stores a key that was made elsewhere, sealed if a passphrase is given.
    ///
    /// # Errors
    /// As [`Keystore::create`].
    ///
    /// # Durability
    /// The key is on the disk when this returns.
    pub fn import(&self, name: &str, key: &EntityKey, passphrase: Option<&Passphrase>) -> Result<(), KeystoreError> {
        let path = self.path(name)?;
        let bytes = match passphrase {
            None => key_file::encode_plain(key),
            Some(passphrase) => key_file::encode_sealed(key, passphrase)?,
        };
        Ok(secret_file::create(&path, &bytes)?)
    }

    /// Loads a key. A passphrase that is not needed is not looked at.
    ///
    /// # Errors
    /// [`KeystoreError`]: the name, the file and its mode, damage, or the passphrase.
    pub fn load(&self, name: &str, passphrase: Option<&Passphrase>) -> Result<EntityKey, KeystoreError> {
        let path = self.path(name)?;
        let bytes = secret_file::read(&path)?;
        key_file::decode(&bytes, passphrase).map_err(|error| error.at(name, path))
    }

    /// Every key, by name. Sealed keys are listed without their passphrase.
    ///
    /// # Errors
    /// [`KeystoreError`] for the first file that is wrong: a list with holes would hide that one.
    pub fn list(&self) -> Result<Vec<KeyEntry>, KeystoreError> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.directory).map_err(failed("list", &self.directory))? {
            let path = file.map_err(failed("list", &self.directory))?.path();
            let (Some(name), true) =
                (path.file_stem().and_then(|n| n.to_str()), path.extension().is_some_and(|e| e == EXTENSION))
            else {
                continue;
            };
            if entries.len() == KEYS_MAX {
                return Err(KeystoreError::TooMany(self.directory.clone()));
            }
            let bytes = secret_file::read(&path)?;
            let (id, sealed) = key_file::peek(&bytes).map_err(|error| error.at(name, path.clone()))?;
            entries.push(KeyEntry { name: name.to_owned(), id, sealed });
        }
        entries.sort();
        Ok(entries)
    }

    /// Erases a key's file. There is no way back.
    ///
    /// # Errors
    /// [`KeystoreError::File`] if there is none, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), KeystoreError> {
        let path = self.path(name)?;
        fs::remove_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SecretFileError::Missing(path.clone()),
            _ => failed("remove", &path)(source),
        })?;
        Ok(())
    }

    fn path(&self, name: &str) -> Result<PathBuf, KeystoreError> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if name.is_empty() || name.len() > KEY_NAME_LEN_MAX || !plain {
            return Err(KeystoreError::Name { name: name.to_owned() });
        }
        Ok(self.directory.join(format!("{name}.{EXTENSION}")))
    }
}
