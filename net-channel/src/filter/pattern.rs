//! Regular expressions whose cost is known.

use regex::{Error, Regex, RegexBuilder};

use crate::filter::NESTING_MAX;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    units_per_byte: usize,
}

/// Compiled sizes in bytes, and what matching a byte costs then. The time for a byte is linear in the size in the worst
/// case, where text that is not ASCII meets word boundaries and the fast engines give up: 5 µs at 256 KiB on a 2-core
/// VM. Most patterns are in the first or the second class; with `\w` and its like, which know all scripts, in the third.
const CLASSES: [(usize, usize); 4] = [(4 << 10, 4), (16 << 10, 32), (64 << 10, 128), (256 << 10, 512)];
/// The most bytes that matching keeps at hand.
const CACHE_BYTES_MAX: usize = 512 << 10;

impl Pattern {
    /// Compiles a pattern into the smallest class that holds it.
    ///
    /// # Errors
    /// When it is no pattern, or larger than the largest class.
    pub(super) fn compile(text: &str) -> Result<Self, Error> {
        let nesting_max = u32::try_from(NESTING_MAX).unwrap_or(u32::MAX);
        let mut compiled = Err(Error::CompiledTooBig(0));
        for (bytes_max, units_per_byte) in CLASSES {
            let mut builder = RegexBuilder::new(text);
            builder.size_limit(bytes_max).dfa_size_limit(CACHE_BYTES_MAX).nest_limit(nesting_max);
            compiled = builder.build().map(|regex| Self { regex, units_per_byte });
            if !matches!(compiled, Err(Error::CompiledTooBig(_))) {
                break;
            }
        }
        compiled
    }

    /// What matching one byte of text costs.
    pub(super) fn units_per_byte(&self) -> usize {
        self.units_per_byte
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}
