//! Coverage-guided fuzzing of the parser `policy`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("policy", data));
