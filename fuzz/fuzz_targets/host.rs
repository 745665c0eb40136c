#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| digestd::fuzz::host(bytes));
