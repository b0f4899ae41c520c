//! Coverage-guided fuzzing of the parser `wire_frame`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("wire_frame", data));
