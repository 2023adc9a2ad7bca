//! The one pseudo-random function of the project: keyed BLAKE3 over a labelled context.

/// `prf(k, label, ctx)` = BLAKE3 keyed with `key` over `label length u8 ‖ label ‖ ctx`.
///
/// `context` is given in parts that are hashed one after the other.
///
/// # Panics
/// If `label` is longer than 255 bytes; labels are constants of this project.
#[must_use]
pub fn prf(key: &[u8; 32], label: &str, context: &[&[u8]]) -> [u8; 32] {
    let mut hasher = prf_hasher(key, label.as_bytes()).expect("labels are short constants");
    for part in context {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// The function before its context, for output of other lengths. Nothing if the label is longer than 255 bytes.
pub(crate) fn prf_hasher(key: &[u8; 32], label: &[u8]) -> Option<blake3::Hasher> {
    let len = u8::try_from(label.len()).ok()?;
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[len]).update(label);
    Some(hasher)
}
