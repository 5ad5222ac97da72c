#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| catena_tests::fuzz::run("peer", bytes));
