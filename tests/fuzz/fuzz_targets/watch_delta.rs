//! Coverage-guided fuzzing of the parser `watch_delta`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("watch_delta", data));
