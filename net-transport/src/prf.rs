//! The one pseudo-random function of the project: keyed BLAKE3 over a labelled context.

/// `prf(k, label, ctx)` = BLAKE3 keyed with `key` over `label length u8 ‖ label ‖ ctx`.
///
/// `context` is given in parts that are hashed one after the other.
///
/// # Panics
/// If `label` is longer than 255 bytes; labels are constants of this project.
#[must_use]
pub fn prf(key: &[u8; 32], label: &str, context: &[&[u8]]) -> [u8; 32] {
    let len = u8::try_from(label.len()).expect("labels are short constants");
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[len]);
    hasher.update(label.as_bytes());
    for part in context {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
