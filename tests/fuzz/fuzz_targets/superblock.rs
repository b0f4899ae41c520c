//! Coverage-guided fuzzing of the parser `superblock`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("superblock", data));
