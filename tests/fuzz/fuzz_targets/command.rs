//! Coverage-guided fuzzing of the parser `command`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("command", data));
