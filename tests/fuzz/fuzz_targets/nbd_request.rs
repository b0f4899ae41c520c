//! Coverage-guided fuzzing of the parser `nbd_request`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("nbd_request", data));
