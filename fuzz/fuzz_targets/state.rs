#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xcron::fuzz::run("state", data));
