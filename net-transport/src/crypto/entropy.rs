//! Where random bytes come from.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The source of ephemeral keys and connection ids. Clones share it.
#[derive(Clone)]
pub struct Entropy(Source);

#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<Mutex<blake3::OutputReader>>),
}

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct NoEntropy;

impl Entropy {
    /// Randomness of the operating system: what every real node uses.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The same bytes for the same seed in the same order of calls: for simulations and tests.
    ///
    /// Whoever knows the seed knows every ephemeral key and reads every link.
    #[must_use]
    pub fn seeded(seed: [u8; 32]) -> Self {
        let reader = blake3::Hasher::new_keyed(&seed).update(b"entropy").finalize_xof();
        Self(Source::Seeded(Arc::new(Mutex::new(reader))))
    }

    /// Fills `out`.
    ///
    /// # Errors
    /// [`NoEntropy`] if the operating system fails; `out` is then not random.
    pub fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        match &self.0 {
            Source::System => getrandom::fill(out).map_err(|_| NoEntropy),
            Source::Seeded(reader) => {
                reader.lock().unwrap_or_else(PoisonError::into_inner).fill(out);
                Ok(())
            }
        }
    }
}

impl Default for Entropy {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Entropy::system",
            Source::Seeded(_) => "Entropy::seeded",
        })
    }
}
