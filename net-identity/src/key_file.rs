//! The bytes of a key file. Layout: `docs/spec/keys.md`.

use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::{EntityId, EntityKey, KeystoreError, Passphrase};

/// Magic and version.
const MAGIC: [u8; 8] = *b"netkey\0\x01";
/// Magic 8, kdf 1, zero 3, memory 4, passes 4, lanes 4, salt 16, id 32.
const HEAD_LEN: usize = 72;
const PLAIN_LEN: usize = HEAD_LEN + 32;
const SEALED_LEN: usize = HEAD_LEN + 32 + 16;

const KDF_NONE: u8 = 0;
#[cfg(feature = "passphrase")]
const KDF_ARGON2ID: u8 = 1;

/// What is wrong with the bytes; the store knows the name and the path.
#[derive(Debug)]
pub(crate) enum KeyFileError {
    Damaged,
    PassphraseNeeded,
    #[cfg_attr(not(feature = "passphrase"), expect(dead_code, reason = "only a build with passphrases tries one"))]
    WrongPassphrase,
    #[cfg_attr(feature = "passphrase", expect(dead_code, reason = "only a build without passphrases lacks them"))]
    Unsupported,
}

impl KeyFileError {
    pub(crate) fn at(self, name: &str, path: PathBuf) -> KeystoreError {
        match self {
            Self::Damaged => KeystoreError::Damaged(path),
            Self::PassphraseNeeded => KeystoreError::PassphraseNeeded { name: name.to_owned() },
            Self::WrongPassphrase => KeystoreError::WrongPassphrase { name: name.to_owned() },
            Self::Unsupported => KeystoreError::PassphraseUnsupported,
        }
    }
}

pub(crate) fn encode_plain(key: &EntityKey) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(PLAIN_LEN));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[KDF_NONE, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 28]);
    bytes.extend_from_slice(key.id().as_bytes());
    bytes.extend_from_slice(key.expose());
    bytes
}

/// Whose key the file says it holds, and whether it is sealed.
pub(crate) fn peek(bytes: &[u8]) -> Result<(EntityId, bool), KeyFileError> {
    let sealed = match bytes.len() {
        PLAIN_LEN => false,
        SEALED_LEN => true,
        _ => return Err(KeyFileError::Damaged),
    };
    if bytes[..8] != MAGIC || bytes[8] != u8::from(sealed) || bytes[9..12] != [0; 3] {
        return Err(KeyFileError::Damaged);
    }
    Ok((EntityId::from_bytes(array(&bytes[40..HEAD_LEN])), sealed))
}

pub(crate) fn decode(bytes: &[u8], passphrase: Option<&Passphrase>) -> Result<EntityKey, KeyFileError> {
    let (id, sealed) = peek(bytes)?;
    let key = if sealed {
        open(bytes, passphrase.ok_or(KeyFileError::PassphraseNeeded)?)?
    } else {
        if bytes[12..40] != [0; 28] {
            return Err(KeyFileError::Damaged);
        }
        EntityKey::from_secret(&Zeroizing::new(array(&bytes[HEAD_LEN..])))
    };
    // The id is derived from the secret, so it serves as the checksum of the file.
    if key.id() != id {
        return Err(KeyFileError::Damaged);
    }
    Ok(key)
}

/// The `N` bytes of a slice of that length.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

#[cfg(not(feature = "passphrase"))]
pub(crate) fn encode_sealed(_: &EntityKey, _: &Passphrase) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    Err(KeystoreError::PassphraseUnsupported)
}

#[cfg(not(feature = "passphrase"))]
fn open(_: &[u8], _: &Passphrase) -> Result<EntityKey, KeyFileError> {
    Err(KeyFileError::Unsupported)
}

#[cfg(feature = "passphrase")]
pub(crate) use sealed::encode_sealed;
#[cfg(feature = "passphrase")]
use sealed::open;

#[cfg(feature = "passphrase")]
mod sealed {
    use argon2::{Algorithm, Argon2, Params, Version};
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use zeroize::Zeroizing;

    use super::{HEAD_LEN, KDF_ARGON2ID, KeyFileError, MAGIC, SEALED_LEN, array};
    use crate::{EntityKey, KeystoreError, Passphrase, context};

