#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    net_fuzz::key_ring::run(data);
});
