//! Coverage-guided fuzzing of the parser `disk_open`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("disk_open", data));
