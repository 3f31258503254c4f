//! See `setstone::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| setstone::fuzzing::json_requests(bytes));
