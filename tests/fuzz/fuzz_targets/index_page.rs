//! Coverage-guided fuzzing of the parser `index_page`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("index_page", data));
