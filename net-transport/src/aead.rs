//! Which cipher protects packets and bodies.

/// An authenticated cipher with keys of 32 bytes, nonces of 12 and tags of 16.
///
/// Both are as strong; which one is fast depends on the processor: AES-256-GCM where it has instructions for it (several
/// times as fast as the other then), ChaCha20-Poly1305 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Aead {
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305 = 0,
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm = 1,
}

impl Aead {
    /// The one that is faster on this processor.
    #[must_use]
    pub fn fastest_here() -> Self {
        if aes_in_hardware() { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn aes_in_hardware() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn aes_in_hardware() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn aes_in_hardware() -> bool {
    false
}
