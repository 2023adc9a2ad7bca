//! A bug that chance alone does not find: it takes coverage to keep the inputs that come closer to it. xtask runs this first
//! and stops if the fuzzer misses it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Byte by byte, so that each right one is a new edge.
    if data.len() == 6 && data[0] == b'p' && data[1] == b'l' && data[2] == b'a' && data[3] == b'n' && data[4] == b't' {
        assert_ne!(data[5], b'!', "the planted bug");
    }
});
