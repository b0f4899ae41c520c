//! Coverage-guided fuzzing of the parser `journal_group`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("journal_group", data));