    /// RFC 9106, section 4, second recommended option: 64 MiB, 3 passes, 4 lanes.
    const COST: Cost = Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 };
    /// A file that asks for more is damaged: opening it would stop the machine, not a thief.
    const COST_MAX: Cost = Cost { memory_kib: 1 << 20, passes: 64, lanes: 16 };

    #[derive(Clone, Copy)]
    struct Cost {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
    }

    impl Cost {
        fn key(self, passphrase: &Passphrase, salt: &[u8; 16]) -> Option<LessSafeKey> {
            let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()?;
            let mut key = Zeroizing::new([0; 32]);
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(passphrase.expose(), salt, &mut *key)
                .ok()?;
            Some(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).ok()?))
        }
    }

    /// Each file has a salt of its own, hence a key of its own, hence one nonce is enough.
    fn nonce() -> Nonce {
        Nonce::assume_unique_for_key([0; 12])
    }

    fn associated_data(head: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([context::KEY_FILE.as_bytes(), head].concat())
    }

    pub(crate) fn encode_sealed(key: &EntityKey, passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).expect("the system gives randomness");
        Ok(seal(key, passphrase, salt, COST))
    }

    fn seal(key: &EntityKey, passphrase: &Passphrase, salt: [u8; 16], cost: Cost) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(SEALED_LEN));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[KDF_ARGON2ID, 0, 0, 0]);
        bytes.extend_from_slice(&cost.memory_kib.to_le_bytes());
        bytes.extend_from_slice(&cost.passes.to_le_bytes());
        bytes.extend_from_slice(&cost.lanes.to_le_bytes());
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(key.id().as_bytes());
        let mut secret = Zeroizing::new(*key.expose());
        let sealing = cost.key(passphrase, &salt).expect("our own costs are within Argon2's limits");
        let tag = sealing
            .seal_in_place_separate_tag(nonce(), associated_data(&bytes), &mut *secret)
            .expect("32 bytes are within the cipher's limits");
        bytes.extend_from_slice(&*secret);
        bytes.extend_from_slice(tag.as_ref());
        bytes
    }

    /// `bytes` has passed `peek`, so it is as long as a sealed key.
    pub(super) fn open(bytes: &[u8], passphrase: &Passphrase) -> Result<EntityKey, KeyFileError> {
        let number = |at: usize| u32::from_le_bytes(array(&bytes[at..at + 4]));
        let cost = Cost { memory_kib: number(12), passes: number(16), lanes: number(20) };
        if cost.memory_kib > COST_MAX.memory_kib || cost.passes > COST_MAX.passes || cost.lanes > COST_MAX.lanes {
            return Err(KeyFileError::Damaged);
        }
        let salt = array(&bytes[24..40]);
        let key = cost.key(passphrase, &salt).ok_or(KeyFileError::Damaged)?;
        let mut secret = Zeroizing::new(bytes[HEAD_LEN..].to_vec());
        let opened = key
            .open_in_place(nonce(), associated_data(&bytes[..HEAD_LEN]), &mut secret)
            .map_err(|_| KeyFileError::WrongPassphrase)?;
        Ok(EntityKey::from_secret(&Zeroizing::new(array(opened))))
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::key_file::tests::golden;
        use crate::key_file::{decode, peek};

        /// As cheap as Argon2 goes: these tests are about bytes, not about guessing.
        const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

        fn sample() -> (EntityKey, Passphrase, Zeroizing<Vec<u8>>) {
            let (key, passphrase) = (EntityKey::from_secret(&[5; 32]), Passphrase::new("correct horse".into()));
            let bytes = seal(&key, &passphrase, [6; 16], CHEAP);
            (key, passphrase, bytes)
        }

        #[test]
        fn golden_sealed_key_opens() {
            let (key, passphrase, bytes) = sample();
            let golden = golden("sealed.key", &bytes);
            let opened = decode(&golden, Some(&passphrase)).expect("the golden key opens");
            assert_eq!(opened.id(), key.id());
        }

        #[test]
        fn every_flipped_bit_of_a_sealed_key_is_refused() {
            let (_, passphrase, bytes) = sample();
            for bit in 0..bytes.len() * 8 {
                // Larger costs than ours are refused by the limit; smaller flips of the cost would only be slow here.
                if (12 * 8..24 * 8).contains(&bit) && !(bit % 32 == 0 || bit % 32 == 31) {
                    continue;
                }
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&bad, Some(&passphrase)).is_err(), "bit {bit}");
            }
        }

        #[test]
        fn costs_beyond_the_limit_are_refused_before_any_work() {
            let (_, passphrase, bytes) = sample();
            for at in [12, 16, 20] {
                let mut bad = bytes.clone();
                bad[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
                assert!(matches!(decode(&bad, Some(&passphrase)), Err(KeyFileError::Damaged)));
            }
        }

        #[test]
        fn the_id_is_seen_without_the_passphrase_but_the_key_is_not() {
            let (key, _, bytes) = sample();
            assert_eq!(peek(&bytes).expect("well formed"), (key.id(), true));
            assert!(matches!(decode(&bytes, None), Err(KeyFileError::PassphraseNeeded)));
            let wrong = Passphrase::new("correct horsf".into());
            assert!(matches!(decode(&bytes, Some(&wrong)), Err(KeyFileError::WrongPassphrase)));
            assert!(!bytes.windows(32).any(|w| w == key.expose()), "the secret does not lie in the file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden bytes of this name, which `actual` must equal. `BLESS_GOLDEN=1` writes them anew: for a new format.
    pub(super) fn golden(name: &str, actual: &[u8]) -> Vec<u8> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1").join(name);
        if std::env::var_os("BLESS_GOLDEN").is_some() {
            std::fs::write(&path, actual).expect("golden files can be written");
        }
        let golden = std::fs::read(&path).expect("golden files are in the repository");
        assert_eq!(golden, actual, "the format of {name} changed");
        golden
    }

    #[test]
    fn golden_plain_key_loads_and_every_flipped_bit_is_refused() {
        let key = EntityKey::from_secret(&[5; 32]);
        let golden = golden("plain.key", &encode_plain(&key));
        assert_eq!(decode(&golden, None).expect("the golden key loads").id(), key.id());
        for bit in 0..golden.len() * 8 {
            let mut bad = golden.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match decode(&bad, None) {
                Err(_) => {}
                // RFC 8032 clears and sets five bits of the hash, not of the seed, so no two seeds share a key.
                Ok(_) => panic!("bit {bit} was not noticed"),
            }
        }
    }

    #[test]
    fn truncated_and_extended_files_are_refused() {
        let bytes = encode_plain(&EntityKey::from_secret(&[5; 32]));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], None).is_err(), "{len} bytes");
        }
        let mut longer = bytes.clone();
        for _ in 0..64 {
            longer.push(0);
            assert!(decode(&longer, None).is_err(), "{} bytes", longer.len());
        }
    }
}
