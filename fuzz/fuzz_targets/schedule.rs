#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xcron::fuzz::run("schedule", data));
