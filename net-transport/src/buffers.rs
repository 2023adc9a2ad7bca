//! Memory of large frames, used again.
//!
//! A large frame lives for a fraction of a millisecond. Allocators give its pages back to the system and take fresh ones for
//! the next, which the system clears: that takes longer than filling them. So a few are kept here, for the whole process.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// Smaller ones are left to the allocator.
const LEN_MIN: usize = 64 << 10;
/// One is taken for at most so much less, a part of it.
const SPARE_PART: usize = 8;
/// Frames begin at multiples of this.
const ALIGN: usize = 16;
/// Bytes that are kept at most.
const KEPT_BYTES_MAX: usize = 4 << 20;

static KEPT: Mutex<Kept> = Mutex::new(Kept { buffers: VecDeque::new(), bytes: 0 });

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers without an owner, the oldest first.
#[derive(Default)]
struct Kept {
    buffers: VecDeque<BytesMut>,
    bytes: usize,
}

impl Kept {
    /// The smallest that has room, if that is hardly more: memory is counted by what is in it.
    fn take(&mut self, len: usize) -> Option<BytesMut> {
        let fits = |(size, _): &(usize, usize)| (len..=len + len / SPARE_PART).contains(size);
        let (size, at) = self.buffers.iter().map(BytesMut::capacity).zip(0..).filter(fits).min()?;
        self.bytes -= size;
        self.buffers.remove(at)
    }

    /// Keeps a buffer, and gives back what is to be freed: that one, or the oldest, whose size is perhaps of no use any more.
    fn give(&mut self, mut buffer: BytesMut) -> Vec<BytesMut> {
        buffer.clear();
        let size = buffer.capacity();
        let aligned = buffer.as_ptr().addr().is_multiple_of(ALIGN);
        if !aligned || !(LEN_MIN..=KEPT_BYTES_MAX).contains(&size) {
            return vec![buffer];
        }
        self.bytes += size;
        self.buffers.push_back(buffer);
        let mut freed = Vec::new();
        while self.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = self.buffers.pop_front()
        {
            self.bytes -= oldest.capacity();
            freed.push(oldest);
        }
        freed
    }
}

/// An empty buffer with room for `len` bytes, and for at most an eighth more.
#[must_use]
pub fn take(len: usize) -> BytesMut {
    let kept = if len < LEN_MIN { None } else { kept().take(len) };
    kept.unwrap_or_else(|| BytesMut::with_capacity(len))
}

/// Makes a buffer shareable; its memory is used again when nobody holds any part of it.
#[must_use]
pub fn share(buffer: BytesMut) -> Bytes {
    if buffer.capacity() < LEN_MIN { buffer.freeze() } else { Bytes::from_owner(Shared(buffer)) }
}

struct Shared(BytesMut);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let freed = kept().give(std::mem::take(&mut self.0));
        // When nobody waits for the lock.
        drop(freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(len: usize) -> BytesMut {
        BytesMut::with_capacity(len)
    }

    #[test]
    fn smallest_that_fits_is_used_again_and_none_that_is_much_larger() {
        let mut kept = Kept::default();
        for len in [210_000, 100_000, 200_000] {
            assert!(kept.give(buffer(len)).is_empty());
        }
        assert!(kept.take(220_000).is_none());
        assert!(kept.take(150_000).is_none());
        assert_eq!(kept.take(190_000).map(|b| b.capacity()), Some(200_000));
        assert_eq!(kept.take(190_000).map(|b| b.capacity()), Some(210_000));
        assert!(kept.take(80_000).is_none());
        assert_eq!(kept.bytes, 100_000);
    }

    #[test]
    fn one_that_is_not_aligned_is_not_kept() {
        let mut kept = Kept::default();
        let mut shifted = buffer(200_016);
        shifted.extend_from_slice(&[7; 100]);
        let _ = shifted.split_to(4);
        assert_eq!(kept.give(shifted).len(), 1);
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Kept::default();
        assert_eq!(kept.give(buffer(LEN_MIN - 1)).len(), 1);
        assert_eq!(kept.give(buffer(KEPT_BYTES_MAX + 1)).len(), 1);
        assert_eq!(kept.bytes, 0);
        for n in 0..100 {
            assert_eq!(kept.give(buffer(1 << 20)).len(), usize::from(n >= 4));
        }
        assert_eq!(kept.give(buffer(70_000)).len(), 1, "the oldest makes room");
        assert!(kept.take(70_000).is_some());
        kept.give(buffer(1 << 20));
        assert_eq!((kept.bytes, kept.buffers.len()), (KEPT_BYTES_MAX, 4));
    }

    #[test]
    fn memory_comes_back_when_the_last_part_is_dropped() {
        let mut kept = buffer(777_777);
        kept.extend_from_slice(&[7; 100]);
        let shared = share(kept);
        let (at, part) = (shared.as_ptr(), shared.slice(10..20));
        drop(shared);
        assert_ne!(take(777_777).as_ptr(), at, "a part is still held");
        assert_eq!(part[..], [7; 10]);
        drop(part);
        let again = take(777_777);
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
    }

    #[test]
    fn small_ones_are_left_to_the_allocator() {
        assert_eq!(take(100).capacity(), 100);
        assert_eq!(share(BytesMut::from(&b"small"[..])), b"small"[..]);
    }
}
