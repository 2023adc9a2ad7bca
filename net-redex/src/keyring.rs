//! The key ring: what opens the batches of a log, encrypted to the node; and in clear, who signed them.
//!
//! Sender keys that come from here open batches and never seal one.

use std::collections::BTreeMap;
use std::io;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use net_channel::{KeyId, SenderKey};
use net_identity::EntityId;
use net_transport::ShortId;
use zeroize::Zeroizing;

use crate::OpenError;
use crate::disk::{OpenMode, read_up_to, write_all};
use crate::error::At;
use crate::files::Files;

const FILE: &str = "keys";
const MAGIC: &[u8; 8] = b"NETKEYS1";
/// `derive_key` of what encrypts one version of one log's key ring.
pub(crate) const RING_CONTEXT: &str = "net 2026 redex key ring v1";
const SALT_LEN: usize = 32;
const TAG_LEN: usize = 16;
/// Keys in a ring, and origins: then the oldest log of a channel is better divided by retention.
const KEYS_MAX: usize = 65_536;
/// Keys of one origin: then its oldest goes.
const KEYS_OF_ORIGIN_MAX: usize = 4_096;
const KEY_ENTRY_LEN: usize = 8 + 8 + 32;

/// Who signed, and what opens.
#[derive(Debug, Default)]
pub(crate) struct KeyRing {
    origins: BTreeMap<ShortId, EntityId>,
    keys: Keys,
    /// The sealed part of a file for which no secret was given: it is kept as it is.
    locked: Option<Vec<u8>>,
}

/// Each with the first seq that it may have sealed.
type Keys = BTreeMap<(ShortId, KeyId), (u64, SenderKey)>;

/// Why the ring was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRingError {
    /// The ring on the disk cannot be opened without its secret, so nothing can be added to it.
    #[error("the key ring is sealed: open the log with the ring secret it was made with")]
    Locked,
    /// There are 65,536 keys or origins.
    #[error("the key ring is full: remove keys that nobody needs any more")]
    Full,
    /// Two origins whose short ids are the same, which nobody can make by accident.
    #[error("another origin has the same short id")]
    Collision,
    /// The log was opened read-only.
    #[error("the log was opened read-only")]
    ReadOnly,
    /// The operating system refused.
    #[error("the key ring was not written")]
    Io(#[from] io::Error),
}

impl KeyRing {
    pub(crate) fn load(files: &Files<'_>) -> Result<Self, OpenError> {
        let path = files.dir.join(FILE);
        let file = match files.disk().open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        let bytes = read_up_to(&*file, 0, FILE_LEN_MAX).opening(&path)?;
        Self::parse(&bytes, files.config.ring_secret.as_ref().map(|secret| &*secret.0), files.id.0)
            .map_err(|what| OpenError::Damaged { path, what })
    }

