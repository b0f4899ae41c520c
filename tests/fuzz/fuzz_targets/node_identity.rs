//! Coverage-guided fuzzing of the parser `node_identity`: `make fuzz`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hf_tests::fuzz::run("node_identity", data));