    fn parse(bytes: &[u8], secret: Option<&[u8; 32]>, log: [u8; 16]) -> Result<Self, &'static str> {
        let (origins, sealed) = parse_clear(bytes)
            .ok_or("the key ring is damaged: restore it, or remove it and lose what opens the batches")?;
        let mut ring = Self { origins, ..Self::default() };
        let clear_len = bytes.len() - sealed.len();
        match (secret, sealed.is_empty()) {
            (_, true) => {}
            (None, false) => ring.locked = Some(sealed.to_vec()),
            (Some(secret), false) => {
                ring.keys = open_sealed(secret, &bytes[..clear_len], log, sealed)
                    .ok_or("the key ring does not open: the ring secret is another one")?;
            }
        }
        Ok(ring)
    }

    pub(crate) fn origin(&self, short: &ShortId) -> Option<EntityId> {
        self.origins.get(short).copied()
    }

    pub(crate) fn origins(&self) -> impl Iterator<Item = EntityId> {
        self.origins.values().copied()
    }

    pub(crate) fn key(&self, origin: &ShortId, id: KeyId) -> Option<&SenderKey> {
        self.keys.get(&(*origin, id)).map(|(_, key)| key)
    }

    /// The keys of an origin, in the order in which it sealed with them.
    pub(crate) fn keys_of(&self, origin: &ShortId) -> Vec<(u64, SenderKey)> {
        let mut keys: Vec<_> =
            self.keys.iter().filter(|((of, _), _)| of == origin).map(|(_, key)| key.clone()).collect();
        keys.sort_by_key(|(first_seq, _)| *first_seq);
        keys
    }

    /// Whose keys there are, and which; nothing if they are sealed.
    pub(crate) fn names(&self) -> Option<Vec<(ShortId, KeyId)>> {
        self.locked.is_none().then(|| self.keys.keys().copied().collect())
    }

    pub(crate) fn add_origin(&mut self, origin: EntityId) -> Result<bool, KeyRingError> {
        match self.origins.get(&origin.short()) {
            Some(known) if *known == origin => return Ok(false),
            Some(_) => return Err(KeyRingError::Collision),
            None if self.origins.len() >= KEYS_MAX => return Err(KeyRingError::Full),
            None => self.origins.insert(origin.short(), origin),
        };
        Ok(true)
    }

    /// Whether the ring has changed.
    pub(crate) fn add_key(&mut self, origin: EntityId, first_seq: u64, key: SenderKey) -> Result<bool, KeyRingError> {
        if self.locked.is_some() {
            return Err(KeyRingError::Locked);
        }
        let name = (origin.short(), key.key_id());
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(&name) {
            return Err(KeyRingError::Full);
        }
        let new_origin = self.add_origin(origin)?;
        let its = (origin.short(), KeyId([0; 4]))..=(origin.short(), KeyId([u8::MAX; 4]));
        if !self.keys.contains_key(&name) && self.keys.range(its.clone()).count() >= KEYS_OF_ORIGIN_MAX {
            let oldest = self.keys.range(its).min_by_key(|(_, (first_seq, _))| *first_seq).map(|(name, _)| *name);
            oldest.map(|oldest| self.keys.remove(&oldest));
        }
        Ok(self.keys.insert(name, (first_seq, key)).is_none_or(|(before, _)| before != first_seq) || new_origin)
    }

    pub(crate) fn remove_key(&mut self, origin: &ShortId, id: KeyId) -> bool {
        self.keys.remove(&(*origin, id)).is_some()
    }

    /// Writes the ring; returns when it is on the disk.
    pub(crate) fn save(&self, files: &Files<'_>) -> Result<(), KeyRingError> {
        if files.config.read_only {
            return Err(KeyRingError::ReadOnly);
        }
        let mut bytes = self.clear_part();
        if let Some(sealed) = &self.locked {
            bytes.extend_from_slice(sealed);
        } else if let Some(secret) = &files.config.ring_secret {
            let sealed = seal(&secret.0, &bytes, files.id.0, &self.keys, files.config.entropy.bytes());
            bytes.extend_from_slice(&sealed);
        }
        let (path, temporary) = (files.dir.join(FILE), files.dir.join("keys.tmp"));
        let file = files.disk().open(&temporary, OpenMode::Create)?;
        write_all(&*file, &bytes, 0)?;
        file.fdatasync()?;
        files.disk().rename(&temporary, &path)?;
        Ok(files.disk().sync_dir(files.dir)?)
    }

    fn clear_part(&self) -> Vec<u8> {
        let count = u32::try_from(self.origins.len()).expect("at most 65,536");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&count.to_le_bytes());
        for origin in self.origins.values() {
            bytes.extend_from_slice(origin.as_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Whether these bytes are a key ring that this secret opens. For fuzzers.
#[cfg(fuzzing)]
pub(crate) fn reads(bytes: &[u8], secret: &[u8; 32], log: [u8; 16]) -> bool {
    let with = KeyRing::parse(bytes, Some(secret), log);
    let without = KeyRing::parse(bytes, None, log);
    if let (Ok(with), Ok(without)) = (&with, &without) {
        assert_eq!(with.origins, without.origins, "the clear part depends on the secret");
        assert!(with.origins.len() * 32 <= bytes.len() && with.keys.len() * KEY_ENTRY_LEN <= bytes.len());
    }
    assert!(with.is_err() || without.is_ok(), "the secret makes a damaged ring sound");
    with.is_ok()
}

const FILE_LEN_MAX: usize = 12 + 4 + KEYS_MAX * (32 + KEY_ENTRY_LEN) + SALT_LEN + TAG_LEN;

fn parse_clear(bytes: &[u8]) -> Option<(BTreeMap<ShortId, EntityId>, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(32)?;
    let (origins, rest) = rest.split_at_checked(len)?;
    let (crc, sealed) = rest.split_first_chunk::<4>()?;
    if crc32c::crc32c(&bytes[..MAGIC.len() + 4 + len]) != u32::from_le_bytes(*crc) {
        return None;
    }
    let origin = |bytes: &[u8]| EntityId::from_bytes(std::array::from_fn(|i| bytes[i]));
    let origins = origins.chunks_exact(32).map(origin).map(|origin| (origin.short(), origin)).collect();
    Some((origins, sealed))
}

fn cipher(secret: &[u8; 32], salt: &[u8; SALT_LEN]) -> LessSafeKey {
    // A fresh key for each version of the file, so that the nonce can be zeros.
    let input = Zeroizing::new([secret.as_slice(), salt].concat());
    let key = Zeroizing::new(blake3::derive_key(RING_CONTEXT, &input));
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("a key of 32 bytes"))
}

fn associated(clear: &[u8], log: [u8; 16]) -> Vec<u8> {
    [clear, &log].concat()
}

fn seal(secret: &[u8; 32], clear: &[u8], log: [u8; 16], keys: &Keys, salt: [u8; SALT_LEN]) -> Vec<u8> {
    let mut plain = Zeroizing::new(Vec::with_capacity(keys.len() * KEY_ENTRY_LEN + TAG_LEN));
    for ((origin, _), (first_seq, key)) in keys {
        plain.extend_from_slice(&origin.0);
        plain.extend_from_slice(&first_seq.to_le_bytes());
        plain.extend_from_slice(key.expose());
    }
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    cipher(secret, &salt)
        .seal_in_place_append_tag(nonce, Aad::from(associated(clear, log)), &mut *plain)
        .expect("a few MiB are below the cipher's limit");
    [salt.as_slice(), &plain].concat()
}

fn open_sealed(secret: &[u8; 32], clear: &[u8], log: [u8; 16], sealed: &[u8]) -> Option<Keys> {
    let (salt, sealed) = sealed.split_first_chunk::<SALT_LEN>()?;
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let plain = cipher(secret, salt).open_in_place(nonce, Aad::from(associated(clear, log)), &mut buffer).ok()?;
    if !plain.len().is_multiple_of(KEY_ENTRY_LEN) {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let origin = ShortId(std::array::from_fn(|i| bytes[i]));
        let first_seq = u64::from_le_bytes(std::array::from_fn(|i| bytes[8 + i]));
        let secret = Zeroizing::new(std::array::from_fn(|i| bytes[16 + i]));
        let key = SenderKey::new(*secret);
        ((origin, key.key_id()), (first_seq, key))
    };
    Some(plain.chunks_exact(KEY_ENTRY_LEN).map(entry).collect())
}
